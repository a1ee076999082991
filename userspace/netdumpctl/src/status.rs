// SPDX-License-Identifier: GPL-2.0-or-later
//! `status`: what the modules and the kernel say.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use netdump_keys::client::ClientKeys;
use serde::Serialize;

use crate::shown::{self, plain};

#[derive(Debug, Default, Serialize)]
struct Status {
    netdump: Netdump,
    netconsole: Netconsole,
    servers: Vec<Server>,
    kernel: Kernel,
}

/// A server that this machine has registered with.
#[derive(Debug, Serialize)]
struct Server {
    name: String,
    /// When it last took a key.
    last_contact: Option<Timestamp>,
    /// Which.
    key: Option<String>,
    /// Why that is not known.
    unknown: Option<String>,
    /// A key is drawn that it has not answered yet.
    pending: bool,
}

#[derive(Debug, Default, Serialize)]
struct Netdump {
    loaded: bool,
    armed: bool,
    /// Why it is not known whether it is.
    unknown: Option<String>,
    /// The way to the server, while it is armed.
    way: Option<String>,
    /// Why it is not armed.
    why_not: Option<String>,
    /// Which key it was given.
    key: Option<String>,
    /// What became of the last question to the server.
    probe: Option<String>,
    /// The parameter.
    target: Option<String>,
    disabled: bool,
}

#[derive(Debug, Default, Serialize)]
struct Netconsole {
    loaded: bool,
    /// It is this project's, which has netlog and syslog.
    ours: bool,
    targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
struct Target {
    name: String,
    kind: String,
    enabled: bool,
    device: String,
    remote: String,
    mac: String,
}

#[derive(Debug, Default, Serialize)]
struct Kernel {
    panic: Option<i64>,
    panic_on_oops: Option<i64>,
    kdump_loaded: bool,
    /// netdump comes before a loaded kdump.
    crash_kexec_post_notifiers: bool,
}

/// Prints the report. LSB: 0 armed (or only logging, and that is on), 1 loaded but not armed, 3 not loaded, 4 unknown.
pub(crate) fn run(root: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = Status::read(root);
    let mut out = std::io::stdout().lock();
    if json {
        shown::json(&mut out, &status)?;
    } else {
        out.write_all(status.text().as_bytes())?;
    }
    let code = match (&status.netdump, &status.netconsole) {
        (netdump, _) if netdump.armed => 0,
        (netdump, _) if netdump.unknown.is_some() => 4,
        (netdump, _) if netdump.loaded => 1,
        (_, netconsole) if netconsole.ours && netconsole.targets.iter().any(|target| target.enabled) => 0,
        (_, netconsole) if netconsole.ours => 1,
        _ => 3,
    };
    Ok(ExitCode::from(code))
}

/// Whether a word of the kernel's command line keeps netdump off: what the kernel takes for yes (`lib/kstrtox.c`).
fn is_off(word: &str) -> bool {
    let Some(value) = word.strip_prefix("netdump.disable") else { return false };
    match value.strip_prefix('=') {
        None => value.is_empty(),
        Some(value) => {
            let mut start = value.chars().map(|c| c.to_ascii_lowercase());
            match start.next() {
                Some('1' | 'e' | 'y' | 't') => true,
                Some('o') => start.next() == Some('n'),
                _ => false,
            }
        }
    }
}

impl Status {
    fn read(root: &Path) -> Status {
        let read = |name: &str| Some(std::fs::read_to_string(root.join(name)).ok()?.trim_end().to_owned());
        let number = |name: &str| read(name)?.parse().ok();
        let mut status = Status::default();
        status.netdump.loaded = root.join("sys/module/netdump").exists();
        let path = root.join("sys/module/netdump/parameters/status");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            status.netdump.unknown = status.netdump.loaded.then(|| format!("{}: {error}", path.display()));
            String::new()
        });
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("armed", way)) => (status.netdump.armed, status.netdump.way) = (true, Some(way.into())),
                Some(("not armed", why)) => status.netdump.why_not = Some(why.into()),
                Some(("probe", probe)) => status.netdump.probe = Some(probe.into()),
                Some(("key", key)) if key != "none" => status.netdump.key = Some(key.into()),
                _ => {}
            }
        }
        status.netdump.target = read("sys/module/netdump/parameters/netdump");
        let words = read("proc/cmdline").unwrap_or_default();
        status.netdump.disabled = words.split_ascii_whitespace().any(is_off);
        status.netconsole.loaded = root.join("sys/module/netconsole").exists();
        status.netconsole.ours = root.join("sys/module/netconsole/parameters/syslog_format").exists();
        status.netconsole.targets = targets(&root.join("sys/kernel/config/netconsole"));
        status.servers = servers(&root.join("etc/netdump"));
        status.kernel.panic = number("proc/sys/kernel/panic");
        status.kernel.panic_on_oops = number("proc/sys/kernel/panic_on_oops");
        status.kernel.kdump_loaded = read("sys/kernel/kexec_crash_loaded").as_deref() == Some("1");
        let after = read("sys/module/kernel/parameters/crash_kexec_post_notifiers");
        status.kernel.crash_kexec_post_notifiers = after.as_deref() == Some("Y");
        status
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let netdump = &self.netdump;
        lines.push(match (&netdump.way, &netdump.why_not) {
            _ if netdump.unknown.is_some() => {
                format!("netdump: loaded, but {}", netdump.unknown.as_deref().unwrap_or_default())
            }
            _ if !netdump.loaded && netdump.disabled => {
                "netdump: off (netdump.disable on the kernel command line)".into()
            }
            _ if !netdump.loaded => "netdump: not loaded ('service netdump start' loads it)".into(),
            (Some(way), _) => format!("netdump: armed, {way}"),
            (None, why) => format!("netdump: NOT armed: {}", why.as_deref().unwrap_or("it does not say why")),
        });
        if let Some(target) = netdump.target.as_ref().filter(|target| !target.is_empty()) {
            lines.push(format!("  netdump={target}"));
        }
        if netdump.loaded && netdump.unknown.is_none() {
            lines.push(match &netdump.key {
                Some(key) => format!("  key {key}"),
                None => {
                    "  no key ('service netdump propagate' makes one; without it a server with secure=1 takes nothing)"
                        .into()
                }
            });
        }
        if let Some(probe) = netdump.probe.as_ref().filter(|probe| *probe != "off") {
            lines.push(format!("  probe of the server: {probe}"));
        }
        for Server { name, last_contact, key, unknown, pending } in &self.servers {
            let pending = if *pending { "; a new key waits for its answer" } else { "" };
            let known = last_contact.zip(key.as_ref()).map(|(time, key)| format!("last contact {time}, key {key}"));
            let text = known.or(unknown.clone()).unwrap_or_else(|| "never answered".into());
            lines.push(format!("  server {name}: {text}{pending}"));
        }
        let netconsole = &self.netconsole;
        lines.push(match (netconsole.loaded, netconsole.ours) {
            (false, _) => "netconsole: not loaded".into(),
            (true, false) => "netconsole: the kernel's own, without netlog and syslog".into(),
            (true, true) => format!("netconsole: loaded, {} targets", netconsole.targets.len()),
        });
        for target in &netconsole.targets {
            let state = if target.enabled { "on" } else { "off" };
            let Target { name, kind, device, remote, mac, .. } = target;
            lines.push(format!("  {name}: {kind} {state}, {device} to {remote} through {mac}"));
        }
        let shown = |value: Option<i64>| value.map_or("?".into(), |value| value.to_string());
        lines.push(format!(
            "kernel: panic={} panic_on_oops={}",
            shown(self.kernel.panic),
            shown(self.kernel.panic_on_oops)
        ));
        match (self.kernel.kdump_loaded, self.kernel.crash_kexec_post_notifiers) {
            (false, _) => {}
            (true, true) => lines.push("  a kdump image is loaded: it comes after netdump".into()),
            (true, false) => {
                lines.push(
                    "  a kdump image is loaded and comes first: netdump will not dump (unless the kernel is booted with \
                     crash_kexec_post_notifiers)"
                        .into(),
                );
            }
        }
        lines.iter().map(|line| plain(line) + "\n").collect()
    }
}

