// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's log: its directory, its limits, and what waits to be written.
//!
//! Text is gathered for [`FLUSH_DELAY`] or until there are [`FLUSH_BYTES`] of it, so that a thousand clients that talk
//! at once cost a thousand writes ten times a second and not one for each line.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::Settings;
use crate::events::{Events, Reason};
use crate::meta::Meta;
use crate::sink::{Lost, Sink};
use crate::store::{DirId, Store};

/// How long text waits for more of it.
pub const FLUSH_DELAY: Duration = Duration::from_millis(100);
/// So much is written at once.
pub const FLUSH_BYTES: usize = 16 << 10;
/// Text of all clients together that may wait for more of it; beyond it all is written.
pub const MAX_GATHERED: usize = 8 << 20;
/// What a dump may add to a log that has reached its size: the kernel's log as of the crash and the task listing are
/// worth more than what filled it.
const DUMP_ALLOWANCE: u64 = 4 << 20;
const MINUTE: Duration = Duration::from_secs(60);
/// The line that our and Red Hat's client send when they load, before anything else.
const BOOT_LINE: &[u8] = b"[...network console startup...]";

/// What the functions here need from the server.
pub struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// Limits.
    pub settings: &'a Settings,
    /// Where to write.
    pub store: &'a mut Store,
    /// Where to count.
    pub events: &'a mut Events,
}

/// What all logs together may take.
#[derive(Debug, Default)]
pub struct Shares {
    /// Since when directories are counted, and how many were made.
    minute: Option<(Instant, u32)>,
    /// Bytes of all logs, as far as they were measured.
    measured: u64,
    /// Bytes written since that measurement was asked for.
    since: u64,
    /// Text that waits for more of it.
    gathered: usize,
    /// When whose text is to be written; ascending.
    due: VecDeque<(Instant, IpAddr)>,
}

impl Shares {
    /// Whether another directory may be made in this minute.
    pub fn has_directory(&self, now: Instant, settings: &Settings) -> bool {
        self.made(now) < settings.new_dirs_per_minute
    }

    fn made(&self, now: Instant) -> u32 {
        self.minute.map_or(0, |(since, made)| if now.saturating_duration_since(since) < MINUTE { made } else { 0 })
    }

    fn take_directory(&mut self, cx: &Context<'_>) -> bool {
        let made = self.made(cx.now);
        let allowed = made < cx.settings.new_dirs_per_minute;
        let since = self.minute.map(|(since, _)| since).filter(|_| made > 0).unwrap_or(cx.now);
        self.minute = Some((since, made.saturating_add(u32::from(allowed))));
        allowed
    }

    /// Bytes that all logs take on the disk, or soon will.
    pub fn used(&self) -> u64 {
        self.measured.saturating_add(self.since)
    }

    /// A measurement of the disk begins: what is written from now on is not in it for certain.
    pub fn measuring(&mut self) {
        self.since = self.gathered as u64;
    }

    /// The disk holds so many bytes of logs.
    pub fn measured(&mut self, bytes: u64) {
        self.measured = bytes;
    }

    /// Text that waits for more of it, all clients together.
    pub fn gathered(&self) -> usize {
        self.gathered
    }

    /// When the next text is to be written.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.front().map(|(at, _)| *at)
    }

    /// A client whose text is to be written now.
    pub fn take_due(&mut self, now: Instant) -> Option<IpAddr> {
        let full = self.gathered > MAX_GATHERED;
        let (at, client) = *self.due.front()?;
        if !full && at > now {
            return None;
        }
        self.due.pop_front();
        Some(client)
    }
}

/// How a client's dump stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpState {
    /// It has none in this directory.
    None,
    /// It runs.
    Running,
    /// It is over; text that comes now is from the way down, or from the next boot.
    Over,
}

/// One client's log.
#[derive(Debug)]
pub struct Console {
    client: IpAddr,
    registered: bool,
    dir: Option<DirId>,
    gathered: Vec<u8>,
    /// It stands in [`Shares::due`].
    due: bool,
    written: u64,
    lost: u64,
    /// Lost since the last mark.
    unmarked: u64,
    full: bool,
    /// The quota was met, and the log says so.
    over_quota: bool,
    /// The log may grow to this size, whatever `log_max` is.
    floor: u64,
    dump: DumpState,
    /// The client was last said to have booted in this directory and then.
    booted: Option<(DirId, Instant)>,
}

