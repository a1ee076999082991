// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's settings: one table of keys that serves `/etc/netdump.conf`, the command line,
//! `--check-config` and SIGHUP alike.
//!
//! The file is what the original read: `key=value` lines, `#` comments, booleans `true`/`false`/`0`/`1`,
//! strings in double quotes or bare. Original keys keep their names and defaults; new ones stand beside
//! them. A line that means nothing is an error with its number, because a misspelt `secure` must not pass.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netdump_core::wire::v6::message::MAX_CLUSTER_PAGES;
use netdump_core::wire::v6::{Codec, Level, MAX_MAX_DATAGRAM, MIN_MAX_DATAGRAM};
use netdump_session::v6::Encoding;
use netdump_session::MIN_WINDOW;
use netdump_vmcore::Compression;

use crate::allow::AllowList;

/// What the client's queue holds; a request beyond it is dropped there.
const MAX_OUTSTANDING_PAGES: u64 = 512;

/// Layout of the file that a dump is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// ELF that crash, drgn and gdb take for a kdump.
    Elf,
    /// The layout of 2005: one PT_LOAD, which crash takes for a netdump.
    Netdump,
    /// Kdump-compressed, once the dump is over; until then as `Elf`.
    Kdump,
}

impl Format {
    /// As in the configuration and in `meta.json`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Elf => "elf",
            Format::Netdump => "netdump",
            Format::Kdump => "kdump",
        }
    }
}

/// Everything that can be set. Defaults are those of the original where it had the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// UDP port to listen on.
    pub port: u16,
    /// Address to bind to; `None` is every address, IPv6 and IPv4.
    pub addr: Option<IpAddr>,
    /// Dumps that may run at once; more clients wait in a queue.
    pub max_concurrent_dumps: u32,
    /// Clients that may wait for a slot.
    pub max_waiting_clients: u32,
    /// Dumps that one address may make in an hour; 0 is no limit.
    pub dumps_per_hour: u32,
    /// Detach from the terminal.
    pub daemon: bool,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
    /// Dump only clients that are enrolled (`keydir`) or have a file in `magic/`.
    pub secure: bool,
    /// The keys of enrolled clients; `None` is none.
    pub keydir: Option<PathBuf>,
    /// Compare a dump's size with the free space before it begins.
    pub space_check: bool,
    /// Directory that everything is kept in.
    pub dumpdir: PathBuf,
    /// Layout of the vmcore.
    pub format: Format,
    /// How pages of `format=kdump` are compressed.
    pub kdump_compress: Compression,
    /// Leave pages of zeroes as holes in the file.
    pub skip_zero: bool,
    /// What clients leave out beside what they leave out by themselves. Version 6.
    pub level: Level,
    /// How clients compress memory on its way. Version 6.
    pub codec: Encoding,
    /// The longest datagram that clients send, bytes of UDP payload; they may have to send shorter ones. Version 6.
    pub max_datagram: u16,
    /// Pages that clients pack together, at most. Version 6.
    pub cluster_pages: u8,
    /// Command that is run on each finished vmcore (its path is appended); empty is none.
    pub compress: String,
    /// Receive buffer asked for, in bytes.
    pub rcvbuf: usize,
    /// Most pages asked for and not yet received, per dump.
    pub max_outstanding_pages: u32,
    /// Most memory in page buffers that wait for the disk, in bytes, all dumps together.
    pub write_buffer: usize,
    /// A client that answers nothing for so long is given up.
    pub client_timeout: Duration,
    /// Addresses whose logs are taken with `secure=1` although they are not known.
    pub log_allow: AllowList,
    /// Log bytes taken from one address per second.
    pub log_rate: u64,
    /// Size at which a `log` is cut off, in bytes.
    pub log_max: u64,
    /// Size of all logs together at which console text is not taken any more, in bytes. Dumps do not count, and their
    /// logs are taken all the same.
    pub log_quota: u64,
    /// Directories created in a minute for logs alone, all addresses together.
    pub new_dirs_per_minute: u32,
    /// A hook that runs longer is killed.
    pub hook_timeout: Duration,
    /// Hooks that run at once.
    pub max_hooks: u32,
    /// Where to keep a JSON file with counters and dumps in progress.
    pub status_file: Option<PathBuf>,
    /// Time between two status files.
    pub status_interval: Duration,
    /// Log everything.
    pub debug: bool,
    /// 0: notable events; 1: progress of dumps; 2: each phase.
    pub verbose: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            port: 6666,
            addr: None,
            max_concurrent_dumps: 4,
            max_waiting_clients: 256,
            dumps_per_hour: 3,
            daemon: false,
            pidfile: None,
            secure: true,
            keydir: Some(PathBuf::from("/var/lib/netdump")),
            space_check: true,
            dumpdir: PathBuf::from("/var/crash"),
            format: Format::Elf,
            kdump_compress: Compression::Zstd,
            skip_zero: true,
            level: Level::ALL,
            codec: Encoding::Fixed(Codec::Zstd),
            max_datagram: 1416,
            cluster_pages: MAX_CLUSTER_PAGES,
            compress: String::new(),
            rcvbuf: 32 << 20,
            max_outstanding_pages: 192,
            write_buffer: 64 << 20,
            client_timeout: Duration::from_secs(60),
            log_allow: AllowList::default(),
            log_rate: 64 << 10,
            log_max: 64 << 20,
            log_quota: 8 << 30,
            new_dirs_per_minute: 60,
            hook_timeout: Duration::from_secs(60),
            max_hooks: 4,
            status_file: None,
            status_interval: Duration::from_secs(10),
            debug: false,
            verbose: 0,
        }
    }
}

