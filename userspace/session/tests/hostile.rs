// SPDX-License-Identifier: GPL-2.0-or-later
//! Somebody else sends to the server with the client's address, or the network and the owner misbehave:
//! the dump beside it must come out complete and true, or end with the right reason.

mod pair;

use std::collections::HashSet;
use std::time::Duration;

use netdump_core::engine::{Config, End, Time};
use netdump_core::wire::classic::{Body, Code, Command, Machine, Reply, ReplyHeader, Request, Start, Version};
use netdump_core::wire::{Cookie, Pfn, RequestId};
use netdump_session::{Event, Failure, Params, Phase, Session};
use pair::{Link, Pair, World, COOKIE, PAGE, PAGE_OFFSET};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn start(task_struct: u64) -> Start {
    Start::V5 { machine: Machine::X86_64, max_version: 5, task_struct, page_offset: PAGE_OFFSET, magic: Cookie::new(0) }
}

fn emit(version: Version, nr: RequestId, body: Body<'_>) -> Vec<u8> {
    let mut buf = [0; 2048];
    let len = Reply { version, nr, body }.emit(&mut buf).unwrap();
    buf[..len].to_vec()
}

fn mem(nr: u32, offset: u32, byte: u8) -> Vec<u8> {
    let mut datagram = vec![byte; 13 + 1024];
    let header = ReplyHeader { version: Version::V5, nr: RequestId(nr), code: Code::Mem, info: offset };
    header.emit(&mut datagram).unwrap();
    datagram
}

fn is_mem(datagram: &[u8]) -> bool {
    datagram[5..9] == [0, 0, 0, 3]
}

#[test]
fn forged_memory_with_guessed_numbers_changes_nothing() {
    let mut pair = Pair::new(World::new(1000), [Link::lossy(0.02); 2], 1, |_| {});
    pair.forged = (0..20_000u32)
        .map(|n| (Duration::from_micros(u64::from(n) * 20), mem(n.wrapping_mul(0x9e37_79b9), 1024 * (n % 4), 0xbd)))
        .collect();
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    assert!(pair.session.counters().unknown_nr >= 20_000 - 5);
}

/// The worst luck: every hundredth chunk is preceded by a forged one with the right number.
#[test]
fn forged_memory_with_live_numbers_is_found_out() {
    let mut pair = Pair::new(World::new(2000), [Link::clean(); 2], 2, |_| {});
    let mut count = 0;
    pair.meddle = Some(Box::new(move |datagram| {
        count += u64::from(is_mem(&datagram));
        if !is_mem(&datagram) || count % 100 != 0 {
            return vec![datagram];
        }
        let mut forged = datagram.clone();
        forged[13..].fill(0xbd);
        vec![forged, datagram]
    }));
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    assert!(pair.session.counters().conflicts >= 70);
    // Some of the forgeries completed a page, which was then written again.
    assert!(pair.store.again > 0);
    assert_eq!(outcome.pages, pair.world.readable().count() as u64);
}

/// A forged RESERVED with a live number, which says that there is no more RAM.
#[test]
fn forged_holes_are_found_out() {
    for extension in [true, false] {
        let mut pair = Pair::new(World::new(2000), [Link::clean(); 2], 3, |_| {});
        let mut count = 0;
        pair.meddle = Some(Box::new(move |mut datagram| {
            if !extension && datagram[5..9] == [0x4e, 0x44, 0, 1] {
                datagram[5..13].copy_from_slice(&[0, 0, 0, 1, 0x4e, 0x44, 0, 1]);
                datagram.truncate(13);
            }
            count += u64::from(is_mem(&datagram));
            if !is_mem(&datagram) || count % 500 != 1 {
                return vec![datagram];
            }
            let mut forged = datagram[..13].to_vec();
            forged[5..13].copy_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0]);
            vec![forged, datagram]
        }));
        let outcome = pair.run(MINUTE);
        assert_eq!(outcome.failure, None);
        pair.assert_true();
        assert!(pair.session.counters().conflicts >= 10);
    }
}

#[test]
fn forged_starts_do_not_end_a_dump_nor_make_us_answer() {
    let mut pair = Pair::new(World::new(3000), [Link::clean(); 2], 4, |_| {});
    let other = emit(Version::V4, RequestId(0), Body::Start(start(0xbad)));
    let same = emit(Version::V4, RequestId(0), Body::Start(start(0xffff_8880_0000_1000)));
    let at = |n: u64| Duration::from_millis(n * 2);
    pair.forged = (5..2000).map(|n| (at(n), if n % 2 == 0 { other.clone() } else { same.clone() })).collect();
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    let counters = pair.session.counters();
    assert!(counters.doubtful_starts > 50, "{counters:?}");
    // No acknowledgement after the first: each would bring an error back.
    assert_eq!(counters.stray_errors, 0);
}

