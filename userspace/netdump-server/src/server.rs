// SPDX-License-Identifier: GPL-2.0-or-later
//! The server: one task that owns the socket, all sessions and all tables, so that nothing needs a lock.
//!
//! It never touches a disk: directories and logs belong to the [`store`](crate::store) thread, each vmcore to a
//! [`writer`](crate::writer) thread, scripts to processes; all report back through one channel. What a datagram does
//! is in [`dispatch`](crate::dispatch), the life of a dump in [`dumps`](crate::dumps).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};

use crate::admission::{Admission, DumpId, Limits};
use crate::cli::Invocation;
use crate::config::{Reload, Settings, KEYS};
use crate::convert::{self, Conversions, Made};
use netdump_keys::Reader;
use netdump_session::v6::Hints;

use crate::crashdir::CrashDir;
use crate::dispatch::Fire;
use crate::dump::Dump;
use crate::dumps::MAX_UNFINISHED;
use crate::events::{Events, Reason};
use crate::hooks::Hooks;
use crate::journal::Cause;
use crate::logs::{ByAddress, Context, Logs, Place};
use crate::socket::{Receiver, Sender, Socket};
use crate::status;
use crate::store::{Store, StoreEvent};
use crate::writer::WriterEvent;

/// Batches that are read before timers and reports have their turn.
const BATCHES_PER_TURN: usize = 8;
/// Bytes of a batch after which their consequences are worked out: a client that has used its credit waits meanwhile.
const BYTES_PER_ADVANCE: usize = 256 << 10;
/// Time that open files have at the end of the server.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The same where all memory is there and only the disk has to take it: that dump would be lost for a few seconds.
const SHUTDOWN_WHOLE: Duration = Duration::from_secs(60);
/// Time between two summaries of what was counted.
const SUMMARY: Duration = Duration::from_secs(60);
/// While console text comes fast it is fetched so often.
const MODERATION: Duration = Duration::from_micros(500);
/// That is more datagrams than this in each [`PACE_OVER`].
const BUSY: u64 = 200;
const PACE_OVER: Duration = Duration::from_millis(10);
/// All logs are measured once in so many summaries.
const MEASURE_EVERY: u32 = 10;
/// Where the places of log streams are kept while the server is down.
const STREAMS_FILE: &str = ".netlog-streams.json";
/// No such file is larger: 4096 sources with 4 streams of 200 bytes.
const STREAMS_FILE_MAX: u64 = 4 << 20;

/// What other threads and tasks report.
#[derive(Debug)]
pub enum Report {
    /// From the storage thread.
    Store(StoreEvent),
    /// From the writer of a dump.
    Writer(DumpId, WriterEvent),
    /// `netdump-nospace` has run for this dump.
    SpaceHook(DumpId),
    /// A vmcore was compressed, or not.
    Converted(DumpId, io::Result<Made>),
    /// A script for this client was not run because too many wait.
    TooManyScripts(IpAddr),
}

impl From<StoreEvent> for Report {
    fn from(event: StoreEvent) -> Self {
        Report::Store(event)
    }
}

impl From<(DumpId, WriterEvent)> for Report {
    fn from((id, event): (DumpId, WriterEvent)) -> Self {
        Report::Writer(id, event)
    }
}

