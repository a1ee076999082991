// SPDX-License-Identifier: GPL-2.0-or-later
//! Whose console text is taken, in which order, and into which log.
//!
//! A directory is one boot of one client. It begins with the client's first text or with its dump. It ends when a stream
//! of its text starts again, or with the next dump. Text that a client still sends after its dump, on its way down, is
//! of the same boot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netdump_core::wire::log::record::Record;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::console::{Console, DumpState, Output, Shares};
use crate::events::Reason;
use crate::sink::{Sink, Verdict};
use crate::store::DirId;
use crate::{netlog, records};

pub use crate::console::Context;

/// Addresses whose logs are followed; beyond it the longest silent one is forgotten.
pub const MAX_SOURCES: usize = 4096;
/// Streams (source ports, and formats) of one address.
pub const MAX_STREAMS: usize = 4;
/// Bytes held for what is missing, all streams together.
pub const MAX_HELD: usize = 32 << 20;
/// A burst of so many seconds' worth is taken at once: a client that loads its module sends its whole kernel log.
const BURST_SECONDS: u64 = 8;
/// While a client is dumped its text may come so many times as fast.
const DUMP_FASTER: u64 = 16;
/// Text in basic format that comes so long after a dump is of the next boot: nothing else in it tells.
const WAY_DOWN: Duration = Duration::from_secs(30);
/// The first line of a kernel, as basic format shows it when all of the log is sent.
const FIRST_LINE: &[u8] = b"[    0.000000] Linux version ";

/// A table by address, keyed at random.
pub(crate) type ByAddress<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;

/// Everything about logs.
#[derive(Default)]
pub struct Logs {
    sources: ByAddress<IpAddr, Source>,
    /// When who has waited long enough for what is missing.
    waiting: BinaryHeap<Reverse<(Instant, IpAddr)>>,
    held: usize,
    shares: Shares,
}

struct Source {
    console: Console,
    streams: Vec<PortStream>,
    bucket: Bucket,
    heard: Instant,
    /// It stands in [`Logs::waiting`].
    waits: bool,
    dump_over: Option<Instant>,
}

struct PortStream {
    port: u16,
    stream: Stream,
    held: usize,
    heard: Instant,
}

enum Stream {
    Netlog(netlog::Stream),
    Records(records::Stream),
    Basic,
}

/// Console text as it came.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    /// A packet of netlog.
    Netlog {
        /// Place of the text in its stream.
        offset: u32,
        /// The text.
        text: &'a [u8],
    },
    /// A datagram of upstream's netconsole, in extended format if it can be read as such, else in basic format.
    Netconsole(&'a [u8]),
}

impl Text<'_> {
    fn len(&self) -> u64 {
        match self {
            Text::Netlog { text, .. } | Text::Netconsole(text) => text.len() as u64,
        }
    }
}

/// Where a stream stands, to go on after a restart of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The next offset of a netlog stream.
    Netlog(u32),
    /// The last record.
    Records(records::Place),
    /// Text without any number.
    Basic,
}

/// What the caller has to do after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Followup {
    /// The client has just booted. Said once for a directory, and once a minute: a script runs for it.
    pub booted: bool,
}

/// Bytes that may still be taken now.
struct Bucket {
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant, rate: u64) -> Bucket {
        Bucket { tokens: rate.saturating_mul(BURST_SECONDS), filled: now }
    }

    fn take(&mut self, now: Instant, rate: u64, bytes: u64) -> bool {
        if self.tokens < bytes {
            let most = rate.saturating_mul(BURST_SECONDS);
            let gained = now.saturating_duration_since(self.filled).as_millis().saturating_mul(u128::from(rate)) / 1000;
            self.tokens = self.tokens.saturating_add(u64::try_from(gained).unwrap_or(most)).min(most);
            if gained > 0 {
                self.filled = now;
            }
        }
        let fits = self.tokens >= bytes;
        if fits {
            self.tokens -= bytes;
        }
        fits
    }
}

impl Logs {
    /// Whether text of this address has somewhere to go: its source is known, or another directory may be made.
    /// Nothing is kept for those who have nowhere, so that a flood from many addresses costs one look each.
    pub fn would_take(&self, client: IpAddr, now: Instant, settings: &Settings) -> bool {
        self.shares.has_directory(now, settings) || self.sources.contains_key(&client)
    }

