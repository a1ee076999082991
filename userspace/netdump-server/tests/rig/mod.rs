// SPDX-License-Identifier: GPL-2.0-or-later
//! The real server on an address of the loopback that no other test uses, and machines that crash.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use netdump_core::engine::client::Dialects;
use netdump_core::wire::v6::Level;
use netdump_core::wire::Cookie;
use netdump_keys::message::Registration;
use netdump_keys::{KeyId, Root, Store};
use netdump_sim::crowd::{self, CrowdParams, CrowdReport};
use netdump_sim::image::{Image, ImageParams, PAGE_SIZE};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

/// No test waits longer for anything; it only bounds a failure.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The cookie of machines without a file in `magic/`.
pub const OPEN: u64 = 0x1111_1111_1111_1111;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Addresses in a block.
const BLOCK: u32 = 8;

/// 127.x.y.z with x.y from the process and z from a counter: the server has the second address, machines the rest.
pub fn block() -> Ipv4Addr {
    let pid = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 256 / BLOCK, "too many tests in one file for their addresses");
    Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 254, pid as u8, (n * BLOCK) as u8)
}

/// Address `n` of a block.
pub fn host(block: Ipv4Addr, n: u8) -> Ipv4Addr {
    assert!(u32::from(n) < BLOCK);
    let [a, b, c, d] = block.octets();
    Ipv4Addr::new(a, b, c, d + n)
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

/// A running server.
pub struct Server {
    pub child: Child,
    pub block: Ipv4Addr,
    pub root: PathBuf,
    log: Arc<Log>,
    _scratch: Option<tempfile::TempDir>,
}

/// A crash directory and how the server in it is to be started.
pub struct Setup {
    pub block: Ipv4Addr,
    pub scratch: tempfile::TempDir,
    pub args: Vec<String>,
    /// Listen on this port of every address, instead of the block's own.
    pub everywhere: Option<u16>,
    /// A command that runs the server, such as `unshare`.
    pub wrapper: Vec<String>,
}

impl Setup {
    pub fn new(args: &[&str]) -> Setup {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("conf"), "").unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Setup { block: block(), scratch, args, everywhere: None, wrapper: vec![] }
    }

    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("crash")
    }

    /// The key store; it is there once a client has registered.
    pub fn keys(&self) -> PathBuf {
        self.scratch.path().join("keys")
    }

    /// Registers a root key for a client of an address, as the client would through ssh.
    pub fn register(&self, name: &str, client: Ipv4Addr, number: u8) {
        for dir in ["clients", "addresses"] {
            std::fs::create_dir_all(self.keys().join(dir)).unwrap();
        }
        let root = Root::from_hex(&format!("{number:02x}").repeat(32)).unwrap();
        let key_id = KeyId([number; 16]);
        let message = Registration { key_id, root, host: name.into() };
        let store = Store::open(&self.keys()).unwrap();
        store.register(&name.parse().unwrap(), message, client.into(), jiff::Timestamp::now()).unwrap();
    }

    /// The arm key that this server expects of a client with that root key.
    pub fn arm_key(&self, number: u8, arm_id: &[u8; 16]) -> [u8; 32] {
        let root = Root::from_hex(&format!("{number:02x}").repeat(32)).unwrap();
        let server = std::fs::read_to_string(self.keys().join("server_id")).unwrap();
        *root.arm_key(&KeyId([number; 16]), arm_id, &server.trim_end().parse().unwrap(), b"")
    }

    pub fn hook(&self, name: &str, text: &str) {
        let dir = self.root().join("scripts");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub fn magic(&self, client: Ipv4Addr, digits: &str) {
        let dir = self.root().join("magic");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write(dir.join(client.to_string()), format!("{digits}\n")).unwrap();
    }

    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_netdump-server");
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .args(["--config".as_ref(), self.scratch.path().join("conf").as_os_str()])
            .args(["--verbose", "2", "--port", &self.everywhere.unwrap_or(6666).to_string()])
            .args(["--dumpdir".as_ref(), self.root().as_os_str()])
            .args(["--keydir".as_ref(), self.keys().as_os_str()])
            .args(&self.args);
        if self.everywhere.is_none() {
            command.args(["--addr", &host(self.block, 1).to_string()]);
        }
        command
    }

    /// Starts a server that leaves the directory in place.
    pub fn start(&self) -> Server {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (pipe, sink) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = sink.text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                sink.grown.notify_all();
            }
        });
        let server = Server { child, block: self.block, root: self.root(), log, _scratch: None };
        server.wait_for(" ready ");
        server
    }
}

impl Server {
    /// Starts a server in a directory of its own.
    pub fn with(args: &[&str]) -> Server {
        let setup = Setup::new(args);
        let mut server = setup.start();
        server._scratch = Some(setup.scratch);
        server
    }