/// The whole state.
pub struct Server {
    pub(crate) invocation: Invocation,
    pub(crate) settings: Settings,
    pub(crate) sender: Sender,
    pub(crate) root: CrashDir,
    /// Keys of enrolled clients.
    pub(crate) keys: Option<Reader>,
    pub(crate) store: Store,
    pub(crate) hooks: Hooks,
    pub(crate) events: Events,
    pub(crate) logs: Logs,
    pub(crate) admission: Admission,
    /// Sessions by the client's address and port.
    pub(crate) dumps: ByAddress<SocketAddr, Box<Dump>>,
    /// Dumps whose session is over and whose file is not yet closed.
    pub(crate) closing: HashMap<DumpId, Box<Dump>>,
    /// Vmcores that are to be compressed.
    pub(crate) conversions: Conversions,
    /// Sessions per address, so that a stranger's packet costs one look.
    pub(crate) by_ip: ByAddress<IpAddr, Vec<SocketAddr>>,
    /// Clients with datagrams whose consequences are not yet worked out.
    pub(crate) touched: Vec<SocketAddr>,
    /// Dumps of version 6 that are over.
    pub(crate) burnt: HashSet<Fire>,
    /// Who was told that his session is not known.
    pub(crate) hints: Hints,
    /// Dumps that are not whole and can be gone on with, and their directories.
    pub(crate) unfinished: HashMap<Cause, String>,
    /// Whether an address may log, remembered for a while.
    pub(crate) may_log: ByAddress<IpAddr, (bool, Instant)>,
    pub(crate) pace: Pace,
    pub(crate) starts: Budget,
    pub(crate) probes: Budget,
    /// Addresses that were looked up because of their log text.
    pub(crate) lookups: Budget,
    pub(crate) next_id: u64,
    pub(crate) next_timeout: Option<Instant>,
    pub(crate) reports: UnboundedSender<Report>,
    pub(crate) now: Instant,
    pub(crate) began: jiff::Timestamp,
    /// Datagrams that the socket has dropped since it was bound.
    pub(crate) drops: u64,
    /// The receive buffer that was got, in bytes as they are asked for: half of what the kernel counts.
    pub(crate) rcvbuf: usize,
    /// The server ends: nothing new is begun.
    pub(crate) stopping: bool,
    summed: u64,
    minutes: u32,
}

/// How fast datagrams come.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    received: u64,
    busy: bool,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { since: now, received: 0, busy: false }
    }

    /// Whether more than [`BUSY`] came in the last [`PACE_OVER`].
    fn is_busy(&mut self, now: Instant, received: u64) -> bool {
        if now.saturating_duration_since(self.since) >= PACE_OVER {
            // A longer time is a pause.
            let pause = now.saturating_duration_since(self.since) >= 2 * PACE_OVER;
            self.busy = !pause && received - self.received > BUSY;
            (self.since, self.received) = (now, received);
        }
        self.busy
    }
}

/// What strangers may make us do in a second.
#[derive(Debug)]
pub(crate) struct Budget {
    second: Instant,
    used: u32,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Budget {
        Budget { second: now, used: 0 }
    }

    /// Whether it is not yet used up; then it is one less.
    pub(crate) fn take(&mut self, now: Instant, limit: u32) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Budget::new(now);
        }
        let left = self.used < limit;
        self.used += u32::from(left);
        left
    }
}

impl Server {
    /// Binds the socket and opens the crash directory: what can fail before the server detaches.
    pub fn prepare(settings: &Settings) -> anyhow::Result<(Socket, CrashDir)> {
        let socket = Socket::bind(settings).with_context(|| {
            let addr = settings.addr.map_or_else(|| "*".to_owned(), |addr| addr.to_string());
            format!("Couldn't bind master socket to {addr}:{}", settings.port)
        })?;
        let dir = settings.dumpdir.display();
        let root = CrashDir::open(&settings.dumpdir).with_context(|| format!("can't use the crash directory {dir}"))?;
        Ok((socket, root))
    }