#[test]
fn a_client_that_crashed_anew_gets_another_session() {
    let mut pair = Pair::new(World::new(50_000), [Link::clean(); 2], 5, |_| {});
    pair.run_until(MINUTE, |pair| pair.store.pages.len() > 1000);
    let before = pair.now;
    let config = Config {
        cookie: COOKIE,
        machine: Machine::X86_64,
        task_struct: 0x2000,
        page_offset: PAGE_OFFSET,
        page_size: PAGE as u32,
        nr_pages: pair.world.nr_pages,
        total_ram_pages: 0,
        log_offset: 0,
        handshake_timeout: 0,
        idle_timeout: 0,
        total_timeout: 0,
    };
    pair.engine.begin(config, Time((pair.now - pair.epoch).as_nanos() as u64));
    let outcome = pair.run(10 * MINUTE);
    assert_eq!(outcome.failure, Some(Failure::Restarted));
    assert_eq!(outcome.restarted_as, Some(start(0x2000)));
    assert!(pair.now - before < 10 * SECOND, "{:?}", pair.now - before);
    pair.assert_what_is_there_is_true();
    let done = pair.store.events.iter().find_map(|event| match event {
        Event::MemoryDone(end) => Some(end.failure.clone()),
        _ => None,
    });
    assert_eq!(done, Some(Some(Failure::Restarted)));
    // It is still in its handshake, for the next session.
    assert_eq!(pair.end, None);
}

#[test]
fn a_client_that_dies_leaves_an_incomplete_dump() {
    let mut pair = Pair::new(World::new(5000), [Link::clean(); 2], 6, |_| {});
    pair.run_until(MINUTE, |pair| pair.store.pages.len() > 1000);
    pair.links = [Link { loss: 1.0, ..Link::clean() }; 2];
    let before = pair.now;
    let outcome = pair.run(10 * MINUTE);
    assert_eq!(outcome.failure, Some(Failure::Silent(Phase::Memory)));
    assert!(!outcome.obeyed);
    assert!(outcome.pages > 1000);
    pair.assert_what_is_there_is_true();
    assert!(pair.now - before >= MINUTE && pair.now - before < 2 * MINUTE);
    assert_eq!(pair.end, Some(End::IdleTimeout));
}

#[test]
fn a_short_outage_costs_nothing_but_time() {
    let mut pair = Pair::new(World::new(5000), [Link::clean(); 2], 7, |_| {});
    pair.run_until(MINUTE, |pair| pair.store.pages.len() > 1000);
    pair.links = [Link { loss: 1.0, ..Link::clean() }; 2];
    let until = pair.now + 30 * SECOND;
    pair.run_until(MINUTE, |pair| pair.now >= until);
    pair.links = [Link::clean(); 2];
    let back = pair.now;
    let outcome = pair.run(2 * MINUTE);
    assert_eq!(outcome.failure, None);
    pair.assert_true();
    // Noticed within one wait, and then at speed: 5000 pages at 60 us each, and the end phase.
    assert!(pair.now - back < 8 * SECOND, "{:?}", pair.now - back);
}

#[test]
fn who_never_answers_hello_costs_little() {
    let now = std::time::Instant::now();
    let mut session = Session::new(Params::new(COOKIE), start(1), [1; 32], now);
    let mut sent = 0;
    let mut numbers = HashSet::new();
    let mut at = now;
    loop {
        while let Some(datagram) = session.poll_transmit(at) {
            sent += 1;
            assert!(numbers.insert(Request::parse(&datagram).unwrap().nr));
        }
        let Some(next) = session.poll_timeout() else { break };
        assert!(next > at);
        at = next;
        session.handle_timeout(at);
    }
    let finished = std::iter::from_fn(|| session.poll_event()).last();
    assert!(matches!(finished, Some(Event::Finished(outcome)) if outcome.failure == Some(Failure::NotProved)));
    assert_eq!(sent, 13); // ACK and a dozen HELLOs
    assert!(at - now < MINUTE);
}

