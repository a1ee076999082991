// SPDX-License-Identifier: GPL-2.0-or-later
//! `clients`: who is enrolled, and when each was last heard of. Nothing secret is shown.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use netdump_keys::Store;
use serde::Serialize;

use crate::dumps;
use crate::shown::{self, plain};

#[derive(Debug, Serialize)]
struct Line {
    id: String,
    label: String,
    address: Option<String>,
    key_id: Option<String>,
    registered: Option<Timestamp>,
    /// The last registration, log line or dump.
    heard: Option<Timestamp>,
    must_rotate: bool,
}

/// An age: a number and s, m, h or d.
pub(crate) fn age(text: &str) -> Result<SignedDuration, String> {
    let bad = || "a number with s, m, h or d behind it, such as 12h".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let count: i64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    count.checked_mul(seconds).filter(|seconds| *seconds >= 0).map(SignedDuration::from_secs).ok_or_else(bad)
}

/// When something of each address, and of each client that said who it is, was last written.
fn heard(dumpdir: &Path) -> HashMap<String, Timestamp> {
    let mut last: HashMap<String, Timestamp> = HashMap::new();
    for dump in dumps::all(dumpdir).unwrap_or_default() {
        let names = [&dump.meta["client"], &dump.meta["client_id"]];
        let changed = ["log", "meta.json"].iter().filter_map(|name| modified(&dump.path.join(name))).max();
        for (name, at) in names.into_iter().filter_map(|name| Some((name.as_str()?, changed?))) {
            let entry = last.entry(name.to_owned()).or_insert(at);
            *entry = at.max(*entry);
        }
    }
    last
}

fn modified(path: &Path) -> Option<Timestamp> {
    let time: SystemTime = std::fs::metadata(path).ok()?.modified().ok()?;
    Timestamp::try_from(time).ok()
}

/// Prints them.
pub(crate) fn run(
    keydir: &Path,
    dumpdir: &Path,
    stale: Option<SignedDuration>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let store =
        Store::open(keydir).with_context(|| format!("{}: is this the server, and are you root?", keydir.display()))?;
    let heard = heard(dumpdir);
    let now = Timestamp::now();
    let mut lines: Vec<_> = store
        .list()?
        .into_iter()
        .filter(|entry| entry.kind == "client")
        .map(|entry| {
            let address = entry.address.map(|address| address.to_string());
            let id = entry.id.to_string();
            let seen = address.as_ref().and_then(|address| heard.get(address).copied()).max(heard.get(&id).copied());
            Line {
                id,
                label: entry.label,
                address,
                key_id: entry.key_id.map(|id| id.to_string()),
                registered: entry.since,
                heard: seen.max(entry.since),
                must_rotate: entry.rotate,
            }
        })
        .collect();
    if let Some(stale) = stale {
        lines.retain(|line| line.heard.is_none_or(|heard| now.duration_since(heard) > stale));
    }
    let mut out = std::io::stdout().lock();
    if json {
        shown::json(&mut out, &lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines {
        let dash = || "-".to_owned();
        let heard =
            line.heard.map_or_else(|| "never".to_owned(), |heard| heard.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let label = if line.label.is_empty() { dash() } else { line.label };
        let rotate = if line.must_rotate { "  must rotate" } else { "" };
        let address = line.address.unwrap_or_else(dash);
        let text = format!("{:<24} {label:<24} {address:<24} {heard}{rotate}", line.id);
        writeln!(out, "{}", plain(&text))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("90m"), Ok(SignedDuration::from_secs(5400)));
        assert_eq!(age("7d"), Ok(SignedDuration::from_secs(604_800)));
        for bad in ["", "h", "1", "1w", "-1h", "1.5h", "99999999999999999999d", "é"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
