// SPDX-License-Identifier: GPL-2.0-or-later
//! The thread that makes directories and writes logs and `meta.json`, so that no disk ever holds up the socket.
//!
//! Jobs are done in order. Log text is counted while it waits and refused beyond a bound; of each directory the latest
//! `meta.json` alone waits; everything else is bounded by the number of dumps and by the limit of new directories.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use tokio::sync::mpsc::UnboundedSender;

use crate::crashdir::{began, ClientDir, CrashDir};
use crate::logs::Place;
use crate::meta::Meta;

/// Log text that may wait for the disk, in bytes, all clients together.
pub const MAX_QUEUED_LOG: usize = 32 << 20;
/// Logs that are kept open, if the process may have so many files: one for each source that is followed.
const MAX_OPEN: u64 = 4096;
/// Files that everything else may have open.
const OTHER_FILES: u64 = 512;
/// A `meta.json` that could not be written is tried again after this time, because a full disk may have room later.
const RETRY: Duration = Duration::from_secs(10);
/// So many are kept for that.
const MAX_UNWRITTEN: usize = 256;

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
    /// The answer to [`Store::usage`]: bytes in all logs.
    Usage(io::Result<u64>),
    /// The answer to [`Store::sync`]: the log is as safe as it will get; what went wrong was reported before.
    Synced(DirId),
}

enum Job {
    Create(DirId, IpAddr, Timestamp),
    Resume(DirId, String),
    Log(DirId, Vec<u8>),
    /// The one that waits for this directory, if this is the last such job.
    Meta(DirId),
    Sync(DirId),
    Open(DirId),
    Measure(DirId),
    Hold(DirId),
    Forget(DirId),
    Streams(&'static str, Vec<(SocketAddr, Place, DirId)>),
    Usage,
}

/// What is to be written to each directory's `meta.json`, and how many jobs were submitted for it.
type Metas = Mutex<HashMap<DirId, (usize, Box<Meta>)>>;

/// The way to the thread.
pub struct Store {
    jobs: Option<Sender<Job>>,
    queued: Arc<AtomicUsize>,
    metas: Arc<Metas>,
    next: u64,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the thread.
    pub fn start<E: From<StoreEvent> + Send + 'static>(
        root: CrashDir,
        events: UnboundedSender<E>,
    ) -> io::Result<Store> {
        Store::start_with(root, events, max_open())
    }

