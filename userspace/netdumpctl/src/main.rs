// SPDX-License-Identifier: GPL-2.0-or-later
//! netdumpctl: see netdumpctl(1).

mod clients;
mod crash;
mod dmesg;
mod dumps;
mod shown;
mod status;
mod verify;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// Is this machine armed, which dumps are there, and what is in them.
#[derive(Debug, Parser)]
#[command(name = "netdumpctl", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// Where dumps are.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Directory of the dumps [default: dumpdir of /etc/netdump.conf, or /var/crash]
    #[arg(long, value_name = "DIR")]
    dumpdir: Option<PathBuf>,
}

impl Place {
    /// The directory.
    pub(crate) fn dir(&self) -> PathBuf {
        let configured = || dumps::configured(&std::fs::read_to_string("/etc/netdump.conf").ok()?);
        self.dumpdir.clone().or_else(configured).unwrap_or_else(|| PathBuf::from("/var/crash"))
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Whether this machine would dump and log now, and if not, why
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Look below this directory instead of /
        #[arg(long, hide = true, default_value = "/")]
        root: PathBuf,
    },
    /// The dumps and logs that the server has
    List {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One dump: which machine, why, how large, how complete
    Show {
        /// Its directory, or the name of it
        dump: PathBuf,
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Enrolled clients, and when each was last heard of
    Clients {
        #[command(flatten)]
        place: Place,
        /// Only those that were not heard of for so long, such as 90m, 12h or 7d
        #[arg(long, value_name = "AGE", value_parser = clients::age)]
        stale: Option<jiff::SignedDuration>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Where the server keeps its keys
        #[arg(long, default_value = netdump_keys::store::PLACE, value_name = "DIR")]
        keydir: PathBuf,
    },
    /// Read a dump from one end to the other and check that it is what it says
    Verify {
        /// Its directory or vmcore, or the name of its directory
        dump: PathBuf,
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// The kernel's log out of a dump's memory; needs no symbols
    Dmesg {
        /// The vmcore or its directory, or the name of that
        dump: PathBuf,
        #[command(flatten)]
        place: Place,
        /// As it is, escape sequences and all
        #[arg(long)]
        raw: bool,
    },
    /// Open a dump with crash (or drgn), with the kernel's symbols that belong to it
    Crash {
        /// Its directory or vmcore, or the name of its directory
        dump: PathBuf,
        #[command(flatten)]
        place: Place,
        /// With drgn
        #[arg(long)]
        drgn: bool,
        /// The kernel with symbols, if it is somewhere else
        #[arg(long, value_name = "FILE")]
        vmlinux: Option<PathBuf>,
        /// Look for it below this directory instead of /
        #[arg(long, hide = true, default_value = "/")]
        root: PathBuf,
        /// Say what would be run
        #[arg(long)]
        dry_run: bool,
        /// Passed on
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Keys on the server: list, rotate ID, revoke ID, enrol [--client ID] <FILE.pub, enrolment-key --name NAME [--days N]
    Key {
        /// For netdump-key
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Completion for a shell
    Completion {
        /// Which
        shell: clap_complete::Shell,
    },
}

/// What `key` passes on; the rest of netdump-key is for scripts.
const KEY_WORDS: [&str; 5] = ["list", "rotate", "revoke", "enrol", "enrolment-key"];

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(code) => code,
        // Somebody has seen enough: `netdumpctl list | head`.
        Err(error) if shown::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netdumpctl: {}", shown::plain(&format!("{error:#}")));
            ExitCode::from(1)
        }
    }
}

fn run(what: What) -> anyhow::Result<ExitCode> {
    match what {
        What::Status { json, root } => status::run(&root, json),
        What::List { place, json } => dumps::list(&place.dir(), json),
        What::Show { dump, place, json } => dumps::show(&dumps::find(&dump, &place.dir())?, json),
        What::Clients { place, stale, json, keydir } => clients::run(&keydir, &place.dir(), stale, json),
        What::Verify { dump, place, json } => verify::run(&dumps::vmcore(&dump, &place.dir())?, json),
        What::Dmesg { dump, place, raw } => dmesg::run(&dumps::vmcore(&dump, &place.dir())?, raw),
        What::Crash { dump, place, drgn, vmlinux, root, dry_run, more } => {
            crash::run(&dumps::vmcore(&dump, &place.dir())?, drgn, vmlinux, &root, dry_run, &more)
        }
        What::Key { words } => key(Path::new("/usr/libexec/netdump/netdump-key"), &words),
        What::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "netdumpctl", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn key(program: &Path, words: &[String]) -> anyhow::Result<ExitCode> {
    let first = words.first().map_or("", String::as_str);
    if !KEY_WORDS.contains(&first) {
        anyhow::bail!("key {first}: not one of {}", KEY_WORDS.join(", "));
    }
    // As the account that owns the store, so that ssh and the server can read what it makes.
    let owner = ["-u", "netdump", "--"];
    let error = Command::new("runuser").args(owner).arg(program).args(words).exec();
    Err(error).context("runuser (package util-linux) does not run")
}
