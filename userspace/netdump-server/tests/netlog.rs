// SPDX-License-Identifier: GPL-2.0-or-later
//! Console text of clients that are well, and of clients on their way down.

mod rig;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use netdump_core::wire::classic::{Body, Reply, Version, MAX_REPLY_LEN};
use netdump_core::wire::RequestId;
use netdump_sim::image::ImageParams;
use nix::sys::signal::Signal;
use rig::{dirs, ended_meta, eventually, host, meta, read_log, Server, Setup};

/// A client's netconsole.
struct Console {
    socket: UdpSocket,
    server: SocketAddrV4,
    offset: u32,
}

impl Console {
    fn new(address: Ipv4Addr, port: u16, server: SocketAddrV4) -> Console {
        Console { socket: UdpSocket::bind((address, port)).unwrap(), server, offset: 0 }
    }

    fn at(&self, offset: u32, text: &str) {
        let reply = Reply { version: Version::V4, nr: RequestId(0), body: Body::Log { offset, text: text.as_bytes() } };
        let mut buf = [0; MAX_REPLY_LEN];
        let len = reply.emit(&mut buf).unwrap();
        self.socket.send_to(&buf[..len], self.server).unwrap();
    }

    fn say(&mut self, text: &str) {
        self.at(self.offset, text);
        self.offset += text.len() as u32;
    }
}

fn wait_for_log(server: &Server, client: Ipv4Addr, text: &str) {
    eventually(text, || dirs(&server.root, client).iter().any(|dir| dir.join("log").exists() && read_log(dir) == text));
}

#[test]
fn a_boot_is_a_directory_and_starts_a_hook() {
    let setup = Setup::new(&["--secure", "0"]);
    let out = setup.scratch.path().join("hook");
    setup.hook("netdump-start", &format!("echo $# $1 >> {}", out.display()));
    let server = setup.start();
    let client = host(setup.block, 2);
    let mut console = Console::new(client, 6664, server.addr());
    console.say("[...network console startup...]\n");
    console.say("hello\n");
    wait_for_log(&server, client, "[...network console startup...]\nhello\n");
    eventually("the hook", || std::fs::read_to_string(&out).is_ok_and(|text| text == format!("1 {client}\n")));
    console.offset = 0;
    console.say("after a reset\n");
    wait_for_log(&server, client, "after a reset\n");
    assert_eq!(server.dirs(client).len(), 2);
    let meta = meta(&server.dirs(client)[0]);
    assert!(meta["complete"] == false && meta.get("dump").is_none());
}

#[test]
fn order_is_restored_and_losses_are_marked() {
    let server = Server::with(&["--secure", "0"]);
    let client = host(server.block, 2);
    let console = Console::new(client, 6664, server.addr());
    for (offset, text) in [(0, "one\n"), (8, "three\n"), (4, "two\n"), (4, "two\n"), (114, "end\n")] {
        console.at(offset, text);
    }
    wait_for_log(&server, client, "one\ntwo\nthree\n[netdump: 100 bytes lost]\nend\n");
}

#[test]
fn secure_takes_logs_of_known_and_allowed_clients_only() {
    let setup = Setup::new(&[]);
    let (stranger, known, allowed) = (host(setup.block, 2), host(setup.block, 3), host(setup.block, 4));
    let enrolled = host(setup.block, 5);
    setup.magic(known, "aabbccdd11223344");
    setup.register("web", enrolled, 1);
    std::fs::write(setup.scratch.path().join("conf"), format!("log_allow=\"{allowed}/32\"\n")).unwrap();
    let server = setup.start();
    for client in [stranger, known, allowed, enrolled] {
        Console::new(client, 6664, server.addr()).say("text\n");
    }
    wait_for_log(&server, known, "text\n");
    wait_for_log(&server, allowed, "text\n");
    wait_for_log(&server, enrolled, "text\n");
    server.wait_for("log_refused");
    assert!(server.dirs(stranger).is_empty());
    assert_eq!(meta(&server.dir(known))["registered"], true);
}

#[test]
fn a_dump_joins_the_log_of_its_boot() {
    let server = Server::with(&["--secure", "0"]);
    let client = host(server.block, 2);
    let mut console = Console::new(client, 6664, server.addr());
    console.say("oops\n");
    wait_for_log(&server, client, "oops\n");
    let dir = server.dir(client);
    eventually("the first meta.json", || dir.join("meta.json").exists());
    let began = meta(&dir)["started"].clone();
    assert_eq!(server.crash(2, 1, &ImageParams { memory: 4 << 20, ..ImageParams::default() }).served, 1);
    server.wait_for("dump complete");
    console.say("Rebooting in 3 seconds..\n");
    let dir = server.dir(client);
    eventually("the last words", || read_log(&dir).ends_with("Rebooting in 3 seconds..\n"));
    assert!(read_log(&dir).starts_with("oops\n") && dir.join("vmcore").exists());
    let ended = ended_meta(&dir);
    assert_eq!((&ended["complete"], &ended["started"]), (&true.into(), &began));
    assert_eq!(server.dirs(client).len(), 1);
}

#[test]
fn a_restart_of_the_server_is_no_boot_of_the_client() {
    let setup = Setup::new(&["--secure", "0"]);
    let mut server = setup.start();
    let client = host(setup.block, 2);
    let mut console = Console::new(client, 6664, server.addr());
    console.say("before\n");
    wait_for_log(&server, client, "before\n");
    assert_eq!(server.stop(Signal::SIGTERM).code(), Some(0));
    console.offset += 7; // said while nobody listened
    assert!(setup.root().join(".netlog-streams.json").exists());
    let server = setup.start();
    assert!(!setup.root().join(".netlog-streams.json").exists(), "it tells of one moment only");
    console.say("after\n");
    wait_for_log(&server, client, "before\n[netdump: 7 bytes lost]\nafter\n");
    assert_eq!(server.dirs(client).len(), 1);
}

#[test]
fn a_log_that_somebody_removed_begins_anew() {
    let server = Server::with(&["--secure", "0"]);
    let client = host(server.block, 2);
    let mut console = Console::new(client, 6664, server.addr());
    console.say("before\n");
    wait_for_log(&server, client, "before\n");
    std::fs::remove_dir_all(server.dir(client)).unwrap();
    // The first packet finds out; what comes after it has a directory again.
    console.say("lost\n");
    server.wait_for("storage_failed");
    console.say("after\n");
    wait_for_log(&server, client, "after\n");
}
