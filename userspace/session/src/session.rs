// SPDX-License-Identifier: GPL-2.0-or-later
//! The state machine.

use std::time::Instant;

use netdump_core::wire::classic::{Start, REQUEST_LEN};

use crate::{Counters, Event, Grant, PageBuf, Params, Phase, Progress};

/// One client's dump. See the crate's page for how to drive it.
#[derive(Debug)]
pub struct Session {
    params: Params,
    phase: Phase,
    start: Start,
}

impl Session {
    /// Begins with a START_NETDUMP. `seed` is fresh randomness: request numbers come from it.
    pub fn new(params: Params, start: Start, seed: [u8; 32], now: Instant) -> Self {
        let _ = (seed, now);
        Session {
            params,
            phase: Phase::Probe,
            start,
        }
    }

    /// A datagram from the client's address.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let _ = (now, datagram);
    }

    /// The next request to send. Ask until there is none; all are of one size, for segmentation offload.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<[u8; REQUEST_LEN]> {
        let _ = (now, &self.params);
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Time has passed. Early or superfluous calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Gives the buffer of an [`Event::Page`] back.
    pub fn recycle(&mut self, buf: PageBuf) {
        drop(buf);
    }

    /// How many more pages the owner can take: pages asked for and not yet taken with `poll_event` stay
    /// below it. Unlimited until told.
    pub fn set_write_room(&mut self, pages: usize) {
        let _ = pages;
    }

    /// The owner's socket dropped `datagrams` for lack of room: the window shrinks.
    pub fn note_receive_drops(&mut self, now: Instant, datagrams: u64) {
        let _ = (now, datagrams);
    }

    /// There is room for this client (after [`Event::Proved`]).
    pub fn grant_slot(&mut self, now: Instant, grant: Grant) {
        let _ = (now, grant);
    }

    /// The files are there (after [`Event::Described`]).
    pub fn storage_ready(&mut self, now: Instant) {
        let _ = now;
    }

    /// There is no room, or a write failed: no (more) memory, but log, task listing and the last order.
    pub fn storage_failed(&mut self, now: Instant) {
        let _ = now;
    }

    /// What was handed over is safe (after [`Event::MemoryDone`]); the client may go.
    pub fn stored(&mut self, now: Instant) {
        let _ = now;
    }

    /// Ends the dump as it is: straight to the last order.
    pub fn cancel(&mut self, now: Instant) {
        let _ = now;
    }

    /// Where the dump stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress::default()
    }

    /// What was sent, received and refused.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The START_NETDUMP that it began with.
    pub fn start(&self) -> &Start {
        &self.start
    }
}
