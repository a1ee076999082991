// SPDX-License-Identifier: GPL-2.0-only

//! One target as its console sees it: takes a record, writes it in the target's format, and sends it.

use super::settings::{Kind, Settings, SyslogFormat, BROADCAST};
use super::sys::clock;
use super::sys::console::{self, Console, Delivery, Record, Urgency};
use super::sys::link::{Link, Sent};
use super::sys::netdev::{Device, Rtnl};
use super::sys::params;
use super::sys::peer::Memory;
use super::sys::snapshot::Snapshot;
use super::sys::system;
use super::wire::frame::{MacAddr, Path};
use super::wire::log::basic::Basic;
use super::wire::log::extended::Extended;
use super::wire::log::netlog::Stream;
use super::wire::log::syslog::{Escapes, Rfc5424};
use super::wire::log::{self, syslog, Datagrams, Priority, UnixTime, MAX_DATAGRAM};
use super::wire::{Result, Writer};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use kernel::sync::Arc;

/// The console that a target belongs to: who needs the header of /dev/kmsg cannot share one with who does not, and the
/// replay of the log goes at another pace to some.
pub fn console(settings: &Settings) -> &'static Console<Outlet> {
    match (settings.kind, settings.syslog_format) {
        (Kind::Netconsole, _) if settings.extended => &EXTENDED,
        (Kind::Netconsole, _) => &BASIC,
        (Kind::Netlog, _) | (Kind::Syslog, SyslogFormat::Classic) => &TEXT,
        (Kind::Syslog, SyslogFormat::Rfc5424) => &RECORDS,
    }
}

/// All consoles.
pub static CONSOLES: [&Console<Outlet>; 4] = [&EXTENDED, &BASIC, &TEXT, &RECORDS];

static BASIC: Console<Outlet> = Console::new(c"netcon", false);
static EXTENDED: Console<Outlet> = Console::new(c"netcon_ext", true);
static TEXT: Console<Outlet> = Console::new(c"netlog", false);
static RECORDS: Console<Outlet> = Console::new(c"netsyslog", true);

/// What the kernel adds to each record of an extended target, bit by bit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sysdata {
    /// The CPU that printed.
    Cpu = 1,
    /// The task that printed.
    Task = 2,
    /// The kernel's release.
    Release = 4,
    /// A number that counts the target's records.
    MessageId = 8,
}

/// What a target keeps while its outlets come and go, and what changes while one is in use.
pub struct Shared {
    /// Datagrams that the device did not take.
    pub dropped: AtomicU64,
    /// Datagrams for which there was no memory.
    pub no_memory: AtomicU64,
    /// [`Sysdata`], or'ed.
    pub sysdata: AtomicU32,
    /// ` key=value` lines from the administrator.
    pub userdata: Snapshot,
    /// Number of the newest record with [`Sysdata::MessageId`].
    message_id: AtomicU32,
    /// Place of the next byte in the stream of a netlog target.
    offset: AtomicU32,
    next_hop: AtomicU64,
}

/// Marks that there is an address in [`Shared::next_hop`].
const KNOWN: u64 = 1 << 48;

impl Shared {
    /// For a new target.
    pub fn new() -> Self {
        Self {
            dropped: AtomicU64::new(0),
            no_memory: AtomicU64::new(0),
            sysdata: AtomicU32::new(0),
            userdata: Snapshot::new(),
            message_id: AtomicU32::new(0),
            offset: AtomicU32::new(0),
            next_hop: AtomicU64::new(0),
        }
    }

    /// The Ethernet address that has been found for the next hop.
    pub fn next_hop(&self) -> Option<[u8; 6]> {
        let value = self.next_hop.load(Ordering::Acquire);
        let [_, _, mac @ ..] = value.to_be_bytes();
        (value & KNOWN != 0).then_some(mac)
    }

    /// It has been found, or is to be found anew.
    pub fn set_next_hop(&self, mac: Option<[u8; 6]>) {
        let value = mac.map_or(0, |[a, b, c, d, e, f]| KNOWN | u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        self.next_hop.store(value, Ordering::Release);
    }

    /// So many bytes of the stream have been given to the target, sent or not.
    fn skip(&self, bytes: usize) {
        let mut stream = Stream::new(self.offset.load(Ordering::Relaxed));
        stream.skip(bytes);
        self.offset.store(stream.offset(), Ordering::Relaxed);
    }

    /// Datagrams that were not sent.
    pub fn errors(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed).wrapping_add(self.no_memory.load(Ordering::Relaxed))
    }
}

/// Room for all of [`Sysdata`]: four lines of 256 bytes at most.
const SYSDATA_ROOM: usize = 1024;

/// A target in use.
pub struct Outlet {
    settings: Settings,
    device: Arc<Device>,
    link: Link,
    shared: Arc<Shared>,
    progress: Progress,
    pace: Pace,
    sequence: syslog::SequenceId,
    buffer: [u8; MAX_DATAGRAM],
    sysdata: [u8; SYSDATA_ROOM],
}

