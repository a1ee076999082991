// SPDX-License-Identifier: GPL-2.0-or-later
//! Fetching one item, part by part.

use std::time::{Duration, Instant};

use netdump_core::wire::classic::ItemId;
use netdump_core::wire::v6::message::{Ask, Part};

/// Bytes in a part: with everything around them they fit the smallest datagram that a client may have to send.
const PART: usize = 1024;
/// Parts that are asked for at a time.
const BATCH: usize = 32;
/// An item is given up after so many questions without a new part.
const TRIES: u32 = 20;

/// An item on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    id: ItemId,
    limit: usize,
    data: Vec<u8>,
    have: Vec<bool>,
    total: Option<usize>,
    due: Instant,
    tries: u32,
    /// When the first of them was asked.
    since: Instant,
}

/// How that ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    Item(Vec<u8>),
    /// There is none, or it is larger than allowed, or it never came.
    Absent,
}

impl Fetch {
    pub(crate) fn new(id: ItemId, limit: usize, now: Instant) -> Self {
        Fetch { id, limit, data: Vec::new(), have: Vec::new(), total: None, due: now, tries: 0, since: now }
    }

    pub(crate) fn id(&self) -> ItemId {
        self.id
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        self.data.capacity() + self.have.capacity()
    }

    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// The next question, when it is time for one.
    pub(crate) fn poll(&mut self, now: Instant, patience: Duration) -> Option<Ask> {
        if now < self.due || self.tries >= TRIES {
            return None;
        }
        if self.tries == 0 {
            self.since = now;
        }
        self.tries += 1;
        self.due = now + patience * self.tries.min(8);
        // From the first one that is missing on; those behind it that are there already come again.
        let first = self.have.iter().position(|have| !have).unwrap_or(self.have.len());
        let missing = self.have.get(first..).map_or(0, |rest| rest.iter().take_while(|have| !**have).count());
        let count = if self.total.is_none() { 1 } else { missing.clamp(1, BATCH) };
        Some(Ask { item: self.id.to_wire(), offset: (first * PART) as u32, part: PART as u16, count: count as u16 })
    }

    /// A part came; the item, once it is whole or will never be.
    pub(crate) fn handle(&mut self, now: Instant, part: &Part<'_>) -> Option<Fetched> {
        if part.item != self.id.to_wire() {
            return None;
        }
        let total = part.total as usize;
        if total == 0 || total > self.limit {
            return Some(Fetched::Absent);
        }
        if *self.total.get_or_insert(total) != total {
            return None; // the first one counts
        }
        if self.have.is_empty() {
            self.data.resize(total, 0);
            self.have.resize(total.div_ceil(PART), false);
        }
        let offset = part.offset as usize;
        let index = offset / PART;
        let len = PART.min(total.saturating_sub(offset));
        if offset % PART != 0 || part.data.len() != len || len == 0 {
            return None;
        }
        let (Some(have), Some(place)) = (self.have.get_mut(index), self.data.get_mut(offset..offset + len)) else {
            return None;
        };
        if !*have {
            *have = true;
            place.copy_from_slice(part.data);
            self.tries = 0;
        }
        if self.have.iter().all(|have| *have) {
            return Some(Fetched::Item(std::mem::take(&mut self.data)));
        }
        // The last of a batch: the next is asked for at once.
        let behind = self.have.get(index + 1).copied().unwrap_or(true);
        if (index + 1) % BATCH == 0 || index == 0 || behind {
            self.due = now;
        }
        None
    }

    /// Whether to go on without it: it was asked for often enough, and the client, last heard at `heard`, says other things.
    /// Where nothing is heard at all there may be nobody, or no way to him: that is for the session to judge.
    pub(crate) fn gave_up(&mut self, now: Instant, heard: Instant) -> bool {
        let enough = self.tries >= TRIES && now >= self.due;
        if enough && heard <= self.since {
            self.tries = TRIES / 2;
            return false;
        }
        enough
    }
}
