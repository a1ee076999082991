// SPDX-License-Identifier: GPL-2.0-or-later
//! The last two phases, in which silence is an answer: the task listing, and the order to reboot or go on.

use std::time::{Duration, Instant};

use netdump_core::wire::classic::Command;
use netdump_core::wire::RequestId;

use crate::number::Numbers;
use crate::params::{EndWith, Params};

/// SHOW_STATE is sent so often: the original lists all tasks again for every copy.
const LISTING_TRIES: u32 = 4;
/// A client that has neither answered nor listed anything within this time did not get the request.
const LISTING_RETRY: Duration = Duration::from_secs(3);
/// A client with our extension answers after its listing: what still comes is only late.
const LISTING_STRAGGLERS: Duration = Duration::from_millis(300);
/// After that client's answer, text does not keep the phase open for longer than this: it may be forged.
const LISTING_STRAGGLERS_MAX: Duration = Duration::from_secs(2);
/// A client that leaves so many HELLOs in a row unanswered has obeyed.
const GONE: u32 = 3;

/// SHOW_STATE. Some kernels answer first and list then, others the other way round.
#[derive(Debug)]
pub(crate) struct Listing {
    numbers: [Option<RequestId>; LISTING_TRIES as usize],
    tries: u32,
    due: Instant,
    began: Instant,
    last_text: Option<Instant>,
    reply: Option<(Instant, bool)>,
    /// The client answers after its listing, and lists once however often it is asked.
    ours: bool,
}

impl Listing {
    pub(crate) fn new(now: Instant, ours: bool) -> Self {
        Listing {
            numbers: [None; LISTING_TRIES as usize],
            tries: 0,
            due: now,
            began: now,
            last_text: None,
            reply: None,
            ours,
        }
    }

    pub(crate) fn matches(&self, nr: RequestId) -> bool {
        self.numbers.contains(&Some(nr))
    }

    /// Console text came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_text = Some(now);
        if !self.ours {
            self.due = self.due.max(now + LISTING_RETRY);
        }
    }

    /// The client answered; whether it knows the command.
    pub(crate) fn replied(&mut self, now: Instant, known: bool) {
        self.reply.get_or_insert((now, known));
    }

    fn may_send(&self) -> bool {
        self.reply.is_none() && self.tries < LISTING_TRIES && (self.ours || self.last_text.is_none())
    }

    pub(crate) fn poll(&mut self, now: Instant, numbers: &mut Numbers) -> Option<RequestId> {
        if !self.may_send() || now < self.due {
            return None;
        }
        let nr = numbers.next();
        *self.numbers.get_mut(self.tries as usize)? = Some(nr);
        self.tries += 1;
        self.due = now + LISTING_RETRY;
        Some(nr)
    }

    /// When the phase ends if nothing more comes, and whether the listing can then be said to be there.
    fn end(&self, params: &Params) -> (Instant, bool) {
        let limit = self.began + params.show_state_limit;
        let (end, good) = match (self.reply, self.last_text) {
            (Some((at, false)), _) => (at, false),
            (Some((at, true)), text) => {
                let heard = text.map_or(at, |text| text.max(at));
                if self.ours {
                    ((heard + LISTING_STRAGGLERS).min(at + LISTING_STRAGGLERS_MAX), true)
                } else {
                    (heard + params.show_state_quiet, true)
                }
            }
            // It listed, and the reply was lost. Asking again would only list again.
            (None, Some(text)) if !self.ours => (text + params.show_state_quiet * 2, true),
            (None, text) if self.tries >= LISTING_TRIES => {
                (text.map_or(self.due, |text| self.due.max(text + LISTING_RETRY)), false)
            }
            (None, _) => return (limit, false),
        };
        (end.min(limit), good)
    }

    /// Whether the listing came, once the phase is over.
    pub(crate) fn verdict(&self, now: Instant, params: &Params) -> Option<bool> {
        let (end, good) = self.end(params);
        (now >= end).then_some(good)
    }

    pub(crate) fn deadline(&self, params: &Params) -> Instant {
        let end = self.end(params).0;
        if self.may_send() {
            end.min(self.due)
        } else {
            end
        }
    }
}

/// REBOOT or EXIT, again and again, with a HELLO after each to see whether anybody is still there.
#[derive(Debug)]
pub(crate) struct Ending {
    orders: u32,
    order_now: bool,
    next: Instant,
    hello: Option<Instant>,
    numbers: [Option<RequestId>; 4],
    hellos: u32,
    answered: bool,
    unanswered: u32,
}

impl Ending {
    pub(crate) fn new(now: Instant, params: &Params) -> Self {
        Ending {
            orders: 0,
            order_now: true,
            next: now + params.end_interval,
            hello: Some(now + params.end_interval / 2),
            numbers: [None; 4],
            hellos: 0,
            answered: false,
            unanswered: 0,
        }
    }

    /// A HELLO came back; whether it was to one of ours.
    pub(crate) fn alive(&mut self, nr: RequestId) -> bool {
        let ours = self.numbers.contains(&Some(nr));
        self.answered |= ours;
        ours
    }

    /// END_NETDUMP came; whether that ends it.
    pub(crate) fn said_end(&self, params: &Params) -> bool {
        params.end_with == EndWith::Exit && self.orders > 0
    }

    pub(crate) fn poll(
        &mut self,
        now: Instant,
        numbers: &mut Numbers,
        params: &Params,
    ) -> Option<(RequestId, Command)> {
        if self.order_now {
            self.order_now = false;
            self.orders += 1;
            let command = match params.end_with {
                EndWith::Reboot => Command::Reboot,
                EndWith::Exit => Command::Exit,
            };
            return Some((numbers.next(), command));
        }
        if self.hello.is_some_and(|due| now >= due) {
            self.hello = None;
            let nr = numbers.next();
            *self.numbers.get_mut(self.hellos as usize % 4)? = Some(nr);
            self.hellos += 1;
            return Some((nr, Command::Hello));
        }
        None
    }

    /// At the end of an interval: whether the client obeyed, if that is decided.
    pub(crate) fn verdict(&mut self, now: Instant, params: &Params) -> Option<bool> {
        if now < self.next {
            return None;
        }
        self.unanswered = if self.answered { 0 } else { self.unanswered + 1 };
        self.answered = false;
        if self.unanswered >= GONE {
            return Some(true);
        }
        if self.orders >= params.end_tries {
            return Some(false);
        }
        self.order_now = true;
        self.next = now + params.end_interval;
        self.hello = Some(now + params.end_interval / 2);
        None
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.hello.map_or(self.next, |hello| hello.min(self.next))
    }
}
