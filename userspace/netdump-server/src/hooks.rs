// SPDX-License-Identifier: GPL-2.0-or-later
//! The administrator's scripts in `<dumpdir>/scripts`.
//!
//! Each gets the client's address and, where there is one, the directory of its dump. A script that is missing is
//! no error. One that runs too long is killed with everything it started; what it prints goes to the log.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::crashdir::exposed;

/// Bytes of a script's output that are logged.
const MAX_OUTPUT: u64 = 64 << 10;
/// How long after a script's end its output is still read: a child that it left behind may hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Scripts that may wait for their turn.
const MAX_QUEUED: usize = 1024;

/// Which script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The client has just booted: its console stream began.
    Start,
    /// The client begins a dump.
    Crash,
    /// There is no room for the dump; it may make some.
    NoSpace,
    /// The dump is over and the client is being rebooted.
    Reboot,
}

impl Hook {
    /// File name.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Start => "netdump-start",
            Hook::Crash => "netdump-crash",
            Hook::NoSpace => "netdump-nospace",
            Hook::Reboot => "netdump-reboot",
        }
    }
}

/// What running a script came to.
#[derive(Debug)]
pub enum Outcome {
    /// There is none.
    Missing,
    /// It ended.
    Ended(ExitStatus),
    /// It was killed after its time.
    TimedOut,
    /// Too many wait already.
    Busy,
    /// It was not run: others could have changed it, or it could not be started.
    NotRun(String),
}

/// Runs scripts, a limited number at once.
#[derive(Debug, Clone)]
pub struct Hooks {
    dumpdir: PathBuf,
    scripts: Arc<Turns>,
    /// Apart from the scripts: compressing takes hours, and a client that crashes meanwhile must not wait for it.
    compressors: Arc<Turns>,
}

/// How many may run and wait.
#[derive(Debug)]
struct Turns {
    running: Semaphore,
    queued: Semaphore,
}

impl Turns {
    fn new(at_once: u32) -> Arc<Turns> {
        Arc::new(Turns { running: Semaphore::new(at_once as usize), queued: Semaphore::new(MAX_QUEUED) })
    }
}

impl Hooks {
    /// Scripts of the crash directory at `dumpdir`.
    pub fn new(dumpdir: &Path, at_once: u32) -> Hooks {
        Hooks { dumpdir: dumpdir.to_owned(), scripts: Turns::new(at_once), compressors: Turns::new(at_once) }
    }

    /// Runs a script and waits for its end.
    pub async fn run(&self, hook: Hook, client: IpAddr, dir: Option<&Path>, timeout: Duration) -> Outcome {
        let program = self.dumpdir.join("scripts").join(hook.name());
        match check(&self.dumpdir, &program) {
            Ok(true) => {}
            Ok(false) => return Outcome::Missing,
            Err(reason) => {
                tracing::warn!(script = %program.display(), %client, "not run: {reason}");
                return Outcome::NotRun(reason);
            }
        }
        let mut args = vec![OsString::from(client.to_string())];
        args.extend(dir.map(OsString::from));
        self.command(&self.scripts, hook.name(), program.as_ref(), args, timeout, client).await
    }

    /// Runs `compress=` on a finished vmcore.
    pub async fn compress(&self, command: &str, vmcore: &Path, client: IpAddr) -> Outcome {
        let mut words = command.split_whitespace();
        let Some(program) = words.next() else { return Outcome::Missing };
        let args = words.map(OsString::from).chain([vmcore.into()]).collect();
        // A day: it may be a terabyte on a slow disk, and nobody waits for it but the reboot script.
        let timeout = Duration::from_secs(86_400);
        self.command(&self.compressors, "compress", Path::new(program), args, timeout, client).await
    }

