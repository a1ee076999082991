// SPDX-License-Identifier: GPL-2.0-or-later
//! The thread that makes directories and writes logs and `meta.json`, so that no disk ever holds up the socket.
//!
//! Jobs are done in order. Log text is counted while it waits and refused beyond a bound; everything else is
//! bounded by the number of dumps and by the limit of new directories.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use crate::crashdir::{ClientDir, CrashDir};
use crate::meta::Meta;

/// Log text that may wait for the disk, in bytes, all clients together.
pub const MAX_QUEUED_LOG: usize = 16 << 20;
/// Logs that are kept open.
const MAX_OPEN: usize = 128;

/// A directory as the rest of the server names it, before and after it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(u64);

/// What the thread reports.
#[derive(Debug)]
pub enum StoreEvent {
    /// The directory exists and has this name.
    Created(DirId, String),
    /// The directory could not be made, or is gone; nothing more can be stored there.
    Failed(DirId, io::Error),
    /// Something could not be written there, such as so many bytes of log; the directory stays in use.
    NotWritten(DirId, io::Error, u64),
    /// The answer to [`Store::open`].
    Opened(DirId, io::Result<ClientDir>),
    /// The answer to [`Store::measure`]: bytes free.
    Free(DirId, io::Result<u64>),
}

enum Job {
    Create(DirId, IpAddr, Timestamp),
    Resume(DirId, String),
    Log(DirId, Vec<u8>),
    Meta(DirId, Box<Meta>),
    Open(DirId),
    Measure(DirId),
    Hold(DirId),
    Forget(DirId),
    Streams(&'static str, Vec<(String, u32, DirId)>),
}

/// The way to the thread.
pub struct Store {
    jobs: Option<Sender<Job>>,
    queued: Arc<AtomicUsize>,
    next: u64,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the thread.
    pub fn start<E: From<StoreEvent> + Send + 'static>(
        root: CrashDir,
        events: UnboundedSender<E>,
    ) -> io::Result<Store> {
        let (jobs, queue) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let mut worker = Worker {
            root,
            queued: queued.clone(),
            dirs: HashMap::new(),
            clock: 0,
            // The receiver goes away only when the server ends.
            report: Box::new(move |event| drop(events.send(event.into()))),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.run(&queue))?;
        Ok(Store { jobs: Some(jobs), queued, next: 0, thread: Some(thread) })
    }

    /// Makes a new directory for a boot of `client`.
    pub fn create(&mut self, client: IpAddr, at: Timestamp) -> DirId {
        let id = self.new_id();
        self.submit(Job::Create(id, client, at));
        id
    }

    /// Goes on with a directory that exists.
    pub fn resume(&mut self, name: String) -> DirId {
        let id = self.new_id();
        self.submit(Job::Resume(id, name));
        id
    }

    /// Appends to the log. False when too much waits for the disk: then the text is not taken.
    #[must_use]
    pub fn log(&self, dir: DirId, text: Vec<u8>) -> bool {
        if self.queued.load(Ordering::Relaxed) + text.len() > MAX_QUEUED_LOG {
            return false;
        }
        self.queued.fetch_add(text.len(), Ordering::Relaxed);
        self.submit(Job::Log(dir, text));
        true
    }

    /// Writes `meta.json`; the log's size is filled in.
    pub fn meta(&self, dir: DirId, meta: Meta) {
        self.submit(Job::Meta(dir, Box::new(meta)));
    }

    /// Asks for a handle to the directory, for a dump.
    pub fn open(&self, dir: DirId) {
        self.submit(Job::Open(dir));
    }

    /// Asks for the free space.
    pub fn measure(&self, dir: DirId) {
        self.submit(Job::Measure(dir));
    }

    /// One more user of the directory, who will [`forget`](Self::forget) it.
    pub fn hold(&self, dir: DirId) {
        self.submit(Job::Hold(dir));
    }

    /// One of its users will write nothing more there.
    pub fn forget(&self, dir: DirId) {
        self.submit(Job::Forget(dir));
    }

    /// Writes where log streams stand (address and port, next offset, directory) to a file beside the directories,
    /// as JSON with the directories' names.
    pub fn streams(&self, file: &'static str, streams: Vec<(String, u32, DirId)>) {
        self.submit(Job::Streams(file, streams));
    }