    /// Takes console text of an address that may log.
    pub fn packet(&mut self, cx: &mut Context<'_>, peer: SocketAddr, registered: bool, text: Text<'_>) -> Followup {
        let client = peer.ip();
        let now = cx.now;
        self.make_room(cx, client);
        let source = self.sources.entry(client).or_insert_with(|| Source::new(client, cx));
        source.heard = now;
        source.console.set_registered(registered);
        // The task listing comes as fast as the client can send; the size of the log bounds it.
        let faster = if source.console.dump() == DumpState::Running { DUMP_FASTER } else { 1 };
        if !source.bucket.take(now, cx.settings.log_rate.saturating_mul(faster), text.len()) {
            cx.events.note(now, Reason::LogRate, peer, "log text beyond log_rate is dropped");
            // What has a number is not given to its stream, which then finds the hole and marks it.
            if matches!(text, Text::Netconsole(datagram) if Record::parse(datagram).is_err()) {
                source.console.drop_text(text.len());
            }
            return Followup::default();
        }
        let begins = matches!(text, Text::Netlog { offset: 0, .. });
        let boot_line = source.take(cx, &mut self.shares, &mut self.held, peer, text);
        if let (false, Some(at)) = (source.waits, source.deadline()) {
            source.waits = true;
            self.waiting.push(Reverse((at, client)));
        }
        // It is the first that a client says; the same bytes later are somebody's text.
        let booted = begins && boot_line && source.console.boots(now);
        if self.shares.gathered() > crate::console::MAX_GATHERED {
            self.write_due(cx);
        }
        Followup { booted }
    }

    /// Appends text that did not come through a stream, to the client's present directory.
    pub fn append(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool, text: &[u8]) {
        let Some(source) = self.sources.get_mut(&client) else { return };
        source.console.set_registered(registered);
        source.console.append(cx, &mut self.shares, text);
    }

    /// The directory for a dump that begins now: the present one if it has none yet, or the one in which it was `begun`
    /// before.
    pub fn begin_dump(
        &mut self,
        cx: &mut Context<'_>,
        client: IpAddr,
        registered: bool,
        begun: Option<String>,
    ) -> DirId {
        self.make_room(cx, client);
        let source = self.sources.entry(client).or_insert_with(|| Source::new(client, cx));
        source.heard = cx.now;
        source.console.set_registered(registered);
        source.console.begin_dump(cx, &mut self.shares, begun)
    }

    /// The directory of a dump that runs, made anew if the last could not be.
    pub fn dump_dir(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool) -> DirId {
        let source = self.sources.entry(client).or_insert_with(|| Source::new(client, cx));
        source.console.set_registered(registered);
        source.console.dir_for_dump(cx)
    }

    /// The client's dump is over. Returns how much of its log is lost.
    pub fn end_dump(&mut self, client: IpAddr, now: Instant) -> u64 {
        match self.sources.get_mut(&client) {
            Some(source) => {
                source.console.end_dump();
                source.dump_over = Some(now);
                source.console.lost()
            }
            None => 0,
        }
    }

    /// Nothing can be written to the directory any more: the next text begins another.
    pub fn dir_failed(&mut self, dir: DirId) {
        for source in self.sources.values_mut().filter(|source| source.console.dir() == Some(dir)) {
            source.console.dir_failed();
        }
    }

    /// So many bytes of log could not be written to the directory.
    pub fn not_written(&mut self, dir: DirId, bytes: u64) {
        for source in self.sources.values_mut().filter(|source| source.console.dir() == Some(dir)) {
            source.console.not_written(&mut self.shares, bytes);
        }
    }

    /// What all logs together take.
    pub fn shares(&mut self) -> &mut Shares {
        &mut self.shares
    }

    /// Bytes that all logs take on the disk.
    pub fn used(&self) -> u64 {
        self.shares.used()
    }