/// What the value of a key looks like, for the help text and for options that need no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// true, false, 1 or 0; as an option the value may be left out.
    Bool,
    /// A number, as an option the value may be left out and is then 1.
    Level,
    /// Anything else; the string is shown in the help text.
    Value(&'static str),
}

/// Whether a running server follows a change of the key at SIGHUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Taken at once, for what begins after it.
    Yes,
    /// Needs a restart.
    No,
}

/// One key of the file, which is also an option of the command line.
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Other names that mean the same, in the file and as options.
    pub aliases: &'static [&'static str],
    /// Long option, where the original's differs from the key.
    pub long: &'static str,
    /// Short option.
    pub short: Option<char>,
    /// Form of the value.
    pub kind: Kind,
    /// Whether SIGHUP applies it.
    pub reload: Reload,
    /// One line of help.
    pub help: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
    show: fn(&Settings) -> String,
}

impl Key {
    /// The key of that name or alias.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name || key.aliases.contains(&name))
    }

    /// Parses `text` into the setting.
    pub fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        (self.set)(settings, text)
    }

    /// Takes this one setting from others.
    pub fn copy(&self, from: &Settings, to: &mut Settings) -> Result<(), String> {
        match split_line(&format!("x={}", self.show(from)))? {
            Some((_, value)) => self.set(to, &value),
            None => Ok(()),
        }
    }

    /// The setting as it would stand in the file.
    pub fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

/// Shorthand for a table row whose long option is the key itself.
macro_rules! key {
    ($name:literal, $kind:expr, $reload:ident, $set:expr, $show:expr, $help:literal) => {
        key!($name, [], $name, None, $kind, $reload, $set, $show, $help)
    };
    ($name:literal, $aliases:expr, $long:literal, $short:expr, $kind:expr, $reload:ident, $set:expr, $show:expr, $help:literal) => {
        Key {
            name: $name,
            aliases: &$aliases,
            long: $long,
            short: $short,
            kind: $kind,
            reload: Reload::$reload,
            help: $help,
            set: $set,
            show: $show,
        }
    };
}

