// SPDX-License-Identifier: GPL-2.0-or-later
//! A crashed machine and a server that speak version 6 over a bad network, in virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netdump_core::engine::v6::{Config6, Engine6, State6};
use netdump_core::engine::{End, Time};
use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::handshake::KeyName;
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::{Codec, Header, Level, Reason};
use netdump_core::wire::Pfn;
use netdump_session::v6::{is_authentic, Hints, Params6, Session6};
use netdump_session::{Absence, Event, Failure, Grant, Outcome, Resumed, Ring};
use netdump_vmcore::DumpInfo;

use crate::image::{Image, ImageParams};
use crate::link::{Link, LinkParams};
use crate::source::leaves_out;

/// One second of virtual time.
pub const SECOND: u64 = 1_000_000_000;
/// What the ring of the machine's network card holds.
const CLIENT_BURST: usize = 256;
/// What the machine's transmitter takes before it looks at the network again.
const SERVER_LIMIT: u64 = 200_000_000;
/// The arm key of machine and server.
pub const KEY: Key = Key::new([0x5a; 32]);

/// What the world is like.
#[derive(Debug, Clone)]
pub struct World6Params {
    /// The machine.
    pub image: ImageParams,
    /// From the machine to the server.
    pub up: LinkParams,
    /// From the server to the machine.
    pub down: LinkParams,
    /// Whether the machine has a key.
    pub keyed: bool,
    /// What the server asks for.
    pub session: Params6,
    /// The machine's own level.
    pub level: Level,
    /// The machine's limits, ns; 0 is none.
    pub handshake_timeout: u64,
    /// Likewise.
    pub idle_timeout: u64,
    /// Likewise.
    pub queue_timeout: u64,
    /// Of all chance.
    pub seed: u64,
}

impl Default for World6Params {
    fn default() -> Self {
        // A gigabit, a tenth of a millisecond each way.
        let wire = LinkParams { rate: Some(1_000_000_000), delay: 100_000, ..LinkParams::default() };
        World6Params {
            image: ImageParams::default(),
            up: wire.clone(),
            down: wire,
            keyed: true,
            session: Params6::default(),
            level: Level::ALL,
            handshake_timeout: 300 * SECOND,
            idle_timeout: 60 * SECOND,
            queue_timeout: 600 * SECOND,
            seed: 1,
        }
    }
}

/// What a server stored of one dump.
#[derive(Debug, Default)]
pub struct Stored6 {
    /// What the headers would hold.
    pub info: Option<Box<DumpInfo>>,
    /// Each page.
    pub pages: BTreeMap<u64, Box<[u8]>>,
    /// Their frames, in the order in which they came.
    pub order: Vec<u64>,
    /// Frames that were left out.
    pub left_out: u64,
    /// What another session need not fetch.
    pub resumed: Resumed,
    /// The kernel log.
    pub log: Vec<u8>,
    /// The task listing.
    pub listing: Vec<u8>,
    /// How all of it ended.
    pub outcome: Option<Outcome>,
}

/// Somebody on the path to the machine (`true`) or from it: what goes on in place of a datagram.
pub type Attacker = Box<dyn FnMut(bool, Vec<u8>) -> Vec<Vec<u8>>>;

/// The machine, the network and the server.
pub struct World6 {
    now: u64,
    epoch: Instant,
    params: World6Params,
    engine: Box<Engine6>,
    image: Image,
    end: Option<End>,
    up: Link<Vec<u8>>,
    down: Link<Vec<u8>>,
    session: Option<Session6>,
    sessions: u64,
    hints: Hints,
    stored: Stored6,
    /// Whether there is a server: what is sent to none is lost.
    pub server_runs: bool,
    /// Whether the owner gives a slot as soon as the client has proved itself.
    pub grant: bool,
    /// Whether the server keeps what it has stored when it dies, and goes on with it.
    pub resumes: bool,
    /// On the path.
    pub attacker: Option<Attacker>,
}

impl World6 {
    /// A machine that has just crashed, and a server that runs.
    pub fn new(params: World6Params) -> Self {
        let image = Image::new(params.image.clone());
        let mut engine = Box::new(Engine6::new());
        let config = Config6 {
            machine: Machine::X86_64,
            key: params.keyed.then_some((KeyName { key_id: [1; 16], arm_id: [2; 16] }, KEY)),
            seed: [params.seed as u8; 32],
            entropy: [7; 24],
            max_datagram: 1416,
            codecs: Codec::Lz4.bit() | Codec::Zstd.bit(),
            level: params.level,
            handshake_timeout: params.handshake_timeout,
            idle_timeout: params.idle_timeout,
            queue_timeout: params.queue_timeout,
            total_timeout: 0,
        };
        engine.begin(config, Time(0), &Ring);
        World6 {
            now: 0,
            epoch: Instant::now(),
            engine,
            image,
            end: None,
            up: Link::new(params.up.clone(), params.seed),
            down: Link::new(params.down.clone(), params.seed.wrapping_add(1)),
            session: None,
            sessions: 0,
            hints: Hints::default(),
            stored: Stored6::default(),
            params,
            server_runs: true,
            grant: true,
            resumes: false,
            attacker: None,
        }
    }

