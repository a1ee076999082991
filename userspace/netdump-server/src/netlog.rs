// SPDX-License-Identifier: GPL-2.0-or-later
//! Puts one client's console text back in order. No I/O; time is passed in.
//!
//! A client numbers its log packets by the offset of their first byte in its log stream, a `u32` that wraps. Nothing
//! is ever sent twice, so a hole that stays is a loss, and it is marked in the text. An offset that goes back is a
//! client that started again, unless the packet is known: a duplicate, or one that came too late.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::sink::{Lost, Sink, Verdict};

/// Packets held while an earlier one is missing.
pub const MAX_HELD_PACKETS: usize = 64;
/// Bytes held while an earlier packet is missing.
pub const MAX_HELD_BYTES: usize = 96 << 10;
/// How long a missing packet is waited for.
pub const MAX_HOLD: Duration = Duration::from_millis(300);
/// A jump ahead by more than this is a client that started again, not a loss.
const MAX_AHEAD: u32 = 64 << 20;
/// Packets remembered, to tell a duplicate from a new start.
const REMEMBERED: usize = 64;
/// Losses remembered, to tell a late packet from a new start.
const REMEMBERED_GAPS: usize = 16;

/// One log stream.
#[derive(Debug, Default)]
pub struct Stream {
    next: u32,
    /// Ahead of `next`, ascending, without overlap of starts.
    held: Vec<Held>,
    held_bytes: usize,
    recent: VecDeque<(u32, u64)>,
    gaps: VecDeque<(u32, u32)>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Held {
    offset: u32,
    since: Instant,
    text: Vec<u8>,
}

impl Stream {
    /// A stream that is known to have reached `next` already.
    pub fn resume(next: u32) -> Self {
        Stream { next, ..Stream::default() }
    }

    /// Offset of the byte that is expected.
    pub fn next_offset(&self) -> u32 {
        self.next
    }

    /// Bytes that wait for an earlier packet.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes a packet; what is in order now goes to `out`.
    pub fn push(&mut self, now: Instant, offset: u32, text: &[u8], out: &mut impl Sink) -> Verdict {
        if text.is_empty() {
            return Verdict::Taken;
        }
        let hash = self.hasher.hash_one(text);
        let ahead = offset.wrapping_sub(self.next);
        if ahead == 0 {
            self.accept(offset, hash, text, out);
            self.release(out);
            return Verdict::Taken;
        }
        if ahead <= MAX_AHEAD {
            return self.hold(now, offset, text, out);
        }
        if self.recent.contains(&(offset, hash)) {
            return Verdict::Duplicate;
        }
        if self.gaps.iter().any(|&(start, len)| offset.wrapping_sub(start) < len) {
            return Verdict::Late;
        }
        self.flush(out);
        out.restart();
        *self = Stream { hasher: std::mem::take(&mut self.hasher), ..Stream::default() };
        if offset > 0 {
            out.lost(Lost::Bytes(offset.into()));
            self.lose(offset);
        }
        self.accept(offset, hash, text, out);
        Verdict::Taken
    }

    /// Gives up what has been waited for long enough.
    pub fn poll(&mut self, now: Instant, out: &mut impl Sink) {
        while self.deadline().is_some_and(|at| at <= now) {
            self.skip_gap(out);
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.since).min().map(|since| since + MAX_HOLD)
    }

    /// Gives up everything that is missing.
    pub fn flush(&mut self, out: &mut impl Sink) {
        while !self.held.is_empty() {
            self.skip_gap(out);
        }
    }

    fn hold(&mut self, now: Instant, offset: u32, text: &[u8], out: &mut impl Sink) -> Verdict {
        let next = self.next;
        let place = self.held.binary_search_by_key(&offset.wrapping_sub(next), |held| held.offset.wrapping_sub(next));
        let Err(place) = place else { return Verdict::Duplicate };
        self.held.insert(place, Held { offset, since: now, text: text.to_vec() });
        self.held_bytes += text.len();
        while self.held.len() > MAX_HELD_PACKETS || self.held_bytes > MAX_HELD_BYTES {
            self.skip_gap(out);
        }
        Verdict::Taken
    }

    fn accept(&mut self, offset: u32, hash: u64, text: &[u8], out: &mut impl Sink) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((offset, hash));
        self.next = offset.wrapping_add(text.len() as u32);
        out.text(text);
    }

    /// Moves what has become next out of the held packets.
    fn release(&mut self, out: &mut impl Sink) {
        while let Some(first) = self.held.first() {
            // A packet that begins before `next` overlaps what is written: its sender disagrees with itself. The part
            // that is new is kept.
            let known = self.next.wrapping_sub(first.offset);
            if known != 0 && known > MAX_AHEAD {
                break;
            }
            let Held { offset, text, .. } = self.held.remove(0);
            self.held_bytes -= text.len();
            let known = known as usize;
            let Some(new @ [_, ..]) = text.get(known..) else { continue };
            let hash = self.hasher.hash_one(&text[..]);
            self.accept(self.next, hash, new, out);
            if let Some(last) = self.recent.back_mut() {
                last.0 = offset;
            }
        }
    }

    fn skip_gap(&mut self, out: &mut impl Sink) {
        let Some(first) = self.held.first() else { return };
        let lost = first.offset.wrapping_sub(self.next);
        out.lost(Lost::Bytes(lost.into()));
        self.lose(lost);
        self.release(out);
    }