/// Every key, in the order in which `--check-config` prints them.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key!("port", [], "port", Some('p'), Kind::Value("PORT"), No,
        |s, v| put(&mut s.port, number(v, 1, 65_535)), |s| s.port.to_string(),
        "UDP port to listen on"),
    key!("addr", [], "addr", Some('a'), Kind::Value("ADDRESS"), No,
        |s, v| put(&mut s.addr, optional(v, address)), |s| quote(s.addr.map(|a| a.to_string())),
        "Address to bind to [all of IPv6 and IPv4]"),
    key!("max_concurrent_dumps", ["concurrent"], "concurrent", Some('c'), Kind::Value("N"), Yes,
        |s, v| put(&mut s.max_concurrent_dumps, number(v, 1, 1024)), |s| s.max_concurrent_dumps.to_string(),
        "Dumps that run at once; more clients wait"),
    key!("max_waiting_clients", Kind::Value("N"), Yes,
        |s, v| put(&mut s.max_waiting_clients, number(v, 0, 65_536)), |s| s.max_waiting_clients.to_string(),
        "Clients that may wait for a slot"),
    key!("dumps_per_hour", Kind::Value("N"), Yes,
        |s, v| put(&mut s.dumps_per_hour, number(v, 0, 1_000_000)), |s| s.dumps_per_hour.to_string(),
        "Dumps that one address may make in an hour, then log only; 0: no limit"),
    key!("daemon", [], "daemon", Some('d'), Kind::Bool, No,
        |s, v| put(&mut s.daemon, boolean(v)), |s| s.daemon.to_string(),
        "Detach from the terminal and log to syslog"),
    key!("pidfile", [], "pidfile", Some('P'), Kind::Value("FILE"), No,
        |s, v| put(&mut s.pidfile, path(v)), |s| quote_path(s.pidfile.as_deref()),
        "Where to write the process id"),
    key!("secure", [], "secure", Some('s'), Kind::Bool, Yes,
        |s, v| put(&mut s.secure, boolean(v)), |s| s.secure.to_string(),
        "Dump only clients that are enrolled or have a file in magic/"),
    key!("keydir", Kind::Value("DIR"), No,
        |s, v| put(&mut s.keydir, path(v)), |s| quote_path(s.keydir.as_deref()),
        "Keys of enrolled clients; empty is none"),
    key!("space_check", [], "space_check", Some('S'), Kind::Bool, Yes,
        |s, v| put(&mut s.space_check, boolean(v)), |s| s.space_check.to_string(),
        "Compare a dump's size with the free space first"),
    key!("dumpdir", ["dumpdirprefix"], "dumpdir", Some('C'), Kind::Value("DIR"), No,
        |s, v| path(v).and_then(|p| p.ok_or("must not be empty".into())).map(|p| s.dumpdir = p), |s| quote_path(Some(&s.dumpdir)),
        "Directory that everything is kept in"),
    key!("format", Kind::Value("elf|kdump|netdump"), Yes,
        |s, v| put(&mut s.format, format(v)), |s| s.format.name().into(),
        "Layout of the vmcore; kdump is compressed once the dump is over, netdump is that of 2005"),
    key!("kdump_compress", Kind::Value("none|zlib|zstd"), Yes,
        |s, v| put(&mut s.kdump_compress, compression(v)), |s| compression_name(s.kdump_compress).into(),
        "How pages of format=kdump are compressed"),
    key!("skip_zero", Kind::Bool, Yes,
        |s, v| put(&mut s.skip_zero, boolean(v)), |s| s.skip_zero.to_string(),
        "Leave pages of zeroes as holes"),
    key!("level", Kind::Value("0-31"), Yes,
        |s, v| put(&mut s.level, level(v)), |s| s.level.number().to_string(),
        "What clients of version 6 leave out, as makedumpfile -d; they may leave out more"),
    key!("codec", Kind::Value("auto|none|lz4|zstd"), Yes,
        |s, v| put(&mut s.codec, codec(v)), |s| codec_name(s.codec).into(),
        "How clients of version 6 compress memory on its way"),
    key!("max_datagram", Kind::Value("BYTES"), Yes,
        |s, v| put(&mut s.max_datagram, number(v, MIN_MAX_DATAGRAM.into(), MAX_MAX_DATAGRAM.into())), |s| s.max_datagram.to_string(),
        "Longest datagram of version 6; more than 1416 where every link takes it"),
    key!("cluster_pages", Kind::Value("1-16"), Yes,
        |s, v| put(&mut s.cluster_pages, number(v, 1, MAX_CLUSTER_PAGES.into())), |s| s.cluster_pages.to_string(),
        "Pages that clients of version 6 pack together"),
    key!("compress", Kind::Value("COMMAND"), Yes,
        |s, v| put(&mut s.compress, command(v)), |s| quote(Some(s.compress.clone())),
        "Command to run on each finished vmcore"),
    key!("rcvbuf", Kind::Value("BYTES"), No,
        |s, v| put(&mut s.rcvbuf, size(v, 64 << 10, 1 << 30)), |s| s.rcvbuf.to_string(),
        "Receive buffer to ask the kernel for"),
    key!("max_outstanding_pages", Kind::Value("N"), Yes,
        |s, v| put(&mut s.max_outstanding_pages, number(v, MIN_WINDOW.into(), MAX_OUTSTANDING_PAGES)), |s| s.max_outstanding_pages.to_string(),
        "Most pages asked for and not yet received, per dump"),
    key!("write_buffer", Kind::Value("BYTES"), No,
        |s, v| put(&mut s.write_buffer, size(v, 1 << 20, 1 << 34)), |s| s.write_buffer.to_string(),
        "Most memory that waits for the disk, all dumps together"),
    key!("client_timeout", Kind::Value("SECONDS"), Yes,
        |s, v| put(&mut s.client_timeout, seconds(v, 1)), |s| s.client_timeout.as_secs().to_string(),
        "Silence after which a client is given up"),
    key!("log_allow", Kind::Value("NETWORKS"), Yes,
        |s, v| put(&mut s.log_allow, v.parse()), |s| quote(Some(s.log_allow.to_string())),
        "Networks whose logs are taken with secure=1 of clients that are not known"),
    key!("log_rate", Kind::Value("BYTES"), Yes,
        |s, v| put(&mut s.log_rate, size(v, 1024, 1 << 30)), |s| s.log_rate.to_string(),
        "Log bytes taken from one address per second"),
    key!("log_max", Kind::Value("BYTES"), Yes,
        |s, v| put(&mut s.log_max, size(v, 64 << 10, 1 << 40)), |s| s.log_max.to_string(),
        "Size at which a log is cut off"),
    key!("log_quota", Kind::Value("BYTES"), Yes,
        |s, v| put(&mut s.log_quota, size(v, 1 << 20, 1 << 50)), |s| s.log_quota.to_string(),
        "Size of all logs together at which no more console text is taken"),
    key!("new_dirs_per_minute", Kind::Value("N"), Yes,
        |s, v| put(&mut s.new_dirs_per_minute, number(v, 0, 1_000_000)), |s| s.new_dirs_per_minute.to_string(),
        "Directories created in a minute for logs alone"),
    key!("hook_timeout", Kind::Value("SECONDS"), Yes,
        |s, v| put(&mut s.hook_timeout, seconds(v, 1)), |s| s.hook_timeout.as_secs().to_string(),
        "Time after which a hook is killed"),
    key!("max_hooks", Kind::Value("N"), No,
        |s, v| put(&mut s.max_hooks, number(v, 1, 256)), |s| s.max_hooks.to_string(),
        "Hooks that run at once"),
    key!("status_file", Kind::Value("FILE"), No,
        |s, v| put(&mut s.status_file, path(v)), |s| quote_path(s.status_file.as_deref()),
        "Where to keep counters and running dumps as JSON"),
    key!("status_interval", Kind::Value("SECONDS"), Yes,
        |s, v| put(&mut s.status_interval, seconds(v, 1)), |s| s.status_interval.as_secs().to_string(),
        "Time between two status files"),
    key!("debug", [], "debug", Some('D'), Kind::Bool, No,
        |s, v| put(&mut s.debug, boolean(v)), |s| s.debug.to_string(),
        "Log everything"),
    key!("verbose", [], "verbose", Some('v'), Kind::Level, No,
        |s, v| put(&mut s.verbose, number(v, 0, 9)), |s| s.verbose.to_string(),
        "1: progress of dumps, 2: each phase"),
];

