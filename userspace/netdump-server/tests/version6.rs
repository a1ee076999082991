// SPDX-License-Identifier: GPL-2.0-or-later
//! Version 6 with the real server and its store of keys.

mod rig;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use netdump_core::engine::client::Dialects;
use netdump_core::engine::v6::{Config6, Engine6};
use netdump_core::engine::Time;
use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::handshake::{KeyName, Start6};
use netdump_core::wire::v6::hint::ResetHint;
use netdump_core::wire::v6::message::{kind, Wait};
use netdump_core::wire::v6::probe::{Probe, ProbeAck, ProbeKey, PROBE_LEN};
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::{Codec, Counter, Header, Level, SessionId};
use netdump_session::Ring;
use netdump_sim::corpus::Corpus;
use netdump_sim::crowd::{self, CrowdParams, CrowdReport};
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::source::leaves_out;
use nix::sys::signal::Signal;
use rig::{ended_meta, eventually, host, read_log, Core, Server, Setup, PATIENCE};
use std::os::unix::fs::MetadataExt;

fn image(memory_mib: u64) -> ImageParams {
    ImageParams { memory: memory_mib << 20, ..ImageParams::default() }
}

fn crash(server: &Server, params: &ImageParams, change: impl FnOnce(&mut CrowdParams)) -> CrowdReport {
    let mut crowd = CrowdParams { dialects: Dialects::Either, ..server.crowd(2, 1, params) };
    change(&mut crowd);
    crowd::run(&crowd).unwrap()
}

#[test]
fn a_clear_dump_is_true_and_its_directory_is_whole() {
    let server = Server::with(&["--secure", "0"]);
    let params = ImageParams { poisoned_every: 100, ..image(16) };
    let report = crash(&server, &params, |_| {});
    assert_eq!((report.served, report.machines[0].version), (1, 6), "version 6 is what both prefer");
    server.wait_for("dump complete");
    let dir = server.dir(host(server.block, 2));
    let machine = Image::new(params);
    Core::open(&dir.join("vmcore")).assert_true(&machine);
    let log = read_log(&dir);
    assert!(log.contains(std::str::from_utf8(machine.log()).unwrap()));
    assert!(log.contains(std::str::from_utf8(&machine.listing()).unwrap()));
    let meta = ended_meta(&dir);
    assert_eq!((&meta["complete"], &meta["authenticated"]), (&true.into(), &false.into()));
    let dump = &meta["dump"];
    assert_eq!((&dump["protocol"], &dump["show_state"], &dump["obeyed"]), (&6.into(), &true.into(), &true.into()));
    let readable = machine.ram_pages().filter(|pfn| machine.readable(*pfn)).count() as u64;
    let count = |kind: &str| dump["pages"][kind].as_u64().unwrap();
    assert_eq!(count("written") + count("zero"), readable);
    assert_eq!(dump["left_out"]["unreadable"].as_u64().unwrap(), count("left_out"));
    assert_eq!(count("written") + count("zero") + count("left_out"), machine.ram_pages().count() as u64);
}

#[test]
fn both_ends_leave_out() {
    let server = Server::with(&["--secure", "0", "--level", "8", "--codec", "zstd"]);
    let params = ImageParams { repeat: 64, ..image(16) };
    let report = crash(&server, &params, |crowd| crowd.level = Level::new(17).unwrap());
    server.wait_for("dump complete");
    let machine = Image::new(params);
    let level = Level::new(25).unwrap();
    let kept = |pfn: &_| machine.use_of(*pfn).is_none_or(|reason| !leaves_out(level, reason));
    let wanted = machine.ram_pages().filter(kept).count() as u64;
    let meta = ended_meta(&server.dir(host(server.block, 2)));
    let pages = &meta["dump"]["pages"];
    let count = |kind: &str| pages[kind].as_u64().unwrap();
    assert_eq!(count("written") + count("zero"), wanted, "{meta}");
    assert!(
        meta["dump"]["left_out"]["free"].as_u64().unwrap() > 0
            && meta["dump"]["left_out"]["user"].as_u64().unwrap() > 0
    );
    assert!(report.machines[0].sent_bytes < wanted * 4096 / 10, "it is compressed");
}

