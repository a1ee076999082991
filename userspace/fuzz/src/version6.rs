// SPDX-License-Identifier: GPL-2.0-or-later
//! Version 6: its messages, and both of its state machines against a peer that holds the key and says anything.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use netdump_core::engine::v6::{Config6, Engine6, State6};
use netdump_core::engine::Time;
use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::cluster::{Cluster, Content, Piece, MAX_CLUSTER_LEN, PIECE_HEADER_LEN};
use netdump_core::wire::v6::handshake::{Ack6, Start6, ACK_LEN, SUITE_CLEAR};
use netdump_core::wire::v6::hint::ResetHint;
use netdump_core::wire::v6::message::{kind, Ask, End, Grant, Line, Part, Progress, Repair, Show, Wait};
use netdump_core::wire::v6::probe::{Probe, ProbeAck, PROBE_ACK_LEN};
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::{Codec, Counter, Header, Level, SessionId};
use netdump_core::wire::Pfn;
use netdump_session::v6::{Params6, Session6};
use netdump_session::{Event, Grant as Slot, Ring};
use netdump_sim::image::{Image, ImageParams};

use crate::input::Input;

/// What is read is written the same way again; what is not is refused.
pub fn version6_messages_come_back(data: &[u8]) {
    let mut buf = [0; 4096];
    if let Ok(grant) = Grant::parse(data) {
        let segments: Vec<_> = grant.segments().collect();
        let len = grant.emit(&segments, &mut buf).unwrap();
        let again = Grant::parse(&buf[..len]).unwrap();
        assert_eq!((again.serial, again.credit, again.level), (grant.serial, grant.credit, grant.level));
        assert_eq!(again.segments().collect::<Vec<_>>(), segments);
    }
    if let Ok(repairs) = Repair::parse(data) {
        let repairs: Vec<_> = repairs.collect();
        let len = Repair::emit(&repairs, &mut buf).unwrap();
        assert_eq!(Repair::parse(&buf[..len]).unwrap().collect::<Vec<_>>(), repairs);
    }
    if let Ok(progress) = Progress::parse(data) {
        let places: Vec<_> = progress.places().collect();
        let len = Progress::emit(progress.serial, places.iter().copied(), &progress.left_out, &mut buf).unwrap();
        assert_eq!(Progress::parse(&buf[..len]).unwrap().places().collect::<Vec<_>>(), places);
    }
    if let Ok(Some(show)) = Show::parse(data) {
        let len = show.emit(&mut buf).unwrap();
        assert_eq!(Show::parse(&buf[..len]), Ok(Some(show)));
    }
    if let Ok(piece) = Piece::parse(data) {
        let at = piece.offset().unwrap();
        assert!(at + piece.data.len() <= piece.length as usize && piece.length as usize <= MAX_CLUSTER_LEN);
        piece.emit_header(&mut buf).unwrap();
        let again = [&buf[..PIECE_HEADER_LEN], piece.data].concat();
        assert_eq!(Piece::parse(&again), Ok(piece));
    }
    if let Ok(cluster) = Cluster::parse(Pfn(7), data) {
        let mut last = 6;
        cluster.for_each(|content| {
            let (first, end) = match content {
                Content::Page(pfn, _) => (pfn.0, pfn.0 + 1),
                Content::Zeroes(pfn, count) => (pfn.0, pfn.0 + u64::from(count)),
            };
            assert!(first > last || first == last + 1 || last == 6);
            assert!(end > first && end <= cluster.end().0);
            last = end - 1;
        });
    }
    if let Ok(start) = Start6::parse(data) {
        let len = start.emit(&Ring, &Key::NONE, &mut buf).unwrap();
        assert_eq!(Start6::parse(&buf[..len]), Ok(start));
    }
    if let Some(hint) = ResetHint::answer(data) {
        assert!(hint.len() * 16 <= data.len() && ResetHint::answer(&hint).is_none());
        assert!(ResetHint::parse(&hint).is_some());
    }
    if let Ok(probe) = Probe::parse(data) {
        let len = ProbeAck::emit(&probe, data, &Ring, None, &mut buf).unwrap();
        assert!(len == PROBE_ACK_LEN && len < data.len());
        let ack = ProbeAck::parse(&buf[..len]).unwrap();
        assert_eq!((ack.id, ack.serial), (probe.id, probe.serial));
        assert!(Probe::parse(&buf[..len]).is_err());
        let len = probe.emit(&Ring, None, &mut buf).unwrap();
        assert_eq!(Probe::parse(&buf[..len]), Ok(probe));
    }
    let _ = ProbeAck::parse(data);
    let _ = (Ack6::parse(data), Ask::parse(data), Wait::parse(data), End::parse(data));
    let _ = (Part::parse(data), Line::parse(data));
}

fn image() -> Image {
    Image::new(ImageParams { memory: 3 << 20, log: 2000, ..ImageParams::default() })
}

/// A datagram of the fuzzer's, with a header that is in order.
fn datagram(input: &mut Input<'_>, session: SessionId, counter: &mut u64) -> Option<Vec<u8>> {
    let kind = input.u8()?;
    let body = input.bytes()?;
    let mut datagram = vec![0; 16];
    let header = Header { kind: kind.max(1), session, counter: Counter(*counter) };
    header.emit(&mut datagram).ok()?;
    *counter += 1;
    datagram.extend_from_slice(body);
    Some(datagram)
}

