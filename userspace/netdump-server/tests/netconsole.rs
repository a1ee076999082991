// SPDX-License-Identifier: GPL-2.0-or-later
//! Console text of upstream's netconsole, basic and extended, on the port of the dumps.

mod rig;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use netdump_core::wire::log::basic::Basic;
use netdump_core::wire::log::extended::Extended;
use netdump_core::wire::log::{Datagrams, MAX_DATAGRAM};
use netdump_sim::image::ImageParams;
use nix::sys::signal::Signal;
use rig::{dirs, eventually, host, meta, read_log, Server, Setup};

/// A client's netconsole, as upstream's would be configured.
struct Netconsole {
    socket: UdpSocket,
    server: SocketAddrV4,
}

fn datagrams(mut cursor: impl Datagrams) -> Vec<Vec<u8>> {
    let mut buf = [0; MAX_DATAGRAM];
    let mut all = Vec::new();
    while let Some(len) = cursor.emit_next(&mut buf).unwrap() {
        all.push(buf[..len].to_vec());
    }
    all
}

impl Netconsole {
    fn new(address: Ipv4Addr, server: SocketAddrV4) -> Netconsole {
        Netconsole { socket: UdpSocket::bind((address, 6665)).unwrap(), server }
    }

    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.server).unwrap();
    }

    fn basic(&self, text: &str) {
        datagrams(Basic::new(text.as_bytes())).iter().for_each(|datagram| self.send(datagram));
    }

    fn records(&self, records: &[&str]) {
        records.iter().for_each(|record| self.send(record.as_bytes()));
    }
}

fn wait_for_logs(server: &Server, client: Ipv4Addr, expected: &[&str]) {
    eventually(&format!("{expected:?}"), || {
        let all = dirs(&server.root, client);
        all.len() == expected.len()
            && all.iter().zip(expected).all(|(dir, text)| dir.join("log").exists() && read_log(dir) == **text)
    });
}

#[test]
fn basic_text_is_stored_as_it_is() {
    let server = Server::with(&["--secure", "0"]);
    let client = host(server.block, 2);
    let console = Netconsole::new(client, server.addr());
    let first = "[    0.000000] Linux version 7.3.4 \u{1b}[31m\u{7}\n".to_owned() + &"x".repeat(2500) + "\n";
    console.basic(&first);
    wait_for_logs(&server, client, &[&first]);
    // All of the log is sent again: the machine has started again.
    console.basic("[    0.000000] Linux version 7.3.4\n[    0.000001] second\n");
    wait_for_logs(&server, client, &[&first, "[    0.000000] Linux version 7.3.4\n[    0.000001] second\n"]);
    // What is raw on the disk is not raw on somebody's terminal.
    assert!(!server.log().contains('\u{7}'));
}

#[test]
fn records_come_out_in_order_and_whole() {
    let server = Server::with(&["--secure", "0"]);
    let client = host(server.block, 2);
    let console = Netconsole::new(client, server.addr());
    let long = format!("4,7,2000000,-,caller=T1;{}\n SUBSYSTEM=net\n", "y".repeat(3000));
    let message = Extended { record: long.as_bytes(), userdata: b" rack=7\n", sysdata: b" cpu=3\n", release: b"" };
    let mut fragments = datagrams(message.datagrams());
    assert_eq!(fragments.len(), 4);
    fragments.reverse();
    console.records(&["6,6,2000000,-;two\n"]);
    fragments.iter().for_each(|fragment| console.send(fragment));
    console.records(&["6,5,1000000,-;one\n", "6,8,2000001,c;three", "6,8,2000001,c;three", "6,12,2000001,-;end\n"]);
    let expected = format!(
        "6,5,1000000,-;one\n6,6,2000000,-;two\n{long} rack=7\n cpu=3\n6,8,2000001,c;three\n\
         [netdump: 3 messages lost]\n6,12,2000001,-;end\n"
    );
    wait_for_logs(&server, client, &[&expected]);
    console.records(&["6,3,500000,-;booted again\n"]);
    wait_for_logs(&server, client, &[&expected, "6,3,500000,-;booted again\n"]);
}

