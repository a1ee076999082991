// SPDX-License-Identifier: GPL-2.0-or-later
//! `format=kdump`: once a dump is over, its sparse vmcore is made into a kdump-compressed one.
//!
//! While memory comes the file is what `format=elf` writes, with a set of page frames beside it ([`Names`](self)): cuts,
//! second copies and restarts are what they are there. The new file gets the old one's name in one step, when it is whole and on
//! the disk. Until then, and whatever goes wrong, the old one stays, complete as it is.
//!
//! ```text
//! vmcore, vmcore-incomplete   the sparse file, then the compressed one
//! vmcore-kdump                the compressed one while it is made
//! frames                      which pages there are
//! ```
//!
//! One is made at a time, with as many threads as there are processors; others wait for their turn, and a dump that
//! its client may go on with waits for `client_timeout` before. The server ends without it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netdump_core::wire::v6::{self, Level};
use netdump_vmcore::{convert, DumpInfo, FrameSet, KdumpError, KdumpOptions, Progress};
use serde_json::json;

use crate::admission::DumpId;
use crate::config::{self, Format};
use crate::crashdir::{began, ClientDir, CrashDir, COMPLETE, INCOMPLETE};
use crate::dump::Dump;
use crate::dumps::OVERHEAD;
use crate::events::Reason;
use crate::journal::Cause;
use crate::meta::{ConversionMeta, Meta};
use crate::server::{Report, Server};
use crate::store::DirId;

/// So many wait for their turn; the vmcore of one more stays as it is.
const MAX_WAITING: usize = 16;

/// What a thread has made.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Apparent size.
    bytes: u64,
    /// Bytes on the disk.
    disk_bytes: u64,
}

/// What a thread is to do.
#[derive(Debug)]
struct Order {
    dir: ClientDir,
    info: Box<DumpInfo>,
    options: KdumpOptions,
}

/// A vmcore that is to be made anew.
#[derive(Debug)]
pub(crate) struct Conversion {
    id: DumpId,
    pub(crate) client: SocketAddr,
    dir: DirId,
    /// Name of the directory.
    pub(crate) name: String,
    path: PathBuf,
    meta: Meta,
    order: Option<Order>,
    /// Not before.
    due: Instant,
    /// Bytes of disk that it takes at most.
    need: u64,
    /// Which panic it is of, if the client could go on with it.
    cause: Option<Cause>,
    began: Instant,
    progress: Arc<Progress>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Conversions {
    waiting: VecDeque<Conversion>,
    running: Option<Conversion>,
}

impl Conversions {
    /// Bytes of disk that the one that runs may still take.
    pub(crate) fn reserved(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.need)
    }

    /// When the next one may begin, if that is a matter of time.
    pub(crate) fn due(&self) -> Option<Instant> {
        let next = || self.waiting.iter().map(|conversion| conversion.due).min();
        self.running.is_none().then(next).flatten()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// For the status file.
    pub(crate) fn shown(&self) -> Vec<serde_json::Value> {
        let one = |conversion: &Conversion, state| {
            json!({
                "client": conversion.client.to_string(),
                "directory": conversion.name,
                "state": state,
                "pages_done": conversion.progress.done.load(Ordering::Relaxed),
                "pages_total": conversion.progress.total.load(Ordering::Relaxed),
            })
        };
        let running = self.running.iter().map(|conversion| one(conversion, RUNNING));
        running.chain(self.waiting.iter().map(|conversion| one(conversion, WAITING))).collect()
    }
}

/// States in `meta.json`.
const WAITING: &str = "waiting";
const RUNNING: &str = "running";
const DONE: &str = "done";
const FAILED: &str = "failed";
const ABANDONED: &str = "abandoned";

impl Server {
    /// Puts a dump that is over in the queue, if its vmcore is to be made anew, and writes what `meta` says of it.
    /// Whether its last scripts wait for that.
    pub(crate) fn order_conversion(&mut self, dump: &Dump, mut meta: Meta) -> bool {
        let Some(dir) = dump.dir else { return false };
        let pages = dump.facts.map_or(0, |facts| facts.pages.written + facts.pages.zero);
        let wanted = dump.facts.filter(|_| dump.format == Format::Kdump && pages > 0);
        let (Some(facts), Some(info), Some(client_dir)) = (wanted, &dump.info, &dump.client_dir) else {
            self.store.meta(dir, meta);
            return false;
        };
        let compression = self.settings.kdump_compress;
        let mut said = ConversionMeta {
            state: WAITING,
            codec: config::compression_name(compression),
            elf_disk_bytes: facts.disk_bytes,
            ..Default::default()
        };
        let refused = if self.stopping {
            said.state = ABANDONED;
            Some("the server was stopped".to_owned())
        } else if self.conversions.waiting.len() >= MAX_WAITING {
            said.state = FAILED;
            Some("too many others wait".to_owned())
        } else {
            None
        };
        let order = client_dir.try_clone().map(|dir| {
            let options = KdumpOptions {
                compression,
                level: level(self.settings.level, dump),
                complete: dump.complete,
                time: Duration::try_from(dump.started.as_duration()).unwrap_or_default(),
                threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            };
            Order { dir, info: info.clone(), options }
        });
        said.failure = refused.or_else(|| order.as_ref().err().map(ToString::to_string));
        let refused = said.failure.clone();
        if let Some(facts) = &mut meta.dump {
            facts.conversion = Some(said);
        }
        self.store.meta(dir, meta.clone());
        if let Some(why) = refused {
            self.refuse(Reason::ConversionFailed, dump.path, format_args!("the vmcore stays an ELF file: {why}"));
            return false;
        }
        let cause = dump.resumable().map(|of| of.cause).filter(|_| !dump.complete);
        // Whoever comes back of this panic goes on with the file as it is.
        let patience = if cause.is_some() { self.settings.client_timeout } else { Duration::ZERO };
        self.store.hold(dir);
        self.conversions.waiting.push_back(Conversion {
            id: dump.id,
            client: dump.path.peer,
            dir,
            name: client_dir.name().to_owned(),
            path: client_dir.path().to_owned(),
            meta,
            order: order.ok(),
            due: self.now + patience,
            // Pages as they are, their descriptors, and two bitmaps.
            need: facts.disk_bytes.saturating_add(pages * 24).saturating_add(info.memory_bytes() >> 13) + OVERHEAD,
            cause,
            began: self.now,
            progress: Arc::default(),
        });
        dump.complete
    }

