// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's dump in version 6, as [`Session`](crate::Session) is for classic: datagrams and the time go in, datagrams
//! and [`Event`]s come out.

mod assemble;
mod codecs;
mod coverage;
mod hints;
mod item;
mod listing;
mod memory;
mod rate;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::engine::v6::MAX_INBOUND;
use netdump_core::wire::classic::{ItemId, Machine, Start};
use netdump_core::wire::ext::VolatileRange;
use netdump_core::wire::v6::cluster::Piece;
use netdump_core::wire::v6::handshake::{Ack6, Start6, ACK_LEN, SUITE_CHACHA20_POLY1305, SUITE_CLEAR};
use netdump_core::wire::v6::message::{
    kind, End, Grant as GrantBody, Line, Part, Progress, Repair, Segment, Turn, Wait, MAX_REPAIRS,
};
use netdump_core::wire::v6::secure::{Channel, Key, Refused, Role, TrafficKeys};
use netdump_core::wire::v6::{Codec, Level, Reason, SessionId, VERSION};
use netdump_core::wire::Cookie;
use netdump_vmcore::PageSize;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::crypto::Ring;
use crate::event::{Counters, Event, Failure, MemoryEnd, Outcome, PageBuf, Phase, Progress as HowFar, Resumed};
use crate::info::{describe, Classic};
use crate::params::{EndWith, Grant};
use crate::phases::{MAX_LOG, MAX_NOTES, MAX_VOLATILE};
use crate::session::Files;
use crate::tools::Events;
use codecs::Codecs;
pub use codecs::Encoding;
pub use hints::Hints;
use item::{Fetch, Fetched};
use listing::Listing;
use memory::{Memory6, GRANT_INTERVAL};
use rate::Rate;

/// No datagram of ours is longer: what a client has room for.
pub const MAX_OUTBOUND: usize = MAX_INBOUND;
/// Copies of the acknowledgement are not sent faster than this.
const ACK_INTERVAL: Duration = Duration::from_millis(100);
/// Questions to a client that has not answered one yet.
const PROBE_TRIES: u32 = 12;
/// While nothing comes, grants are sent again with longer and longer pauses up to this …
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// … after so many of them.
const PATIENT: u32 = 6;
/// The client offers a new handshake after two seconds of silence: it hears from us twice in that time.
const KEEPALIVE: Duration = Duration::from_millis(900);

/// Settings of a session.
#[derive(Debug, Clone)]
pub struct Params6 {
    /// What is left out, beside what the client leaves out by itself.
    pub level: Level,
    /// The codec that is wished for.
    pub codec: Encoding,
    /// Selected pages in a cluster.
    pub cluster_pages: u8,
    /// The longest datagram that the client is to send.
    pub max_datagram: u16,
    /// Datagrams on their way, at most.
    pub max_window: u32,
    /// Ask for the task listing.
    pub show_state: bool,
    /// The last order to the client.
    pub end_with: EndWith,
    /// A client that answers nothing for so long is gone.
    pub silence: Duration,
    /// A dump takes no longer than this, whatever the client does.
    pub max_duration: Duration,
    /// The task listing is given up after this time.
    pub show_state_limit: Duration,
    /// Time between two orders to end.
    pub end_interval: Duration,
    /// The last order is given up after so many.
    pub end_tries: u32,
}

impl Default for Params6 {
    fn default() -> Self {
        Params6 {
            level: Level::ALL,
            codec: Encoding::Fixed(Codec::Raw),
            cluster_pages: 16,
            max_datagram: 1416,
            max_window: 4096,
            show_state: true,
            end_with: EndWith::Reboot,
            silence: Duration::from_secs(60),
            max_duration: Duration::from_secs(24 * 3600),
            show_state_limit: Duration::from_secs(120),
            end_interval: Duration::from_secs(1),
            end_tries: 10,
        }
    }
}

#[derive(Debug)]
enum Task {
    /// Waiting for the client's first datagram, or for the owner: questions from time to time.
    Idle,
    Fetch(Fetch),
    Memory(Box<Memory6>),
    Show(Box<Listing>),
    End {
        due: Instant,
        tries: u32,
    },
    Nothing,
}

