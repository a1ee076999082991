// SPDX-License-Identifier: GPL-2.0-or-later
//! Whole dumps with the real server: the file is true, the rest of the directory is there, limits hold.

mod rig;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use netdump_core::engine::client::Dialects;
use netdump_core::wire::Cookie;
use netdump_sim::crowd::{self, CrowdParams};
use netdump_sim::image::{Image, ImageParams};
use nix::sys::signal::Signal;
use rig::{dirs, ended_meta, eventually, host, is_root, meta, nanos, read_log, Core, Server, Setup};

fn image(memory_mib: u64) -> ImageParams {
    ImageParams { memory: memory_mib << 20, ..ImageParams::default() }
}

#[test]
fn a_dump_is_true_and_its_directory_is_whole() {
    let setup = Setup::new(&["--secure", "0"]);
    let out = setup.scratch.path().join("hooks");
    for hook in ["netdump-start", "netdump-crash", "netdump-nospace", "netdump-reboot"] {
        setup.hook(hook, &format!("echo {hook} $# $1 $(ls $2/vmcore) >> {}", out.display()));
    }
    let server = setup.start();
    let params = ImageParams { poisoned_every: 100, ..image(16) };
    let report = server.crash(2, 1, &params);
    assert_eq!((report.served, report.machines[0].end.as_str()), (1, "Reboot"));
    server.wait_for("dump complete");

    let client = host(setup.block, 2);
    let dir = server.dir(client);
    let machine = Image::new(params);
    Core::open(&dir.join("vmcore")).assert_true(&machine);
    assert!(!dir.join("vmcore-incomplete").exists());
    for name in ["log", "vmcore", "meta.json"] {
        assert_eq!(std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let log = read_log(&dir);
    assert!(log.contains(std::str::from_utf8(machine.log()).unwrap()));
    assert!(log.contains(std::str::from_utf8(&machine.listing()).unwrap()));

    let meta = ended_meta(&dir);
    assert_eq!(meta["complete"], true);
    assert_eq!(meta["authenticated"], false);
    assert_eq!(meta["panic"], "sysrq triggered crash");
    assert_eq!(meta["identity"]["hostname"], "sim");
    assert_eq!(meta["directory"], dir.file_name().unwrap().to_str().unwrap());
    assert_eq!(meta["log_bytes"], log.len());
    assert!(!meta["volatile"].as_array().unwrap().is_empty(), "{meta}\n{}", server.log());
    let dump = &meta["dump"];
    let count = |kind: &str| dump["pages"][kind].as_u64().unwrap();
    let ram = machine.ram_pages().count() as u64;
    let readable = machine.ram_pages().filter(|pfn| machine.readable(*pfn)).count() as u64;
    assert_eq!(count("written") + count("zero"), readable);
    assert_eq!(count("reserved"), ram - readable);
    assert!(count("zero") > 0 && dump["cpus"] == 2 && dump["ended"].is_string() && dump["show_state"] == true);

    eventually("both hooks", || std::fs::read_to_string(&out).is_ok_and(|text| text.lines().count() >= 2));
    let vmcore = dir.join("vmcore");
    let expected = format!("netdump-crash 2 {client}\nnetdump-reboot 2 {client} {}\n", vmcore.display());
    assert_eq!(std::fs::read_to_string(&out).unwrap(), expected);
}

#[test]
fn the_layout_of_2005_is_true_too() {
    let server = Server::with(&["--secure", "0", "--format", "netdump"]);
    let report = server.crash(2, 1, &image(8));
    assert_eq!(report.served, 1);
    server.wait_for("dump complete");
    let dir = server.dir(host(server.block, 2));
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(image(8)));
    let dump = &meta(&dir)["dump"];
    assert_eq!(dump["format"], "netdump");
    // What crash has to be told to read it.
    assert_eq!((&dump["kernel_offset"], &dump["phys_base"]), (&"0x24e00000".into(), &"0xfffffffffff00000".into()));
}

#[test]
fn a_client_without_the_extension_is_dumped() {
    let server = Server::with(&["--secure", "0"]);
    let params = ImageParams { extension: false, ..image(8) };
    assert_eq!(server.crash(2, 1, &params).served, 1);
    server.wait_for("dump complete");
    let dir = server.dir(host(server.block, 2));
    Core::open(&dir.join("vmcore")).assert_true(&Image::new(params));
}

#[test]
fn more_clients_than_slots_wait_their_turn() {
    let server = Server::with(&["--secure", "0", "--max_concurrent_dumps", "2"]);
    let report = server.crash(2, 6, &image(8));
    assert_eq!(report.served, 6, "{report:?}");
    server.wait_for_count("dump complete", 6);
    let log = server.log();
    assert_eq!(log.matches("waiting for a slot").count(), 4, "{log}");
    let mut running = 0i32;
    for line in log.lines() {
        running += i32::from(line.contains("dump begins")) - i32::from(line.contains("dump complete"));
        assert!(running <= 2, "{log}");
    }
    for n in 0..6u8 {
        let machine = Image::new(ImageParams { seed: 1 + u64::from(n), ..image(8) });
        let dir = server.dir(host(server.block, 2 + n));
        Core::open(&dir.join("vmcore")).assert_true(&machine);
    }
}

#[test]
fn beyond_the_hourly_limit_only_the_log_is_taken() {
    let server = Server::with(&["--secure", "0", "--dumps_per_hour", "1"]);
    for _ in 0..2 {
        assert_eq!(server.crash(2, 1, &image(4)).served, 1);
    }
    server.wait_for("dump not complete");
    let dirs = server.dirs(host(server.block, 2));
    assert_eq!(dirs.len(), 2);
    let metas: Vec<_> = dirs.iter().map(|dir| ended_meta(dir)).collect();
    let second = usize::from(metas[0]["complete"] == true);
    assert_eq!(metas[1 - second]["complete"], true);
    assert_eq!(metas[second]["complete"], false);
    assert!(dirs[1 - second].join("vmcore").exists());
    assert!(!dirs[second].join("vmcore").exists() && !dirs[second].join("vmcore-incomplete").exists());
    assert!(read_log(&dirs[second]).contains(std::str::from_utf8(Image::new(image(4)).log()).unwrap()));
    assert!(server.log().contains("dumps_per_hour=1 reached"));
}

#[test]
fn secure_needs_a_cookie_file() {
    let setup = Setup::new(&[]);
    let (stranger, known, wrong) = (host(setup.block, 2), host(setup.block, 3), host(setup.block, 4));
    setup.magic(known, "aabbccdd11223344");
    setup.magic(wrong, "00000000deadbeef");
    let server = setup.start();
    let cookie = Cookie::new(0xaabb_ccdd_1122_3344);

    let mut params = server.crowd(2, 1, &image(4));
    params.handshake_timeout = nanos(Duration::from_secs(3));
    let report = crowd::run(&params).unwrap();
    assert_eq!(report.machines[0].end, "HandshakeTimeout");
    assert_eq!((report.machines[0].requests, report.machines[0].bad_cookie), (0, 0));
    assert!(dirs(&server.root, stranger).is_empty());
    assert!(server.log().contains("not_registered"));

    // Our client takes nothing with a wrong cookie, not even the acknowledgement.
    let mut params = server.crowd(4, 1, &image(4));
    params.cookie = cookie;
    params.handshake_timeout = nanos(Duration::from_secs(3));
    let report = crowd::run(&params).unwrap();
    assert_eq!(report.machines[0].end, "HandshakeTimeout");
    assert!(report.machines[0].bad_cookie > 0 && report.machines[0].pages == 0);
    assert!(dirs(&server.root, wrong).is_empty());

    let mut params = server.crowd(3, 1, &image(4));
    params.cookie = cookie;
    assert_eq!(crowd::run(&params).unwrap().served, 1);
    server.wait_for("dump complete");
    let dir = server.dir(known);
    assert_eq!(meta(&dir)["registered"], true);
}

/// `secure=0` lets strangers in, and nobody who should know better.
#[test]
fn nobody_is_dumped_without_a_key_in_place_of_a_client_that_has_one() {
    for secure in ["--secure=0", "--secure=1"] {
        let setup = Setup::new(&[secure]);
        let (stranger, web, known) = (host(setup.block, 2), host(setup.block, 3), host(setup.block, 4));
        setup.register("web", web, 1);
        // What was laid down for that address before it enrolled opens nothing any more.
        setup.magic(web, "aabbccdd11223344");
        setup.magic(known, "aabbccdd11223344");
        let server = setup.start();
        for (number, served) in [(2, usize::from(secure == "--secure=0")), (3, 0), (4, 1)] {
            let mut params = server.crowd(number, 1, &image(4));
            if number != 2 {
                params.cookie = Cookie::new(0xaabb_ccdd_1122_3344);
            }
            params.handshake_timeout = nanos(Duration::from_secs(3));
            assert_eq!(crowd::run(&params).unwrap().served, served, "{secure} {number}");
        }
        server.wait_for("a client with a key is enrolled at its address");
        assert!(server.log().contains("downgrade"), "{}", server.log());
        assert_eq!(dirs(&server.root, stranger).len(), usize::from(secure == "--secure=0"));
        assert!(dirs(&server.root, web).is_empty());
        assert_eq!(ended_meta(&server.dir(known))["registered"], true);
    }
}

#[test]
fn a_damaged_key_is_told_and_opens_nothing() {
    let setup = Setup::new(&["--secure=0"]);
    let (web, box_) = (host(setup.block, 2), host(setup.block, 3));
    setup.register("web", web, 1);
    setup.register("box", box_, 2);
    std::fs::write(setup.keys().join("clients/web.json"), "{").unwrap();
    std::fs::write(setup.keys().join("addresses").join(box_.to_string()), "/").unwrap();
    let server = setup.start();
    for (number, reason) in [(2, "downgrade"), (3, "bad_key")] {
        for dialects in [Dialects::Classic, Dialects::Six] {
            let mut params = CrowdParams { dialects, ..server.crowd(number, 1, &image(4)) };
            params.handshake_timeout = nanos(Duration::from_secs(2));
            assert_eq!(crowd::run(&params).unwrap().served, 0, "{reason} {dialects:?}");
            server.wait_for(reason);
        }
    }
    assert!(dirs(&server.root, web).is_empty() && dirs(&server.root, box_).is_empty());
}

/// The crash directory on a small filesystem of its own, in a mount namespace.
fn small_filesystem(setup: &mut Setup, mib: u32) -> bool {
    if !is_root() {
        return false;
    }
    let root = setup.root();
    let script =
        format!("mount -t tmpfs -o size={mib}m tmpfs {0} && cp -a {0}.orig/. {0} && exec \"$@\"", root.display());
    let orig = root.with_extension("orig");
    std::fs::rename(&root, &orig).unwrap();
    std::fs::create_dir(&root).unwrap();
    setup.wrapper = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    true
}

#[test]
fn without_room_there_is_a_log_and_one_call_for_help() {
    let mut setup = Setup::new(&["--secure", "0"]);
    let calls = setup.scratch.path().join("calls");
    setup.hook("netdump-nospace", &format!("echo call >> {}", calls.display()));
    // The directory cannot be seen from here, so the last hook takes a copy out.
    let copy = setup.scratch.path().join("copy");
    setup.hook("netdump-reboot", &format!("cp -r $2 {0}.tmp && mv {0}.tmp {0}", copy.display()));
    if !small_filesystem(&mut setup, 8) {
        return;
    }
    let server = setup.start();
    let report = server.crash(2, 1, &image(16));
    assert_eq!(report.served, 1, "the client is rebooted all the same");
    server.wait_for("dump not complete");
    let log = server.log();
    assert!(log.contains("No space for dump image, even after calling netdump-nospace"), "{log}");
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "call\n");
    eventually("the copy", || copy.exists());
    assert!(!copy.join("vmcore").exists() && !copy.join("vmcore-incomplete").exists());
    let text = read_log(&copy);
    assert!(text.contains(std::str::from_utf8(Image::new(image(16)).log()).unwrap()));
    assert!(text.contains(std::str::from_utf8(&Image::new(image(16)).listing()).unwrap()), "{log}\n{text}");
    let meta = meta(&copy);
    assert!(meta["complete"] == false && meta["dump"]["failure"].as_str().unwrap().contains("no space"));
}

