// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The task listing on its way: it is walked through once, and its last text is kept until the server has it. Panic path.

use super::super::super::wire::v6::message::{Line, Show, LINE_HEADER_LEN};
use super::super::super::wire::{Error, Result};
use super::super::Target;

/// Text that is kept: so much may be on its way to the server.
const RING: u32 = 1 << 14;
/// Text in one LINE, and of one piece of the listing.
const MAX_LINE: u32 = 1000;
/// Pieces that are asked for at a time: between two datagrams the network is looked at.
const PIECES: usize = 32;

/// The listing. Places in it are bytes since its begin, and wrap.
#[derive(Debug)]
pub(super) struct Listing {
    /// Byte `n` of the listing is at `n % RING`.
    ring: [u8; RING as usize],
    piece: [u8; MAX_LINE as usize],
    /// The server has everything in front of this place.
    acked: u32,
    /// The next byte to send.
    sent: u32,
    /// The next byte to come from the machine.
    made: u32,
    /// No more will come from the machine.
    whole: bool,
    /// The server says what it has; otherwise what was sent is forgotten at once.
    is_acked: bool,
    /// The server waits for text, or for the end.
    wanted: bool,
}

impl Listing {
    pub(super) const fn new() -> Self {
        Listing {
            ring: [0; RING as usize],
            piece: [0; MAX_LINE as usize],
            acked: 0,
            sent: 0,
            made: 0,
            whole: false,
            is_acked: false,
            wanted: false,
        }
    }

    /// A dump begins.
    pub(super) fn begin(&mut self) {
        (self.acked, self.sent, self.made) = (0, 0, 0);
        (self.whole, self.is_acked, self.wanted) = (false, false, false);
    }

    /// A session begins: nobody has asked yet.
    pub(super) fn forget(&mut self) {
        self.wanted = false;
    }

    /// The server asks. What it says twice, or late, does no harm.
    pub(super) fn show(&mut self, show: Option<Show>) {
        self.wanted = true;
        self.is_acked = show.is_some();
        let Some(show) = show else { return };
        let (acked, on_its_way) = (show.from.wrapping_sub(self.acked), self.made.wrapping_sub(self.acked));
        if acked <= on_its_way {
            if self.sent.wrapping_sub(self.acked) < acked {
                self.sent = show.from;
            }
            self.acked = show.from;
        }
        if show.again {
            self.sent = self.acked;
        }
    }

    /// Whether there is something to send now.
    pub(super) fn has_more(&self) -> bool {
        // With nothing left it is the end that is said.
        self.wanted && (self.sent != self.made || self.whole || self.has_room())
    }

    fn has_room(&self) -> bool {
        !self.is_acked || self.made.wrapping_sub(self.acked) <= RING.saturating_sub(MAX_LINE)
    }

    /// Writes the next LINE; its length.
    pub(super) fn write(&mut self, target: &mut impl Target, body: &mut [u8]) -> Result<usize> {
        let (head, text) = body.split_at_mut_checked(LINE_HEADER_LEN).ok_or(Error::NoRoom)?;
        let room = u32::try_from(text.len()).unwrap_or(u32::MAX).min(MAX_LINE);
        if !self.is_acked {
            self.acked = self.sent;
        }
        for _ in 0..PIECES {
            if self.whole || self.made.wrapping_sub(self.sent) >= room || !self.has_room() {
                break;
            }
            self.make(target);
        }
        let len = self.made.wrapping_sub(self.sent).min(room);
        for (n, to) in (0..len).zip(text) {
            *to = self.ring.get(place(self.sent.wrapping_add(n))).copied().unwrap_or(0);
        }
        let offset = self.sent;
        self.sent = self.sent.wrapping_add(len);
        let last = self.whole && self.sent == self.made;
        self.wanted &= !last;
        Line::emit_header(offset, last, head)?;
        Ok(LINE_HEADER_LEN.saturating_add(len as usize))
    }

