// SPDX-License-Identifier: GPL-2.0-or-later
//! `list` and `show`: the directories of the server and what `meta.json` says of each.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, Context};
use serde_json::Value;

use crate::shown::{self, plain, plain_bytes, size};

/// Longest meta.json, and the part of a log that is looked at for the panic: of one dump, and of each of many.
const MAX_META: u64 = 16 << 20;
const LOG_END: u64 = 4 << 20;
const LOG_END_OF_MANY: u64 = 256 << 10;

/// A directory of the server.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) path: PathBuf,
    /// meta.json, or nothing where it cannot be read.
    pub(crate) meta: Value,
}

impl Dump {
    pub(crate) fn open(path: PathBuf) -> Dump {
        let meta = read_some(&path.join("meta.json"), 0, MAX_META).ok();
        let meta = meta.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null);
        Dump { path, meta }
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A text of meta.json, by the path to it.
    fn text(&self, pointer: &str) -> Option<&str> {
        self.meta.pointer(pointer)?.as_str()
    }

    pub(crate) fn number(&self, pointer: &str) -> Option<u64> {
        self.meta.pointer(pointer)?.as_u64()
    }

    /// When it began, from meta.json or else from its name, which ends with the date (and perhaps a number).
    fn began(&self) -> String {
        if let Some(started) = self.text("/started") {
            return started.to_owned();
        }
        let name = self.name();
        let date = name.rsplit_once(':').and_then(|(front, second)| {
            let (day, minute) = front.split_at_checked(front.len().checked_sub(6)?)?;
            Some(format!("{}T{}:{}", day.get(day.len().checked_sub(10)?..)?, minute.get(1..)?, second.get(..2)?))
        });
        date.unwrap_or_default()
    }

    /// What is there of the memory.
    fn state(&self) -> &'static str {
        let there = |name: &str| self.path.join(name).exists();
        match (self.meta["complete"].as_bool(), self.text("/dump/failure")) {
            _ if self.meta.is_null() => "no meta.json",
            (Some(true), _) if there("vmcore") => "complete",
            (Some(true), _) => "vmcore missing",
            (_, Some(_)) if there("vmcore-incomplete") => "incomplete",
            (_, Some(_)) => "failed",
            (_, None) if self.meta["dump"].is_null() => "log only",
            (_, None) if self.meta["dump"]["ended"].is_null() => "running",
            (_, None) => "incomplete",
        }
    }

    /// The panic, from meta.json or else from the end of the log.
    fn panic(&self, end: u64) -> Option<String> {
        if let Some(panic) = self.text("/panic") {
            return Some(panic.trim_end().to_owned());
        }
        let log = self.path.join("log");
        let start = std::fs::metadata(&log).ok()?.len().saturating_sub(end);
        let bytes = read_some(&log, start, end).ok()?;
        let mark = b"Kernel panic - not syncing: ";
        let lines = bytes.split(|byte| *byte == b'\n').rev();
        let mut panics = lines.filter_map(|line| {
            let at = line.windows(mark.len()).position(|part| part == mark)?;
            line.get(at + mark.len()..)
        });
        panics.next().map(plain_bytes)
    }
}

/// A part of a file. What is no file (and might never end, or never begin) has none.
fn read_some(path: &Path, from: u64, most: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `dumpdir` of the server's settings.
pub(crate) fn configured(conf: &str) -> Option<PathBuf> {
    let mut values = conf.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        (key == "dumpdir" || key == "dumpdirprefix").then(|| match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => value.split('#').next().map(str::trim_end),
        })?
    });
    values.next_back().filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// All directories, the oldest first.
pub(crate) fn all(dir: &Path) -> anyhow::Result<Vec<Dump>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("{}: no dumps to be seen", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        // <address>-<date>: an address begins with a digit or, IPv6, with a letter; magic and scripts have no date.
        if name.to_string_lossy().matches(':').count() == 2 && entry.file_type()?.is_dir() {
            found.push(Dump::open(entry.path()));
        }
    }
    found.sort_by_cached_key(|dump| (dump.began(), dump.name()));
    Ok(found)
}

/// A dump by its directory, a file in it, or the directory's name.
pub(crate) fn find(what: &Path, dir: &Path) -> anyhow::Result<Dump> {
    for path in [what.to_path_buf(), dir.join(what)] {
        if path.is_dir() {
            return Ok(Dump::open(path));
        }
        if path.is_file() {
            return Ok(Dump::open(path.parent().unwrap_or(Path::new(".")).to_path_buf()));
        }
    }
    bail!("there is no dump {} (below {}): 'netdumpctl list' shows those that are there", what.display(), dir.display())
}

