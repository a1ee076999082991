// SPDX-License-Identifier: GPL-2.0-or-later
//! `netdump-impair`: a bad network between two virtual machines, or one and the host.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use netdump_sim::link::LinkParams;
use netdump_sim::relay::{Endpoint, EndpointName, Relay, RelayStats};
use netdump_sim::units;
use nix::sys::signal::{SigSet, Signal};

/// Relays Ethernet frames between two ends and loses, delays, doubles, reorders, changes and slows them.
///
/// An end is `tap:NAME` (a TAP device in this network namespace, made if it is not there) or
/// `udp:LOCAL,REMOTE`: for QEMU's `-netdev dgram,local.type=inet,local.host=127.0.0.1,local.port=7002,
/// remote.type=inet,remote.host=127.0.0.1,remote.port=7001` that is `udp:127.0.0.1:7001,127.0.0.1:7002`.
///
/// Each option stands for both directions, with `-ab` or `-ba` behind its name for the one from A to B or from B
/// to A alone. Shares are given as `1%` or `0.01`, times as `1ms`, `250us`, `2s`, rates as `100mbit`.
///
/// It prints "ready" when both ends are open, and stops at SIGTERM or SIGINT, after a last write of the statistics.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// One end.
    #[arg(long, value_name = "END", required_unless_present = "ceiling")]
    a: Option<EndpointName>,
    /// The other end.
    #[arg(long, value_name = "END", required_unless_present = "ceiling")]
    b: Option<EndpointName>,

    #[command(flatten)]
    both: Both,
    #[command(flatten)]
    ab: Ab,
    #[command(flatten)]
    ba: Ba,

    /// Bytes of each frame that are never changed: the Ethernet header, unless told otherwise.
    #[arg(long, value_name = "BYTES", default_value_t = 14)]
    tamper_from: usize,
    /// Seed of all chance.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write statistics as JSON to this file, every second and at the end.
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Instead of relaying, measure for so long how many frames this program relays on this machine, print it as
    /// JSON and end.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    ceiling: Option<Duration>,
    /// Length of the frames of --ceiling: by default those of classic netdump.
    #[arg(long, value_name = "BYTES", default_value_t = 1079, requires = "ceiling")]
    ceiling_frame: usize,
}

/// The options of one direction, under three names.
macro_rules! direction {
    ($name:ident, $suffix:literal, $which:literal) => {
        #[derive(clap::Args, Debug, Clone, Default)]
        #[command(next_help_heading = $which)]
        #[group(id = $which)]
        struct $name {
            /// Share of frames lost.
            #[arg(id = concat!("loss", $suffix), long = concat!("loss", $suffix), value_name = "SHARE", value_parser = units::probability)]
            loss: Option<f64>,
            /// Share of frames delivered twice.
            #[arg(id = concat!("dup", $suffix), long = concat!("dup", $suffix), value_name = "SHARE", value_parser = units::probability)]
            dup: Option<f64>,
            /// Share of frames held back, so that later ones overtake them.
            #[arg(id = concat!("reorder", $suffix), long = concat!("reorder", $suffix), value_name = "SHARE", value_parser = units::probability)]
            reorder: Option<f64>,
            /// Longest time that such a frame is held back; 2ms if not given.
            #[arg(id = concat!("reorder-by", $suffix), long = concat!("reorder-by", $suffix), value_name = "TIME", value_parser = units::duration)]
            reorder_by: Option<Duration>,
            /// Share of frames in which one byte is changed.
            #[arg(id = concat!("tamper", $suffix), long = concat!("tamper", $suffix), value_name = "SHARE", value_parser = units::probability)]
            tamper: Option<f64>,
            /// Time on the wire.
            #[arg(id = concat!("delay", $suffix), long = concat!("delay", $suffix), value_name = "TIME", value_parser = units::duration)]
            delay: Option<Duration>,
            /// Extra time on the wire, 0 to this; it does not reorder.
            #[arg(id = concat!("jitter", $suffix), long = concat!("jitter", $suffix), value_name = "TIME", value_parser = units::duration)]
            jitter: Option<Duration>,
            /// Bits per second.
            #[arg(id = concat!("rate", $suffix), long = concat!("rate", $suffix), value_name = "RATE", value_parser = units::rate)]
            rate: Option<u64>,
            /// Drop frames that are longer, their Ethernet header included: 1414 is an MTU of 1400.
            #[arg(id = concat!("longest", $suffix), long = concat!("longest", $suffix), value_name = "BYTES")]
            longest: Option<usize>,
            /// Bytes that wait at most before frames are dropped; 16M if not given.
            #[arg(id = concat!("queue", $suffix), long = concat!("queue", $suffix), value_name = "BYTES", value_parser = units::bytes)]
            queue: Option<u64>,
        }

        impl $name {
            fn apply(&self, params: &mut LinkParams) {
                let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
                set(&mut params.loss, self.loss);
                set(&mut params.duplicate, self.dup);
                set(&mut params.reorder, self.reorder);
                set(&mut params.reorder_by, self.reorder_by.map(nanos));
                set(&mut params.tamper, self.tamper);
                set(&mut params.delay, self.delay.map(nanos));
                set(&mut params.jitter, self.jitter.map(nanos));
                set(&mut params.queue, self.queue.and_then(|bytes| usize::try_from(bytes).ok()));
                params.rate = self.rate.or(params.rate);
                params.longest = self.longest.or(params.longest);
            }
        }
    };
}

direction!(Both, "", "Both directions");
direction!(Ab, "-ab", "From A to B");
direction!(Ba, "-ba", "From B to A");

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl Args {
    fn params(&self) -> (LinkParams, LinkParams) {
        let mut ab = LinkParams { tamper_from: self.tamper_from, ..LinkParams::default() };
        self.both.apply(&mut ab);
        let mut ba = ab.clone();
        self.ab.apply(&mut ab);
        self.ba.apply(&mut ba);
        (ab, ba)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (ab, ba) = args.params();
    let (Some(a), Some(b)) = (&args.a, &args.b) else {
        let time = args.ceiling.unwrap_or(Duration::from_secs(3));
        let report = netdump_sim::relay::ceiling::measure(ab, ba, args.ceiling_frame, time)?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    let open = |name: &EndpointName| Endpoint::open(name).with_context(|| format!("open {name:?}"));
    let mut relay = Relay::new(open(a)?, open(b)?, ab, ba, args.seed);
    println!("ready");
    relay.run(&signals, 1_000_000_000, |stats| {
        if let Some(path) = &args.stats {
            write_stats(path, stats)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}

/// Replaces the file, so that a reader never sees half of it.
fn write_stats(path: &Path, stats: &RelayStats) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut text = serde_json::to_string_pretty(stats)?;
    text.push('\n');
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}