/// Whatever a server says, each datagram is one of the protocol and no longer than agreed on, and it ends by its clock.
pub fn engine6_sends_what_it_may(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut image, mut engine) = (image(), Box::new(Engine6::new()));
    let config = Config6 {
        machine: Machine::X86_64,
        key: None,
        seed: [1; 32],
        entropy: [2; 24],
        max_datagram: 1400,
        codecs: Codec::Lz4.bit(),
        level: Level::ALL,
        handshake_timeout: 0,
        idle_timeout: 60_000_000_000,
        queue_timeout: 0,
        total_timeout: 100_000_000_000,
    };
    engine.begin(config, Time(0), &Ring);
    let mut buf = [0; 2048];
    let len = engine.transmit(Time(0), &mut image, &Ring, &mut buf).unwrap();
    let client = Start6::parse(&buf[..len]).unwrap().session;
    let server = SessionId([9; 6]);
    let ack = Ack6 { suite: SUITE_CLEAR, client, server, random: [0; 32], kx: [0; 32], max_datagram: 1300 };
    let mut answer = [0; ACK_LEN];
    ack.emit(&Ring, None, &buf[..len], &mut answer).unwrap();
    engine.handle(Time(0), &answer, &Ring);
    assert_eq!(engine.state(), State6::Serving);
    let (mut now, mut counter) = (0u64, 0);
    while let Some(datagram) = datagram(&mut input, client, &mut counter) {
        engine.handle(Time(now), &datagram, &Ring);
        for _ in 0..40 {
            let Some(len) = engine.transmit(Time(now), &mut image, &Ring, &mut buf) else { break };
            assert!(len <= 1300);
            let (header, body) = Header::parse(&buf[..len]).unwrap();
            assert_eq!(header.session, server);
            if header.kind == kind::PIECE {
                let piece = Piece::parse(body).unwrap();
                assert!(piece.first.0 < 1 << 40);
            }
        }
        now += u64::from(input.u8().unwrap_or(0)) * 1_000_000;
        if engine.poll(Time(now)).is_some() {
            return;
        }
    }
    assert!(engine.poll(Time(100_000_000_000)).is_some(), "nothing extends total_timeout");
}

/// Whatever a client says, it hands over only what was asked for, each page once, holds a bounded heap of it, and ends.
pub fn session6_hands_over_only_what_was_asked(data: &[u8]) {
    let mut input = Input::new(data);
    let image = image();
    let start = Start6 {
        machine: Machine::X86_64,
        key: None,
        turns: true,
        suites: 1,
        codecs: 7,
        max_datagram: 1400,
        fire_id: [1; 16],
        epoch: 0,
        random: [2; 32],
        session: SessionId([3; 6]),
        kx: &[],
    };
    let mut bytes = [0; 256];
    let len = start.emit(&Ring, &Key::NONE, &mut bytes).unwrap();
    let (epoch, params) = (Instant::now(), Params6 { show_state: false, ..Params6::default() });
    let mut session = Session6::new(params, &bytes[..len], None, [5; 32], epoch).unwrap();
    let (mut out, mut now, mut counter) = (Vec::new(), epoch, 0);
    assert!(session.poll_transmit(now, &mut out));
    let server = Ack6::parse(&out).unwrap().server;
    let send = |session: &mut Session6, now, kind, body: &[u8], counter: &mut u64| {
        let mut datagram = vec![0; 16];
        Header { kind, session: server, counter: Counter(*counter) }.emit(&mut datagram).unwrap();
        *counter += 1;
        datagram.extend_from_slice(body);
        session.handle(now, &datagram);
    };
    // As far as memory it goes as it should.
    send(&mut session, now, kind::PROGRESS, &[0; 6], &mut counter);
    session.grant_slot(now, Slot::Full);
    let notes = image.notes().to_vec();
    for (item, text) in [(1u32, &notes[..]), (2, b"log")] {
        for (n, part) in text.chunks(1024).enumerate() {
            let mut body = item.to_be_bytes().to_vec();
            body.extend((n as u32 * 1024).to_be_bytes());
            body.extend((text.len() as u32).to_be_bytes());
            body.extend(part);
            send(&mut session, now, kind::PART, &body, &mut counter);
        }
    }
    let ram: HashSet<u64> = image.ram_pages().map(|pfn| pfn.0).collect();
    let mut seen = HashSet::new();
    let mut memory = false;
    loop {
        while let Some(event) = session.poll_event() {
            match event {
                Event::Described(_) => {
                    session.storage_ready(now);
                    memory = true;
                }
                Event::Pages(pages) => {
                    pages.each(|pfn, page| {
                        assert!(ram.contains(&pfn.0) && page.len() == 4096);
                        assert!(seen.insert(pfn.0), "{pfn:?} twice");
                    });
                    session.recycle(pages.data);
                }
                Event::MemoryDone(_) => session.stored(now),
                _ => {}
            }
        }
        while session.poll_transmit(now, &mut out) {
            assert!(out.len() <= 512);
        }
        assert!(memory, "the beginning is in order");
        let Some(datagram) = datagram(&mut input, server, &mut counter) else { break };
        session.handle(now, &datagram);
        now += Duration::from_micros(u64::from(input.u8().unwrap_or(0)) * 100);
        session.handle_timeout(now);
    }
    for _ in 0..2_000_000 {
        let Some(next) = session.poll_timeout() else { break };
        now = now.max(next);
        session.handle_timeout(now);
        while session.poll_transmit(now, &mut out) {}
        while let Some(event) = session.poll_event() {
            if let Event::MemoryDone(_) = event {
                session.stored(now);
            }
        }
    }
    assert!(session.is_finished());
}