#[test]
fn the_hook_may_make_room_for_the_directory() {
    let mut setup = Setup::new(&["--secure", "0"]);
    let copy = setup.scratch.path().join("copy");
    setup.hook("netdump-nospace", "rm $(dirname $2)/ballast/*");
    setup.hook("netdump-reboot", &format!("cp -r $2 {0}.tmp && mv {0}.tmp {0}", copy.display()));
    if !small_filesystem(&mut setup, 32) {
        return;
    }
    // Every inode but those of the scripts is taken.
    let fill = "mkdir ballast; n=0; while true 2>/dev/null >ballast/$n; do n=$((n + 1)); done";
    let before = format!("(cd {}; {fill}); exec ", setup.root().display());
    for part in &mut setup.wrapper {
        *part = part.replace("size=32m", "size=32m,nr_inodes=40").replace("exec ", &before);
    }
    let server = setup.start();
    assert_eq!(server.crash(2, 1, &image(4)).served, 1);
    server.wait_for("dump complete");
    eventually("the copy", || copy.exists());
    let text = read_log(&copy);
    assert!(text.contains(std::str::from_utf8(Image::new(image(4)).log()).unwrap()), "{}", server.log());
}

#[test]
fn the_hook_may_make_room() {
    let mut setup = Setup::new(&["--secure", "0"]);
    std::fs::create_dir_all(setup.root()).unwrap();
    std::fs::write(setup.root().join("ballast"), vec![1; 20 << 20]).unwrap();
    setup.hook("netdump-nospace", "rm $2/../ballast");
    if !small_filesystem(&mut setup, 32) {
        return;
    }
    let server = setup.start();
    assert_eq!(server.crash(2, 1, &image(16)).served, 1);
    server.wait_for("dump complete");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_what_is_true() {
    let mut setup = Setup::new(&["--secure", "0", "--space_check", "0"]);
    let copy = setup.scratch.path().join("copy");
    setup.hook("netdump-reboot", &format!("cp -r $2 {0}.tmp && mv {0}.tmp {0}", copy.display()));
    if !small_filesystem(&mut setup, 8) {
        return;
    }
    let server = setup.start();
    assert_eq!(server.crash(2, 1, &image(16)).served, 1);
    server.wait_for("dump not complete");
    eventually("the copy", || copy.exists());
    assert!(!copy.join("vmcore").exists());
    let good = Core::open(&copy.join("vmcore-incomplete")).count_true(&Image::new(image(16)));
    assert!(good > 500, "{good}");
}

#[test]
fn sigterm_in_the_middle_leaves_what_is_true() {
    let mut server = Server::with(&["--secure", "0", "--max_outstanding_pages", "8"]);
    let mut params = server.crowd(2, 1, &image(256));
    params.idle_timeout = nanos(Duration::from_secs(2));
    let client = std::thread::spawn(move || crowd::run(&params).unwrap());
    server.wait_for("received 10% of pages");
    let status = server.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    let report = client.join().unwrap();
    assert_eq!(report.machines[0].end, "IdleTimeout");
    let dir = server.dir(host(server.block, 2));
    assert!(!dir.join("vmcore").exists());
    let meta = meta(&dir);
    assert_eq!(meta["complete"], false);
    assert_eq!(meta["dump"]["failure"], "the server was stopped");
    assert!(meta["dump"]["ended"].is_string(), "{meta}");
    let good = Core::open(&dir.join("vmcore-incomplete")).count_true(&Image::new(image(256)));
    let written = meta["dump"]["pages"]["written"].as_u64().unwrap();
    assert!(good as u64 == written && good > 1000, "{good} {written}");
}

#[test]
fn a_server_that_comes_late_finds_the_client_in_its_handshake() {
    let setup = Setup::new(&["--secure", "0"]);
    let mut first = setup.start();
    let params = first.crowd(2, 1, &image(4));
    first.stop(Signal::SIGKILL);
    let client = std::thread::spawn(move || crowd::run(&params).unwrap());
    std::thread::sleep(Duration::from_millis(1500));
    let server = setup.start();
    assert_eq!(client.join().unwrap().served, 1);
    server.wait_for("dump complete");
    Core::open(&server.dir(host(setup.block, 2)).join("vmcore")).assert_true(&Image::new(image(4)));
}

#[test]
fn a_client_that_goes_silent_is_given_up() {
    let server = Server::with(&["--secure", "0", "--client_timeout", "2", "--max_outstanding_pages", "8"]);
    let mut params = server.crowd(2, 1, &image(512));
    params.total_timeout = nanos(Duration::from_millis(500));
    let report = crowd::run(&params).unwrap();
    assert_eq!(report.machines[0].end, "TotalTimeout");
    server.wait_for("dump not complete");
    let dir = server.dir(host(server.block, 2));
    let meta = ended_meta(&dir);
    assert_eq!(meta["complete"], false);
    assert!(meta["dump"]["failure"].as_str().unwrap().contains("silent"), "{meta}");
    Core::open(&dir.join("vmcore-incomplete")).count_true(&Image::new(image(512)));
    // Its slot is free again, and the next crash of the same machine is another dump.
    assert_eq!(server.crash(2, 1, &image(4)).served, 1);
    assert_eq!(server.dirs(host(server.block, 2)).len(), 2);
}

#[test]
fn a_machine_that_crashes_anew_in_its_dump_is_dumped_anew() {
    let server = Server::with(&["--secure", "0", "--max_outstanding_pages", "8"]);
    let mut params = server.crowd(2, 1, &image(256));
    params.total_timeout = nanos(Duration::from_millis(500));
    assert_eq!(crowd::run(&params).unwrap().machines[0].end, "TotalTimeout");
    // Same address, same port, another crash: long before the first would have been given up.
    assert_eq!(server.crash(2, 1, &image(4)).served, 1);
    server.wait_for("dump complete");
    let dirs = server.dirs(host(server.block, 2));
    assert_eq!(dirs.len(), 2);
    let metas: Vec<_> = dirs.iter().map(|dir| ended_meta(dir)).collect();
    let first = usize::from(metas[0]["complete"] == true);
    assert_eq!(metas[first]["dump"]["failure"], "the client started another dump");
    Core::open(&dirs[first].join("vmcore-incomplete")).count_true(&Image::new(image(256)));
    Core::open(&dirs[1 - first].join("vmcore")).assert_true(&Image::new(image(4)));
}

#[test]
fn beyond_the_queue_only_the_log_is_taken() {
    let server = Server::with(&["--secure", "0", "--max_concurrent_dumps", "1", "--max_waiting_clients", "1"]);
    let report = server.crash(2, 4, &image(16));
    assert_eq!(report.served, 4);
    server.wait_for_count("dump complete", 2);
    server.wait_for_count("dump not complete", 2);
    assert!(server.log().contains("too many clients wait already"));
    let complete = (2..6).filter(|n| ended_meta(&server.dir(host(server.block, *n)))["complete"] == true);
    assert_eq!(complete.count(), 2);
}

/// The same machine crashed again from another port while its old session lingers, and somebody plays with the rest of
/// its ports: one runs, one waits for its end, the others are rebooted.
#[test]
fn one_address_takes_one_slot_and_one_place() {
    let server = Server::with(&["--secure", "0", "--client_timeout", "2", "--dumps_per_hour", "0"]);
    let client = host(server.block, 2);
    let mut stuck = server.crowd(2, 1, &image(256));
    stuck.port = 7001;
    let stuck =
        std::thread::spawn(move || crowd::run(&CrowdParams { total_timeout: nanos(Duration::from_secs(1)), ..stuck }));
    server.wait_for("phase=\"memory\"");
    let others: Vec<_> = [7002, 7003]
        .map(|port| {
            let params = CrowdParams { port, ..server.crowd(2, 1, &image(4)) };
            std::thread::spawn(move || crowd::run(&params).unwrap().served)
        })
        .into();
    assert_eq!(others.into_iter().map(|other| other.join().unwrap()).sum::<usize>(), 2, "{}", server.log());
    stuck.join().unwrap().unwrap();
    server.wait_for("dump not complete");
    server.wait_for("dump complete");
    let log = server.log();
    assert!(log.contains("waiting for a slot") && log.contains("address_busy"), "{log}");
    assert_eq!(server.dirs(client).len(), 2);
}

#[test]
fn beyond_what_an_address_may_leave_it_is_only_rebooted() {
    let server = Server::with(&["--secure", "0", "--dumps_per_hour", "1"]);
    assert_eq!(server.crash(2, 1, &image(1)).served, 1);
    let others: Vec<_> = (7000..7012)
        .map(|port| {
            let params = CrowdParams { port, ..server.crowd(2, 1, &image(1)) };
            std::thread::spawn(move || crowd::run(&params).unwrap().served)
        })
        .collect();
    let served: usize = others.into_iter().map(|other| other.join().unwrap()).sum();
    assert_eq!(served, 12, "{}", server.log());
    server.wait_for_count("no dump: cancelled", 2);
    assert_eq!(server.dirs(host(server.block, 2)).len(), 11);
}

#[test]
fn a_directory_that_cannot_be_made_costs_the_memory_only() {
    let setup = Setup::new(&["--secure", "0"]);
    let server = setup.start();
    // The open directory stays, and nothing can be made in it.
    std::fs::remove_dir_all(setup.root()).unwrap();
    let report = server.crash(2, 1, &image(16));
    assert_eq!((report.served, report.machines[0].pages), (1, 0), "{}", server.log());
    server.wait_for("dump not complete");
}

#[test]
fn zero_pages_are_written_when_asked_for() {
    let server = Server::with(&["--secure", "0", "--skip_zero", "0"]);
    assert_eq!(server.crash(2, 1, &image(8)).served, 1);
    server.wait_for("dump complete");
    let dir = server.dir(host(server.block, 2));
    let machine = Image::new(image(8));
    Core::open(&dir.join("vmcore")).assert_true(&machine);
    let meta = ended_meta(&dir);
    let ram = machine.ram_pages().count() as u64;
    assert_eq!((&meta["dump"]["pages"]["written"], &meta["dump"]["pages"]["zero"]), (&ram.into(), &0.into()));
    assert!(meta["dump"]["vmcore_disk_bytes"].as_u64().unwrap() >= ram * 4096);
}

#[test]
fn a_finished_vmcore_is_given_to_the_compressor() {
    let setup = Setup::new(&["--secure", "0", "--compress", "gzip -1"]);
    let out = setup.scratch.path().join("seen");
    setup.hook("netdump-reboot", &format!("ls $2 > {0}.tmp; mv {0}.tmp {0}", out.display()));
    let server = setup.start();
    assert_eq!(server.crash(2, 1, &image(4)).served, 1);
    eventually("the last script", || out.exists());
    let seen = std::fs::read_to_string(&out).unwrap();
    assert_eq!(seen, "log\nmeta.json\nvmcore.gz\n");
}
