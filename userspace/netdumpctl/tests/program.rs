// SPDX-License-Identifier: GPL-2.0-or-later
//! The program over made-up directories. Real dumps are read in the guest tests, beside makedumpfile.

use std::path::{Path, PathBuf};
use std::process::Command;

fn run(words: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_netdumpctl")).args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dump(&self, name: &str, meta: &str) {
        write(self.dir.path(), &format!("crash/{name}/meta.json"), meta);
    }
}

const COMPLETE: &str = r#"{"version":1,"client":"192.0.2.7","client_id":"web","previous_key":true,"started":"2026-11-27T06:00:00Z","complete":true,
    "authenticated":false,"log_bytes":2048,"log_lost_bytes":3,"identity":{"hostname":"web\u001b[31m","release":"7.3.4"},
    "panic":"Fatal exception","dump":{"ended":"2026-11-27T06:00:09Z","memory_bytes":1073741824,"vmcore_bytes":1073741824,
    "vmcore_disk_bytes":104857600,"seconds":9.5,"bytes_per_second":115343360,"pages":{"written":10,"zero":5,"reserved":1,"unanswered":0}}}"#;

#[test]
fn dumps_are_listed_and_shown() {
    let rig = Rig::new();
    rig.dump("192.0.2.7-2026-11-27-06:00:00", COMPLETE);
    write(rig.dir.path(), "crash/192.0.2.7-2026-11-27-06:00:00/vmcore", "");
    rig.dump(
        "192.0.2.8-2026-11-27-05:00:00",
        r#"{"started":"2026-11-27T05:00:00Z","complete":false,"dump":{"failure":"gone","ended":"x"}}"#,
    );
    write(rig.dir.path(), "crash/192.0.2.8-2026-11-27-05:00:00/vmcore-incomplete", "");
    write(
        rig.dir.path(),
        "crash/fd00--1-2026-11-27-07:00:00/log",
        "[ 1.0] Kernel panic - not syncing: of the log\x1b[2J\nmore\n",
    );
    write(rig.dir.path(), "crash/magic/192.0.2.7", "secret");
    let dumpdir = rig.path("crash");
    let dumpdir = dumpdir.to_str().unwrap();
    let (out, _, status) = run(&["list", "--dumpdir", dumpdir]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((status, lines.len()), (0, 3), "{out}");
    assert!(
        lines[0].starts_with("fd00--1-")
            && lines[0].contains("no meta.json")
            && lines[0].contains("of the log\\x1b[2J"),
        "{out}"
    );
    assert!(lines[1].contains("incomplete"), "{out}");
    assert!(
        lines[2].contains("complete") && lines[2].contains("100.0 MiB") && lines[2].contains("web\\x1b[31m"),
        "{out}"
    );
    assert!(!out.contains('\x1b'));

    let (out, _, _) = run(&["list", "--json", "--dumpdir", dumpdir]);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((list[2]["state"].as_str(), list[2]["client_id"].as_str()), (Some("complete"), Some("web")));

    let (out, _, status) = run(&["show", "192.0.2.7-2026-11-27-06:00:00", "--dumpdir", dumpdir]);
    assert_eq!(status, 0);
    for part in ["web (with its previous key)", "Fatal exception", "7.3.4", "9.5 s", "not proven", "3 bytes lost"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains('\x1b'));
    let (_, error, status) = run(&["show", "nothing", "--dumpdir", dumpdir]);
    assert!(status == 1 && error.contains("netdumpctl list"), "{error}");
}

#[test]
fn status_says_what_the_modules_say() {
    let rig = Rig::new();
    let root = rig.dir.path();
    let words = ["status", "--root", root.to_str().unwrap()];
    assert_eq!(run(&words).2, 3);
    write(root, "sys/module/netdump/parameters/status", "not armed: the network device is down\nkey: none\n");
    let (out, _, status) = run(&words);
    assert!(status == 1 && out.contains("NOT armed: the network device is down") && out.contains("no key"), "{out}");
    write(root, "sys/module/netdump/parameters/status", "armed: a to b\nkey: 0011\n");
    write(root, "sys/module/netconsole/parameters/syslog_format", "classic\n");
    for (name, text) in [
        ("type", "netlog"),
        ("enabled", "1"),
        ("dev_name", "eth0"),
        ("remote_ip", "192.0.2.1"),
        ("remote_port", "6666"),
    ] {
        write(root, &format!("sys/kernel/config/netconsole/netlog0/{name}"), text);
    }
    write(root, "proc/sys/kernel/panic", "10\n");
    write(root, "sys/kernel/kexec_crash_loaded", "1\n");
    let (out, _, status) = run(&words);
    assert_eq!(status, 0);
    for part in ["armed, a to b", "key 0011", "netlog0: netlog on, eth0 to 192.0.2.1 port 6666", "panic=10", "kdump"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (out, _, _) = run(&[&words[..], &["--json"]].concat());
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status["netdump"]["armed"].as_bool(), status["netdump"]["key"].as_str()), (Some(true), Some("0011")));
}

#[test]
fn clients_without_their_secrets() {
    let rig = Rig::new();
    for dir in ["keys/clients", "keys/addresses", "crash"] {
        std::fs::create_dir_all(rig.path(dir)).unwrap();
    }
    let store = netdump_keys::Store::open(&rig.path("keys")).unwrap();
    let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIBERERERERERERERERERERERERERERERERERERERERER";
    let id = store.enrol(&blob.parse().unwrap(), Some("web".parse().unwrap())).unwrap();
    let root = netdump_keys::Root::random().unwrap();
    let secret = root.to_hex();
    let message =
        netdump_keys::message::Registration { key_id: netdump_keys::KeyId([1; 16]), root, host: "web1".into() };
    store.register(&id, message, "192.0.2.7".parse().unwrap(), jiff::Timestamp::UNIX_EPOCH).unwrap();
    let (keys, crash) = (rig.path("keys"), rig.path("crash"));
    let words = ["clients", "--keydir", keys.to_str().unwrap(), "--dumpdir", crash.to_str().unwrap()];
    let (out, error, status) = run(&words);
    assert!(status == 0 && out.contains("web1") && out.contains("1970-01-01T00:00:00Z"), "{out}{error}");
    assert!(!out.contains(&*secret) && !run(&[&words[..], &["--json"]].concat()).0.contains(&*secret));
    // A log line counts as a sign of life.
    rig.dump("192.0.2.7-2026-11-27-06:00:00", COMPLETE);
    assert!(run(&[&words[..], &["--stale", "1h"]].concat()).0.is_empty());
    std::fs::remove_dir_all(rig.path("crash/192.0.2.7-2026-11-27-06:00:00")).unwrap();
    assert!(run(&[&words[..], &["--stale", "1h"]].concat()).0.contains("web"));
}

#[test]
fn what_is_no_dump_is_told() {
    let rig = Rig::new();
    write(rig.dir.path(), "vmcore", "no ELF at all, and long enough to be looked at as one");
    let vmcore = rig.path("vmcore");
    for word in ["verify", "dmesg", "crash"] {
        let (out, error, status) = run(&[word, vmcore.to_str().unwrap()]);
        assert!(status == 1 && out.is_empty() && error.contains("not an ELF core dump"), "{word}: {error}");
    }
    assert_eq!(run(&["key", "login"]).2, 1);
    assert!(run(&["completion", "bash"]).0.contains("netdumpctl"));
    assert_eq!(run(&["nonsense"]).2, 2);
}