    /// Begins the next one, if there is one whose time has come and none runs.
    pub(crate) fn run_conversions(&mut self) {
        while self.conversions.running.is_none() && !self.stopping {
            let next = self.conversions.waiting.iter().position(|conversion| conversion.due <= self.now);
            let Some(mut conversion) = next.and_then(|at| self.conversions.waiting.remove(at)) else { return };
            // From now on nobody goes on with it.
            if let Some(cause) = conversion.cause.as_ref() {
                self.unfinished.remove(cause);
            }
            conversion.began = self.now;
            say(&mut conversion.meta, |said| said.state = RUNNING);
            self.store.meta(conversion.dir, conversion.meta.clone());
            let room = self.settings.space_check.then(|| {
                let others: u64 = self.dumps.values().map(|other| other.still_reserved()).sum();
                (self.root.clone(), others.saturating_add(conversion.need))
            });
            let (reports, id, progress) = (self.reports.clone(), conversion.id, conversion.progress.clone());
            let Some(order) = conversion.order.take() else { continue };
            self.conversions.running = Some(conversion);
            let work = move || {
                let result = order.run(room, &progress);
                // Nobody listens any more when the server ends.
                let _ = reports.send(Report::Converted(id, result));
            };
            if let Err(error) = std::thread::Builder::new().name(format!("kdump-{}", id.0)).spawn(work) {
                self.conversion_done(id, Err(error));
            }
        }
    }

    /// One has come to its end, well or badly.
    pub(crate) fn conversion_done(&mut self, id: DumpId, result: io::Result<Made>) {
        let Some(mut conversion) = self.conversions.running.take_if(|running| running.id == id) else { return };
        let (client, directory) = (conversion.client, conversion.name.clone());
        let seconds = self.now.saturating_duration_since(conversion.began).as_secs_f64();
        say(&mut conversion.meta, |said| said.seconds = seconds);
        match result {
            Ok(made) => {
                if let Some(facts) = &mut conversion.meta.dump {
                    facts.format = Format::Kdump.name();
                    let (mib, before) = (made.disk_bytes >> 20, facts.vmcore_disk_bytes >> 20);
                    (facts.vmcore_bytes, facts.vmcore_disk_bytes) = (made.bytes, made.disk_bytes);
                    let seconds = format!("{seconds:.1}");
                    tracing::info!(%client, directory, seconds, mib, before, "the vmcore is kdump-compressed");
                }
                say(&mut conversion.meta, |said| said.state = DONE);
            }
            Err(error) => {
                let given_up = conversion.progress.stop.load(Ordering::Relaxed);
                say(&mut conversion.meta, |said| {
                    said.state = if given_up { ABANDONED } else { FAILED };
                    said.failure = Some(if given_up { "the server was stopped".into() } else { error.to_string() });
                });
                if given_up {
                    tracing::info!(%client, directory, "the vmcore stays an ELF file: the server ends");
                } else {
                    let detail = format_args!("the vmcore of {directory} stays an ELF file: {error}");
                    self.events.note(self.now, Reason::ConversionFailed, client, detail);
                }
            }
        }
        self.store.meta(conversion.dir, conversion.meta.clone());
        self.store.forget(conversion.dir);
        if conversion.meta.complete {
            self.last_scripts(client.ip(), Some(conversion.path), true);
        }
        self.run_conversions();
    }