    /// Takes a piece from the machine. An empty one would come again and again: it ends the listing too.
    fn make(&mut self, target: &mut impl Target) {
        let len = target.show_state(&mut self.piece).unwrap_or(0).min(self.piece.len());
        self.whole = len == 0;
        for byte in self.piece.iter().take(len) {
            if let Some(to) = self.ring.get_mut(place(self.made)) {
                *to = *byte;
            }
            self.made = self.made.wrapping_add(1);
        }
    }
}

fn place(n: u32) -> usize {
    (n & (RING.wrapping_sub(1))) as usize
}

#[cfg(test)]
mod tests {
    use super::super::super::super::wire::classic::ItemId;
    use super::super::super::super::wire::Pfn;
    use super::super::super::{ItemPart, PageClass, Unreadable};
    use super::*;
    use std::vec::Vec;

    /// A machine that has nothing but a listing.
    struct Tasks(usize);

    fn task(n: usize) -> Vec<u8> {
        std::format!("task {n} {}\n", "x".repeat(n % 900)).into_bytes()
    }

    const COUNT: usize = 300;

    fn whole() -> Vec<u8> {
        (0..COUNT).flat_map(task).collect()
    }

    impl Target for Tasks {
        fn classify(&mut self, _: Pfn) -> PageClass {
            PageClass::Hole { next: None }
        }

        fn read(&mut self, _: Pfn, _: u32, _: &mut [u8]) -> core::result::Result<(), Unreadable> {
            Err(Unreadable)
        }

        fn regs(&self) -> &[u8] {
            &[]
        }

        fn item(&mut self, _: ItemId, _: u32, _: &mut [u8]) -> ItemPart {
            ItemPart::default()
        }

        fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
            let text = task(self.0);
            self.0 += 1;
            out[..text.len()].copy_from_slice(&text);
            (self.0 <= COUNT).then_some(text.len())
        }
    }

    /// What it has to say now: place, text, and whether that was the end.
    fn said(listing: &mut Listing, tasks: &mut Tasks) -> (u32, Vec<u8>, bool) {
        let (mut first, mut text, mut last) = (None, Vec::new(), false);
        let mut body = [0; 1200];
        while listing.has_more() {
            let len = listing.write(tasks, &mut body).unwrap();
            let line = Line::parse(&body[..len]).unwrap();
            assert!(!last && line.text.len() <= MAX_LINE as usize && (line.last || !line.text.is_empty()));
            assert_eq!(line.offset, *first.get_or_insert(line.offset) + text.len() as u32);
            text.extend_from_slice(line.text);
            last = line.last;
        }
        (first.unwrap_or(0), text, last)
    }

    fn show(from: u32, again: bool) -> Option<Show> {
        Some(Show { from, again })
    }

    #[test]
    fn what_is_not_acknowledged_can_be_had_again() {
        let (mut listing, mut tasks) = (Listing::new(), Tasks(0));
        listing.begin();
        assert!(!listing.has_more(), "nobody has asked");
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            listing.show(show(from, false));
            let (offset, text, last) = said(&mut listing, &mut tasks);
            assert!(text.len() as u32 <= RING && (offset, all.len()) == (from.max(offset), offset as usize));
            all.extend(text);
            // A third of it was lost, and what came late does no harm.
            from += (all.len() as u32 - from) * 2 / 3;
            listing.show(show(from, true));
            let (offset, again, _) = said(&mut listing, &mut tasks);
            assert_eq!(offset, from);
            all.truncate(from as usize);
            all.extend(again);
            listing.show(show(0, false));
            listing.show(show(u32::MAX, false));
            from = all.len() as u32;
            if last {
                break;
            }
        }
        assert_eq!(all, whole());
        listing.show(show(from, true));
        assert_eq!(
            said(&mut listing, &mut tasks),
            (from, Vec::new(), true),
            "the end is said as often as it is asked for"
        );
    }

    #[test]
    fn without_acknowledgement_it_is_said_once() {
        let (mut listing, mut tasks) = (Listing::new(), Tasks(0));
        listing.begin();
        listing.show(None);
        assert_eq!(said(&mut listing, &mut tasks), (0, whole(), true));
        listing.show(None);
        assert_eq!(said(&mut listing, &mut tasks), (whole().len() as u32, Vec::new(), true));
        assert_eq!(tasks.0, COUNT + 1, "the machine was asked no further");
    }
}