    /// Does all that was asked for and ends the thread.
    pub fn finish(&mut self) {
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store thread panicked");
        }
    }

    fn new_id(&mut self) -> DirId {
        self.next += 1;
        DirId(self.next)
    }

    fn submit(&self, job: Job) {
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            tracing::error!("the store thread is gone");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Worker {
    root: CrashDir,
    queued: Arc<AtomicUsize>,
    dirs: HashMap<DirId, Entry>,
    clock: u64,
    report: Box<dyn Fn(StoreEvent) + Send>,
}

struct Entry {
    name: String,
    open: Option<(ClientDir, File)>,
    used: u64,
    users: u32,
    log_bytes: u64,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Create(id, client, at) => match self.root.create(client, at) {
                    Ok(dir) => {
                        let name = dir.name().to_owned();
                        tracing::info!(%client, dir = name, "new directory");
                        self.dirs.insert(id, Entry::new(name.clone(), 0));
                        (self.report)(StoreEvent::Created(id, name));
                    }
                    Err(error) => (self.report)(StoreEvent::Failed(id, error)),
                },
                Job::Resume(id, name) => match self.root.reopen(&name).and_then(|dir| dir.open_log()?.metadata()) {
                    Ok(log) => {
                        self.dirs.insert(id, Entry::new(name, log.len()));
                    }
                    Err(error) => (self.report)(StoreEvent::Failed(id, error)),
                },
                Job::Log(id, text) => {
                    self.queued.fetch_sub(text.len(), Ordering::Relaxed);
                    let bytes = text.len() as u64;
                    self.attempt(id, bytes, |entry, log, _| {
                        log.write_all(&text)?;
                        entry.log_bytes += bytes;
                        Ok(())
                    });
                }
                Job::Meta(id, mut meta) => self.attempt(id, 0, |entry, _, dir| {
                    meta.directory = entry.name.clone();
                    meta.log_bytes = entry.log_bytes;
                    dir.write_meta(&meta.to_json())
                }),
                Job::Open(id) => {
                    let dir = match self.dirs.get(&id) {
                        Some(entry) => self.root.reopen(&entry.name),
                        None => Err(io::ErrorKind::NotFound.into()),
                    };
                    (self.report)(StoreEvent::Opened(id, dir));
                }
                Job::Measure(id) => (self.report)(StoreEvent::Free(id, self.root.free_bytes())),
                Job::Hold(id) => {
                    if let Some(entry) = self.dirs.get_mut(&id) {
                        entry.users += 1;
                    }
                }
                Job::Forget(id) => {
                    if let Some(entry) = self.dirs.get_mut(&id) {
                        entry.users -= 1;
                        if entry.users == 0 {
                            self.dirs.remove(&id);
                        }
                    }
                }
                Job::Streams(file, streams) => {
                    if streams.is_empty() {
                        continue;
                    }
                    let named: Vec<(&str, u32, &str)> = streams
                        .iter()
                        .filter_map(|(peer, next, dir)| Some((&peer[..], *next, &self.dirs.get(dir)?.name[..])))
                        .collect();
                    let written = serde_json::to_vec(&named)
                        .map_err(io::Error::from)
                        .and_then(|json| self.root.write_state(file, &json));
                    if let Err(error) = written {
                        tracing::warn!(file, "cannot be written: {error}");
                    }
                }
            }
        }
    }

    /// Does something in a directory. One that is gone is reported and forgotten; a full disk may have room later.
    fn attempt(
        &mut self,
        id: DirId,
        bytes: u64,
        act: impl FnOnce(&mut Entry, &mut File, &ClientDir) -> io::Result<()>,
    ) {
        self.clock += 1;
        let Some(entry) = self.dirs.get_mut(&id) else { return };
        entry.used = self.clock;
        let opened = entry.open.is_none();
        match entry.take_open(&self.root) {
            Err(error) => {
                self.dirs.remove(&id);
                return (self.report)(StoreEvent::Failed(id, error));
            }
            Ok((dir, mut log)) => {
                let result = act(entry, &mut log, &dir);
                entry.open = Some((dir, log));
                if let Err(error) = result {
                    (self.report)(StoreEvent::NotWritten(id, error, bytes));
                }
            }
        }
        if opened && self.dirs.values().filter(|entry| entry.open.is_some()).count() > MAX_OPEN {
            let oldest = self.dirs.values_mut().filter(|entry| entry.open.is_some()).min_by_key(|entry| entry.used);
            if let Some(entry) = oldest {
                entry.open = None;
            }
        }
    }
}

impl Entry {
    fn new(name: String, log_bytes: u64) -> Entry {
        Entry { name, open: None, used: 0, users: 1, log_bytes }
    }

    /// The directory and its log, opened again if its turn had come to be closed or somebody has removed them.
    fn take_open(&mut self, root: &CrashDir) -> io::Result<(ClientDir, File)> {
        if let Some((dir, log)) = self.open.take() {
            if log.metadata().is_ok_and(|meta| meta.nlink() > 0) {
                return Ok((dir, log));
            }
        }
        let dir = root.reopen(&self.name)?;
        let log = dir.open_log()?;
        Ok((dir, log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn more_logs_than_open_files() {
        let root = tempfile::tempdir().unwrap();
        let dir = CrashDir::open(root.path()).unwrap();
        let (tx, mut rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(dir, tx).unwrap();
        let ids: Vec<DirId> = (0..300u32)
            .map(|n| store.create(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), Timestamp::UNIX_EPOCH))
            .collect();
        for round in 0..2 {
            for id in &ids {
                assert!(store.log(*id, format!("{round}").into_bytes()));
            }
        }
        store.finish();
        let mut created = 0;
        while let Ok(event) = rx.try_recv() {
            let StoreEvent::Created(_, name) = event else { panic!("{event:?}") };
            assert_eq!(std::fs::read(root.path().join(name).join("log")).unwrap(), b"01");
            created += 1;
        }
        assert_eq!(created, 300);
    }

    #[test]
    fn a_directory_that_was_taken_away_is_reported_once() {
        let root = tempfile::tempdir().unwrap();
        let (tx, mut rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        let id = store.create("10.0.0.1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let Some(StoreEvent::Created(_, name)) = rx.blocking_recv() else { panic!() };
        assert!(store.log(id, b"w".to_vec()));
        store.measure(id);
        assert!(matches!(rx.blocking_recv(), Some(StoreEvent::Free(..))));
        std::fs::remove_dir_all(root.path().join(name)).unwrap();
        assert!(store.log(id, b"x".to_vec()));
        assert!(store.log(id, b"y".to_vec()));
        store.finish();
        assert!(matches!(rx.blocking_recv(), Some(StoreEvent::Failed(failed, _)) if failed == id));
        assert!(rx.blocking_recv().is_none());
    }

    #[test]
    fn waiting_text_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let (tx, _rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        let id = store.create("10.0.0.1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        assert!(!store.log(id, vec![0; MAX_QUEUED_LOG + 1]));
    }
}