    pub fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(host(self.block, 1), 6666)
    }

    pub fn log(&self) -> String {
        self.log.text.lock().unwrap().clone()
    }

    /// Waits until the log has `count` lines with `what`.
    pub fn wait_for_count(&self, what: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        let mut text = self.log.text.lock().unwrap();
        while text.matches(what).count() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {count} x {what:?} in the log:\n{text}");
            text = self.log.grown.wait_timeout(text, left).unwrap().0;
        }
    }

    pub fn wait_for(&self, what: &str) {
        self.wait_for_count(what, 1);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends the server and waits for it.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }

    /// Directories of a client, oldest first.
    pub fn dirs(&self, client: Ipv4Addr) -> Vec<PathBuf> {
        dirs(&self.root, client)
    }

    /// The only directory of a client.
    pub fn dir(&self, client: Ipv4Addr) -> PathBuf {
        let dirs = self.dirs(client);
        assert_eq!(dirs.len(), 1, "{dirs:?}\n{}", self.log());
        dirs[0].clone()
    }

    /// Crashes `count` machines from `first` on and waits for their ends.
    pub fn crash(&self, first: u8, count: u32, image: &ImageParams) -> CrowdReport {
        crowd::run(&self.crowd(first, count, image)).unwrap()
    }

    /// The same, to be changed first.
    pub fn crowd(&self, first: u8, count: u32, image: &ImageParams) -> CrowdParams {
        CrowdParams {
            server: self.addr(),
            first: host(self.block, first),
            port: 6666,
            count,
            image: image.clone(),
            cookie: Cookie::new(OPEN),
            dialects: Dialects::Classic,
            key: None,
            level: Level::ALL,
            max_datagram: 1416,
            no_gso: false,
            handshake_timeout: nanos(PATIENCE),
            idle_timeout: nanos(PATIENCE),
            total_timeout: nanos(PATIENCE),
        }
    }

    /// Peak resident memory, bytes.
    pub fn peak_rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

pub fn dirs(root: &Path, client: Ipv4Addr) -> Vec<PathBuf> {
    let prefix = format!("{client}-");
    let all = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> =
        all.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect();
    found.sort();
    found
}

pub fn meta(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("meta.json")).unwrap()).unwrap()
}

/// `meta.json` once it says that the dump has ended.
pub fn ended_meta(dir: &Path) -> serde_json::Value {
    eventually("the end of the dump in meta.json", || meta(dir)["dump"]["ended"].is_string());
    meta(dir)
}

pub fn read_log(dir: &Path) -> String {
    String::from_utf8(std::fs::read(dir.join("log")).unwrap()).unwrap()
}

/// Root for what only root can do; otherwise the test fails, unless the environment says that this host cannot have it.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let may_skip = std::env::var_os("NETDUMP_MAY_SKIP").is_some_and(|value| value == "1");
    assert!(root || may_skip, "this needs root (NETDUMP_MAY_SKIP=1 leaves it out)");
    if !root {
        eprintln!("skipped: this needs root");
    }
    root
}

/// Waits until `check` holds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where a vmcore has which memory, read without any code of ours.
pub struct Core {
    file: File,
    /// Physical start, bytes, file offset.
    loads: Vec<(u64, u64, u64)>,
}

impl Core {
    pub fn open(path: &Path) -> Core {
        let file = File::open(path).unwrap();
        let mut ehdr = [0; 64];
        file.read_exact_at(&mut ehdr, 0).unwrap();
        assert_eq!(&ehdr[..6], b"\x7fELF\x02\x01", "64 bit, little endian");
        let u16_at = |at: usize| u16::from_le_bytes(ehdr[at..at + 2].try_into().unwrap());
        let phoff = u64::from_le_bytes(ehdr[32..40].try_into().unwrap());
        let (size, count) = (u64::from(u16_at(54)), u64::from(u16_at(56)));
        let mut loads = Vec::new();
        for n in 0..count {
            let mut phdr = [0; 56];
            file.read_exact_at(&mut phdr, phoff + n * size).unwrap();
            let u64_at = |at: usize| u64::from_le_bytes(phdr[at..at + 8].try_into().unwrap());
            if phdr[..4] == [1, 0, 0, 0] {
                loads.push((u64_at(24), u64_at(32), u64_at(8)));
            }
        }
        assert!(!loads.is_empty());
        Core { file, loads }
    }

    /// The page of that number; `None` where the file has none.
    pub fn page(&self, pfn: u64) -> Option<Vec<u8>> {
        let addr = pfn * PAGE_SIZE;
        let (start, _, offset) =
            self.loads.iter().find(|(start, len, _)| *start <= addr && addr + PAGE_SIZE <= start + len)?;
        let mut page = vec![0; PAGE_SIZE as usize];
        self.file.read_exact_at(&mut page, offset + addr - start).ok()?;
        Some(page)
    }

    /// Compares every readable page of the machine's RAM.
    pub fn assert_true(&self, image: &Image) {
        for pfn in image.ram_pages().filter(|pfn| image.readable(*pfn)) {
            assert_eq!(self.page(pfn.0), Some(image.page(pfn)), "page {}", pfn.0);
        }
    }

    /// Compares what is there: a page is either true or all zero. How many are true and not zero.
    pub fn count_true(&self, image: &Image) -> usize {
        let mut count = 0;
        for pfn in image.ram_pages() {
            let Some(page) = self.page(pfn.0) else { continue };
            if page.iter().any(|byte| *byte != 0) {
                assert_eq!(page, image.page(pfn), "page {}", pfn.0);
                count += 1;
            }
        }
        count
    }
}
