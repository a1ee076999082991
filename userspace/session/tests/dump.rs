// SPDX-License-Identifier: GPL-2.0-or-later
//! Whole dumps: the session against the client's own engine.

mod pair;

use std::time::Duration;

use netdump_core::engine::End;
use netdump_core::wire::Cookie;
use netdump_session::{EndWith, Event, Failure, Grant, Phase};
use pair::{Link, Pair, World};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_complete_dump() {
    let mut pair = Pair::new(World::new(2000), [Link::clean(); 2], 1, |_| {});
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    assert!(outcome.obeyed && outcome.show_state);
    assert_eq!(pair.end, Some(End::Reboot));
    pair.assert_true();
    assert_eq!(outcome.pages, pair.world.readable().count() as u64);
    assert_eq!(pair.store.kernel_log, pair.world.log);
    assert_eq!(pair.store.netlog, pair.world.listing.concat());
    assert_eq!(
        pair.store.phases,
        [
            Phase::Waiting,
            Phase::Describe,
            Phase::Notes,
            Phase::Log,
            Phase::Storage,
            Phase::Memory,
            Phase::ShowState,
            Phase::Volatile,
            Phase::End,
            Phase::Finished
        ]
    );
    let info = pair.store.events.iter().find_map(|event| match event {
        Event::Described(info) => Some(info),
        _ => None,
    });
    let info = info.unwrap();
    assert_eq!(info.cpus.len(), 2);
    assert_eq!(info.cpus[1].regs.as_deref(), Some(&[2; 216][..]));
    assert_eq!(info.regs, [7; 216]);
    assert_eq!(info.identity["hostname"], "box [31m");
    assert_eq!(info.panic.as_deref(), Some("sysrq triggered crash"));
    assert_eq!(info.memory_bytes(), 4096 * (pair.world.readable().count() as u64 + 1));
    let counters = pair.session.counters();
    assert_eq!((counters.malformed, counters.unknown_nr, counters.conflicts), (0, 0, 0));
    assert_eq!(counters.lost_by_order + counters.lost_by_time, 0);
}

#[test]
fn complete_and_true_through_bad_links() {
    for (seed, loss) in [(1, 0.01), (2, 0.1), (3, 0.1), (4, 0.3)] {
        let mut pair = Pair::new(World::new(3000), [Link::lossy(loss); 2], seed, |_| {});
        let outcome = pair.run(10 * MINUTE);
        assert_eq!(outcome.failure, None, "loss {loss}");
        pair.assert_true();
        assert_eq!(pair.store.kernel_log, pair.world.log);
        assert!(pair.lost > 0);
        println!(
            "loss {loss}: {:?} for {} pages, {:?}",
            outcome.memory_duration,
            outcome.pages,
            pair.session.counters()
        );
    }
}

#[test]
fn a_client_that_knows_another_cookie_gives_nothing() {
    let mut pair = Pair::new(World::new(500), [Link::clean(); 2], 1, |params| params.cookie = Cookie::new(1));
    // It goes on with its START_NETDUMP, so the session goes on trying.
    pair.run_until(2 * MINUTE, |pair| pair.now >= pair.epoch + MINUTE);
    assert_eq!(pair.session.phase(), Phase::Probe);
    assert_eq!(pair.session.counters().unknown_nr, 0);
    assert!(pair.store.pages.is_empty() && pair.store.kernel_log.is_empty() && pair.store.netlog.is_empty());
    assert!(pair.engine.counters().bad_cookie > 10);
}

#[test]
fn heavy_reordering_costs_little() {
    let link = Link { reorder: 0.3, ..Link::clean() };
    let mut pair = Pair::new(World::new(3000), [link; 2], 5, |_| {});
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    let counters = pair.session.counters();
    println!("{:?} {counters:?}", outcome.memory_duration);
    // Three in ten are late by up to thirty answers; taking every one of them for lost would double the requests.
    assert!(counters.requests < outcome.pages * 12 / 10, "{counters:?}");
}

