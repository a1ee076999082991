// SPDX-License-Identifier: GPL-2.0-or-later
//! Puts the records of one extended netconsole back in order and joins their fragments. No I/O; time is passed in.
//!
//! A record has the number that printk gave it. The numbers of what one target sends ascend, but not by one: a record
//! that is below the client's console level is never sent. Whether something is missing is certain only where the
//! client counts what it sends (`msgid` among the keys of a record); without it a hole in the numbers is taken for a loss.
//!
//! Nothing is sent twice on purpose. A number that goes back, or a time that does, is a client that started again,
//! unless the record is known: a duplicate, or one that came too late.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netdump_core::wire::log::record::Record;
use netdump_core::wire::log::record::{MAX_BODY, MAX_RELEASE};
use netdump_core::wire::Writer;

use crate::sink::{Lost, Sink, Verdict};

/// Records held while an earlier one, or a part of one, is missing.
pub const MAX_HELD_RECORDS: usize = 64;
/// Bytes held while something is missing; the longest record of any kernel fits.
pub const MAX_HELD_BYTES: usize = 96 << 10;
/// How long something missing is waited for. The first record of a stream waits as long for earlier ones.
pub const MAX_HOLD: Duration = Duration::from_millis(300);
/// Records remembered, to tell a duplicate from a new start.
const REMEMBERED: usize = 64;
/// Holes remembered, to tell a late record from a new start.
const REMEMBERED_GAPS: usize = 16;
/// Clocks of different CPUs may differ by so much, in µs; a new start is further back.
const CLOCK_SLACK: u64 = 1_000_000;
/// Bytes of a held record beside its text.
const OVERHEAD: usize = 128;

const _: () = assert!(MAX_BODY as usize + OVERHEAD + MAX_RELEASE < MAX_HELD_BYTES);

/// Where a stream of records stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The number behind that of the last record.
    pub next: u64,
    /// Its time, in µs.
    pub time_us: u64,
    /// The `msgid` behind its own, if it had one.
    pub msgid: Option<u32>,
}

/// One stream of records.
#[derive(Debug, Default)]
pub struct Stream {
    /// `None` until the first record has been let go.
    place: Option<Place>,
    /// Ascending by number, each once.
    held: Vec<Held>,
    held_bytes: usize,
    recent: VecDeque<(u64, u64)>,
    gaps: VecDeque<Gap>,
}

#[derive(Debug)]
struct Held {
    sequence: u64,
    time_us: u64,
    since: Instant,
    message: Message,
}

#[derive(Debug)]
enum Message {
    Whole(Vec<u8>),
    Parts(Parts),
}

/// A record of which not all fragments are there.
#[derive(Debug)]
struct Parts {
    /// With the `;` at its end.
    header: Vec<u8>,
    total: u32,
    /// Offset and bytes, ascending, apart from each other.
    pieces: Vec<(u32, Vec<u8>)>,
}

/// Numbers that never came.
#[derive(Debug)]
struct Gap {
    start: u64,
    len: u64,
    /// Times of the records before and behind it.
    times: (u64, u64),
}

impl Stream {
    /// A stream that is known to have reached `place` already.
    pub fn resume(place: Place) -> Self {
        Stream { place: Some(place), ..Stream::default() }
    }

    /// Where it stands; `None` before the first record has been let go.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Bytes that wait for something missing.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes a datagram, which says `record`; what is in order now goes to `out`: whole records as they were sent, each
    /// with a newline at its end.
    pub fn push(&mut self, now: Instant, datagram: &[u8], record: &Record<'_>, out: &mut impl Sink) -> Verdict {
        let (sequence, time_us) = (record.header.sequence, record.header.time_us);
        if let Some(place) = self.place {
            if sequence < place.next {
                if self.recent.contains(&(sequence, time_us)) {
                    return Verdict::Duplicate;
                }
                if self.is_late(place, sequence, time_us) {
                    return Verdict::Late;
                }
                self.restart(out);
            } else if time_us.saturating_add(CLOCK_SLACK) < place.time_us {
                self.restart(out);
            }
        }
        if record.fragment.is_none() && self.is_next(sequence, datagram) {
            self.accept(sequence, time_us, datagram, out);
            self.release(out);
            return Verdict::Taken;
        }
        let verdict = self.hold(now, datagram, record);
        if verdict == Verdict::Taken {
            self.release(out);
            while self.held.len() > MAX_HELD_RECORDS || self.held_bytes > MAX_HELD_BYTES {
                self.give_up_first(out);
            }
        }
        verdict
    }

