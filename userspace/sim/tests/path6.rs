// SPDX-License-Identifier: GPL-2.0-or-later
//! How fast version 6 is on a path that loses, bursts, mixes and is long, beside the same path without that, in virtual time.

use std::time::Duration;

use netdump_sim::link::LinkParams;
use netdump_sim::world6::{World6, World6Params};

const MIB: u64 = 1 << 20;
/// Cluster sizes, pages.
const SIZES: [u8; 3] = [1, 4, 16];

/// A machine of 16 MiB, 0.13 s of its gigabit: the ends of both turns are a good part of that.
fn path(pages: u8, seed: u64, change: impl Fn(&mut LinkParams)) -> World6Params {
    let mut params = World6Params { keyed: false, seed, ..World6Params::default() };
    change(&mut params.up);
    change(&mut params.down);
    params.image.memory = 16 * MIB;
    params.session.cluster_pages = pages;
    params
}

fn finish(mut world: World6) -> f64 {
    world.run_to_the_end();
    world.assert_complete();
    world.stored().outcome.as_ref().unwrap().memory_duration.as_secs_f64()
}

/// Seconds of the memory phase.
fn seconds(params: World6Params) -> f64 {
    finish(World6::new(params))
}

#[test]
fn loss_costs_little_more_than_what_is_lost() {
    for pages in SIZES {
        let whole = seconds(path(pages, 1, |_| {}));
        // Both ways. What is demanded is 0.95, 0.85, 0.7 and 0.4; more than 1 − loss cannot be.
        for (percent, least) in [(0.1, 0.97), (1.0, 0.94), (5.0, 0.85), (20.0, 0.6), (30.0, 0.5)] {
            for seed in 1..=3 {
                let ratio = whole / seconds(path(pages, seed, |link| link.loss = percent / 100.0));
                println!("{pages} pages, {percent} %, seed {seed}: {ratio:.3}");
                assert!(ratio >= least, "{pages} pages, {percent} %, seed {seed}: {ratio:.3} of the rate without loss");
                assert!(ratio <= 1.01, "{pages} pages, {percent} %: {ratio:.3}: the path is not what it should be");
            }
        }
    }
}

#[test]
fn loss_in_one_direction_only() {
    for (up, down, least) in [(0.3, 0.0, 0.6), (0.0, 0.3, 0.8)] {
        let whole = seconds(path(16, 1, |_| {}));
        for seed in 1..=2 {
            let mut params = path(16, seed, |_| {});
            (params.up.loss, params.down.loss) = (up, down);
            let ratio = whole / seconds(params);
            println!("{up} up, {down} down, seed {seed}: {ratio:.3}");
            assert!(ratio >= least, "{up} up, {down} down, seed {seed}: {ratio:.3}");
        }
    }
}

/// Loses `length` datagrams in a row, one in `share` of all, by chance, and what goes the other way meanwhile.
fn bursts(share: u64, length: u64, seed: u64) -> impl FnMut(bool, Vec<u8>) -> Vec<Vec<u8>> {
    let mut chance = seed;
    let mut left = 0u64;
    move |to_client, datagram| {
        // Where few datagrams go a gap in time is a few of them.
        let passes = if to_client { length / 5 } else { 1 };
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if left == 0 && !to_client && (chance >> 33) % (share * length) == 0 {
            left = length;
        }
        if left == 0 {
            return vec![datagram];
        }
        left = left.saturating_sub(passes);
        vec![]
    }
}

#[test]
fn loss_in_bursts() {
    for pages in SIZES {
        let whole = seconds(path(pages, 1, |_| {}));
        for (share, length, least) in [(100, 10, 0.85), (20, 10, 0.7), (20, 100, 0.6)] {
            for seed in 1..=2 {
                let mut world = World6::new(path(pages, seed, |_| {}));
                world.attacker = Some(Box::new(bursts(share, length, seed)));
                let ratio = whole / finish(world);
                println!("{pages} pages, one in {share} by {length}, seed {seed}: {ratio:.3}");
                assert!(ratio >= least, "{pages} pages, one in {share} by {length}, seed {seed}: {ratio:.3}");
            }
        }
    }
}

#[test]
fn disorder_costs_little() {
    for pages in SIZES {
        let whole = seconds(path(pages, 1, |_| {}));
        // One datagram in a hundred is late by up to 2 ms, ten times as long as the way takes; with and without loss.
        for (loss, least) in [(0.0, 0.9), (0.01, 0.85)] {
            let ratio = whole
                / seconds(path(pages, 2, |link| {
                    (link.loss, link.reorder, link.duplicate, link.jitter) = (loss, 0.01, 0.01, 50_000);
                }));
            println!("{pages} pages, disorder and {loss} loss: {ratio:.3}");
            assert!(ratio >= least, "{pages} pages, disorder and {loss} loss: {ratio:.3}");
        }
    }
}

#[test]
fn a_long_way_costs_little() {
    let long = |delay: Duration, loss: f64, memory: u64| {
        let mut params = path(16, 1, |link| (link.delay, link.loss) = (delay.as_nanos() as u64, loss));
        params.image.memory = memory;
        params.session.max_window = 1 << 16;
        seconds(params)
    };
    let whole = long(Duration::from_micros(100), 0.0, 256 * MIB);
    // 2 s of a gigabit: it takes seven round trips to find out how wide it is, and some to repair the end of each turn.
    for (milliseconds, loss, least) in [(5, 0.0, 0.95), (25, 0.0, 0.8), (25, 0.01, 0.6)] {
        let ratio = whole / long(Duration::from_millis(milliseconds), loss, 256 * MIB);
        println!("{} ms, loss {loss}: {ratio:.3}", 2 * milliseconds);
        assert!(ratio >= least, "{} ms, loss {loss}: {ratio:.3}", 2 * milliseconds);
    }
}
