// SPDX-License-Identifier: GPL-2.0-or-later
//! A session of either protocol, for an owner that drives them alike.

use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Machine, Start};
use netdump_core::wire::v6::Reason;

use crate::event::{Counters, Event, PageBuf, Phase, Progress, Resumed};
use crate::params::Grant;
use crate::session::Session;
use crate::v6::Session6;

/// A session. Each function is that of [`Session`] and [`Session6`].
#[derive(Debug)]
pub enum Dialogue {
    /// Versions 4 and 5.
    Classic(Box<Session>),
    /// Version 6.
    Six(Box<Session6>),
}

macro_rules! either {
    ($self:ident, $session:ident => $call:expr) => {
        match $self {
            Dialogue::Classic($session) => $call,
            Dialogue::Six($session) => $call,
        }
    };
}

#[allow(missing_docs)] // see the two
impl Dialogue {
    pub fn grant_slot(&mut self, now: Instant, grant: Grant) {
        either!(self, s => s.grant_slot(now, grant))
    }

    pub fn storage_ready(&mut self, now: Instant) {
        either!(self, s => s.storage_ready(now))
    }

    /// Classic cannot: it has no name for a panic.
    pub fn resume(&mut self, resumed: Resumed) {
        if let Dialogue::Six(session) = self {
            session.resume(resumed);
        }
    }

    pub fn storage_failed(&mut self, now: Instant) {
        either!(self, s => s.storage_failed(now))
    }

    pub fn stored(&mut self, now: Instant) {
        either!(self, s => s.stored(now))
    }

    pub fn cancel(&mut self, now: Instant) {
        either!(self, s => s.cancel(now))
    }

    /// Classic asks for each page, so that no more than `pages` ever come.
    pub fn set_write_room(&mut self, pages: usize, most: usize) {
        match self {
            Dialogue::Classic(session) => session.set_write_room(pages),
            Dialogue::Six(session) => session.set_write_room(pages, most),
        }
    }

    /// Classic counts pages, and few of them.
    pub fn set_max_window(&mut self, datagrams: u32) {
        if let Dialogue::Six(session) = self {
            session.set_max_window(datagrams);
        }
    }

    /// Classic has no words for it.
    pub fn set_position(&mut self, position: u32) {
        if let Dialogue::Six(session) = self {
            session.set_position(position);
        }
    }

    pub fn note_receive_drops(&mut self, datagrams: u64) {
        either!(self, s => s.note_receive_drops(datagrams))
    }

    pub fn recycle(&mut self, buf: PageBuf) {
        either!(self, s => s.recycle(buf))
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        either!(self, s => s.poll_event())
    }

    pub fn phase(&self) -> Phase {
        either!(self, s => s.phase())
    }

    pub fn progress(&self) -> Progress {
        either!(self, s => s.progress())
    }

    pub fn counters(&self) -> Counters {
        either!(self, s => s.counters())
    }

    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        either!(self, s => s.handle(now, datagram))
    }

    /// What is in `datagram` afterwards is of no use.
    pub fn handle_in_place(&mut self, now: Instant, datagram: &mut [u8]) {
        match self {
            Dialogue::Classic(session) => session.handle(now, datagram),
            Dialogue::Six(session) => session.handle_in_place(now, datagram),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        either!(self, s => s.handle_timeout(now))
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        either!(self, s => s.poll_timeout())
    }

    /// Writes the next datagram to `buf`, which is cleared, and says whether there is one. Ask until there is none.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> bool {
        match self {
            Dialogue::Classic(session) => {
                buf.clear();
                let request = session.poll_transmit(now);
                buf.extend(request.into_iter().flatten());
                request.is_some()
            }
            Dialogue::Six(session) => session.poll_transmit(now, buf),
        }
    }

    /// Version of the protocol, and the client's machine.
    pub fn dialect(&self) -> (u32, Machine) {
        match self {
            Dialogue::Classic(session) => match session.start() {
                Start::V5 { machine, .. } => (5, *machine),
                Start::V4 => (4, Machine::I386),
            },
            Dialogue::Six(session) => (6, session.machine()),
        }
    }

    /// The client has proved who it is by a key; never so in classic.
    pub fn is_authenticated(&self) -> bool {
        matches!(self, Dialogue::Six(session) if session.is_authenticated() && session.phase() != Phase::Probe)
    }

    /// Frames that were left out, by reason; only version 6 tells.
    pub fn left_out(&self) -> Option<[u64; Reason::COUNT]> {
        match self {
            Dialogue::Classic(_) => None,
            Dialogue::Six(session) => Some(session.left_out()),
        }
    }

    /// How long nothing authentic has come; only version 6 tells.
    pub fn silent_for(&self, now: Instant) -> Duration {
        match self {
            Dialogue::Classic(_) => Duration::ZERO,
            Dialogue::Six(session) => session.silent_for(now),
        }
    }
}
