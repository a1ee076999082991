// SPDX-License-Identifier: GPL-2.0-or-later
//! A crashed machine and a server with a bad network between them, in virtual time.
//!
//! Both ends are the real ones: the engine of the kernel module and the session of the server. A dump that takes an
//! hour there takes a moment here, and is repeated to the last datagram by its seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::engine::{Config, End, Engine, Time, MAX_DATAGRAM};
use netdump_core::wire::classic::{Body, Reply};
use netdump_core::wire::ext::VolatileRange;
use netdump_core::wire::{Cookie, Pfn};
use netdump_session::{Absence, Counters, Event, Failure, Grant, MemoryEnd, Outcome, Params, Phase, Session};
use netdump_vmcore::DumpInfo;

use crate::image::{Image, ImageParams};
use crate::link::{Link, LinkParams};

/// One second of virtual time.
pub const SECOND: u64 = 1_000_000_000;

/// A machine takes no more than this at one moment, and loses the rest: what the ring of its network card holds.
const CLIENT_BURST: usize = 256;

/// What the world is like.
#[derive(Debug, Clone)]
pub struct WorldParams {
    /// The machine.
    pub image: ImageParams,
    /// From the machine to the server.
    pub up: LinkParams,
    /// From the server to the machine.
    pub down: LinkParams,
    /// The machine's limits, ns; 0 is none.
    pub handshake_timeout: u64,
    /// Likewise.
    pub idle_timeout: u64,
    /// Likewise.
    pub total_timeout: u64,
    /// Of all chance.
    pub seed: u64,
}

impl Default for WorldParams {
    fn default() -> Self {
        // A gigabit, a fifth of a millisecond away.
        let wire = LinkParams { rate: Some(1_000_000_000), delay: 100_000, ..LinkParams::default() };
        WorldParams {
            image: ImageParams::default(),
            up: wire.clone(),
            down: wire,
            handshake_timeout: 300 * SECOND,
            idle_timeout: 60 * SECOND,
            total_timeout: 3600 * SECOND,
            seed: 1,
        }
    }
}

/// What a server stored of one dump.
#[derive(Debug, Default)]
pub struct Stored {
    /// What the headers would hold.
    pub info: Option<Box<DumpInfo>>,
    /// Each page.
    pub pages: BTreeMap<u64, Box<[u8]>>,
    /// Page frames that are not in the dump.
    pub absent: Vec<(Range<u64>, Absence)>,
    /// The kernel log.
    pub log: Vec<u8>,
    /// Console text by its offset.
    pub netlog: BTreeMap<u32, Vec<u8>>,
    /// What the client changed itself.
    pub volatile: Vec<VolatileRange>,
    /// How memory ended.
    pub memory_end: Option<MemoryEnd>,
    /// How all of it ended.
    pub outcome: Option<Outcome>,
}

/// The machine, the network and the server.
pub struct World {
    now: u64,
    epoch: Instant,
    params: WorldParams,
    engine: Box<Engine>,
    image: Image,
    end: Option<End>,
    up: Link<Vec<u8>>,
    down: Link<Vec<u8>>,
    server_runs: bool,
    session: Option<Session>,
    session_params: Params,
    sessions: u64,
    stored: Stored,
}

/// The secret of machine and server.
pub const COOKIE: Cookie = Cookie::new(0x0f1e_2d3c_4b5a_6978);