    fn lose(&mut self, len: u32) {
        if self.gaps.len() == REMEMBERED_GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back((self.next, len));
        self.next = self.next.wrapping_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Piece;
    use proptest::prelude::*;

    fn text(pieces: &[Piece]) -> String {
        let mut all = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(bytes) => all.push_str(std::str::from_utf8(bytes).unwrap()),
                Piece::Lost(Lost::Bytes(n)) => all.push_str(&format!("<{n}>")),
                Piece::Lost(other) => panic!("{other:?}"),
                Piece::Restart => all.push('|'),
            }
        }
        all
    }

    #[test]
    fn reordered_packets_come_out_in_order() {
        let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
        for (offset, t) in [(4, "ef"), (0, "ab"), (6, "gh"), (2, "cd")] {
            assert_eq!(s.push(now, offset, t.as_bytes(), &mut out), Verdict::Taken);
        }
        assert_eq!(text(&out), "abcdefgh");
        assert_eq!(s.deadline(), None);
    }

    #[test]
    fn a_loss_is_marked_when_its_time_is_up() {
        let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
        s.push(now, 0, b"ab", &mut out);
        s.push(now, 10, b"cd", &mut out);
        s.poll(now, &mut out);
        assert_eq!(text(&out), "ab");
        s.poll(now + MAX_HOLD, &mut out);
        assert_eq!(text(&out), "ab<8>cd");
        assert_eq!(s.push(now, 2, b"late", &mut out), Verdict::Late);
        assert_eq!(s.push(now, 10, b"cd", &mut out), Verdict::Duplicate);
        assert_eq!(s.push(now, 12, b"!", &mut out), Verdict::Taken);
        assert_eq!(text(&out), "ab<8>cd!");
    }

    #[test]
    fn the_offset_wraps() {
        let (mut s, mut out, now) = (Stream::resume(0xffff_fffe), vec![], Instant::now());
        s.push(now, 2, b"efg", &mut out);
        s.push(now, 0xffff_fffe, b"abcd", &mut out);
        assert_eq!(text(&out), "abcdefg");
        assert_eq!(s.next_offset(), 5);
    }

    #[test]
    fn going_back_is_a_restart() {
        let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
        s.push(now, 0, b"first boot", &mut out);
        s.push(now, 0, b"first boot", &mut out);
        s.push(now, 20, b"end", &mut out);
        s.push(now, 0, b"second", &mut out);
        s.push(now, 6, b" boot", &mut out);
        assert_eq!(text(&out), "first boot<10>end|second boot");
    }

    #[test]
    fn a_restart_whose_first_packet_is_lost_is_one_too() {
        let (mut s, mut out, now) = (Stream::resume(5000), vec![], Instant::now());
        s.push(now, 1000, b"x", &mut out);
        assert_eq!(text(&out), "|<1000>x");
    }

    #[test]
    fn a_restart_far_ahead_modulo_the_wrap_is_one() {
        let (mut s, mut out, now) = (Stream::resume(0xc000_0000), vec![], Instant::now());
        s.push(now, 0, b"x", &mut out);
        assert_eq!(text(&out), "|x");
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
        for i in 0..10_000u32 {
            s.push(now, 1 + i * 1001, &[b'x'; 1000], &mut out);
            assert!(s.held.len() <= MAX_HELD_PACKETS && s.held_bytes <= MAX_HELD_BYTES);
        }
    }

    proptest! {
        /// Whatever comes, as many bytes come out as the offsets cover, and nothing panics.
        #[test]
        fn any_packets(packets in prop::collection::vec((any::<u32>(), 1usize..1500), 0..200), near: bool) {
            let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
            for (offset, len) in packets {
                s.push(now, if near { offset % 100_000 } else { offset }, &vec![b'x'; len], &mut out);
            }
            s.flush(&mut out);
            let mut at = 0u32;
            for piece in &out {
                match piece {
                    Piece::Text(t) => at = at.wrapping_add(t.len() as u32),
                    Piece::Lost(Lost::Bytes(n)) => at = at.wrapping_add(*n as u32),
                    Piece::Lost(other) => panic!("{other:?}"),
                    Piece::Restart => at = 0,
                }
            }
            prop_assert_eq!(at, s.next_offset());
        }

        /// Shuffled within the window, nothing is lost.
        #[test]
        fn small_disorder_is_undone(lens in prop::collection::vec(1usize..900, 1..60), seed: u64) {
            let (mut s, mut out, now) = (Stream::default(), vec![], Instant::now());
            let mut whole = Vec::new();
            let mut packets = Vec::new();
            for (i, len) in lens.iter().enumerate() {
                let t: Vec<u8> = (0..*len).map(|j| (i * 7 + j) as u8).collect();
                packets.push((whole.len() as u32, t.clone()));
                whole.extend(t);
            }
            let mut state = seed | 1;
            for i in (1..packets.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                packets.swap(i, (state >> 33) as usize % (i + 1));
            }
            for (offset, t) in &packets {
                s.push(now, *offset, t, &mut out);
            }
            let got: Vec<u8> = out.iter().flat_map(|p| match p { Piece::Text(t) => t.clone(), other => panic!("{other:?}") }).collect();
            prop_assert_eq!(got, whole);
        }
    }
}
