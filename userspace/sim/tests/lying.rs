// SPDX-License-Identifier: GPL-2.0-or-later
//! A client that holds a valid key and lies in every field: what a session keeps of it is bounded, what it hands over is what
//! was described, each page once, and it ends.
#![allow(clippy::single_range_in_vec_init)] // a machine with one range of memory

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::{ByteOrder, MachineNote, NotesWriter, PhysRange};
use netdump_core::wire::v6::cluster::{
    emit_index, Piece, Run, MAX_CLUSTER_FRAMES, MAX_CLUSTER_LEN, MAX_INDEX_LEN, MAX_PIECES, PAGE, PIECE_HEADER_LEN,
};
use netdump_core::wire::v6::handshake::{Ack6, KeyName, Start6};
use netdump_core::wire::v6::message::{kind, Grant, Line, Part, Place, Progress, Segment, SegmentId, PART_HEADER_LEN};
use netdump_core::wire::v6::secure::{Channel, Crypto, Key, Role, TrafficKeys};
use netdump_core::wire::v6::{Codec, Counter, Header, SessionId, HEADER_LEN, TAG_LEN};
use netdump_core::wire::{Pfn, PhysAddr};
use netdump_session::v6::{Params6, Session6};
use netdump_session::{Event, Failure, Grant as Slot, Outcome, Phase, Ring};

const KEY: Key = Key::new([0x77; 32]);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// A dump takes no longer, whatever the client does.
const LONGEST: Duration = Duration::from_secs(3600);
/// And then there is the end: the last orders, and the wait for them.
const SLACK: Duration = Duration::from_secs(60);
/// What a session may hold, as netdump-server/README.md says.
const MAX_HELD: usize = 128 << 20;
/// Pages that the owner has room for.
const ROOM: usize = 4096;

/// A client, and the session that it lies to.
struct Liar {
    session: Session6,
    /// Opens what the server says.
    ears: Channel<4>,
    seal: Key,
    server: SessionId,
    counter: u64,
    epoch: Instant,
    now: Instant,
    rng: fastrand::Rng,
    /// Frames that it has described.
    described: Vec<Range<u64>>,
    frames: u64,
    seen: HashSet<u64>,
    absent: u64,
    text: usize,
    listing: Vec<u8>,
    phase: Phase,
    segments: Vec<Segment>,
    serial: u32,
    credit: u64,
    most_held: usize,
    outcome: Option<Outcome>,
}

impl Liar {
    /// The handshake is done, and the server has a slot for it.
    fn new(seed: u64) -> Liar {
        let start = Start6 {
            machine: Machine::X86_64,
            key: Some(KeyName { key_id: [1; 16], arm_id: [2; 16] }),
            turns: true,
            suites: 2,
            codecs: 7,
            max_datagram: 1416,
            fire_id: [3; 16],
            epoch: 0,
            random: [4; 32],
            session: SessionId([5; 6]),
            kx: &[],
        };
        let mut bytes = [0; 256];
        let len = start.emit(&Ring, &KEY, &mut bytes).unwrap();
        let start = &bytes[..len];
        let now = Instant::now();
        let params = Params6 { max_duration: LONGEST, ..Params6::default() };
        let mut session = Session6::new(params, start, Some(&KEY), [9; 32], now).unwrap();
        session.set_write_room(ROOM, 2 * ROOM);
        let mut ack = Vec::new();
        assert!(session.poll_transmit(now, &mut ack));
        let answer = Ack6::parse(&ack).unwrap();
        let keys = TrafficKeys::derive(&Ring, &KEY, start, &ack);
        let mut liar = Liar {
            session,
            ears: Channel::new(Role::Client, Some(keys), answer.client, answer.server),
            seal: KEY.derive(&Ring, b"nd6 c2s", &Ring.sha256(&[start, &ack])),
            server: answer.server,
            counter: 0,
            epoch: now,
            now,
            rng: fastrand::Rng::with_seed(seed),
            described: Vec::new(),
            frames: 0,
            seen: HashSet::new(),
            absent: 0,
            text: 0,
            listing: Vec::new(),
            phase: Phase::Probe,
            segments: Vec::new(),
            serial: 0,
            credit: 0,
            most_held: 0,
            outcome: None,
        };
        liar.progress(&[]);
        assert_eq!(liar.phase, Phase::Notes);
        liar
    }

