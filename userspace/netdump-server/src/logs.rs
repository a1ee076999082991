// SPDX-License-Identifier: GPL-2.0-or-later
//! Which log text goes into which directory, and how much of it.
//!
//! A directory is one boot of one client. It begins with the client's first log packet or with its dump. It ends when
//! the offset of a log stream starts again, or with the next dump. Text that a client still sends after its dump, on
//! its way down, is of the same boot.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::Settings;
use crate::events::{Events, Reason};
use crate::meta::Meta;
use crate::netlog::{gap_mark, Piece, Stream, Verdict};
use crate::store::{DirId, Store};

/// Addresses whose logs are followed; beyond it the longest silent one is forgotten.
pub const MAX_SOURCES: usize = 4096;
/// Log streams (source ports) of one address.
pub const MAX_STREAMS: usize = 4;
/// Bytes held for missing packets, all streams together.
pub const MAX_HELD: usize = 32 << 20;
/// A burst of so many seconds' worth is taken at once: a client that loads its module sends its whole kernel log.
const BURST_SECONDS: u64 = 8;
const MINUTE: Duration = Duration::from_secs(60);
/// What a dump may add to a log that has reached its size: the kernel's log as of the crash and the task listing are
/// worth more than what filled it.
const DUMP_ALLOWANCE: u64 = 4 << 20;
/// The line that our and Red Hat's client send when they load, before anything else.
const BOOT_LINE: &[u8] = b"[...network console startup...]";

/// Everything about logs.
#[derive(Default)]
pub struct Logs {
    sources: HashMap<IpAddr, Source>,
    /// Addresses that wait for missing packets.
    waiting: Vec<IpAddr>,
    held: usize,
    minute: Option<(Instant, u32)>,
}

struct Source {
    dir: Option<DirId>,
    streams: Vec<PortStream>,
    bucket: Bucket,
    written: u64,
    lost: u64,
    /// Lost since the last mark, because the disk was too slow.
    unmarked: u64,
    full: bool,
    /// The log may grow to this size, whatever `log_max` is.
    floor: u64,
    dump: DumpState,
    heard: Instant,
    /// The client was last said to have booted in this directory and then.
    booted: Option<(DirId, Instant)>,
}

struct PortStream {
    port: u16,
    stream: Stream,
    held: usize,
    heard: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpState {
    None,
    Running,
    Over,
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
    fn take(&mut self, now: Instant, rate: u64, bytes: u64) -> bool {
        let most = rate.saturating_mul(BURST_SECONDS);
        let gained = now.saturating_duration_since(self.filled).as_millis().saturating_mul(u128::from(rate)) / 1000;
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(u64::try_from(gained).unwrap_or(most)).min(most);
            self.filled = now;
        }
        let fits = self.tokens >= bytes;
        if fits {
            self.tokens -= bytes;
        }
        fits
    }
}

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

impl Logs {
    /// Whether text of this address has somewhere to go: its source is known, or another directory may be made.
    /// Nothing is kept for those who have nowhere, so that a flood from many addresses costs one look each.
    pub fn would_take(&self, client: IpAddr, now: Instant, settings: &Settings) -> bool {
        let left = match self.minute {
            Some((since, made)) if now.saturating_duration_since(since) < MINUTE => made < settings.new_dirs_per_minute,
            _ => settings.new_dirs_per_minute > 0,
        };
        left || self.sources.contains_key(&client)
    }