impl World {
    /// A machine that has just crashed, and a server that runs.
    pub fn new(params: WorldParams) -> Self {
        let image = Image::new(params.image.clone());
        let mut engine = Box::new(Engine::new());
        let config = Config {
            handshake_timeout: params.handshake_timeout,
            idle_timeout: params.idle_timeout,
            total_timeout: params.total_timeout,
            ..image.config(COOKIE)
        };
        engine.begin(config, Time(0));
        World {
            now: 0,
            epoch: Instant::now(),
            engine,
            image,
            end: None,
            up: Link::new(params.up.clone(), params.seed),
            down: Link::new(params.down.clone(), params.seed.wrapping_add(1)),
            server_runs: true,
            session: None,
            session_params: Params::new(COOKIE),
            sessions: 0,
            stored: Stored::default(),
            params,
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
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// From the machine to the server.
    pub fn up(&self) -> &Link<Vec<u8>> {
        &self.up
    }

    /// From the server to the machine.
    pub fn down(&self) -> &Link<Vec<u8>> {
        &self.down
    }

    /// What the server has stored of the dump that it began last.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The server's session, if there is one.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Its counters; all 0 without a session.
    pub fn server_counters(&self) -> Counters {
        self.session.as_ref().map(Session::counters).unwrap_or_default()
    }

    /// Changes what new sessions are told.
    pub fn session_params(&mut self) -> &mut Params {
        &mut self.session_params
    }

    /// The server dies and forgets what it had in memory; what it stored stays to be looked at.
    pub fn kill_server(&mut self) {
        self.server_runs = false;
        self.session = None;
    }

    /// The server starts, knowing nothing.
    pub fn start_server(&mut self) {
        self.server_runs = true;
    }

    /// Changes the network from the machine to the server.
    pub fn set_up(&mut self, params: LinkParams) {
        self.up.set_params(params);
    }

    /// Changes the network from the server to the machine.
    pub fn set_down(&mut self, params: LinkParams) {
        self.down.set_params(params);
    }

    /// Whatever anyone sends to the server from the machine's address; it arrives at once.
    pub fn inject_to_server(&mut self, datagram: &[u8]) {
        self.server_receives(datagram);
        self.serve();
    }

    /// Whatever anyone sends to the machine from the server's address; it arrives at once.
    pub fn inject_to_client(&mut self, datagram: &[u8]) {
        self.engine.handle(Time(self.now), datagram);
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
            let server_done = self.session.as_ref().is_none_or(Session::is_finished);
            match self.next_moment() {
                Some(next) if self.end.is_none() || !server_done => self.now = next.max(self.now),
                _ => return,
            }
        }
    }

    fn next_moment(&self) -> Option<u64> {
        let client = if self.end.is_some() { None } else { self.engine.next_deadline().map(|t| t.0) };
        let server = self.session.as_ref().filter(|s| !s.is_finished()).and_then(Session::poll_timeout);
        let server = server.map(|at| {
            let at = at.saturating_duration_since(self.epoch).as_nanos();
            u64::try_from(at).unwrap_or(u64::MAX)
        });
        [self.up.next_due(), self.down.next_due(), client, server].into_iter().flatten().min()
    }

    /// Everything that happens now.
    fn step(&mut self) {
        let mut received = 0;
        while let Some(datagram) = self.down.take_due(self.now) {
            received += 1;
            if self.end.is_none() && received <= CLIENT_BURST {
                self.engine.handle(Time(self.now), &datagram);
            }
        }
        if self.end.is_none() {
            let mut buf = [0; MAX_DATAGRAM];
            while let Some(len) = self.engine.transmit(Time(self.now), &mut self.image, &mut buf) {
                self.up.offer(self.now, buf[..len].to_vec());
            }
            self.end = self.engine.poll(Time(self.now));
        }
        while let Some(datagram) = self.up.take_due(self.now) {
            self.server_receives(&datagram);
        }
        let now = self.instant();
        if let Some(session) = &mut self.session {
            if session.poll_timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
        }
        self.serve();
    }

    fn server_receives(&mut self, datagram: &[u8]) {
        if !self.server_runs {
            return;
        }
        let now = self.instant();
        let over = self.session.as_ref().is_none_or(Session::is_finished);
        match Reply::parse(datagram).map(|reply| reply.body) {
            Ok(Body::Start(start)) if over => {
                self.sessions += 1;
                let mut seed = [0; 32];
                seed[..8].copy_from_slice(&(self.params.seed ^ (self.sessions << 32)).to_le_bytes());
                self.stored = Stored::default();
                self.session = Some(Session::new(self.session_params.clone(), start, seed, now));
            }
            _ => {
                if let Some(session) = &mut self.session {
                    session.handle(now, datagram);
                }
            }
        }
    }

    /// What the daemon does after each thing that happened to a session.
    fn serve(&mut self) {
        let now = self.instant();
        let Some(session) = &mut self.session else {
            return;
        };
        loop {
            while let Some(event) = session.poll_event() {
                let stored = &mut self.stored;
                match event {
                    Event::Phase(_) | Event::Listing(_) | Event::Pages(_) | Event::Accounted { .. } => {}
                    Event::Proved => session.grant_slot(now, Grant::Full),
                    Event::Described(info) => {
                        stored.info = Some(info);
                        session.storage_ready(now);
                    }
                    Event::Netlog { offset, text } => {
                        stored.netlog.insert(offset, text);
                    }
                    Event::KernelLog(text) => stored.log = text,
                    Event::Page { pfn, data, again } => {
                        let before = stored.pages.insert(pfn.0, data);
                        assert_eq!(before.is_some(), again, "page {pfn:?} was handed over twice, or was not");
                    }
                    Event::Absent { pfns, why } => stored.absent.push((pfns, why)),
                    Event::MemoryDone(end) => {
                        stored.memory_end = Some(end);
                        session.stored(now);
                    }
                    Event::Volatile(ranges) => stored.volatile = ranges,
                    Event::Finished(outcome) => stored.outcome = Some(outcome),
                }
            }
            let Some(request) = session.poll_transmit(now) else {
                break;
            };
            self.down.offer(self.now, request.to_vec());
        }
    }

    /// What is wrong with the stored pages: those that are missing, those that should not be there, those that differ.
    pub fn differences(&self) -> Vec<(Pfn, &'static str)> {
        let mut found = Vec::new();
        for pfn in self.image.ram_pages() {
            match (self.stored.pages.get(&pfn.0), self.image.readable(pfn)) {
                (None, true) => found.push((pfn, "missing")),
                (Some(_), false) => found.push((pfn, "unreadable, but stored")),
                (Some(stored), true) if stored[..] != self.image.page(pfn)[..] => found.push((pfn, "different")),
                _ => {}
            }
        }
        let mut ram = self.image.ram_pages().peekable();
        for pfn in self.stored.pages.keys() {
            while ram.next_if(|next| next.0 < *pfn).is_some() {}
            if ram.peek() != Some(&Pfn(*pfn)) {
                found.push((Pfn(*pfn), "no memory, but stored"));
            }
        }
        found
    }

    /// Panics with the reason unless the server has the whole machine: each page, log, listing, and the reboot.
    pub fn assert_complete(&self) {
        let outcome = self.stored.outcome.as_ref();
        let counters = self.server_counters();
        let state = format!("{outcome:?} {:?} {counters:?} {:?}", self.end, self.engine.counters());
        let outcome = outcome.unwrap_or_else(|| panic!("not finished: {state}"));
        assert_eq!(outcome.failure, None, "{state}");
        assert_eq!(self.end, Some(End::Reboot), "{state}");
        let differences = self.differences();
        assert!(differences.is_empty(), "{} pages: {:?}", differences.len(), &differences[..differences.len().min(5)]);
        let info = self.stored.info.as_ref().expect("described");
        assert_eq!(info.regs, self.image.registers());
        assert_eq!(outcome.pages, self.stored.pages.len() as u64);
    }

    /// As [`assert_complete`](Self::assert_complete), for what stands beside memory if the machine knows the extension.
    pub fn assert_described(&self) {
        let info = self.stored.info.as_ref().expect("described");
        assert_eq!(info.cpus.len(), self.params.image.cpus as usize);
        assert!(info.ranges.is_some() && info.vmcoreinfo.is_some() && info.panic.is_some());
        assert_eq!(self.stored.log, self.image.log());
        assert_eq!(self.stored.volatile.len(), 1);
    }

    /// The task listing as far as it arrived, in order; `None` where a piece is missing.
    pub fn listing(&self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        for (offset, piece) in &self.stored.netlog {
            if *offset as usize != text.len() {
                return None;
            }
            text.extend_from_slice(piece);
        }
        Some(text)
    }

    /// Where the server's session stands.
    pub fn phase(&self) -> Option<Phase> {
        self.session.as_ref().map(Session::phase)
    }

    /// Why the server's dump is not complete.
    pub fn failure(&self) -> Option<&Failure> {
        self.stored.outcome.as_ref()?.failure.as_ref()
    }
}
