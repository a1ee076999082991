// SPDX-License-Identifier: GPL-2.0-or-later
//! Version 6: the client of the kernel module against the server's session, over networks from perfect to hopeless.

use netdump_core::engine::End;
use netdump_core::wire::v6::cluster::Piece;
use netdump_core::wire::v6::handshake::{Ack6, Start6};
use netdump_core::wire::v6::hint::{ResetHint, HINT_LEN};
use netdump_core::wire::v6::message::kind;
use netdump_core::wire::v6::secure::{Channel, Key, Role, TrafficKeys};
use netdump_core::wire::v6::{Codec, Level, Reason};
use netdump_core::wire::Pfn;
use netdump_session::v6::Encoding;
use netdump_session::{Failure, Phase, Ring};
use netdump_sim::link::LinkParams;
use netdump_sim::source::is_early;
use netdump_sim::world6::{World6, World6Params, KEY, SECOND};

const MIB: u64 = 1 << 20;

fn over(change: impl Fn(&mut LinkParams)) -> World6Params {
    let mut params = World6Params::default();
    change(&mut params.up);
    change(&mut params.down);
    params
}

fn dumped(params: World6Params) -> World6 {
    let mut world = World6::new(params);
    world.run_to_the_end();
    world.assert_complete();
    world
}

/// Seconds of the memory phase.
fn seconds(world: &World6) -> f64 {
    world.stored().outcome.as_ref().unwrap().memory_duration.as_secs_f64()
}

#[test]
fn a_perfect_network() {
    for keyed in [false, true] {
        let mut world = dumped(World6Params { keyed, ..World6Params::default() });
        assert_eq!(world.stored().listing, world.image().listing());
        let counters = *world.engine().counters();
        assert_eq!(counters.pages, world.stored().pages.len() as u64, "nothing was sent twice");
        assert_eq!((counters.forged, counters.malformed, counters.no_room, counters.repairs), (0, 0, 0, 0));
        let session = world.session().unwrap();
        assert_eq!(session.is_authenticated(), keyed);
        let counters = session.counters();
        assert_eq!((counters.malformed, counters.duplicate_chunks, counters.conflicts), (0, 0, 0));
        // A gigabit carries 16 MiB in 0.134 s, and what is around it.
        assert!(seconds(&world) < 0.2, "{}", seconds(&world));
    }
}

#[test]
fn pages_are_left_out_by_either_ends_level() {
    for (client, server) in [(0, 31), (31, 0), (16, 9), (1, 2)] {
        let mut params = World6Params { level: Level::new(client).unwrap(), ..World6Params::default() };
        params.session.level = Level::new(server).unwrap();
        let world = dumped(params);
        let both = client | server;
        let free = world.left_out(Reason::Free);
        assert_eq!(free > 0, both & 16 != 0, "level {both}");
        assert_eq!(world.left_out(Reason::User) > 0, both & 8 != 0);
        assert_eq!(world.left_out(Reason::Cache) > 0, both & 6 != 0);
        let sum: u64 = Reason::EACH.iter().map(|reason| world.left_out(*reason)).sum();
        assert_eq!(sum, world.stored().left_out, "counts by reason add up");
        let zero = world.engine().counters().zero_pages;
        assert_eq!(zero > 0, both & 1 != 0, "pages of zeroes cost nothing");
    }
}

#[test]
fn codecs() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        for repeat in [64, 4096] {
            let mut params = World6Params::default();
            params.image.repeat = repeat;
            params.session.codec = Encoding::Fixed(codec);
            let world = dumped(params);
            let (sent, pages) = (world.engine().counters().sent_bytes, world.stored().pages.len() as u64);
            let share = sent as f64 / (pages * 4096) as f64;
            assert!(if repeat == 64 { share < 0.1 } else { share < 1.1 }, "{codec:?} {repeat}: {share}");
        }
    }
}