    /// Gives up what has been waited for long enough, and writes what was gathered for long enough.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while let Some(Reverse((at, client))) = self.waiting.peek().copied() {
            if at > cx.now {
                break;
            }
            self.waiting.pop();
            let Some(source) = self.sources.get_mut(&client) else { continue };
            let now = cx.now;
            source.let_go(cx, &mut self.shares, &mut self.held, Some(now));
            source.waits = false;
            if let Some(at) = source.deadline() {
                source.waits = true;
                self.waiting.push(Reverse((at, client)));
            }
        }
        self.write_due(cx);
    }

    fn write_due(&mut self, cx: &mut Context<'_>) {
        while let Some(client) = self.shares.take_due(cx.now) {
            if let Some(source) = self.sources.get_mut(&client) {
                source.console.flush_due(cx, &mut self.shares);
            }
        }
    }

    /// Gives up everything that is missing and writes everything, for the end of the server.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        self.waiting.clear();
        for source in self.sources.values_mut() {
            source.waits = false;
            source.let_go(cx, &mut self.shares, &mut self.held, None);
            source.console.flush(cx, &mut self.shares);
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.peek().map(|Reverse((at, _))| *at);
        [waiting, self.shares.next_due()].into_iter().flatten().min()
    }

    /// Addresses whose logs are followed.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Every stream with its place and its directory, to go on after a restart.
    pub fn streams(&self) -> impl Iterator<Item = (SocketAddr, Place, DirId)> + '_ {
        let quiet = self.sources.iter().filter(|(_, source)| source.console.dump() == DumpState::None);
        quiet.flat_map(|(ip, source)| {
            let dir = source.console.dir();
            source.streams.iter().filter_map(move |s| Some((SocketAddr::new(*ip, s.port), s.stream.place()?, dir?)))
        })
    }

    /// Goes on with a stream of an earlier run of the server; `dumped`: there is a dump in its directory.
    pub fn resume(&mut self, cx: &mut Context<'_>, peer: SocketAddr, place: Place, dir: DirId, dumped: bool) {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&peer.ip()) {
            return;
        }
        let source = self.sources.entry(peer.ip()).or_insert_with(|| Source::new(peer.ip(), cx));
        source.console.resume(dir, dumped);
        if source.streams.len() < MAX_STREAMS {
            source.streams.push(PortStream {
                port: peer.port(),
                stream: Stream::resume(place),
                held: 0,
                heard: cx.now,
            });
        }
    }

    fn make_room(&mut self, cx: &mut Context<'_>, client: IpAddr) {
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&client) {
            return;
        }
        let idle = self.sources.iter().filter(|(_, source)| source.console.dump() != DumpState::Running);
        let oldest = idle.min_by_key(|(_, source)| source.heard).map(|(client, _)| *client);
        if let Some(mut source) = oldest.and_then(|oldest| self.sources.remove(&oldest)) {
            source.let_go(cx, &mut self.shares, &mut self.held, None);
            source.console.new_boot(cx, &mut self.shares);
        }
    }
}

impl Source {
    fn new(client: IpAddr, cx: &Context<'_>) -> Source {
        Source {
            console: Console::new(client),
            streams: Vec::new(),
            bucket: Bucket::new(cx.now, cx.settings.log_rate),
            heard: cx.now,
            waits: false,
            dump_over: None,
        }
    }

