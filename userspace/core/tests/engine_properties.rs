// SPDX-License-Identifier: GPL-2.0-or-later
//! What holds for the dump client whatever a hostile network sends it.

use netdump_core::engine::*;
use netdump_core::wire::classic::*;
use netdump_core::wire::{Cookie, Pfn, RequestId};
use proptest::collection::vec;
use proptest::prelude::*;

const COOKIE: Cookie = Cookie::new(0xfeed_f00d_dead_beef);
const NR_PAGES: u64 = 64;
const SECOND: u64 = 1_000_000_000;

/// Every third page is a hole, every seventh cannot be read.
struct Memory;

impl Target for Memory {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        assert!(pfn.0 < NR_PAGES, "asked about {pfn:?}");
        if pfn.0 % 3 == 2 {
            PageClass::Hole { next: Some(Pfn(pfn.0 + 1)) }
        } else {
            PageClass::Ram
        }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        assert!(pfn.0 < NR_PAGES && pfn.0 % 3 != 2, "read of {pfn:?}");
        assert_eq!((offset % 1024, out.len()), (0, 1024));
        assert!(offset < 4096);
        out.fill(pfn.0 as u8);
        if pfn.0 % 7 == 3 {
            Err(Unreadable)
        } else {
            Ok(())
        }
    }

    fn regs(&self) -> &[u8] {
        &[1; 216]
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        let total = if item == ItemId::Log { 3000 } else { 0 };
        let written = (total as usize).saturating_sub(offset as usize).min(out.len());
        out[..written].fill(2);
        ItemPart { total, written }
    }

    fn show_state(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
}

fn begun() -> Engine {
    let mut engine = Engine::new();
    let config = Config {
        cookie: COOKIE,
        machine: Machine::X86_64,
        task_struct: 1,
        page_offset: 2,
        page_size: 4096,
        nr_pages: NR_PAGES,
        total_ram_pages: 3,
        log_offset: 4,
        handshake_timeout: 60 * SECOND,
        idle_timeout: 30 * SECOND,
        total_timeout: 600 * SECOND,
    };
    engine.begin(config, Time(0));
    engine
}

#[derive(Debug, Clone)]
enum Step {
    Bytes(Vec<u8>),
    Request { nr: u32, code: u32, from: u32, to: u32, right: bool },
    Wait(u64),
    Send(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let code = prop_oneof![8 => 0..11u32, 1 => Just(EXT), 1 => any::<u32>()];
    let from = prop_oneof![8 => 0..80u32, 1 => any::<u32>()];
    let request = (0..50u32, code, from, any::<u32>(), prop::bool::weighted(0.8))
        .prop_map(|(nr, code, from, to, right)| Step::Request { nr, code, from, to, right });
    prop_oneof![
        1 => vec(any::<u8>(), 0..60).prop_map(Step::Bytes),
        8 => request,
        2 => (0..3 * SECOND).prop_map(Step::Wait),
        4 => (1..20u8).prop_map(Step::Send),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_what_goes_is_well_formed_and_asked_for(steps in vec(step(), 0..200)) {
        let mut engine = begun();
        let mut now = 0;
        let mut buf = [0u8; MAX_DATAGRAM];
        let mut asked = std::collections::HashSet::new();
        for step in steps {
            match step {
                Step::Bytes(bytes) => engine.handle(Time(now), &bytes),
                Step::Request { nr, code, from, to, right } => {
                    let cookie = if right { COOKIE } else { Cookie::new(from.into()) };
                    let command = Command::from_wire(code, from, to);
                    let len = Request { cookie, nr: RequestId(nr), command }.emit(&mut buf).unwrap();
                    if right {
                        asked.insert(nr);
                    }
                    engine.handle(Time(now), &buf[..len]);
                }
                Step::Wait(ns) => now += ns,
                Step::Send(times) => for _ in 0..times {
                    let before = engine.state();
                    let Some(len) = engine.transmit(Time(now), &mut Memory, &mut buf) else { break };
                    let reply = Reply::parse(&buf[..len]).unwrap();
                    match reply.body {
                        Body::Start(_) => prop_assert_eq!(before, State::Handshake),
                        Body::End => prop_assert_eq!(engine.state(), State::Ended(End::Exit)),
                        Body::Mem { data, .. } => {
                            prop_assert!(asked.contains(&reply.nr.0));
                            prop_assert!(data.iter().all(|b| *b == data[0] && b % 7 != 3 && b % 3 != 2));
                        }
                        _ => prop_assert!(asked.contains(&reply.nr.0), "{:?}", reply),
                    }
                },
            }
            let ended = engine.poll(Time(now));
            prop_assert_eq!(ended.is_some(), matches!(engine.state(), State::Ended(_)));
            prop_assert!(engine.pending() <= QUEUE_LEN + 1);
        }
        let counters = *engine.counters();
        let sorted = counters.accepted + counters.short + counters.bad_cookie + counters.early
            + counters.late + counters.duplicate + counters.queue_full;
        prop_assert_eq!(counters.received, sorted, "every datagram is counted once");
        prop_assert_eq!(counters.no_room, 0);
    }

    #[test]
    fn without_the_cookie_nothing_but_start_is_sent(
        datagrams in vec((vec(any::<u8>(), 0..40), 0..SECOND / 2), 0..100),
    ) {
        let mut engine = begun();
        let mut now = 0;
        let mut buf = [0u8; MAX_DATAGRAM];
        for (bytes, wait) in datagrams {
            engine.handle(Time(now), &bytes);
            while let Some(len) = engine.transmit(Time(now), &mut Memory, &mut buf) {
                prop_assert!(matches!(Reply::parse(&buf[..len]).unwrap().body, Body::Start(_)));
            }
            now += wait;
        }
        prop_assert!(engine.counters().starts <= now / SECOND + 1);
    }
}

#[test]
fn sleeping_until_the_deadline_misses_nothing() {
    for acknowledged in [false, true] {
        // A caller that wakes only at `next_deadline` sees the same end as one that polls all the time.
        let mut engine = begun();
        let mut buf = [0u8; MAX_DATAGRAM];
        if acknowledged {
            let ack = Request { cookie: COOKIE, nr: RequestId(1), command: Command::StartAck { max_version: 5 } };
            let len = ack.emit(&mut buf).unwrap();
            engine.handle(Time(0), &buf[..len]);
        }
        let mut now = Time(0);
        let end = loop {
            while engine.transmit(now, &mut Memory, &mut buf).is_some() {}
            if let Some(end) = engine.poll(now) {
                break end;
            }
            let next = engine.next_deadline().unwrap();
            assert!(next > now, "no busy loop");
            now = next;
        };
        let expected = if acknowledged { (End::IdleTimeout, 30) } else { (End::HandshakeTimeout, 60) };
        assert_eq!((end, now), (expected.0, Time(expected.1 * SECOND)));
    }
}