    /// Gives up what has been waited for long enough.
    pub fn poll(&mut self, now: Instant, out: &mut impl Sink) {
        while self.deadline().is_some_and(|at| at <= now) {
            self.give_up_first(out);
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.since).min().map(|since| since + MAX_HOLD)
    }

    /// Gives up everything that is missing.
    pub fn flush(&mut self, out: &mut impl Sink) {
        while !self.held.is_empty() {
            self.give_up_first(out);
        }
    }

    fn restart(&mut self, out: &mut impl Sink) {
        self.flush(out);
        out.restart();
        *self = Stream::default();
    }

    /// Whether a record that is not expected any more is an old one of this boot.
    fn is_late(&self, place: Place, sequence: u64, time_us: u64) -> bool {
        let in_gap = |gap: &Gap| {
            let (before, after) = gap.times;
            let time = before.saturating_sub(CLOCK_SLACK)..=after.saturating_add(CLOCK_SLACK);
            sequence.wrapping_sub(gap.start) < gap.len && time.contains(&time_us)
        };
        let just_now = place.next.wrapping_sub(sequence) <= REMEMBERED as u64
            && place.time_us.saturating_sub(time_us) <= CLOCK_SLACK
            && time_us <= place.time_us.saturating_add(CLOCK_SLACK);
        just_now || self.gaps.iter().any(in_gap)
    }

    /// Whether a whole record is the one that follows, nothing missing between.
    fn is_next(&self, sequence: u64, text: &[u8]) -> bool {
        let Some(place) = self.place else { return false };
        let first = self.held.first().is_none_or(|first| first.sequence > sequence);
        first && (sequence == place.next || (place.msgid.is_some() && msgid(text) == place.msgid))
    }

    fn hold(&mut self, now: Instant, datagram: &[u8], record: &Record<'_>) -> Verdict {
        let (sequence, time_us) = (record.header.sequence, record.header.time_us);
        let place = self.held.binary_search_by_key(&sequence, |held| held.sequence);
        let Some(fragment) = record.fragment else {
            let Err(place) = place else { return Verdict::Duplicate };
            self.held_bytes += datagram.len() + OVERHEAD;
            let message = Message::Whole(datagram.to_vec());
            self.held.insert(place, Held { sequence, time_us, since: now, message });
            return Verdict::Taken;
        };
        let mut header = header_of(record);
        let place = match place {
            Ok(place) => place,
            Err(place) => {
                self.held_bytes += OVERHEAD + header.len();
                let parts = Parts { header: header.clone(), total: fragment.total, pieces: Vec::new() };
                self.held.insert(place, Held { sequence, time_us, since: now, message: Message::Parts(parts) });
                place
            }
        };
        let held = &mut self.held[place];
        let Message::Parts(parts) = &mut held.message else { return Verdict::Duplicate };
        if parts.total != fragment.total || parts.header != header {
            return Verdict::Conflict;
        }
        let verdict = parts.add(fragment.offset, record.body);
        if verdict == Verdict::Taken {
            self.held_bytes += record.body.len() + OVERHEAD;
        }
        if parts.is_whole() {
            let extra = parts.pieces.len() * OVERHEAD;
            header.extend(parts.pieces.drain(..).flat_map(|(_, bytes)| bytes));
            held.message = Message::Whole(header);
            self.held_bytes -= extra;
        }
        verdict
    }

    /// Lets go what nothing is missing before any more.
    fn release(&mut self, out: &mut impl Sink) {
        while let Some(Held { sequence, message: Message::Whole(text), .. }) = self.held.first() {
            let Some(place) = self.place else { return };
            let counted = place.msgid.is_some() && msgid(text) == place.msgid;
            if *sequence != place.next && !counted {
                return;
            }
            let (sequence, time_us, text) = self.take_first();
            self.accept(sequence, time_us, &text, out);
        }
    }

