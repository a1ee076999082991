// SPDX-License-Identifier: GPL-2.0-or-later
//! `format=kdump`: vmcores that are compressed when their dumps are over.

#[path = "../../vmcore/tests/kdump_reader/mod.rs"]
mod kdump_reader;
mod rig;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use kdump_reader::Kdump;
use netdump_core::engine::client::Dialects;
use netdump_core::wire::v6::Level;
use netdump_core::wire::Pfn;
use netdump_sim::crowd::{self, CrowdParams, CrowdReport};
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::source::leaves_out;
use nix::sys::signal::Signal;
use rig::{eventually, host, meta, Core, Server, Setup};

const KDUMP: [&str; 4] = ["--secure", "0", "--format", "kdump"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    KDUMP.iter().chain(more).copied().collect()
}

fn image(memory_mib: u64) -> ImageParams {
    ImageParams { memory: memory_mib << 20, ..ImageParams::default() }
}

fn crash(server: &Server, params: &ImageParams, level: u8) -> CrowdReport {
    let mut crowd = CrowdParams { dialects: Dialects::Either, ..server.crowd(2, 1, params) };
    crowd.level = Level::new(level).unwrap();
    crowd::run(&crowd).unwrap()
}

/// Waits until there is nothing more to be made of a vmcore; `meta.json` then.
fn settled(dir: &Path, state: &str) -> serde_json::Value {
    eventually("the end of the conversion", || meta(dir)["dump"]["conversion"]["state"] == state);
    let meta = meta(dir);
    assert!(!dir.join("vmcore-kdump").exists(), "{meta}");
    meta
}

/// The file has these pages of the machine, and no others, and `meta.json` counts them.
fn assert_true(kdump: &Kdump, machine: &Image, wanted: &BTreeSet<u64>, meta: &serde_json::Value) {
    assert_eq!(kdump.pages().collect::<BTreeSet<_>>(), *wanted);
    for pfn in wanted {
        assert_eq!(kdump.page(*pfn).unwrap(), machine.page(Pfn(*pfn)), "page {pfn:#x}");
    }
    let memory: BTreeSet<_> = machine.ram_pages().map(|pfn| pfn.0).collect();
    assert!((0..kdump.frames()).all(|pfn| kdump.is_memory(pfn) == memory.contains(&pfn)));
    let count = |kind: &str| meta["dump"]["pages"][kind].as_u64().unwrap();
    assert_eq!(count("written") + count("zero"), wanted.len() as u64);
    let zero = wanted.iter().filter(|pfn| machine.page(Pfn(**pfn)).iter().all(|byte| *byte == 0)).count();
    assert_eq!(count("zero"), zero as u64);
}

#[test]
fn a_dump_of_either_protocol_is_compressed_and_true() {
    for (dialects, compress) in [(Dialects::Six, "zstd"), (Dialects::Classic, "zlib"), (Dialects::Six, "none")] {
        let server = Server::with(&with(&["--kdump_compress", compress]));
        let params = ImageParams { poisoned_every: 100, repeat: 64, ..image(16) };
        let report = crowd::run(&CrowdParams { dialects, ..server.crowd(2, 1, &params) }).unwrap();
        assert_eq!(report.served, 1);
        let dir = server.dir(host(server.block, 2));
        let meta = settled(&dir, "done");
        assert_eq!((&meta["complete"], &meta["dump"]["format"]), (&true.into(), &"kdump".into()));
        assert_eq!((&meta["dump"]["conversion"]["codec"], &meta["dump"]["failure"]), (&compress.into(), &().into()));
        for name in ["frames", "resume", "vmcore-incomplete"] {
            assert!(!dir.join(name).exists(), "{name}");
        }
        let file = std::fs::metadata(dir.join("vmcore")).unwrap();
        assert_eq!((file.mode() & 0o777, meta["dump"]["vmcore_bytes"].as_u64()), (0o600, Some(file.len())));
        let machine = Image::new(params);
        let wanted = machine.ram_pages().filter(|pfn| machine.readable(*pfn)).map(|pfn| pfn.0).collect();
        let kdump = Kdump::open(&dir.join("vmcore"));
        assert_eq!(kdump.status() & 8, 0, "it is whole");
        assert_true(&kdump, &machine, &wanted, &meta);
    }
}