    /// Takes one packet of an address that may log.
    pub fn packet(
        &mut self,
        cx: &mut Context<'_>,
        peer: SocketAddr,
        registered: bool,
        offset: u32,
        text: &[u8],
    ) -> Followup {
        let client = peer.ip();
        let now = cx.now;
        self.make_room(cx, client);
        let source = self.sources.entry(client).or_insert_with(|| Source::new(cx));
        source.heard = now;
        if !source.bucket.take(now, cx.settings.log_rate, text.len() as u64) {
            // Not given to the stream, which then finds the hole and marks it.
            cx.events.note(now, Reason::LogRate, peer, "log text beyond log_rate is dropped");
            return Followup::default();
        }
        let place = source.stream(peer.port(), now);
        let mut pieces = Vec::new();
        if place.1 && source.dump == DumpState::Over {
            // A stream that was not there before the dump: the next boot.
            pieces.push(Piece::Restart);
        }
        let stream = &mut source.streams[place.0];
        match stream.stream.push(now, offset, text, &mut pieces) {
            Verdict::Taken => {}
            Verdict::Duplicate => cx.events.add(Reason::LogDuplicate, 1),
            Verdict::Late => cx.events.add(Reason::LogLate, 1),
        }
        self.held -= stream.held;
        if self.held + stream.stream.held_bytes() > MAX_HELD {
            stream.stream.flush(&mut pieces);
        }
        stream.held = stream.stream.held_bytes();
        self.held += stream.held;
        if stream.held > 0 && !self.waiting.contains(&client) {
            self.waiting.push(client);
        }
        // It is the first that a client says; the same bytes later are somebody's text.
        let begins =
            offset == 0 && pieces.iter().any(|p| matches!(p, Piece::Text(text) if text.starts_with(BOOT_LINE)));
        self.write(cx, client, registered, pieces);
        let source = self.sources.get_mut(&client);
        Followup { booted: begins && source.is_some_and(|source| source.boots(now)) }
    }

    /// Appends text that did not come through a stream, to the client's present directory.
    pub fn append(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool, text: Vec<u8>) {
        self.write(cx, client, registered, vec![Piece::Text(text)]);
    }

    /// The directory for a dump that begins now: the present one if it has none yet.
    pub fn begin_dump(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool) -> DirId {
        self.make_room(cx, client);
        let source = self.sources.entry(client).or_insert_with(|| Source::new(cx));
        source.heard = cx.now;
        if source.dump != DumpState::None {
            source.new_boot(cx);
        }
        source.dump = DumpState::Running;
        source.floor = source.written.saturating_add(DUMP_ALLOWANCE);
        source.full = false;
        source.dir(cx, client, registered)
    }

    /// The directory of a dump that runs, made anew if the last could not be.
    pub fn dump_dir(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool) -> DirId {
        self.sources.entry(client).or_insert_with(|| Source::new(cx)).dir(cx, client, registered)
    }

    /// The client's dump is over. Returns how much of its log is lost.
    pub fn end_dump(&mut self, client: IpAddr) -> u64 {
        match self.sources.get_mut(&client) {
            Some(source) => {
                source.dump = DumpState::Over;
                source.lost
            }
            None => 0,
        }
    }

    /// Nothing can be written to the directory any more: the next text begins another.
    pub fn dir_failed(&mut self, dir: DirId) {
        for source in self.sources.values_mut().filter(|source| source.dir == Some(dir)) {
            source.dir = None;
        }
    }

    /// So many bytes of log could not be written to the directory.
    pub fn not_written(&mut self, dir: DirId, bytes: u64) {
        for source in self.sources.values_mut().filter(|source| source.dir == Some(dir)) {
            source.lost += bytes;
            source.unmarked += bytes;
            source.written = source.written.saturating_sub(bytes);
        }
    }

