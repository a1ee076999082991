// SPDX-License-Identifier: GPL-2.0-or-later
//! The relay and the hostile peers on real sockets of the loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use netdump_core::engine::client::Dialects;
use netdump_core::wire::v6::Level;
use netdump_core::wire::Cookie;
use netdump_sim::crowd::{self, CrowdParams};
use netdump_sim::hostile::{self, ProbeParams};
use netdump_sim::image::ImageParams;
use netdump_sim::link::LinkParams;
use netdump_sim::relay::{ceiling, Endpoint, Relay, RelayStats};
use nix::sys::signal::{SigSet, Signal};

const COOKIE: Cookie = Cookie::new(0x1122_3344_5566_7788);

/// Frames that go into a relay. The smallest socket buffer that Linux gives by default holds them all, so that none
/// is lost on a busy machine but by the relay.
const FRAMES: u32 = 150;

/// Sends numbered frames into a relay and returns the numbers that came out, and what the relay counted.
fn relayed(params: LinkParams) -> (Vec<u32>, RelayStats) {
    let bound = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (source, sink, a, b) = (bound(), bound(), bound(), bound());
    let at_a = a.local_addr().unwrap();
    let a = Endpoint::from_socket(a, source.local_addr().unwrap()).unwrap();
    let b = Endpoint::from_socket(b, sink.local_addr().unwrap()).unwrap();
    let sender = thread::spawn(move || {
        source.connect(at_a).unwrap();
        for n in 0..FRAMES {
            let mut frame = [0x5a; 100];
            frame[14..18].copy_from_slice(&n.to_be_bytes());
            source.send(&frame).unwrap();
        }
        source // open until the relay is done, so that nothing is refused
    });
    let mut relay = Relay::new(a, b, params, LinkParams::default(), 7);
    let never = SigSet::from(Signal::SIGUSR2);
    never.thread_block().unwrap();
    let mut idle = (0, 0);
    relay
        .run(&never, 10_000_000, |stats| {
            // Done when all has gone in and nothing has come out for ten calls.
            let state = (stats.a_to_b.link.offered, stats.a_to_b.forwarded);
            let done = state.0 == u64::from(FRAMES) && state.1 == idle.0;
            idle = (state.1, if done { idle.1 + 1 } else { 0 });
            io::Result::Ok(if idle.1 == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
    drop(sender.join().unwrap());
    sink.set_nonblocking(true).unwrap();
    let mut numbers = Vec::new();
    let mut frame = [0; 200];
    while let Ok(len) = sink.recv(&mut frame) {
        assert_eq!(len, 100);
        numbers.push(u32::from_be_bytes(frame[14..18].try_into().unwrap()));
    }
    (numbers, relay.stats())
}

#[test]
fn a_relay_without_faults_carries_all_in_order() {
    let (numbers, stats) = relayed(LinkParams::default());
    assert!(numbers.iter().copied().eq(0..FRAMES), "{} frames", numbers.len());
    assert_eq!(stats.a_to_b.forwarded, u64::from(FRAMES));
    assert_eq!((stats.a_to_b.refused, stats.b_to_a.forwarded), (0, 0));
}

#[test]
fn a_relay_with_faults_counts_what_it_does() {
    let params = LinkParams { loss: 0.2, duplicate: 0.2, reorder: 0.3, delay: 1_000_000, ..LinkParams::default() };
    let (numbers, stats) = relayed(params);
    let link = stats.a_to_b.link;
    assert!(link.lost > 10 && link.duplicated > 10 && link.reordered > 0, "{link:?}");
    assert_eq!(numbers.len() as u64, u64::from(FRAMES) - link.lost + link.duplicated);
    let backwards = numbers.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(backwards > 0);
}

#[test]
fn the_relay_knows_its_ceiling() {
    let report =
        ceiling::measure(LinkParams::default(), LinkParams::default(), 1079, Duration::from_millis(200)).unwrap();
    assert!(report.received > 0 && report.received <= report.relay.a_to_b.forwarded);
}

fn machine(server: SocketAddrV4, address: Ipv4Addr) -> CrowdParams {
    CrowdParams {
        server,
        first: address,
        port: 6666,
        count: 1,
        image: ImageParams { memory: 4 << 20, ..ImageParams::default() },
        cookie: COOKIE,
        dialects: Dialects::Classic,
        key: None,
        level: Level::ALL,
        max_datagram: 1416,
        no_gso: false,
        handshake_timeout: 1_500_000_000,
        idle_timeout: 5_000_000_000,
        total_timeout: 2_000_000_000,
    }
}

#[test]
fn hello_for_ever_ends_with_the_total_timeout() {
    let server = SocketAddrV4::new(Ipv4Addr::new(127, 20, 0, 1), 6666);
    let grip = thread::spawn(move || {
        hostile::hello_forever(server, COOKIE, Duration::from_millis(50), Duration::from_secs(3)).unwrap()
    });
    let report = crowd::run(&machine(server, Ipv4Addr::new(127, 20, 0, 2))).unwrap();
    assert_eq!(report.machines[0].end, "TotalTimeout");
    let grip = grip.join().unwrap();
    assert!(grip.answers > 0 && grip.starts > 0, "{grip:?}");
}

#[test]
fn a_wrong_cookie_gets_no_answer() {
    let client = SocketAddrV4::new(Ipv4Addr::new(127, 21, 0, 2), 6666);
    // The server's own address: only the cookie is wrong.
    let server = SocketAddrV4::new(Ipv4Addr::new(127, 21, 0, 1), 6666);
    let probe = thread::spawn(move || {
        hostile::probe(&ProbeParams {
            client,
            source: server,
            cookie: None,
            rate: 2000,
            time: Duration::from_secs(2),
            seed: 3,
        })
        .unwrap()
    });
    let report = crowd::run(&machine(server, *client.ip())).unwrap();
    assert_eq!(report.machines[0].end, "HandshakeTimeout");
    assert!(report.machines[0].bad_cookie > 0, "{report:?}");
    let probe = probe.join().unwrap();
    assert!(probe.sent > 0);
    // START_NETDUMP goes to the server's address in any case.
    assert_eq!((probe.secrets, probe.answers <= report.machines[0].starts), (0, true), "{probe:?}");
}