    /// The same, as far as the memory of these frames.
    fn with_memory(seed: u64, described: &[Range<u64>]) -> Liar {
        let mut liar = Liar::new(seed);
        liar.describe(described);
        assert_eq!(liar.phase, Phase::Memory);
        liar
    }

    fn describe(&mut self, described: &[Range<u64>]) {
        self.described = described.to_vec();
        self.frames = described.iter().map(|range| range.end - range.start).sum();
        self.item(1, &notes(described));
        self.item(2, b"log");
    }

    fn item(&mut self, item: u32, bytes: &[u8]) {
        for (n, chunk) in bytes.chunks(1024).enumerate() {
            self.part(item, n as u32 * 1024, bytes.len() as u32, chunk);
        }
    }

    /// A datagram with any counter, sealed as it should be.
    fn say_at(&mut self, counter: u64, kind: u8, body: &[u8]) {
        let mut datagram = vec![0; HEADER_LEN];
        Header { kind, session: self.server, counter: Counter(counter) }.emit(&mut datagram).unwrap();
        datagram.extend_from_slice(body);
        datagram.extend([0; TAG_LEN]);
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        assert!(Ring.seal(self.seal.expose(), counter, header, rest));
        let before = self.session.counters().datagrams;
        self.session.handle(self.now, &datagram);
        assert_eq!(self.session.counters().datagrams, before + 1);
        if counter % 64 == 0 {
            self.measure();
        }
    }

    /// With the next counter, and the owner does not look.
    fn mutter(&mut self, kind: u8, body: &[u8]) {
        self.counter += 1;
        self.say_at(self.counter - 1, kind, body);
    }

    fn say(&mut self, kind: u8, body: &[u8]) {
        self.mutter(kind, body);
        self.settle();
    }

    fn part(&mut self, item: u32, offset: u32, total: u32, data: &[u8]) {
        let mut body = vec![0; PART_HEADER_LEN];
        Part { item, offset, total, data: &[] }.emit_header(&mut body).unwrap();
        body.extend_from_slice(data);
        self.say(kind::PART, &body);
    }

    /// Says of all segments that it has looked at them and sent nothing.
    fn walk_past(&mut self) {
        self.pass(10 * MS);
        for segment in self.segments.clone() {
            self.progress(&[Place { id: segment.id, cursor: segment.end, tail: segment.start }]);
        }
    }

    fn progress(&mut self, places: &[Place]) {
        let mut body = [0; 1024];
        let left_out = std::array::from_fn(|_| self.rng.u64(..));
        let len = Progress::emit(self.serial, places.iter().copied(), &left_out, &mut body).unwrap();
        self.say(kind::PROGRESS, &body[..len]);
    }

    fn line(&mut self, offset: u32, last: bool, text: &[u8]) {
        let mut body = vec![0; 5];
        Line::emit_header(offset, last, &mut body).unwrap();
        body.extend_from_slice(text);
        self.say(kind::LINE, &body);
    }

    fn measure(&mut self) {
        self.most_held = self.most_held.max(self.session.held());
        assert!(self.most_held <= MAX_HELD, "{} bytes in {:?}", self.most_held, self.session.phase());
    }

