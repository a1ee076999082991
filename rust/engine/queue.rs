// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Requests that wait for their answer, first come, first served, in a fixed place.

use super::super::wire::classic::{Command, RequestView};
use super::super::wire::RequestId;

/// Requests that wait at most; more than any server has outstanding.
pub const QUEUE_LEN: usize = 512;

/// A request without its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    nr: u32,
    command: u32,
    from: u32,
    to: u32,
}

impl Entry {
    pub(super) fn new(request: &RequestView<'_>) -> Self {
        Entry { nr: request.nr().0, command: request.command(), from: request.from(), to: request.to() }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    Queued,
    /// One with the same number waits already; its answer serves both.
    Duplicate,
    Full,
}

/// A ring.
#[derive(Debug)]
pub(super) struct Queue {
    slots: [Entry; QUEUE_LEN],
    /// The oldest one; always below `QUEUE_LEN`.
    head: usize,
    len: usize,
}

impl Queue {
    pub(super) const fn new() -> Self {
        let empty = Entry { nr: 0, command: 0, from: 0, to: 0 };
        Queue { slots: [empty; QUEUE_LEN], head: 0, len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.head = 0;
        self.len = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, entry: Entry) -> Push {
        if self.holds(entry.nr) {
            return Push::Duplicate;
        }
        if self.len >= QUEUE_LEN {
            return Push::Full;
        }
        match self.slots.get_mut(wrap(self.head.wrapping_add(self.len))) {
            Some(slot) => *slot = entry,
            None => return Push::Full, // cannot be: `wrap` is below the length
        }
        self.len = self.len.wrapping_add(1);
        Push::Queued
    }

    pub(super) fn pop(&mut self) -> Option<(RequestId, Command)> {
        self.len = self.len.checked_sub(1)?;
        let entry = self.slots.get(self.head)?;
        self.head = wrap(self.head.wrapping_add(1));
        Some((RequestId(entry.nr), Command::from_wire(entry.command, entry.from, entry.to)))
    }

    /// Whether a request of that number waits. The queue is short as long as the server paces itself.
    fn holds(&self, nr: u32) -> bool {
        let (front, back) = self.slots.split_at_checked(self.head).unwrap_or((&[], &self.slots));
        back.iter().chain(front).take(self.len).any(|entry| entry.nr == nr)
    }
}

/// `place` in the ring, for a place less than one round too far.
fn wrap(place: usize) -> usize {
    if place >= QUEUE_LEN {
        place.wrapping_sub(QUEUE_LEN)
    } else {
        place
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::classic::Request;
    use super::super::super::wire::Cookie;
    use super::*;

    fn entry(nr: u32) -> Entry {
        let mut buf = [0; 24];
        let request = Request { cookie: Cookie::new(1), nr: RequestId(nr), command: Command::Hello };
        request.emit(&mut buf).unwrap();
        Entry::new(&RequestView::new_checked(&buf).unwrap())
    }

    #[test]
    fn first_in_first_out_all_round_the_ring() {
        let mut queue = Queue::new();
        let mut next_out = 0;
        for nr in 0..3 * QUEUE_LEN as u32 {
            assert_eq!(queue.push(entry(nr)), Push::Queued);
            if nr % 3 != 0 {
                assert_eq!(queue.pop(), Some((RequestId(next_out), Command::Hello)));
                next_out += 1;
            }
            if queue.len() > QUEUE_LEN / 2 {
                while let Some((nr, _)) = queue.pop() {
                    assert_eq!(nr, RequestId(next_out));
                    next_out += 1;
                }
            }
        }
    }

    #[test]
    fn full_and_duplicates() {
        let mut queue = Queue::new();
        queue.push(entry(9999));
        queue.pop();
        for nr in 0..QUEUE_LEN as u32 {
            assert_eq!(queue.push(entry(nr)), Push::Queued);
        }
        for nr in 0..QUEUE_LEN as u32 {
            assert_eq!(queue.push(entry(nr)), Push::Duplicate);
        }
        assert_eq!(queue.push(entry(9999)), Push::Full);
        assert_eq!(queue.pop().unwrap().0, RequestId(0));
        assert_eq!(queue.push(entry(9999)), Push::Queued, "one that was answered may come again");
        assert_eq!(queue.len(), QUEUE_LEN);
        queue.clear();
        assert_eq!(queue.pop(), None);
    }
}