    /// Runs until a signal ends it.
    pub async fn run(invocation: Invocation, settings: Settings, socket: Socket, root: CrashDir) -> anyhow::Result<()> {
        let (reports, mut inbox) = unbounded_channel();
        let now = Instant::now();
        if let Err(error) = convert::clear(&root) {
            tracing::warn!("what is left of files that were being compressed stays: {error}");
        }
        let unfinished = match root.unfinished() {
            Ok(found) => found.into_iter().take(MAX_UNFINISHED).collect(),
            Err(error) => {
                tracing::warn!("unfinished dumps are not known, and will be begun anew: {error}");
                HashMap::new()
            }
        };
        let mut server = Server {
            store: Store::start(root.clone(), reports.clone()).context("cannot start the storage thread")?,
            hooks: Hooks::new(root.path(), settings.max_hooks),
            events: Events::default(),
            logs: Logs::default(),
            admission: Admission::new(limits(&settings)),
            dumps: ByAddress::default(),
            closing: HashMap::new(),
            conversions: Conversions::default(),
            by_ip: ByAddress::default(),
            touched: Vec::new(),
            burnt: HashSet::new(),
            hints: Hints::default(),
            unfinished,
            may_log: ByAddress::default(),
            pace: Pace::new(now),
            starts: Budget::new(now),
            probes: Budget::new(now),
            lookups: Budget::new(now),
            next_id: 0,
            next_timeout: None,
            reports,
            now,
            began: jiff::Timestamp::now(),
            drops: 0,
            rcvbuf: socket.receiver.rcvbuf(),
            stopping: false,
            summed: 0,
            minutes: 0,
            invocation,
            sender: socket.sender,
            keys: settings.keydir.as_deref().map(Reader::new),
            settings,
            root,
        };
        server.load_streams();
        server.measure_logs();
        let result = server.serve(socket.receiver, &mut inbox).await;
        server.shut_down(&mut inbox).await;
        result
    }

    fn announce(&self, receiver: &Receiver) -> io::Result<()> {
        let (addr, got, asked) = (receiver.local_addr()?, receiver.rcvbuf(), self.settings.rcvbuf);
        tracing::info!(%addr, dumpdir = %self.root.path().display(), rcvbuf = got, "ready");
        if got < asked {
            tracing::warn!(asked, got, "the receive buffer is smaller than asked for: raise net.core.rmem_max");
        }
        if let Some(why) = self.root.exposure()? {
            let dumpdir = self.root.path().display();
            tracing::warn!(%dumpdir, "the crash directory {why}: its scripts are not run, and dumps can be tampered with");
        }
        notify(&[sd_notify::NotifyState::Ready]);
        Ok(())
    }

