// SPDX-License-Identifier: GPL-2.0-or-later
//! The client of the kernel module against the server's session, over networks from perfect to hopeless.

use netdump_core::engine::End;
use netdump_core::wire::classic::{Body, Command, Reply, Request, Version};
use netdump_core::wire::{Cookie, RequestId};
use netdump_session::{EndWith, Failure, Phase};
use netdump_sim::image::ImageParams;
use netdump_sim::link::LinkParams;
use netdump_sim::world::{World, WorldParams, COOKIE, SECOND};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Both directions of the default wire, with some things done to it.
fn over(change: impl Fn(&mut LinkParams)) -> WorldParams {
    let mut params = WorldParams::default();
    change(&mut params.up);
    change(&mut params.down);
    params
}

fn dumped(params: WorldParams) -> World {
    let mut world = World::new(params);
    world.run_to_the_end();
    world.assert_complete();
    world
}

#[test]
fn a_perfect_network() {
    let world = dumped(WorldParams::default());
    world.assert_described();
    assert_eq!(world.listing(), Some(world.image().listing()));
    let counters = world.engine().counters();
    assert_eq!(counters.pages, world.stored().pages.len() as u64, "nothing was sent twice");
    assert_eq!((counters.bad_cookie, counters.short, counters.queue_full, counters.no_room), (0, 0, 0, 0));
}

#[test]
fn loss_from_none_to_a_third() {
    for percent in [1u32, 5, 10, 20, 30] {
        let mut params = over(|link| link.loss = f64::from(percent) / 100.0);
        params.seed = percent.into();
        params.image.memory = 4 * MIB;
        let world = dumped(params);
        world.assert_described();
        assert!(world.up().stats().lost > 0 && world.down().stats().lost > 0);
    }
}

#[test]
fn duplicates_and_reordering() {
    let world = dumped(over(|link| {
        link.duplicate = 0.1;
        link.reorder = 0.1;
    }));
    world.assert_described();
    assert!(world.up().stats().duplicated > 1000 && world.up().stats().reordered > 1000);
}

#[test]
fn everything_at_once_and_poisoned_memory() {
    let mut params = over(|link| {
        link.loss = 0.05;
        link.duplicate = 0.02;
        link.reorder = 0.05;
        link.jitter = 3_000_000;
        link.delay = 5_000_000;
    });
    params.image.memory = 8 * MIB;
    params.image.poisoned_every = 50;
    let world = dumped(params);
    world.assert_described();
    assert!(world.engine().counters().unreadable > 0);
}

#[test]
fn a_narrow_wire_with_little_room() {
    // Ten megabits and a queue of forty frames: whoever sends too much loses it.
    let mut params = over(|link| {
        link.rate = Some(10_000_000);
        link.queue = 40_000;
    });
    params.image.memory = 4 * MIB;
    let world = dumped(params);
    let seconds = world.stored().outcome.as_ref().unwrap().memory_duration.as_secs_f64();
    let best = 4.0 * MIB as f64 * 8.0 / 10e6;
    assert!(seconds < 2.0 * best, "{seconds:.1} s where {best:.1} s would do");
}

#[test]
fn a_client_without_the_extension() {
    let mut params = over(|link| link.loss = 0.02);
    params.image.extension = false;
    params.image.memory = 4 * MIB;
    let world = dumped(params);
    assert!(world.stored().info.as_ref().unwrap().ranges.is_none());
}

#[test]
fn a_server_that_lets_the_panic_go_on() {
    for loss in [0.0, 0.2] {
        let mut params = over(|link| link.loss = loss);
        params.image.memory = 2 * MIB;
        let mut world = World::new(params);
        world.session_params().end_with = EndWith::Exit;
        world.run_to_the_end();
        assert_eq!(world.end(), Some(End::Exit));
        assert_eq!(world.failure(), None);
        assert!(world.differences().is_empty());
    }
}

#[test]
fn no_server() {
    let mut world = World::new(WorldParams::default());
    world.kill_server();
    world.run_to_the_end();
    assert_eq!((world.end(), world.now()), (Some(End::HandshakeTimeout), 300 * SECOND));
    assert_eq!(world.engine().counters().starts, 301, "one a second, the last as time was up");
}

#[test]
fn a_server_that_comes_late() {
    let mut world = World::new(WorldParams::default());
    world.kill_server();
    world.run_until(200 * SECOND);
    world.start_server();
    world.run_to_the_end();
    world.assert_complete();
}

#[test]
fn a_server_that_restarts_in_the_handshake() {
    // The acknowledgement of the first one never arrives.
    let mut params = WorldParams::default();
    params.down.loss = 1.0;
    let mut world = World::new(params.clone());
    world.run_until(5 * SECOND);
    assert_eq!(world.phase(), Some(Phase::Probe));
    world.kill_server();
    world.run_until(8 * SECOND);
    params.down.loss = 0.0;
    world.set_down(params.down);
    world.start_server();
    world.run_to_the_end();
    world.assert_complete();
}