    fn start_with<E: From<StoreEvent> + Send + 'static>(
        root: CrashDir,
        events: UnboundedSender<E>,
        max_open: usize,
    ) -> io::Result<Store> {
        let (jobs, queue) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let metas = Arc::new(Metas::default());
        let mut worker = Worker {
            root,
            queued: queued.clone(),
            metas: metas.clone(),
            dirs: HashMap::new(),
            unwritten: HashMap::new(),
            clock: 0,
            open: 0,
            max_open,
            // The receiver goes away only when the server ends.
            report: Box::new(move |event| drop(events.send(event.into()))),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.run(&queue))?;
        Ok(Store { jobs: Some(jobs), queued, metas, next: 0, thread: Some(thread) })
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

    /// Writes `meta.json`; the directory's own facts are filled in. It replaces one that still waits for the disk.
    pub fn meta(&self, dir: DirId, meta: Meta) {
        {
            let mut metas = lock(&self.metas);
            let jobs = metas.get(&dir).map_or(0, |(jobs, _)| *jobs);
            metas.insert(dir, (jobs + 1, Box::new(meta)));
        }
        self.submit(Job::Meta(dir));
    }

    /// Makes what was taken of the log safe, and says so.
    pub fn sync(&self, dir: DirId) {
        self.submit(Job::Sync(dir));
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
    pub fn streams(&self, file: &'static str, streams: Vec<(SocketAddr, Place, DirId)>) {
        self.submit(Job::Streams(file, streams));
    }

    /// Asks for the size of all logs.
    pub fn usage(&self) {
        self.submit(Job::Usage);
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
    metas: Arc<Metas>,
    dirs: HashMap<DirId, Entry>,
    /// `meta.json` that could not be written, by directory.
    unwritten: HashMap<String, Box<Meta>>,
    clock: u64,
    /// Logs that are open.
    open: usize,
    max_open: usize,
    report: Box<dyn Fn(StoreEvent) + Send>,
}

/// A panic cannot leave the table half changed.
fn lock(metas: &Metas) -> MutexGuard<'_, HashMap<DirId, (usize, Box<Meta>)>> {
    metas.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Entry {
    name: String,
    /// When the directory began, if its name says it.
    started: Option<Timestamp>,
    open: Option<File>,
    used: u64,
    users: u32,
    log_bytes: u64,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let job = if self.unwritten.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(RETRY)
            };
            match job {
                Ok(job) => self.act(job),
                Err(RecvTimeoutError::Timeout) => self.retry(),
                Err(RecvTimeoutError::Disconnected) => return self.retry(),
            }
        }
    }

    fn act(&mut self, job: Job) {
        match job {
            Job::Create(id, client, at) => match self.root.create(client, at) {
                Ok(dir) => {
                    let name = dir.name().to_owned();
                    tracing::info!(%client, dir = name, "new directory");
                    self.dirs.insert(id, Entry::new(name.clone(), Some(at), 0));
                    (self.report)(StoreEvent::Created(id, name));
                }
                Err(error) => (self.report)(StoreEvent::Failed(id, error)),
            },
            Job::Resume(id, name) => match self.root.reopen(&name).and_then(|dir| dir.open_log()?.metadata()) {
                Ok(log) => {
                    let started = began(&name);
                    self.dirs.insert(id, Entry::new(name, started, log.len()));
                }
                Err(error) => (self.report)(StoreEvent::Failed(id, error)),
            },
            Job::Log(id, text) => {
                self.queued.fetch_sub(text.len(), Ordering::Relaxed);
                let bytes = text.len() as u64;
                self.attempt(id, bytes, |entry, log| {
                    log.write_all(&text)?;
                    entry.log_bytes += bytes;
                    Ok(())
                });
            }
            Job::Meta(id) => {
                if let Some(meta) = self.last_meta(id) {
                    self.write_meta(id, meta);
                }
            }
            Job::Sync(id) => {
                self.attempt(id, 0, |_, log| log.sync_data());
                (self.report)(StoreEvent::Synced(id));
            }
            Job::Open(id) => {
                let dir = match self.dirs.get(&id) {
                    Some(entry) => self.root.reopen(&entry.name),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                (self.report)(StoreEvent::Opened(id, dir));
            }
            Job::Usage => (self.report)(StoreEvent::Usage(self.root.log_bytes())),
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
                        self.remove(id);
                    }
                }
            }
            Job::Streams(file, streams) => {
                if streams.is_empty() {
                    return;
                }
                let named: Vec<(SocketAddr, Place, &str)> = streams
                    .iter()
                    .filter_map(|(peer, next, dir)| Some((*peer, *next, &self.dirs.get(dir)?.name[..])))
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

    /// What waits for a directory, once no later job will write it.
    fn last_meta(&self, id: DirId) -> Option<Box<Meta>> {
        let mut metas = lock(&self.metas);
        let (jobs, _) = metas.get_mut(&id)?;
        *jobs -= 1;
        if *jobs > 0 {
            return None;
        }
        metas.remove(&id).map(|(_, meta)| meta)
    }

    fn write_meta(&mut self, id: DirId, mut meta: Box<Meta>) {
        let Some(entry) = self.dirs.get(&id) else { return };
        let name = entry.name.clone();
        meta.directory = name.clone();
        meta.log_bytes = entry.log_bytes;
        meta.started = entry.started.unwrap_or(meta.started);
        match self.root.reopen(&name).map(|dir| dir.write_meta(&meta.to_json())) {
            Ok(Ok(())) => drop(self.unwritten.remove(&name)),
            Ok(Err(error)) => {
                if self.unwritten.len() < MAX_UNWRITTEN || self.unwritten.contains_key(&name) {
                    self.unwritten.insert(name, meta);
                }
                (self.report)(StoreEvent::NotWritten(id, error, 0));
            }
            Err(error) => {
                self.remove(id);
                (self.report)(StoreEvent::Failed(id, error));
            }
        }
    }

    /// Tries again what could not be written; a directory that is gone needs none.
    fn retry(&mut self) {
        let root = &self.root;
        self.unwritten.retain(|name, meta| match root.reopen(name) {
            Ok(dir) => dir.write_meta(&meta.to_json()).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
    }

    fn remove(&mut self, id: DirId) {
        if self.dirs.remove(&id).is_some_and(|entry| entry.open.is_some()) {
            self.open -= 1;
        }
    }

    /// Does something with a log. A directory that is gone is reported and forgotten; a full disk may have room later.
    fn attempt(&mut self, id: DirId, bytes: u64, act: impl FnOnce(&mut Entry, &mut File) -> io::Result<()>) {
        self.clock += 1;
        let Some(entry) = self.dirs.get_mut(&id) else { return };
        entry.used = self.clock;
        let before = usize::from(entry.open.is_some());
        match entry.take_open(&self.root) {
            Err(error) => {
                self.open -= before;
                self.dirs.remove(&id);
                return (self.report)(StoreEvent::Failed(id, error));
            }
            Ok(mut log) => {
                let result = act(entry, &mut log);
                entry.open = Some(log);
                self.open += 1 - before;
                if let Err(error) = result {
                    (self.report)(StoreEvent::NotWritten(id, error, bytes));
                }
            }
        }
        if self.open > self.max_open {
            let oldest = self.dirs.values_mut().filter(|entry| entry.open.is_some()).min_by_key(|entry| entry.used);
            if let Some(entry) = oldest {
                entry.open = None;
                self.open -= 1;
            }
        }
    }
}

/// How many logs can be kept open: as many as there can be, after asking for as many files as that takes.
fn max_open() -> usize {
    let wanted = MAX_OPEN + OTHER_FILES;
    let files = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let raised = wanted.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, raised, hard).map(|()| raised)
    });
    let files = files.unwrap_or_else(|error| {
        tracing::debug!("the limit of open files is not known: {error}");
        1024
    });
    usize::try_from(files.saturating_sub(OTHER_FILES).clamp(64, MAX_OPEN)).unwrap_or(64)
}

