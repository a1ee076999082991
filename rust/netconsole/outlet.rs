// SPDX-License-Identifier: GPL-2.0-only

//! One target as its console sees it: takes a record, writes it in the target's format, and sends it.

use super::settings::{Kind, Settings, SyslogFormat};
use super::sys::console::{self, Console, Delivery, Record, Urgency};
use super::sys::link::{Link, Sent};
use super::sys::netdev::{Device, Rtnl};
use super::sys::params;
use super::sys::snapshot::Snapshot;
use super::sys::system;
use super::wire::frame::{MacAddr, Path};
use super::wire::log::basic::Basic;
use super::wire::log::extended::Extended;
use super::wire::log::netlog::Stream;
use super::wire::log::{syslog, Datagrams, MAX_DATAGRAM};
use super::wire::{Result, Writer};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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
}

impl Shared {
    /// For a new target.
    pub fn new() -> Self {
        Self {
            dropped: AtomicU64::new(0),
            no_memory: AtomicU64::new(0),
            sysdata: AtomicU32::new(0),
            userdata: Snapshot::new(),
            message_id: AtomicU32::new(0),
        }
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
            buffer: [0; MAX_DATAGRAM],
            sysdata: [0; SYSDATA_ROOM],
        })
    }

    fn path(&self) -> Path {
        Path {
            local_mac: MacAddr(self.device.mac()),
            peer_mac: MacAddr(self.settings.remote_mac.unwrap_or(super::settings::BROADCAST)),
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
        if again && self.progress.done || params::leaves_out() || !self.device.is_running() {
            return Delivery::Done;
        }
        if !again {
            self.progress = Progress { seq: Some(record.seq), ..Progress::default() };
            if self.has(Sysdata::MessageId) {
                self.shared.message_id.fetch_add(1, Ordering::Relaxed);
            }
        }
        let path = self.path();
        let Self { settings, link, shared, progress, buffer, sysdata, .. } = self;
        let mut sender = Sending { link, shared, path, urgency, progress, buffer };
        match settings.kind {
            Kind::Netconsole if settings.extended => {
                let sysdata = sysdata_lines(shared, record, sysdata);
                let release: &[u8] = if settings.release { system::names().release.to_bytes() } else { &[] };
                shared.userdata.with(|userdata| {
                    sender.send(&mut Extended { release, record: record.text, userdata, sysdata }.datagrams())
                })
            }
            Kind::Netconsole => sender.send(&mut Basic::new(record.text)),
            Kind::Netlog => sender.send(&mut Stream::new(0).send(record.text)),
            Kind::Syslog => sender.send(&mut syslog::Original::new(record.text)),
        }
    }
}

impl Outlet {
    /// Waits until the device has sent all. Panic path.
    pub fn drain(&mut self) {
        self.link.drain();
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
        w.bytes(record.task)?;
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
        // A record that cannot be sent in the format at all is left out, as by upstream.
        while let Ok(Some(len)) = datagrams.emit_next(self.buffer) {
            if at >= self.progress.sent {
                let datagram = self.buffer.get(..len).unwrap_or(&[]);
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