    /// Puts the text in order. Whether the client's first words are among what came out.
    fn take(
        &mut self,
        cx: &mut Context<'_>,
        shares: &mut Shares,
        held: &mut usize,
        peer: SocketAddr,
        text: Text<'_>,
    ) -> bool {
        let record = match text {
            Text::Netlog { .. } => None,
            // A header that says what cannot be is none: the text is taken as it is.
            Text::Netconsole(datagram) => Record::parse(datagram).ok(),
        };
        let now = cx.now;
        let (place, is_new) = self.stream(peer.port(), now, &text, record.is_some());
        let next_boot = match self.streams[place].stream {
            // A stream that was not there before the dump: the next boot.
            Stream::Netlog(_) | Stream::Records(_) => is_new,
            Stream::Basic => {
                is_new || self.dump_over.is_some_and(|over| now.saturating_duration_since(over) > WAY_DOWN)
            }
        };
        let next_boot = next_boot && self.console.dump() == DumpState::Over;
        let port = &mut self.streams[place];
        let mut out = Output { console: &mut self.console, shares, cx, boot_line: false };
        if next_boot {
            out.restart();
        }
        let verdict = match (&mut port.stream, text, record) {
            (Stream::Netlog(stream), Text::Netlog { offset, text }, _) => stream.push(now, offset, text, &mut out),
            (Stream::Records(stream), Text::Netconsole(datagram), Some(record)) => {
                stream.push(now, datagram, &record, &mut out)
            }
            (_, Text::Netlog { text, .. } | Text::Netconsole(text), _) => {
                if text.starts_with(FIRST_LINE) && !is_new {
                    out.restart();
                }
                out.text(text);
                Verdict::Taken
            }
        };
        let boot_line = out.boot_line;
        match verdict {
            Verdict::Taken => {}
            Verdict::Duplicate => out.cx.events.add(Reason::LogDuplicate, 1),
            Verdict::Late => out.cx.events.add(Reason::LogLate, 1),
            Verdict::Conflict => {
                out.cx.events.note(now, Reason::LogConflict, peer, "fragments that contradict each other");
            }
        }
        let holds = port.stream.held_bytes();
        if holds != port.held {
            *held -= port.held;
            if *held + holds > MAX_HELD {
                port.stream.flush(&mut out);
            }
            port.held = port.stream.held_bytes();
            *held += port.held;
        }
        boot_line
    }

    /// Gives up what is missing: since so long that it is time, or all of it.
    fn let_go(&mut self, cx: &mut Context<'_>, shares: &mut Shares, held: &mut usize, now: Option<Instant>) {
        let mut out = Output { console: &mut self.console, shares, cx, boot_line: false };
        for port in &mut self.streams {
            match now {
                Some(now) => port.stream.poll(now, &mut out),
                None => port.stream.flush(&mut out),
            }
            *held -= port.held;
            port.held = port.stream.held_bytes();
            *held += port.held;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.streams.iter().filter(|port| port.held > 0).filter_map(|port| port.stream.deadline()).min()
    }

    /// Place of the stream of that port and format, and whether it is new.
    fn stream(&mut self, port: u16, now: Instant, text: &Text<'_>, is_record: bool) -> (usize, bool) {
        let is_it = |stream: &Stream| match stream {
            Stream::Netlog(_) => matches!(text, Text::Netlog { .. }),
            Stream::Records(_) => is_record,
            Stream::Basic => !is_record && matches!(text, Text::Netconsole(_)),
        };
        if let Some(place) = self.streams.iter().position(|stream| stream.port == port && is_it(&stream.stream)) {
            self.streams[place].heard = now;
            return (place, false);
        }
        let stream = match text {
            Text::Netlog { .. } => Stream::Netlog(netlog::Stream::default()),
            Text::Netconsole(_) if is_record => Stream::Records(records::Stream::default()),
            Text::Netconsole(_) => Stream::Basic,
        };
        let new = PortStream { port, stream, held: 0, heard: now };
        if self.streams.len() < MAX_STREAMS {
            self.streams.push(new);
            return (self.streams.len() - 1, true);
        }
        // Only a stream that holds nothing is replaced, so that the sum of what is held stays right.
        let idle = self.streams.iter().enumerate().filter(|(_, stream)| stream.held == 0);
        let place = idle.min_by_key(|(_, stream)| stream.heard).map_or(0, |(place, _)| place);
        if self.streams[place].held == 0 {
            self.streams[place] = new;
        }
        (place, true)
    }
}

impl Stream {
    fn resume(place: Place) -> Stream {
        match place {
            Place::Netlog(next) => Stream::Netlog(netlog::Stream::resume(next)),
            Place::Records(place) => Stream::Records(records::Stream::resume(place)),
            Place::Basic => Stream::Basic,
        }
    }

    fn place(&self) -> Option<Place> {
        match self {
            Stream::Netlog(stream) => Some(Place::Netlog(stream.next_offset())),
            Stream::Records(stream) => stream.place().map(Place::Records),
            Stream::Basic => Some(Place::Basic),
        }
    }

    fn held_bytes(&self) -> usize {
        match self {
            Stream::Netlog(stream) => stream.held_bytes(),
            Stream::Records(stream) => stream.held_bytes(),
            Stream::Basic => 0,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Stream::Netlog(stream) => stream.deadline(),
            Stream::Records(stream) => stream.deadline(),
            Stream::Basic => None,
        }
    }

