// SPDX-License-Identifier: GPL-2.0-or-later
//! The task listing as it comes: put in order, and asked for again where it was lost.
//!
//! A client keeps its last text until we say that we have it, and sends no more than that ahead. What does not come all the
//! same, from a client that keeps nothing or says what is not so, is marked as lost.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use netdump_core::wire::v6::message::{Line, Show};

/// The longest task listing that is taken.
const MAX_LISTING: usize = 16 << 20;
/// Text that waits for what is in front of it. More than our client sends ahead.
const MAX_AHEAD: usize = 64 << 10;
/// What one entry costs beside its text.
const ENTRY: usize = 64;
/// The client is told what has come whenever there is so much more of it.
const TELL_EVERY: u32 = 4096;
/// How long to wait before SHOW is sent again: at least, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// A gap is given up after it was asked for so often.
const TRIES: u32 = 16;
/// Each waits longer than the one before, up to this one.
const LONGEST_TRY: u32 = 3;
/// The listing is given up when nothing new comes for so long.
const SILENCE: Duration = Duration::from_secs(12);

/// The listing.
#[derive(Debug)]
pub(crate) struct Listing {
    began: Instant,
    /// When something new came.
    heard: Instant,
    /// When SHOW is due.
    due: Instant,
    /// SHOWs since something new came.
    tries: u32,
    /// In order, with marks where something is missing.
    text: Vec<u8>,
    /// Place of the client's next byte.
    place: u32,
    /// What the client was told that we have.
    told: u32,
    ahead: BTreeMap<u32, Box<[u8]>>,
    ahead_len: usize,
    /// Where the listing ends, once that is known.
    end: Option<u32>,
}

impl Listing {
    pub(crate) fn new(now: Instant) -> Self {
        Listing {
            began: now,
            heard: now,
            due: now,
            tries: 0,
            text: Vec::new(),
            place: 0,
            told: 0,
            ahead: BTreeMap::new(),
            ahead_len: 0,
            end: None,
        }
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        self.text.capacity() + self.ahead_len
    }

    /// A LINE came. `reordering`: how long one may come after one that was sent later.
    pub(crate) fn handle(&mut self, now: Instant, line: &Line<'_>, reordering: Duration) {
        if line.last && self.end.is_none() {
            self.end = line.offset.checked_add(line.text.len() as u32);
            self.note_new(now);
        }
        if line.offset <= self.place {
            let known = (self.place - line.offset) as usize;
            if let Some(text @ [_, ..]) = line.text.get(known..) {
                self.append(text);
                self.note_new(now);
            }
            self.catch_up();
        } else if !line.text.is_empty() && !self.ahead.contains_key(&line.offset) {
            let len = ENTRY + line.text.len();
            while self.ahead_len + len > MAX_AHEAD && self.skip_gap() {}
            self.ahead_len += len;
            self.ahead.insert(line.offset, line.text.into());
            self.catch_up();
        }
        if !self.ahead.is_empty() && self.tries == 0 {
            self.due = self.due.min(now + reordering);
        }
        if self.place.wrapping_sub(self.told) >= TELL_EVERY {
            self.due = now;
        }
    }

    fn note_new(&mut self, now: Instant) {
        (self.heard, self.tries) = (now, 0);
    }

    fn append(&mut self, text: &[u8]) {
        let room = MAX_LISTING.saturating_sub(self.text.len());
        self.text.extend_from_slice(text.get(..room.min(text.len())).unwrap_or(text));
        self.place = self.place.saturating_add(text.len() as u32);
    }