/// A client that sends as fast as it can: in one message that the kernel cuts, or without that; in short datagrams and in
/// long ones.
#[test]
fn a_dump_over_segmentation_offload_is_true() {
    let setup = Setup::new(&["--secure", "0", "--codec", "none", "--max_datagram", "8900", "--dumps_per_hour", "0"]);
    let web = host(setup.block, 3);
    setup.register("web", web, 1);
    let key = arming(&setup, 1);
    let server = setup.start();
    let bytes: Vec<u8> = (0..32u32 << 18).flat_map(|n| (n.wrapping_mul(0x9e37_79b9) | 1).to_le_bytes()).collect();
    let params = ImageParams { corpus: Some(Corpus::new(bytes)), ..ImageParams::default() };
    let machine = Image::new(params.clone());
    let mut dirs = Vec::new();
    for (max_datagram, no_gso, sealed) in
        [(1416, false, false), (1416, true, false), (8900, false, false), (1416, false, true), (8900, false, true)]
    {
        let first = host(server.block, if sealed { 3 } else { 2 });
        let report = crash(&server, &params, |crowd| {
            (crowd.first, crowd.max_datagram, crowd.no_gso) = (first, max_datagram, no_gso);
            crowd.key = sealed.then_some(key);
            // Or it would be a panic that was dumped already.
            crowd.image.seed = dirs.len() as u64;
        });
        assert_eq!((report.served, report.machines[0].version, report.machines[0].unsent), (1, 6, 0));
        let new = server.dirs(first).into_iter().find(|dir| !dirs.contains(dir)).expect("a directory of its own");
        let meta = ended_meta(&new);
        assert_eq!((&meta["complete"], &meta["authenticated"]), (&true.into(), &sealed.into()));
        assert_eq!(meta["dump"]["pages"]["written"], machine.ram_pages().count() as u64);
        Core::open(&new.join("vmcore")).assert_true(&machine);
        dirs.push(new);
    }
}

/// The arm key of a client that was registered with root key number `n`.
fn arming(setup: &Setup, n: u8) -> (KeyName, Key) {
    let arm_id = [7; 16];
    (KeyName { key_id: [n; 16], arm_id }, Key::new(setup.arm_key(n, &arm_id)))
}

#[test]
fn a_known_client_is_dumped_sealed_and_under_its_name() {
    let setup = Setup::new(&[]);
    let web = host(setup.block, 2);
    setup.register("web", web, 1);
    setup.register("web", web, 2);
    let keys = [arming(&setup, 2), arming(&setup, 1)];
    // It may have moved.
    setup.register("elsewhere", host(setup.block, 7), 5);
    let moved = arming(&setup, 5);
    let server = setup.start();
    for (n, (key, id, previous)) in
        [(keys[0], "web", false), (keys[1], "web", true), (moved, "elsewhere", false)].into_iter().enumerate()
    {
        let report = crash(&server, &image(4), |crowd| {
            crowd.key = Some(key);
            crowd.first = host(server.block, 2 + n as u8);
        });
        assert_eq!((report.served, report.machines[0].version), (1, 6));
        let dir = server.dir(host(server.block, 2 + n as u8));
        let meta = ended_meta(&dir);
        assert_eq!((&meta["complete"], &meta["authenticated"]), (&true.into(), &true.into()));
        assert_eq!(meta["client_id"], id);
        assert_eq!(meta.get("previous_key").is_some(), previous);
        Core::open(&dir.join("vmcore")).assert_true(&Image::new(image(4)));
    }
}

#[test]
fn who_has_no_key_or_another_one_gets_and_gives_nothing() {
    let setup = Setup::new(&["--secure", "0"]);
    let web = host(setup.block, 2);
    setup.register("web", web, 1);
    let (name, _) = arming(&setup, 1);
    let server = setup.start();
    let stranger = KeyName { key_id: [9; 16], ..name };
    for (key, reason) in [
        (Some((name, Key::new([1; 32]))), "forged"),
        (Some((stranger, Key::new([1; 32]))), "unknown_key"),
        (None, "downgrade"),
    ] {
        let report = crash(&server, &image(4), |crowd| {
            crowd.key = key;
            crowd.dialects = Dialects::Six;
            crowd.handshake_timeout = 1_500_000_000;
        });
        assert_eq!(report.given_up, 1, "{reason}");
        server.wait_for(reason);
        assert!(server.dirs(web).is_empty(), "{reason}");
    }
}