    fn poll(&mut self, now: Instant, out: &mut impl Sink) {
        match self {
            Stream::Netlog(stream) => stream.poll(now, out),
            Stream::Records(stream) => stream.poll(now, out),
            Stream::Basic => {}
        }
    }

    fn flush(&mut self, out: &mut impl Sink) {
        match self {
            Stream::Netlog(stream) => stream.flush(out),
            Stream::Records(stream) => stream.flush(out),
            Stream::Basic => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crashdir::CrashDir;
    use crate::events::Events;
    use crate::store::{Store, StoreEvent};
    use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};

    struct Rig {
        root: tempfile::TempDir,
        settings: Settings,
        store: Store,
        events: Events,
        logs: Logs,
        now: Instant,
        _reports: UnboundedReceiver<StoreEvent>,
    }

    fn rig() -> Rig {
        let root = tempfile::tempdir().unwrap();
        let (tx, reports) = unbounded_channel();
        let store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        Rig {
            root,
            settings: Settings::default(),
            store,
            events: Events::default(),
            logs: Logs::default(),
            now: Instant::now(),
            _reports: reports,
        }
    }

    impl Rig {
        fn with<T>(&mut self, act: impl FnOnce(&mut Logs, &mut Context<'_>) -> T) -> T {
            let mut cx =
                Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
            act(&mut self.logs, &mut cx)
        }

        fn packet(&mut self, host: u8, port: u16, offset: u32, text: &str) -> Followup {
            let peer = SocketAddr::from(([10, 0, 0, host], port));
            self.with(|logs, cx| logs.packet(cx, peer, true, Text::Netlog { offset, text: text.as_bytes() }))
        }

        /// Every log, sorted by the name of its directory.
        fn finish(mut self) -> Vec<String> {
            self.with(|logs, cx| logs.flush(cx));
            self.store.finish();
            let mut dirs: Vec<_> = std::fs::read_dir(self.root.path()).unwrap().map(|e| e.unwrap().path()).collect();
            dirs.sort();
            dirs.iter().map(|dir| std::fs::read_to_string(dir.join("log")).unwrap_or_default()).collect()
        }
    }

    #[test]
    fn a_directory_is_one_boot() {
        let mut rig = rig();
        assert!(rig.packet(1, 6664, 0, "[...network console startup...]\n").booted);
        assert!(!rig.packet(1, 6664, 32, "up\n").booted);
        rig.packet(2, 6664, 0, "other\n");
        rig.packet(1, 6664, 0, "second boot\n");
        let mut logs = rig.finish();
        logs.sort();
        assert_eq!(logs, ["[...network console startup...]\nup\n", "other\n", "second boot\n"]);
    }

    #[test]
    fn a_boot_is_told_once_for_a_directory_and_a_minute() {
        let line = "[...network console startup...]\n";
        let mut rig = rig();
        assert!(!rig.packet(2, 6664, 0, &format!("somebody said {line}")).booted);
        assert!(!rig.packet(2, 6664, 46, line).booted, "not at the beginning");
        assert!(rig.packet(1, 6664, 0, line).booted);
        assert!(!rig.packet(1, 6665, 0, line).booted, "another stream of the same directory");
        rig.packet(1, 6664, 32, "up\n");
        rig.now += Duration::from_secs(59);
        assert!(!rig.packet(1, 6664, 0, &format!("{line}again\n")).booted, "another directory, too soon");
        rig.now += Duration::from_secs(1);
        assert!(rig.packet(1, 6664, 0, &format!("{line}and again\n")).booted);
    }

    #[test]
    fn a_dump_has_room_in_a_log_that_is_full() {
        let mut rig = rig();
        rig.settings.log_max = 64 << 10;
        rig.settings.log_rate = 1 << 20;
        let client = "10.0.0.1".parse().unwrap();
        for n in 0..70u32 {
            rig.packet(1, 6664, n * 1000, &"x".repeat(1000));
        }
        assert!(rig.events.count(Reason::LogSize) > 0);
        rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        let crash = "the kernel's last words\n".repeat(40_000);
        rig.with(|logs, cx| logs.append(cx, client, true, crash.as_bytes()));
        let before = rig.events.count(Reason::LogSize);
        for _ in 0..4 {
            rig.with(|logs, cx| logs.append(cx, client, true, crash.as_bytes()));
        }
        assert!(rig.events.count(Reason::LogSize) > before, "that is bounded too");
        assert!(rig.finish()[0].contains(&crash));
    }

    #[test]
    fn a_dump_and_what_follows_it_share_the_directory() {
        let mut rig = rig();
        let client = "10.0.0.1".parse().unwrap();
        rig.packet(1, 6664, 0, "oops\n");
        let first = rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        // The listing of netdump.ko has its own port and its own offsets.
        rig.packet(1, 6666, 0, "tasks\n");
        rig.packet(1, 6666, 0, "tasks again\n");
        rig.logs.end_dump(client, rig.now);
        rig.packet(1, 6664, 5, "Rebooting\n");
        rig.packet(1, 6664, 0, "next boot\n");
        let second = rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        rig.logs.end_dump(client, rig.now);
        let third = rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        assert!(first != second && second != third);
        let mut logs = rig.finish();
        logs.sort();
        assert_eq!(logs, ["", "next boot\n", "oops\ntasks\ntasks again\nRebooting\n"]);
    }

    #[test]
    fn rate_and_size_are_limited_and_the_loss_is_marked() {
        let mut rig = rig();
        rig.settings.log_rate = 1024;
        rig.settings.log_max = 64 << 10;
        let line = "x".repeat(1000);
        for n in 0..20u32 {
            rig.packet(1, 6664, n * 1000, &line);
        }
        let rated = rig.events.count(Reason::LogRate);
        assert_eq!(rated, 12);
        rig.now += Duration::from_secs(100);
        rig.packet(1, 6664, 20_000, "after\n");
        rig.now += Duration::from_secs(100);
        rig.with(|logs, cx| logs.poll(cx));
        for n in 0..200u32 {
            rig.now += Duration::from_secs(1);
            rig.packet(1, 6664, 20_006 + n * 1000, &line);
        }
        assert!(rig.events.count(Reason::LogSize) > 0);
        let logs = rig.finish();
        assert_eq!(logs.len(), 1);
        assert!(logs[0].contains("[netdump: 12000 bytes lost]\nafter\n"));
        assert!(logs[0].ends_with("[netdump: log_max of 65536 bytes reached]\n"));
        assert!(logs[0].len() <= (64 << 10) + 100);
    }

    #[test]
    fn new_directories_are_limited_but_not_for_dumps() {
        let mut rig = rig();
        rig.settings.new_dirs_per_minute = 3;
        for host in 0..10 {
            rig.packet(host, 6664, 0, "hello\n");
        }
        assert_eq!(rig.events.count(Reason::LogDirLimit), 7);
        rig.with(|logs, cx| logs.begin_dump(cx, "10.0.0.9".parse().unwrap(), false, None));
        rig.packet(9, 6664, 6, "crash\n");
        rig.now += Duration::from_secs(60);
        rig.packet(8, 6664, 6, "late\n");
        let mut logs = rig.finish();
        logs.sort();
        let mark = "[netdump: 6 bytes lost]\n";
        assert_eq!(logs, [&format!("{mark}crash\n"), &format!("{mark}late\n"), "hello\n", "hello\n", "hello\n"]);
    }

    impl Rig {
        fn console(&mut self, host: u8, port: u16, datagram: &str) -> Followup {
            let peer = SocketAddr::from(([10, 0, 0, host], port));
            self.with(|logs, cx| logs.packet(cx, peer, true, Text::Netconsole(datagram.as_bytes())))
        }
    }

    #[test]
    fn formats_of_one_port_are_told_apart() {
        let mut rig = rig();
        rig.console(1, 6665, "6,7,1,-;seven\n");
        rig.packet(1, 6665, 0, "netlog\n");
        rig.console(1, 6665, "6,nothing,1,-;basic\n");
        rig.console(1, 6665, "6,6,1,-,ncfrag=9/4;neither\n");
        rig.console(1, 6665, "6,6,1,-;six\n");
        rig.now += crate::records::MAX_HOLD;
        rig.with(|logs, cx| logs.poll(cx));
        let expected = "netlog\n6,nothing,1,-;basic\n6,6,1,-,ncfrag=9/4;neither\n6,6,1,-;six\n6,7,1,-;seven\n";
        assert_eq!(rig.finish(), [expected]);
    }

    #[test]
    fn basic_text_long_after_a_dump_is_of_the_next_boot() {
        let mut rig = rig();
        let client = "10.0.0.1".parse().unwrap();
        rig.console(1, 6665, "oops\n");
        rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        rig.logs.end_dump(client, rig.now);
        rig.console(1, 6665, "Rebooting in 5 seconds..\n");
        rig.now += WAY_DOWN + Duration::from_secs(1);
        rig.console(1, 6665, "next boot\n");
        rig.console(1, 6665, "[    0.000000] Linux version 7\n");
        let mut logs = rig.finish();
        logs.sort();
        let expected = ["[    0.000000] Linux version 7\n", "next boot\n", "oops\nRebooting in 5 seconds..\n"];
        assert_eq!(logs, expected);
    }

    #[test]
    fn text_is_gathered_for_a_while_and_not_longer() {
        let mut rig = rig();
        rig.console(1, 6665, "one\n");
        let due = rig.now + crate::console::FLUSH_DELAY;
        assert_eq!(rig.logs.deadline(), Some(due));
        rig.now += Duration::from_millis(50);
        rig.console(1, 6665, "two\n");
        rig.with(|logs, cx| logs.poll(cx));
        assert_eq!((rig.logs.deadline(), rig.logs.shares.gathered()), (Some(due), 8));
        rig.now = due;
        rig.with(|logs, cx| logs.poll(cx));
        assert_eq!((rig.logs.deadline(), rig.logs.shares.gathered()), (None, 0));
        // Much text is written at once, and of many who have little each, all when it is too much.
        let line = "x".repeat(1000);
        for host in 0..60 {
            rig.settings.log_rate = 1 << 20;
            for n in 0..15 {
                rig.packet(host, 6664, n * 1000, &line);
            }
        }
        assert!(rig.logs.shares.gathered() <= crate::console::MAX_GATHERED);
        for n in 15..20 {
            rig.packet(0, 6664, n * 1000, &line);
        }
        assert!(rig.logs.shares.gathered() <= 60 * crate::console::FLUSH_BYTES);
        assert_eq!(rig.finish().len(), 60);
    }

    #[test]
    fn the_quota_is_for_text_and_not_for_dumps() {
        let mut rig = rig();
        rig.settings.log_quota = 20_000;
        rig.settings.log_rate = 1 << 20;
        let client = "10.0.0.1".parse().unwrap();
        let line = "x".repeat(999) + "\n";
        for _ in 0..30 {
            rig.console(1, 6665, &line);
        }
        rig.console(2, 6665, "no directory for this\n");
        assert_eq!(rig.events.count(Reason::LogQuota), 11);
        rig.with(|logs, cx| logs.begin_dump(cx, client, true, None));
        rig.with(|logs, cx| logs.append(cx, client, true, b"the crash\n"));
        rig.logs.end_dump(client, rig.now);
        // Somebody has made room.
        rig.logs.shares().measuring();
        rig.logs.shares().measured(0);
        rig.console(2, 6665, "now\n");
        let mut logs = rig.finish();
        logs.sort();
        let mark = "[netdump: log_quota of 20000 bytes reached]\n[netdump: 10000 bytes lost]\nthe crash\n";
        assert_eq!(logs, ["[netdump: 22 bytes lost]\nnow\n".to_owned(), line.repeat(20) + mark]);
    }

    #[test]
    fn sources_and_what_they_hold_are_bounded() {
        let mut rig = rig();
        rig.settings.new_dirs_per_minute = 0;
        for n in 0..6000u32 {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            for i in 0..10u32 {
                let text = vec![b'x'; 1400];
                let text = Text::Netlog { offset: 10 + i * 2000, text: &text };
                rig.with(|logs, cx| logs.packet(cx, SocketAddr::new(ip, 1), true, text));
            }
            assert!(rig.logs.sources.len() <= MAX_SOURCES && rig.logs.held <= MAX_HELD);
        }
        let held: usize = rig.logs.sources.values().flat_map(|s| s.streams.iter().map(|s| s.held)).sum();
        assert_eq!(held, rig.logs.held);
    }
}
