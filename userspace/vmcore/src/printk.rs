// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's log as it is in its memory: printk's ring buffer (`kernel/printk/printk_ringbuffer.h`), found through
//! VMCOREINFO alone.

use crate::kernel_memory::{KernelMemory, MemoryError};
use crate::vmcoreinfo::Vmcoreinfo;

/// Largest rings that are walked: the kernel allows 2^25 bytes of text, and has a record for each 2^5 of them.
const MAX_TEXT_BITS: u32 = 25;
const MAX_RECORD_BITS: u32 = 20;
/// Two bits of a descriptor's state say what it is good for.
const STATE_SHIFT: u32 = 62;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// The others are its number.
const ID: u64 = (1 << STATE_SHIFT) - 1;
/// Largest structure of the ring that is believed: today they have 24 and 112 bytes.
const MAX_STRUCT: usize = 1024;
/// A text block begins with the number of its descriptor.
const ID_LEN: u64 = 8;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since boot.
    pub nanoseconds: u64,
    /// Its lines, as they were printed. Not to be trusted, nor shown as they are.
    pub text: Vec<u8>,
}

impl Record {
    /// As dmesg shows it: the time before each line.
    pub fn lines(&self) -> impl Iterator<Item = (String, &[u8])> {
        let (seconds, rest) = (self.nanoseconds / 1_000_000_000, self.nanoseconds % 1_000_000_000);
        let time = format!("[{seconds:5}.{:06}] ", rest / 1000);
        self.text.split(|byte| *byte == b'\n').map(move |line| (time.clone(), line))
    }
}

/// Calls `each` with the records, oldest first; how many there were. It ends at the first error of `each`.
pub fn records<E: From<MemoryError>>(
    memory: &KernelMemory<'_>,
    info: &Vmcoreinfo<'_>,
    mut each: impl FnMut(Record) -> Result<(), E>,
) -> Result<u64, E> {
    let ring = Ring::find(memory, info)?;
    let mut count = 0;
    // Blocks of text do not overlap. In a damaged ring they may, and a small dump must not become an endless log.
    let mut room = ring.bytes;
    // Numbers wrap, and a damaged ring must not be walked for ever.
    let span = ring.head.wrapping_sub(ring.tail).wrapping_add(1) & ID;
    for step in 0..span.min(ring.records) {
        if let Some(record) = ring.record(ring.tail.wrapping_add(step) & ID)? {
            let lengths = room.checked_sub(record.text.len() as u64);
            room = lengths.ok_or(MemoryError::Nonsense("log, which is larger than its buffer,"))?;
            count += 1;
            each(record)?;
        }
    }
    Ok(count)
}

/// Where the ring's parts are.
struct Ring<'a> {
    memory: &'a KernelMemory<'a>,
    /// Numbers of the oldest and the newest record.
    tail: u64,
    head: u64,
    /// Where the descriptors, what belongs to them, and the texts are.
    descs: u64,
    infos: u64,
    texts: u64,
    /// How many descriptors there are, and bytes of text.
    records: u64,
    bytes: u64,
    desc: Desc,
    info: Info,
}

/// Size of a descriptor and places in it.
struct Desc {
    size: usize,
    state: u64,
    begin: u64,
    next: u64,
}

/// Size of what belongs to a descriptor, and places in it.
struct Info {
    size: usize,
    time: u64,
    length: u64,
}

/// A number in a structure that was read.
fn field<const N: usize>(bytes: &[u8], at: u64) -> Result<[u8; N], MemoryError> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
    rest.and_then(|rest| rest.first_chunk()).copied().ok_or(MemoryError::Nonsense("layout of the log"))
}