    /// The owner takes what there is, and sends what is to be sent. Everything that is promised is checked here.
    fn settle(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Phase(phase) => self.phase = phase,
                Event::Proved => self.session.grant_slot(self.now, Slot::Full),
                Event::Described(_) => self.session.storage_ready(self.now),
                Event::Pages(pages) => {
                    pages.each(|pfn, bytes| {
                        let described = self.described.iter().any(|range| range.contains(&pfn.0));
                        assert!(described && bytes.len() == PAGE, "{pfn:?} was not described");
                        assert!(self.seen.insert(pfn.0), "{pfn:?} came twice");
                    });
                    self.session.recycle(pages.data);
                }
                Event::Absent { pfns, .. } => self.absent += pfns.end - pfns.start,
                Event::KernelLog(text) => self.text += text.len(),
                Event::Listing(text) => self.listing = text,
                Event::MemoryDone(_) => self.session.stored(self.now),
                Event::Finished(outcome) => self.outcome = Some(outcome),
                _ => {}
            }
        }
        // What a disk gets is no more than was described.
        assert!(self.seen.len() as u64 + self.absent <= self.frames);
        assert!(self.text <= 1 << 20 && self.listing.len() <= 17 << 20);
        let mut out = Vec::new();
        for n in 0.. {
            if !self.session.poll_transmit(self.now, &mut out) {
                break;
            }
            assert!(n < 1000, "it has no end of things to say");
            if let Ok((kind::GRANT, _, body)) = self.ears.open(&Ring, &mut out) {
                let grant = Grant::parse(body).unwrap();
                (self.serial, self.credit) = (grant.serial, grant.credit);
                self.segments = grant.segments().collect();
            }
        }
        self.measure();
    }

    /// Time passes, and nothing is said.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for n in 0.. {
            assert!(n < 2_000_000, "it runs round and round: {:?}", self.session.phase());
            match self.session.poll_timeout() {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
            self.session.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
        self.session.handle_timeout(until);
        self.settle();
    }

    /// Silence, to the end; how that was.
    fn end(mut self) -> (Outcome, Liar) {
        self.pass(LONGEST + SLACK);
        let outcome = self.outcome.clone().expect("it ends");
        assert!(self.session.is_finished() && outcome.duration <= LONGEST + SLACK);
        assert_eq!(outcome.pages, self.seen.len() as u64);
        (outcome, self)
    }

    /// A whole cluster in one piece, however long.
    fn cluster(&mut self, first: u64, gap: u32, codec: Codec, encoded: &[u8]) -> Vec<u8> {
        let length = encoded.len() as u32;
        let piece = Piece {
            first: Pfn(first),
            gap,
            build: self.rng.u32(..),
            piece: 0,
            pieces: 1,
            codec,
            length,
            data: encoded,
        };
        emit(&piece)
    }
}

fn emit(piece: &Piece<'_>) -> Vec<u8> {
    let mut body = vec![0; PIECE_HEADER_LEN];
    piece.emit_header(&mut body).unwrap();
    body.extend_from_slice(piece.data);
    body
}

fn notes(described: &[Range<u64>]) -> Vec<u8> {
    let mut buf = vec![0; 1 << 20];
    let mut notes = NotesWriter::new(&mut buf);
    let machine =
        MachineNote { e_machine: 62, page_shift: 12, byte_order: ByteOrder::Little, cpus_possible: 1, crashing_cpu: 0 };
    notes.machine(&machine).unwrap();
    let range = |range: &Range<u64>| PhysRange { start: PhysAddr(range.start << 12), end: PhysAddr(range.end << 12) };
    notes.ranges(&described.iter().map(range).collect::<Vec<_>>()).unwrap();
    let len = notes.len();
    buf.truncate(len);
    buf
}

fn run(skip: u32, pages: u16, zero: bool) -> Run {
    Run { skip, pages, zero }
}

/// The plain bytes of a cluster.
fn plain(runs: &[Run], byte: u8) -> Vec<u8> {
    let mut index = [0; MAX_INDEX_LEN];
    let len = emit_index(runs, &mut index).unwrap();
    let pages: usize = runs.iter().filter(|run| !run.zero).map(|run| usize::from(run.pages)).sum();
    let mut bytes = index[MAX_INDEX_LEN - len..].to_vec();
    bytes.resize(bytes.len() + pages * PAGE, byte);
    bytes
}

