// SPDX-License-Identifier: GPL-2.0-or-later
//! Probes between a machine and a server in virtual time, over a network that loses, delays, doubles and forges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use netdump_core::engine::prober::{Prober, Step, Verdict, TRIES};
use netdump_core::engine::Time;
use netdump_core::wire::v6::handshake::KeyName;
use netdump_core::wire::v6::probe::{Probe, ProbeAck, ProbeKey, PROBE_ACK_LEN};
use netdump_core::wire::v6::SessionId;
use netdump_session::Ring;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const KEY: (KeyName, ProbeKey) = (KeyName { key_id: [1; 16], arm_id: [2; 16] }, ProbeKey::new([3; 32]));

struct Network {
    loss: f64,
    /// One way, ns; each datagram takes up to half as long again.
    delay: u64,
    /// Each datagram comes twice, and old answers again in place of the server's.
    replays: bool,
    /// So do forged ones.
    forges: bool,
    /// When nobody is at the other end.
    down: std::ops::Range<u64>,
}

impl Default for Network {
    fn default() -> Self {
        Network { loss: 0.0, delay: SECOND / 10_000, replays: false, forges: false, down: 0..0 }
    }
}

#[derive(Default)]
struct Seen {
    questions: Vec<u64>,
    /// Each verdict that differs in kind from the one before, and when.
    verdicts: Vec<(u64, Verdict)>,
    silent: u64,
}

/// `key`: whether both ends have one.
fn run(interval: u64, network: &Network, key: bool, end: u64, seed: u64) -> Seen {
    let mut rng = Rng::with_seed(seed);
    let key = key.then_some(&KEY);
    let mut prober = Prober::new(interval, SessionId(std::array::from_fn(|_| rng.u8(..))));
    let mut way: BinaryHeap<Reverse<(u64, bool, Vec<u8>)>> = BinaryHeap::new();
    let (mut seen, mut now, mut listening, mut old) = (Seen::default(), 0, false, Vec::new());
    prober.begin(Time(0));
    let send = |rng: &mut Rng, way: &mut BinaryHeap<_>, now: u64, back: bool, datagram: &[u8]| {
        for _ in 0..if network.replays { 2 } else { 1 } {
            if rng.f64() >= network.loss {
                let at = now + network.delay + rng.u64(0..=network.delay / 2);
                way.push(Reverse((at, back, datagram.to_vec())));
            }
        }
    };
    while now < end {
        match prober.poll(Time(now)) {
            Step::Ask => {
                listening = true;
                let question = prober.question(Time(now), key, &Ring).unwrap().to_vec();
                seen.questions.push(now);
                send(&mut rng, &mut way, now, false, &question);
            }
            Step::Listen => assert!(listening),
            Step::Rest => listening = false,
        }
        let verdict = prober.verdict();
        let last = seen.verdicts.last().map(|(_, verdict)| std::mem::discriminant(verdict));
        if last != Some(std::mem::discriminant(&verdict)) {
            seen.verdicts.push((now, verdict));
        }
        let arrives = way.peek().map(|Reverse((at, ..))| *at);
        let due = prober.deadline().map(|due| due.0);
        let Some(next) = [arrives, due].into_iter().flatten().min() else { break };
        seen.silent += if matches!(verdict, Verdict::Silent { .. }) { next - now } else { 0 };
        now = next.max(now);
        if arrives.is_none_or(|at| at > now) {
            continue;
        }
        let Some(Reverse((_, back, datagram))) = way.pop() else { unreachable!("it was there") };
        if back {
            if listening {
                prober.handle(Time(now), &datagram, key, &Ring);
            }
        } else if !network.down.contains(&now) {
            let probe = Probe::parse(&datagram).unwrap();
            assert!(key.is_none_or(|(_, key)| Probe::is_authentic(&Ring, key, &datagram)));
            let mut answer = [0; PROBE_ACK_LEN];
            ProbeAck::emit(&probe, &datagram, &Ring, key.map(|(_, key)| key), &mut answer).unwrap();
            send(&mut rng, &mut way, now, true, &answer);
            old.push(answer.to_vec());
        } else if network.replays {
            // Somebody else answers: with what he has seen before, without the key, and with another one.
            old.iter().rev().take(3).for_each(|answer| send(&mut rng, &mut way, now, true, answer));
            if !network.forges {
                continue;
            }
            let probe = Probe::parse(&datagram).unwrap();
            for other in [None, Some(&ProbeKey::new([4; 32]))] {
                let mut answer = [0; PROBE_ACK_LEN];
                ProbeAck::emit(&probe, &datagram, &Ring, other, &mut answer).unwrap();
                send(&mut rng, &mut way, now, true, &answer);
            }
        }
    }
    seen
}

#[test]
fn one_question_an_interval_where_nothing_is_lost() {
    let network = Network { delay: SECOND / 50, ..Network::default() };
    for key in [false, true] {
        let seen = run(MINUTE, &network, key, 60 * MINUTE, 1);
        assert!((59..=61).contains(&seen.questions.len()), "{}", seen.questions.len());
        let [(_, Verdict::Unknown), (at, Verdict::Answered { after, .. })] = seen.verdicts[..] else {
            panic!("{:?}", seen.verdicts)
        };
        assert!(at < 2 * SECOND && (2 * network.delay..=3 * network.delay).contains(&after), "{at} {after}");
    }
    assert!(run(0, &network, true, 60 * MINUTE, 1).questions.is_empty(), "it is switched off");
}

#[test]
fn loss_is_not_silence() {
    // Three questions of which all are lost: 0.51 to the third, about an eighth.
    for (loss, most) in [(0.05, 0.02), (0.3, 0.25)] {
        let network = Network { loss, ..Network::default() };
        let end = 1000 * MINUTE;
        let seen = run(MINUTE, &network, true, end, 7);
        let share = seen.silent as f64 / end as f64;
        println!("{loss}: silent {share:.3} of the time, {} questions", seen.questions.len());
        assert!(share < most);
        assert!(seen.questions.len() < 2 * TRIES as usize * 1000, "it is patient");
    }
}

#[test]
fn a_server_that_goes_is_missed_and_one_that_comes_is_found() {
    // Who has seen the question can answer it where there is no key.
    for (interval, key) in [(10 * SECOND, true), (MINUTE, true), (MINUTE, false), (10 * MINUTE, true)] {
        let down = 30 * MINUTE..57 * MINUTE;
        let network = Network { down: down.clone(), replays: true, forges: key, ..Network::default() };
        let seen = run(interval, &network, key, 90 * MINUTE, 3);
        let [_, (_, Verdict::Answered { .. }), (gone, Verdict::Silent { since }), (back, Verdict::Answered { .. })] =
            seen.verdicts[..]
        else {
            panic!("{interval}: {:?}", seen.verdicts)
        };
        assert_eq!(since, Time(gone));
        assert!((down.start..=down.start + interval + 4 * SECOND).contains(&gone), "{interval}: missed after {gone}");
        assert!((down.end..=down.end + 30 * SECOND + 4 * SECOND).contains(&back), "{interval}: found after {back}");
    }
}

#[test]
fn an_answer_that_comes_too_late_is_none() {
    let network = Network { delay: 2 * SECOND, ..Network::default() };
    let seen = run(MINUTE, &network, true, 10 * MINUTE, 5);
    assert!(seen.verdicts.iter().all(|(_, verdict)| !matches!(verdict, Verdict::Answered { .. })));
}
