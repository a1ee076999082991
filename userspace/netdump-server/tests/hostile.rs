// SPDX-License-Identifier: GPL-2.0-or-later
//! Peers that mean harm: what they send is counted, memory stays bounded, and the dump beside it is true.

mod rig;

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Code, Reply, ReplyHeader, Start, Version, CHUNK_LEN, MAX_REPLY_LEN};
use netdump_core::wire::{Cookie, RequestId};
use netdump_sim::crowd;
use netdump_sim::hostile::{flood, FloodKind, FloodParams};
use netdump_sim::image::{Image, ImageParams};
use rig::{ended_meta, host, is_root, Core, Server};

/// What the server's documentation promises with the settings of these tests, in bytes.
const RSS_BOUND: u64 = 256 << 20;

fn start() -> Vec<u8> {
    let start = Start::V5 {
        machine: netdump_core::wire::classic::Machine::X86_64,
        max_version: 5,
        task_struct: 0xffff_8880_0020_0000,
        page_offset: 0xffff_8880_0000_0000,
        magic: Cookie::new(0),
    };
    let mut buf = vec![0; MAX_REPLY_LEN];
    let len = Reply { version: Version::V4, nr: RequestId(0), body: Body::Start(start) }.emit(&mut buf).unwrap();
    buf.truncate(len);
    buf
}

/// A dump while `attack` goes on; the attack is told when to stop.
fn dump_beside(server: &Server, attack: impl FnOnce(Arc<AtomicBool>) + Send + 'static) {
    let image = ImageParams { memory: 64 << 20, ..ImageParams::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = {
        let stop = stop.clone();
        std::thread::spawn(move || attack(stop))
    };
    let report = crowd::run(&server.crowd(2, 1, &image)).unwrap();
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert_eq!(report.served, 1, "{}", server.log());
    server.wait_for("dump complete");
    // Forged log text may have made more directories, but the dump is in one.
    let dirs = server.dirs(host(server.block, 2));
    let dir = dirs.iter().find(|dir| dir.join("vmcore").exists()).unwrap();
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(image));
    assert_eq!(ended_meta(dir)["complete"], true);
    let rss = server.peak_rss();
    println!("peak RSS {} KiB", rss >> 10);
    assert!(rss < RSS_BOUND, "{rss}");
}

fn flood_params(server: &Server, kind: FloodKind) -> FloodParams {
    FloodParams {
        server: server.addr(),
        source: SocketAddrV4::new(host(server.block, 2), 6666),
        sources: 1,
        forge: true,
        kind,
        rate: 10_000,
        time: Duration::from_millis(200),
        seed: 7,
    }
}

#[test]
fn forged_packets_from_the_dumping_clients_own_address() {
    if !is_root() {
        return;
    }
    for kind in [FloodKind::Garbage, FloodKind::Start, FloodKind::Mem, FloodKind::Log] {
        let server = Server::with(&["--secure", "0", "--log_max", "1M"]);
        let params = flood_params(&server, kind);
        dump_beside(&server, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                flood(&params).unwrap();
            }
        });
    }
}

#[test]
fn a_flood_from_thousands_of_addresses() {
    if !is_root() {
        return;
    }
    for kind in [FloodKind::Start, FloodKind::Log, FloodKind::Mixed] {
        let began = Instant::now();
        let server = Server::with(&["--secure", "0", "--new_dirs_per_minute", "10"]);
        let mut params = flood_params(&server, kind);
        // Addresses that are nobody's, so that nobody answers.
        params.source = SocketAddrV4::new([10, 99, 0, 1].into(), 6666);
        params.sources = 50_000;
        dump_beside(&server, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                params.seed += 1;
                flood(&params).unwrap();
            }
        });
        let dirs = std::fs::read_dir(&server.root).unwrap().count();
        // What one minute may make, for each minute that it took, and the dump and the file of the streams.
        let minutes = began.elapsed().as_secs() as usize / 60 + 1;
        assert!(dirs <= 10 * minutes + 2, "{dirs} directories in {minutes} minutes");
    }
}

#[test]
fn memory_from_another_port_is_not_taken() {
    let server = Server::with(&["--secure", "0"]);
    let (to, from) = (server.addr(), host(server.block, 2));
    dump_beside(&server, move |stop| {
        let socket = UdpSocket::bind((from, 7777)).unwrap();
        let mut nr = 0u32;
        let mut buf = vec![0xee; MAX_REPLY_LEN];
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..100 {
                nr = nr.wrapping_add(0x9e37_79b9);
                let header = ReplyHeader { version: Version::V5, nr: RequestId(nr), code: Code::Mem, info: 0 };
                header.emit(&mut buf).unwrap();
                socket.send_to(&buf[..13 + CHUNK_LEN], to).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let meta = ended_meta(&server.dir(from));
    assert!(meta["dump"]["datagrams"]["wrong_port"].as_u64() > Some(0), "{meta}");
    assert!(server.log().contains("wrong_port"));
}

#[test]
fn a_start_that_nobody_stands_behind_takes_nothing() {
    let server = Server::with(&["--secure", "0", "--client_timeout", "2"]);
    // It hears the answers and gives none.
    let socket = UdpSocket::bind((host(server.block, 3), 6666)).unwrap();
    for _ in 0..50 {
        socket.send_to(&start(), server.addr()).unwrap();
    }
    server.wait_for("not_proved");
    assert!(server.dirs(host(server.block, 3)).is_empty());
    socket.set_nonblocking(true).unwrap();
    let (mut answers, mut buf) = (0, [0; 100]);
    while let Ok(len) = socket.recv(&mut buf) {
        answers += len;
    }
    assert!(answers < 50 * start().len(), "{answers} bytes: an amplifier");
}

#[test]
fn port_0_is_refused_because_nothing_can_be_sent_to_it() {
    if !is_root() {
        return;
    }
    let server = Server::with(&["--secure", "0"]);
    let mut params = flood_params(&server, FloodKind::Start);
    params.source = SocketAddrV4::new(host(server.block, 3), 0);
    flood(&params).unwrap();
    server.wait_for("port_zero");
    assert!(!server.log().contains("send_refused"));
}

#[test]
fn an_address_has_few_places_among_those_that_answer_nothing() {
    let server = Server::with(&["--secure", "0"]);
    let ports: Vec<_> = (7000..7080).map(|port| UdpSocket::bind((host(server.block, 3), port)).unwrap()).collect();
    for socket in &ports {
        socket.send_to(&start(), server.addr()).unwrap();
    }
    server.wait_for("probe_evicted");
    // The newest is heard, whoever was there before.
    assert_eq!(server.crash(3, 1, &ImageParams { memory: 4 << 20, ..ImageParams::default() }).served, 1);
}

#[test]
fn what_is_no_netdump_is_counted() {
    let server = Server::with(&["--secure", "0"]);
    let socket = UdpSocket::bind((host(server.block, 3), 6666)).unwrap();
    for datagram in [&b"text with a NUL\0\n"[..], &[4, 0], &[6; 100], &[5; 13], &[4; 1480], &[]] {
        socket.send_to(datagram, server.addr()).unwrap();
    }
    for reason in ["too_short", "stranger", "malformed"] {
        server.wait_for(reason);
    }
    assert!(server.dirs(host(server.block, 3)).is_empty());
}