    /// Gives up packets that have been waited for long enough.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        for client in std::mem::take(&mut self.waiting) {
            let Some(source) = self.sources.get_mut(&client) else { continue };
            let mut pieces = Vec::new();
            let mut waits = false;
            for stream in &mut source.streams {
                stream.stream.poll(cx.now, &mut pieces);
                self.held -= stream.held;
                stream.held = stream.stream.held_bytes();
                self.held += stream.held;
                waits |= stream.held > 0;
            }
            if waits {
                self.waiting.push(client);
            }
            self.write(cx, client, false, pieces);
        }
    }

    /// Gives up everything that is missing, for the end of the server.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        for client in std::mem::take(&mut self.waiting) {
            let Some(source) = self.sources.get_mut(&client) else { continue };
            let mut pieces = Vec::new();
            for stream in &mut source.streams {
                stream.stream.flush(&mut pieces);
                self.held -= stream.held;
                stream.held = 0;
            }
            self.write(cx, client, false, pieces);
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let sources = self.waiting.iter().filter_map(|client| self.sources.get(client));
        sources.flat_map(|source| source.streams.iter().filter_map(|s| s.stream.deadline())).min()
    }

    /// Addresses whose logs are followed.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Every stream with its next offset and its directory, to go on after a restart.
    pub fn streams(&self) -> impl Iterator<Item = (SocketAddr, u32, DirId)> + '_ {
        self.sources.iter().filter(|(_, source)| source.dump == DumpState::None).flat_map(|(ip, source)| {
            let dir = source.dir;
            source
                .streams
                .iter()
                .filter_map(move |s| Some((SocketAddr::new(*ip, s.port), s.stream.next_offset(), dir?)))
        })
    }

    /// Goes on with a stream of an earlier run of the server.
    pub fn resume(&mut self, cx: &mut Context<'_>, peer: SocketAddr, next: u32, dir: DirId) {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&peer.ip()) {
            return;
        }
        let source = self.sources.entry(peer.ip()).or_insert_with(|| Source::new(cx));
        source.dir = Some(dir);
        let place = source.stream(peer.port(), cx.now).0;
        source.streams[place].stream = Stream::resume(next);
    }

    fn write(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool, pieces: Vec<Piece>) {
        for piece in pieces {
            let Some(source) = self.sources.get_mut(&client) else { return };
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Lost(bytes) => {
                    source.lost += u64::from(bytes);
                    gap_mark(u64::from(bytes)).into_bytes()
                }
                Piece::Restart => {
                    if source.dump != DumpState::Running {
                        source.new_boot(cx);
                    }
                    continue;
                }
            };
            let dir = match source.dir {
                Some(dir) => dir,
                None => {
                    if source.dump == DumpState::None && !allow_dir(&mut self.minute, cx) {
                        source.lost += text.len() as u64;
                        source.unmarked += text.len() as u64;
                        let peer = SocketAddr::new(client, 0);
                        cx.events.note(cx.now, Reason::LogDirLimit, peer, "no new directory this minute");
                        continue;
                    }
                    let dir = create(cx, client, registered);
                    source.dir = Some(dir);
                    dir
                }
            };
            source.append(cx, client, dir, text);
        }
    }

    fn make_room(&mut self, cx: &mut Context<'_>, client: IpAddr) {
        if self.sources.len() < MAX_SOURCES || self.sources.contains_key(&client) {
            return;
        }
        let idle = self.sources.iter().filter(|(_, source)| source.dump != DumpState::Running);
        let oldest = idle.min_by_key(|(_, source)| source.heard).map(|(client, _)| *client);
        if let Some(source) = oldest.and_then(|oldest| self.sources.remove(&oldest)) {
            self.held -= source.streams.iter().map(|stream| stream.held).sum::<usize>();
            if let Some(dir) = source.dir {
                cx.store.forget(dir);
            }
        }
    }
}

impl Source {
    fn new(cx: &Context<'_>) -> Source {
        Source {
            dir: None,
            streams: Vec::new(),
            bucket: Bucket { tokens: cx.settings.log_rate.saturating_mul(BURST_SECONDS), filled: cx.now },
            written: 0,
            lost: 0,
            unmarked: 0,
            full: false,
            floor: 0,
            dump: DumpState::None,
            heard: cx.now,
            booted: None,
        }
    }

