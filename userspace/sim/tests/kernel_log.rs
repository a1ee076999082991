// SPDX-License-Identifier: GPL-2.0-or-later
//! The log of a kernel that does not exist, read out of its dump; and out of one that somebody has spoilt.

use std::os::unix::fs::FileExt;

use netdump_sim::kernel_log::{Kernel, KernelParams, Mapping};
use netdump_vmcore::kernel_memory::{KernelMemory, MemoryError};
use netdump_vmcore::{printk, Reader};
use proptest::prelude::*;

type Records = Vec<(u64, Vec<u8>)>;

fn read(reader: &Reader) -> Result<Records, MemoryError> {
    let info = reader.vmcoreinfo()?.expect("the simulator writes one");
    let memory = KernelMemory::new(reader, &info)?;
    let mut records = Vec::new();
    printk::records(&memory, &info, |record| {
        records.push((record.nanoseconds, record.text));
        Ok::<_, MemoryError>(())
    })?;
    Ok(records)
}

fn written(kernel: &Kernel) -> Records {
    kernel.log().map(|(time, text)| (time, text.to_vec())).collect()
}

fn params() -> impl Strategy<Value = KernelParams> {
    let mapping = prop_oneof![Just(Mapping::Pages), Just(Mapping::Large), Just(Mapping::Huge)];
    (any::<bool>(), mapping, prop_oneof![Just(0), Just(1u64 << 47), Just(1u64 << 51)], 1u32..8, 8u32..15).prop_map(
        |(five_levels, mapping, encryption, record_bits, text_bits)| KernelParams {
            five_levels,
            mapping,
            encryption,
            record_bits,
            text_bits,
        },
    )
}

fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let text = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..120),
        1 => proptest::collection::vec(any::<u8>(), 0..3000)
    ];
    proptest::collection::vec(text, 0..200)
}

fn kernel(params: KernelParams, texts: &[Vec<u8>]) -> Kernel {
    let mut kernel = Kernel::new(params);
    for (time, text) in texts.iter().enumerate() {
        kernel.print(time as u64 * 1_000_003, text);
    }
    kernel
}

#[test]
fn a_block_may_end_where_the_ring_does() {
    let mut kernel = Kernel::new(KernelParams { record_bits: 5, text_bits: 8, ..KernelParams::default() });
    // 8 bytes of number and 56 of text, four times 64; then the ring is used again from its start.
    for turn in 0..9u8 {
        kernel.print(u64::from(turn), &[b'a' + turn; 56]);
        let records = read(&Reader::new(kernel.dumped().unwrap()).unwrap()).unwrap();
        assert_eq!(records, written(&kernel), "turn {turn}");
        assert_eq!(records.len(), usize::from(turn + 1).min(4));
    }
}

#[test]
fn what_is_not_mapped_is_an_error() {
    let kernel = Kernel::new(KernelParams::default());
    let reader = Reader::new(kernel.dumped().unwrap()).unwrap();
    let info = reader.vmcoreinfo().unwrap().unwrap();
    let memory = KernelMemory::new(&reader, &info).unwrap();
    // The last is where something is, but for its highest bit.
    for address in [0, 0xdead_beef, 0xffff_ffff_ffff_f000, u64::MAX, 0x7fff_8880_0000_0000] {
        assert!(matches!(memory.u64(address), Err(MemoryError::NotMapped(_))), "{address:#x}");
    }
}

#[test]
fn texts_that_lie_over_each_other_are_refused() {
    let mut kernel = Kernel::new(KernelParams { record_bits: 7, text_bits: 10, ..KernelParams::default() });
    for turn in 0..20 {
        kernel.print(turn, b"0123456789abcdef0123456789abcde");
    }
    // Each descriptor gets the block of the first, as long as the whole ring.
    let block = [0u64.to_le_bytes(), 1024u64.to_le_bytes()].concat();
    let memory = kernel.memory();
    let places: Vec<_> = (0..memory.len() - 24)
        .step_by(8)
        .filter(|at| u64::from_le_bytes(*memory[*at..].first_chunk().unwrap()) >> 62 == 2)
        .collect();
    for at in &places {
        memory[at + 8..at + 24].copy_from_slice(&block);
    }
    assert!(places.len() >= 20);
    // What belongs to the descriptors says how long a text is: with 65535 each is all there is.
    for at in (0..memory.len() - 24).step_by(8) {
        if memory[at + 16..at + 18] == 31u16.to_le_bytes() {
            memory[at + 16..at + 18].copy_from_slice(&[0xff; 2]);
        }
    }
    let error = read(&Reader::new(kernel.dumped().unwrap()).unwrap()).unwrap_err();
    assert!(matches!(error, MemoryError::Nonsense(what) if what.contains("larger than its buffer")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_was_printed_is_read(params in params(), texts in texts()) {
        let kernel = kernel(params, &texts);
        let reader = Reader::new(kernel.dumped().unwrap()).unwrap();
        prop_assert_eq!(read(&reader).unwrap(), written(&kernel));
    }

    /// Words of its memory are something else, most of them near what they were: it ends, with no more text than
    /// the ring has room for, or with an error that says something.
    #[test]
    fn a_spoilt_dump_is_read_or_refused(
        params in params(),
        texts in texts(),
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u32..64), 1..40),
    ) {
        let mut kernel = kernel(params, &texts);
        let room = kernel.log_len();
        let memory = kernel.memory();
        for (index, value, shift) in spoilt {
            // Not the page at 0, which is not in the dump.
            let at = 4096 + index.index(memory.len() / 8 - 512) * 8;
            let word = u64::from_le_bytes(*memory[at..].first_chunk().unwrap()) ^ value >> shift;
            memory[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        match read(&Reader::new(kernel.dumped().unwrap()).unwrap()) {
            // The size of the ring may itself be what was changed.
            Ok(records) => {
                let total: usize = records.iter().map(|(_, text)| text.len()).sum();
                prop_assert!(total as u64 <= room.max(1 << 25));
                prop_assert!(records.len() <= 1 << 20);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// Bytes anywhere in the file, its headers and notes too.
    #[test]
    fn a_spoilt_file_is_read_or_refused(
        texts in texts(),
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        headers in proptest::collection::vec((0u64..2048, any::<u8>()), 0..20),
    ) {
        let file = kernel(KernelParams::default(), &texts).dumped().unwrap();
        let len = file.metadata().unwrap().len() as usize;
        for (index, byte) in spoilt {
            file.write_all_at(&[byte], index.index(len) as u64).unwrap();
        }
        for (at, byte) in headers {
            file.write_all_at(&[byte], at).unwrap();
        }
        let Ok(reader) = Reader::new(file) else { return Ok(()) };
        let pieces = reader.pieces();
        prop_assert!(pieces.windows(2).all(|pair| pair[0].paddr + pair[0].len <= pair[1].paddr));
        if let Ok(Some(info)) = reader.vmcoreinfo() {
            if let Ok(memory) = KernelMemory::new(&reader, &info) {
                let _ = printk::records(&memory, &info, |_| Ok::<_, MemoryError>(()));
            }
        }
    }
}
