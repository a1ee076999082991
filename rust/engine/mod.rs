// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The dump client as a state machine without I/O: datagrams and time go in, datagrams come out.
//!
//! The kernel glue calls it in a panic, the simulations and fuzz targets in user space. It allocates
//! nothing, waits for nothing, and cannot panic. A round of the caller's loop is:
//!
//! ```text
//! for each datagram from the server:  engine.handle(now, datagram)
//! while there is room to send:        engine.transmit(now, target, buf)  ->  send buf[..len]
//! engine.poll(now)                    ->  Some(end): the dump is over
//! ```
//!
//! The server pulls: all reliability (timeouts, resending, duplicates) is on its side. The client only
//! announces itself with START_NETDUMP until it is acknowledged, and then answers one request after
//! another (docs/protocol.md, "Classic"). It answers each copy of a request, so a duplicate is harmless.

pub mod client;
mod config;
pub mod prober;
mod queue;
pub mod v6;

use super::wire::classic::{
    self, Body, Code, Command, ItemId, Reply, ReplyHeader, RequestView, Start, Version, CHUNK_LEN, MAX_EXT_DATA,
    MAX_LOG_TEXT, MAX_VERSION, REPLY_HEADER_LEN,
};
use super::wire::{Cookie, Error, Pfn, RequestId, Result};

pub use config::{Config, Counters, Time};
pub use queue::QUEUE_LEN;
use queue::{Entry, Push, Queue};

/// Bytes that the buffer given to [`Engine::transmit`] must hold.
pub const MAX_DATAGRAM: usize = classic::MAX_REPLY_LEN;

/// How often START_NETDUMP is sent, ns.
const START_INTERVAL: u64 = 1_000_000_000;

/// A request that comes before the acknowledgement makes us repeat START_NETDUMP at once, but not sooner
/// than this after the last one, ns: otherwise a flood of requests would turn us into an amplifier.
const START_INTERVAL_MIN: u64 = 100_000_000;

/// The machine that is being dumped.
pub trait Target {
    /// Whether the page can be asked for. Called only for pages below `Config::nr_pages`.
    fn classify(&mut self, pfn: Pfn) -> PageClass;

    /// Copies memory of a page, from byte `offset` of it on, filling `out`.
    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> core::result::Result<(), Unreadable>;

    /// The register block of the CPU that crashed (`elf_gregset`), at most 1001 bytes.
    fn regs(&self) -> &[u8];

    /// Copies bytes of an item of the extension, from `offset` on: as many as `out` holds or the item has left.
    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart;

    /// Writes the next piece of the task listing to the front of `out` and returns its length; `None` or 0 at the end.
    ///
    /// The engine walks through the listing once, whatever the number of requests for it.
    fn show_state(&mut self, out: &mut [u8]) -> Option<usize>;
}

/// What lies at a page frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageClass {
    /// Memory that may be read.
    Ram,
    /// Nothing that may be read.
    Hole {
        /// The next page that may.
        next: Option<Pfn>,
    },
}

/// The page is RAM, but reading it failed: poisoned, or not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// What [`Target::item`] copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ItemPart {
    /// Length of the whole item, bytes; 0 if there is none.
    pub total: u32,
    /// Bytes copied.
    pub written: usize,
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server ordered the machine to restart.
    Reboot,
    /// The server ended the dump; the panic goes on.
    Exit,
    /// The server speaks no version that this machine may fall back to.
    Refused,
    /// No server acknowledged in `Config::handshake_timeout`.
    HandshakeTimeout,
    /// No authentic request in `Config::idle_timeout`.
    IdleTimeout,
    /// Others were served for the whole of `Config6::queue_timeout`.
    QueueTimeout,
    /// Not done in `Config::total_timeout`.
    TotalTimeout,
}

/// Where the dump stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// START_NETDUMP is sent until it is acknowledged.
    Handshake,
    /// Requests are answered.
    Serving(Version),
    /// Nothing is sent any more.
    Ended(End),
}

/// The request that is being answered, for those that take more than one datagram.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// The next chunk of a page.
    Mem { nr: RequestId, pfn: Pfn, offset: u32 },
    /// The task listing, and then the reply.
    ShowState { nr: RequestId },
}