    /// Virtual time since the crash, ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How the dump ended for the machine.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The machine.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Its engine.
    pub fn engine(&self) -> &Engine6 {
        &self.engine
    }

    /// From the machine to the server.
    pub fn up(&self) -> &Link<Vec<u8>> {
        &self.up
    }

    /// What the server has stored of the dump that it began last.
    pub fn stored(&self) -> &Stored6 {
        &self.stored
    }

    /// The server's session, if there is one.
    pub fn session(&mut self) -> Option<&mut Session6> {
        self.session.as_mut()
    }

    /// Sessions that were begun.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Why the server's dump is not complete.
    pub fn failure(&self) -> Option<&Failure> {
        self.stored.outcome.as_ref()?.failure.as_ref()
    }

    /// Gives the slot now.
    pub fn give_slot(&mut self) {
        let now = self.instant();
        if let Some(session) = &mut self.session {
            session.grant_slot(now, Grant::Full);
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.now)
    }

    /// Lets time pass until `until`, or until nothing more will happen.
    pub fn run_until(&mut self, until: u64) {
        loop {
            self.step();
            match self.next_moment() {
                Some(next) if next <= until => self.now = next.max(self.now),
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
        }
    }

    /// Lets time pass until the machine has ended its dump and the server its session.
    pub fn run_to_the_end(&mut self) {
        loop {
            self.step();
            let server_done = self.session.as_ref().is_none_or(Session6::is_finished);
            match self.next_moment() {
                Some(next) if self.end.is_none() || !server_done => self.now = next.max(self.now),
                _ => return,
            }
            assert!(self.now < 24 * 3600 * SECOND, "it never ends: {:?}", self.engine.counters());
        }
    }

    fn next_moment(&self) -> Option<u64> {
        let client = match self.end {
            Some(_) => None,
            None if self.engine.has_more() => Some(self.now + 10_000),
            None => self.engine.next_deadline().map(|at| at.0),
        };
        let server = self.session.as_ref().filter(|s| !s.is_finished()).and_then(Session6::poll_timeout);
        let server = server.map(|at| at.saturating_duration_since(self.epoch).as_nanos() as u64);
        [self.up.next_due(), self.down.next_due(), client, server].into_iter().flatten().min()
    }

    fn on_path(&mut self, to_client: bool, datagram: Vec<u8>) -> Vec<Vec<u8>> {
        match &mut self.attacker {
            Some(attacker) => attacker(to_client, datagram),
            None => vec![datagram],
        }
    }

    /// Everything that happens now.
    fn step(&mut self) {
        let mut received = 0;
        while let Some(datagram) = self.down.take_due(self.now) {
            for datagram in self.on_path(true, datagram) {
                received += 1;
                if self.end.is_none() && received <= CLIENT_BURST {
                    self.engine.handle(Time(self.now), &datagram, &Ring);
                }
            }
        }
        if self.end.is_none() {
            let mut buf = [0; 2048];
            // A frame that the wire has no room for waits in the ring.
            let backlog = |up: &Link<Vec<u8>>, now| up.next_due().is_some_and(|due| due > now + SERVER_LIMIT);
            for _ in 0..64 {
                if backlog(&self.up, self.now) {
                    break;
                }
                let Some(len) = self.engine.transmit(Time(self.now), &mut self.image, &Ring, &mut buf) else { break };
                self.up.offer(self.now, buf[..len].to_vec());
            }
            self.end = self.engine.poll(Time(self.now));
            if let State6::Ended(end) = self.engine.state() {
                self.end = Some(end);
            }
        }
        while let Some(datagram) = self.up.take_due(self.now) {
            for datagram in self.on_path(false, datagram) {
                self.server_receives(&datagram);
            }
        }
        let now = self.instant();
        if let Some(session) = &mut self.session {
            if session.poll_timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
        }
        self.serve();
    }

    /// The server dies and forgets all.
    pub fn restart_server(&mut self) {
        self.session = None;
    }

    /// Somebody else sends the machine a datagram, from the server's address.
    pub fn forge_to_client(&mut self, datagram: &[u8]) {
        self.engine.handle(Time(self.now), datagram, &Ring);
    }

    fn server_receives(&mut self, datagram: &[u8]) {
        let now = self.instant();
        if !self.server_runs {
            return;
        }
        let over = self.session.as_ref().is_none_or(Session6::is_finished);
        if over && Header::is_start(datagram) {
            if self.params.keyed && !is_authentic(datagram, &KEY) {
                return;
            }
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(self.params.seed ^ ((self.sessions + 1) << 32)).to_le_bytes());
            let key = self.params.keyed.then_some(&KEY);
            let session = Session6::new(self.params.session.clone(), datagram, key, seed, now);
            if let Some(mut session) = session {
                self.sessions += 1;
                if self.resumes {
                    session.resume(self.stored.resumed.clone());
                } else {
                    self.stored = Stored6::default();
                }
                self.session = Some(session);
            }
        } else if let Some(session) = &mut self.session {
            session.handle(now, datagram);
        } else if let Some(hint) = self.hints.answer(now, [10, 0, 0, 2].into(), datagram) {
            self.down.offer(self.now, hint.to_vec());
        }
    }

