// SPDX-License-Identifier: GPL-2.0-or-later
//! "Other versions" of docs/protocol.md: what a reader does not know changes nothing of what it knows.

use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::handshake::{Ack6, Start6};
use netdump_core::wire::v6::message::*;
use netdump_core::wire::v6::secure::{Crypto, Key, KEY_LEN};
use netdump_core::wire::v6::{Codec, Level, Reason, SessionId, MAX_MAX_DATAGRAM};
use netdump_core::wire::Pfn;
use proptest::collection::vec;
use proptest::prelude::*;

/// Nothing here is keyed.
struct NoCrypto;

impl Crypto for NoCrypto {
    fn sha256(&self, _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }
    fn hmac(&self, _: &[u8], _: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }
    fn seal(&self, _: &[u8; KEY_LEN], _: u64, _: &[u8], _: &mut [u8]) -> bool {
        false
    }
    fn open(&self, _: &[u8; KEY_LEN], _: u64, _: &[u8], _: &mut [u8]) -> bool {
        false
    }
}

const START: Start6<'static> = Start6 {
    machine: Machine::X86_64,
    key: None,
    turns: true,
    suites: 1,
    codecs: 7,
    max_datagram: 1416,
    fire_id: [1; 16],
    epoch: 3,
    random: [2; 32],
    session: SessionId([3; 6]),
    kx: &[7; 33],
};

proptest! {
    #[test]
    fn a_start6_of_a_later_version(
        version in 6u32.., flags in any::<u16>(), suites in any::<u32>(), codecs in any::<u32>(), max_datagram in 1200u16..,
        header in vec(any::<u8>(), 0..200), tlvs in vec((any::<u16>(), vec(any::<u8>(), 0..60)), 0..5),
    ) {
        let mut buf = [0; 512];
        let len = START.emit(&NoCrypto, &Key::NONE, &mut buf).unwrap();
        // What is in front of kx, kx, and TLVs: padding, and new ones.
        let mut later = [&buf[..121], &header, &buf[121..len - 16]].concat();
        for (kind, value) in &tlvs {
            later.extend(kind.to_be_bytes());
            later.extend((value.len() as u16).to_be_bytes());
            later.extend(value);
        }
        later.extend([0; 16]);
        later[9..13].copy_from_slice(&version.to_be_bytes());
        let length = later.len() as u16;
        later[13..15].copy_from_slice(&length.to_be_bytes());
        // There is no key.
        later[15..17].copy_from_slice(&(flags & !1).to_be_bytes());
        later[17..21].copy_from_slice(&suites.to_be_bytes());
        later[21..25].copy_from_slice(&codecs.to_be_bytes());
        later[25..27].copy_from_slice(&max_datagram.to_be_bytes());
        later[27..29].copy_from_slice(&(121 + header.len() as u16).to_be_bytes());
        let max_datagram = max_datagram.min(MAX_MAX_DATAGRAM);
        prop_assert_eq!(Start6::parse(&later), Ok(Start6 { turns: flags & 2 != 0, suites, codecs, max_datagram, ..START }));
        // A header that is shorter than what every version has, or longer than the message, is none.
        for bad in [1u16, 120, length] {
            later[27..29].copy_from_slice(&bad.to_be_bytes());
            prop_assert!(Start6::parse(&later).is_err());
        }
    }

    #[test]
    fn an_ack6_of_a_later_version(version in 6u32.., flags: u8, max_datagram in 1200u16.., more in vec(any::<u8>(), 0..100)) {
        let ack = Ack6 {
            suite: 0, client: SessionId([3; 6]), server: SessionId([4; 6]), random: [5; 32], kx: [6; 32], max_datagram: 1416,
        };
        let mut buf = [0; 124];
        ack.emit(&NoCrypto, None, b"", &mut buf).unwrap();
        let mut later = [&buf[..108], &more, &buf[108..]].concat();
        later[16..20].copy_from_slice(&version.to_be_bytes());
        let length = later.len() as u16;
        later[24..26].copy_from_slice(&length.to_be_bytes());
        later[27] = flags;
        later[104..106].copy_from_slice(&max_datagram.to_be_bytes());
        prop_assert_eq!(Ack6::parse(&later), Ok(Ack6 { max_datagram: max_datagram.min(MAX_MAX_DATAGRAM), ..ack }));
    }

    #[test]
    fn bodies_of_a_later_version(more in vec(any::<u8>(), 0..64), level: u8, pages in 16u8.., flags: u8) {
        let mut buf = [0; 512];
        let longer = |body: &[u8]| [body, &more].concat();
        let segment = Segment { id: SegmentId(5), start: Pfn(1), end: Pfn(9), again: true, turn: Turn::First };
        let mut grant = Grant::EMPTY;
        (grant.serial, grant.credit, grant.codec) = (1, 2, Codec::Lz4);
        let len = grant.emit(&[segment], &mut buf).unwrap();
        let mut later = longer(&buf[..len]);
        (later[12], later[14], later[15]) = (level, pages, flags);
        // Of the segment: bits that are not known.
        later[len - 1] |= flags & !7;
        let parsed = Grant::parse(&later).unwrap();
        prop_assert_eq!((parsed.level, parsed.pages, parsed.answer), (Level::known(level), 16, flags & 1 != 0));
        prop_assert_eq!(parsed.segments().collect::<Vec<_>>(), [segment]);

        let repair = Repair { first: Pfn(1), end: Pfn(2), build: 3, missing: 4, turn: Turn::Second };
        let len = Repair::emit(&[repair], &mut buf).unwrap();
        let mut later = longer(&buf[..len]);
        later[len - 1] |= flags & !6;
        prop_assert_eq!(Repair::parse(&later).unwrap().collect::<Vec<_>>(), [repair]);

        let ask = Ask { item: 1, offset: 2, part: 3, count: 4 };
        let len = ask.emit(&mut buf).unwrap();
        prop_assert_eq!(Ask::parse(&longer(&buf[..len])), Ok(ask));
        let wait = Wait { seconds: 1, position: 2 };
        let len = wait.emit(&mut buf).unwrap();
        prop_assert_eq!(Wait::parse(&longer(&buf[..len])), Ok(wait));
        let len = End::Exit.emit(&mut buf).unwrap();
        prop_assert_eq!(End::parse(&longer(&buf[..len])), Ok(End::Exit));
        let show = Show { from: 7, again: true };
        let len = show.emit(&mut buf).unwrap();
        let mut later = longer(&buf[..len]);
        later[len - 1] |= flags;
        prop_assert_eq!(Show::parse(&later), Ok(Some(show)));
    }

    #[test]
    fn progress_with_other_reasons(count in 0u8..20, more in vec(any::<u8>(), 0..64)) {
        let place = Place { id: SegmentId(1), cursor: Pfn(2), tail: Pfn(1) };
        let mut buf = [0; 512];
        let len = Progress::emit(9, [place].into_iter(), &[0; Reason::COUNT], &mut buf).unwrap();
        let mut other = buf[..len - 8 * Reason::COUNT].to_vec();
        *other.last_mut().unwrap() = count;
        (1..=u64::from(count)).for_each(|n| other.extend(n.to_be_bytes()));
        other.extend(&more);
        let parsed = Progress::parse(&other).unwrap();
        let known = std::array::from_fn(|n| if n < usize::from(count) { n as u64 + 1 } else { 0 });
        prop_assert_eq!((parsed.serial, parsed.left_out), (9, known));
        prop_assert_eq!(parsed.places().collect::<Vec<_>>(), [place]);
    }
}