    async fn serve(&mut self, mut receiver: Receiver, inbox: &mut UnboundedReceiver<Report>) -> anyhow::Result<()> {
        let readiness = receiver.readiness()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // Not before signals do what they should: whoever waits for this may send one.
        self.announce(&receiver)?;
        let mut summary = tokio::time::interval(SUMMARY);
        summary.reset();
        let mut status_tick = tokio::time::interval(self.settings.status_interval);
        loop {
            let sleep = self.next_wake().map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(self.now));
            tokio::select! {
                ready = readiness.readable() => {
                    ready?;
                    let empty = self.drain_socket(&readiness, &mut receiver);
                    if self.pace.is_busy(self.now, self.events.received) && empty && self.dumps.is_empty() {
                        // Console text alone, and much of it: to be woken for each few lines costs both ends more than
                        // the lines. What comes meanwhile lies in the receive buffer; a dump would mind the delay.
                        std::thread::sleep(MODERATION);
                    }
                }
                Some(report) = inbox.recv() => {
                    self.now = Instant::now();
                    self.take_report(report);
                    while let Ok(report) = inbox.try_recv() {
                        self.take_report(report);
                    }
                }
                // On a machine that was busy elsewhere what a timer is about to miss may lie in the socket.
                () = tokio::time::sleep(sleep) => {
                    self.drain_socket(&readiness, &mut receiver);
                }
                _ = summary.tick() => {
                    self.summarize();
                    self.measure_logs();
                }
                _ = status_tick.tick() => self.write_status(),
                _ = hangup.recv() => {
                    self.reload();
                    status_tick = tokio::time::interval(self.settings.status_interval);
                }
                _ = terminate.recv() => {
                    tracing::info!("SIGTERM: shutting down");
                    return Ok(());
                }
                _ = interrupt.recv() => {
                    tracing::info!("SIGINT: shutting down");
                    return Ok(());
                }
            }
            self.now = Instant::now();
            self.run_timeouts();
            self.settle();
        }
    }

    /// Reads what is there, at most so much. Whether it was all.
    fn drain_socket(&mut self, readiness: &UdpSocket, receiver: &mut Receiver) -> bool {
        for _ in 0..BATCHES_PER_TURN {
            self.now = Instant::now();
            let mut bytes = 0;
            let receive = || {
                receiver.receive(|path, slot, segment| {
                    self.datagrams(path, slot, segment);
                    bytes += slot.len();
                    if bytes >= BYTES_PER_ADVANCE {
                        bytes = 0;
                        self.settle();
                    }
                })
            };
            match readiness.try_io(Interest::READABLE, receive) {
                Ok(()) => self.events.batches += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // ENOMEM, say: none is worth dying for, and the next wake-up tries again.
                Err(error) => {
                    tracing::warn!("receiving failed: {error}");
                    return true;
                }
            }
            self.note_drops(receiver.drops());
            self.settle();
        }
        false
    }

    fn note_drops(&mut self, drops: u64) {
        if drops == self.drops {
            return;
        }
        let new = drops - self.drops;
        self.drops = drops;
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        self.events.add(Reason::SocketDrop, new - 1);
        self.events.note(self.now, Reason::SocketDrop, nobody, "the receive buffer was full");
        for dump in self.dumps.values_mut() {
            dump.session.note_receive_drops(new);
        }
    }

    /// Works out the consequences of everything that came in.
    fn settle(&mut self) {
        while let Some(addr) = self.touched.pop() {
            self.advance(addr);
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        [self.next_timeout, self.logs.deadline(), self.conversions.due()].into_iter().flatten().min()
    }

    fn run_timeouts(&mut self) {
        self.run_conversions();
        if self.next_timeout.is_some_and(|at| at <= self.now) {
            self.next_timeout = None;
            let due: Vec<SocketAddr> = self
                .dumps
                .iter_mut()
                .filter_map(|(addr, dump)| {
                    let at = dump.session.poll_timeout()?;
                    if at <= self.now {
                        dump.session.handle_timeout(self.now);
                        return Some(*addr);
                    }
                    self.next_timeout = Some(self.next_timeout.map_or(at, |next| next.min(at)));
                    None
                })
                .collect();
            self.touched.extend(due);
        }
        if self.logs.deadline().is_some_and(|at| at <= self.now) {
            let mut cx =
                Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
            self.logs.poll(&mut cx);
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Store(event) => self.take_store_event(event),
            Report::Writer(id, event) => self.take_writer_event(id, event),
            Report::SpaceHook(id) => self.space_hook_done(id),
            Report::Converted(id, result) => self.conversion_done(id, result),
            Report::TooManyScripts(client) => {
                let peer = SocketAddr::new(client, 0);
                self.events.note(self.now, Reason::TooManyScripts, peer, "too many scripts wait, one is not run");
            }
        }
        self.settle();
    }

    fn reload(&mut self) {
        match sd_notify::NotifyState::monotonic_usec_now() {
            Ok(at) => notify(&[sd_notify::NotifyState::Reloading, at]),
            Err(error) => tracing::debug!("no monotonic clock: {error}"),
        }
        match self.invocation.settings() {
            Ok(new) => {
                let mut merged = self.settings.clone();
                for key in KEYS {
                    let (old, wanted) = (key.show(&self.settings), key.show(&new));
                    if old == wanted {
                        continue;
                    }
                    if key.reload == Reload::No {
                        tracing::warn!(key = key.name, "a change of this key needs a restart");
                        continue;
                    }
                    if let Err(reason) = key.copy(&new, &mut merged) {
                        tracing::error!(key = key.name, "not taken over: {reason}");
                    }
                    tracing::info!(key = key.name, old, new = wanted, "changed");
                }
                self.settings = merged;
                self.admission.set_limits(limits(&self.settings));
                self.may_log.clear();
                self.admit_next();
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!("configuration not reloaded: {error}"),
        }
        notify(&[sd_notify::NotifyState::Ready]);
    }

    fn summarize(&mut self) {
        // Only when something has happened.
        if self.events.received == self.summed {
            return;
        }
        self.summed = self.events.received;
        tracing::info!(
            received = self.events.received,
            batches = self.events.batches,
            sent = self.events.sent,
            dumps = self.dumps.len(),
            waiting = self.admission.waiting(),
            log_sources = self.logs.sources(),
            log_used = self.logs.used(),
            counts = ?self.events.by_name(),
            "summary"
        );
    }

    /// Measures what the logs take, so that what was removed makes room: often where there is none.
    fn measure_logs(&mut self) {
        let minute = self.minutes % MEASURE_EVERY;
        self.minutes = self.minutes.wrapping_add(1);
        if minute == 0 || self.logs.used() >= self.settings.log_quota {
            self.logs.shares().measuring();
            self.store.usage();
        }
    }

    fn write_status(&mut self) {
        let Some(file) = self.settings.status_file.clone() else { return };
        let json = status::render(self);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = status::write(&file, &json) {
                tracing::warn!(file = %file.display(), "status not written: {error}");
            }
        });
    }

    /// Closes everything: logs flushed, files closed as they are, `meta.json` true.
    async fn shut_down(&mut self, inbox: &mut UnboundedReceiver<Report>) {
        notify(&[sd_notify::NotifyState::Stopping]);
        self.now = Instant::now();
        self.stopping = true;
        self.stop_dumps();
        self.stop_conversions();
        let began = tokio::time::Instant::now();
        if self.closing.values().any(|dump| dump.is_writing() && dump.whole) {
            let limit = u32::try_from(SHUTDOWN_WHOLE.as_micros()).unwrap_or(u32::MAX);
            notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(limit)]);
        }
        while self.closing.values().any(|dump| dump.is_writing()) || self.conversions.is_running() {
            let whole = self.closing.values().any(|dump| dump.is_writing() && dump.whole);
            let end = began + if whole { SHUTDOWN_WHOLE } else { SHUTDOWN };
            match tokio::time::timeout_at(end, inbox.recv()).await {
                Ok(Some(report)) => self.take_report(report),
                _ => {
                    tracing::error!("some files could not be closed in time");
                    break;
                }
            }
        }
        for dump in std::mem::take(&mut self.closing).into_values() {
            self.write_meta(&dump);
        }
        let mut cx =
            Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
        self.logs.flush(&mut cx);
        self.save_streams();
        self.store.finish();
        self.summarize();
        tracing::info!("stopped");
    }

    fn save_streams(&self) {
        self.store.streams(STREAMS_FILE, self.logs.streams().collect());
    }

    fn load_streams(&mut self) {
        let loaded = self.root.take_state(STREAMS_FILE, STREAMS_FILE_MAX).and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(Vec::new()) };
            serde_json::from_slice::<Vec<(SocketAddr, Place, String)>>(&bytes).map_err(io::Error::from)
        });
        let streams = match loaded {
            Ok(streams) => streams,
            Err(error) => {
                tracing::warn!(file = STREAMS_FILE, "the places of log streams are lost: {error}");
                return;
            }
        };
        let mut dirs = HashMap::new();
        for (peer, place, name) in streams {
            let dumped = self.root.reopen(&name).is_ok_and(|dir| dir.has_vmcore());
            let dir = *dirs.entry(name.clone()).or_insert_with(|| self.store.resume(name));
            let mut cx =
                Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
            self.logs.resume(&mut cx, peer, place, dir, dumped);
        }
    }
}

pub(crate) fn limits(settings: &Settings) -> Limits {
    Limits {
        concurrent: settings.max_concurrent_dumps as usize,
        waiting: settings.max_waiting_clients as usize,
        per_hour: settings.dumps_per_hour as usize,
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!("sd_notify: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_busy_after_much_and_not_after_a_pause() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut received = 0;
        let mut turn = |count: u64, millis: u64| {
            now += Duration::from_millis(millis);
            received += count;
            pace.is_busy(now, received)
        };
        assert!(!turn(1000, 1));
        assert!(turn(1, 9), "1001 in 10 ms");
        assert!(turn(0, 1));
        assert!(!turn(100, 9));
        assert!(turn(300, 10));
        assert!(!turn(10_000, 1000), "that was a pause");
    }

    #[test]
    fn a_budget_is_for_a_second() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let late = now + Duration::from_millis(999);
        assert_eq!((0..5).filter(|_| budget.take(late, 3)).count(), 3);
        assert_eq!((0..5).filter(|_| budget.take(now + Duration::from_secs(1), 3)).count(), 3);
    }
}