    /// A client goes on with the dump in this directory.
    pub(crate) fn keep_from_conversion(&mut self, name: &str) {
        let waiting = &mut self.conversions.waiting;
        if let Some(found) = waiting.iter().position(|conversion| conversion.name == name) {
            if let Some(conversion) = waiting.remove(found) {
                self.store.forget(conversion.dir);
            }
        }
    }

    /// The server ends: what is not made stays as it is.
    pub(crate) fn stop_conversions(&mut self) {
        for mut conversion in std::mem::take(&mut self.conversions.waiting) {
            say(&mut conversion.meta, |said| {
                said.state = ABANDONED;
                said.failure = Some("the server was stopped".into());
            });
            self.store.meta(conversion.dir, conversion.meta);
        }
        if let Some(running) = &self.conversions.running {
            running.progress.stop.store(true, Ordering::Relaxed);
        }
    }
}

fn say(meta: &mut Meta, what: impl FnOnce(&mut ConversionMeta)) {
    if let Some(said) = meta.dump.as_mut().and_then(|dump| dump.conversion.as_mut()) {
        what(said);
    }
}

/// What was left out, as for makedumpfile: as the client was told, and what else it said. Pages of zeroes are there.
fn level(told: Level, dump: &Dump) -> u32 {
    const BITS: [(v6::Reason, u32); 4] =
        [(v6::Reason::Cache, 2), (v6::Reason::PrivateCache, 4), (v6::Reason::User, 8), (v6::Reason::Free, 16)];
    let Some(counts) = dump.session.left_out() else { return 0 };
    let said = BITS.iter().filter(|(why, _)| counts.get(*why as usize).is_some_and(|count| *count > 0));
    said.fold(u32::from(told.number()) & !1, |level, (_, bit)| level | bit)
}

impl Order {
    fn run(self, room: Option<(CrashDir, u64)>, progress: &Progress) -> io::Result<Made> {
        let result = self.make(room, progress);
        if result.is_err() {
            // It may be what fills the disk.
            self.dir.remove_conversion()?;
        }
        // One that is not whole and has its journal may be gone on with.
        if self.options.complete || result.is_ok() {
            self.dir.remove_frames()?;
        }
        result
    }

    fn make(&self, room: Option<(CrashDir, u64)>, progress: &Progress) -> io::Result<Made> {
        if let Some((root, need)) = room {
            let free = root.free_bytes()?;
            if free < need {
                let (need, free) = (need >> 20, free >> 20);
                return Err(io::Error::other(format!("no space: {need} MiB needed, {free} MiB free")));
            }
        }
        let name = if self.options.complete { COMPLETE } else { INCOMPLETE };
        let elf = self.dir.read_vmcore(name)?;
        let frames = FrameSet::open(self.dir.open_frames()?, self.info.nr_pages)?;
        let out = self.dir.create_conversion()?;
        convert(&self.info, &elf, &frames, &out, &self.options, progress).map_err(|error| match error {
            KdumpError::Io { what, source } => io::Error::new(source.kind(), format!("cannot {what}: {source}")),
            other => io::Error::other(other),
        })?;
        // It is of the file that was there before.
        self.dir.remove_journal()?;
        self.dir.publish_conversion(name)?;
        let size = out.metadata()?;
        Ok(Made { bytes: size.len(), disk_bytes: size.blocks() * 512 })
    }
}

/// Takes away what a server left that was killed while it made one: the vmcore is what it was before.
pub(crate) fn clear(root: &CrashDir) -> io::Result<()> {
    for name in root.names()? {
        if began(&name).is_none() {
            continue;
        }
        // A directory that goes away at this moment has nothing.
        let Ok(dir) = root.reopen(&name) else { continue };
        if !dir.has_conversion() {
            continue;
        }
        dir.remove_conversion()?;
        if crate::journal::cause(&dir).is_none() {
            dir.remove_frames()?;
        }
        let Some(mut meta) = dir.read_meta().and_then(|json| serde_json::from_slice(&json).ok()) else { continue };
        if abandon(&mut meta) {
            dir.write_meta(format!("{meta:#}\n").as_bytes())?;
        }
    }
    Ok(())
}

/// Whether that was to be said.
fn abandon(meta: &mut serde_json::Value) -> bool {
    let Some(said) = meta.pointer_mut("/dump/conversion").and_then(serde_json::Value::as_object_mut) else {
        return false;
    };
    if !said.get("state").is_some_and(|state| state == WAITING || state == RUNNING) {
        return false;
    }
    said.insert("state".into(), ABANDONED.into());
    said.insert("failure".into(), "the server was killed".into());
    true
}