#[test]
fn the_codec_that_does_best() {
    let sent = |codec, loss| {
        let mut params = over(|link| (link.rate, link.loss) = (Some(100_000_000), loss));
        params.image.memory = 32 * MIB;
        params.image.repeat = 64;
        params.session.codec = codec;
        let world = dumped(params);
        (world.engine().counters().sent_bytes as f64, world.stored().pages.len())
    };
    for loss in [0.0, 0.05] {
        let (best, pages) = sent(Encoding::Best, loss);
        let fixed = [Codec::Raw, Codec::Lz4, Codec::Zstd].map(|codec| sent(Encoding::Fixed(codec), loss).0);
        let least = fixed.iter().copied().fold(f64::INFINITY, f64::min);
        // Trials of the others are a small part of it.
        let tried = 3.0 * 512.0 * 4300.0;
        assert!(
            best < least * 1.2 + tried && best * 2.0 < fixed[0],
            "{best} bytes of {pages} pages, beside {fixed:?} at loss {loss}"
        );
    }
}

#[test]
fn loss_from_none_to_a_third() {
    for (percent, pages) in [(0.1, 16), (1.0, 16), (5.0, 16), (5.0, 1), (20.0, 16), (30.0, 16), (30.0, 1)] {
        let mut params = over(|link| link.loss = percent / 100.0);
        params.seed = (percent * 10.0) as u64;
        params.image.memory = 8 * MIB;
        params.session.cluster_pages = pages;
        params.image.listing = 2000;
        let mut world = dumped(params);
        assert!(world.stored().listing == world.image().listing(), "lost text is sent again: {percent} %");
        let counters = world.session().unwrap().counters();
        println!("{percent} % {pages}: {:.3} s {counters:?} {:?}", seconds(&world), world.engine().counters());
        assert!(percent < 1.0 || world.engine().counters().repairs + counters.lost_by_order > 0);
    }
}

#[test]
fn memory_that_changes_arrives_all_the_same() {
    let mut params = over(|link| link.loss = 0.3);
    params.image.changing_every = 40;
    params.image.memory = 4 * MIB;
    let world = dumped(params);
    assert!(world.engine().counters().rebuilt > 0);
}

#[test]
fn duplicates_reordering_and_poisoned_memory() {
    let mut params = over(|link| {
        link.duplicate = 0.1;
        link.reorder = 0.1;
        link.loss = 0.02;
        link.jitter = 3_000_000;
        link.delay = 5_000_000;
    });
    params.image.poisoned_every = 50;
    let world = dumped(params);
    assert!(world.left_out(Reason::Unreadable) > 0);
    assert!(world.engine().counters().replayed > 0);
}

#[test]
fn a_long_way_is_filled() {
    let mut times = Vec::new();
    for delay in [100_000, 25_000_000] {
        let mut params = over(|link| link.delay = delay);
        params.image.memory = 256 * MIB;
        params.session.max_window = 1 << 16;
        times.push(seconds(&dumped(params)));
    }
    println!("{times:?}");
    assert!(times[0] / times[1] > 0.7, "{times:?}: 2 s of a gigabit, half a second of it to find out");
}

#[test]
fn a_narrow_wire_with_little_room() {
    let mut params = over(|link| {
        link.rate = Some(10_000_000);
        link.queue = 40_000;
    });
    params.image.memory = 4 * MIB;
    let world = dumped(params);
    let best = 4.0 * MIB as f64 * 8.0 / 10e6;
    assert!(seconds(&world) < 1.7 * best, "{:.1} s where {best:.1} s would do", seconds(&world));
}

/// A path that takes less than both ends agree on, and says nothing of it.
#[test]
fn a_path_for_shorter_datagrams_than_agreed_on() {
    for (longest, used, loss) in
        [(1416, 1416, 0.0), (1415, 1412, 0.0), (1372, 1372, 0.0), (1250, 1200, 0.0), (1372, 1372, 0.2)]
    {
        let mut params = World6Params::default();
        params.image.memory = 4 * MIB;
        (params.up.longest, params.up.loss, params.seed) = (Some(longest), loss, 3);
        let longest_sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut world = World6::new(params);
        let seen = longest_sent.clone();
        world.attacker = Some(Box::new(move |to_client, datagram| {
            if !to_client && datagram[1] == kind::PIECE {
                seen.set(datagram.len().max(seen.get()));
            }
            vec![datagram]
        }));
        world.run_to_the_end();
        world.assert_complete();
        assert_eq!(longest_sent.get(), used, "a path for {longest}, loss {loss}");
        assert!(world.up().stats().too_long < 30, "{:?}", world.up().stats());
    }
}

