// SPDX-License-Identifier: GPL-2.0-or-later
//! A session and the client's engine, joined by a lossy link, in virtual time.
#![allow(dead_code)] // each test file uses its part

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use netdump_core::engine::{Config, End, Engine, ItemPart, PageClass, State, Target, Time, Unreadable, MAX_DATAGRAM};
use netdump_core::wire::classic::{ItemId, Machine, Reply};
use netdump_core::wire::ext::{
    ByteOrder, CpuFlags, CpuNote, KtextNote, MachineNote, NotesWriter, PhysRange, VolatileRange,
};
use netdump_core::wire::{Cookie, Pfn, PhysAddr};
use netdump_session::{Event, Grant, Outcome, Params, Phase, Session};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const COOKIE: Cookie = Cookie::new(0x1122_3344_5566_7788);
pub(crate) const PAGE: usize = 4096;
pub(crate) const PAGE_OFFSET: u64 = 0xffff_8880_0000_0000;

/// What a page of the simulated machine holds: zero for every fourth, otherwise something of its own.
pub(crate) fn content(pfn: u64) -> Vec<u8> {
    if pfn % 4 == 3 {
        return vec![0; PAGE];
    }
    let words = (0..PAGE as u64 / 8).map(|n| (pfn << 20 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// The machine that crashed.
#[derive(Clone)]
pub(crate) struct World {
    /// RAM as page frame ranges, ascending.
    pub(crate) ram: Vec<std::ops::Range<u64>>,
    /// RAM that cannot be read.
    pub(crate) unreadable: Vec<u64>,
    pub(crate) nr_pages: u64,
    pub(crate) notes: Vec<u8>,
    pub(crate) log: Vec<u8>,
    pub(crate) volatile: Vec<u8>,
    pub(crate) listing: Vec<String>,
    listed: usize,
    /// The page read last.
    page: (u64, Vec<u8>),
}

impl World {
    /// Two ranges with a hole between them; `pages` of RAM.
    pub(crate) fn new(pages: u64) -> Self {
        let ram = vec![1..pages / 2, pages..pages + pages / 2 + 1];
        let nr_pages = pages + pages / 2 + 1;
        let mut buf = vec![0; 65536];
        let mut notes = NotesWriter::new(&mut buf);
        let regs = |cpu: u8| vec![cpu + 1; 216];
        notes
            .machine(&MachineNote {
                e_machine: 62,
                page_shift: 12,
                byte_order: ByteOrder::Little,
                cpus_possible: 2,
                crashing_cpu: 1,
            })
            .unwrap();
        for cpu in 0..2 {
            let flags = CpuFlags { crashing: cpu == 1, was_online: true, by_nmi: cpu == 0 };
            let regs = regs(cpu as u8);
            notes
                .cpu(&CpuNote { cpu, pid: 100 + cpu, flags, task_struct: 0xffff_8880_0000_1000, regs: Some(&regs) })
                .unwrap();
        }
        notes.vmcoreinfo(b"OSRELEASE=7.3.4\nPAGESIZE=4096\n").unwrap();
        let ranges: Vec<_> = ram
            .iter()
            .map(|r| PhysRange { start: PhysAddr(r.start * PAGE as u64), end: PhysAddr(r.end * PAGE as u64) })
            .collect();
        notes.ranges(&ranges).unwrap();
        notes.ktext(&KtextNote { vaddr: 0xffff_ffff_8100_0000, paddr: PhysAddr(0x2000), length: 0x3000 }).unwrap();
        notes.layout(PAGE_OFFSET).unwrap();
        notes.identity(&[("hostname", b"box\x1b[31m"), ("release", b"7.3.4")]).unwrap();
        notes.panic_text(b"sysrq triggered crash").unwrap();
        let len = notes.len();
        buf.truncate(len);
        let mut volatile = vec![0; 32];
        VolatileRange::new(PhysRange { start: PhysAddr(0x4000), end: PhysAddr(0x6000) }, "pool")
            .emit(&mut volatile)
            .unwrap();
        World {
            ram,
            unreadable: vec![5],
            nr_pages,
            notes: buf,
            log: (0..9000u32).flat_map(|n| format!("[{n}] line\n").into_bytes()).collect(),
            volatile,
            listing: (0..20).map(|n| format!("task {n}\n")).collect(),
            listed: 0,
            page: (u64::MAX, Vec::new()),
        }
    }

    pub(crate) fn is_ram(&self, pfn: u64) -> bool {
        self.ram.iter().any(|r| r.contains(&pfn))
    }

    /// The pages that a complete dump holds.
    pub(crate) fn readable(&self) -> impl Iterator<Item = u64> + '_ {
        self.ram.iter().cloned().flatten().filter(|pfn| !self.unreadable.contains(pfn))
    }
}

impl Target for World {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        if self.is_ram(pfn.0) {
            return PageClass::Ram;
        }
        let next = self.ram.iter().map(|r| r.start).find(|start| *start > pfn.0);
        PageClass::Hole { next: next.map(Pfn) }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        if self.unreadable.contains(&pfn.0) {
            return Err(Unreadable);
        }
        let offset = offset as usize;
        if self.page.0 != pfn.0 {
            self.page = (pfn.0, content(pfn.0));
        }
        out.copy_from_slice(&self.page.1[offset..offset + out.len()]);
        Ok(())
    }

    fn regs(&self) -> &[u8] {
        &[7; 216]
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        let data = match item {
            ItemId::Notes => &self.notes,
            ItemId::Log => &self.log,
            ItemId::Volatile => &self.volatile,
            ItemId::Unknown(_) => return ItemPart::default(),
        };
        let rest = data.get(offset as usize..).unwrap_or_default();
        let written = rest.len().min(out.len());
        out[..written].copy_from_slice(&rest[..written]);
        ItemPart { total: data.len() as u32, written }
    }

    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        let line = self.listing.get(self.listed)?.as_bytes();
        self.listed += 1;
        out[..line.len()].copy_from_slice(line);
        Some(line.len())
    }
}