/// What is wrong with one line or option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line number from 1; 0 where it is not about a line.
    pub line: usize,
    /// The reason.
    pub reason: String,
}

/// Everything that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// At least one problem, in line order.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    fn render(&self) -> String {
        let lines = self.problems.iter().map(|p| match p.line {
            0 => format!("{}: {}", self.file.display(), p.reason),
            n => format!("{}:{n}: {}", self.file.display(), p.reason),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Settings {
    /// Reads the text of a configuration file over the defaults.
    pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
        let mut settings = Settings::default();
        let mut seen: Vec<(&str, usize)> = Vec::new();
        let mut problems = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let mut apply = || -> Result<(), String> {
                let Some((name, value)) = split_line(line)? else { return Ok(()) };
                let key = Key::find(name).ok_or_else(|| format!("unknown key `{name}`"))?;
                if let Some((_, before)) = seen.iter().find(|(seen, _)| *seen == key.name) {
                    return Err(format!("`{}` was set on line {before} already", key.name));
                }
                seen.push((key.name, number));
                key.set(&mut settings, &value).map_err(|reason| format!("{name}: {reason}"))
            };
            if let Err(reason) = apply() {
                problems.push(Problem { line: number, reason });
            }
        }
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(problems)
        }
    }

    /// Reads a file. With `must_exist` false a missing file is an empty one.
    pub fn load(file: &Path, must_exist: bool) -> Result<Settings, ConfigError> {
        let fail = |problems| ConfigError { file: file.to_owned(), problems };
        match std::fs::read(file) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Settings::parse(&text).map_err(fail),
                Err(_) => Err(fail(vec![Problem { line: 0, reason: "not UTF-8 text".into() }])),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(Settings::default()),
            Err(error) => Err(fail(vec![Problem { line: 0, reason: error.to_string() }])),
        }
    }

    /// The settings as a file that [`Settings::parse`] reads back.
    pub fn render(&self) -> String {
        KEYS.iter().map(|key| format!("{}={}\n", key.name, key.show(self))).collect()
    }
}