/// One client's dump.
#[derive(Debug)]
pub struct Session6 {
    params: Params6,
    start: Vec<u8>,
    machine: Start,
    ack: [u8; ACK_LEN],
    ack_due: Option<Instant>,
    last_ack: Option<Instant>,
    channel: Channel<128>,
    authenticated: bool,
    codecs: Codecs,
    /// The client knows turns.
    turns: bool,
    phase: Phase,
    task: Task,
    events: Events,
    counters: Counters,
    began: Instant,
    /// When an authentic datagram came.
    heard: Instant,
    rate: Rate,
    serial: u32,
    credit: u64,
    /// When grants went out that are to be answered.
    asked: VecDeque<(u32, Instant)>,
    grant_due: Instant,
    pause: Duration,
    /// Datagrams that came since the last grant.
    since_grant: u64,
    /// The highest counter plus 1 when it was sent.
    granted_at: u64,
    /// Grants in a row before which nothing came.
    idle: u32,
    /// The datagram that was sent last, if it is to be sent once more.
    copy: Vec<u8>,
    repairs: VecDeque<Repair>,
    probes: u32,
    room: usize,
    most: usize,
    pages_per_datagram: f64,
    /// The longest datagram that came, bytes.
    largest: u16,
    position: Option<u32>,
    /// WAIT was sent, and the question behind it is due.
    told: bool,
    grant: Option<Grant>,
    notes: Option<Vec<u8>>,
    ranges: Vec<Range<u64>>,
    resumed: Resumed,
    left_out: [u64; Reason::COUNT],
    files: Files,
    memory_began: Option<Instant>,
    memory_duration: Duration,
    pages: u64,
    memory_done: bool,
    failure: Option<Failure>,
    show_state: bool,
    inbox: Vec<u8>,
}

impl Session6 {
    /// Begins with a START6, whose MAC the caller has checked if there is a `key`. `seed` is fresh randomness. `None` if the
    /// two ends have no suite in common.
    pub fn new(params: Params6, start: &[u8], key: Option<&Key>, seed: [u8; 32], now: Instant) -> Option<Self> {
        let parsed = Start6::parse(start).ok()?;
        let suite = if key.is_some() { SUITE_CHACHA20_POLY1305 } else { SUITE_CLEAR };
        if parsed.suites & (1 << suite) == 0 || parsed.key.is_some() != key.is_some() {
            return None;
        }
        let mut rng = StdRng::from_seed(seed);
        let ours = SessionId(rng.random());
        let message = Ack6 {
            suite,
            client: parsed.session,
            server: ours,
            random: rng.random(),
            kx: [0; 32],
            max_datagram: params.max_datagram.min(parsed.max_datagram),
        };
        let mut ack = [0; ACK_LEN];
        message.emit(&Ring, key, start, &mut ack).ok()?;
        let keys = key.map(|key| TrafficKeys::derive(&Ring, key, start, &ack));
        let machine = Start::V5 {
            machine: parsed.machine,
            max_version: 6,
            task_struct: 0,
            page_offset: 0,
            magic: Cookie::new(0),
        };
        Some(Session6 {
            start: start.to_vec(),
            machine,
            ack,
            ack_due: Some(now),
            last_ack: None,
            channel: Channel::new(Role::Server, keys, ours, parsed.session),
            authenticated: key.is_some(),
            codecs: Codecs::new(params.codec, parsed.codecs | Codec::Raw.bit()),
            turns: parsed.turns,
            phase: Phase::Probe,
            task: Task::Idle,
            events: Events::default(),
            counters: Counters { starts: 1, ..Counters::default() },
            began: now,
            heard: now,
            rate: Rate::new(now, u64::from(params.max_window)),
            serial: 0,
            credit: 0,
            asked: VecDeque::new(),
            grant_due: now + Duration::from_millis(50),
            pause: Duration::from_millis(100),
            since_grant: 0,
            granted_at: 0,
            idle: 0,
            copy: Vec::new(),
            repairs: VecDeque::new(),
            probes: 0,
            room: usize::MAX,
            most: usize::MAX,
            pages_per_datagram: 0.25,
            largest: 0,
            position: None,
            told: false,
            grant: None,
            notes: None,
            ranges: Vec::new(),
            resumed: Resumed::default(),
            left_out: [0; Reason::COUNT],
            files: Files::None,
            memory_began: None,
            memory_duration: Duration::ZERO,
            pages: 0,
            memory_done: false,
            failure: None,
            show_state: false,
            inbox: Vec::new(),
            params,
        })
    }