/// One dump. Several KiB, for the queue: keep it in a static or on a heap, not on a stack.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    state: State,
    /// When the dump began.
    began: Time,
    /// When the last authentic request came, or the handshake was done.
    refreshed: Time,
    /// When START_NETDUMP is due.
    next_start: Time,
    /// When it was last sent.
    last_start: Option<Time>,
    job: Option<Job>,
    /// The task listing went out; it is not repeated.
    listed: bool,
    /// Place of the next piece of text in the log stream.
    log_offset: u32,
    queue: Queue,
    counters: Counters,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine that has ended; [`begin`](Self::begin) makes it start. Usable for a static.
    pub const fn new() -> Self {
        Engine {
            config: Config::EMPTY,
            state: State::Ended(End::Exit),
            began: Time(0),
            refreshed: Time(0),
            next_start: Time(0),
            last_start: None,
            job: None,
            listed: false,
            log_offset: 0,
            queue: Queue::new(),
            counters: Counters::ZERO,
        }
    }

    /// Starts a dump, at its handshake, with all counters at 0.
    pub fn begin(&mut self, config: Config, now: Time) {
        self.log_offset = config.log_offset;
        self.config = config;
        self.state = State::Handshake;
        self.began = now;
        self.refreshed = now;
        self.next_start = now;
        self.last_start = None;
        self.job = None;
        self.listed = false;
        self.queue.clear();
        self.counters = Counters::ZERO;
    }

    /// Where the dump stands. Timeouts show only after [`poll`](Self::poll).
    pub fn state(&self) -> State {
        self.state
    }

    /// What was received and sent so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests that wait for an answer, the one that is being answered included.
    pub fn pending(&self) -> usize {
        self.queue.len().saturating_add(usize::from(self.job.is_some()))
    }

    /// Place of the next piece of text in the log stream, for whoever writes to that stream afterwards.
    pub fn log_offset(&self) -> u32 {
        self.log_offset
    }

    /// Takes a UDP payload. The caller has checked that it comes from the server's address.
    ///
    /// Anything but a whole request with the right cookie is counted and otherwise ignored.
    pub fn handle(&mut self, now: Time, datagram: &[u8]) {
        let counters = &mut self.counters;
        add(&mut counters.received, 1);
        let Ok(request) = RequestView::new_checked(datagram) else {
            return add(&mut counters.short, 1);
        };
        if request.cookie() != self.config.cookie {
            return add(&mut counters.bad_cookie, 1);
        }
        match self.state {
            State::Handshake => self.handle_in_handshake(now, &request),
            State::Serving(_) => {
                self.refreshed = now;
                self.enqueue(&request);
            }
            State::Ended(_) => add(&mut counters.late, 1),
        }
    }

    fn handle_in_handshake(&mut self, now: Time, request: &RequestView<'_>) {
        let command = Command::from_wire(request.command(), request.from(), request.to());
        let Command::StartAck { max_version } = command else {
            // As the original: drop it and announce ourselves again.
            add(&mut self.counters.early, 1);
            let soonest = self.last_start.map_or(now, |sent| sent.plus(START_INTERVAL_MIN));
            self.next_start = self.next_start.min(soonest.max(now));
            return;
        };
        self.state = match self.config.negotiate(max_version) {
            Some(version) => State::Serving(version),
            None => State::Ended(End::Refused),
        };
        add(&mut self.counters.accepted, 1);
        self.refreshed = now;
    }

    fn enqueue(&mut self, request: &RequestView<'_>) {
        let command = Command::from_wire(request.command(), request.from(), request.to());
        if command == Command::None {
            return add(&mut self.counters.accepted, 1); // needs no answer, so no place either
        }
        let counter = match self.queue.push(Entry::new(request)) {
            Push::Queued => &mut self.counters.accepted,
            Push::Duplicate => &mut self.counters.duplicate,
            Push::Full => &mut self.counters.queue_full,
        };
        add(counter, 1);
    }

    /// Writes the next datagram to the front of `buf`, which must hold [`MAX_DATAGRAM`] bytes, and returns its
    /// length; `None` when there is nothing to send now. A page takes a call per kilobyte.
    ///
    /// Call it only when the datagram can be sent: it is not kept, and only the server can ask for it again.
    pub fn transmit(&mut self, now: Time, target: &mut impl Target, buf: &mut [u8]) -> Option<usize> {
        let sent = match self.state {
            State::Handshake => self.transmit_start(now, buf),
            State::Serving(version) => self.transmit_answer(version, target, buf),
            State::Ended(_) => None,
        }?;
        add(&mut self.counters.sent, 1);
        add(&mut self.counters.sent_bytes, sent as u64);
        Some(sent)
    }

    fn transmit_start(&mut self, now: Time, buf: &mut [u8]) -> Option<usize> {
        if now < self.next_start {
            return None;
        }
        self.next_start = now.plus(START_INTERVAL);
        self.last_start = Some(now);
        add(&mut self.counters.starts, 1);
        let start = Start::V5 {
            machine: self.config.machine,
            max_version: MAX_VERSION,
            task_struct: self.config.task_struct,
            page_offset: self.config.page_offset,
            magic: Cookie::new(0), // the secret is not for the wire
        };
        let reply = Reply { version: Version::V4, nr: RequestId(0), body: Body::Start(start) };
        self.count_no_room(reply.emit(buf))
    }

    fn transmit_answer(&mut self, version: Version, target: &mut impl Target, buf: &mut [u8]) -> Option<usize> {
        // Each turn takes a job or an entry away, so this ends.
        loop {
            let answer = match self.job.take() {
                Some(Job::Mem { nr, pfn, offset }) => self.send_chunk(version, nr, pfn, offset, target, buf),
                Some(Job::ShowState { nr }) => self.send_listing(version, nr, target, buf),
                None => {
                    let (nr, command) = self.queue.pop()?;
                    self.answer(version, nr, command, target, buf)
                }
            };
            if let State::Ended(End::Reboot) = self.state {
                return None;
            }
            if let Some(len) = self.count_no_room(answer) {
                return Some(len);
            }
        }
    }

    /// The answer to `command`, or the first datagram of it, and `self.job` for the others.
    fn answer(
        &mut self,
        version: Version,
        nr: RequestId,
        command: Command,
        target: &mut impl Target,
        buf: &mut [u8],
    ) -> Result<usize> {
        let body = match command {
            Command::SendMem(pfn) => return self.begin_page(version, nr, pfn, target, buf),
            Command::ShowState => return self.send_listing(version, nr, target, buf),
            Command::Ext { item, offset } => return self.send_item(version, nr, item, offset, target, buf),
            Command::Reboot => {
                self.state = State::Ended(End::Reboot);
                return Ok(0);
            }
            Command::Exit => {
                self.state = State::Ended(End::Exit);
                let end = Reply { version, nr: RequestId(0), body: Body::End };
                return end.emit(buf);
            }
            Command::Hello => Body::Hello { version: classic::BASE_VERSION },
            Command::GetNrPages => Body::NrPages(saturate(self.config.nr_pages)),
            Command::GetPageSize => Body::PageSize(self.config.page_size),
            // The original sends the low 32 bits.
            Command::GetRegs => {
                Body::Regs { total_ram_pages: self.config.total_ram_pages as u32, block: target.regs() }
            }
            Command::None | Command::StartAck { .. } | Command::Unknown { .. } => {
                add(&mut self.counters.errors, 1);
                return send_error(version, nr, command.code(), buf, |text| {
                    classic::unknown_command_text(text, command.code())
                });
            }
        };
        Reply { version, nr, body }.emit(buf)
    }

    fn begin_page(
        &mut self,
        version: Version,
        nr: RequestId,
        pfn: Pfn,
        target: &mut impl Target,
        buf: &mut [u8],
    ) -> Result<usize> {
        let nr_pages = self.config.nr_pages;
        if pfn.0 >= nr_pages {
            add(&mut self.counters.errors, 1);
            return send_error(version, nr, 0, buf, |text| classic::bad_page_text(text, pfn, nr_pages));
        }
        match target.classify(pfn) {
            PageClass::Ram => self.send_chunk(version, nr, pfn, 0, target, buf),
            PageClass::Hole { next } => self.send_reserved(version, nr, pfn, next, buf),
        }
    }

    fn send_chunk(
        &mut self,
        version: Version,
        nr: RequestId,
        pfn: Pfn,
        offset: u32,
        target: &mut impl Target,
        buf: &mut [u8],
    ) -> Result<usize> {
        let header = ReplyHeader { version, nr, code: Code::Mem, info: offset };
        let payload = header.emit(buf)?.get_mut(..CHUNK_LEN).ok_or(Error::NoRoom)?;
        if target.read(pfn, offset, payload).is_err() {
            add(&mut self.counters.unreadable, 1);
            let next = self.next_ram(pfn, target);
            return self.send_reserved(version, nr, pfn, next, buf);
        }
        add(&mut self.counters.chunks, 1);
        let offset = offset.saturating_add(CHUNK_LEN as u32);
        if offset < self.config.page_size {
            self.job = Some(Job::Mem { nr, pfn, offset });
        } else {
            add(&mut self.counters.pages, 1);
        }
        Ok(REPLY_HEADER_LEN.saturating_add(CHUNK_LEN))
    }

    /// The first page behind `pfn` that may be read.
    fn next_ram(&self, pfn: Pfn, target: &mut impl Target) -> Option<Pfn> {
        let next = Pfn(pfn.0.checked_add(1).filter(|next| *next < self.config.nr_pages)?);
        match target.classify(next) {
            PageClass::Ram => Some(next),
            PageClass::Hole { next } => next,
        }
    }

    fn send_reserved(
        &mut self,
        version: Version,
        nr: RequestId,
        pfn: Pfn,
        next: Option<Pfn>,
        buf: &mut [u8],
    ) -> Result<usize> {
        add(&mut self.counters.reserved, 1);
        // Whatever the target says, the server must get ahead, and can only ask for what 32 bits hold.
        let end = self.config.nr_pages.min(u64::from(u32::MAX));
        let next = next.filter(|next| *next > pfn && next.0 < end);
        Reply { version, nr, body: Body::Reserved { next } }.emit(buf)
    }

    /// The next piece of the task listing, or the reply behind the last one.
    fn send_listing(
        &mut self,
        version: Version,
        nr: RequestId,
        target: &mut impl Target,
        buf: &mut [u8],
    ) -> Result<usize> {
        if !self.listed {
            let header = ReplyHeader {
                version: Version::V4, // as all log packets
                nr: RequestId(0),
                code: Code::Log,
                info: self.log_offset,
            };
            let text = header.emit(buf)?.get_mut(..MAX_LOG_TEXT).ok_or(Error::NoRoom)?;
            // An empty piece would come again and again: it ends the listing too.
            if let Some(len @ 1..) = target.show_state(text) {
                let len = len.min(MAX_LOG_TEXT);
                self.log_offset = self.log_offset.wrapping_add(saturate(len as u64));
                add(&mut self.counters.log_pieces, 1);
                self.job = Some(Job::ShowState { nr });
                return Ok(REPLY_HEADER_LEN.saturating_add(len));
            }
            self.listed = true;
        }
        Reply { version, nr, body: Body::ShowState }.emit(buf)
    }

    fn send_item(
        &mut self,
        version: Version,
        nr: RequestId,
        item: ItemId,
        offset: u32,
        target: &mut impl Target,
        buf: &mut [u8],
    ) -> Result<usize> {
        let payload = ReplyHeader { version, nr, code: Code::Ext, info: offset }.emit(buf)?;
        let (total, data) = payload.split_first_chunk_mut::<4>().ok_or(Error::NoRoom)?;
        let data = data.get_mut(..MAX_EXT_DATA).ok_or(Error::NoRoom)?;
        let part = target.item(item, offset, data);
        *total = part.total.to_be_bytes();
        add(&mut self.counters.items, 1);
        let written = part.written.min(MAX_EXT_DATA);
        Ok(REPLY_HEADER_LEN.saturating_add(4).saturating_add(written))
    }

    /// Whether the dump is over, by order or by time.
    pub fn poll(&mut self, now: Time) -> Option<End> {
        let end = match self.state {
            State::Ended(end) => Some(end),
            State::Handshake => self.timed_out(now, self.handshake_deadline(), End::HandshakeTimeout),
            State::Serving(_) => self.timed_out(now, self.idle_deadline(), End::IdleTimeout),
        }?;
        self.state = State::Ended(end);
        Some(end)
    }

    fn timed_out(&self, now: Time, deadline: Option<Time>, end: End) -> Option<End> {
        let passed = |deadline: Option<Time>| deadline.is_some_and(|deadline| now >= deadline);
        if passed(self.total_deadline()) {
            Some(End::TotalTimeout)
        } else {
            passed(deadline).then_some(end)
        }
    }

    fn handshake_deadline(&self) -> Option<Time> {
        self.began.deadline(self.config.handshake_timeout)
    }

    fn idle_deadline(&self) -> Option<Time> {
        self.refreshed.deadline(self.config.idle_timeout)
    }

    fn total_deadline(&self) -> Option<Time> {
        self.began.deadline(self.config.total_timeout)
    }

    /// When [`transmit`](Self::transmit) or [`poll`](Self::poll) must be called next if no datagram comes in,
    /// and if `transmit` was called until it returned `None`. `None`: never.
    pub fn next_deadline(&self) -> Option<Time> {
        let of_state = match self.state {
            State::Handshake => {
                let timeout = self.handshake_deadline();
                Some(timeout.map_or(self.next_start, |timeout| timeout.min(self.next_start)))
            }
            State::Serving(_) => self.idle_deadline(),
            State::Ended(_) => return None,
        };
        match (of_state, self.total_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The length of what was written. A caller whose buffer is too small loses the answer, not the dump.
    fn count_no_room(&mut self, answer: Result<usize>) -> Option<usize> {
        answer.map_err(|_| add(&mut self.counters.no_room, 1)).ok()
    }
}

/// A REPLY_ERROR whose text is written in place.
fn send_error(
    version: Version,
    nr: RequestId,
    info: u32,
    buf: &mut [u8],
    text: impl FnOnce(&mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let payload = ReplyHeader { version, nr, code: Code::Error, info }.emit(buf)?;
    Ok(REPLY_HEADER_LEN.saturating_add(text(payload)?))
}

/// `value` as far as 32 bits hold it.
fn saturate(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn add(counter: &mut u64, n: u64) {
    *counter = counter.wrapping_add(n);
}

#[cfg(test)]
mod tests;
