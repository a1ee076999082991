// SPDX-License-Identifier: GPL-2.0-or-later
//! What holds for every message: whatever is emitted parses to itself, and no bytes do harm.

use netdump_core::wire::arm::{self, Arming};
use netdump_core::wire::classic::*;
use netdump_core::wire::ext::*;
use netdump_core::wire::tags::{self, Tags};
use netdump_core::wire::{Cookie, Pfn, PhysAddr, RequestId};
use proptest::collection::vec;
use proptest::prelude::*;

fn command() -> impl Strategy<Value = Command> {
    // By way of the numbers: each has a command, and small ones must be as likely as large ones.
    let code = prop_oneof![4 => 0..14u32, 2 => Just(EXT), 1 => any::<u32>()];
    (code, any::<u32>(), any::<u32>()).prop_map(|(code, from, to)| Command::from_wire(code, from, to))
}

fn cookie() -> impl Strategy<Value = Cookie> {
    any::<u64>().prop_map(Cookie::new)
}

/// A reply that owns its bytes, to be lent to a `Reply`.
#[derive(Debug, Clone)]
struct Owned {
    version: Version,
    nr: u32,
    kind: u32,
    info: u32,
    bytes: Vec<u8>,
    words: [u64; 3],
    machine: u16,
}

fn owned() -> impl Strategy<Value = Owned> {
    let version = prop_oneof![Just(Version::V4), Just(Version::V5)];
    let kind = 0..13u32;
    (version, any::<u32>(), kind, any::<u32>(), vec(any::<u8>(), 1024), any::<[u64; 3]>(), any::<u16>()).prop_map(
        |(version, nr, kind, info, bytes, words, machine)| Owned { version, nr, kind, info, bytes, words, machine },
    )
}

impl Owned {
    fn reply(&self) -> Reply<'_> {
        let some = &self.bytes[..self.info as usize % 1000];
        let body = match self.kind {
            0 => Body::Error { info: self.info, text: some },
            1 => Body::Log { offset: self.info, text: some },
            2 => Body::Mem { offset: self.info & !1023, data: self.bytes[..].try_into().unwrap() },
            3 => Body::Reserved { next: (self.info != 0).then_some(Pfn(u64::from(self.info))) },
            4 => Body::Hello { version: self.info },
            5 => Body::NrPages(self.info),
            6 => Body::PageSize(1024 << (self.info % 7)),
            7 => Body::Start(Start::V4),
            8 => Body::Start(Start::V5 {
                machine: Machine(self.machine),
                max_version: self.info.max(5),
                task_struct: self.words[0],
                page_offset: self.words[1],
                magic: Cookie::new(self.words[2]),
            }),
            9 => Body::Regs { total_ram_pages: self.info, block: some },
            10 => Body::ShowState,
            11 => {
                let offset = self.nr % 5000;
                Body::Ext { offset, total: if some.is_empty() { 0 } else { offset + some.len() as u32 }, data: some }
            }
            _ => Body::Unknown { code: self.info | 0x8000_0000, info: self.nr, payload: some },
        };
        // START_NETDUMP has its machine where the others have the number of the request.
        let nr = if matches!(body, Body::Start(_)) { 0 } else { self.nr };
        Reply { version: self.version, nr: RequestId(nr), body }
    }
}

/// A note that owns its bytes.
#[derive(Debug, Clone)]
struct OwnedNote {
    kind: u16,
    numbers: [u32; 3],
    words: [u64; 3],
    bytes: Vec<u8>,
    flags: [bool; 4],
}

fn note() -> impl Strategy<Value = OwnedNote> {
    (0..11u16, any::<[u32; 3]>(), any::<[u64; 3]>(), vec(any::<u8>(), 0..600), any::<[bool; 4]>())
        .prop_map(|(kind, numbers, words, bytes, flags)| OwnedNote { kind, numbers, words, bytes, flags })
}

impl OwnedNote {
    fn ranges(&self) -> Vec<PhysRange> {
        let mut at = 0;
        let bounds: Vec<u64> = self
            .bytes
            .iter()
            .map(|step| {
                at += u64::from(*step) * 4096 + 4096;
                at
            })
            .collect();
        let range = |pair: &[u64]| PhysRange { start: PhysAddr(pair[0]), end: PhysAddr(pair[1]) };
        bounds.chunks_exact(2).map(range).collect()
    }