    /// Lets go the first of what is held, with marks where something is missing, and what follows it.
    fn give_up_first(&mut self, out: &mut impl Sink) {
        let Some(first) = self.held.first() else { return };
        let count = match &first.message {
            Message::Whole(text) => msgid(text),
            Message::Parts(_) => None,
        };
        if let Some(place) = self.place {
            let len = first.sequence.wrapping_sub(place.next);
            let lost = match (count, place.msgid) {
                (Some(count), Some(next)) => u64::from(count.wrapping_sub(next)),
                _ => len,
            };
            if lost > 0 {
                out.lost(Lost::Messages(lost));
            }
            if len > 0 {
                if self.gaps.len() == REMEMBERED_GAPS {
                    self.gaps.pop_front();
                }
                self.gaps.push_back(Gap { start: place.next, len, times: (place.time_us, first.time_us) });
            }
        }
        let (sequence, time_us, text) = self.take_first();
        self.accept(sequence, time_us, &text, out);
        self.release(out);
    }

    /// Takes the first of what is held, as far as it is there.
    fn take_first(&mut self) -> (u64, u64, Vec<u8>) {
        let Held { sequence, time_us, message, .. } = self.held.remove(0);
        let (text, bytes) = match message {
            Message::Whole(text) => {
                let bytes = text.len() + OVERHEAD;
                (text, bytes)
            }
            Message::Parts(parts) => {
                let bytes =
                    OVERHEAD + parts.header.len() + parts.pieces.iter().map(|p| p.1.len() + OVERHEAD).sum::<usize>();
                (parts.render(), bytes)
            }
        };
        self.held_bytes -= bytes;
        (sequence, time_us, text)
    }

    fn accept(&mut self, sequence: u64, time_us: u64, text: &[u8], out: &mut impl Sink) {
        out.text(text);
        if !text.ends_with(b"\n") {
            out.text(b"\n");
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((sequence, time_us));
        let msgid = msgid(text).map(|msgid| msgid.wrapping_add(1));
        self.place = Some(Place { next: sequence.wrapping_add(1), time_us, msgid });
    }
}

impl Parts {
    fn add(&mut self, offset: u32, bytes: &[u8]) -> Verdict {
        let end = |offset: u32, bytes: &[u8]| u64::from(offset) + bytes.len() as u64;
        let place = self.pieces.partition_point(|(at, _)| *at < offset);
        if self.pieces.get(place).is_some_and(|(at, known)| *at == offset && known == bytes) {
            return Verdict::Duplicate;
        }
        let before = place.checked_sub(1).and_then(|before| self.pieces.get(before));
        let overlaps = before.is_some_and(|(at, known)| end(*at, known) > u64::from(offset))
            || self.pieces.get(place).is_some_and(|(at, _)| u64::from(*at) < end(offset, bytes));
        if overlaps {
            return Verdict::Conflict;
        }
        self.pieces.insert(place, (offset, bytes.to_vec()));
        Verdict::Taken
    }

    fn is_whole(&self) -> bool {
        // They are apart from each other and within the total.
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() == self.total as usize
    }

    /// What there is, with marks where fragments are missing.
    fn render(self) -> Vec<u8> {
        let mut text = self.header;
        let mut at = 0;
        let mark = |text: &mut Vec<u8>, missing: u32| {
            if missing > 0 {
                let line = format!("{}\n", Lost::Bytes(missing.into()));
                text.extend_from_slice(line.as_bytes());
            }
        };
        for (offset, bytes) in self.pieces {
            mark(&mut text, offset - at);
            text.extend_from_slice(&bytes);
            at = offset + bytes.len() as u32;
        }
        mark(&mut text, self.total - at);
        text
    }
}

/// The header of a record as it stands before a body that is whole.
fn header_of(record: &Record<'_>) -> Vec<u8> {
    // The numbers have at most 10, 20 and 20 digits; the separators and the flag another 5 bytes.
    let mut header = vec![0; record.release.map_or(0, |release| release.len() + 1) + 55 + record.fields.len()];
    let mut w = Writer::new(&mut header);
    let len = record.emit_header(&mut w).map_or(0, |()| w.written());
    header.truncate(len);
    header
}

/// What the client counted for this record: ` msgid=N`, which it puts last.
fn msgid(text: &[u8]) -> Option<u32> {
    const KEY: &[u8] = b"\n msgid=";
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = text.iter().rev().take(10).take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, digits) = text.split_at(text.len() - digits);
    if !rest.ends_with(KEY) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Piece;
    use netdump_core::wire::log::extended::Extended;
    use netdump_core::wire::log::{Datagrams, MAX_DATAGRAM};
    use proptest::prelude::*;

