// SPDX-License-Identifier: GPL-2.0-or-later
//! More machines crash at once than the server has slots for: in virtual time with the server's own admission, and over real
//! sockets.

mod rig;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use netdump_core::engine::client::Dialects;
use netdump_core::engine::v6::{Config6, Engine6};
use netdump_core::engine::{End, Time};
use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::handshake::KeyName;
use netdump_core::wire::v6::message::{kind, Wait};
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::{Codec, Header, Level};
use netdump_server::admission::{Admission, Decision, DumpId, Limits};
use netdump_session::v6::{is_authentic, Params6, Session6};
use netdump_session::{Event, Failure, Grant, Outcome, Phase, Ring};
use netdump_sim::crowd::{self, CrowdParams};
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::link::{Link, LinkParams};
use netdump_sim::world6::SECOND;
use rig::{host, Core, Server};

const MACHINES: usize = 1000;
const SLOTS: usize = 4;
/// What the ring of a machine's network card holds.
const BURST: usize = 256;
/// What a session of somebody who waits may take, as netdump-server/README.md says of all that belongs to him.
const HELD_WHILE_WAITING: usize = 16 << 10;

/// A machine, its two links, and its session at the server.
struct Client {
    engine: Box<Engine6>,
    image: Image,
    key: Option<Key>,
    end: Option<(End, u64)>,
    /// Places that it was told, with the time; seen where nothing is sealed.
    told: Vec<(u32, u64)>,
    up: Link<Vec<u8>>,
    down: Link<Vec<u8>>,
    session: Option<Session6>,
    pages: BTreeSet<u64>,
    outcome: Option<Outcome>,
}

/// All of them.
struct Crowd {
    now: u64,
    epoch: Instant,
    clients: Vec<Client>,
    admission: Admission,
    /// Machines to look at, and when.
    agenda: BinaryHeap<Reverse<(u64, usize)>>,
    /// In the order in which they came into the queue, and in which they left it for a slot.
    queued: Vec<usize>,
    started: Vec<usize>,
    most_running: usize,
    most_held: usize,
}

impl Crowd {
    /// All crash now.
    fn crash(queue_timeout: u64, loss: f64) -> Crowd {
        let wire =
            LinkParams { rate: Some(1_000_000_000), delay: 100_000, jitter: 200_000, loss, ..LinkParams::default() };
        let clients = (0..MACHINES).map(|n| Client::crash(n, queue_timeout, &wire)).collect();
        Crowd {
            now: 0,
            epoch: Instant::now(),
            clients,
            admission: Admission::new(Limits { concurrent: SLOTS, waiting: MACHINES, per_hour: 2 }),
            agenda: (0..MACHINES).map(|n| Reverse((0, n))).collect(),
            queued: Vec::new(),
            started: Vec::new(),
            most_running: 0,
            most_held: 0,
        }
    }

    /// Lets time pass until nothing more will happen.
    fn run(&mut self) {
        while let Some(Reverse((at, n))) = self.agenda.pop() {
            self.now = self.now.max(at);
            assert!(self.now < 24 * 3600 * SECOND, "it never ends");
            let instant = self.instant();
            self.clients[n].step(self.now, instant);
            self.serve(n);
            if let Some(next) = self.clients[n].next_moment(self.now, self.epoch) {
                self.agenda.push(Reverse((next, n)));
            }
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now)
    }

    /// What the server does with what a session tells it.
    fn serve(&mut self, n: usize) {
        let (now, id) = (self.instant(), DumpId(n as u64));
        let mut left = false;
        let client = &mut self.clients[n];
        let Some(session) = &mut client.session else { return };
        while let Some(event) = session.poll_event() {
            match event {
                Event::Proved => match self.admission.request(id, address(n), now) {
                    Decision::Start => session.grant_slot(now, Grant::Full),
                    Decision::Wait(place) => {
                        self.queued.push(n);
                        session.set_position(place as u32 + 1);
                    }
                    other => panic!("{other:?}: there is room for all"),
                },
                Event::Described(_) => session.storage_ready(now),
                Event::Pages(pages) => {
                    pages.each(|pfn, bytes| {
                        assert!(*bytes == client.image.page(pfn)[..], "machine {n}, page {}", pfn.0);
                        assert!(client.pages.insert(pfn.0), "machine {n}, page {} twice", pfn.0);
                    });
                    session.recycle(pages.data);
                }
                Event::MemoryDone(_) => session.stored(now),
                Event::Finished(outcome) => {
                    client.outcome = Some(outcome);
                    left = true;
                }
                _ => {}
            }
        }
        if session.phase() == Phase::Waiting {
            self.most_held = self.most_held.max(size_of::<Session6>() + session.held());
        }
        let mut buf = Vec::new();
        while session.poll_transmit(now, &mut buf) {
            client.down.offer(self.now, buf.clone());
        }
        self.most_running = self.most_running.max(self.admission.running());
        if left {
            client.session = None;
            self.admission.leave(id);
            self.admit_next();
        }
    }

