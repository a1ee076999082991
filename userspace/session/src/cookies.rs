// SPDX-License-Identifier: GPL-2.0-or-later
//! Which cookie the client knows: tried one after the other until a HELLO is answered.
//!
//! A client that changes its key is, for a while, armed with the old one or the new one, and addresses are given to
//! other machines. So the owner may name several cookies. Each try sends an acknowledgement and a HELLO with one of them;
//! the client drops what has the wrong cookie, and the number that it answers says which one was right.

use netdump_core::wire::{Cookie, RequestId};

/// Cookies that are tried for one client: two of each of the four that may be enrolled at an address, and the one of its file in
/// magic/. What is beyond them is not tried.
pub const MAX_COOKIES: usize = 9;

/// Requests of the handshake that may still be answered.
const LIVE: usize = 4;

/// The candidates, and what is known of them.
#[derive(Debug)]
pub(crate) struct Cookies {
    candidates: Vec<Cookie>,
    /// The one that requests carry now.
    at: usize,
    /// HELLOs that had been sent when it was chosen.
    chosen_at: u32,
    sent: [Option<(RequestId, usize)>; LIVE],
    next: usize,
}

impl Cookies {
    pub(crate) fn new(first: Cookie, others: &[Cookie]) -> Self {
        let candidates = std::iter::once(first).chain(others.iter().copied()).take(MAX_COOKIES).collect();
        Cookies { candidates, at: 0, chosen_at: 0, sent: [None; LIVE], next: 0 }
    }

    /// What requests carry.
    pub(crate) fn current(&self) -> Cookie {
        // `at` is the index of a candidate, and there is always one.
        self.candidates.get(self.at).copied().unwrap_or(Cookie::new(0))
    }

    /// Index of the current one among what the owner named.
    pub(crate) fn index(&self) -> usize {
        self.at
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// A HELLO is due after `tries` of them: takes the next cookie, if this one has had its try. `true` if it is
    /// another one, so that the client must be acknowledged with it first.
    pub(crate) fn turn(&mut self, tries: u32) -> bool {
        if self.candidates.len() < 2 || tries == self.chosen_at {
            return false;
        }
        self.chosen_at = tries;
        self.at = (self.at + 1) % self.candidates.len();
        true
    }

    /// A HELLO goes out with this number.
    pub(crate) fn sent(&mut self, nr: RequestId) {
        if let Some(place) = self.sent.get_mut(self.next) {
            *place = Some((nr, self.at));
        }
        self.next = (self.next + 1) % LIVE;
    }

    /// The client has answered this number: what it carried is what it knows.
    pub(crate) fn answered(&mut self, nr: RequestId) {
        let known = self.sent.iter().flatten().find(|(sent, _)| *sent == nr);
        if let Some((_, at)) = known {
            self.at = *at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_never_turned_and_the_answer_tells_which_of_several_it_was() {
        let mut only = Cookies::new(Cookie::new(1), &[]);
        assert!(!only.turn(1));
        let many: Vec<_> = (2..20).map(Cookie::new).collect();
        let mut cookies = Cookies::new(Cookie::new(1), &many);
        assert_eq!(cookies.len(), MAX_COOKIES);
        assert!(!cookies.turn(0));
        for tries in 0..20 {
            cookies.turn(tries);
            assert!(!cookies.turn(tries), "once for each try");
            assert_eq!(cookies.current(), Cookie::new(u64::from(tries) % 9 + 1));
            cookies.sent(RequestId(100 + tries));
        }
        cookies.answered(RequestId(100 + 17));
        assert_eq!((cookies.index(), cookies.current()), (8, Cookie::new(9)));
        cookies.answered(RequestId(100 + 2));
        assert_eq!(cookies.index(), 8, "too old to be believed");
    }
}