/// One direction of the link.
#[derive(Clone, Copy, Default)]
pub(crate) struct Link {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    /// Share of datagrams that are late by up to `jitter` more.
    pub(crate) reorder: f64,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
}

impl Link {
    pub(crate) fn clean() -> Self {
        Link { delay: Duration::from_micros(100), jitter: Duration::from_millis(2), ..Link::default() }
    }

    pub(crate) fn lossy(loss: f64) -> Self {
        Link { loss, duplicate: 0.01, reorder: 0.02, ..Link::clean() }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Client(Vec<u8>),
    Server(Vec<u8>),
}

/// What the server's owner stored.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) pages: BTreeMap<u64, Vec<u8>>,
    pub(crate) again: u64,
    pub(crate) absent: u64,
    pub(crate) events: Vec<Event>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) netlog: String,
    pub(crate) kernel_log: Vec<u8>,
    pub(crate) outcome: Option<Outcome>,
}

/// What reaches the server instead of a datagram.
type Meddle = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

pub(crate) struct Pair {
    pub(crate) engine: Engine,
    pub(crate) world: World,
    pub(crate) session: Session,
    pub(crate) store: Store,
    pub(crate) epoch: Instant,
    pub(crate) now: Instant,
    pub(crate) links: [Link; 2],
    /// Time the client takes for one datagram.
    pub(crate) tx_time: Duration,
    /// So often the client stands still, and for so long, as a guest of a busy host does.
    pub(crate) stall: Option<(Duration, Duration)>,
    pub(crate) grant: Option<Grant>,
    /// Owner answers storage questions by itself.
    pub(crate) storage: bool,
    pub(crate) end: Option<End>,
    pub(crate) lost: u64,
    rng: StdRng,
    tx_free: Instant,
    heap: BinaryHeap<Reverse<(Instant, u64, To)>>,
    order: u64,
    at_client: usize,
    /// Called for each datagram to the server.
    pub(crate) meddle: Option<Meddle>,
    /// Datagrams to hand to the server besides the client's: time and bytes.
    pub(crate) forged: Vec<(Duration, Vec<u8>)>,
}