    fn admit_next(&mut self) {
        let now = self.instant();
        while let Some((id, decision)) = self.admission.next(now) {
            let n = id.0 as usize;
            assert_eq!(decision, Decision::Start);
            self.started.push(n);
            let session = self.clients[n].session.as_mut().expect("who waits has a session");
            assert_eq!(session.phase(), Phase::Waiting);
            session.grant_slot(now, Grant::Full);
            self.agenda.push(Reverse((self.now, n)));
        }
        if self.admission.has_moved() {
            for (id, place) in self.admission.queue().zip(1..) {
                self.clients[id.0 as usize].session.as_mut().expect("likewise").set_position(place);
            }
        }
    }
}

fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + n as u32))
}

impl Client {
    fn crash(n: usize, queue_timeout: u64, wire: &LinkParams) -> Client {
        let image =
            Image::new(ImageParams { memory: 2 << 20, seed: n as u64, log: 500, listing: 2, ..ImageParams::default() });
        let mut arm = [0x5a; 32];
        arm[..8].copy_from_slice(&(n as u64).to_le_bytes());
        // What those without a key are told can be read on the way.
        let key = (n % 2 == 0).then_some(Key::new(arm));
        let config = Config6 {
            machine: Machine::X86_64,
            key: key.map(|key| (KeyName { key_id: [1; 16], arm_id: [2; 16] }, key)),
            seed: arm,
            entropy: [7; 24],
            max_datagram: 1416,
            codecs: Codec::Raw.bit(),
            level: Level::ALL,
            handshake_timeout: 300 * SECOND,
            idle_timeout: 60 * SECOND,
            queue_timeout,
            total_timeout: 0,
        };
        let mut engine = Box::new(Engine6::new());
        engine.begin(config, Time(0), &Ring);
        Client {
            engine,
            image,
            key,
            end: None,
            told: Vec::new(),
            up: Link::new(wire.clone(), n as u64),
            down: Link::new(wire.clone(), (n + MACHINES) as u64),
            session: None,
            pages: BTreeSet::new(),
            outcome: None,
        }
    }

    fn step(&mut self, now: u64, instant: Instant) {
        for _ in 0..BURST {
            let Some(datagram) = self.down.take_due(now) else { break };
            match Header::parse(&datagram) {
                Ok((header, body)) if header.kind == kind::WAIT && self.key.is_none() => {
                    self.told.push((Wait::parse(body).unwrap().position, now));
                }
                _ => {}
            }
            if self.end.is_none() {
                self.engine.handle(Time(now), &datagram, &Ring);
            }
        }
        let mut buf = [0; 2048];
        for _ in 0..64 {
            if self.end.is_some() {
                break;
            }
            let Some(len) = self.engine.transmit(Time(now), &mut self.image, &Ring, &mut buf) else { break };
            self.up.offer(now, buf[..len].to_vec());
        }
        if self.end.is_none() {
            self.end = self.engine.poll(Time(now)).map(|end| (end, now));
        }
        while let Some(datagram) = self.up.take_due(now) {
            if let Some(session) = &mut self.session {
                session.handle(instant, &datagram);
            } else if Header::is_start(&datagram) && self.outcome.is_none() {
                assert!(self.key.is_none_or(|key| is_authentic(&datagram, &key)));
                let params = Params6 { level: Level::new(31).unwrap(), ..Params6::default() };
                self.session = Session6::new(params, &datagram, self.key.as_ref(), [9; 32], instant);
            }
        }
        if let Some(session) = self.session.as_mut().filter(|s| s.poll_timeout().is_some_and(|at| at <= instant)) {
            session.handle_timeout(instant);
        }
    }

    fn next_moment(&self, now: u64, epoch: Instant) -> Option<u64> {
        let engine = match self.end {
            Some(_) => None,
            None if self.engine.has_more() => Some(now + 10_000),
            None => self.engine.next_deadline().map(|at| at.0),
        };
        let session = self.session.as_ref().and_then(Session6::poll_timeout);
        let session = session.map(|at| at.saturating_duration_since(epoch).as_nanos() as u64);
        [engine, session, self.up.next_due(), self.down.next_due()].into_iter().flatten().min()
    }

    /// Its dump was complete, and told so.
    fn is_served(&self) -> bool {
        let complete = self.outcome.as_ref().is_some_and(|outcome| outcome.failure.is_none());
        let wanted = |pfn: &_| self.image.use_of(*pfn).is_none();
        assert!(!complete || self.image.ram_pages().filter(wanted).map(|pfn| pfn.0).eq(self.pages.iter().copied()));
        complete
    }
}