#[test]
fn what_was_left_out_is_not_in_it_and_pages_of_zeroes_are() {
    let server = Server::with(&with(&["--level", "9"]));
    let params = ImageParams { repeat: 64, ..image(16) };
    crash(&server, &params, 17);
    let dir = server.dir(host(server.block, 2));
    let meta = settled(&dir, "done");
    let machine = Image::new(params);
    let level = Level::new(25).unwrap();
    let kept = |pfn: &_| machine.use_of(*pfn).is_none_or(|reason| !leaves_out(level, reason));
    let wanted: BTreeSet<_> = machine.ram_pages().filter(kept).map(|pfn| pfn.0).collect();
    let kdump = Kdump::open(&dir.join("vmcore"));
    assert!(meta["dump"]["pages"]["zero"].as_u64().unwrap() > 0 && wanted.len() < machine.ram_pages().count());
    assert_true(&kdump, &machine, &wanted, &meta);
    // Processes as the server said, free memory as the client did.
    assert_eq!(kdump.sub(8), 24);
}

#[test]
fn a_vmcore_that_cannot_be_made_anew_stays_and_scripts_run_after_it() {
    let setup = Setup::new(&with(&["--dumps_per_hour", "0"]));
    setup.hook("netdump-crash", r#"mkdir "$2/vmcore-kdump""#);
    setup.hook("netdump-reboot", r#"cp "$2/meta.json" "$2/seen""#);
    let server = setup.start();
    let params = image(8);
    crash(&server, &params, 0);
    let dir = server.dir(host(server.block, 2));
    server.wait_for("conversion_failed");
    eventually("the failure in meta.json", || meta(&dir)["dump"]["conversion"]["state"] == "failed");
    let meta = meta(&dir);
    assert_eq!((&meta["complete"], &meta["dump"]["format"]), (&true.into(), &"elf".into()));
    assert!(!meta["dump"]["conversion"]["failure"].as_str().unwrap().is_empty());
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(params));
    eventually("netdump-reboot", || dir.join("seen").exists());
}

#[test]
fn a_full_disk_leaves_the_vmcore_as_it_was() {
    // The conversion wants room for all pages once more, and says so before it takes any.
    let mut setup = Setup::new(&with(&[]));
    if !rig::is_root() {
        return;
    }
    std::fs::create_dir_all(setup.root()).unwrap();
    setup.wrapper = ["unshare", "--mount", "sh", "-ec", r#"mount -t tmpfs -o size=30M,mode=700 none "$0"; exec "$@""#]
        .map(String::from)
        .to_vec();
    setup.wrapper.push(setup.root().to_str().unwrap().to_owned());
    let server = setup.start();
    let params = image(16);
    assert_eq!(crash(&server, &params, 0).served, 1);
    server.wait_for("stays an ELF file: no space");
    let root = format!("/proc/{}/root{}", server.child.id(), setup.root().display());
    let dir = rig::dirs(Path::new(&root), host(server.block, 2)).remove(0);
    assert_eq!(settled(&dir, "failed")["complete"], true);
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(params));
}

/// Starts a dump and ends the server when a part of it is stored.
fn ended_in_mid_dump(setup: &Setup, params: &ImageParams, signal: Signal) -> std::thread::JoinHandle<CrowdReport> {
    let mut server = setup.start();
    let crowd = CrowdParams { dialects: Dialects::Six, ..server.crowd(2, 1, params) };
    let client = std::thread::spawn(move || crowd::run(&crowd).unwrap());
    let enough = params.memory / 512 / 5;
    eventually("some of the dump on the disk", || {
        let dirs = server.dirs(host(setup.block, 2));
        let stored = dirs.first().and_then(|dir| std::fs::metadata(dir.join("vmcore-incomplete")).ok());
        stored.is_some_and(|file| file.blocks() >= enough)
    });
    server.stop(signal);
    client
}

#[test]
fn which_pages_there_are_is_known_to_the_process_that_goes_on() {
    let setup = Setup::new(&with(&[]));
    let params = ImageParams { poisoned_every: 100, repeat: 64, ..image(128) };
    let client = ended_in_mid_dump(&setup, &params, Signal::SIGKILL);
    let server = setup.start();
    assert_eq!(client.join().unwrap().served, 1);
    server.wait_for("a dump that was begun before goes on");
    let dir = server.dir(host(server.block, 2));
    let meta = settled(&dir, "done");
    let machine = Image::new(params);
    let wanted = machine.ram_pages().filter(|pfn| machine.readable(*pfn)).map(|pfn| pfn.0).collect();
    assert_true(&Kdump::open(&dir.join("vmcore")), &machine, &wanted, &meta);
}

/// A client that dies: its dump is compressed as far as it came, and says that it is not whole.
#[test]
fn a_dump_that_was_cut_is_compressed_and_says_so() {
    for dialects in [Dialects::Classic, Dialects::Six] {
        let server = Server::with(&with(&["--client_timeout", "2"]));
        let params = ImageParams { repeat: 64, ..image(128) };
        // The machine's own clock ends it in the middle.
        let mut crowd = CrowdParams { dialects, ..server.crowd(2, 1, &params) };
        crowd.total_timeout = 300_000_000;
        let report = crowd::run(&crowd).unwrap();
        assert_eq!(report.served, 0);
        server.wait_for("dump not complete");
        let dir = server.dir(host(server.block, 2));
        let meta = settled(&dir, "done");
        assert_eq!((&meta["complete"], &meta["dump"]["format"]), (&false.into(), &"kdump".into()));
        for name in ["frames", "resume", "vmcore"] {
            assert!(!dir.join(name).exists(), "{name}");
        }
        let kdump = Kdump::open(&dir.join("vmcore-incomplete"));
        assert_eq!(kdump.status() & 8, 8);
        let machine = Image::new(params);
        let there: BTreeSet<_> = kdump.pages().collect();
        assert!(!there.is_empty() && there.len() < machine.ram_pages().count());
        assert_true(&kdump, &machine, &there, &meta);
    }
}

/// What waits when the server ends is left as it is; what a killed one left is put in order by the next.
#[test]
fn a_server_that_ends_leaves_what_is_good() {
    let setup = Setup::new(&with(&["--client_timeout", "2"]));
    let params = image(64);
    let mut server = setup.start();
    let mut crowd = CrowdParams { dialects: Dialects::Six, ..server.crowd(2, 1, &params) };
    crowd.total_timeout = 200_000_000;
    crowd::run(&crowd).unwrap();
    server.wait_for("dump not complete");
    let dir = server.dir(host(setup.block, 2));
    assert!(server.stop(Signal::SIGTERM).success());
    let end = meta(&dir);
    assert_eq!((&end["dump"]["conversion"]["state"], &end["dump"]["format"]), (&"abandoned".into(), &"elf".into()));
    for name in ["frames", "resume", "vmcore-incomplete"] {
        assert!(dir.join(name).exists(), "somebody may go on with it: {name}");
    }
    // As if it had been killed in the middle, and the machine had been started anew.
    let left = dir.join("vmcore-kdump");
    std::fs::write(&left, b"half a file").unwrap();
    std::fs::write(dir.join("resume"), b"{}\n").unwrap();
    let text = std::fs::read_to_string(dir.join("meta.json")).unwrap();
    std::fs::write(dir.join("meta.json"), text.replace("\"abandoned\"", "\"running\"")).unwrap();
    drop(setup.start());
    let meta = settled(&dir, "abandoned");
    assert_eq!(meta["dump"]["conversion"]["failure"], "the server was killed");
    assert!(!dir.join("frames").exists());
    let readelf = Command::new("readelf").arg("-h").arg(dir.join("vmcore-incomplete")).output();
    assert!(readelf.is_ok_and(|out| out.status.success()));
}