    /// Takes what follows on what is there.
    fn catch_up(&mut self) {
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() <= self.place) {
            let (offset, text) = entry.remove_entry();
            self.ahead_len -= ENTRY + text.len();
            let known = (self.place - offset) as usize;
            if let Some(text) = text.get(known..) {
                self.append(text);
            }
        }
    }

    /// What is missing in front of the next text will not come. Whether there was such text.
    fn skip_gap(&mut self) -> bool {
        let next = self.ahead.first_key_value().map(|(offset, _)| *offset).or(self.end);
        let Some(next) = next.filter(|next| *next > self.place) else { return false };
        let mut mark = String::new();
        // To a string it cannot fail.
        let _ = writeln!(mark, "[netdump: {} bytes lost]", next - self.place);
        if self.text.len() + mark.len() <= MAX_LISTING {
            self.text.extend_from_slice(mark.as_bytes());
        }
        self.place = next;
        self.tries = 0;
        self.catch_up();
        true
    }

    /// All of it is there, or as much as is taken.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.place >= end) || self.text.len() >= MAX_LISTING
    }

    /// The client has said where it ends.
    pub(crate) fn has_end(&self) -> bool {
        self.end.is_some()
    }

    /// When the listing is given up.
    fn limit(&self, limit: Duration) -> Instant {
        (self.heard + SILENCE).min(self.began + limit)
    }

    pub(crate) fn gave_up(&self, now: Instant, limit: Duration) -> bool {
        now >= self.limit(limit)
    }

    pub(crate) fn deadline(&self, limit: Duration) -> Instant {
        self.due.min(self.limit(limit))
    }

    /// The next SHOW, when it is time for one.
    pub(crate) fn poll(&mut self, now: Instant, patience: Duration) -> Option<Show> {
        if now < self.due {
            return None;
        }
        if self.tries >= TRIES {
            self.skip_gap();
        }
        // Nothing new since the last one, or something was overtaken: it is lost.
        let again = self.told == self.place || !self.ahead.is_empty();
        self.tries += 1;
        self.told = self.place;
        self.due = now + (patience * self.tries.min(LONGEST_TRY)).clamp(RETRY.0, RETRY.1);
        Some(Show { from: self.place, again })
    }

    /// What there is, with marks where something is missing.
    pub(crate) fn into_text(mut self) -> Vec<u8> {
        while self.skip_gap() {}
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn line(offset: u32, text: &[u8]) -> Line<'_> {
        Line { offset, last: text.is_empty(), text }
    }

    #[test]
    fn order_copies_and_gaps() {
        let now = Instant::now();
        let mut listing = Listing::new(now);
        assert_eq!(listing.poll(now, MS), Some(Show { from: 0, again: true }));
        for (offset, text) in [(4, "two\n"), (0, "one\n"), (0, "one\n"), (2, "e\ntwo\n3"), (20, "end\n"), (24, "")] {
            listing.handle(now, &line(offset, text.as_bytes()), MS);
        }
        assert!(!listing.is_done() && listing.has_end());
        assert_eq!(listing.poll(now, MS), None);
        let mut asked = 0;
        let mut later = now;
        while !listing.is_done() {
            later = listing.deadline(Duration::from_secs(60));
            if let Some(show) = listing.poll(later, MS) {
                assert_eq!(show.again, !listing.is_done());
                asked += 1;
            }
        }
        assert!((TRIES..TRIES + 3).contains(&asked) && !listing.gave_up(later, Duration::from_secs(60)));
        assert_eq!(listing.into_text(), b"one\ntwo\n3[netdump: 11 bytes lost]\nend\n");
    }

    #[test]
    fn what_a_client_can_make_it_hold_is_bounded() {
        let now = Instant::now();
        let mut listing = Listing::new(now);
        // A byte in every second place: entries that cost more than they hold, and as many marks.
        for n in 0..2_000_000u32 {
            listing.handle(now, &line(n * 2 + 1, b"x"), MS);
            assert!(listing.ahead_len <= MAX_AHEAD && listing.text.len() <= MAX_LISTING);
            if listing.is_done() {
                break;
            }
        }
        assert!(listing.is_done() && listing.held() <= 2 * MAX_LISTING + MAX_AHEAD);
        for (offset, text) in [(u32::MAX, &b"abc"[..]), (u32::MAX - 1, b"abc"), (u32::MAX, b"")] {
            listing.handle(now, &line(offset, text), MS);
        }
        assert!(listing.into_text().len() <= MAX_LISTING);
    }
}