impl Pair {
    pub(crate) fn new(world: World, links: [Link; 2], seed: u64, change: impl FnOnce(&mut Params)) -> Self {
        let epoch = Instant::now();
        let mut engine = Engine::new();
        let config = Config {
            cookie: COOKIE,
            machine: Machine::X86_64,
            task_struct: 0xffff_8880_0000_1000,
            page_offset: PAGE_OFFSET,
            page_size: PAGE as u32,
            nr_pages: world.nr_pages,
            total_ram_pages: 1234,
            log_offset: 0,
            handshake_timeout: 0,
            idle_timeout: 60_000_000_000,
            total_timeout: 0,
        };
        engine.begin(config, Time(0));
        // The server opens the session on the first START_NETDUMP that reaches it.
        let mut world = world;
        let mut buf = [0; MAX_DATAGRAM];
        let len = engine.transmit(Time(0), &mut world, &mut buf).unwrap();
        let Ok(Reply { body: netdump_core::wire::classic::Body::Start(start), .. }) = Reply::parse(&buf[..len]) else {
            panic!("not START")
        };
        let mut params = Params::new(COOKIE);
        change(&mut params);
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Pair {
            engine,
            world,
            session: Session::new(params, start, key, epoch),
            store: Store::default(),
            epoch,
            now: epoch,
            links,
            tx_time: Duration::from_micros(15),
            stall: None,
            grant: Some(Grant::Full),
            storage: true,
            end: None,
            lost: 0,
            rng: StdRng::seed_from_u64(seed),
            tx_free: epoch,
            heap: BinaryHeap::new(),
            order: 0,
            at_client: 0,
            meddle: None,
            forged: Vec::new(),
        }
    }

    fn time(&self) -> Time {
        Time((self.now - self.epoch).as_nanos() as u64)
    }

    fn carry(&mut self, to_client: bool, datagram: &[u8]) {
        let link = self.links[usize::from(to_client)];
        let copies = 1 + u32::from(self.rng.random_bool(link.duplicate));
        for _ in 0..copies {
            if self.rng.random_bool(link.loss) {
                self.lost += 1;
                continue;
            }
            let mut at = self.now + link.delay;
            if self.rng.random_bool(link.reorder) {
                at += link.jitter.mul_f64(self.rng.random());
            }
            self.order += 1;
            let to = if to_client { To::Client(datagram.to_vec()) } else { To::Server(datagram.to_vec()) };
            self.heap.push(Reverse((at, self.order, to)));
        }
    }

    /// Hands a datagram to the session as if it came from the client's address.
    pub(crate) fn forge(&mut self, datagram: &[u8]) {
        self.session.handle(self.now, datagram);
        self.server_acts();
    }