#[test]
fn a_server_that_says_wait() {
    let mut world = World6::new(World6Params::default());
    world.grant = false;
    for second in 1..100 {
        world.run_until(second * SECOND);
        if let Some(session) = world.session() {
            session.set_position(3);
        }
    }
    assert_eq!(world.session().unwrap().phase(), Phase::Waiting);
    assert_eq!(world.sessions(), 1, "it knows that it waits");
    world.give_slot();
    world.run_to_the_end();
    world.assert_complete();

    let mut world = World6::new(World6Params { queue_timeout: 50 * SECOND, ..World6Params::default() });
    world.grant = false;
    for second in 1..100 {
        world.run_until(second * SECOND);
        if let Some(session) = world.session() {
            session.set_position(3);
        }
    }
    assert_eq!(world.end(), Some(End::QueueTimeout));
    assert!(world.now() >= 50 * SECOND);
}

#[test]
fn a_server_that_forgets_is_told_anew() {
    let mut params = World6Params::default();
    params.image.memory = 64 * MIB;
    let mut world = World6::new(params);
    world.run_until(SECOND / 4);
    assert_eq!(world.session().unwrap().phase(), Phase::Memory);
    world.restart_server();
    world.run_to_the_end();
    world.assert_complete();
    assert_eq!((world.sessions(), world.engine().counters().handshakes), (2, 2));
}

/// The time between a server's restart and the handshake that ends the client's old session, s. It is down for so long.
fn resumed_after(down: u64, hints: bool) -> (f64, World6) {
    let mut params = World6Params::default();
    params.image.memory = 64 * MIB;
    let mut world = World6::new(params);
    world.resumes = true;
    let is_hint = |datagram: &[u8]| datagram.len() == HINT_LEN && ResetHint::parse(datagram).is_some();
    world.attacker =
        Some(Box::new(move |_, datagram| if is_hint(&datagram) && !hints { vec![] } else { vec![datagram] }));
    // Its first START6 is more than a second old.
    world.grant = false;
    world.run_until(2 * SECOND);
    world.grant = true;
    world.give_slot();
    world.run_until(9 * SECOND / 4);
    assert_eq!(world.session().unwrap().phase(), Phase::Memory);
    world.restart_server();
    world.server_runs = false;
    world.run_until(world.now() + down);
    world.server_runs = true;
    let restarted = world.now();
    while world.engine().counters().handshakes < 2 {
        world.run_until(world.now() + 1_000_000);
    }
    let took = (world.now() - restarted) as f64 / SECOND as f64;
    world.run_to_the_end();
    world.assert_complete();
    (took, world)
}

#[test]
fn a_server_that_has_restarted_is_found_soon() {
    for down in [0, SECOND / 10, SECOND, 7 * SECOND / 4] {
        let (with, world) = resumed_after(down, true);
        let (without, _) = resumed_after(down, false);
        println!("down for {:.2} s: {with:.3} s with a hint, {without:.3} s without", down as f64 / SECOND as f64);
        assert!(with < 0.51, "down for {down} ns: {with} s");
        assert!(with <= without, "{with} and {without}");
        let counters = world.engine().counters();
        // After two seconds of silence a START6 takes the place of the question.
        assert!((counters.hints > 0) == (down < 3 * SECOND / 2) && counters.starts < 5, "{counters:?}");
    }
}