/// What is said to a stranger is little and seldom.
#[test]
fn a_session_that_is_not_known_is_hinted_at_once_a_second() {
    let server = Server::with(&["--secure", "0"]);
    let socket = UdpSocket::bind((host(server.block, 3), 6666)).unwrap();
    socket.connect(server.addr()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut datagram = [0; 256];
    Header { kind: kind::PIECE, session: SessionId(*b"server"), counter: Counter(7) }.emit(&mut datagram).unwrap();
    socket.send(&datagram[..255]).unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        socket.send(&datagram).unwrap();
    }
    let mut buf = [0; 64];
    let len = socket.recv(&mut buf).unwrap();
    assert_eq!(buf[..len], ResetHint::answer(&datagram).unwrap());
    // A second one only when the first is a second old.
    loop {
        socket.send(&datagram).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if socket.recv(&mut buf).is_ok() {
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// A probe from a socket of that address, and the answer.
fn probe(
    server: &Server,
    address: Ipv4Addr,
    named: Option<KeyName>,
    key: Option<&ProbeKey>,
    serial: u64,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.connect(server.addr()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut question = vec![0; PROBE_LEN];
    let probe = Probe { id: SessionId([9; 6]), serial: Counter(serial), key: named };
    probe.emit(&Ring, key, &mut question).unwrap();
    socket.send(&question).unwrap();
    let mut buf = [0; 512];
    let answer = socket.recv(&mut buf).ok().map(|len| buf[..len].to_vec());
    (question, answer)
}

#[test]
fn who_would_be_dumped_hears_that_it_is_heard() {
    let setup = Setup::new(&[]);
    let (web, stranger) = (host(setup.block, 2), host(setup.block, 3));
    setup.register("web", web, 1);
    let (name, key) = arming(&setup, 1);
    let probe_key = ProbeKey::derive(&Ring, &key);
    let server = setup.start();
    // Wherever it is.
    for (n, address) in [web, stranger].into_iter().enumerate() {
        let (question, answer) = probe(&server, address, Some(name), Some(&probe_key), n as u64);
        let answer = answer.expect("an answer");
        assert!(answer.len() < question.len());
        let ack = ProbeAck::parse(&answer).unwrap();
        assert_eq!((ack.id, ack.serial), (SessionId([9; 6]), Counter(n as u64)));
        assert!(ProbeAck::is_authentic(&Ring, &probe_key, &question, &answer));
        let (other, _) = probe(&server, address, Some(name), Some(&probe_key), 77);
        assert!(!ProbeAck::is_authentic(&Ring, &probe_key, &other, &answer), "of another question");
    }
    // secure=1: nobody without a key, whether he is known or not.
    assert!(probe(&server, web, None, None, 1).1.is_none() && probe(&server, stranger, None, None, 1).1.is_none());
    let unknown = KeyName { key_id: [9; 16], ..name };
    assert!(probe(&server, web, Some(unknown), Some(&probe_key), 1).1.is_none());
    assert!(probe(&server, web, Some(name), Some(&ProbeKey::new([1; 32])), 1).1.is_none());
    server.wait_for("probe without a key is not answered");
    server.wait_for("probe with a key that no client is enrolled with");
    server.wait_for("a probe whose MAC is not that of its key");
    let open = Server::with(&["--secure", "0"]);
    let (_, answer) = probe(&open, host(open.block, 2), None, None, 5);
    assert_eq!(ProbeAck::parse(&answer.expect("an answer")).unwrap().serial, Counter(5));
}

#[test]
fn the_key_of_probes_is_good_for_nothing_else() {
    let setup = Setup::new(&[]);
    let web = host(setup.block, 2);
    setup.register("web", web, 1);
    let (name, key) = arming(&setup, 1);
    // What somebody finds in a dump.
    let found = *netdump_keys::secret::probe_key(key.expose());
    let server = setup.start();
    let (_, answer) = probe(&server, web, Some(name), Some(&ProbeKey::new(found)), 1);
    assert!(answer.is_some(), "both ends derive the same");
    let report = crash(&server, &image(4), |crowd| {
        (crowd.key, crowd.first) = (Some((name, Key::new(found))), web);
        crowd.handshake_timeout = 2_000_000_000;
    });
    assert_eq!(report.served, 0);
    assert!(server.dirs(web).is_empty());
    server.wait_for("START6 whose MAC is not that of its key");
}

/// Starts a dump and kills the server when so much of it is stored.
fn killed_in_mid_dump(
    setup: &Setup,
    params: &ImageParams,
    part: f64,
) -> (Server, std::thread::JoinHandle<CrowdReport>) {
    let mut server = setup.start();
    let mut crowd = CrowdParams { dialects: Dialects::Six, ..server.crowd(2, 1, params) };
    crowd.level = Level::new(16).unwrap();
    let client = std::thread::spawn(move || crowd::run(&crowd).unwrap());
    let machine = host(setup.block, 2);
    let enough = (params.memory as f64 * part) as u64 / 512;
    eventually("some of the dump on the disk", || {
        let dirs = server.dirs(machine);
        let stored = dirs.first().and_then(|dir| std::fs::metadata(dir.join("vmcore-incomplete")).ok());
        stored.is_some_and(|file| file.blocks() >= enough)
    });
    server.stop(Signal::SIGKILL);
    (setup.start(), client)
}

#[test]
fn a_server_that_was_killed_goes_on_with_the_dump() {
    let setup = Setup::new(&["--secure", "0"]);
    let params = ImageParams { poisoned_every: 100, ..image(256) };
    let (server, client) = killed_in_mid_dump(&setup, &params, 0.2);
    let report = client.join().unwrap();
    assert_eq!((report.served, report.machines[0].version), (1, 6));
    server.wait_for("a dump that was begun before goes on");
    server.wait_for("dump complete");
    let dir = server.dir(host(server.block, 2));
    let machine = Image::new(params);
    let meta = ended_meta(&dir);
    assert_eq!(meta["complete"], true);
    assert!(!dir.join("resume").exists(), "nobody goes on with it");
    let core = Core::open(&dir.join("vmcore"));
    let kept = |pfn: &_| machine.use_of(*pfn).is_none_or(|reason| !leaves_out(Level::new(16).unwrap(), reason));
    let wanted: Vec<_> = machine.ram_pages().filter(|pfn| machine.readable(*pfn)).filter(kept).collect();
    for pfn in &wanted {
        assert_eq!(core.page(pfn.0).unwrap(), machine.page(*pfn), "page {pfn:?}");
    }
    let pages = &meta["dump"]["pages"];
    let count = |kind: &str| pages[kind].as_u64().unwrap();
    assert_eq!(count("written") + count("zero"), wanted.len() as u64, "{pages}");
    assert_eq!(count("written") + count("zero") + count("left_out"), machine.ram_pages().count() as u64, "{pages}");
    let log = read_log(&dir);
    assert_eq!(log.matches("the kernel log as of the crash").count(), 1, "{log}");
    // It did not begin anew: what was there is not sent twice.
    let sent = report.machines[0].sent_bytes;
    assert!(sent < wanted.len() as u64 * 4096 * 6 / 5, "{sent} bytes for {} pages", wanted.len());
}

#[test]
fn a_journal_that_is_not_to_be_trusted_is_not_gone_on_with() {
    let setup = Setup::new(&["--secure", "0"]);
    let params = image(128);
    let mut server = setup.start();
    server.stop(Signal::SIGTERM);
    let (mut server, client) = killed_in_mid_dump(&setup, &params, 0.2);
    // Another boot of the server's machine: what the disk had not got is lost.
    server.stop(Signal::SIGKILL);
    let dir = server.dirs(host(setup.block, 2)).remove(0);
    let journal = dir.join("resume");
    let text = std::fs::read_to_string(&journal).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&journal, text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
    let server = setup.start();
    assert_eq!(client.join().unwrap().served, 1);
    server.wait_for("dump complete");
    let dirs = server.dirs(host(setup.block, 2));
    assert_eq!(dirs.len(), 2, "the dump was begun anew: {dirs:?}");
    assert!(dirs[0].join("vmcore-incomplete").exists(), "what there was is still there");
    assert!(dirs[1].join("vmcore").exists());
}

/// A machine that speaks only as long as the test wants it to.
struct Client {
    socket: UdpSocket,
    engine: Box<Engine6>,
    image: Image,
    began: Instant,
}

impl Client {
    fn crash(server: &Server, address: Ipv4Addr, key: Option<(KeyName, Key)>) -> Client {
        let socket = UdpSocket::bind((address, 6666)).unwrap();
        socket.connect(server.addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let config = Config6 {
            machine: Machine::X86_64,
            key,
            seed: [address.octets()[3]; 32],
            entropy: [7; 24],
            max_datagram: 1416,
            codecs: Codec::Raw.bit(),
            level: Level::ALL,
            handshake_timeout: 0,
            idle_timeout: 0,
            queue_timeout: 0,
            total_timeout: 0,
        };
        let mut engine = Box::new(Engine6::new());
        engine.begin(config, Time(0), &Ring);
        Client { socket, engine, image: Image::new(image(4)), began: Instant::now() }
    }

    /// Speaks with the server until `enough` of a datagram that came.
    fn speak(&mut self, mut enough: impl FnMut(&[u8]) -> bool) {
        let mut buf = [0; 2048];
        while self.began.elapsed() < PATIENCE {
            let now = Time(self.began.elapsed().as_nanos() as u64);
            while let Some(len) = self.engine.transmit(now, &mut self.image, &Ring, &mut buf) {
                self.socket.send(&buf[..len]).unwrap();
            }
            let Ok(len) = self.socket.recv(&mut buf) else { continue };
            self.engine.handle(now, &buf[..len], &Ring);
            if enough(&buf[..len]) {
                return;
            }
        }
        panic!("it never comes");
    }
}

fn is(kind: u8) -> impl Fn(&[u8]) -> bool {
    move |datagram| Header::parse(datagram).is_ok_and(|(header, _)| header.kind == kind)
}

#[test]
fn who_waits_is_told_when_somebody_before_him_has_gone() {
    let server = Server::with(&["--secure", "0", "--max_concurrent_dumps", "1", "--client_timeout", "3"]);
    let mut clients = [2, 3, 4].map(|n| Client::crash(&server, host(server.block, n), None));
    let [first, second, last] = &mut clients;
    // One has the slot, one is the next, and neither says anything more.
    first.speak(is(kind::ASK));
    second.speak(is(kind::WAIT));
    let mut places = Vec::new();
    last.speak(|datagram| {
        match Header::parse(datagram) {
            Ok((header, body)) if header.kind == kind::WAIT => places.push(Wait::parse(body).unwrap().position),
            _ => {}
        }
        is(kind::ASK)(datagram)
    });
    assert!(places.len() > 2, "{places:?}: it is told again and again");
    places.dedup();
    assert_eq!(places, [2, 1]);
}

#[test]
fn only_a_client_itself_ends_its_silent_dump() {
    let setup = Setup::new(&[]);
    let web = host(setup.block, 2);
    setup.register("web", web, 1);
    setup.register("other", host(setup.block, 3), 2);
    let (own, others) = (arming(&setup, 1), arming(&setup, 2));
    let server = setup.start();
    let mut client = Client::crash(&server, web, Some(own));
    // The server has given it a slot and asks; nothing can be read of that.
    client.speak(|_| server.log().contains("dump begins"));
    let start = |key: Option<KeyName>, sealing: &Key, client: &Client| {
        let start = Start6 {
            machine: Machine::X86_64,
            key,
            turns: true,
            suites: 2,
            codecs: 1,
            max_datagram: 1416,
            fire_id: [1; 16],
            epoch: 0,
            random: [2; 32],
            session: SessionId([3; 6]),
            kx: &[],
        };
        let mut bytes = [0; 256];
        let len = start.emit(&Ring, sealing, &mut bytes).unwrap();
        client.socket.send(&bytes[..len]).unwrap();
    };
    // Longer than the silence after which a handshake counts as that of a machine that crashed anew.
    std::thread::sleep(Duration::from_secs(6));
    // From its address, with a key that is good for another machine, and with none that is good for anything.
    start(Some(others.0), &others.1, &client);
    start(Some(own.0), &Key::new([9; 32]), &client);
    server.wait_for("forged");
    assert!(!server.log().contains("a new handshake"), "{}", server.log());
    start(Some(own.0), &own.1, &client);
    server.wait_for("a new handshake of a client that has been silent");
}
