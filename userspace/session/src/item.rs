// SPDX-License-Identifier: GPL-2.0-or-later
//! Fetching one item of the extension, block by block.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, ItemId, EXT, MAX_EXT_DATA};
use netdump_core::wire::RequestId;

use crate::flight::{Cause, Flight, PROBES};
use crate::tools::Tools;

/// The length of the item is not known before its first block; a client that does not answer that is asked so often.
const MAX_FIRST_TRIES: u32 = 12;
/// Tries of any other block.
const MAX_TRIES: u32 = 40;
/// More at a time would not be faster: items are small.
const MAX_IN_FLIGHT: usize = 64;

/// How the fetching of an item ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// All of it.
    Item(Vec<u8>),
    /// The client has no such item.
    Absent,
    /// The client does not know the extension.
    NoExtension,
    /// The client says something impossible, or does not answer.
    Failed(&'static str),
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    here: bool,
    tries: u32,
    /// Number of the last request for it.
    current: Option<RequestId>,
}

/// One item on its way.
#[derive(Debug)]
pub(crate) struct Item {
    id: ItemId,
    limit: usize,
    flight: Flight,
    /// Known after the first answer.
    total: Option<u32>,
    data: Vec<u8>,
    /// One entry until the length is known.
    blocks: Vec<Block>,
    /// The next block never asked for.
    next: u32,
    missing: usize,
    retry: VecDeque<u32>,
}

impl Item {
    /// An item longer than `limit` bytes is not fetched.
    pub(crate) fn new(id: ItemId, limit: usize) -> Self {
        Item {
            id,
            limit,
            flight: Flight::new(),
            total: None,
            data: Vec::new(),
            blocks: vec![Block::default()],
            next: 0,
            missing: 1,
            retry: VecDeque::new(),
        }
    }

    pub(crate) fn id(&self) -> ItemId {
        self.id
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flight.open()
    }

    /// The next request; an error when a block was asked for too often.
    pub(crate) fn poll(&mut self, now: Instant, t: &mut Tools) -> Result<Option<(RequestId, Command)>, Fetched> {
        while let Some(at) = self.flight.take_overtaken(now, t.rtt.overtaking_age(), t.window.size()) {
            t.lost(Cause::Order, 1);
            self.retry.push_back(at);
        }
        if self.flight.open() >= t.window.size().min(MAX_IN_FLIGHT) {
            return Ok(None);
        }
        while let Some(at) = self.retry.pop_front() {
            if self.blocks.get(at as usize).is_some_and(|block| !block.here) {
                return self.send(now, at, t).map(Some);
            }
        }
        if self.next as usize >= self.blocks.len() {
            return Ok(None);
        }
        let at = self.next;
        self.next += 1;
        self.send(now, at, t).map(Some)
    }

    fn send(&mut self, now: Instant, at: u32, t: &mut Tools) -> Result<(RequestId, Command), Fetched> {
        let limit = if self.total.is_none() { MAX_FIRST_TRIES } else { MAX_TRIES };
        let Some(block) = self.blocks.get_mut(at as usize) else {
            return Err(Fetched::Failed("block"));
        };
        if block.tries >= limit {
            return Err(Fetched::Failed("no answer"));
        }
        let nr = self.flight.send(now, at, &mut t.numbers);
        block.tries += 1;
        block.current = Some(nr);
        Ok((nr, Command::Ext { item: self.id, offset: at * MAX_EXT_DATA as u32 }))
    }

    /// An answer: whether it was one to a live number, and the end of the item if this was it.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        nr: RequestId,
        body: &Body<'_>,
        t: &mut Tools,
    ) -> (bool, Option<Fetched>) {
        let Some(live) = self.flight.get(nr) else {
            t.counters.unknown_nr += 1;
            return (false, None);
        };
        let (offset, total, data) = match *body {
            Body::Ext { offset, total, data } => (offset, total, data),
            Body::Error { info: EXT, .. } => return (true, Some(Fetched::NoExtension)),
            _ => {
                t.counters.wrong_code += 1;
                return (false, None);
            }
        };
        if offset != live.unit * MAX_EXT_DATA as u32 {
            t.counters.malformed += 1;
            return (false, None);
        }
        match self.total {
            None if total == 0 => return (true, Some(Fetched::Absent)),
            None if total as usize > self.limit => return (true, Some(Fetched::Failed("too long"))),
            None => {
                let count = (total as usize).div_ceil(MAX_EXT_DATA);
                self.total = Some(total);
                self.data = vec![0; total as usize];
                self.blocks.resize(count, Block::default());
                self.missing = count;
            }
            Some(known) if known != total => return (true, Some(Fetched::Failed("its length changes"))),
            Some(_) => {}
        }
        let Some(block) = self.blocks.get_mut(live.unit as usize) else {
            return (false, None);
        };
        if block.here {
            t.counters.duplicate_chunks += 1;
            return (true, None);
        }
        let (start, current) = (offset as usize, block.current);
        let Some(out) = self.data.get_mut(start..start + data.len()) else {
            return (false, None);
        };
        out.copy_from_slice(data);
        block.here = true;
        self.missing -= 1;
        t.arrived(now, self.flight.saw(nr), 1);
        self.flight.settle(nr);
        if let Some(current) = current {
            self.flight.settle(current);
        }
        t.rtt.measured(now.saturating_duration_since(live.at));
        t.window.answered(live.seq, self.flight.next_seq(), &t.rtt);
        (true, (self.missing == 0).then(|| Fetched::Item(std::mem::take(&mut self.data))))
    }

    /// Repeats what was not answered in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant, t: &mut Tools) {
        let mut late = 0;
        while let Some(at) = self.flight.take_late(now, t.rtt.wait()) {
            t.lost(Cause::Time, 1);
            self.retry.push_back(at);
            late += 1;
            if late == PROBES {
                break;
            }
        }
        if late > 0 {
            t.timed_out();
        }
    }

    pub(crate) fn deadline(&self, wait: Duration) -> Option<Instant> {
        self.flight.deadline(wait)
    }
}