    fn server_acts(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match &event {
                Event::Phase(phase) => self.store.phases.push(*phase),
                Event::Proved => {
                    if let Some(grant) = self.grant {
                        self.session.grant_slot(self.now, grant);
                    }
                }
                Event::Described(_) if self.storage => self.session.storage_ready(self.now),
                Event::MemoryDone(_) if self.storage => self.session.stored(self.now),
                Event::Page { pfn, data, again } => {
                    self.store.again += u64::from(*again);
                    let old = self.store.pages.insert(pfn.0, data.to_vec());
                    assert_eq!(old.is_some(), *again, "{pfn:?} given twice");
                    self.session.recycle(data.clone());
                    continue;
                }
                Event::Absent { pfns, .. } => self.store.absent += pfns.end - pfns.start,
                Event::Netlog { text, .. } => self.store.netlog.push_str(std::str::from_utf8(text).unwrap()),
                Event::KernelLog(text) => self.store.kernel_log.clone_from(text),
                Event::Finished(outcome) => self.store.outcome = Some(outcome.clone()),
                _ => {}
            }
            self.store.events.push(event);
        }
        while let Some(request) = self.session.poll_transmit(self.now) {
            self.carry(true, &request);
        }
    }

    fn client_acts(&mut self) {
        if let Some(end) = self.engine.poll(self.time()) {
            self.end = Some(end);
        }
        if self.now < self.tx_free || matches!(self.engine.state(), State::Ended(_)) {
            return;
        }
        if let Some((every, len)) = self.stall {
            let since = Duration::from_nanos(((self.now - self.epoch).as_nanos() % every.as_nanos()) as u64);
            if since < len {
                self.tx_free = self.now + (len - since);
                return;
            }
        }
        let mut buf = [0; MAX_DATAGRAM];
        let time = self.time();
        if let Some(len) = self.engine.transmit(time, &mut self.world, &mut buf) {
            self.tx_free = self.now + self.tx_time;
            let datagram = buf[..len].to_vec();
            self.carry(false, &datagram);
        }
    }

    /// Goes on until the session is finished, `stop` says so, or `limit` has passed.
    pub(crate) fn run_until(&mut self, limit: Duration, mut stop: impl FnMut(&Pair) -> bool) {
        self.forged.sort();
        self.forged.reverse();
        self.server_acts();
        while !self.session.is_finished() && !stop(self) {
            let client = match self.engine.state() {
                State::Ended(_) => None,
                _ if self.engine.pending() > 0 => Some(self.tx_free.max(self.now)),
                _ => self.engine.next_deadline().map(|t| self.epoch + Duration::from_nanos(t.0)),
            };
            let next = [
                self.heap.peek().map(|Reverse((at, ..))| *at),
                self.session.poll_timeout(),
                client.map(|at| at.max(self.tx_free)),
                self.forged.last().map(|(at, _)| self.epoch + *at),
            ];
            let next = next.into_iter().flatten().min().expect("nobody waits for anything");
            self.now = self.now.max(next);
            assert!(self.now - self.epoch <= limit, "in phase {:?} after {limit:?}", self.session.phase());
            if self.forged.last().is_some_and(|(at, _)| self.epoch + *at <= self.now) {
                let (_, datagram) = self.forged.pop().unwrap();
                self.forge(&datagram);
            }
            while self.heap.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                let Reverse((_, _, to)) = self.heap.pop().unwrap();
                match to {
                    To::Client(datagram) => {
                        let time = self.time();
                        self.engine.handle(time, &datagram);
                    }
                    To::Server(datagram) => {
                        let datagrams = match &mut self.meddle {
                            Some(meddle) => meddle(datagram),
                            None => vec![datagram],
                        };
                        for datagram in datagrams {
                            self.session.handle(self.now, &datagram);
                        }
                        self.server_acts();
                    }
                }
            }
            if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                self.session.handle_timeout(self.now);
            }
            self.server_acts();
            self.client_acts();
        }
    }

    pub(crate) fn run(&mut self, limit: Duration) -> Outcome {
        self.run_until(limit, |_| false);
        self.store.outcome.clone().expect("finished without saying so")
    }

    /// Every readable page is there, true, and nothing else is.
    pub(crate) fn assert_true(&self) {
        let expected: Vec<_> = self.world.readable().collect();
        let got: Vec<_> = self.store.pages.keys().copied().collect();
        assert_eq!(expected, got);
        self.assert_what_is_there_is_true();
    }

    pub(crate) fn assert_what_is_there_is_true(&self) {
        for (pfn, data) in &self.store.pages {
            assert!(*data == content(*pfn), "page {pfn} differs");
        }
    }
}