#[test]
fn only_registered_and_allowed_sources_log() {
    let setup = Setup::new(&[]);
    let (stranger, known, allowed) = (host(setup.block, 2), host(setup.block, 3), host(setup.block, 4));
    setup.magic(known, "aabbccdd11223344");
    std::fs::write(setup.scratch.path().join("conf"), format!("log_allow=\"{allowed}/32\"\n")).unwrap();
    let server = setup.start();
    for client in [stranger, known, allowed] {
        let console = Netconsole::new(client, server.addr());
        console.basic("text\n");
        console.records(&["6,1,1,-;record\n"]);
    }
    for client in [known, allowed] {
        wait_for_logs(&server, client, &["text\n6,1,1,-;record\n"]);
    }
    server.wait_for("log_refused");
    assert!(server.dirs(stranger).is_empty());
    assert_eq!(meta(&server.dir(known))["registered"], true);
}

#[test]
fn what_the_limits_cost_stands_in_the_log() {
    let server = Server::with(&["--secure", "0", "--log_rate", "1K", "--log_quota", "1M"]);
    let client = host(server.block, 2);
    let console = Netconsole::new(client, server.addr());
    let line = "z".repeat(999) + "\n";
    for _ in 0..20 {
        console.basic(&line);
    }
    server.wait_for("log_rate");
    eventually("the mark of what was dropped", || {
        console.basic("late\n");
        let all = server.dirs(client);
        all.iter().any(|dir| dir.join("log").exists() && read_log(dir).ends_with("late\n"))
    });
    let log = read_log(&server.dir(client));
    assert!(log.starts_with(&line.repeat(8)) && log.contains(" bytes lost]\nlate\n"), "{log}");
}

#[test]
fn console_text_has_a_quota_of_its_own() {
    let setup = Setup::new(&["--secure", "0", "--log_rate", "64M", "--log_quota", "1M"]);
    // What lies there already counts.
    let old = setup.root().join("192.0.2.1-2026-01-01-00:00:00");
    std::fs::create_dir_all(&old).unwrap();
    std::fs::write(old.join("log"), vec![b'x'; 600 << 10]).unwrap();
    let server = setup.start();
    let client = host(setup.block, 2);
    let console = Netconsole::new(client, server.addr());
    let line = "z".repeat(999) + "\n";
    eventually("the quota", || {
        console.basic(&line);
        server.log().contains("log_quota")
    });
    let mark = "[netdump: log_quota of 1048576 bytes reached]\n";
    eventually("the mark", || read_log(&server.dir(client)).ends_with(mark));
    let size = read_log(&server.dir(client)).len();
    assert!((300 << 10..450 << 10).contains(&size), "{size}");
    // A dump is not console text, and neither is its log.
    assert_eq!(server.crash(2, 1, &ImageParams { memory: 4 << 20, ..ImageParams::default() }).served, 1);
    server.wait_for("dump complete");
    assert!(read_log(&server.dir(client)).len() > size);
}

#[test]
fn a_restart_of_the_server_is_no_boot_of_the_client() {
    let setup = Setup::new(&["--secure", "0"]);
    let mut server = setup.start();
    let client = host(setup.block, 2);
    let console = Netconsole::new(client, server.addr());
    console.records(&["6,8,2000000,-;before\n"]);
    wait_for_logs(&server, client, &["6,8,2000000,-;before\n"]);
    assert_eq!(server.stop(Signal::SIGTERM).code(), Some(0));
    let server = setup.start();
    console.records(&["6,10,2000002,-;after\n", "6,8,2000000,-;before\n"]);
    let expected = "6,8,2000000,-;before\n[netdump: 1 message lost]\n6,10,2000002,-;after\n";
    wait_for_logs(&server, client, &[expected]);
}

#[test]
fn fragments_without_end_take_little() {
    let server = Server::with(&["--secure", "0", "--log_rate", "1G", "--log_max", "1M"]);
    let client = host(server.block, 2);
    let console = Netconsole::new(client, server.addr());
    for n in 0..60_000u64 {
        let total = 70_000 + n % 1000;
        let offset = (n * 37) % 60_000;
        let datagram = format!("6,{},{n},-,ncfrag={offset}/{total};{}", n % 100_000, "f".repeat(900));
        console.send(datagram.as_bytes());
    }
    console.records(&["6,1,1,-,ncfrag=0/4294967295;x", "6,18446744073709551615,18446744073709551615,-;x\n"]);
    server.wait_for("log_size");
    let rss = server.peak_rss();
    println!("peak RSS {} KiB", rss >> 10);
    assert!(rss < 64 << 20, "{rss}");
    assert!(server.dirs(client).len() < 61);
}