/// Splits `key = value # comment`; `None` for a line that says nothing.
fn split_line(line: &str) -> Result<Option<(&str, String)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, rest) = line.split_once('=').ok_or("no `=`")?;
    let name = name.trim_end();
    if name.is_empty() {
        return Err("no key before `=`".into());
    }
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let value = rest.split('#').next().unwrap_or("").trim_end();
        if value.contains('"') {
            return Err("a quote inside an unquoted value".into());
        }
        return Ok(Some((name, value.to_owned())));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next() {
            None => return Err("no closing quote".into()),
            Some('"') => break,
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => value.push(c),
                _ => return Err("only \\\" and \\\\ are known after a backslash".into()),
            },
            Some(c) => value.push(c),
        }
    }
    let tail = chars.as_str().trim_start();
    if !tail.is_empty() && !tail.starts_with('#') {
        return Err("text after the closing quote".into());
    }
    Ok(Some((name, value)))
}

fn put<T, E: fmt::Display>(slot: &mut T, value: Result<T, E>) -> Result<(), String> {
    *slot = value.map_err(|error| error.to_string())?;
    Ok(())
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{text}` is not true, false, 1 or 0")),
    }
}

fn integer(text: &str) -> Result<u64, String> {
    // `parse` would take a plus sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{text}` is not a number"));
    }
    text.parse().map_err(|_| format!("`{text}` is too large"))
}

fn number<T: TryFrom<u64>>(text: &str, low: u64, high: u64) -> Result<T, String> {
    let value = integer(text)?;
    let fits = (low..=high).contains(&value).then_some(value).and_then(|v| T::try_from(v).ok());
    fits.ok_or_else(|| format!("{text} is not from {low} to {high}"))
}

/// A size in bytes, with K, M or G (powers of 1024) behind it or not.
fn size<T: TryFrom<u64>>(text: &str, low: u64, high: u64) -> Result<T, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = integer(digits)?.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))?;
    let fits = (low..=high).contains(&value).then_some(value).and_then(|v| T::try_from(v).ok());
    fits.ok_or_else(|| format!("{text} is not from {low} to {high} bytes"))
}

fn seconds(text: &str, low: u64) -> Result<Duration, String> {
    number(text, low, 86_400 * 365).map(Duration::from_secs)
}

fn optional<T>(text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP address"))
}

fn path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.contains('\0') {
        return Err("a NUL byte in a path".into());
    }
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn command(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("a NUL byte in a command".into());
    }
    // The original's sample said compress="none"-like things by leaving it out; `none` is kept readable.
    Ok(if text == "none" { String::new() } else { text.to_owned() })
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "elf" => Ok(Format::Elf),
        "kdump" => Ok(Format::Kdump),
        "netdump" => Ok(Format::Netdump),
        _ => Err(format!("`{text}` is not elf, kdump or netdump")),
    }
}

fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "none" => Ok(Compression::None),
        "zlib" => Ok(Compression::Zlib),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(format!("`{text}` is not none, zlib or zstd")),
    }
}

/// As in the configuration and in `meta.json`.
pub(crate) fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    }
}

fn level(text: &str) -> Result<Level, String> {
    let number = text.parse().ok().and_then(Level::new);
    number.ok_or_else(|| format!("`{text}` is not a number from 0 to 31"))
}

fn codec(text: &str) -> Result<Encoding, String> {
    match text {
        "auto" => Ok(Encoding::Best),
        "none" => Ok(Encoding::Fixed(Codec::Raw)),
        "lz4" => Ok(Encoding::Fixed(Codec::Lz4)),
        "zstd" => Ok(Encoding::Fixed(Codec::Zstd)),
        _ => Err(format!("`{text}` is not auto, none, lz4 or zstd")),
    }
}

fn codec_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Best => "auto",
        Encoding::Fixed(Codec::Raw) => "none",
        Encoding::Fixed(Codec::Lz4) => "lz4",
        Encoding::Fixed(Codec::Zstd) => "zstd",
    }
}