#[test]
fn a_flood_of_starts_is_not_amplified() {
    let now = std::time::Instant::now();
    let mut session = Session::new(Params::new(COOKIE), start(1), [1; 32], now);
    let datagram = emit(Version::V4, RequestId(0), Body::Start(start(2)));
    let mut sent = 0;
    for n in 0..10_000 {
        let at = now + Duration::from_micros(100) * n; // one second
        session.handle(at, &datagram);
        session.handle_timeout(at);
        while session.poll_transmit(at).is_some() {
            sent += 1;
        }
    }
    assert!(sent <= 22, "{sent}");
    assert_eq!(*session.start(), start(2));
}

#[test]
fn the_client_stays_alive_while_it_waits_for_a_slot_and_for_storage() {
    let mut pair = Pair::new(World::new(100), [Link::clean(); 2], 8, |_| {});
    pair.grant = None;
    pair.storage = false;
    let epoch = pair.epoch;
    pair.run_until(11 * MINUTE, |pair| pair.now >= epoch + 10 * MINUTE);
    assert_eq!(pair.session.phase(), Phase::Waiting);
    pair.session.grant_slot(pair.now, netdump_session::Grant::Full);
    pair.run_until(21 * MINUTE, |pair| pair.now >= epoch + 20 * MINUTE);
    assert_eq!(pair.session.phase(), Phase::Storage);
    pair.session.storage_ready(pair.now);
    pair.run_until(31 * MINUTE, |pair| pair.now >= epoch + 30 * MINUTE);
    assert_eq!(pair.session.phase(), Phase::Store);
    assert_eq!(pair.end, None);
    pair.session.stored(pair.now);
    let outcome = pair.run(32 * MINUTE);
    assert_eq!(outcome.failure, None);
    assert!(outcome.obeyed);
    pair.assert_true();
}

#[test]
fn no_room_means_no_requests_but_no_silence_either() {
    let mut pair = Pair::new(World::new(1000), [Link::clean(); 2], 9, |_| {});
    pair.session.set_write_room(0);
    let epoch = pair.epoch;
    pair.run_until(11 * MINUTE, |pair| pair.now >= epoch + 10 * MINUTE);
    assert_eq!(pair.session.phase(), Phase::Memory);
    assert!(pair.store.pages.is_empty());
    assert_eq!(pair.end, None);
    pair.session.set_write_room(3);
    pair.run_until(12 * MINUTE, |pair| {
        assert!(pair.session.progress().in_flight <= 3);
        pair.session.phase() != Phase::Memory
    });
    pair.run(12 * MINUTE);
    pair.assert_true();
}

#[test]
fn a_failing_disk_ends_memory_but_not_the_rest() {
    for before in [true, false] {
        let mut pair = Pair::new(World::new(2000), [Link::clean(); 2], 10, |_| {});
        if before {
            pair.storage = false;
            pair.run_until(MINUTE, |pair| pair.session.phase() == Phase::Storage);
        } else {
            pair.run_until(MINUTE, |pair| pair.store.pages.len() > 500);
        }
        pair.session.storage_failed(pair.now);
        let outcome = pair.run(MINUTE);
        assert_eq!(outcome.failure, Some(Failure::Storage));
        assert!(outcome.show_state && outcome.obeyed);
        assert_eq!(pair.end, Some(End::Reboot));
        let told = pair.store.events.iter().any(|event| matches!(event, Event::MemoryDone(_)));
        assert_eq!(told, !before);
    }
}

#[test]
fn a_page_that_is_never_answered_makes_the_dump_incomplete() {
    let mut pair = Pair::new(World::new(500), [Link::clean(); 2], 11, |_| {});
    // The third page of memory: known by its contents.
    let victim = pair::content(2);
    pair.meddle = Some(Box::new(move |datagram| {
        let hit = is_mem(&datagram) && datagram[9..13] == [0; 4] && datagram[13..] == victim[..1024];
        if hit {
            vec![]
        } else {
            vec![datagram]
        }
    }));
    let outcome = pair.run(5 * MINUTE);
    assert_eq!(outcome.failure, Some(Failure::Unanswered(1)));
    assert_eq!(outcome.pages, pair.world.readable().count() as u64 - 1);
    pair.assert_what_is_there_is_true();
    assert!(outcome.obeyed);
}

#[test]
fn cancelling_still_reboots_the_client() {
    let mut pair = Pair::new(World::new(5000), [Link::clean(); 2], 12, |_| {});
    pair.run_until(MINUTE, |pair| pair.store.pages.len() > 500);
    pair.session.cancel(pair.now);
    let outcome = pair.run(MINUTE);
    assert_eq!(outcome.failure, Some(Failure::Cancelled));
    assert_eq!(pair.end, Some(End::Reboot));
    pair.assert_what_is_there_is_true();
}

