// SPDX-License-Identifier: GPL-2.0-or-later
//! The state machine: which phase follows which, and what each does with time and answers.

use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, Reply, Request, Start, MAX_VERSION, REQUEST_LEN};
use netdump_core::wire::RequestId;
use netdump_vmcore::PageSize;

use crate::ask::Ask;
use crate::closing::{Ending, Listing};
use crate::event::{Counters, Event, Failure, PageBuf, Phase, Progress};
use crate::info::Classic;
use crate::item::Item;
use crate::memory::Memory;
use crate::params::{Grant, Params};
use crate::tools::Tools;

/// Time between two acknowledgements: a flood of START_NETDUMP must not make us flood the client.
const ACK_INTERVAL: Duration = Duration::from_millis(100);
/// Netlog events that wait to be taken.
const MAX_NETLOG_EVENTS: usize = 4096;
/// A client in the middle of a dump that sends START_NETDUMP has begun anew if it answered nothing for this time …
const RESTART_SILENCE: Duration = Duration::from_secs(5);
/// … nor any request sent since the first such START_NETDUMP, for this time.
const RESTART_DOUBT: Duration = Duration::from_secs(2);

/// What the present phase is busy with.
#[derive(Debug)]
pub(crate) enum Task {
    /// HELLO until it is answered once, or while the owner makes up its mind.
    Hello(Ask),
    /// Page size, number of pages, registers, in this order.
    Ask(Ask),
    Item(Box<Item>),
    Memory(Box<Memory>),
    Listing(Listing),
    Ending(Ending),
    Nothing,
}

/// A START_NETDUMP that does not belong into this phase.
#[derive(Debug)]
struct Doubt {
    since: Instant,
    requests: u64,
}

/// Where the owner's files stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// Not asked for yet, or never.
    None,
    /// Between `storage_ready` and the end of memory.
    Open,
    /// `Event::MemoryDone` was given, `stored` has not come.
    Closing,
    /// Done.
    Stored,
}

/// One client's dump. See the crate's page for how to drive it.
#[derive(Debug)]
pub struct Session {
    pub(crate) params: Params,
    pub(crate) start: Start,
    pub(crate) began: Instant,
    pub(crate) phase: Phase,
    pub(crate) task: Task,
    pub(crate) tools: Tools,
    pub(crate) room: usize,
    /// HELLO for when a phase with requests of its own has none to send: the owner has no room for pages, or the
    /// client lists its tasks.
    pub(crate) keepalive: Ask,
    /// An acknowledgement is to be sent at this time.
    pub(crate) ack_due: Option<Instant>,
    pub(crate) last_ack: Option<Instant>,
    /// When the client last answered a live request.
    pub(crate) last_answer: Instant,
    /// Requests sent until then.
    pub(crate) answered_requests: u64,
    doubt: Option<Doubt>,
    pub(crate) grant: Option<Grant>,
    pub(crate) classic: Classic,
    pub(crate) notes: Option<Vec<u8>>,
    /// The client answers the extension.
    pub(crate) extension: bool,
    pub(crate) page_size: Option<PageSize>,
    /// What memory to ask for, and whether it may have holes.
    pub(crate) pfns: (Vec<Range<u64>>, bool),
    pub(crate) beyond: u64,
    pub(crate) files: Files,
    pub(crate) memory_began: Option<Instant>,
    pub(crate) memory_duration: Duration,
    pub(crate) pages: u64,
    /// Memory is complete: whatever comes now, the dump is good.
    pub(crate) memory_done: bool,
    /// Why the dump will not be complete; the first reason stands.
    pub(crate) failure: Option<Failure>,
    pub(crate) show_state: bool,
    pub(crate) restarted_as: Option<Start>,
}

impl Session {
    /// Begins with a START_NETDUMP. `seed` is fresh randomness: request numbers come from it.
    pub fn new(params: Params, start: Start, seed: [u8; 32], now: Instant) -> Self {
        let keepalive = Ask::new(Command::Hello, now + params.keepalive);
        let mut session = Session {
            tools: Tools::new(seed, usize::from(params.max_window)),
            params,
            start,
            began: now,
            phase: Phase::Probe,
            task: Task::Hello(Ask::new(Command::Hello, now)),
            room: usize::MAX,
            keepalive,
            ack_due: Some(now),
            last_ack: None,
            last_answer: now,
            answered_requests: 0,
            doubt: None,
            grant: None,
            classic: Classic::default(),
            notes: None,
            extension: false,
            page_size: None,
            pfns: (Vec::new(), false),
            beyond: 0,
            files: Files::None,
            memory_began: None,
            memory_duration: Duration::ZERO,
            pages: 0,
            memory_done: false,
            failure: None,
            show_state: false,
            restarted_as: None,
        };
        session.tools.counters.starts = 1;
        session
    }

    // ---- what the owner says ----

    /// There is room for this client (after [`Event::Proved`]; before, the answer is remembered).
    pub fn grant_slot(&mut self, now: Instant, grant: Grant) {
        if self.grant.is_none() {
            self.grant = Some(grant);
            if self.phase == Phase::Waiting {
                self.enter_describe(now);
            }
        }
    }

