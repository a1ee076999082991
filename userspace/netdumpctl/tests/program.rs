// SPDX-License-Identifier: GPL-2.0-or-later
//! The program over made-up directories. Real dumps are read in the guest tests, beside makedumpfile.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use netdump_sim::kernel_log::{Kernel, KernelParams};

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

/// A dump of a kernel that does not exist, in its directory; the vmcore.
fn vmcore(rig: &Rig, name: &str) -> PathBuf {
    let mut kernel = Kernel::new(KernelParams { text_bits: 15, ..KernelParams::default() });
    kernel.print(1_000_000, b"Linux version 7.3.0-sim");
    kernel.print(2_000_001_000, b"Kernel panic - not syncing: \x1b[31msysrq\nof two lines");
    rig.dump(name, r#"{"complete":true,"dump":{"ended":"x"}}"#);
    let path = rig.path(&format!("crash/{name}/vmcore"));
    kernel.dump(File::create(&path).unwrap()).unwrap();
    path
}

fn verified(vmcore: &Path) -> serde_json::Value {
    let (out, error, status) = run(&["verify", "--json", vmcore.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert_eq!(report["whole"].as_bool(), Some(status == 0));
    report
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
        lines[2].starts_with("fd00--1-")
            && lines[2].contains("no meta.json")
            && lines[2].contains("of the log\\x1b[2J"),
        "{out}"
    );
    assert!(lines[0].contains("incomplete"), "{out}");
    assert!(
        lines[1].contains("complete") && lines[1].contains("100.0 MiB") && lines[1].contains("web\\x1b[31m"),
        "{out}"
    );
    assert!(!out.contains('\x1b'));

    let (out, _, _) = run(&["list", "--json", "--dumpdir", dumpdir]);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((list[1]["state"].as_str(), list[1]["client_id"].as_str()), (Some("complete"), Some("web")));

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
    write(root, "sys/module/netdump/parameters/status", "armed: a to b\nkey: 0011\nprobe: no answer for 7 s\n");
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
    let (id, secret) = ("ab".repeat(16), "cd".repeat(32));
    let key = format!("netdump-key 1\nkey_id {id}\nroot {secret}\nsince 2026-11-26T12:00:00Z\n");
    write(root, "etc/netdump/servers/crashhost/key", &key);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("etc/netdump/servers/crashhost/key"), mode).unwrap();
    write(root, "etc/netdump/servers/other/key.new", "");
    write(root, "sys/kernel/kexec_crash_loaded", "1\n");
    write(root, "sys/module/netdump/parameters/netdump", "@/eth0,@192.0.2.1/\n");
    let (out, _, status) = run(&words);
    assert_eq!(status, 0);
    for part in [
        "armed, a to b",
        "netdump=@/eth0,@192.0.2.1/",
        "key 0011",
        "probe of the server: no answer for 7 s",
        "netlog0: netlog on, eth0 to 192.0.2.1 port 6666",
        "panic=10",
        "comes first: netdump will not dump",
        "server crashhost: last contact 2026-11-26T12:00:00Z, key abab",
        "server other: never answered; a new key waits",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains(&secret), "{out}");
    write(root, "sys/module/kernel/parameters/crash_kexec_post_notifiers", "Y\n");
    assert!(run(&words).0.contains("it comes after netdump"));
    let (out, _, _) = run(&[&words[..], &["--json"]].concat());
    std::fs::remove_file(root.join("sys/module/netdump/parameters/status")).unwrap();
    let (loaded, _, unknown) = run(&words);
    assert!(
        unknown == 4 && loaded.contains("netdump: loaded, but ") && loaded.contains("parameters/status"),
        "{loaded}"
    );
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
fn the_log_of_a_dump() {
    let rig = Rig::new();
    let vmcore = vmcore(&rig, "192.0.2.7-2026-11-27-06:00:00");
    let expected = "[    0.001000] Linux version 7.3.0-sim\n\
                    [    2.000001] Kernel panic - not syncing: \x1b[31msysrq\n[    2.000001] of two lines\n";
    // Not to a terminal: as it is.
    assert_eq!(run(&["dmesg", vmcore.to_str().unwrap()]), (expected.into(), String::new(), 0));
    let dumpdir = rig.path("crash");
    let words = ["dmesg", "192.0.2.7-2026-11-27-06:00:00", "--dumpdir", dumpdir.to_str().unwrap()];
    assert_eq!(run(&words).0, expected);
    // script (util-linux) makes a terminal.
    let line = format!("{} dmesg {}", env!("CARGO_BIN_EXE_netdumpctl"), vmcore.display());
    for (raw, shown) in [("", "\\x1b[31msysrq"), (" --raw", "\x1b[31msysrq")] {
        let line = format!("{line}{raw}");
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(shown), "{text:?}");
        assert_eq!(text.contains('\x1b'), !raw.is_empty(), "{text:?}");
    }
}

#[test]
fn a_dump_is_whole_or_it_is_said_what_is_wrong() {
    let rig = Rig::new();
    let vmcore = vmcore(&rig, "192.0.2.7-2026-11-27-06:00:00");
    let report = verified(&vmcore);
    assert_eq!(report["wrong"], serde_json::json!([]), "{report}");
    assert_eq!(
        (
            report["format"].as_str(),
            report["release"].as_str(),
            report["cpus"].as_u64(),
            report["log_records"].as_u64()
        ),
        (Some("kdump"), Some("7.3.0-sim"), Some(1), Some(2))
    );
    let (memory, zero) = (report["memory_bytes"].as_u64().unwrap(), report["zero_bytes"].as_u64().unwrap());
    assert!(memory % 4096 == 0 && zero > 0 && zero < memory, "{report}");
    let (out, _, status) = run(&["verify", vmcore.to_str().unwrap()]);
    assert!(status == 0 && out.ends_with("\nwhole\n"), "{out}");

    let good = std::fs::read(&vmcore).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(*good[at..].first_chunk().unwrap());
    // The program headers are behind the file header: notes, then memory.
    let load = 64 + 56;
    let note = good.windows(11).position(|part| part == b"VMCOREINFO\0").unwrap();
    let text = |text: &str| good.windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
    type Damage<'a> = &'a dyn Fn(&File);
    let put = |at: usize, bytes: &'static [u8]| move |file: &File| file.write_all_at(bytes, at as u64).unwrap();
    let damages: &[(&str, Damage<'_>)] = &[
        ("not complete", &put(48, &[1])),
        ("was cut off", &|file| file.set_len(good.len() as u64 - 5000).unwrap()),
        ("no VMCOREINFO", &put(note, b"VMCOREINFA\0")),
        ("does not name the kernel's release", &put(text("OSRELEASE="), b"OSRELEASX=")),
        ("SYMBOL(prb)", &put(text("SYMBOL(prb)"), b"SYMBOL(prc)")),
        ("not mapped", &put(text("SYMBOL(prb)=") + 12, b"0ff")),
        ("netdump of 2005", &|file| {
            // An alignment, and a place that is a multiple of a page.
            assert_eq!(u64_at(load + 8) % 4096, 0);
            file.write_all_at(&4096u64.to_le_bytes(), load as u64 + 48).unwrap();
        }),
        ("no registers", &put(text("CORE\0"), b"CORF\0")),
        ("no memory", &put(load, &[5])),
    ];
    for (what, damage) in damages {
        std::fs::write(&vmcore, &good).unwrap();
        damage(&File::options().write(true).open(&vmcore).unwrap());
        let report = verified(&vmcore);
        assert!(report["wrong"].to_string().contains(what), "{what}: {report}");
        let (out, _, status) = run(&["verify", vmcore.to_str().unwrap()]);
        assert!(status == 1 && out.contains("WRONG: ") && out.ends_with("\nnot whole\n"), "{out}");
    }
    // What the server wrote down counts too.
    std::fs::write(&vmcore, &good).unwrap();
    rig.dump("192.0.2.7-2026-11-27-06:00:00", r#"{"dump":{"pages":{"unanswered":3},"cpus":2,"vmcore_bytes":1}}"#);
    let wrong = verified(&vmcore)["wrong"].to_string();
    for part in ["3 pages never came", "it has 1 bytes", "of 2 CPUs"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
}

#[test]
fn memory_that_lies_at_one_place_twice() {
    let rig = Rig::new();
    let vmcore = vmcore(&rig, "192.0.2.7-2026-11-27-06:00:00");
    let mut file = std::fs::read(&vmcore).unwrap();
    // The notes' header becomes a second segment with the first one's bytes, at another address.
    let (head, tail) = file[64..].split_at_mut(56);
    head.copy_from_slice(&tail[..56]);
    head[24..32].copy_from_slice(&(1u64 << 40).to_le_bytes());
    std::fs::write(&vmcore, &file).unwrap();
    let wrong = verified(&vmcore)["wrong"].to_string();
    assert!(wrong.contains("0x10000000000 is in the file at the place of other memory"), "{wrong}");
}

#[test]
fn crash_gets_the_kernel_that_belongs_to_the_dump() {
    let rig = Rig::new();
    let vmcore = vmcore(&rig, "192.0.2.7-2026-11-27-06:00:00");
    let (vmcore, root) = (vmcore.to_str().unwrap(), rig.path("root"));
    let words = ["crash", vmcore, "--dry-run", "--root", root.to_str().unwrap()];
    let (out, error, status) = run(&words);
    assert!(status == 1 && out.is_empty() && error.contains("linux-image-7.3.0-sim-dbg"), "{error}");
    let kernel = root.join("kernel");
    for (more, expected) in [
        (vec![], format!("crash {} {vmcore}\n", kernel.display())),
        (vec!["--", "-s", "a\x1bb"], format!("crash {} {vmcore} -s a\\x1bb\n", kernel.display())),
        (vec!["--drgn"], format!("drgn -c {vmcore} -s {}\n", kernel.display())),
    ] {
        let words = [&words[..3], &["--vmlinux", kernel.to_str().unwrap()], &more].concat();
        assert_eq!(run(&words), (expected, String::new(), 0));
    }
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
    write(rig.dir.path(), "vmcore", "KDUMP   of makedumpfile, which is another format");
    let (_, error, _) = run(&["verify", vmcore.to_str().unwrap()]);
    assert!(error.contains("makedumpfile's own format"), "{error}");
    assert_eq!(run(&["key", "login"]).2, 1);
    assert!(run(&["completion", "bash"]).0.contains("netdumpctl"));
    assert_eq!(run(&["nonsense"]).2, 2);
}