/// How far the newest record has got: it may take more than one attempt.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Its number; None before the first one.
    seq: Option<u64>,
    /// Datagrams of it that have been sent.
    sent: u32,
    /// All of them.
    done: bool,
}

impl Outlet {
    /// For a device that is set up.
    pub fn new(
        settings: Settings,
        device: Arc<Device>,
        shared: Arc<Shared>,
        rtnl: &Rtnl,
    ) -> kernel::error::Result<Self> {
        Ok(Self {
            settings,
            link: Link::new(device.clone(), MAX_DATAGRAM, rtnl)?,
            device,
            shared,
            progress: Progress::default(),
            pace: Pace::begin(),
            sequence: syslog::SequenceId::default(),
            buffer: [0; MAX_DATAGRAM],
            sysdata: [0; SYSDATA_ROOM],
        })
    }

    /// Where to send to: what is configured, or else what has been found, or else everybody.
    fn path(&self) -> Path {
        let peer_mac = self.settings.remote_mac.or_else(|| self.shared.next_hop()).unwrap_or(BROADCAST);
        Path {
            local_mac: MacAddr(self.device.mac()),
            peer_mac: MacAddr(peer_mac),
            local: self.settings.addresses.local(),
            peer: self.settings.addresses.remote(),
            local_port: self.settings.local_port(),
            peer_port: self.settings.remote_port(),
            vlan: None,
        }
    }
}

