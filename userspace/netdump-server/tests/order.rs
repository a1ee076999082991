// SPDX-License-Identifier: GPL-2.0-or-later
//! Console text over a network that loses, copies and reorders, in virtual time: from the code that netconsole.ko sends
//! with to the code that puts it in order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Reply};
use netdump_core::wire::log::extended::Extended;
use netdump_core::wire::log::netlog::Stream;
use netdump_core::wire::log::record::Record;
use netdump_core::wire::log::{Datagrams, MAX_DATAGRAM};
use netdump_server::sink::{Lost, Piece, Verdict};
use netdump_server::{netlog, records};
use netdump_sim::link::{Link, LinkParams};

const MILLISECOND: u64 = 1_000_000;
const SEEDS: std::ops::Range<u64> = 0..30;

/// A network that reorders within the window that the server promises.
fn bad() -> LinkParams {
    LinkParams {
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.2,
        reorder_by: 40 * MILLISECOND,
        jitter: MILLISECOND,
        ..LinkParams::default()
    }
}

/// Datagrams on their way: each with its number, so that it is known which arrived.
struct Network {
    /// Eight bytes in front of each datagram are its number.
    link: Link<Vec<u8>>,
    started: Instant,
    now: u64,
    sent: usize,
    arrived: BTreeSet<usize>,
}

impl Network {
    fn new(params: LinkParams, seed: u64) -> Network {
        Network { link: Link::new(params, seed), started: Instant::now(), now: 0, sent: 0, arrived: BTreeSet::new() }
    }

    fn send(&mut self, datagram: &[u8]) {
        self.link.offer(self.now, [&self.sent.to_be_bytes()[..], datagram].concat());
        self.sent += 1;
    }

    /// Lets `time` pass in steps of a millisecond and hands over what arrives, and each step's time.
    fn pass(&mut self, time: u64, mut take: impl FnMut(Instant, Option<&[u8]>)) {
        for _ in 0..time {
            self.now += MILLISECOND;
            let now = self.started + Duration::from_nanos(self.now);
            while let Some(frame) = self.link.take_due(self.now) {
                let (number, datagram) = frame.split_first_chunk().unwrap();
                self.arrived.insert(usize::from_be_bytes(*number));
                take(now, Some(datagram));
            }
            take(now, None);
        }
    }
}

fn datagrams(mut cursor: impl Datagrams) -> Vec<Vec<u8>> {
    let mut buf = [0; MAX_DATAGRAM];
    let mut all = Vec::new();
    while let Some(len) = cursor.emit_next(&mut buf).unwrap() {
        all.push(buf[..len].to_vec());
    }
    all
}

/// A client says `lines` lines; what the server makes of it, what was said, and how much of it was lost.
fn netlog_over(params: LinkParams, seed: u64, start: u32, lines: usize) -> (Vec<Piece>, Vec<u8>, u64, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut network = Network::new(params, seed);
    let mut client = Stream::new(start);
    let mut server = netlog::Stream::resume(start);
    let (mut said, mut lengths, mut out, mut late) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut take = |network: &mut Network, time: u64| {
        network.pass(time, |now, datagram| {
            if let Some(datagram) = datagram {
                let Body::Log { offset, text } = Reply::parse(datagram).unwrap().body else { panic!("no log") };
                late += usize::from(server.push(now, offset, text, &mut out) == Verdict::Late);
            }
            server.poll(now, &mut out);
        });
    };
    for line in 0..lines {
        let text: Vec<u8> = format!("line {line} ").bytes().cycle().take(random.usize(1..2200)).collect();
        for datagram in datagrams(client.send(&text)) {
            lengths.push(datagram.len() as u64 - 13);
            network.send(&datagram);
        }
        said.extend_from_slice(&text);
        take(&mut network, random.u64(1..8));
    }
    // One that arrives for certain, so that what is missing before it is known to be.
    let end = lengths.len();
    take(&mut network, 1000);
    network.link.set_params(LinkParams::default());
    network.send(&datagrams(client.send(b"end\n"))[0]);
    said.extend_from_slice(b"end\n");
    take(&mut network, 1000);
    let lost = (0..end).filter(|n| !network.arrived.contains(n)).map(|n| lengths[n]).sum();
    (out, said, lost, late)
}