    /// The files are there (after [`Event::Described`]).
    pub fn storage_ready(&mut self, now: Instant) {
        if self.phase == Phase::Storage {
            self.files = Files::Open;
            self.enter_memory(now);
        }
    }

    /// There is no room, or a write failed: no (more) memory, but log, task listing and the last order. It may be said
    /// at any time; before the client has described itself it is remembered.
    pub fn storage_failed(&mut self, now: Instant) {
        match self.phase {
            Phase::Storage => {
                // The owner has no files, and none to close.
                self.files = Files::Stored;
                self.failure.get_or_insert(Failure::Storage);
                self.enter_show_state(now);
            }
            Phase::Memory => {
                self.end_memory(now, Some(Failure::Storage));
                self.enter_show_state(now);
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

    /// Ends the dump as it is: straight to the last order, which a client that has proved nothing does not get.
    pub fn cancel(&mut self, now: Instant) {
        self.fail(now, Failure::Cancelled);
    }

    /// How many more pages the owner can take: pages asked for and not yet taken with `poll_event` stay
    /// below it. Unlimited until told.
    pub fn set_write_room(&mut self, pages: usize) {
        self.room = pages;
    }

    /// The owner's socket dropped `datagrams` for lack of room: the window shrinks.
    pub fn note_receive_drops(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.tools.window.overflowed();
        }
    }

    /// Gives the buffer of an [`Event::Page`] back.
    pub fn recycle(&mut self, buf: PageBuf) {
        if let Task::Memory(memory) = &mut self.task {
            memory.recycle(buf);
        }
    }

    // ---- what the owner asks ----

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.tools.events.pop()
    }

    /// Where the dump stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Nothing more will be sent.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let (done, total, in_flight) = match &self.task {
            Task::Memory(memory) => (memory.done, memory.total, memory.in_flight()),
            Task::Item(item) => (0, 0, item.in_flight()),
            _ => (0, 0, 0),
        };
        Progress {
            done,
            total,
            pages: self.pages_so_far(),
            in_flight,
            window: self.tools.window.size(),
            rtt: self.tools.rtt.smoothed().unwrap_or_default(),
        }
    }

    pub(crate) fn pages_so_far(&self) -> u64 {
        match &self.task {
            Task::Memory(memory) => memory.pages,
            _ => self.pages,
        }
    }

    /// What was sent, received and refused.
    pub fn counters(&self) -> Counters {
        self.tools.counters
    }

    /// The START_NETDUMP that it began with (or the last one before the client proved itself).
    pub fn start(&self) -> &Start {
        &self.start
    }

    // ---- datagrams in ----

    /// A datagram from the client's address. Anything may be in it.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        self.tools.counters.datagrams += 1;
        let Ok(reply) = Reply::parse(datagram) else {
            self.tools.counters.malformed += 1;
            return;
        };
        match reply.body {
            Body::Log { offset, text } => self.on_netlog(now, offset, text),
            Body::Start(start) => self.on_start(now, start),
            Body::End => self.on_end(now),
            // Our second acknowledgement found the client past its handshake.
            Body::Error { info: 7, .. } => self.tools.counters.stray_errors += 1,
            ref body => {
                if self.on_answer(now, reply.nr, body) {
                    self.last_answer = now;
                    self.answered_requests = self.tools.counters.requests;
                    self.doubt = None;
                }
            }
        }
    }

    fn on_netlog(&mut self, now: Instant, offset: u32, text: &[u8]) {
        self.tools.counters.netlog_packets += 1;
        if let Task::Listing(listing) = &mut self.task {
            listing.heard(now);
        }
        if self.tools.events.netlog() >= MAX_NETLOG_EVENTS {
            self.tools.counters.netlog_dropped += 1;
            return;
        }
        self.tools.events.push(Event::Netlog { offset, text: text.to_vec() });
    }

    fn on_start(&mut self, now: Instant, start: Start) {
        self.tools.counters.starts += 1;
        if self.phase == Phase::Probe {
            // Nobody has proved anything yet: the last one counts, as it would without the others.
            self.start = start;
            let earliest = self.last_ack.map_or(now, |last| last + ACK_INTERVAL);
            let due = *self.ack_due.get_or_insert(earliest.max(now));
            if let Task::Hello(ask) = &mut self.task {
                ask.hasten(due);
            }
            return;
        }
        // A client that answered our HELLO is past its handshake and has no reason to say this: a late copy,
        // a forgery, or a machine that crashed anew. Only the last of them does not answer our requests.
        self.tools.counters.doubtful_starts += 1;
        let requests = self.tools.counters.requests;
        let doubt = self.doubt.get_or_insert(Doubt { since: now, requests });
        if now >= self.last_answer + RESTART_SILENCE
            && now >= doubt.since + RESTART_DOUBT
            && requests >= doubt.requests + 3
        {
            self.restarted_as = Some(start);
            self.fail(now, Failure::Restarted);
            return;
        }
        if let Task::Hello(ask) = &mut self.task {
            ask.hasten(now);
        }
    }

    fn on_end(&mut self, now: Instant) {
        match &mut self.task {
            Task::Ending(ending) if ending.said_end(&self.params) => self.finish(now, true),
            _ => self.tools.counters.wrong_code += 1,
        }
    }

    /// An answer; `true` if it was one to a live request.
    fn on_answer(&mut self, now: Instant, nr: RequestId, body: &Body<'_>) -> bool {
        if matches!(body, Body::Hello { .. }) && self.keepalive.matches(nr) {
            self.keepalive = Ask::new(Command::Hello, now + self.params.keepalive);
            return true;
        }
        match &mut self.task {
            Task::Hello(ask) => {
                let ours = answers(ask, nr, &mut self.tools.counters, matches!(body, Body::Hello { .. }));
                if ours {
                    self.on_hello(now);
                }
                ours
            }
            Task::Ask(ask) => {
                let command = ask.command();
                let fits = matches!(
                    (command, body),
                    (Command::GetPageSize, Body::PageSize(_))
                        | (Command::GetNrPages, Body::NrPages(_))
                        | (Command::GetRegs, Body::Regs { .. })
                        | (_, Body::Error { .. })
                );
                let ours = answers(ask, nr, &mut self.tools.counters, fits);
                if ours {
                    if let Some(sample) = ask.sample(now) {
                        self.tools.rtt.measured(sample);
                    }
                    self.on_described(now, command, Some(body));
                }
                ours
            }
            Task::Item(item) => {
                let id = item.id();
                let (ours, end) = item.handle(now, nr, body, &mut self.tools);
                if let Some(end) = end {
                    self.on_item(now, id, end);
                }
                ours
            }
            Task::Memory(memory) => {
                let ours = memory.handle(now, nr, body, &mut self.tools);
                self.check_memory(now);
                ours
            }
            Task::Listing(listing) => {
                let ours = matches!(body, Body::ShowState | Body::Error { .. }) && listing.matches(nr);
                if ours {
                    listing.replied(now, matches!(body, Body::ShowState));
                } else {
                    self.tools.counters.unknown_nr += 1;
                }
                ours
            }
            Task::Ending(ending) => {
                let ours = matches!(body, Body::Hello { .. }) && ending.alive(nr);
                if !ours {
                    self.tools.counters.unknown_nr += 1;
                }
                ours
            }
            Task::Nothing => {
                self.tools.counters.unknown_nr += 1;
                false
            }
        }
    }

    // ---- datagrams out ----

    /// The next request to send. Ask until there is none; all are of one size, for segmentation offload.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<[u8; REQUEST_LEN]> {
        let (nr, command) = self.next_request(now)?;
        let mut datagram = [0; REQUEST_LEN];
        let request = Request { cookie: self.params.cookie, nr, command };
        // Page numbers are below 2^32 and the buffer is as long as a request: this cannot fail.
        request.emit(&mut datagram).ok()?;
        self.tools.counters.requests += 1;
        Some(datagram)
    }

    fn next_request(&mut self, now: Instant) -> Option<(RequestId, Command)> {
        if self.ack_due.is_some_and(|due| now >= due) {
            self.ack_due = None;
            self.last_ack = Some(now);
            return Some((self.tools.numbers.next(), Command::StartAck { max_version: MAX_VERSION }));
        }
        match &mut self.task {
            Task::Hello(ask) | Task::Ask(ask) => {
                let command = ask.command();
                let nr = ask.poll(now, &mut self.tools.numbers, &self.tools.rtt)?;
                Some((nr, command))
            }
            Task::Item(item) => match item.poll(now, &mut self.tools) {
                Ok(request) => request,
                Err(end) => {
                    let id = item.id();
                    self.on_item(now, id, end);
                    self.next_request(now)
                }
            },
            Task::Memory(memory) => {
                let room = self.room.saturating_sub(self.tools.events.pages());
                let request = memory.poll(now, room, &mut self.tools);
                match request {
                    Some(request) => Some(request),
                    None => {
                        self.check_memory(now);
                        match &self.task {
                            Task::Memory(memory) if memory.in_flight() == 0 => self.keep_alive(now),
                            Task::Memory(_) => None,
                            _ => self.next_request(now),
                        }
                    }
                }
            }
            Task::Listing(listing) => match listing.poll(now, &mut self.tools.numbers) {
                Some(nr) => Some((nr, Command::ShowState)),
                None => self.keep_alive(now),
            },
            Task::Ending(ending) => ending.poll(now, &mut self.tools.numbers, &self.params),
            Task::Nothing => None,
        }
    }
}

/// Whether `nr` is live and, as `fits` says, the answer is to what was asked; counts what is not.
fn answers(ask: &Ask, nr: RequestId, counters: &mut Counters, fits: bool) -> bool {
    if !ask.matches(nr) {
        counters.unknown_nr += 1;
        return false;
    }
    if !fits {
        counters.wrong_code += 1;
    }
    fits
}