/// What a server hears of hints that are not its own, or when it has not forgotten: a START6 a second at most.
#[test]
fn hints_of_an_attacker_end_no_session() {
    // On the path, for everything that the client says; while it waits for its turn, and while it is dumped.
    let mut params = World6Params::default();
    params.image.memory = 64 * MIB;
    let mut world = World6::new(params);
    world.grant = false;
    let hint: std::rc::Rc<std::cell::RefCell<Option<Vec<u8>>>> = Default::default();
    world.attacker = Some(Box::new(move |to_client, datagram| {
        let mut last = hint.borrow_mut();
        if !to_client && datagram.len() >= HINT_LEN && datagram[1] != 0 {
            *last = Some([&[6, 7], &datagram[2..HINT_LEN]].concat());
        }
        let hints = last.iter().filter(|_| to_client).cloned();
        std::iter::once(datagram).chain(hints).collect()
    }));
    world.run_until(20 * SECOND);
    assert_eq!(world.session().unwrap().phase(), Phase::Waiting);
    world.give_slot();
    world.run_to_the_end();
    world.assert_complete();
    let seconds = world.now() / SECOND;
    let counters = *world.engine().counters();
    assert_eq!((world.sessions(), counters.handshakes), (1, 1), "{counters:?}");
    assert!(counters.hints > 20 && counters.starts <= seconds + 2, "{seconds} s: {counters:?}");

    // He also keeps the server's datagrams away for a while.
    let mut world = World6::new(World6Params::default());
    world.run_until(SECOND / 20);
    let (mut last, mut count) = (vec![], 0);
    world.attacker = Some(Box::new(move |to_client, datagram| {
        count += 1;
        if !to_client && datagram[1] != 0 {
            last = [&[6, 7], &datagram[2..HINT_LEN]].concat();
        }
        match (to_client, count < 300) {
            (true, true) => vec![last.clone()],
            _ => vec![datagram],
        }
    }));
    world.run_to_the_end();
    world.assert_complete();
    let counters = *world.engine().counters();
    assert_eq!((world.sessions(), counters.handshakes), (1, 1), "{counters:?}");
    assert!(counters.hints > 0, "{counters:?}");

    // Beside the path he has to guess.
    let mut world = World6::new(World6Params::default());
    world.run_until(SECOND / 20);
    world.restart_server();
    world.server_runs = false;
    world.forge_to_client(&[&[6, 7][..], b"guess!", &[0; 8]].concat());
    world.run_until(world.now() + 3 * SECOND / 2);
    let counters = *world.engine().counters();
    assert_eq!((counters.hints, counters.starts), (0, 1), "{counters:?}");
    assert!(counters.other_session > 0);
}

#[test]
fn what_is_needed_first_comes_first() {
    for loss in [0.0, 0.05] {
        let world = dumped(over(|link| link.loss = loss));
        let early: Vec<bool> = world.stored().order.iter().map(|pfn| is_early(Pfn(*pfn))).collect();
        let first = early.iter().filter(|early| **early).count();
        assert!(first > 100 && first < early.len() / 4, "{first} of {}", early.len());
        assert!(early[..first].iter().all(|early| *early), "loss {loss}: another page came before one of them");
    }
}

#[test]
fn a_server_that_restarts_goes_on_where_it_was() {
    // In the first turn, between the two, and later; and twice.
    for milliseconds in [&[4][..], &[12], &[30], &[60], &[50, 1015]] {
        let mut params = over(|link| link.loss = 0.01);
        params.image.memory = 16 * MIB;
        params.level = Level::new(16).unwrap();
        let mut world = World6::new(params);
        world.resumes = true;
        let mut before = Vec::new();
        for milliseconds in milliseconds {
            world.run_until(milliseconds * SECOND / 1000);
            before.push(world.stored().pages.len());
            world.restart_server();
        }
        world.run_to_the_end();
        world.assert_complete();
        assert_eq!(world.sessions() as usize, 1 + milliseconds.len(), "{milliseconds:?}: {before:?}");
        let (all, sent) = (world.stored().pages.len() as u64, world.engine().counters().pages);
        // What was on its way when the server died comes again, and what was lost.
        let twice = sent - all;
        println!("{milliseconds:?}: {before:?} of {all} pages before, {twice} sent twice");
        let allowed = if milliseconds[0] < 20 { all / 4 } else { all / 10 };
        assert!(twice < allowed, "{milliseconds:?}: {twice} of {all} pages were sent twice");
        let sum = world.image().ram_pages().count() as u64;
        assert_eq!(all + world.stored().left_out, sum, "{milliseconds:?}: each frame is counted once");
    }
}