    async fn command(
        &self,
        turns: &Turns,
        name: &'static str,
        program: &Path,
        args: Vec<OsString>,
        timeout: Duration,
        client: IpAddr,
    ) -> Outcome {
        // The caller says so, where it is counted and not said too often.
        let Ok(_queued) = turns.queued.try_acquire() else { return Outcome::Busy };
        // The semaphore is never closed.
        let Ok(_slot) = turns.running.acquire().await else { return Outcome::Busy };
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let outcome = match run_to_end(&mut command, name, client, timeout).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::NotRun(error.to_string()),
        };
        match &outcome {
            Outcome::Ended(status) if status.success() => tracing::info!(script = name, %client, "done"),
            Outcome::Ended(status) => tracing::warn!(script = name, %client, "failed: {status}"),
            Outcome::TimedOut => tracing::warn!(script = name, %client, "killed after {} s", timeout.as_secs()),
            Outcome::NotRun(reason) => tracing::warn!(script = name, %client, "could not be run: {reason}"),
            Outcome::Missing | Outcome::Busy => {}
        }
        outcome
    }
}

/// Kills the script's whole process group when it is dropped before its end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already is as good.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

async fn run_to_end(
    command: &mut Command,
    name: &'static str,
    client: IpAddr,
    timeout: Duration,
) -> io::Result<Outcome> {
    let mut child = command.spawn()?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let output = async {
        tokio::join!(relay(stdout, name, client), relay(stderr, name, client));
    };
    tokio::pin!(output);
    let status = {
        let end = tokio::time::timeout(timeout, child.wait());
        tokio::pin!(end);
        tokio::select! {
            status = &mut end => {
                // A script's leftover child must not keep the slot.
                let _ = tokio::time::timeout(OUTPUT_GRACE, &mut output).await;
                status
            }
            () = &mut output => end.await,
        }
    };
    match status {
        Ok(status) => {
            // Daemons that a script has started on purpose may live.
            group.0 = None;
            Ok(Outcome::Ended(status?))
        }
        Err(_) => {
            drop(group);
            child.wait().await?;
            Ok(Outcome::TimedOut)
        }
    }
}

async fn relay(pipe: Option<impl AsyncRead + Unpin>, name: &'static str, client: IpAddr) {
    let Some(pipe) = pipe else { return };
    let mut pipe = BufReader::new(pipe.take(MAX_OUTPUT));
    let mut line = Vec::new();
    while let Ok(1..) = pipe.read_until(b'\n', &mut line).await {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        tracing::info!(script = name, %client, "{}", String::from_utf8_lossy(text).escape_debug());
        line.clear();
    }
    // What is beyond the limit is read and dropped, so that the script does not block.
    let _ = tokio::io::copy(&mut pipe.into_inner().into_inner(), &mut tokio::io::sink()).await;
}