/// A guest whose host is busy: nothing is lost, and hardly anything may be sent twice.
#[test]
fn a_client_that_stands_still_now_and_then_is_not_asked_twice() {
    let mut pair = Pair::new(World::new(10_000), [Link::clean(); 2], 9, |_| {});
    pair.stall = Some((Duration::from_millis(100), Duration::from_millis(60)));
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    let counters = pair.session.counters();
    println!("{:?} {counters:?}", outcome.memory_duration);
    assert!(counters.duplicate_chunks < 200, "{counters:?}");
    // 10,000 pages at 4 x 15 us are 0.6 s of work, which takes 1.5 s at two fifths of the time.
    assert!(outcome.memory_duration < Duration::from_secs(2), "{:?}", outcome.memory_duration);
}

#[test]
fn a_client_without_the_extension() {
    let mut pair = Pair::new(World::new(1000), [Link::lossy(0.05); 2], 6, |_| {});
    // What an old client says to a command that it does not know.
    pair.meddle = Some(Box::new(|mut datagram| {
        if datagram[5..9] == [0x4e, 0x44, 0, 1] {
            datagram[5..13].copy_from_slice(&[0, 0, 0, 1, 0x4e, 0x44, 0, 1]);
            datagram.truncate(13);
        }
        vec![datagram]
    }));
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    let hole = pair.world.nr_pages - outcome.pages;
    assert_eq!(pair.store.absent, hole);
}

#[test]
fn exit_instead_of_reboot_and_no_listing() {
    let mut pair = Pair::new(World::new(200), [Link::lossy(0.1); 2], 7, |params| {
        params.end_with = EndWith::Exit;
        params.show_state = false;
    });
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    assert!(outcome.obeyed && !outcome.show_state);
    assert_eq!(pair.end, Some(End::Exit));
    assert!(!pair.store.phases.contains(&Phase::ShowState));
}

#[test]
fn log_only() {
    let mut pair = Pair::new(World::new(200), [Link::lossy(0.1); 2], 8, |_| {});
    pair.grant = Some(Grant::LogOnly);
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, Some(Failure::LogOnly));
    assert_eq!(pair.store.kernel_log, pair.world.log);
    assert!(pair.store.pages.is_empty());
    assert!(outcome.show_state);
    assert_eq!(pair.end, Some(End::Reboot));
}

#[test]
fn the_smallest_window_loses_no_page() {
    for window in [0, 1, 2] {
        let mut pair = Pair::new(World::new(500), [Link::lossy(0.05); 2], 9, |params| params.max_window = window);
        let outcome = pair.run(MINUTE);
        assert_eq!(outcome.failure, None, "window {window}");
        pair.assert_true();
    }
}

#[test]
fn a_client_in_the_queue_is_told_to_go_when_there_is_no_place_for_it() {
    let mut pair = Pair::new(World::new(200), [Link::clean(); 2], 10, |_| {});
    pair.grant = None;
    pair.run_until(MINUTE, |pair| pair.session.phase() == Phase::Waiting);
    let now = pair.now;
    pair.session.cancel(now);
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, Some(Failure::Cancelled));
    assert_eq!(pair.end, Some(End::Reboot));
}

/// The directory cannot be made, which the owner learns before it knows anything about the client.
#[test]
fn storage_that_fails_early_leaves_log_listing_and_reboot() {
    for early in [Phase::Describe, Phase::Notes, Phase::Log] {
        let mut pair = Pair::new(World::new(200), [Link::clean(); 2], 11, |_| {});
        pair.storage = false;
        pair.run_until(MINUTE, |pair| pair.session.phase() == early);
        let now = pair.now;
        pair.session.storage_failed(now);
        let outcome = pair.run(MINUTE);
        assert_eq!(outcome.failure, Some(Failure::Storage), "{early:?}");
        assert_eq!(pair.store.kernel_log, pair.world.log);
        assert!(outcome.show_state && pair.store.pages.is_empty());
        assert_eq!(pair.end, Some(End::Reboot));
    }
}