#[test]
fn a_few_bytes_do_not_become_gigabytes() {
    let mut liar = Liar::with_memory(1, &[0..1 << 24]);
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    // 32 runs of 32,767 pages of zeroes: 4 GiB, were they handed over.
    let zeroes = plain(&[run(0, 0x7fff, true); 32], 0);
    // Longer than any cluster once it is unpacked.
    let bomb = zstd(&vec![0; 8 << 20]);
    let bomb_lz4 = lz4_flex::block::compress(&vec![0; 256 << 10]);
    // Several frames, each of them small enough.
    let frames = zstd(&plain(&[run(0, 16, false)], 1)).repeat(40);
    let promise = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &[0xff; 8], &[0; 20]].concat();
    for (codec, encoded) in [
        (Codec::Raw, &zeroes),
        (Codec::Zstd, &zstd(&zeroes)),
        (Codec::Zstd, &bomb),
        (Codec::Lz4, &bomb_lz4),
        (Codec::Zstd, &frames),
        (Codec::Zstd, &promise),
        (Codec::Lz4, &vec![0xff; 1000]),
        (Codec::Raw, &vec![0xff; 1000]),
    ] {
        let body = liar.cluster(1 << 20, 0, codec, encoded);
        let conflicts = liar.session.counters().conflicts;
        liar.say(kind::PIECE, &body);
        assert_eq!(liar.session.counters().conflicts, conflicts + 1, "{codec:?} of {} bytes", encoded.len());
        liar.pass(MS);
    }
    assert!(liar.seen.is_empty());
    // The most that is taken from one.
    let most = MAX_CLUSTER_FRAMES as u16;
    let body = liar.cluster(1 << 20, 0, Codec::Raw, &plain(&[run(0, most, true)], 0));
    liar.say(kind::PIECE, &body);
    assert_eq!(liar.seen.len(), usize::from(most));
    liar.end();
}

#[test]
fn more_than_the_owner_has_room_for_is_dropped_and_fetched_again() {
    let mut liar = Liar::with_memory(2, &[0..1 << 24]);
    let mut at = 0;
    let packed = zstd::bulk::compress(&plain(&[run(0, 16, false)], 1), 1).unwrap();
    // Nothing is taken from the session meanwhile: the disk stands still.
    for _ in 0..3 * ROOM {
        let body = liar.cluster(at, 0, Codec::Zstd, &packed);
        liar.mutter(kind::PIECE, &body);
        at += 16;
        // Beyond the credit nothing is looked at; more of it is had by no more than asking.
        if liar.counter >= liar.credit {
            liar.now += 10 * MS;
            liar.session.handle_timeout(liar.now);
            let mut out = Vec::new();
            while liar.session.poll_transmit(liar.now, &mut out) {
                if let Ok((kind::GRANT, _, body)) = liar.ears.open(&Ring, &mut out) {
                    liar.credit = Grant::parse(body).unwrap().credit;
                }
            }
        }
    }
    let counters = liar.session.counters();
    assert!(counters.no_room > 0 || counters.wrong_code > 0, "{counters:?}");
    liar.settle();
    let took = liar.seen.len();
    assert!((ROOM..=2 * ROOM + 16).contains(&took), "{took}");
    // What was dropped is asked for again once there is room.
    let first = (0..).find(|pfn| !liar.seen.contains(pfn)).unwrap();
    let [segment, ..] = liar.segments[..] else { panic!("nothing is granted") };
    liar.progress(&[Place { id: segment.id, cursor: Pfn(at), tail: Pfn(at) }]);
    liar.pass(Duration::from_secs(1));
    assert!(liar.segments.iter().any(|segment| segment.again && segment.start.0 == first), "{:?}", liar.segments);
    liar.end();
}

#[test]
fn datagrams_beyond_the_credit_are_not_looked_at() {
    let mut liar = Liar::with_memory(3, &[0..1 << 20]);
    let body = liar.cluster(7, 0, Codec::Raw, &plain(&[run(0, 1, false)], 1));
    let refused = liar.session.counters().wrong_code;
    liar.say_at(liar.credit, kind::PIECE, &body);
    assert_eq!(liar.session.counters().wrong_code, refused + 1);
    liar.settle();
    assert!(liar.seen.is_empty());
    liar.end();
}

#[test]
fn counters_may_begin_anywhere() {
    for last in [u64::MAX - 1, u64::MAX - 2, 1 << 63, u64::MAX - 70] {
        let mut liar = Liar::with_memory(4, &[0..1 << 20]);
        // Credit is reckoned from what came: this asks for all there is.
        liar.say_at(last - 1, kind::PROGRESS, &[0; 6]);
        liar.settle();
        liar.pass(20 * MS);
        let data = vec![1; 100];
        let piece = Piece {
            first: Pfn(3),
            gap: 0,
            build: 0,
            piece: 0,
            pieces: MAX_PIECES as u8,
            codec: Codec::Raw,
            length: 6400,
            data: &data,
        };
        let body = emit(&piece);
        liar.say_at(last, kind::PIECE, &body);
        liar.settle();
        liar.pass(MINUTE);
        let (outcome, _) = liar.end();
        assert!(outcome.failure.is_some());
    }
}