    // ---- what the owner says ----

    /// There is room for this client.
    pub fn grant_slot(&mut self, now: Instant, grant: Grant) {
        if self.grant.is_none() {
            self.grant = Some(grant);
            self.position = None;
            if self.phase == Phase::Waiting {
                self.fetch(now, Phase::Notes, ItemId::Notes, MAX_NOTES);
            }
        }
    }

    /// Its place among those who wait; 1 is the next. It is told about every second.
    pub fn set_position(&mut self, position: u32) {
        self.position = Some(position);
    }

    /// What another session had put into the files, before [`storage_ready`](Self::storage_ready).
    pub fn resume(&mut self, resumed: Resumed) {
        self.resumed = resumed;
    }

    /// The files are there (after [`Event::Described`]).
    pub fn storage_ready(&mut self, now: Instant) {
        if self.phase == Phase::Storage {
            self.files = Files::Open;
            self.memory_began = Some(now);
            let ranges = std::mem::take(&mut self.ranges);
            let turn = if self.turns { Turn::First } else { Turn::Any };
            let mut memory = Box::new(Memory6::new(&ranges, turn, now));
            memory.resume(&std::mem::take(&mut self.resumed));
            self.enter(Phase::Memory, Task::Memory(memory));
            self.rate.begin(now, self.channel.received());
            self.grant_due = now;
            self.check_memory(now);
        }
    }

    /// There is no room, or a write failed: no (more) memory, but log, task listing and the last order.
    pub fn storage_failed(&mut self, now: Instant) {
        match self.phase {
            Phase::Storage => {
                self.files = Files::Stored;
                self.failure.get_or_insert(Failure::Storage);
                self.enter_show(now);
            }
            Phase::Memory => {
                self.end_memory(now, Some(Failure::Storage));
                self.enter_show(now);
            }
            _ => {
                self.failure.get_or_insert(Failure::Storage);
            }
        }
    }

    /// What was handed over is safe (after [`Event::MemoryDone`]); the client may go.
    pub fn stored(&mut self, now: Instant) {
        if self.files == Files::Closing {
            self.files = Files::Stored;
            if self.phase == Phase::Store {
                self.enter_end(now);
            }
        }
    }

    /// Ends the dump as it is.
    pub fn cancel(&mut self, now: Instant) {
        self.fail(now, Failure::Cancelled);
    }

    /// How many more pages the owner can take: the client is let send about so many. What comes beyond `most`, because the
    /// client packs better than before or does what it likes, is dropped and fetched again. Unlimited until told.
    pub fn set_write_room(&mut self, pages: usize, most: usize) {
        (self.room, self.most) = (pages, most);
    }

    /// Datagrams that may be on their way from now on, at most: others dump at the same time, or do not any more.
    pub fn set_max_window(&mut self, datagrams: u32) {
        self.params.max_window = datagrams;
        self.rate.set_cap(u64::from(datagrams));
    }

