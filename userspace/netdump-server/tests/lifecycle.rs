// SPDX-License-Identifier: GPL-2.0-or-later
//! Starting, detaching, reloading, ending, and what goes wrong on the way.

mod rig;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use netdump_sim::image::ImageParams;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use rig::{eventually, host, Server, Setup};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netdump-server")).args(args).output().unwrap()
}

#[test]
fn mistakes_in_the_file_are_named_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("netdump.conf");
    std::fs::write(&conf, "port=6666\nsecur=0\nsecure=maybe\n").unwrap();
    let conf = conf.to_str().unwrap();
    let output = run(&["--config", conf]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, format!("{conf}:2: unknown key `secur`\n{conf}:3: secure: `maybe` is not true, false, 1 or 0\n"));
}

#[test]
fn check_config_prints_what_would_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("netdump.conf");
    std::fs::write(&conf, "dumpdirprefix=\"/x\"\nport=7000 # ours\n").unwrap();
    let output = run(&["--config", conf.to_str().unwrap(), "--secure", "0", "--check-config"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["port=7000", "dumpdir=\"/x\"", "secure=false", "max_concurrent_dumps=4", "format=elf"] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    // It reads its own output back.
    std::fs::write(&conf, &text).unwrap();
    let again = run(&["--config", conf.to_str().unwrap(), "--check-config"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), text);
}

#[test]
fn the_shipped_sample_is_valid_and_says_the_defaults() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/netdump.conf");
    let shipped = run(&["--config", sample, "--check-config"]);
    assert!(shipped.status.success(), "{}", String::from_utf8_lossy(&shipped.stderr));
    let defaults = run(&["--config", "/dev/null", "--check-config"]);
    assert_eq!(shipped.stdout, defaults.stdout);
    // With every commented setting taken in it is still valid, and still the defaults.
    let dir = tempfile::tempdir().unwrap();
    let all = dir.path().join("all.conf");
    let text = std::fs::read_to_string(sample).unwrap();
    let uncommented: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
    let settings: Vec<&str> = uncommented.lines().filter(|line| line.contains('=') && !line.starts_with(' ')).collect();
    std::fs::write(&all, settings.join("\n")).unwrap();
    let all = run(&["--config", all.to_str().unwrap(), "--check-config"]);
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    assert_eq!(all.stdout, defaults.stdout);
    assert_eq!(
        settings.len(),
        String::from_utf8(defaults.stdout).unwrap().lines().count(),
        "each key is in the sample"
    );
}

#[test]
fn a_port_that_is_taken_is_an_error_at_once() {
    let setup = Setup::new(&[]);
    let _first = setup.start();
    let output = setup.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = format!("Couldn't bind master socket to {}:6666", host(setup.block, 1));
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_crash_directory_that_cannot_be_used_is_an_error_at_once() {
    let setup = Setup::new(&[]);
    std::fs::write(setup.root(), b"a file").unwrap();
    let output = setup.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("can't use the crash directory"));
}

#[test]
fn the_daemon_detaches_and_keeps_its_pid_file() {
    let setup = Setup::new(&["--secure", "0", "--daemon"]);
    let pidfile = setup.scratch.path().join("pid");
    let output = setup.command().args(["--pidfile", pidfile.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the pid file", || std::fs::read_to_string(&pidfile).is_ok_and(|text| text.ends_with('\n')));
    let pid = Pid::from_raw(std::fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "own session, no terminal");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));

    // It works: a machine crashes.
    let params = netdump_sim::crowd::CrowdParams {
        server: std::net::SocketAddrV4::new(host(setup.block, 1), 6666),
        first: host(setup.block, 2),
        port: 6666,
        count: 1,
        image: ImageParams { memory: 4 << 20, ..ImageParams::default() },
        cookie: netdump_core::wire::Cookie::new(rig::OPEN),
        dialects: netdump_core::engine::client::Dialects::Either,
        key: None,
        level: netdump_core::wire::v6::Level::ALL,
        max_datagram: 1416,
        no_gso: false,
        handshake_timeout: rig::nanos(rig::PATIENCE),
        idle_timeout: rig::nanos(rig::PATIENCE),
        total_timeout: rig::nanos(rig::PATIENCE),
    };
    assert_eq!(netdump_sim::crowd::run(&params).unwrap().served, 1);
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("the end", || !pidfile.exists() && !std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(rig::dirs(&setup.root(), host(setup.block, 2))[0].join("vmcore").exists());
}

#[test]
fn a_pid_file_that_cannot_be_written_is_said_before_the_daemon_detaches() {
    let setup = Setup::new(&["--daemon", "--pidfile", "/does/not/exist/pid"]);
    let output = setup.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write the pid file"));
}

#[test]
fn usage_is_short() {
    let output = run(&["--usage"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("Usage: netdump-server ["));
}

#[test]
fn a_directory_that_others_may_write_to_is_warned_of() {
    let setup = Setup::new(&[]);
    std::fs::create_dir(setup.root()).unwrap();
    std::fs::set_permissions(setup.root(), PermissionsExt::from_mode(0o777)).unwrap();
    setup.start().wait_for("can be written by others");
}

#[test]
fn sighup_takes_over_what_can_be_changed() {
    let setup = Setup::new(&[]);
    let server = setup.start();
    let conf = setup.scratch.path().join("conf");
    std::fs::write(&conf, "secure=0\nrcvbuf=1M\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for("configuration reloaded");
    assert!(server.log().contains("a change of this key needs a restart key=\"rcvbuf\""), "{}", server.log());
    assert_eq!(server.crash(2, 1, &ImageParams { memory: 4 << 20, ..ImageParams::default() }).served, 1);
    std::fs::write(&conf, "secure=yes\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for("configuration not reloaded");
    assert!(server.log().contains("conf:1: secure: `yes` is not"));
}

#[test]
fn the_status_file_is_whole_json() {
    let setup = Setup::new(&["--secure", "0", "--status_interval", "1"]);
    let file = setup.scratch.path().join("status.json");
    let mut setup = setup;
    setup.args.extend(["--status_file".to_owned(), file.to_str().unwrap().to_owned()]);
    let server = setup.start();
    assert_eq!(server.crash(2, 1, &ImageParams { memory: 4 << 20, ..ImageParams::default() }).served, 1);
    let read = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file).ok()?).ok();
    eventually("a complete dump in the status", || read().is_some_and(|s| s["dumps_complete"] == 1));
    let status = read().unwrap();
    assert!(status["pages_received"].as_u64() > Some(900) && status["pid"] == server.child.id());
}

#[test]
fn sigint_ends_it_too() {
    let mut server = Server::with(&[]);
    assert_eq!(server.stop(Signal::SIGINT).code(), Some(0));
}