    fn cpu(&self) -> CpuNote<'_> {
        let flags = CpuFlags { crashing: self.flags[0], was_online: self.flags[1], by_nmi: self.flags[2] };
        CpuNote {
            cpu: self.numbers[0],
            pid: self.numbers[1],
            flags,
            task_struct: self.words[0],
            regs: (self.flags[3] && !self.bytes.is_empty()).then_some(&self.bytes[..]),
        }
    }

    fn machine(&self) -> MachineNote {
        MachineNote {
            e_machine: self.numbers[0] as u16,
            page_shift: 10 + (self.numbers[1] % 7) as u8,
            byte_order: if self.flags[0] { ByteOrder::Little } else { ByteOrder::Big },
            cpus_possible: self.numbers[1],
            crashing_cpu: self.numbers[2],
        }
    }

    fn ktext(&self) -> KtextNote {
        KtextNote { vaddr: self.words[0] >> 1, paddr: PhysAddr(self.words[1] >> 1), length: self.words[2] >> 2 }
    }

    fn write(&self, w: &mut NotesWriter<'_>) -> netdump_core::wire::Result<()> {
        match self.kind {
            1 => w.machine(&self.machine()),
            2 => w.cpu(&self.cpu()),
            3 => w.vmcoreinfo(&self.bytes),
            4 => w.ranges(&self.ranges()),
            5 => w.ktext(&self.ktext()),
            6 => w.layout(self.words[0]),
            7 => w.identity(&[("key", &self.bytes)]),
            8 => w.panic_text(&self.bytes),
            9 => w.overlay(PhysAddr(self.words[0] >> 1), &self.bytes),
            kind => w.raw(kind, &self.bytes),
        }
    }

    fn is(&self, note: &Note<'_>) -> bool {
        match (self.kind, note) {
            (1, Note::Machine(got)) => *got == self.machine(),
            (2, Note::Cpu(got)) => *got == self.cpu(),
            (3, Note::Vmcoreinfo(got)) | (8, Note::Panic(got)) => *got == self.bytes,
            (4, Note::Ranges(got)) => got.iter().eq(self.ranges()) && got.is_page_aligned(12),
            (5, Note::Ktext(got)) => *got == self.ktext(),
            (6, Note::Layout { page_offset }) => *page_offset == self.words[0],
            (7, Note::Identity(got)) => {
                got.iter().filter(|b| **b == b'\n').count() == 1 && got.len() == self.bytes.len() + 5
            }
            (9, Note::Overlay { paddr, data }) => paddr.0 == self.words[0] >> 1 && *data == self.bytes,
            (kind, Note::Unknown { kind: got, value }) => kind == *got && *value == self.bytes,
            _ => false,
        }
    }
}