#[test]
fn clusters_that_overlap_or_lie_elsewhere() {
    let described = [16..64, 100..200, 1 << 30..(1 << 30) + 50];
    let mut liar = Liar::with_memory(5, &described);
    for (first, gap, runs) in [
        (20, 0, vec![run(0, 16, false)]),
        (20, 4, vec![run(0, 16, false)]),
        (16, 0, vec![run(0, 16, false)]),
        (28, 28, vec![run(0, 10, false), run(60, 6, false)]),
        (0, 0, vec![run(0, 16, false)]),
        (15, 0, vec![run(0, 16, false)]),
        (60, 0, vec![run(0, 1000, true)]),
        (150, 0, vec![run(0, 1, true), run(u32::MAX, 1, true), run(u32::MAX, 15, false)]),
        (u64::MAX - 20, 7, vec![run(0, 16, false)]),
        ((1 << 30) + 49, u32::MAX / 8, vec![run(0, 16, false)]),
        (1 << 30, 0, vec![run(0, 16, false)]),
    ] {
        let byte = liar.rng.u8(1..);
        let body = liar.cluster(first, gap, Codec::Raw, &plain(&runs, byte));
        liar.say(kind::PIECE, &body);
    }
    // `settle` has looked at all of it; some of it counted.
    assert!(liar.seen.len() > 30, "{}", liar.seen.len());
    assert!(liar.seen.contains(&20) && liar.seen.contains(&16) && !liar.seen.contains(&15));
    liar.end();
}

#[test]
fn clusters_that_are_never_whole() {
    let mut liar = Liar::with_memory(6, &[0..1 << 24]);
    let data = vec![7; 1000];
    for n in 0..20_000u64 {
        let piece = Piece {
            first: Pfn(n % 5000 * 16),
            gap: 0,
            // The same cluster with other bytes, again and again.
            build: (n / 5000) as u32,
            piece: liar.rng.u8(0..63),
            pieces: 64,
            codec: Codec::Raw,
            length: (63 * 1000 + 1 + liar.rng.u32(..1000)).min(MAX_CLUSTER_LEN as u32),
            data: &data,
        };
        let body = emit(&piece);
        liar.say(kind::PIECE, &body);
        if n % 16 == 0 {
            liar.pass(MS);
        }
    }
    assert!(liar.seen.is_empty());
    println!("{} MiB held", liar.most_held >> 20);
    assert!((32 << 20..80 << 20).contains(&liar.most_held), "{}", liar.most_held);
    let (outcome, _) = liar.end();
    assert!(matches!(outcome.failure, Some(Failure::Silent(Phase::Memory) | Failure::Unanswered(_))), "{outcome:?}");
}

#[test]
fn memory_in_tatters() {
    let mut liar = Liar::with_memory(7, &[0..1 << 24]);
    let page = plain(&[run(0, 1, true)], 0);
    for n in 0..75_000u64 {
        let body = liar.cluster(n * 2 + 1, 0, Codec::Raw, &page);
        liar.say(kind::PIECE, &body);
        if n % 100 == 0 {
            // It says that it has looked at all of that; what is missing is then asked for again.
            if let Some(segment) = liar.segments.iter().find(|segment| !segment.again).copied() {
                liar.progress(&[Place { id: segment.id, cursor: Pfn(n * 2 + 2), tail: Pfn(n * 2 + 2) }]);
            }
            liar.pass(MS);
        }
    }
    println!("{} pages, {} KiB held", liar.seen.len(), liar.most_held >> 10);
    assert!(liar.seen.len() > 60_000 && liar.seen.len() < 70_000, "{}", liar.seen.len());
    assert!(liar.segments.iter().any(|segment| segment.again));
    liar.end();
}