fn quote(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn quote_path(path: Option<&Path>) -> String {
    quote(path.map(|p| p.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<(usize, String)> {
        Settings::parse(text).unwrap_err().into_iter().map(|p| (p.line, p.reason)).collect()
    }

    #[test]
    fn an_original_file_reads() {
        let text =
            "# sample\nport=6666\nmax_concurrent_dumps=4\ndaemon=true\npidfile=\"/var/run/netdump-server.pid\"\n\
                    secure=0\nspace_check = 1 # yes\n\ndumpdirprefix=\"/x # y\"\n";
        let s = Settings::parse(text).unwrap();
        assert!(s.daemon && !s.secure && s.space_check);
        assert_eq!(s.pidfile, Some(PathBuf::from("/var/run/netdump-server.pid")));
        assert_eq!(s.dumpdir, PathBuf::from("/x # y"));
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = "secur=1\nport=0\nport\n=3\naddr=\"x\nformat=flat\nverbose=1\nverbose=2\nsecure=yes\nlog_rate=1\n";
        let found = problems(text);
        let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 8, 9, 10]);
        assert_eq!(found[0].1, "unknown key `secur`");
        assert_eq!(found[6].1, "`verbose` was set on line 7 already");
        assert_eq!(found[7].1, "secure: `yes` is not true, false, 1 or 0");
    }

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!(Settings::parse("rcvbuf=8M\nlog_max=1G").unwrap().rcvbuf, 8 << 20);
        assert_eq!(problems("rcvbuf=99999999999999999999M").len(), 1);
        assert_eq!(problems("rcvbuf=18014398509481984K").len(), 1);
        assert_eq!(problems("rcvbuf=M").len(), 1);
    }

    #[test]
    fn a_window_is_one_that_works() {
        for bad in [0, 1, 7, 513] {
            assert_eq!(problems(&format!("max_outstanding_pages={bad}")).len(), 1, "{bad}");
        }
        assert_eq!(Settings::parse("max_outstanding_pages=8").unwrap().max_outstanding_pages, 8);
    }

    #[test]
    fn defaults_survive_a_round_trip() {
        let defaults = Settings::default();
        assert_eq!(Settings::parse(&defaults.render()).unwrap(), defaults);
    }

    #[test]
    fn keys_and_options_are_unique() {
        let mut names: Vec<&str> = KEYS.iter().flat_map(|k| k.aliases.iter().copied().chain([k.name])).collect();
        let mut shorts: Vec<char> = KEYS.iter().filter_map(|k| k.short).collect();
        let (n, s) = (names.len(), shorts.len());
        names.sort_unstable();
        names.dedup();
        shorts.sort_unstable();
        shorts.dedup();
        assert_eq!((names.len(), shorts.len()), (n, s));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_lines_that_exist(text in "(?s).{0,400}") {
            match Settings::parse(&text) {
                Ok(settings) => prop_assert_eq!(Settings::parse(&settings.render()).unwrap(), settings),
                Err(problems) => {
                    prop_assert!(!problems.is_empty());
                    for p in problems {
                        prop_assert!(p.line >= 1 && p.line <= text.lines().count());
                    }
                }
            }
        }

        #[test]
        fn any_assignment_is_read_or_refused(index in 0..KEYS.len(), value in "[ -~]{0,40}", quoted: bool) {
            let key = &KEYS[index];
            let value = if quoted { quote(Some(value)) } else { value };
            if let Ok(settings) = Settings::parse(&format!("{}={value}", key.name)) {
                let again = Settings::parse(&settings.render());
                prop_assert_eq!(again.as_ref(), Ok(&settings), "{}", settings.render());
            }
        }

        #[test]
        fn settings_round_trip(
            port in 1u16.., secure: bool, verbose in 0u8..10, timeout in 1u64..86_400, rcvbuf in (64usize << 10)..(1 << 30),
            dumpdir in "/[ -~é]{0,30}", compress in "[ -~]{0,30}", dumps in 0u32..1000,
        ) {
            let compress = if compress == "none" { String::new() } else { compress };
            let settings = Settings {
                port, secure, verbose, rcvbuf, compress, dumps_per_hour: dumps, dumpdir: dumpdir.into(),
                client_timeout: Duration::from_secs(timeout), ..Settings::default()
            };
            prop_assert_eq!(Settings::parse(&settings.render()).unwrap(), settings);
        }
    }
}