/// The servers that there are keys for; whose they are, root alone may know.
fn servers(dir: &Path) -> Vec<Server> {
    let names = ClientKeys::servers(dir).unwrap_or_default();
    let look = |name: netdump_keys::ServerName| {
        let keys = ClientKeys::new(dir, name.clone());
        let (key, unknown) = match keys.key() {
            Ok(key) => (Some(key), None),
            Err(netdump_keys::Error::NoKey(_)) => (None, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Server {
            name: name.to_string(),
            last_contact: key.as_ref().map(|key| key.since),
            key: key.as_ref().map(|key| key.key_id.to_string()),
            unknown,
            pending: keys.pending(),
        }
    };
    names.into_iter().map(look).collect()
}

/// The targets that configfs shows. Without it mounted there are none to see.
fn targets(dir: &Path) -> Vec<Target> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            text.trim_end().to_owned()
        };
        let kind = read("type");
        targets.push(Target {
            name: entry.file_name().to_string_lossy().into_owned(),
            kind: if kind.is_empty() { "netconsole".into() } else { kind },
            enabled: read("enabled") == "1",
            device: read("dev_name"),
            remote: format!("{} port {}", read("remote_ip"), read("remote_port")),
            mac: read("remote_mac"),
        });
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    targets
}

#[cfg(test)]
mod tests {
    use super::is_off;

    #[test]
    fn the_kernel_and_we_take_the_same_for_yes() {
        for yes in ["", "=1", "=Y", "=true", "=on", "=Enable"] {
            assert!(is_off(&format!("netdump.disable{yes}")), "{yes}");
        }
        for no in ["=0", "=n", "=off", "=", "=o", "d=1", "_timeout=1"] {
            assert!(!is_off(&format!("netdump.disable{no}")), "{no}");
        }
        assert!(!is_off("disable=1"));
    }
}