    fn text(pieces: &[Piece]) -> String {
        let mut all = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(bytes) => all.push_str(std::str::from_utf8(bytes).unwrap()),
                Piece::Lost(lost) => all.push_str(&format!("<{lost}>")),
                Piece::Restart => all.push('|'),
            }
        }
        all
    }

    /// `seq@seconds` as a record with its number for text.
    fn line(sequence: u64, seconds: u64) -> String {
        format!("6,{sequence},{},-;{sequence}\n", seconds * 1_000_000)
    }

    /// What came out, each record by its text alone.
    fn bare(pieces: &[Piece]) -> String {
        let all = text(pieces);
        let mut out = String::new();
        for part in all.split_inclusive('\n') {
            let (marks, record) = part.rfind(['|', '>']).map_or(("", part), |at| part.split_at(at + 1));
            out.push_str(marks);
            out.push_str(record.split(';').nth(1).unwrap_or(record).trim_end());
            out.push(' ');
        }
        out.trim_end().replace("[netdump: ", "").replace(" lost]", "")
    }

    struct Rig {
        stream: Stream,
        now: Instant,
        out: Vec<Piece>,
    }

    impl Rig {
        fn new() -> Rig {
            Rig { stream: Stream::default(), now: Instant::now(), out: Vec::new() }
        }

        fn push(&mut self, datagram: &[u8]) -> Verdict {
            let record = Record::parse(datagram).unwrap();
            let verdict = self.stream.push(self.now, datagram, &record, &mut self.out);
            assert!(self.stream.held.len() <= MAX_HELD_RECORDS && self.stream.held_bytes <= MAX_HELD_BYTES);
            verdict
        }

        fn lines(&mut self, lines: &[(u64, u64)]) {
            for (sequence, seconds) in lines {
                self.push(line(*sequence, *seconds).as_bytes());
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.stream.poll(self.now, &mut self.out);
        }
    }

    #[test]
    fn order_is_restored_from_the_first_record_on() {
        let mut rig = Rig::new();
        rig.lines(&[(7, 1), (6, 1), (5, 1)]);
        assert_eq!(bare(&rig.out), "", "an earlier one may come");
        rig.pass(MAX_HOLD);
        rig.lines(&[(9, 1), (8, 1), (11, 1), (10, 1)]);
        assert_eq!(bare(&rig.out), "5 6 7 8 9 10 11");
        assert_eq!((rig.stream.held_bytes(), rig.stream.deadline()), (0, None));
    }

    #[test]
    fn a_hole_is_marked_when_its_time_is_up_and_late_ones_are_dropped() {
        let mut rig = Rig::new();
        rig.lines(&[(5, 1)]);
        rig.pass(MAX_HOLD);
        rig.lines(&[(9, 1), (10, 1)]);
        assert_eq!(bare(&rig.out), "5");
        rig.pass(MAX_HOLD);
        assert_eq!(bare(&rig.out), "5 <3 messages>9 10");
        assert_eq!(rig.push(line(7, 1).as_bytes()), Verdict::Late);
        assert_eq!(rig.push(line(9, 1).as_bytes()), Verdict::Duplicate);
        rig.lines(&[(11, 1)]);
        assert_eq!(bare(&rig.out), "5 <3 messages>9 10 11");
    }

    #[test]
    fn what_the_client_counts_decides_what_is_lost() {
        let counted =
            |sequence: u64, msgid: u32| format!("6,{sequence},1000000,-;{sequence}\n cpu=0\n msgid={msgid}\n");
        let mut rig = Rig::new();
        rig.push(counted(5, u32::MAX).as_bytes());
        rig.pass(MAX_HOLD);
        // 6 and 7 are below the client's console level.
        rig.push(counted(8, 0).as_bytes());
        rig.push(counted(12, 2).as_bytes());
        rig.push(counted(10, 1).as_bytes());
        assert_eq!(rig.stream.held_bytes(), 0, "nothing is missing");
        rig.push(counted(20, 5).as_bytes());
        rig.pass(MAX_HOLD);
        let text = text(&rig.out);
        assert_eq!(text.matches("lost").count(), 1, "{text}");
        assert!(text.contains("<[netdump: 2 messages lost]>6,20,"), "{text}");
    }

    #[test]
    fn going_back_is_a_restart() {
        let mut rig = Rig::new();
        rig.lines(&[(500, 40)]);
        rig.pass(MAX_HOLD);
        rig.lines(&[(501, 40), (501, 40), (505, 41), (0, 0), (1, 0), (2, 2)]);
        rig.pass(MAX_HOLD);
        assert_eq!(bare(&rig.out), "500 501 <3 messages>505 |0 1 2");
    }

    #[test]
    fn a_time_that_goes_back_is_a_restart_whatever_the_number() {
        let mut rig = Rig::new();
        rig.lines(&[(10, 40)]);
        rig.pass(MAX_HOLD);
        rig.lines(&[(300, 5), (301, 5)]);
        rig.pass(MAX_HOLD);
        assert_eq!(bare(&rig.out), "10 |300 301");
    }

    #[test]
    fn fragments_are_joined_in_any_order() {
        let record = format!("6,4,1000000,-,caller=T1;{}\n KEY=value\n", "x".repeat(2500));
        let message =
            Extended { release: b"7.3.4", record: record.as_bytes(), userdata: b" a=b\n", sysdata: b" cpu=1\n" };
        let mut cursor = message.datagrams();
        let mut buf = [0; MAX_DATAGRAM];
        let mut fragments = Vec::new();
        while let Some(len) = cursor.emit_next(&mut buf).unwrap() {
            fragments.push(buf[..len].to_vec());
        }
        assert_eq!(fragments.len(), 3);
        let whole = format!("7.3.4,{record} a=b\n cpu=1\n");
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut rig = Rig::new();
            rig.lines(&[(3, 1)]);
            rig.pass(MAX_HOLD);
            for place in order {
                assert_eq!(rig.push(&fragments[place]), Verdict::Taken);
                assert_eq!(rig.push(&fragments[place]), Verdict::Duplicate);
            }
            rig.lines(&[(5, 1)]);
            assert_eq!(text(&rig.out), format!("{}{whole}{}", line(3, 1), line(5, 1)));
            assert_eq!(rig.stream.held_bytes(), 0);
        }
    }

    #[test]
    fn a_fragment_that_never_came_is_marked_in_the_text() {
        let mut rig = Rig::new();
        rig.lines(&[(3, 1)]);
        rig.pass(MAX_HOLD);
        rig.push(b"6,4,1000000,-,ncfrag=2/9;cd");
        rig.push(b"6,4,1000000,-,ncfrag=6/9;g");
        rig.lines(&[(5, 1)]);
        assert_eq!(bare(&rig.out), "3");
        rig.pass(MAX_HOLD);
        let expected = "6,4,1000000,-;[netdump: 2 bytes lost]\ncd[netdump: 2 bytes lost]\ng[netdump: 2 bytes lost]\n";
        assert_eq!(text(&rig.out), format!("{}{expected}{}", line(3, 1), line(5, 1)));
        assert_eq!(rig.push(b"6,4,1000000,-,ncfrag=0/9;ab"), Verdict::Duplicate, "its record is written");
        assert_eq!(rig.stream.held_bytes(), 0);
    }

    #[test]
    fn fragments_that_contradict_each_other_are_refused() {
        let mut rig = Rig::new();
        rig.push(b"6,4,1000000,-,ncfrag=2/9;cdef");
        for bad in [
            &b"6,4,1000000,-,ncfrag=4/9;e"[..],
            b"6,4,1000000,-,ncfrag=0/9;abc",
            b"6,4,1000000,-,ncfrag=2/9;cdeX",
            b"6,4,1000000,-,ncfrag=0/8;ab",
            b"5,4,1000000,-,ncfrag=0/9;ab",
            b"6,4,1000001,-,ncfrag=0/9;ab",
        ] {
            assert_eq!(rig.push(bad), Verdict::Conflict, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(rig.push(b"6,4,1000000,-;whole\n"), Verdict::Duplicate);
    }

    #[test]
    fn numbers_wrap_and_huge_ones_do_no_harm() {
        let mut rig = Rig::new();
        rig.lines(&[(u64::MAX, 1)]);
        rig.pass(MAX_HOLD);
        rig.lines(&[(0, 1)]);
        rig.push(format!("6,{},{},-;x", u64::MAX, u64::MAX).as_bytes());
        rig.pass(MAX_HOLD);
        assert!(text(&rig.out).ends_with("-;x\n"), "a newline is added");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut rig = Rig::new();
        rig.lines(&[(0, 1)]);
        rig.pass(MAX_HOLD);
        for n in 0..5000u64 {
            let kind = n % 3;
            let body = "x".repeat(900);
            let datagram = match kind {
                0 => format!("6,{},1000000,-,ncfrag={}/70000;{body}", 2, (n % 70) * 1000),
                1 => format!("6,{},1000000,-,ncfrag=5/70000;{body}", n * 2),
                _ => format!("6,{},1000000,-;{body}", n * 2),
            };
            rig.push(datagram.as_bytes());
        }
        rig.stream.flush(&mut rig.out);
        assert_eq!(rig.stream.held_bytes(), 0);
    }

    fn shuffled<T>(items: &mut [T], window: usize, seed: u64) {
        let mut state = seed | 1;
        for at in 0..items.len() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let other = (at + (state >> 33) as usize % window).min(items.len() - 1);
            items.swap(at, other);
        }
    }

    proptest! {
        /// Shuffled within the window and with copies, every record comes out once and in order.
        #[test]
        fn small_disorder_is_undone(lens in prop::collection::vec(0usize..2500, 1..60), seed: u64) {
            let mut rig = Rig::new();
            let mut datagrams = Vec::new();
            let mut whole = String::new();
            for (n, len) in lens.iter().enumerate() {
                let record = format!("6,{},1000000,c;{}\n", n + 7, "y".repeat(*len));
                whole.push_str(&record);
                let mut cursor = Extended { record: record.as_bytes(), ..Extended::default() }.datagrams();
                let mut buf = [0; MAX_DATAGRAM];
                while let Some(len) = cursor.emit_next(&mut buf).unwrap() {
                    datagrams.push(buf[..len].to_vec());
                }
            }
            let copies: Vec<_> = datagrams.iter().step_by(3).cloned().collect();
            for (n, copy) in copies.into_iter().enumerate() {
                datagrams.insert(n * 4, copy);
            }
            shuffled(&mut datagrams, 12, seed);
            for datagram in &datagrams {
                rig.push(datagram);
            }
            rig.pass(MAX_HOLD);
            prop_assert_eq!(text(&rig.out), whole);
            prop_assert_eq!(rig.stream.held_bytes(), 0);
        }

        /// Whatever comes, and however long it takes: bounded, nothing panics, all is let go in the end.
        #[test]
        fn any_records(
            ops in prop::collection::vec((0u64..20, 0u32..60, 1u32..60, 0usize..40, 0u64..4, 0u64..200), 0..300)
        ) {
            let mut rig = Rig::new();
            for (sequence, offset, total, len, time, wait) in ops {
                let body = "z".repeat(len + 1);
                let fragment = if total % 2 == 0 { format!(",ncfrag={offset}/{total}") } else { String::new() };
                let datagram = format!("6,{sequence},{},-{fragment};{body}", time * 900_000);
                if Record::parse(datagram.as_bytes()).is_ok() {
                    rig.push(datagram.as_bytes());
                }
                rig.pass(Duration::from_millis(wait));
            }
            rig.stream.flush(&mut rig.out);
            prop_assert_eq!((rig.stream.held_bytes(), rig.stream.deadline()), (0, None));
        }
    }
}