proptest! {
    /// A blob for the module is taken in exactly one form; a changed byte in what has a form is noticed.
    #[test]
    fn arming_blobs(keys in prop::collection::vec(any::<u8>(), 144), cookie in any::<u64>(), kx in prop::collection::vec(any::<u8>(), 0..1200), at: prop::sample::Index, byte: u8) {
        let mut blob = arm::MAGIC.to_vec();
        blob.extend((arm::FIXED_LEN as u32 + kx.len() as u32).to_le_bytes());
        blob.extend(u32::from(cookie != 0).to_le_bytes());
        blob.extend(&keys);
        blob.extend(cookie.to_le_bytes());
        blob.extend((kx.len() as u16).to_le_bytes());
        blob.extend(&kx);
        let fits = kx.len() <= arm::MAX_KX_LEN;
        prop_assert_eq!(Arming::new_checked(&blob).is_ok(), fits);
        let at = at.index(blob.len());
        let before = std::mem::replace(&mut blob[at], byte);
        if before != byte && (at < 16 || (168..170).contains(&at)) {
            prop_assert!(Arming::new_checked(&blob).is_err());
        }
        blob.truncate(at);
        prop_assert!(Arming::new_checked(&blob).is_err());
    }

    #[test]
    fn requests_come_back(cookie in cookie(), nr in any::<u32>(), command in command()) {
        let request = Request { cookie, nr: RequestId(nr), command };
        let mut buf = [0u8; 40];
        prop_assert_eq!(request.emit(&mut buf), Ok(request.buffer_len()));
        prop_assert_eq!(Request::parse(&buf[..24]), Ok(request));
        prop_assert_eq!(Request::parse(&buf), Ok(request), "longer ones are accepted");
        for len in 0..24 {
            prop_assert!(Request::parse(&buf[..len]).is_err());
            let mut short = vec![0; len];
            prop_assert!(request.emit(&mut short).is_err());
        }
    }

    #[test]
    fn replies_come_back(owned in owned()) {
        let reply = owned.reply();
        let mut buf = [0u8; 2048];
        let len = reply.emit(&mut buf).unwrap();
        prop_assert!(len <= reply.buffer_len());
        prop_assert_eq!(Reply::parse(&buf[..len]), Ok(reply));
        for room in 0..len {
            let mut short = vec![0; room];
            prop_assert!(reply.emit(&mut short).is_err(), "{} of {}", room, len);
        }
    }

    #[test]
    fn any_bytes_are_a_reply_or_an_error(bytes in vec(any::<u8>(), 0..1600), code in 0..14u8, version in 3..7u8) {
        let mut bytes = bytes;
        if bytes.len() >= 13 {
            // Otherwise hardly any would get past the header.
            bytes[0] = version;
            bytes[5..9].copy_from_slice(&[0, 0, 0, code]);
        }
        if let Ok(reply) = Reply::parse(&bytes) {
            let mut buf = [0u8; 2048];
            let len = reply.emit(&mut buf).unwrap();
            prop_assert_eq!(Reply::parse(&buf[..len]), Ok(reply));
        }
    }

    #[test]
    fn tags_are_those_that_were_given(pairs in vec(("[A-Za-z0-9_.-]{1,32}", "[ -+.-~--]{0,20}"), 0..16)) {
        let text = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        prop_assume!(text.len() <= tags::MAX_LEN);
        let parsed = Tags::parse(&text).unwrap();
        let given = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        prop_assert_eq!(parsed.pairs().collect::<Vec<_>>(), given.collect::<Vec<_>>());
    }

    #[test]
    fn any_text_is_tags_or_refused(text in any::<String>()) {
        if let Ok(tags) = Tags::parse(&text) {
            for (key, value) in tags.pairs() {
                prop_assert!((1..=tags::MAX_KEY_LEN).contains(&key.len()));
                prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b','));
            }
        }
    }

    #[test]
    fn notes_come_back(notes in vec(note(), 0..12)) {
        let mut buf = vec![0u8; 1 << 16];
        let mut w = NotesWriter::new(&mut buf);
        for note in &notes {
            note.write(&mut w).unwrap();
        }
        let len = w.len();
        let parsed: Vec<_> = Tlvs::new(&buf[..len]).map(|tlv| Note::parse(&tlv.unwrap()).unwrap()).collect();
        prop_assert_eq!(parsed.len(), notes.len());
        for (sent, got) in notes.iter().zip(&parsed) {
            prop_assert!(sent.is(got), "{:?} became {:?}", sent, got);
        }
    }

    #[test]
    fn notes_that_do_not_fit_are_left_out_whole(notes in vec(note(), 0..12), room in 0..4000usize) {
        let mut buf = vec![0u8; room];
        let mut w = NotesWriter::new(&mut buf);
        let fitted: Vec<_> = notes.iter().filter(|note| note.write(&mut w).is_ok()).collect();
        let len = w.len();
        let parsed: Vec<_> = Tlvs::new(&buf[..len]).map(|tlv| Note::parse(&tlv.unwrap()).unwrap()).collect();
        prop_assert_eq!(parsed.len(), fitted.len());
        for (sent, got) in fitted.iter().zip(&parsed) {
            prop_assert!(sent.is(got));
        }
    }

    #[test]
    fn any_bytes_are_notes_or_an_error(bytes in vec(prop_oneof![3 => 0..12u8, 1 => any::<u8>()], 0..300)) {
        let mut taken = 0;
        for tlv in Tlvs::new(&bytes) {
            let Ok(tlv) = tlv else { break };
            taken += TLV_HEADER_LEN + tlv.value.len();
            if let Ok(Note::Ranges(ranges)) = Note::parse(&tlv) {
                prop_assert!(ranges.iter().all(|r| r.start < r.end));
            }
        }
        prop_assert!(taken <= bytes.len());
        for entry in VolatileRange::iter(&bytes).flatten() {
            prop_assert!(entry.range.start <= entry.range.end);
            let _ = entry.label();
        }
    }
}