/// Whether the script is there and could have been put there only by root or us: whoever may write to a directory on
/// the way to it can put another one in its place.
fn check(dumpdir: &Path, program: &Path) -> Result<bool, String> {
    let scripts = dumpdir.join("scripts");
    for path in [dumpdir, &scripts, program] {
        // The administrator may have the crash directory elsewhere; what is in it is no link.
        let meta = if path == dumpdir { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
        let meta = match meta {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(|error| error.to_string())?,
        };
        if path == program && (!meta.is_file() || meta.mode() & 0o111 == 0) {
            return Err("it is not an executable file".into());
        }
        if path != program && !meta.is_dir() {
            return Err(format!("{} is not a directory", path.display()));
        }
        if let Some(why) = exposed(meta.uid(), meta.mode()) {
            return Err(format!("{} {why}", path.display()));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LONG: Duration = Duration::from_secs(60);

    fn script(root: &Path, hook: Hook, text: &str) {
        let dir = root.join("scripts");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join(hook.name());
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn client() -> IpAddr {
        "10.0.0.9".parse().unwrap()
    }

    #[tokio::test]
    async fn arguments_are_the_original_ones() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        script(root.path(), Hook::Crash, &format!("#!/bin/sh\necho \"$# $1 $2\" > {}\n", out.display()));
        let hooks = Hooks::new(root.path(), 2);
        let outcome = hooks.run(Hook::Crash, client(), Some(Path::new("/d/x")), LONG).await;
        assert!(matches!(outcome, Outcome::Ended(s) if s.success()), "{outcome:?}");
        assert_eq!(std::fs::read_to_string(out).unwrap(), "2 10.0.0.9 /d/x\n");
        assert!(matches!(hooks.run(Hook::Reboot, client(), None, LONG).await, Outcome::Missing));
    }

    #[tokio::test]
    async fn what_is_not_safe_is_not_run() {
        let root = tempfile::tempdir().unwrap();
        script(root.path(), Hook::Crash, "#!/bin/sh\n");
        let file = root.path().join("scripts/netdump-crash");
        let hooks = Hooks::new(root.path(), 2);
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let outcome = || hooks.run(Hook::Crash, client(), None, LONG);
        for bad in [0o644, 0o777, 0o775] {
            mode(&file, bad);
            assert!(matches!(outcome().await, Outcome::NotRun(_)), "{bad:o}");
        }
        mode(&file, 0o755);
        // Whoever can write to its directory can replace it.
        for dir in [&root.path().join("scripts"), root.path()] {
            for bad in [0o777, 0o775] {
                mode(dir, bad);
                assert!(matches!(outcome().await, Outcome::NotRun(_)), "{bad:o}");
            }
            mode(dir, 0o755);
        }
        assert!(matches!(outcome().await, Outcome::Ended(_)));
        std::fs::rename(&file, root.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &file).unwrap();
        assert!(matches!(outcome().await, Outcome::NotRun(_)));
    }

    #[tokio::test]
    async fn compressing_does_not_keep_scripts_waiting() {
        let root = tempfile::tempdir().unwrap();
        let flag = root.path().join("flag");
        script(root.path(), Hook::Crash, &format!("#!/bin/sh\ntouch {}\n", flag.display()));
        // It ends only once the other one has run.
        script(root.path(), Hook::Start, &format!("#!/bin/sh\nuntil [ -e {} ]; do sleep 0.05; done\n", flag.display()));
        let hooks = Hooks::new(root.path(), 1);
        let command = root.path().join("scripts/netdump-start").to_str().unwrap().to_owned();
        let both = async {
            // The first has its turn first.
            tokio::join!(
                hooks.compress(&command, Path::new("/x"), client()),
                hooks.run(Hook::Crash, client(), None, LONG)
            )
        };
        let outcomes = tokio::time::timeout(LONG, both).await.expect("one waits for the other");
        assert!(matches!(outcomes, (Outcome::Ended(_), Outcome::Ended(_))), "{outcomes:?}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children() {
        let root = tempfile::tempdir().unwrap();
        let pid = root.path().join("pid");
        script(root.path(), Hook::Crash, &format!("#!/bin/sh\nsleep 1000 &\necho $! > {}\nwait\n", pid.display()));
        let hooks = Hooks::new(root.path(), 1);
        let mut timeout = Duration::from_millis(300);
        // On a busy machine the script may be killed before it has begun; then it gets more time.
        while !pid.exists() || std::fs::read_to_string(&pid).unwrap().is_empty() {
            assert!(matches!(hooks.run(Hook::Crash, client(), None, timeout).await, Outcome::TimedOut));
            timeout *= 2;
        }
        let pid = Pid::from_raw(std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap());
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn much_output_does_not_block() {
        let root = tempfile::tempdir().unwrap();
        script(root.path(), Hook::Start, "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' 'x'\nexit 3\n");
        let outcome = Hooks::new(root.path(), 1).run(Hook::Start, client(), None, LONG).await;
        assert!(matches!(outcome, Outcome::Ended(s) if s.code() == Some(3)), "{outcome:?}");
    }
}