impl console::Outlet for Outlet {
    fn deliver(&mut self, record: &Record<'_>, urgency: Urgency) -> Delivery {
        let again = self.progress.seq == Some(record.seq);
        if again && self.progress.done || params::leaves_out() {
            return Delivery::Done;
        }
        if !again {
            self.progress = Progress { seq: Some(record.seq), ..Progress::default() };
            if self.has(Sysdata::MessageId) {
                self.shared.message_id.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !self.device.is_running() {
            // Nothing can be sent, but the other end shall see that something is missing.
            self.shared.skip(record.text.len());
            self.progress.done = true;
            return Delivery::Done;
        }
        if let Some(pause) = self.must_wait(record, urgency) {
            return Delivery::Later(pause);
        }
        let path = self.path();
        let Self { settings, link, shared, progress, buffer, sysdata, sequence, .. } = self;
        let mut sender = Sending { link, shared, path, urgency, progress, buffer };
        match (settings.kind, settings.syslog_format) {
            (Kind::Netconsole, _) if settings.extended => {
                let sysdata = sysdata_lines(shared, record, sysdata);
                let release: &[u8] = if settings.release { system::names().release.to_bytes() } else { &[] };
                shared.userdata.with(|userdata| {
                    sender.send(&mut Extended { release, record: record.text, userdata, sysdata }.datagrams())
                })
            }
            (Kind::Netconsole, _) => sender.send(&mut Basic::new(record.text)),
            (Kind::Netlog, _) => {
                let mut stream = Stream::new(shared.offset.load(Ordering::Relaxed));
                let delivery = sender.send(&mut stream.send(record.text));
                if delivery == Delivery::Done {
                    shared.skip(record.text.len());
                }
                delivery
            }
            (Kind::Syslog, SyslogFormat::Classic) => sender.send(&mut syslog::Original::new(record.text)),
            (Kind::Syslog, SyslogFormat::Rfc5424) => {
                let Ok(parsed) = log::record::Record::parse(record.text) else { return Delivery::Done };
                let header = syslog::Header {
                    priority: Priority::from_record(parsed.header.priority),
                    time: Some(UnixTime(clock::time_of_day(parsed.header.time_us))),
                    hostname: system::names().hostname.to_bytes(),
                };
                let mut next = *sequence;
                let lines = &mut Rfc5424::new(header, &mut next, parsed.text(), Escapes::Printk);
                let delivery = sender.send(lines);
                if delivery == Delivery::Done {
                    *sequence = next;
                }
                delivery
            }
        }
    }
}

/// Replay of the log that was there before, to servers that a whole fleet may speak to at once: at most this long after
/// the target has come into use it begins, in milliseconds, ...
const SPREAD_MS: u32 = 5_000;
/// ... and so many bytes a second it takes on average.
const REPLAY_RATE: u64 = 32 * 1024;
/// How long the thread sleeps at most, in microseconds: it may have to end.
const NAP_US: u64 = 50_000;
/// How long records wait for the next hop's Ethernet address to be found, in nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;

/// The module goes: nothing waits any more.
static HURRY: AtomicBool = AtomicBool::new(false);

/// Ends all waiting, for the module's end.
pub fn hurry() {
    HURRY.store(true, Ordering::Relaxed);
}

/// When the next record of the replay is due.
struct Pace {
    begun: u64,
    next: u64,
}

impl Pace {
    fn begin() -> Self {
        let begun = clock::monotonic();
        let spread = u64::from(clock::random(SPREAD_MS)).saturating_mul(1_000_000);
        Self { begun, next: begun.saturating_add(spread) }
    }

    /// Whether a record of that length has to wait, and how long; if not, the one after it has to.
    fn must_wait(&mut self, len: usize) -> Option<u32> {
        let now = clock::monotonic();
        if now < self.next {
            return Some(((self.next - now) / 1000).clamp(1, NAP_US) as u32);
        }
        // Between none and twice the average.
        let average = (len as u64).saturating_mul(1_000_000_000) / REPLAY_RATE;
        let jitter = u64::from(clock::random(2048)).saturating_mul(average) / 1024;
        self.next = now.saturating_add(jitter);
        None
    }
}

impl Outlet {
    /// Waits until the device has sent all. Panic path.
    pub fn drain(&mut self) {
        self.link.drain();
    }

    /// How many microseconds a record has to wait, if at all: because it is part of the replay, or because it is not known
    /// yet where to send it. Nothing waits in a panic.
    fn must_wait(&mut self, record: &Record<'_>, urgency: Urgency) -> Option<u32> {
        if self.settings.kind == Kind::Netconsole || urgency == Urgency::Panic || HURRY.load(Ordering::Relaxed) {
            return None;
        }
        if self.settings.remote_mac.is_none() && self.shared.next_hop().is_none() {
            let waited = clock::monotonic().saturating_sub(self.pace.begun);
            if waited < PATIENCE_NS {
                return Some(NAP_US as u32);
            }
        }
        if record.seq >= console(&self.settings).backlog() {
            return None;
        }
        match urgency {
            Urgency::Thread => self.pace.must_wait(record.text.len()),
            Urgency::Emergency | Urgency::Panic => Some(RETRY_US),
        }
    }

    /// What changes when a record is sent, but the outlet itself. Panic path.
    pub fn report(&self, memory: &mut Memory) {
        memory.value(&*self.shared);
        self.link.report(memory);
    }

    fn has(&self, sysdata: Sysdata) -> bool {
        self.shared.sysdata.load(Ordering::Relaxed) & sysdata as u32 != 0
    }
}

/// Writes the lines of [`Sysdata`] that are wanted. Panic path.
fn sysdata_lines<'a>(shared: &Shared, record: &Record<'_>, buffer: &'a mut [u8]) -> &'a [u8] {
    let mut w = Writer::new(buffer);
    // There is room for all.
    let _ = write_sysdata(shared, record, &mut w);
    let len = w.written();
    buffer.get(..len).unwrap_or(&[])
}

fn write_sysdata(shared: &Shared, record: &Record<'_>, w: &mut Writer<'_>) -> Result<()> {
    let wanted = shared.sysdata.load(Ordering::Relaxed);
    if wanted & Sysdata::Cpu as u32 != 0 {
        w.bytes(b" cpu=")?;
        w.decimal(u64::from(record.cpu))?;
        w.u8(b'\n')?;
    }
    if wanted & Sysdata::Task as u32 != 0 {
        w.bytes(b" taskname=")?;
        w.bytes(record.task_name())?;
        w.u8(b'\n')?;
    }
    if wanted & Sysdata::Release as u32 != 0 {
        w.bytes(b" release=")?;
        w.bytes(system::names().release.to_bytes())?;
        w.u8(b'\n')?;
    }
    if wanted & Sysdata::MessageId as u32 != 0 {
        w.bytes(b" msgid=")?;
        w.decimal(u64::from(shared.message_id.load(Ordering::Relaxed)))?;
        w.u8(b'\n')?;
    }
    Ok(())
}

/// When the thread tries again what could not be sent in an emergency, in microseconds.
const RETRY_US: u32 = 1_000;

/// Sends the datagrams of one record.
struct Sending<'a> {
    link: &'a mut Link,
    shared: &'a Shared,
    path: Path,
    urgency: Urgency,
    progress: &'a mut Progress,
    buffer: &'a mut [u8; MAX_DATAGRAM],
}

impl Sending<'_> {
    /// Sends what has not been sent of them yet.
    fn send(&mut self, datagrams: &mut impl Datagrams) -> Delivery {
        let mut at = 0u32;
        loop {
            let datagram = match datagrams.next_in_place() {
                Some(datagram) => datagram,
                None => match datagrams.emit_next(self.buffer) {
                    Ok(Some(len)) => self.buffer.get(..len).unwrap_or(&[]),
                    // A record that cannot be sent in the format at all is left out, as by upstream.
                    Ok(None) | Err(_) => break,
                },
            };
            if at >= self.progress.sent {
                match self.link.send(self.path, datagram, self.urgency) {
                    Sent::Yes => {}
                    Sent::Dropped => _ = self.shared.dropped.fetch_add(1, Ordering::Relaxed),
                    Sent::NotNow => return Delivery::Later(RETRY_US),
                    Sent::NoMemory => _ = self.shared.no_memory.fetch_add(1, Ordering::Relaxed),
                }
                self.progress.sent = self.progress.sent.wrapping_add(1);
            }
            at = at.wrapping_add(1);
        }
        self.progress.done = true;
        Delivery::Done
    }
}
