// SPDX-License-Identifier: GPL-2.0-or-later
//! A relay of Ethernet frames between two endpoints that does to them what a [`Link`] does.

pub mod ceiling;
mod endpoint;
pub(crate) mod tap;

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;
use nix::sys::time::{TimeSpec, TimeValLike};
use serde::Serialize;

use crate::link::{Link, LinkParams, LinkStats};
pub use endpoint::{Endpoint, EndpointName, BATCH, MAX_FRAME};

/// Batches taken from one end before the other has its turn.
const TURN: usize = 4;

/// What happened in one direction.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DirectionStats {
    /// What the link did.
    #[serde(flatten)]
    pub link: LinkStats,
    /// Frames handed to the other end.
    pub forwarded: u64,
    /// Frames that the other end had no room for, or where nobody listens.
    pub refused: u64,
}

/// What happened in both.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RelayStats {
    /// Time since the start, s.
    pub seconds: f64,
    /// From end A to end B.
    pub a_to_b: DirectionStats,
    /// From end B to end A.
    pub b_to_a: DirectionStats,
}

/// One direction: its link and what it could not hand over.
struct Direction {
    link: Link<Vec<u8>>,
    forwarded: u64,
    refused: u64,
}

impl Direction {
    fn stats(&self) -> DirectionStats {
        DirectionStats { link: *self.link.stats(), forwarded: self.forwarded, refused: self.refused }
    }

    /// Moves what `from` has received onto the link. Whether there may be more.
    fn take(&mut self, from: &mut Endpoint, pool: &mut Pool, started: Instant) -> io::Result<bool> {
        for _ in 0..TURN {
            let mut frames = pool.batch();
            let count = from.receive(&mut frames)?;
            let now = nanos(started);
            for (place, frame) in frames.drain(..).enumerate() {
                let unused = if place < count { self.link.offer(now, frame) } else { Some(frame) };
                if let Some(buffer) = unused {
                    pool.give_back(buffer);
                }
            }
            pool.spare = frames;
            if count < BATCH {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands over what is due to `to`.
    fn give(&mut self, to: &mut Endpoint, pool: &mut Pool, started: Instant) -> io::Result<()> {
        let now = nanos(started);
        loop {
            let mut due = std::mem::take(&mut pool.due);
            while due.len() < BATCH {
                let Some(frame) = self.link.take_due(now) else {
                    break;
                };
                due.push(frame);
            }
            if due.is_empty() {
                pool.due = due;
                return Ok(());
            }
            let sent = to.send(&due)?;
            self.forwarded += sent as u64;
            self.refused += (due.len() - sent) as u64;
            for frame in due.drain(..) {
                pool.give_back(frame);
            }
            pool.due = due;
        }
    }
}

/// Buffers that are not in use, so that a frame costs no allocation and no copy.
#[derive(Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    due: Vec<Vec<u8>>,
}

impl Pool {
    fn batch(&mut self) -> Vec<Vec<u8>> {
        let mut frames = std::mem::take(&mut self.spare);
        while frames.len() < BATCH {
            let mut frame = self.free.pop().unwrap_or_default();
            frame.resize(MAX_FRAME, 0);
            frames.push(frame);
        }
        frames
    }

    fn give_back(&mut self, frame: Vec<u8>) {
        if self.free.len() < 4 * BATCH {
            self.free.push(frame);
        }
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The relay.
pub struct Relay {
    a: Endpoint,
    b: Endpoint,
    a_to_b: Direction,
    b_to_a: Direction,
    pool: Pool,
    started: Instant,
}

impl Relay {
    /// A relay between two open ends.
    pub fn new(a: Endpoint, b: Endpoint, a_to_b: LinkParams, b_to_a: LinkParams, seed: u64) -> Self {
        let direction = |params, seed| Direction { link: Link::new(params, seed), forwarded: 0, refused: 0 };
        Relay {
            a,
            b,
            a_to_b: direction(a_to_b, seed),
            b_to_a: direction(b_to_a, seed.wrapping_add(1)),
            pool: Pool::default(),
            started: Instant::now(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            seconds: self.started.elapsed().as_secs_f64(),
            a_to_b: self.a_to_b.stats(),
            b_to_a: self.b_to_a.stats(),
        }
    }

    /// Relays until one of `signals` comes or `report`, called every `interval` ns or so and at the end, says so.
    ///
    /// The caller has blocked the signals.
    pub fn run(
        &mut self,
        signals: &SigSet,
        interval: u64,
        mut report: impl FnMut(&RelayStats) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let stop = SignalFd::new(signals)?;
        let mut next_report = 0;
        loop {
            let now = nanos(self.started);
            if now >= next_report {
                if report(&self.stats())?.is_break() {
                    return Ok(());
                }
                next_report = now + interval;
            }
            let due = [self.a_to_b.link.next_due(), self.b_to_a.link.next_due()].into_iter().flatten().min();
            let wake = due.unwrap_or(u64::MAX).min(next_report);
            let wait = TimeSpec::nanoseconds(i64::try_from(wake.saturating_sub(now)).unwrap_or(i64::MAX));
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [readable(self.a.fd()), readable(self.b.fd()), readable(std::os::fd::AsFd::as_fd(&stop))];
            match ppoll(&mut fds, Some(wait), None) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [a_ready, b_ready, stopped] = fds.map(|fd| fd.any().unwrap_or(true));
            if stopped {
                return report(&self.stats()).map(|_| ());
            }
            if a_ready {
                self.a_to_b.take(&mut self.a, &mut self.pool, self.started)?;
            }
            self.a_to_b.give(&mut self.b, &mut self.pool, self.started)?;
            if b_ready {
                self.b_to_a.take(&mut self.b, &mut self.pool, self.started)?;
            }
            self.b_to_a.give(&mut self.a, &mut self.pool, self.started)?;
        }
    }
}