#[test]
fn progress_that_cannot_be() {
    let described = [100..200, 1000..5000];
    let mut liar = Liar::with_memory(8, &described);
    for _ in 0..20_000 {
        let id = match liar.rng.u8(..4) {
            0 => SegmentId(liar.rng.u32(..)),
            _ => liar.segments.first().map_or(SegmentId(1), |segment| segment.id),
        };
        let any = |rng: &mut fastrand::Rng| match rng.u8(..6) {
            0 => rng.u64(..),
            1 => u64::MAX - rng.u64(..3),
            2 => rng.u64(..100),
            _ => rng.u64(90..5100),
        };
        let (cursor, tail) = (any(&mut liar.rng), any(&mut liar.rng));
        let place = Place { id, cursor: Pfn(cursor), tail: Pfn(tail) };
        liar.serial = liar.serial.wrapping_sub(liar.rng.u32(..300));
        liar.progress(&[place; 16]);
        if liar.rng.u8(..) == 0 {
            liar.pass(MS);
        }
    }
    // Frames are said to be left out; none of the lies made more of them than there are.
    assert!(liar.seen.is_empty() && liar.absent <= liar.frames);
    assert!(liar.session.left_out().iter().all(|count| *count > 0), "it is believed what it says of itself");
    liar.end();
}

#[test]
fn items_without_end() {
    // Totals that grow, parts that belong nowhere, parts of other items.
    let mut liar = Liar::new(9);
    for n in 0..5000u32 {
        let (item, offset) = (liar.rng.u32(..6), liar.rng.u32(..3 << 20) / 512 * 512);
        let data = vec![1; liar.rng.usize(..1400)];
        liar.part(item, offset, 500_000 + n, &data);
        liar.pass(MS);
    }
    assert!(matches!(liar.phase, Phase::Notes | Phase::Log), "{:?}", liar.phase);
    let (outcome, _) = liar.end();
    assert!(outcome.failure.is_some());
    // A part now and then, so that there is always something new.
    let mut liar = Liar::new(10);
    for n in 0..1023 {
        liar.part(1, n * 1024, 1 << 20, &[0; 1024]);
        liar.pass(3 * Duration::from_secs(1));
    }
    assert_eq!(liar.phase, Phase::Notes);
    liar.part(1, 1023 * 1024, 1 << 20, &[0; 1024]);
    assert_eq!(liar.phase, Phase::Log);
    // More than an item may have.
    liar.part(2, 0, u32::MAX, &[0; 1024]);
    let (outcome, _) = liar.end();
    assert_eq!(outcome.failure, Some(Failure::Unusable("no memory is described")));
}

#[test]
fn notes_that_describe_what_cannot_be() {
    const ALL: u64 = (1 << 52) - 1;
    let many: Vec<_> = (0..4097u64).map(|n| n * 2..n * 2 + 1).collect();
    for described in [&[10..20, 15..30][..], &[30..40, 10..20], &[5..5], &[], &many] {
        let mut liar = Liar::new(11);
        liar.describe(described);
        assert_ne!(liar.phase, Phase::Memory, "{} ranges", described.len());
        let (outcome, _) = liar.end();
        assert_eq!(outcome.failure, Some(Failure::Unusable("no memory is described")));
    }
    let most: Vec<_> = (0..4096u64).map(|n| n << 40..(n << 40) + (1 << 39)).collect();
    for described in [&[0..ALL][..], &[1..2, ALL - 1..ALL], &most] {
        let mut liar = Liar::with_memory(12, described);
        let last = described.last().unwrap().end - 1;
        let body = liar.cluster(last, 0, Codec::Raw, &plain(&[run(0, 1, false)], 1));
        liar.say(kind::PIECE, &body);
        // What comes first, and then the others, some segments at a time.
        for _ in 0..8000 {
            if liar.absent == 0 {
                liar.walk_past();
            }
        }
        assert!(liar.seen.contains(&last) && liar.absent > 0);
        liar.end();
    }
}

#[test]
fn a_listing_without_end() {
    let listing = || {
        let mut liar = Liar::with_memory(13, &[0..16]);
        let body = liar.cluster(0, 0, Codec::Raw, &plain(&[run(0, 16, true)], 0));
        liar.say(kind::PIECE, &body);
        // The turn of the other pages, of which there are none.
        liar.walk_past();
        assert_eq!(liar.phase, Phase::ShowState);
        liar
    };
    // In order, for ever.
    let mut liar = listing();
    let (began, mut offset) = (liar.now, 0);
    while liar.phase == Phase::ShowState {
        liar.line(offset, false, &[b'x'; 1000]);
        offset += 1000;
        liar.pass(10 * MS);
    }
    assert!(liar.now - began <= Duration::from_secs(121) && liar.listing.len() > 1 << 20);
    liar.end();
    // Bytes here and there, ends that differ.
    let mut liar = listing();
    for _ in 0..30_000 {
        let (offset, len) = (liar.rng.u32(..), liar.rng.usize(..3));
        let offset = if liar.rng.bool() { offset } else { offset % 5000 };
        liar.line(offset, false, &b"xyz"[..len]);
    }
    liar.line(u32::MAX, true, b"abc");
    liar.pass(MINUTE);
    assert!(liar.phase != Phase::ShowState && !liar.listing.is_empty());
    liar.end();
}