impl<'a> Ring<'a> {
    fn find(memory: &'a KernelMemory<'a>, info: &Vmcoreinfo<'_>) -> Result<Self, MemoryError> {
        let offset = |name: &'static str| info.offset(name).ok_or(MemoryError::Missing(name));
        let size = |name: &'static str| {
            let size = info.size(name).ok_or(MemoryError::Missing(name))?;
            usize::try_from(size).ok().filter(|size| *size <= MAX_STRUCT).ok_or(MemoryError::Nonsense(name))
        };
        let counter = offset("atomic_long_t.counter")?;
        let prb = memory.u64(info.symbol("prb").ok_or(MemoryError::Missing("SYMBOL(prb)"))?)?;
        let descs = prb.wrapping_add(offset("printk_ringbuffer.desc_ring")?);
        let texts = prb.wrapping_add(offset("printk_ringbuffer.text_data_ring")?);
        let record_bits = memory.u32(descs.wrapping_add(offset("prb_desc_ring.count_bits")?))?;
        let text_bits = memory.u32(texts.wrapping_add(offset("prb_data_ring.size_bits")?))?;
        if record_bits > MAX_RECORD_BITS || text_bits > MAX_TEXT_BITS {
            return Err(MemoryError::Nonsense("size of the log"));
        }
        let lpos = offset("prb_desc.text_blk_lpos")?;
        let id = |name: &'static str| memory.u64(descs.wrapping_add(offset(name)?).wrapping_add(counter));
        Ok(Ring {
            memory,
            tail: id("prb_desc_ring.tail_id")?,
            head: id("prb_desc_ring.head_id")?,
            descs: memory.u64(descs.wrapping_add(offset("prb_desc_ring.descs")?))?,
            infos: memory.u64(descs.wrapping_add(offset("prb_desc_ring.infos")?))?,
            texts: memory.u64(texts.wrapping_add(offset("prb_data_ring.data")?))?,
            records: 1 << record_bits,
            bytes: 1 << text_bits,
            desc: Desc {
                size: size("prb_desc")?,
                state: offset("prb_desc.state_var")?.wrapping_add(counter),
                begin: lpos.wrapping_add(offset("prb_data_blk_lpos.begin")?),
                next: lpos.wrapping_add(offset("prb_data_blk_lpos.next")?),
            },
            info: Info {
                size: size("printk_info")?,
                time: offset("printk_info.ts_nsec")?,
                length: offset("printk_info.text_len")?,
            },
        })
    }

    /// The record of a number; `None` if it is not finished, or has been overwritten.
    fn record(&self, id: u64) -> Result<Option<Record>, MemoryError> {
        let element = |array: u64, size: usize| {
            let mut bytes = vec![0; size];
            self.memory.read(array.wrapping_add(id % self.records * size as u64), &mut bytes)?;
            Ok::<_, MemoryError>(bytes)
        };
        let desc = element(self.descs, self.desc.size)?;
        let state = u64::from_le_bytes(field(&desc, self.desc.state)?);
        if !matches!(state >> STATE_SHIFT, COMMITTED | FINALIZED) || state & ID != id {
            return Ok(None);
        }
        let info = element(self.infos, self.info.size)?;
        let nanoseconds = u64::from_le_bytes(field(&info, self.info.time)?);
        let length = u64::from(u16::from_le_bytes(field(&info, self.info.length)?));
        let begin = u64::from_le_bytes(field(&desc, self.desc.begin)?);
        let next = u64::from_le_bytes(field(&desc, self.desc.next)?);
        let text = self.text(begin, next, length)?;
        Ok(Some(Record { nanoseconds, text }))
    }

    /// The text between two places that count through the ring again and again.
    fn text(&self, begin: u64, next: u64, length: u64) -> Result<Vec<u8>, MemoryError> {
        // Odd places mean that there is no text.
        if begin & 1 == 1 && next & 1 == 1 {
            return Ok(Vec::new());
        }
        // The last byte tells: a block may end where the ring does.
        let last = next.wrapping_sub(1);
        let (from, len) = if begin / self.bytes == last / self.bytes {
            (begin % self.bytes, next.wrapping_sub(begin))
        } else {
            // A block that would run over the end of the ring is at its start instead.
            (0, last % self.bytes + 1)
        };
        // In a damaged ring the places say nothing; a block of nothing has no text.
        let len = len.min(self.bytes - from);
        let length = length.min(len.saturating_sub(ID_LEN));
        let mut text = vec![0; length as usize];
        self.memory.read(self.texts.wrapping_add(from).wrapping_add(ID_LEN), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_time() {
        let record = Record { nanoseconds: 12_345_678_999, text: b"one\ntwo".to_vec() };
        let lines: Vec<_> = record.lines().collect();
        assert_eq!(lines, [("[   12.345678] ".into(), &b"one"[..]), ("[   12.345678] ".into(), &b"two"[..])]);
    }
}