impl Console {
    /// A client of which nothing is stored.
    pub fn new(client: IpAddr) -> Console {
        Console {
            client,
            registered: false,
            dir: None,
            gathered: Vec::new(),
            due: false,
            written: 0,
            lost: 0,
            unmarked: 0,
            full: false,
            over_quota: false,
            floor: 0,
            dump: DumpState::None,
            booted: None,
        }
    }

    /// The directory, if there is one.
    pub fn dir(&self) -> Option<DirId> {
        self.dir
    }

    /// See [`DumpState`].
    pub fn dump(&self) -> DumpState {
        self.dump
    }

    /// Bytes that never came or were not taken.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Says whether the client has a file in `magic/`, for directories made from now on.
    pub fn set_registered(&mut self, registered: bool) {
        self.registered = registered;
    }

    /// Goes on with a directory of an earlier run of the server. One that holds a dump has no room for another.
    pub fn resume(&mut self, dir: DirId, dumped: bool) {
        self.dir = Some(dir);
        if dumped {
            self.dump = DumpState::Over;
        }
    }

    /// Nothing can be written to the directory any more: the next text begins another.
    pub fn dir_failed(&mut self) {
        self.dir = None;
    }

    /// So many bytes could not be written.
    pub fn not_written(&mut self, shares: &mut Shares, bytes: u64) {
        self.lost += bytes;
        self.unmarked += bytes;
        self.written = self.written.saturating_sub(bytes);
        shares.since = shares.since.saturating_sub(bytes);
    }

    /// So many bytes were not taken: the log says so before what comes next.
    pub fn drop_text(&mut self, bytes: u64) {
        self.lost += bytes;
        self.unmarked += bytes;
    }

    /// A dump begins, in the present directory if that has none yet, or in the one in which it was `begun` before.
    pub fn begin_dump(&mut self, cx: &mut Context<'_>, shares: &mut Shares, begun: Option<String>) -> DirId {
        if self.dump != DumpState::None || begun.is_some() {
            self.new_boot(cx, shares);
        }
        if let Some(name) = begun {
            self.dir = Some(cx.store.resume(name));
        }
        self.flush(cx, shares);
        self.dump = DumpState::Running;
        self.floor = self.written.saturating_add(DUMP_ALLOWANCE);
        self.full = false;
        self.dir_for_dump(cx)
    }

    /// The directory of a dump, made anew if the last could not be.
    pub fn dir_for_dump(&mut self, cx: &mut Context<'_>) -> DirId {
        match self.dir {
            Some(dir) => dir,
            None => self.create(cx),
        }
    }

    /// The dump is over.
    pub fn end_dump(&mut self) {
        self.dump = DumpState::Over;
    }

    /// Whether its boot is news: told once for a directory, and once a minute.
    pub fn boots(&mut self, now: Instant) -> bool {
        let Some(dir) = self.dir else { return false };
        let told = |(last, at): (DirId, Instant)| last == dir || now.saturating_duration_since(at) < MINUTE;
        let news = !self.booted.is_some_and(told);
        if news {
            self.booted = Some((dir, now));
        }
        news
    }

    /// The text that comes next is from another boot, and so for another directory.
    pub fn new_boot(&mut self, cx: &mut Context<'_>, shares: &mut Shares) {
        self.flush(cx, shares);
        if let Some(dir) = self.dir.take() {
            cx.store.forget(dir);
        }
        self.written = 0;
        self.lost = 0;
        self.unmarked = 0;
        self.full = false;
        self.over_quota = false;
        self.floor = 0;
        self.dump = DumpState::None;
    }

