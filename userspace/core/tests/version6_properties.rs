// SPDX-License-Identifier: GPL-2.0-or-later
//! What holds for every message of version 6: whatever is emitted parses to itself, and no bytes do harm.

use netdump_core::wire::v6::cluster::{
    emit_index, Cluster, Content, Piece, Run, MAX_CLUSTER_FRAMES, MAX_INDEX_LEN, PAGE,
};
use netdump_core::wire::v6::message::*;
use netdump_core::wire::v6::secure::Replay;
use netdump_core::wire::v6::{Codec, Counter, Header, Level, Reason};
use netdump_core::wire::Pfn;
use proptest::collection::vec;
use proptest::prelude::*;

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![Just(Turn::Any), Just(Turn::First), Just(Turn::Second)]
}

fn segment() -> impl Strategy<Value = Segment> {
    (any::<u32>(), 0..u64::MAX - 1, 1..u64::MAX, any::<bool>(), turn()).prop_map(|(id, start, len, again, turn)| {
        Segment { id: SegmentId(id), start: Pfn(start), end: Pfn(start.saturating_add(len)), again, turn }
    })
}

proptest! {
    #[test]
    fn grants(serial: u32, credit: u64, level in 0u8..32, pages in 1u8..=16, answer: bool, largest: Option<u16>, segments in vec(segment(), 0..=MAX_SEGMENTS)) {
        let mut grant = Grant::EMPTY;
        (grant.serial, grant.credit, grant.pages, grant.answer) = (serial, credit, pages, answer);
        (grant.level, grant.codec, grant.largest) = (Level::new(level).unwrap(), Codec::Lz4, largest);
        let mut buf = [0; 512];
        let len = grant.emit(&segments, &mut buf).unwrap();
        let parsed = Grant::parse(&buf[..len]).unwrap();
        prop_assert_eq!((parsed.serial, parsed.credit, parsed.level, parsed.codec), (serial, credit, grant.level, grant.codec));
        prop_assert_eq!((parsed.pages, parsed.answer, parsed.largest), (pages, answer, largest));
        prop_assert_eq!(parsed.segments().collect::<Vec<_>>(), segments);
        for cut in 0..len - if largest.is_some() { 2 } else { 0 } {
            prop_assert!(Grant::parse(&buf[..cut]).is_err());
        }
    }

    #[test]
    fn progress(serial: u32, places in vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..=MAX_SEGMENTS), left_out: [u64; Reason::COUNT]) {
        let places: Vec<_> =
            places.into_iter().map(|(id, cursor, tail)| Place { id: SegmentId(id), cursor: Pfn(cursor), tail: Pfn(tail) }).collect();
        let mut buf = [0; 512];
        let len = Progress::emit(serial, places.iter().copied(), &left_out, &mut buf).unwrap();
        let parsed = Progress::parse(&buf[..len]).unwrap();
        prop_assert_eq!((parsed.serial, parsed.left_out), (serial, left_out));
        prop_assert_eq!(parsed.places().collect::<Vec<_>>(), places);
    }

    #[test]
    fn clusters(first in 0u64..1 << 50, runs in vec((0u32..1000, 1u16..200, any::<bool>()), 1..=32)) {
        let mut data = 0;
        let mut kept = Vec::new();
        for (n, (skip, pages, zero)) in runs.into_iter().enumerate() {
            let pages = if zero { pages } else { pages % 3 + 1 };
            if !zero && data + pages > 16 {
                continue;
            }
            data += if zero { 0 } else { pages };
            kept.push(Run { skip: if n == 0 || kept.is_empty() { 0 } else { skip }, pages, zero });
        }
        prop_assume!(!kept.is_empty());
        let mut index = [0; MAX_INDEX_LEN];
        let len = emit_index(&kept, &mut index).unwrap();
        let mut bytes = index[MAX_INDEX_LEN - len..].to_vec();
        bytes.resize(len + usize::from(data) * PAGE, 7);
        let frames = kept.iter().map(|run| u64::from(run.pages)).sum::<u64>();
        let cluster = Cluster::parse(Pfn(first), &bytes);
        prop_assert_eq!(cluster.is_ok(), frames <= MAX_CLUSTER_FRAMES, "{} frames", frames);
        let Ok(cluster) = cluster else { return Ok(()) };
        prop_assert_eq!(cluster.runs().collect::<Vec<_>>(), kept.clone());
        let mut taken = 0u64;
        cluster.for_each(|content| taken += if let Content::Zeroes(_, count) = content { u64::from(count) } else { 1 });
        prop_assert_eq!(taken, frames);
        prop_assert!(Cluster::parse(Pfn(first), &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn no_bytes_do_harm(bytes in vec(any::<u8>(), 0..600)) {
        let _ = (Header::parse(&bytes), Grant::parse(&bytes), Progress::parse(&bytes), Piece::parse(&bytes));
        let _ = Repair::parse(&bytes).map(Iterator::count);
        if let Ok(cluster) = Cluster::parse(Pfn(1), &bytes) {
            cluster.for_each(|_| {});
        }
    }

    /// Against a set that remembers all.
    #[test]
    fn no_counter_is_taken_twice(counters in vec(0u64..700, 1..400)) {
        let (mut replay, mut seen) = (Replay::<4>::new(), std::collections::HashSet::new());
        for counter in counters {
            let new = replay.is_new(Counter(counter));
            if replay.next() <= counter + 256 {
                prop_assert_eq!(new, !seen.contains(&counter), "{} within the window", counter);
            }
            prop_assert!(!new || !seen.contains(&counter));
            if new {
                replay.note(Counter(counter));
                seen.insert(counter);
            }
        }
    }
}