    /// The owner's socket dropped `datagrams` for lack of room.
    pub fn note_receive_drops(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.rate.overflowed();
        }
    }

    /// Gives the buffer of an [`Event::Pages`] back.
    pub fn recycle(&mut self, buf: PageBuf) {
        if let Task::Memory(memory) = &mut self.task {
            memory.recycle(buf);
        }
    }

    // ---- what the owner asks ----

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Where the dump stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Nothing more will be sent.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// The client has proved who it is by a key.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// The client's machine.
    pub fn machine(&self) -> Machine {
        match self.machine {
            Start::V5 { machine, .. } => machine,
            Start::V4 => Machine::I386,
        }
    }

    /// How long nothing authentic has come.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// The START6 that it began with.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// What was sent, received and refused.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Frames that the client says it has left out, by [`Reason`].
    pub fn left_out(&self) -> [u64; Reason::COUNT] {
        self.left_out
    }

    /// How far it is.
    pub fn progress(&self) -> HowFar {
        let (done, total, in_flight) = match &self.task {
            Task::Memory(memory) => (memory.done(), memory.total, memory.open_clusters()),
            _ => (0, 0, 0),
        };
        HowFar {
            done,
            total,
            pages: self.pages_so_far(),
            in_flight,
            window: self.rate.window() as usize,
            rtt: self.rate.rtt().unwrap_or_default(),
        }
    }

    fn pages_so_far(&self) -> u64 {
        match &self.task {
            Task::Memory(memory) => memory.pages,
            _ => self.pages,
        }
    }

    /// About how many bytes of memory it holds beside itself: what its client can make us keep.
    pub fn held(&self) -> usize {
        let task = match &self.task {
            Task::Fetch(fetch) => fetch.held(),
            Task::Memory(memory) => size_of::<Memory6>() + memory.held(),
            Task::Show(listing) => listing.held(),
            _ => 0,
        };
        let lists = self.asked.capacity() * size_of::<(u32, Instant)>()
            + self.repairs.capacity() * size_of::<Repair>()
            + self.ranges.capacity() * size_of::<Range<u64>>();
        let bytes = self.start.capacity()
            + self.inbox.capacity()
            + self.notes.as_ref().map_or(0, Vec::capacity)
            + self.copy.capacity();
        task + lists + bytes + self.events.held()
    }

    // ---- datagrams in ----

    /// A datagram of version 6 from the client's address. Anything may be in it.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.clear();
        inbox.extend_from_slice(datagram);
        self.handle_in_place(now, &mut inbox);
        self.inbox = inbox;
    }

    /// The same without a copy: what is sealed is opened where it is.
    pub fn handle_in_place(&mut self, now: Instant, datagram: &mut [u8]) {
        self.counters.datagrams += 1;
        if datagram.first() != Some(&VERSION) {
            // A client without a key offers both dialects: this is the other offer.
            self.counters.doubtful_starts += 1;
            return;
        }
        if *datagram == self.start[..] {
            // It has not got our answer, or this is a copy; the answer is the same.
            self.counters.starts += 1;
            let earliest = self.last_ack.map_or(now, |last| last + ACK_INTERVAL);
            if self.phase == Phase::Probe {
                self.ack_due.get_or_insert(earliest.max(now));
            } else {
                self.counters.doubtful_starts += 1;
            }
            return;
        }
        let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        match self.channel.open(&Ring, datagram) {
            Ok((kind, counter, body)) => {
                self.largest = self.largest.max(len);
                self.on_message(now, kind, counter.0, body);
            }
            Err(Refused::Malformed | Refused::Forged) => self.counters.malformed += 1,
            Err(Refused::OtherSession) => self.counters.unknown_nr += 1,
            Err(Refused::Replayed) => self.counters.duplicate_chunks += 1,
        }
    }

    fn on_message(&mut self, now: Instant, kind: u8, counter: u64, body: &[u8]) {
        self.heard = now;
        self.pause = GRANT_INTERVAL;
        if self.phase == Phase::Probe {
            self.ack_due = None;
            self.events.push(Event::Proved);
            self.enter(Phase::Waiting, Task::Idle);
            // Whoever has to wait is told so at once: its `queue_timeout` begins with that.
            self.grant_due = now;
            if self.grant.is_some() {
                self.fetch(now, Phase::Notes, ItemId::Notes, MAX_NOTES);
            }
        }
        let taken = match kind {
            kind::PROGRESS => Progress::parse(body).map(|progress| self.on_progress(now, &progress)).is_ok(),
            kind::PIECE => Piece::parse(body).map(|piece| self.on_piece(now, counter, &piece)).is_ok(),
            kind::PART => Part::parse(body).map(|part| self.on_part(now, &part)).is_ok(),
            kind::LINE => Line::parse(body).map(|line| self.on_line(now, &line)).is_ok(),
            kind::BYE => End::parse(body).map(|_| self.on_bye(now)).is_ok(),
            _ => false,
        };
        self.counters.malformed += u64::from(!taken);
    }

    fn on_progress(&mut self, now: Instant, progress: &Progress<'_>) {
        if let Some(at) = self.asked.iter().position(|(serial, _)| *serial == progress.serial) {
            let (_, sent) = self.asked[at];
            self.asked.drain(..=at);
            self.rate.measured(now, now.saturating_duration_since(sent));
        }
        for (sum, said) in self.left_out.iter_mut().zip(progress.left_out) {
            // They only grow, and answers may come in any order.
            *sum = (*sum).max(said);
        }
        if let Task::Memory(memory) = &mut self.task {
            memory.on_progress(now, progress, &self.rate, &mut self.events);
            if memory.changed {
                self.grant_due = now;
            }
        }
        self.note_arrival(now);
        self.check_memory(now);
    }

    /// Time between two grants.
    fn interval(&self) -> Duration {
        self.rate.rtt().map_or(GRANT_INTERVAL, |rtt| (rtt / 4).max(GRANT_INTERVAL))
    }

    fn note_arrival(&mut self, now: Instant) {
        self.since_grant += 1;
        let next = self.channel.received();
        self.rate.received(now, next, self.credit);
        // Somebody is there: a long pause is over.
        self.grant_due = self.grant_due.min(now + self.interval());
        // What was lost made room as well.
        if next.saturating_sub(self.granted_at).saturating_mul(4) >= self.rate.window() {
            self.grant_due = self.grant_due.min(now);
        }
    }

    fn on_piece(&mut self, now: Instant, counter: u64, piece: &Piece<'_>) {
        let Task::Memory(memory) = &mut self.task else {
            self.counters.wrong_code += 1;
            return;
        };
        if counter >= self.credit {
            // Our client never does this; it would make us unpack whatever it likes.
            self.counters.wrong_code += 1;
            return;
        }
        if self.events.pages() >= self.most {
            // Credit is reckoned from what datagrams brought so far, and these bring more. They are fetched again.
            self.counters.no_room += 1;
            return self.note_arrival(now);
        }
        let came = memory.on_piece(now, counter, piece, &mut self.events);
        self.counters.duplicate_chunks += u64::from(came.useless);
        self.counters.conflicts += u64::from(came.broken);
        let settle = self.rate.rtt().unwrap_or_default() * 2 + GRANT_INTERVAL;
        if self.codecs.came(now, came.pages, piece.data.len(), settle) {
            self.grant_due = now;
        }
        self.pages_per_datagram += (came.pages as f64 - self.pages_per_datagram) / 64.0;
        self.note_arrival(now);
        self.check_memory(now);
    }

    fn on_part(&mut self, now: Instant, part: &Part<'_>) {
        let Task::Fetch(fetch) = &mut self.task else {
            self.counters.wrong_code += 1;
            return;
        };
        let (id, fetched) = (fetch.id(), fetch.handle(now, part));
        if let Some(fetched) = fetched {
            self.on_item(now, id, fetched);
        }
    }

    fn on_item(&mut self, now: Instant, id: ItemId, fetched: Fetched) {
        match (id, fetched) {
            (ItemId::Notes, fetched) => {
                if let Fetched::Item(notes) = fetched {
                    self.notes = Some(notes);
                }
                self.fetch(now, Phase::Log, ItemId::Log, MAX_LOG);
            }
            (ItemId::Log, fetched) => {
                if let Fetched::Item(text) = fetched {
                    self.events.push(Event::KernelLog(text));
                }
                self.enter_storage(now);
            }
            (_, fetched) => {
                if let Fetched::Item(list) = fetched {
                    self.events.push(Event::Volatile(VolatileRange::iter(&list).flatten().collect()));
                }
                self.enter_store(now);
            }
        }
    }

    fn on_line(&mut self, now: Instant, line: &Line<'_>) {
        let Task::Show(listing) = &mut self.task else { return };
        listing.handle(now, line, self.rate.reordering());
        if listing.is_done() {
            self.end_show(now);
        }
    }

    fn end_show(&mut self, now: Instant) {
        if let Task::Show(listing) = std::mem::replace(&mut self.task, Task::Nothing) {
            self.show_state = listing.has_end();
            let text = listing.into_text();
            if !text.is_empty() {
                self.events.push(Event::Listing(text));
            }
        }
        if self.memory_began.is_some() {
            self.fetch(now, Phase::Volatile, ItemId::Volatile, MAX_VOLATILE);
        } else {
            self.enter_store(now);
        }
    }

    fn on_bye(&mut self, now: Instant) {
        if let Task::End { .. } = self.task {
            self.finish(now, true);
        }
    }

    // ---- from phase to phase ----

    fn enter(&mut self, phase: Phase, task: Task) {
        self.phase = phase;
        self.task = task;
        self.events.push(Event::Phase(phase));
    }

    fn fetch(&mut self, now: Instant, phase: Phase, id: ItemId, limit: usize) {
        self.enter(phase, Task::Fetch(Fetch::new(id, limit, now)));
    }

    fn enter_storage(&mut self, now: Instant) {
        let notes = self.notes.take();
        // Frames and registers come from the notes alone.
        let classic = Classic { nr_pages: u64::MAX, ..Classic::default() };
        let mut described = describe(&self.machine, PageSize::KIB4, &classic, notes.as_deref());
        self.counters.refused_notes += described.refused;
        let info = &mut described.info;
        let ranges = info.ranges.as_deref().unwrap_or(&[]);
        self.ranges = ranges.iter().map(|r| PageSize::KIB4.pfn(r.start).0..PageSize::KIB4.pfn(r.end).0).collect();
        let Some(end) = self.ranges.iter().map(|range| range.end).max() else {
            return self.fail(now, Failure::Unusable("no memory is described"));
        };
        info.nr_pages = end;
        info.total_ram_pages = self.ranges.iter().map(|r| r.end - r.start).sum::<u64>().try_into().unwrap_or(u32::MAX);
        if let Some(cpu) = info.cpus.iter().find(|cpu| cpu.crashing) {
            info.regs = cpu.regs.clone().unwrap_or_default();
            info.task_struct = cpu.task_struct;
        }
        self.events.push(Event::Described(Box::new(described.info)));
        if self.grant == Some(Grant::LogOnly) || self.failure == Some(Failure::Storage) {
            self.failure.get_or_insert(Failure::LogOnly);
            self.files = Files::Stored;
            return self.enter_show(now);
        }
        self.enter(Phase::Storage, Task::Idle);
        self.grant_due = now + KEEPALIVE;
    }

    fn check_memory(&mut self, now: Instant) {
        let Task::Memory(memory) = &mut self.task else { return };
        if memory.is_done() {
            self.end_memory(now, None);
            self.enter_show(now);
        } else if self.room > 0 && now >= memory.advanced + self.params.silence {
            let missing = memory.missing();
            self.end_memory(now, Some(Failure::Unanswered(missing)));
            self.enter_show(now);
        } else if memory.changed {
            self.grant_due = now;
        }
    }

    fn end_memory(&mut self, now: Instant, failure: Option<Failure>) {
        self.pages = self.pages_so_far();
        self.memory_duration = self.memory_began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.files = Files::Closing;
        if self.failure.is_none() {
            self.failure.clone_from(&failure);
        }
        self.memory_done = failure.is_none();
        self.repairs.clear();
        self.task = Task::Nothing;
        self.events.push(Event::MemoryDone(MemoryEnd { failure, pages: self.pages }));
    }

    fn enter_show(&mut self, now: Instant) {
        if self.params.show_state {
            self.enter(Phase::ShowState, Task::Show(Box::new(Listing::new(now))));
        } else {
            self.end_show(now);
        }
    }

    fn enter_store(&mut self, now: Instant) {
        if self.files == Files::Closing {
            self.enter(Phase::Store, Task::Idle);
            self.grant_due = now + KEEPALIVE;
        } else {
            self.enter_end(now);
        }
    }

    fn enter_end(&mut self, now: Instant) {
        self.enter(Phase::End, Task::End { due: now, tries: 0 });
    }

    fn finish(&mut self, now: Instant, obeyed: bool) {
        self.enter(Phase::Finished, Task::Nothing);
        self.ack_due = None;
        self.events.push(Event::Finished(Outcome {
            obeyed: obeyed && !matches!(self.failure, Some(Failure::Silent(_))),
            failure: self.failure.clone(),
            pages: self.pages,
            show_state: self.show_state,
            duration: now.saturating_duration_since(self.began),
            memory_duration: self.memory_duration,
            restarted_as: None,
        }));
    }

    fn fail(&mut self, now: Instant, failure: Failure) {
        if matches!(self.phase, Phase::Finished | Phase::End) {
            return;
        }
        if self.phase == Phase::Memory {
            self.end_memory(now, Some(failure.clone()));
        } else if !self.memory_done {
            self.failure.get_or_insert(failure.clone());
        }
        match failure {
            Failure::Restarted | Failure::NotProved => self.finish(now, false),
            _ if self.phase == Phase::Probe => self.finish(now, false),
            Failure::Silent(_) if self.phase == Phase::Waiting => self.finish(now, false),
            Failure::TooLong if self.phase == Phase::Store => self.enter_end(now),
            _ if self.phase == Phase::Store => self.task = Task::Nothing,
            _ => self.enter_store(now),
        }
    }

    /// Time has passed. Early or superfluous calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Finished {
            return;
        }
        if now >= self.began + self.params.max_duration {
            self.fail(now, Failure::TooLong);
        }
        match &mut self.task {
            Task::Idle if self.phase == Phase::Probe && self.probes >= PROBE_TRIES && now >= self.grant_due => {
                return self.fail(now, Failure::NotProved);
            }
            Task::Fetch(fetch) => {
                let id = fetch.id();
                if fetch.gave_up(now, self.heard) {
                    self.on_item(now, id, Fetched::Absent);
                }
            }
            Task::Memory(memory) => {
                let repairs = memory.poll(now, self.channel.received(), &self.rate);
                if memory.changed || !repairs.is_empty() {
                    self.grant_due = now;
                }
                self.counters.lost_by_order += repairs.iter().map(|r| u64::from(r.missing.count_ones())).sum::<u64>();
                self.repairs.extend(repairs);
                self.check_memory(now);
            }
            Task::Show(listing) if listing.is_done() || listing.gave_up(now, self.params.show_state_limit) => {
                self.end_show(now);
            }
            Task::End { due, tries } if *tries >= self.params.end_tries && now >= *due => {
                return self.finish(now, false);
            }
            _ => {}
        }
        if self.silence_deadline().is_some_and(|deadline| now >= deadline) {
            self.fail(now, Failure::Silent(self.phase));
        }
    }

    fn silence_deadline(&self) -> Option<Instant> {
        let counts = matches!(self.task, Task::Idle | Task::Fetch(_) | Task::Memory(_)) && self.phase != Phase::Probe;
        counts.then(|| self.heard + self.params.silence)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then `poll_transmit`, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Finished {
            return None;
        }
        let task = match &self.task {
            Task::Idle => Some(self.grant_due),
            Task::Fetch(fetch) => Some(fetch.due()),
            Task::Memory(memory) => {
                let losses = memory.deadline(self.channel.received(), &self.rate);
                Some(losses.map_or(self.grant_due, |at| at.min(self.grant_due)))
            }
            Task::Show(listing) => Some(listing.deadline(self.params.show_state_limit)),
            Task::End { due, .. } => Some(*due),
            Task::Nothing => None,
        };
        let limit = (self.phase != Phase::End).then(|| self.began + self.params.max_duration);
        [task, self.ack_due, self.silence_deadline(), limit].into_iter().flatten().min()
    }

    // ---- datagrams out ----

    /// Writes the next datagram to `buf`, which is cleared, and says whether there is one. Ask until there is none.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> bool {
        buf.clear();
        if self.phase == Phase::Finished {
            return false;
        }
        if self.ack_due.is_some_and(|due| now >= due) {
            self.ack_due = None;
            self.last_ack = Some(now);
            buf.extend_from_slice(&self.ack);
            self.counters.requests += 1;
            return true;
        }
        if !self.copy.is_empty() {
            std::mem::swap(buf, &mut self.copy);
            self.copy.clear();
            self.counters.requests += 1;
            return true;
        }
        buf.resize(MAX_OUTBOUND, 0);
        let len = self.write(now, buf);
        self.counters.requests += u64::from(len.is_some());
        buf.truncate(len.unwrap_or(0));
        if self.rate.is_lossy() && len.is_some() {
            // The same to the last byte: the client takes the counter once.
            self.copy.extend_from_slice(buf);
        }
        len.is_some()
    }

    fn write(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        // Room for the tag is left by `Channel::body`; every body here is far smaller than that.
        match &mut self.task {
            Task::Idle => {
                if now < self.grant_due {
                    return None;
                }
                let probing = self.phase == Phase::Probe;
                if probing && self.probes >= PROBE_TRIES {
                    return None; // `handle_timeout` ends it
                }
                if let (Phase::Waiting, Some(position), false) = (self.phase, self.position, self.told) {
                    // And then the question, to see whether it is still there.
                    self.told = true;
                    let seconds = (KEEPALIVE.as_secs() * 2 + 1) as u16;
                    return self.send(kind::WAIT, buf, |body| Wait { seconds, position }.emit(body));
                }
                self.told = false;
                self.probes += u32::from(probing);
                self.grant_due = now + if probing { self.pause } else { KEEPALIVE };
                self.pause = (self.pause * 2).min(Duration::from_secs(1));
                self.send_grant(now, buf, &[], true)
            }
            Task::Fetch(fetch) => {
                let ask = fetch.poll(now, self.rate.patience())?;
                self.send(kind::ASK, buf, |body| ask.emit(body))
            }
            Task::Memory(_) => self.write_memory(now, buf),
            Task::Show(listing) => {
                let show = listing.poll(now, self.rate.patience())?;
                self.send(kind::SHOW, buf, |body| show.emit(body))
            }
            Task::End { due, tries } => {
                if now < *due || *tries >= self.params.end_tries {
                    return None;
                }
                *tries += 1;
                *due = now + self.params.end_interval;
                let end = match self.params.end_with {
                    EndWith::Reboot => End::Reboot,
                    EndWith::Exit => End::Exit,
                };
                self.send(kind::END, buf, |body| end.emit(body))
            }
            Task::Nothing => None,
        }
    }

    fn write_memory(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        if now >= self.grant_due {
            let window = self.rate.window();
            // Pages that came while the disk has no room would wait in memory.
            let affordable = (self.room as f64 / self.pages_per_datagram.max(0.05)) as u64;
            self.credit = self.credit.max(self.channel.received().saturating_add(window.min(affordable)));
            let interval = self.interval();
            let idle = self.since_grant == 0;
            self.idle = if idle { self.idle.saturating_add(1) } else { 0 };
            // A few may be lost, or what they brought; then there is nobody.
            self.pause = if self.idle > PATIENT { (self.pause * 2).clamp(interval, MAX_PAUSE) } else { interval };
            self.grant_due = now + self.pause;
            (self.since_grant, self.granted_at) = (0, self.channel.received());
            let answer = idle || self.asked.back().is_none_or(|(_, at)| now >= *at + interval);
            let Task::Memory(memory) = &mut self.task else { return None };
            let segments = memory.segments();
            return self.send_grant(now, buf, &segments, answer);
        }
        if self.repairs.is_empty() {
            return None;
        }
        let count = self.repairs.len().min(MAX_REPAIRS);
        let batch: Vec<Repair> = self.repairs.drain(..count).collect();
        self.send(kind::REPAIR, buf, |body| Repair::emit(&batch, body))
    }

    fn send_grant(&mut self, now: Instant, buf: &mut [u8], segments: &[Segment], answer: bool) -> Option<usize> {
        self.serial = self.serial.wrapping_add(1);
        if answer {
            self.asked.push_back((self.serial, now));
            if self.asked.len() > 256 {
                self.asked.pop_front();
            }
        }
        let mut grant = GrantBody::EMPTY;
        (grant.serial, grant.credit, grant.answer) = (self.serial, self.credit, answer);
        (grant.level, grant.codec, grant.pages) = (self.params.level, self.codecs.current(), self.params.cluster_pages);
        grant.largest = Some(self.largest);
        self.send(kind::GRANT, buf, |body| grant.emit(segments, body))
    }

    fn send(
        &mut self,
        kind: u8,
        buf: &mut [u8],
        write: impl FnOnce(&mut [u8]) -> netdump_core::wire::Result<usize>,
    ) -> Option<usize> {
        let body = self.channel.body(buf, MAX_OUTBOUND).ok()?;
        let len = write(body).ok()?;
        self.channel.seal(&Ring, kind, buf, len).ok()
    }
}

/// Whether a START6 was made with this key.
pub fn is_authentic(start: &[u8], key: &Key) -> bool {
    Start6::is_authentic(&Ring, key, start)
}