/// Every byte is where it was said, or marked as lost; how many are marked.
fn account(out: &[Piece], said: &[u8]) -> u64 {
    let (mut at, mut lost) = (0, 0);
    for piece in out {
        match piece {
            Piece::Text(text) => {
                assert_eq!(text[..], said[at..at + text.len()]);
                at += text.len();
            }
            Piece::Lost(Lost::Bytes(bytes)) => {
                lost += bytes;
                at += *bytes as usize;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, said.len());
    lost
}

#[test]
fn netlog_loses_what_the_network_loses_and_says_so() {
    for seed in SEEDS {
        // Near the end of the offsets, which wrap.
        let start = if seed % 2 == 0 { 0 } else { u32::MAX - 50_000 };
        let (out, said, lost, late) = netlog_over(bad(), seed, start, 300);
        assert_eq!(account(&out, &said), lost, "seed {seed}");
        assert_eq!(late, 0, "seed {seed}");
        assert!(lost > 0);
    }
}

#[test]
fn netlog_beyond_the_window_is_late_and_still_nothing_is_false() {
    for seed in SEEDS {
        // No copies: one of them that comes after 64 other packets looks like a new stream.
        let params = LinkParams { loss: 0.0, duplicate: 0.0, reorder: 0.02, reorder_by: 2000 * MILLISECOND, ..bad() };
        let (out, said, lost, late) = netlog_over(params, seed, 0, 100);
        let marked = account(&out, &said);
        assert!(marked >= lost && (late > 0 || marked == lost), "seed {seed}");
    }
}

/// A client says records, some in fragments; what the server makes of it.
#[test]
fn records_lose_what_the_network_loses_and_say_so() {
    for seed in SEEDS {
        for counted in [false, true] {
            records_over(seed, counted);
        }
    }
}

fn records_over(seed: u64, counted: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut network = Network::new(bad(), seed);
    let mut server = records::Stream::default();
    let mut out = Vec::new();
    let mut take = |network: &mut Network, time: u64| {
        network.pass(time, |now, datagram| {
            if let Some(datagram) = datagram {
                let record = Record::parse(datagram).unwrap();
                let verdict = server.push(now, datagram, &record, &mut out);
                assert!(matches!(verdict, Verdict::Taken | Verdict::Duplicate), "{verdict:?}");
            }
            server.poll(now, &mut out);
        });
    };
    // Number and datagrams of each.
    let mut said: Vec<(u64, Vec<Vec<u8>>)> = Vec::new();
    let mut number = 1000u64;
    for count in 0..300u32 {
        let long = if count % 10 == 7 { random.usize(1000..6000) } else { random.usize(0..300) };
        let record = format!("6,{number},{},-,caller=T1;{}\n", 5_000_000 + u64::from(count), "y".repeat(long));
        let sysdata = if counted { format!(" cpu=0\n msgid={count}\n") } else { String::new() };
        let message = Extended { record: record.as_bytes(), sysdata: sysdata.as_bytes(), ..Extended::default() };
        let all = datagrams(message.datagrams());
        all.iter().for_each(|datagram| network.send(datagram));
        said.push((number, all));
        take(&mut network, random.u64(1..8));
        // Records that are below the console's level, where the client counts what it sends.
        number += if counted && count % 5 == 0 { 3 } else { 1 };
    }
    take(&mut network, 1000);
    network.link.set_params(LinkParams::default());
    let end = format!("6,{number},6000000,-;end\n{}", if counted { " msgid=300\n" } else { "" });
    network.send(end.as_bytes());
    take(&mut network, 1000);

    let stored: Vec<u8> = out
        .iter()
        .flat_map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Lost(lost) => format!("{lost}\n").into_bytes(),
            Piece::Restart => panic!("seed {seed}: a restart"),
        })
        .collect();
    said.push((number, vec![end.into_bytes()]));

    // What should stand there: each record as far as it arrived, and marks.
    let (mut expected, mut before, mut sent) = (String::new(), None, 0);
    for (number, all) in &said {
        let arrived: Vec<_> = (sent..sent + all.len()).map(|n| network.arrived.contains(&n)).collect();
        sent += all.len();
        if !arrived.contains(&true) {
            continue;
        }
        let text = as_far_as(all, &arrived);
        let whole = !arrived.contains(&false);
        if let Some((next, msgid)) = before {
            let lost = match (msgid, count_of(&text).filter(|_| whole)) {
                (Some(before), Some(now)) => u64::from(now - before - 1),
                _ => number - next,
            };
            if lost > 0 {
                expected += &format!("{}\n", Lost::Messages(lost));
            }
        }
        before = Some((number + 1, count_of(&text)));
        expected += &text;
    }
    assert_eq!(String::from_utf8(stored).unwrap(), expected, "seed {seed}");
}

/// A record of which these datagrams arrived.
fn as_far_as(datagrams: &[Vec<u8>], arrived: &[bool]) -> String {
    let mut text = String::new();
    let mut missing = 0;
    for (datagram, arrived) in datagrams.iter().zip(arrived) {
        let record = Record::parse(datagram).unwrap();
        let body = std::str::from_utf8(record.body).unwrap();
        if text.is_empty() {
            let datagram = std::str::from_utf8(datagram).unwrap();
            let header = datagram.split([';']).next().unwrap();
            text = header.split(",ncfrag=").next().unwrap().to_owned() + ";";
        }
        if !arrived {
            missing += body.len() as u64;
            continue;
        }
        if missing > 0 {
            text += &format!("{}\n", Lost::Bytes(std::mem::take(&mut missing)));
        }
        text += body;
    }
    if missing > 0 {
        text += &format!("{}\n", Lost::Bytes(missing));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What the client counted for a record.
fn count_of(text: &str) -> Option<u32> {
    let (_, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    last.strip_prefix(" msgid=")?.parse().ok()
}