    /// Place of the stream of that port, and whether it is new.
    fn stream(&mut self, port: u16, now: Instant) -> (usize, bool) {
        if let Some(place) = self.streams.iter().position(|stream| stream.port == port) {
            self.streams[place].heard = now;
            return (place, false);
        }
        let new = PortStream { port, stream: Stream::default(), held: 0, heard: now };
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

    fn new_boot(&mut self, cx: &mut Context<'_>) {
        if let Some(dir) = self.dir.take() {
            cx.store.forget(dir);
        }
        self.written = 0;
        self.lost = 0;
        self.unmarked = 0;
        self.full = false;
        self.floor = 0;
        self.dump = DumpState::None;
    }

    fn dir(&mut self, cx: &mut Context<'_>, client: IpAddr, registered: bool) -> DirId {
        *self.dir.get_or_insert_with(|| create(cx, client, registered))
    }

    /// Whether its boot is news.
    fn boots(&mut self, now: Instant) -> bool {
        let Some(dir) = self.dir else { return false };
        let told = |(last, at): (DirId, Instant)| last == dir || now.saturating_duration_since(at) < MINUTE;
        let news = !self.booted.is_some_and(told);
        if news {
            self.booted = Some((dir, now));
        }
        news
    }

    fn append(&mut self, cx: &mut Context<'_>, client: IpAddr, dir: DirId, mut text: Vec<u8>) {
        let peer = SocketAddr::new(client, 0);
        let most = cx.settings.log_max.max(self.floor);
        if self.full || self.written + text.len() as u64 > most {
            cx.events.note(cx.now, Reason::LogSize, peer, "log_max reached, the rest of this log is dropped");
            self.lost += text.len() as u64;
            if self.full {
                return;
            }
            self.full = true;
            text = format!("\n[netdump: log_max of {most} bytes reached]\n").into_bytes();
        }
        let len = text.len() as u64;
        if self.unmarked > 0 {
            let mark = gap_mark(self.unmarked).into_bytes();
            text.splice(0..0, mark);
        }
        if cx.store.log(dir, text) {
            self.unmarked = 0;
            self.written += len;
            cx.events.log_bytes += len;
        } else {
            cx.events.note(cx.now, Reason::LogBacklog, peer, "the disk is too slow for the logs");
            self.lost += len;
            self.unmarked += len;
        }
    }
}

fn allow_dir(minute: &mut Option<(Instant, u32)>, cx: &Context<'_>) -> bool {
    let (since, made) = match *minute {
        Some((since, made)) if cx.now.saturating_duration_since(since) < MINUTE => (since, made),
        _ => (cx.now, 0),
    };
    let allowed = made < cx.settings.new_dirs_per_minute;
    *minute = Some((since, made.saturating_add(u32::from(allowed))));
    allowed
}

fn create(cx: &mut Context<'_>, client: IpAddr, registered: bool) -> DirId {
    let at = Timestamp::now();
    let dir = cx.store.create(client, at);
    cx.store.meta(dir, Meta::new(client, at, registered));
    dir
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crashdir::CrashDir;
    use crate::store::StoreEvent;
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
            self.with(|logs, cx| logs.packet(cx, peer, true, offset, text.as_bytes()))
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
        rig.with(|logs, cx| logs.begin_dump(cx, client, true));
        let crash = "the kernel's last words\n".repeat(40_000);
        rig.with(|logs, cx| logs.append(cx, client, true, crash.clone().into_bytes()));
        let before = rig.events.count(Reason::LogSize);
        for _ in 0..4 {
            rig.with(|logs, cx| logs.append(cx, client, true, crash.clone().into_bytes()));
        }
        assert!(rig.events.count(Reason::LogSize) > before, "that is bounded too");
        assert!(rig.finish()[0].contains(&crash));
    }

    #[test]
    fn a_dump_and_what_follows_it_share_the_directory() {
        let mut rig = rig();
        let client = "10.0.0.1".parse().unwrap();
        rig.packet(1, 6664, 0, "oops\n");
        let first = rig.with(|logs, cx| logs.begin_dump(cx, client, true));
        // The listing of netdump.ko has its own port and its own offsets.
        rig.packet(1, 6666, 0, "tasks\n");
        rig.packet(1, 6666, 0, "tasks again\n");
        rig.logs.end_dump(client);
        rig.packet(1, 6664, 5, "Rebooting\n");
        rig.packet(1, 6664, 0, "next boot\n");
        let second = rig.with(|logs, cx| logs.begin_dump(cx, client, true));
        rig.logs.end_dump(client);
        let third = rig.with(|logs, cx| logs.begin_dump(cx, client, true));
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
        rig.with(|logs, cx| logs.begin_dump(cx, "10.0.0.9".parse().unwrap(), false));
        rig.packet(9, 6664, 6, "crash\n");
        rig.now += Duration::from_secs(60);
        rig.packet(8, 6664, 6, "late\n");
        let mut logs = rig.finish();
        logs.sort();
        let mark = "[netdump: 6 bytes lost]\n";
        assert_eq!(logs, [&format!("{mark}crash\n"), &format!("{mark}late\n"), "hello\n", "hello\n", "hello\n"]);
    }

    #[test]
    fn sources_and_what_they_hold_are_bounded() {
        let mut rig = rig();
        rig.settings.new_dirs_per_minute = 0;
        for n in 0..6000u32 {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            for i in 0..10u32 {
                let text = vec![b'x'; 1400];
                rig.with(|logs, cx| logs.packet(cx, SocketAddr::new(ip, 1), true, 10 + i * 2000, &text));
            }
            assert!(rig.logs.sources.len() <= MAX_SOURCES && rig.logs.held <= MAX_HELD);
        }
        let held: usize = rig.logs.sources.values().flat_map(|s| s.streams.iter().map(|s| s.held)).sum();
        assert_eq!(held, rig.logs.held);
    }
}