#[test]
fn who_says_good_bye_too_early_is_not_believed() {
    let mut liar = Liar::with_memory(14, &[0..1 << 20]);
    for _ in 0..100 {
        liar.say(kind::BYE, &[1]);
        liar.say(kind::BYE, &[77]);
        liar.say(0xff, &[1; 100]);
    }
    assert_eq!(liar.phase, Phase::Memory);
    let began = liar.now;
    liar.pass(MINUTE);
    assert!(liar.phase != Phase::Memory && liar.now - began == MINUTE);
    let (outcome, _) = liar.end();
    assert!(matches!(outcome.failure, Some(Failure::Silent(Phase::Memory) | Failure::Unanswered(_))), "{outcome:?}");
}

/// Everything at once, by chance.
#[test]
fn anything() {
    for seed in 0..12 {
        let described = [3..40, 64..512, 1 << 20..(1 << 20) + 300];
        let mut liar = Liar::with_memory(100 + seed, &described);
        for _ in 0..1500 {
            let frame = |rng: &mut fastrand::Rng| match rng.u8(..8) {
                0 => rng.u64(..),
                1 => (1 << 20) + rng.u64(..320),
                _ => rng.u64(..520),
            };
            match liar.rng.u8(..10) {
                0..=3 => {
                    let runs: Vec<Run> = (0..liar.rng.usize(1..4))
                        .map(|n| run(if n == 0 { 0 } else { liar.rng.u32(..20) }, liar.rng.u16(1..8), liar.rng.bool()))
                        .collect();
                    let bytes = plain(&runs, liar.rng.u8(..));
                    let first = frame(&mut liar.rng).min(u64::MAX - 100);
                    let gap = liar.rng.u32(..30).min(first.min(1 << 20) as u32);
                    let codec = [Codec::Raw, Codec::Lz4, Codec::Zstd][liar.rng.usize(..3)];
                    let packed = match codec {
                        Codec::Raw => bytes,
                        Codec::Lz4 => lz4_flex::block::compress(&bytes),
                        Codec::Zstd => zstd::bulk::compress(&bytes, 1).unwrap(),
                    };
                    let body = liar.cluster(first, gap, codec, &packed);
                    liar.say(kind::PIECE, &body);
                }
                4..=6 => {
                    let segment = liar.segments.get(liar.rng.usize(..16)).copied();
                    let id = segment.map_or(SegmentId(liar.rng.u32(..99)), |segment| segment.id);
                    let tail = frame(&mut liar.rng);
                    let cursor = tail.saturating_add(liar.rng.u64(..200));
                    liar.progress(&[Place { id, cursor: Pfn(cursor), tail: Pfn(tail) }]);
                }
                7 => {
                    let (offset, last) = (liar.rng.u32(..4000), liar.rng.u8(..20) == 0);
                    liar.line(offset, last, b"text\n");
                }
                8 => {
                    let (item, total) = (liar.rng.u32(..4), liar.rng.u32(..4000));
                    liar.part(item, 0, total, &vec![0; total.min(1024) as usize]);
                }
                _ => {
                    let (kind, len) = (liar.rng.u8(1..), liar.rng.usize(..200));
                    let body: Vec<u8> = (0..len).map(|_| liar.rng.u8(..)).collect();
                    liar.say(kind, &body);
                }
            }
            let micros = liar.rng.u64(..3000);
            liar.pass(Duration::from_micros(micros));
        }
        assert!(!liar.seen.is_empty() || liar.absent > 0);
        let began = liar.epoch;
        let (_, liar) = liar.end();
        assert!(liar.now - began <= LONGEST + SLACK + MINUTE);
    }
}
