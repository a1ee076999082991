// SPDX-License-Identifier: GPL-2.0-or-later
//! From the command line to a running server: settings, detaching, pid file, log output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::Invocation;
use crate::config::Settings;
use crate::server::Server;

/// Runs the program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let invocation = match Invocation::parse(args) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Help and version are errors here; a closed pipe is nobody's business.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if invocation.usage {
        print!("{}", crate::cli::usage());
        return ExitCode::SUCCESS;
    }
    let settings = match invocation.settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if invocation.check_config {
        print!("{}", settings.render());
        return ExitCode::SUCCESS;
    }
    match run(invocation, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netdump-server: {error:#}");
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut invocation: Invocation, settings: Settings) -> anyhow::Result<()> {
    // What an administrator can get wrong is said before the terminal is let go. After it only the kernel can refuse: the
    // detaching itself, threads, the reactor. Paths are made absolute because a daemon changes to `/`.
    invocation.config = std::path::absolute(&invocation.config)?;
    let settings = absolute(settings)?;
    let (socket, root) = Server::prepare(&settings)?;
    let pidfile = settings.pidfile.as_deref().map(PidFile::create).transpose()?;
    if settings.daemon {
        // No thread exists yet, so nothing is lost in the child.
        nix::unistd::daemon(false, false).context("cannot detach")?;
    }
    start_logging(&settings);
    if let Some(pidfile) = &pidfile {
        pidfile.write()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(Server::run(invocation, settings, socket, root));
    // A script that still runs must not keep the server; it is killed with the runtime.
    runtime.shutdown_background();
    result
}

fn absolute(mut settings: Settings) -> anyhow::Result<Settings> {
    for path in [&mut settings.pidfile, &mut settings.status_file].into_iter().flatten() {
        *path = std::path::absolute(&*path)?;
    }
    Ok(settings)
}

fn start_logging(settings: &Settings) {
    let level = if settings.debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let plain = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    if settings.daemon {
        let options = syslog_tracing::Options::LOG_PID;
        if let Some(syslog) = syslog_tracing::Syslog::new(c"netdump", options, syslog_tracing::Facility::Daemon) {
            // syslog has its own time and level.
            return plain.without_time().with_level(false).with_ansi(false).with_writer(syslog).init();
        }
    }
    let ansi = std::io::stderr().is_terminal();
    let plain = plain.with_ansi(ansi).with_writer(std::io::stderr);
    // The journal stamps what it gets.
    if std::env::var_os("JOURNAL_STREAM").is_some() && !ansi {
        plain.without_time().init();
    } else {
        plain.init();
    }
}

/// The file with our process id; it goes when we go.
struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Creates it, empty: the process that it is about does not exist yet.
    fn create(path: &Path) -> anyhow::Result<PidFile> {
        let file = File::create(path).with_context(|| format!("cannot write the pid file {}", path.display()))?;
        Ok(PidFile { path: path.to_owned(), file })
    }

    fn write(&self) -> anyhow::Result<()> {
        let written = writeln!(&self.file, "{}", std::process::id());
        written.with_context(|| format!("cannot write the pid file {}", self.path.display()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), "pid file not removed: {error}");
        }
    }
}