impl Entry {
    fn new(name: String, started: Option<Timestamp>, log_bytes: u64) -> Entry {
        Entry { name, started, open: None, used: 0, users: 1, log_bytes }
    }

    /// The log, opened again if its turn had come to be closed or somebody has removed it.
    fn take_open(&mut self, root: &CrashDir) -> io::Result<File> {
        if let Some(log) = self.open.take() {
            if log.metadata().is_ok_and(|meta| meta.nlink() > 0) {
                return Ok(log);
            }
        }
        root.reopen(&self.name)?.open_log()
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
        let mut store = Store::start_with(dir, tx, 128).unwrap();
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

    fn meta_of(n: u64) -> Meta {
        Meta { log_lost_bytes: n, ..Meta::new("10.0.0.1".parse().unwrap(), Timestamp::MAX, false) }
    }

    fn read_meta(dir: &std::path::Path) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join("meta.json")).unwrap()).unwrap()
    }

    #[test]
    fn of_each_directory_one_meta_waits_and_the_last_is_written() {
        let root = tempfile::tempdir().unwrap();
        let (tx, mut rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        let at = "2026-11-23T21:05:09Z".parse().unwrap();
        let id = store.create("10.0.0.1".parse().unwrap(), at);
        for n in 0..1000 {
            store.meta(id, meta_of(n));
            assert!(store.log(id, b"x".to_vec()));
            assert!(lock(&store.metas).len() <= 1);
        }
        store.meta(id, meta_of(1000));
        store.finish();
        assert!(lock(&store.metas).is_empty());
        let Some(StoreEvent::Created(_, name)) = rx.blocking_recv() else { panic!() };
        let meta = read_meta(&root.path().join(name));
        assert_eq!((&meta["log_lost_bytes"], &meta["log_bytes"]), (&1000.into(), &1000.into()));
        assert_eq!(meta["started"], "2026-11-23T21:05:09Z", "the directory's own start");
    }

    #[test]
    fn a_meta_that_could_not_be_written_is_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let (tx, mut rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        let id = store.create("10.0.0.1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let Some(StoreEvent::Created(_, name)) = rx.blocking_recv() else { panic!() };
        let dir = root.path().join(name);
        let obstacle = dir.join("meta.json.tmp");
        std::fs::create_dir(&obstacle).unwrap();
        store.meta(id, meta_of(7));
        assert!(matches!(rx.blocking_recv(), Some(StoreEvent::NotWritten(..))));
        std::fs::remove_dir(&obstacle).unwrap();
        store.forget(id);
        store.finish();
        assert_eq!(read_meta(&dir)["log_lost_bytes"], 7);
    }

    #[test]
    fn a_sync_is_answered_even_where_there_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (tx, mut rx) = unbounded_channel::<StoreEvent>();
        let mut store = Store::start(CrashDir::open(root.path()).unwrap(), tx).unwrap();
        store.sync(DirId(99));
        store.finish();
        assert!(matches!(rx.blocking_recv(), Some(StoreEvent::Synced(DirId(99)))));
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