    fn serve(&mut self) {
        let now = self.instant();
        let Some(session) = &mut self.session else { return };
        let mut buf = Vec::new();
        loop {
            while let Some(event) = session.poll_event() {
                let stored = &mut self.stored;
                match event {
                    Event::Proved if self.grant => session.grant_slot(now, Grant::Full),
                    Event::Described(info) => {
                        stored.info = Some(info);
                        session.storage_ready(now);
                    }
                    Event::KernelLog(text) => stored.log = text,
                    Event::Listing(text) => stored.listing = text,
                    Event::Accounted { frames, early: true } => stored.resumed.early.push(frames),
                    Event::Accounted { frames, early: false } => stored.resumed.accounted.push(frames),
                    Event::Pages(pages) => pages.each(|pfn, page| {
                        stored.order.push(pfn.0);
                        stored.resumed.pages += 1;
                        let before = stored.pages.insert(pfn.0, page.into());
                        assert!(before.is_none(), "page {pfn:?} was handed over twice");
                    }),
                    Event::Absent { pfns, why: Absence::LeftOut } => stored.left_out += pfns.end - pfns.start,
                    Event::MemoryDone(_) => session.stored(now),
                    Event::Finished(outcome) => stored.outcome = Some(outcome),
                    _ => {}
                }
            }
            if !session.poll_transmit(now, &mut buf) {
                break;
            }
            self.down.offer(self.now, buf.clone());
        }
    }

    /// The pages that a whole dump holds.
    pub fn wanted(&self) -> Vec<Pfn> {
        let level = self.params.level.or(self.params.session.level);
        let kept = |pfn: &Pfn| self.image.use_of(*pfn).is_none_or(|reason| !leaves_out(level, reason));
        self.image.ram_pages().filter(|pfn| self.image.readable(*pfn)).filter(kept).collect()
    }

    /// Panics with the reason unless all that is stored is true.
    pub fn assert_true(&self) {
        for (pfn, data) in &self.stored.pages {
            if !self.image.changes(Pfn(*pfn)) {
                assert!(data[..] == self.image.page(Pfn(*pfn))[..], "page {pfn} differs");
            }
        }
    }

    /// Panics with the reason unless the server has all that it wanted, and the machine restarts.
    pub fn assert_complete(&mut self) {
        let counters = self.session.as_ref().map(|s| (s.counters(), s.progress(), s.left_out()));
        let state = format!("{:?} {counters:?} {:?}", self.end, self.engine.counters());
        let outcome = self.stored.outcome.as_ref().unwrap_or_else(|| panic!("not finished: {state}"));
        assert_eq!(outcome.failure, None, "{state}");
        assert_eq!(self.end, Some(End::Reboot), "{state}");
        let wanted: Vec<u64> = self.wanted().iter().map(|pfn| pfn.0).collect();
        let got: Vec<u64> = self.stored.pages.keys().copied().collect();
        assert!(wanted == got, "{} pages instead of {}: {state}", got.len(), wanted.len());
        self.assert_true();
        let all = self.image.ram_pages().count() as u64;
        assert_eq!(self.stored.left_out + got.len() as u64, all, "{state}");
        assert_eq!(self.stored.log, self.image.log());
        let info = self.stored.info.as_ref().expect("described");
        assert_eq!((info.regs.as_slice(), info.nr_pages), (self.image.registers(), self.image.nr_pages()));
    }

    /// How many frames were left out for a reason, as the server was told.
    pub fn left_out(&self, reason: Reason) -> u64 {
        self.session.as_ref().map_or(0, |session| session.left_out()[reason as usize])
    }
}
