// SPDX-License-Identifier: GPL-2.0-or-later
//! How many frames the relay itself can carry here, so that a test knows whether it measures the network or the relay.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::{Endpoint, Relay, RelayStats, BATCH, MAX_FRAME};
use crate::link::LinkParams;

/// What [`measure`] found.
#[derive(Debug, Serialize)]
pub struct Ceiling {
    /// Bytes in a frame.
    pub frame: usize,
    /// How long it was measured, s.
    pub seconds: f64,
    /// Frames that were sent to the relay.
    pub sent: u64,
    /// Frames that came out at the other end.
    pub received: u64,
    /// Of those, frames a second.
    pub frames_per_second: f64,
    /// The relay's own counts.
    pub relay: RelayStats,
}

/// Relays frames of `frame` bytes from A to B between sockets on the loopback for `time`, as fast as they come.
pub fn measure(a_to_b: LinkParams, b_to_a: LinkParams, frame: usize, time: Duration) -> io::Result<Ceiling> {
    let loopback = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let (source, sink, a, b) = (loopback()?, loopback()?, loopback()?, loopback()?);
    let (at_a, at_b) = (a.local_addr()?, b.local_addr()?);
    let relay_a = Endpoint::from_socket(a, source.local_addr()?)?;
    let relay_b = Endpoint::from_socket(b, sink.local_addr()?)?;

    let stop = SigSet::from(Signal::SIGUSR1);
    stop.thread_block()?;
    let running = AtomicBool::new(true);
    let received = AtomicU64::new(0);
    let sent = AtomicU64::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        let (running_too, sent_too, received_too) = (&running, &sent, &received);
        let sink = scope.spawn(move || {
            let mut from = Endpoint::from_socket(sink, at_b)?;
            let mut frames = vec![Vec::new(); BATCH];
            while running_too.load(Ordering::Relaxed) {
                frames.iter_mut().for_each(|f| f.resize(MAX_FRAME, 0));
                let count = from.receive(&mut frames)?;
                received_too.fetch_add(count as u64, Ordering::Relaxed);
                if count < BATCH {
                    // Nothing to see for a moment: leave the CPU to the relay.
                    thread::sleep(Duration::from_micros(200));
                }
            }
            io::Result::Ok(())
        });
        let source = scope.spawn(move || {
            let mut out = Endpoint::from_socket(source, at_a)?;
            let frames = vec![vec![0x55u8; frame]; BATCH];
            // What the relay's socket has no room for is not sent again: only what arrives counts.
            while running_too.load(Ordering::Relaxed) {
                sent_too.fetch_add(out.send(&frames)? as u64, Ordering::Relaxed);
            }
            io::Result::Ok(())
        });
        let mut relay = Relay::new(relay_a, relay_b, a_to_b, b_to_a, 1);
        let run = relay.run(&stop, 10_000_000, |_| {
            Ok(if started.elapsed() < time { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        running.store(false, Ordering::Relaxed);
        for end in [source, sink] {
            end.join().unwrap_or_else(|_| Err(io::Error::other("an end of the measurement failed")))?;
        }
        run?;
        let seconds = started.elapsed().as_secs_f64();
        let received = received.load(Ordering::Relaxed);
        Ok(Ceiling {
            frame,
            seconds,
            sent: sent.load(Ordering::Relaxed),
            received,
            frames_per_second: received as f64 / seconds,
            relay: relay.stats(),
        })
    })
}