/// What a client without any manners may answer to a request.
#[derive(Debug, Clone)]
enum Answer {
    Nothing,
    Proper,
    Raw(Vec<u8>),
    Coded { code: u32, info: u32, payload: Vec<u8> },
}

fn answer() -> impl Strategy<Value = Answer> {
    let code = prop_oneof![0u32..14, Just(0x4e44_0001), any::<u32>()];
    let info = prop_oneof![0u32..8, Just(1024), Just(4096), Just(65536), any::<u32>()];
    let payload = prop_oneof![
        Just(vec![]),
        Just(vec![0xcc; 1024]),
        proptest::collection::vec(any::<u8>(), 0..64),
        // A plausible block of an item: total, then data.
        (0u32..3000).prop_map(|total| {
            let mut block = total.to_be_bytes().to_vec();
            block.resize(4 + (total as usize).min(1020), 0);
            block
        }),
    ];
    prop_oneof![
        1 => Just(Answer::Nothing),
        12 => Just(Answer::Proper),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Answer::Raw),
        4 => (code, info, payload).prop_map(|(code, info, payload)| Answer::Coded { code, info, payload }),
    ]
}

fn proper(request: &Request) -> Vec<Vec<u8>> {
    let v5 = |body| vec![emit(Version::V5, request.nr, body)];
    match request.command {
        Command::Hello => v5(Body::Hello { version: 4 }),
        Command::GetNrPages => v5(Body::NrPages(300)),
        Command::GetPageSize => v5(Body::PageSize(16384)),
        Command::GetRegs => v5(Body::Regs { total_ram_pages: 1, block: &[0; 216] }),
        Command::ShowState => v5(Body::ShowState),
        Command::Ext { offset, .. } => v5(Body::Ext { offset, total: 8, data: &[0; 8] }),
        Command::SendMem(Pfn(pfn)) if pfn % 7 == 0 => v5(Body::Reserved { next: Some(Pfn(pfn + 3)) }),
        Command::SendMem(_) => (0..16).map(|n| mem(request.nr.0, n * 1024, 0x11)).collect(),
        _ => vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No client can make a session panic, spin, or stay for ever.
    #[test]
    fn any_answers_end_in_bounded_time(answers in proptest::collection::vec(answer(), 1..60), seed in any::<u8>()) {
        let epoch = std::time::Instant::now();
        let mut now = epoch;
        let mut session = Session::new(Params::new(COOKIE), start(1), [seed; 32], now);
        session.grant_slot(now, netdump_session::Grant::Full);
        let mut turn = answers.iter().cycle();
        let mut steps = 0u32;
        while !session.is_finished() {
            steps += 1;
            prop_assert!(steps < 200_000, "spins in {:?}", session.phase());
            while let Some(event) = session.poll_event() {
                match event {
                    Event::Described(info) => {
                        prop_assert!(info.nr_pages > 0);
                        session.storage_ready(now);
                    }
                    Event::MemoryDone(_) => session.stored(now),
                    Event::Page { data, .. } => session.recycle(data),
                    _ => {}
                }
            }
            let mut requests = Vec::new();
            while let Some(datagram) = session.poll_transmit(now) {
                requests.push(Request::parse(&datagram).unwrap());
                prop_assert!(requests.len() <= 256);
            }
            for request in &requests {
                let datagrams = match turn.next().unwrap() {
                    Answer::Nothing => vec![],
                    Answer::Proper => proper(request),
                    Answer::Raw(bytes) => vec![bytes.clone()],
                    Answer::Coded { code, info, payload } => {
                        let body = Body::Unknown { code: *code, info: *info, payload };
                        vec![emit(Version::V5, request.nr, body)]
                    }
                };
                for datagram in datagrams {
                    session.handle(now, &datagram);
                }
            }
            if requests.is_empty() {
                if let Some(next) = session.poll_timeout() {
                    now = now.max(next);
                }
            } else {
                // A client may claim memory without end and answer for it; what ends that is the longest duration of a
                // dump. Time runs faster after a while, so that the test sees it.
                now += if steps < 1000 { Duration::from_micros(100) } else { MINUTE };
            }
            session.handle_timeout(now);
        }
        prop_assert!(now - epoch <= 25 * 60 * MINUTE);
    }
}