#[test]
fn a_server_that_dies_in_mid_dump() {
    let mut world = World::new(WorldParams::default());
    while world.stored().pages.len() < 1000 {
        let next = world.now() + 1_000_000;
        world.run_until(next);
    }
    let died = world.now();
    world.kill_server();
    world.run_to_the_end();
    assert_eq!(world.end(), Some(End::IdleTimeout));
    assert!((died + 59 * SECOND..died + 61 * SECOND).contains(&world.now()));
    // What it stored is true.
    assert!(world.differences().iter().all(|(_, what)| *what == "missing"));
}

#[test]
fn a_peer_that_says_hello_for_ever() {
    let mut world = World::new(WorldParams::default());
    world.kill_server();
    world.run_until(SECOND);
    let mut say = |nr: u32, command| {
        let mut buf = [0; 24];
        Request { cookie: COOKIE, nr: RequestId(nr), command }.emit(&mut buf).unwrap();
        world.inject_to_client(&buf);
        let next = world.now() + 10 * SECOND;
        world.run_until(next);
        world.end()
    };
    assert_eq!(say(1, Command::StartAck { max_version: 5 }), None);
    let (nr, end) = (2..).find_map(|nr| Some((nr, say(nr, Command::Hello)?))).unwrap();
    assert_eq!(end, End::TotalTimeout);
    assert_eq!(nr, 360, "an hour, less the first HELLO's ten seconds");
}

#[test]
fn a_client_that_dies_in_mid_dump() {
    let mut params = WorldParams::default();
    let mut world = World::new(params.clone());
    while world.stored().pages.len() < 1000 {
        let next = world.now() + 1_000_000;
        world.run_until(next);
    }
    params.up.loss = 1.0;
    world.set_up(params.up);
    world.run_to_the_end();
    assert!(matches!(world.failure(), Some(Failure::Silent(_))), "{:?}", world.failure());
    assert!(world.differences().iter().all(|(_, what)| *what == "missing"));
}

#[test]
fn garbage_in_both_directions() {
    let mut params = over(|link| link.loss = 0.01);
    params.image.memory = 4 * MIB;
    let mut world = World::new(params);
    let mut rng = fastrand::Rng::with_seed(5);
    let mut injected = 0;
    while world.stored().outcome.is_none() {
        for _ in 0..20 {
            let mut bytes = [0; 1100];
            rng.fill(&mut bytes);
            let len = rng.usize(0..bytes.len());
            if len > 13 && rng.bool() {
                bytes[0] = 5;
                bytes[5..9].copy_from_slice(&[0, 0, 0, rng.u8(1..13)]);
            }
            world.inject_to_server(&bytes[..len]);
            world.inject_to_client(&bytes[..len]);
            let request = Request {
                cookie: Cookie::new(rng.u64(..)),
                nr: RequestId(rng.u32(..)),
                command: Command::from_wire(rng.u32(0..10), rng.u32(..), 0),
            };
            let mut buf = [0; 24];
            request.emit(&mut buf).unwrap();
            world.inject_to_client(&buf);
            injected += 1;
        }
        let next = world.now() + 1_000_000;
        world.run_until(next);
    }
    world.run_to_the_end();
    world.assert_complete();
    let counters = world.engine().counters();
    assert!(counters.bad_cookie >= injected, "{counters:?}");
    assert_eq!(counters.early, 0, "none of it was taken for a request");
}

/// Log packets have no number that only the client knows: anyone who can forge its address can send them.
#[test]
fn forged_log_text_cannot_hold_the_dump_open() {
    for extension in [true, false] {
        let mut params = WorldParams::default();
        params.image.extension = extension;
        params.image.memory = 4 * MIB;
        let mut world = World::new(params);
        let mut buf = [0; 64];
        let mut offset = 1 << 20;
        while world.end().is_none() {
            offset += 5;
            let body = Body::Log { offset, text: b"text\n" };
            let len = Reply { version: Version::V4, nr: RequestId(0), body }.emit(&mut buf).unwrap();
            world.inject_to_server(&buf[..len]);
            let next = world.now() + 50_000_000;
            world.run_until(next);
        }
        world.run_to_the_end();
        world.assert_complete();
        assert!(world.now() < 200 * SECOND, "{} s", world.now() / SECOND);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Loss up to 30 %, and anything else that a network does.
    #[test]
    fn the_dump_is_complete_and_true_over_any_bearable_network(
        seed in any::<u64>(),
        loss in prop_oneof![Just(0.0), 0.0..0.3],
        duplicate in 0.0..0.2,
        reorder in 0.0..0.2,
        reorder_by in 1_000u64..20_000_000,
        delay in 10_000u64..50_000_000,
        jitter in 0u64..10_000_000,
        megabits in 5u64..2_000,
        poisoned_every in prop_oneof![Just(0u64), 3u64..200],
        extension in any::<bool>(),
    ) {
        let link = LinkParams {
            loss, duplicate, reorder, reorder_by, delay, jitter,
            rate: Some(megabits * 1_000_000),
            ..LinkParams::default()
        };
        let image = ImageParams { memory: 2 * MIB, seed, poisoned_every, extension, ..ImageParams::default() };
        let params = WorldParams { image, up: link.clone(), down: link, seed, ..WorldParams::default() };
        let world = dumped(params);
        if extension {
            world.assert_described();
        }
    }
}