#[test]
fn silence() {
    let mut world = World6::new(over(|link| link.loss = 1.0));
    world.run_to_the_end();
    assert_eq!((world.end(), world.now()), (Some(End::HandshakeTimeout), 300 * SECOND));
    let mut world = World6::new(World6Params::default());
    world.attacker =
        Some(Box::new(|to_client, datagram| if to_client && datagram[0] == 6 { vec![] } else { vec![datagram] }));
    world.run_to_the_end();
    assert_eq!(world.end(), Some(End::IdleTimeout), "an ACK6 alone does not keep it");
    assert!(world.failure().is_some());
}

/// What an attacker on the path does to datagrams.
#[derive(Debug, Clone, Copy)]
enum Attack {
    Change,
    Truncate,
    Replay,
    Swap,
    Reorder,
    Downgrade,
}

#[test]
fn an_attacker_on_the_path_gets_and_gives_nothing() {
    for attack in [Attack::Change, Attack::Truncate, Attack::Replay, Attack::Swap, Attack::Reorder, Attack::Downgrade] {
        let mut params = World6Params::default();
        params.image.memory = 4 * MIB;
        let pages: Vec<Vec<u8>> = {
            let image = netdump_sim::image::Image::new(params.image.clone());
            image.ram_pages().filter(|pfn| pfn.0 % 8 != 0).map(|pfn| image.page(pfn)[..16].to_vec()).collect()
        };
        let needles: std::collections::HashSet<Vec<u8>> = pages.into_iter().collect();
        let mut world = World6::new(params);
        let (mut count, mut kept) = (0u64, Vec::new());
        let mut held = [Vec::new(), Vec::new()];
        let clear = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = clear.clone();
        world.attacker = Some(Box::new(move |to_client, datagram| {
            count += 1;
            if !to_client {
                // Memory begins somewhere in the first bytes of a datagram; it must not be readable anywhere.
                seen.set(seen.get() + datagram.windows(16).step_by(1).filter(|w| needles.contains(*w)).count());
            }
            let hit = count % 7 == 0;
            match attack {
                // Those of which there are always more: what is held back for seconds is lost, not out of order.
                Attack::Reorder if matches!(datagram[1], kind::GRANT | kind::PIECE) => {
                    // By fives, each of them backwards.
                    let held = &mut held[usize::from(to_client)];
                    held.insert(0, datagram);
                    if held.len() < 5 {
                        return vec![];
                    }
                    std::mem::take(held)
                }
                _ if !hit => vec![datagram],
                Attack::Change => {
                    let mut changed = datagram;
                    let at = (count as usize * 31) % changed.len();
                    changed[at] ^= 1 << (count % 8);
                    vec![changed]
                }
                Attack::Truncate => vec![datagram[..datagram.len() / 2].to_vec()],
                Attack::Replay => {
                    kept.push((to_client, datagram.clone()));
                    let old: Vec<u8> = kept[(count as usize * 17) % kept.len()].1.clone();
                    vec![datagram, old]
                }
                Attack::Swap => {
                    // What the other direction said.
                    kept.push((to_client, datagram.clone()));
                    let other = kept.iter().rev().find(|(to, _)| *to != to_client).map(|(_, d)| d.clone());
                    std::iter::once(datagram).chain(other).collect()
                }
                Attack::Reorder => vec![datagram],
                Attack::Downgrade => {
                    // The key is said not to be there; suites are said to be clear.
                    let mut changed = datagram;
                    if changed[0] == 6 && changed[1] == 0 {
                        changed[16] = 0;
                        changed[20] |= 1;
                    }
                    if changed.len() == 124 {
                        changed[26] = 0;
                    }
                    vec![changed]
                }
            }
        }));
        world.run_to_the_end();
        world.assert_true();
        assert_eq!(clear.get(), 0, "{attack:?}: memory in clear");
        assert_eq!(world.failure(), None::<&Failure>, "{attack:?}: what is lost is sent again");
        world.assert_complete();
    }
}

