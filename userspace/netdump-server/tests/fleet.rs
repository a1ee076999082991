// SPDX-License-Identifier: GPL-2.0-or-later
//! A thousand machines that talk at once: each has one file, with every line of it and nothing else.

mod rig;

use std::net::Ipv4Addr;
use std::time::Duration;

use netdump_sim::fleet::{trial, FleetParams, Format, Layout, Stored, Way};
use rig::Server;

const MACHINES: u32 = 1000;

#[test]
fn a_thousand_machines_lose_no_line() {
    for format in [Format::Netlog, Format::Extended, Format::Basic] {
        let server = Server::with(&["--secure", "0", "--new_dirs_per_minute", "2000"]);
        let [a, b, c, d] = server.block.octets();
        // A block for each process has 256 addresses: these lie far from all of them.
        let first = Ipv4Addr::new(a, 254 - b % 100, c & 0xf0, d);
        let params = FleetParams { first, port: 6665, count: MACHINES, format, line: 120, seed: 7 };
        let stored = Stored { dir: server.root.clone(), layout: Layout::Netdump };
        let trial = trial(params, server.addr(), &Way::Sockets, &stored, 4000.0, Duration::from_secs(2)).unwrap();
        assert!(trial.whole, "{format:?}: {trial:?}\n{}", server.log());
        assert_eq!((trial.stored.whole, trial.sent.lines), (MACHINES, 8000));
        let rss = server.peak_rss();
        println!("{format:?}: peak RSS {} KiB", rss >> 10);
        assert!(rss < 128 << 20, "{rss}");
    }
}