    /// Appends text. While a dump runs it is written at once: the end of a dump waits for it.
    pub fn append(&mut self, cx: &mut Context<'_>, shares: &mut Shares, text: &[u8]) {
        let len = text.len() as u64;
        if self.dump == DumpState::None && shares.used().saturating_add(len) > cx.settings.log_quota {
            return self.refuse_for_quota(cx, shares, len);
        }
        if self.dir.is_none() {
            if self.dump == DumpState::None && !shares.take_directory(cx) {
                self.drop_text(len);
                let peer = SocketAddr::new(self.client, 0);
                return cx.events.note(cx.now, Reason::LogDirLimit, peer, "no new directory this minute");
            }
            self.create(cx);
        }
        let most = cx.settings.log_max.max(self.floor);
        if self.full || self.written + len > most {
            let peer = SocketAddr::new(self.client, 0);
            cx.events.note(cx.now, Reason::LogSize, peer, "log_max reached, the rest of this log is dropped");
            self.lost += len;
            if !self.full {
                self.full = true;
                self.gather(cx, shares, format!("\n[netdump: log_max of {most} bytes reached]\n").as_bytes());
            }
            return;
        }
        self.over_quota = false;
        self.mark_dropped(cx, shares);
        self.gather(cx, shares, text);
    }

    /// A line in place of what was dropped since the last one.
    fn mark_dropped(&mut self, cx: &mut Context<'_>, shares: &mut Shares) {
        if self.unmarked > 0 {
            let mark = format!("{}\n", Lost::Bytes(std::mem::take(&mut self.unmarked)));
            self.gather(cx, shares, mark.as_bytes());
        }
    }

    fn refuse_for_quota(&mut self, cx: &mut Context<'_>, shares: &mut Shares, len: u64) {
        let peer = SocketAddr::new(self.client, 0);
        cx.events.note(cx.now, Reason::LogQuota, peer, "log_quota reached: console text is dropped");
        if !self.over_quota && self.dir.is_some() {
            self.over_quota = true;
            let mark = format!("[netdump: log_quota of {} bytes reached]\n", cx.settings.log_quota);
            self.gather(cx, shares, mark.as_bytes());
        }
        self.drop_text(len);
    }

    fn gather(&mut self, cx: &mut Context<'_>, shares: &mut Shares, text: &[u8]) {
        self.gathered.extend_from_slice(text);
        self.written += text.len() as u64;
        shares.since += text.len() as u64;
        shares.gathered += text.len();
        if self.gathered.len() >= FLUSH_BYTES || self.dump == DumpState::Running {
            self.flush(cx, shares);
        } else if !self.due {
            self.due = true;
            shares.due.push_back((cx.now + FLUSH_DELAY, self.client));
        }
    }

    /// Its time in [`Shares::due`] has come.
    pub fn flush_due(&mut self, cx: &mut Context<'_>, shares: &mut Shares) {
        self.due = false;
        self.flush(cx, shares);
    }

    /// Writes what was gathered.
    pub fn flush(&mut self, cx: &mut Context<'_>, shares: &mut Shares) {
        if self.gathered.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.gathered);
        let len = text.len();
        shares.gathered -= len;
        match self.dir {
            Some(dir) if cx.store.log(dir, text) => cx.events.log_bytes += len as u64,
            Some(_) => {
                let peer = SocketAddr::new(self.client, 0);
                cx.events.note(cx.now, Reason::LogBacklog, peer, "the disk is too slow for the logs");
                self.not_written(shares, len as u64);
            }
            // The directory is gone since.
            None => self.not_written(shares, len as u64),
        }
    }

    fn create(&mut self, cx: &mut Context<'_>) -> DirId {
        let at = Timestamp::now();
        let dir = cx.store.create(self.client, at);
        cx.store.meta(dir, Meta::new(self.client, at, self.registered));
        self.dir = Some(dir);
        dir
    }
}

/// The log as the end of a stream.
pub struct Output<'a, 'b> {
    /// The log.
    pub console: &'a mut Console,
    /// What it shares with others.
    pub shares: &'a mut Shares,
    /// The server.
    pub cx: &'a mut Context<'b>,
    /// The client's first words were among the text.
    pub boot_line: bool,
}

impl Sink for Output<'_, '_> {
    fn text(&mut self, text: &[u8]) {
        self.boot_line |= text.starts_with(BOOT_LINE);
        self.console.append(self.cx, self.shares, text);
    }

    fn lost(&mut self, lost: Lost) {
        if let Lost::Bytes(bytes) = lost {
            self.console.lost += bytes;
        }
        self.console.append(self.cx, self.shares, format!("{lost}\n").as_bytes());
    }

    fn restart(&mut self) {
        if self.console.dump != DumpState::Running {
            self.console.new_boot(self.cx, self.shares);
        }
    }
}