/// The vmcore of a dump, whole or not.
pub(crate) fn vmcore(what: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    if what.is_file() {
        return Ok(what.to_path_buf());
    }
    let dump = find(what, dir)?;
    for name in ["vmcore", "vmcore-incomplete"] {
        let path = dump.path.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{} has no vmcore", dump.path.display())
}

/// `list`.
pub(crate) fn list(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let dumps = all(dir)?;
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = dumps.iter().map(|dump| summary(dump, LOG_END_OF_MANY)).collect();
        shown::json(&mut out, &list)?;
        return Ok(ExitCode::SUCCESS);
    }
    for dump in dumps {
        let host = dump.text("/identity/hostname").or(dump.text("/client_id")).unwrap_or("-");
        let bytes = dump.number("/dump/vmcore_disk_bytes").map_or("-".into(), size);
        let panic = dump.panic(LOG_END_OF_MANY).unwrap_or_default();
        let line = format!("{:<36} {host:<20} {:<14} {bytes:>10}  {panic}", dump.name(), dump.state());
        writeln!(out, "{}", plain(line.trim_end()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(dump: &Dump, log_end: u64) -> Value {
    serde_json::json!({
        "directory": dump.name(),
        "path": dump.path.to_string_lossy(),
        "state": dump.state(),
        "client": dump.meta["client"],
        "client_id": dump.meta["client_id"],
        "hostname": dump.meta["identity"]["hostname"],
        "release": dump.meta["identity"]["release"],
        "started": dump.meta["started"],
        "complete": dump.meta["complete"] == true,
        "authenticated": dump.meta["authenticated"] == true,
        "panic": dump.panic(log_end),
        "memory_bytes": dump.meta["dump"]["memory_bytes"],
        "vmcore_bytes": dump.meta["dump"]["vmcore_bytes"],
        "vmcore_disk_bytes": dump.meta["dump"]["vmcore_disk_bytes"],
        "seconds": dump.meta["dump"]["seconds"],
        "failure": dump.meta["dump"]["failure"],
    })
}

/// `show`.
pub(crate) fn show(dump: &Dump, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        shown::json(&mut out, &summary(dump, LOG_END))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![("directory", dump.path.to_string_lossy().into_owned())];
    let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    let text = |pointer: &str| dump.text(pointer).map(str::to_owned);
    add("host", text("/identity/hostname"));
    add("address", text("/client"));
    add(
        "client",
        text("/client_id").map(|id| match dump.meta["previous_key"] == true {
            true => format!("{id} (with its previous key)"),
            false => id,
        }),
    );
    add("release", text("/identity/release"));
    add("version", text("/identity/version"));
    add("panic", dump.panic(LOG_END));
    add("began", text("/started"));
    add("state", Some(dump.state().to_owned()));
    add("failure", text("/dump/failure"));
    if let Some(memory) = dump.number("/dump/memory_bytes") {
        let pages = |name: &str| dump.number(&format!("/dump/pages/{name}")).unwrap_or(0);
        add("memory", Some(size(memory)));
        let (written, zero) = (pages("written"), pages("zero"));
        let lost = pages("unanswered");
        add(
            "pages",
            Some(format!("{written} written, {zero} of zeroes, {} not readable, {lost} missing", pages("reserved"))),
        );
        let (apparent, disk) = (dump.number("/dump/vmcore_bytes"), dump.number("/dump/vmcore_disk_bytes"));
        add("vmcore", apparent.zip(disk).map(|(bytes, disk)| format!("{}, {} on the disk", size(bytes), size(disk))));
        let why = |state| match text("/dump/conversion/failure") {
            Some(failure) => format!("{state}: {failure}"),
            None => state,
        };
        add("compressed", text("/dump/conversion/state").map(why));
        let seconds = dump.meta["dump"]["seconds"].as_f64();
        let rate = dump.number("/dump/bytes_per_second").unwrap_or(0);
        add("duration", seconds.map(|seconds| format!("{seconds:.1} s, {}/s", size(rate))));
    }
    let proven = if dump.meta["authenticated"] == true { "by a key" } else { "not proven (classic protocol)" };
    add("identity", Some(proven.to_owned()));
    let (log, lost) = (dump.number("/log_bytes"), dump.number("/log_lost_bytes"));
    add("log", log.zip(lost).map(|(log, lost)| format!("{}, {lost} bytes lost", size(log))));
    for (name, value) in lines {
        writeln!(out, "{name:<10} {}", plain(&value))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_date() {
        let began = |name: &str| Dump { path: PathBuf::from(name), meta: Value::Null }.began();
        assert_eq!(began("/a/192.0.2.7-2026-11-27-06:01:02"), "2026-11-27T06:01:02");
        assert_eq!(began("fd00--1-2026-11-27-06:01:02.2"), "2026-11-27T06:01:02");
        for name in ["", ":", "::", "1:2:3", "é-é:é:é", "2026-11-27-06:01"] {
            began(name);
        }
    }

    #[test]
    fn the_last_dumpdir_counts() {
        let conf = "#dumpdir=\"/no\"\ndumpdirprefix=/a\n dumpdir = \"/b c#\" # not /d\n";
        assert_eq!(configured(conf), Some(PathBuf::from("/b c#")));
        assert_eq!(configured("dumpdir=/e  # not /f\n"), Some(PathBuf::from("/e")));
        assert_eq!(configured("port=1\n"), None);
    }
}