/// Everything that another dump of the same machine with the same key said, in both directions, and everything that this one
/// says back to whom it came from.
#[test]
fn datagrams_of_another_session_or_another_direction_are_void() {
    let params = || {
        let mut params = World6Params::default();
        params.image.memory = 4 * MIB;
        params
    };
    let record = std::rc::Rc::new(std::cell::RefCell::new([Vec::new(), Vec::new()]));
    let kept = record.clone();
    let mut other = World6::new(World6Params { seed: 77, ..params() });
    other.attacker = Some(Box::new(move |to_client, datagram| {
        kept.borrow_mut()[usize::from(to_client)].push(datagram.clone());
        vec![datagram]
    }));
    other.run_to_the_end();
    other.assert_complete();

    let mut world = World6::new(params());
    let mut before: [Vec<u8>; 2] = Default::default();
    let mut count = [0; 2];
    world.attacker = Some(Box::new(move |to_client, datagram| {
        let way = usize::from(to_client);
        let recorded = record.borrow();
        // A START6 of before is a handshake for a server that remembers nothing; the real one remembers which are over.
        let old = recorded[way].get(1 + count[way]).cloned();
        // And to the other party of that dump.
        let crossed = recorded[1 - way].get(1 + count[way]).cloned();
        count[way] += 1;
        let reflected = std::mem::replace(&mut before[1 - way], datagram.clone());
        std::iter::once(datagram).chain(old).chain(crossed).chain(Some(reflected).filter(|d| !d.is_empty())).collect()
    }));
    world.run_to_the_end();
    world.assert_complete();
    assert_eq!(world.sessions(), 1);
    let counters = *world.engine().counters();
    assert!(counters.other_session > 100 && counters.handshakes == 1, "{counters:?}");
    let counters = world.session().unwrap().counters();
    assert!(counters.unknown_nr > 100 && counters.conflicts == 0, "{counters:?}");
}

/// What a key does not give (docs/threat-model.md): it is in what was sent, for whoever gets the key later.
#[test]
fn who_recorded_a_dump_and_has_the_key_reads_it() {
    let mut params = World6Params::default();
    params.image.memory = 4 * MIB;
    let mut world = World6::new(params);
    let record = std::rc::Rc::new(std::cell::RefCell::new([Vec::new(), Vec::new()]));
    let kept = record.clone();
    world.attacker = Some(Box::new(move |to_client, datagram| {
        kept.borrow_mut()[usize::from(to_client)].push(datagram.clone());
        vec![datagram]
    }));
    world.run_to_the_end();
    world.assert_complete();
    let [up, down] = record.take();
    // Whose dump it is stands in clear; the keys come from the two messages and the one that is secret.
    let start = Start6::parse(&up[0]).unwrap();
    assert_eq!(start.key.unwrap().key_id, [1; 16]);
    let ack = Ack6::parse(&down[0]).unwrap();
    let read = |key: &Key| {
        let keys = TrafficKeys::derive(&Ring, key, &up[0], &down[0]);
        let mut channel = Channel::<4>::new(Role::Server, Some(keys), ack.server, start.session);
        let mut pages = 0;
        for datagram in &up[1..] {
            if let Ok((kind::PIECE, _, body)) = channel.open(&Ring, &mut datagram.clone()) {
                pages += u64::from(Piece::parse(body).is_ok());
            }
        }
        pages
    };
    assert_eq!(read(&KEY), world.engine().counters().pieces);
    assert_eq!(read(&Key::new([0; 32])), 0);
}