#[test]
fn a_thousand_machines_have_their_turn_in_the_order_in_which_they_came() {
    let mut crowd = Crowd::crash(24 * 3600 * SECOND, 0.05);
    crowd.run();
    for (n, client) in crowd.clients.iter().enumerate() {
        assert!(client.is_served(), "machine {n}: {:?} {:?}", client.end, client.outcome);
        let places: Vec<u32> = client.told.iter().map(|(place, _)| *place).collect();
        assert!(places.windows(2).all(|pair| pair[0] >= pair[1]), "machine {n} was told {places:?}");
    }
    let restarted = crowd.clients.iter().filter(|client| matches!(client.end, Some((End::Reboot, _)))).count();
    // A BYE that is lost ends the dump for the machine as well.
    assert_eq!(restarted, MACHINES);
    assert_eq!((crowd.queued.len(), crowd.most_running), (MACHINES - SLOTS, SLOTS));
    assert_eq!(crowd.queued, crowd.started, "first come, first served");
    assert!(crowd.most_held <= HELD_WHILE_WAITING, "{} bytes", crowd.most_held);
    // Who came last has seen the queue grow shorter.
    let last = crowd.queued.iter().rev().find(|n| crowd.clients[**n].key.is_none()).unwrap();
    let seen: BTreeSet<u32> = crowd.clients[*last].told.iter().map(|(place, _)| *place).collect();
    println!("{:.1} s, {} bytes, {} places", crowd.now as f64 / 1e9, crowd.most_held, seen.len());
    assert!(seen.len() > 20 && *seen.last().unwrap() as usize > MACHINES / 2, "{seen:?}");
}

#[test]
fn who_has_waited_for_queue_timeout_goes_on_without_a_dump() {
    const TIMEOUT: u64 = 10 * SECOND;
    let mut crowd = Crowd::crash(TIMEOUT, 0.05);
    crowd.run();
    let mut ends: HashMap<String, usize> = HashMap::new();
    for (n, client) in crowd.clients.iter().enumerate() {
        let (end, at) = client.end.unwrap_or_else(|| panic!("machine {n} hangs"));
        *ends.entry(format!("{end:?}")).or_default() += 1;
        assert_eq!(client.is_served(), end == End::Reboot, "machine {n}: {end:?} {:?}", client.outcome);
        if end == End::Reboot {
            continue;
        }
        assert_eq!(end, End::QueueTimeout, "machine {n}");
        if let Some((_, since)) = client.told.first() {
            assert!((TIMEOUT..=TIMEOUT + SECOND / 100).contains(&(at - since)), "machine {n}: {at} {since}");
        }
        assert!(client.pages.is_empty() && at < 2 * TIMEOUT, "machine {n}: {at}");
        let failure = client.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
        assert!(matches!(failure, Some(Failure::Silent(_))), "machine {n}: {failure:?}");
    }
    println!("{:.1} s, {ends:?}", crowd.now as f64 / 1e9);
    assert!(ends["Reboot"] > 2 * SLOTS && ends["QueueTimeout"] > MACHINES / 4, "{ends:?}");
    assert_eq!((crowd.admission.running(), crowd.admission.waiting()), (0, 0));
    assert!(crowd.clients.iter().all(|client| client.session.is_none()), "no session is left");
    // Slots go to some that have given up, and are free again once those have been silent for a minute.
    assert!(crowd.now < 2 * TIMEOUT + 2 * 60 * SECOND, "{}", crowd.now);
    let order: Vec<usize> = crowd.queued.iter().copied().filter(|n| crowd.started.contains(n)).collect();
    assert_eq!(order, crowd.started);
    assert!(crowd.most_held <= HELD_WHILE_WAITING, "{} bytes", crowd.most_held);
}

/// The real server. No other test of this file takes addresses, so that all of 127.x.y.0/24 is there for the machines.
#[test]
fn sixty_machines_wait_at_the_real_server() {
    const COUNT: u32 = 60;
    let server = Server::with(&["--secure", "0", "--max_concurrent_dumps", "4", "--level", "31"]);
    let image = ImageParams { memory: 2 << 20, listing: 3, ..ImageParams::default() };
    let params = CrowdParams { dialects: Dialects::Six, ..server.crowd(2, COUNT, &image) };
    let report = crowd::run(&params).unwrap();
    assert_eq!(report.served, COUNT as usize, "{report:?}");
    server.wait_for_count("dump complete", COUNT as usize);
    let log = server.log();
    let address = |line: &str| line.split("client=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let with = |what: &str| log.lines().filter(|line| line.contains(what)).map(address).collect::<Vec<_>>();
    let (waiting, begun) = (with("waiting for a slot"), with("dump begins"));
    assert_eq!(begun.len(), COUNT as usize);
    assert!(waiting.len() > COUNT as usize / 2, "{log}");
    let in_turn: Vec<_> = begun.iter().filter(|client| waiting.contains(client)).cloned().collect();
    assert_eq!(in_turn, waiting, "first come, first served");
    let mut running = 0i32;
    for line in log.lines() {
        running += i32::from(line.contains("dump begins")) - i32::from(line.contains("dump complete"));
        assert!(running <= 4, "{log}");
    }
    for n in 0..COUNT {
        let machine = Image::new(ImageParams { seed: image.seed + u64::from(n), ..image.clone() });
        let client = Ipv4Addr::from(u32::from(host(server.block, 2)) + n);
        let core = Core::open(&server.dir(client).join("vmcore"));
        let kept = |pfn: &_| machine.use_of(*pfn).is_none();
        assert!(machine.ram_pages().filter(kept).all(|pfn| core.page(pfn.0) == Some(machine.page(pfn))), "{client}");
    }
}
