// SPDX-License-Identifier: GPL-2.0-or-later
//! Two ends of different versions, in virtual time ("Other versions" of docs/protocol.md).
//!
//! In clear an end of another version is made of one of ours and somebody on the path who changes what it says.

use std::time::{Duration, Instant};

use netdump_core::engine::v6::{Config6, Engine6, State6};
use netdump_core::engine::Time;
use netdump_core::wire::classic::Machine;
use netdump_core::wire::v6::handshake::{Ack6, KeyName, Start6, ACK_LEN};
use netdump_core::wire::v6::message::{kind, Grant, Repair, Turn};
use netdump_core::wire::v6::secure::{Channel, Crypto, Role, TrafficKeys};
use netdump_core::wire::v6::{Codec, Header, Level, HEADER_LEN};
use netdump_session::v6::{is_authentic, Params6, Session6};
use netdump_session::{Event, Ring};
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::world6::{World6, World6Params, KEY};

fn params() -> World6Params {
    let mut params = World6Params { keyed: false, level: Level::new(16).unwrap(), ..World6Params::default() };
    params.image.memory = 8 << 20;
    params.image.listing = 1000;
    params
}

/// A dump in clear, with somebody on the path.
fn dumped(params: World6Params, change: impl FnMut(bool, &mut Vec<u8>) + 'static) -> World6 {
    let (mut world, mut change) = (World6::new(params), change);
    world.attacker = Some(Box::new(move |to_client, mut datagram| {
        change(to_client, &mut datagram);
        vec![datagram]
    }));
    world.run_to_the_end();
    world.assert_complete();
    world
}

fn kind_of(datagram: &[u8]) -> Option<u8> {
    Header::parse(datagram).ok().map(|(header, _)| header.kind)
}

/// The START6 of a version 7 that has a longer header, a suite and a codec more, and something to say in a TLV. Its MAC is for
/// whoever has the key.
fn later_start(start: &[u8]) -> Vec<u8> {
    let mut later = [&start[..121], b"and more", &start[121..start.len() - 16], b"\x70\x01\x00\x03new"].concat();
    later[12] = 7;
    later[15] |= 0x80;
    later[17] |= 0x80;
    later[21] |= 0x80;
    later[28] = 129;
    let length = later.len() as u16 + 16;
    later[13..15].copy_from_slice(&length.to_be_bytes());
    later
}

/// Likewise an ACK6.
fn later_ack(ack: &[u8]) -> Vec<u8> {
    let mut later = [&ack[..108], b"and more"].concat();
    (later[19], later[25], later[27]) = (7, ACK_LEN as u8 + 8, 0xff);
    later
}

#[test]
fn a_later_client() {
    let mut count = 0;
    let mut world = dumped(params(), move |to_client, datagram| {
        if to_client {
            return;
        }
        match kind_of(datagram) {
            None => *datagram = [&later_start(datagram), &[0; 16][..]].concat(),
            Some(kind::PROGRESS) => {
                count += 1;
                if count % 3 == 0 {
                    datagram[1] = 0x7f; // something new
                }
                datagram.extend(b"and more");
            }
            Some(kind::PIECE) => datagram[HEADER_LEN + 19] = 0xff,
            Some(kind::BYE) => datagram.extend(b"and more"),
            Some(kind::LINE) => datagram[HEADER_LEN + 4] |= 0x80,
            _ => {}
        }
    });
    let counters = world.session().unwrap().counters();
    assert!(counters.malformed > 0, "there was something new: {counters:?}");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn a_later_server() {
    let mut count = 0;
    let world = dumped(params(), move |to_client, datagram| {
        if !to_client {
            return;
        }
        match kind_of(datagram) {
            None => *datagram = [&later_ack(datagram), &[0; 16][..]].concat(),
            Some(_) => {
                count += 1;
                if count % 5 == 0 {
                    datagram[1] = 0x3f; // something new
                }
                if kind_of(datagram) == Some(kind::GRANT) {
                    datagram[HEADER_LEN + 12] |= 0x20; // something more to leave out
                    datagram[HEADER_LEN + 14] = 64; // larger clusters
                    datagram[HEADER_LEN + 15] |= 0x80;
                }
                datagram.extend(b"and more");
            }
        }
    });
    let counters = world.engine().counters();
    assert!(counters.malformed > 0 && counters.handshakes == 1, "{counters:?}");
}

/// A client that does not know turns says so by saying nothing; a server that does not grants to everybody like to that one.
#[test]
fn an_end_without_turns() {
    for (loss, resumes) in [(0.0, false), (0.02, false), (0.02, true)] {
        let mut params = params();
        params.up.loss = loss;
        let mut world = World6::new(params);
        world.resumes = resumes;
        world.attacker = Some(Box::new(|to_client, mut datagram| {
            match kind_of(&datagram) {
                None if !to_client => datagram[16] &= !2,
                Some(kind::GRANT) => {
                    let grant = Grant::parse(&datagram[HEADER_LEN..]).unwrap();
                    assert!(
                        grant.segments().all(|segment| segment.turn == Turn::Any),
                        "it would not know what that is"
                    );
                }
                Some(kind::REPAIR) => {
                    assert!(Repair::parse(&datagram[HEADER_LEN..]).unwrap().all(|repair| repair.turn == Turn::Any));
                }
                _ => {}
            }
            vec![datagram]
        }));
        if resumes {
            while world.stored().pages.len() < 100 {
                world.run_until(world.now() + 1_000_000);
            }
            world.restart_server();
        }
        world.run_to_the_end();
        world.assert_complete();
        let (pages, sent) = (world.stored().pages.len() as u64, world.engine().counters().pages);
        assert!(loss > 0.0 || sent == pages, "{sent} of {pages}");
    }
}

#[test]
fn an_end_that_knows_no_places_in_the_listing() {
    let world = dumped(params(), |to_client, datagram| {
        if to_client && kind_of(datagram) == Some(kind::SHOW) {
            datagram.truncate(HEADER_LEN);
        }
    });
    assert_eq!(world.stored().listing, world.image().listing());
    // What was lost on the way is marked, and the dump is complete all the same.
    let mut lossy = params();
    (lossy.up.loss, lossy.image.listing) = (0.2, 3000);
    let world = dumped(lossy, |to_client, datagram| {
        if to_client && kind_of(datagram) == Some(kind::SHOW) {
            datagram.truncate(HEADER_LEN);
        }
    });
    let listing = String::from_utf8_lossy(&world.stored().listing).into_owned();
    assert!(listing.contains("bytes lost"), "{} bytes", listing.len());
}

fn sealed_mac(label: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    KEY.derive(&Ring, label, &[]).mac(&Ring, parts)
}

/// What a later version says more is under the MACs and in the keys like all the rest.
#[test]
fn a_later_handshake_is_sealed_as_a_whole() {
    let config = Config6 {
        machine: Machine::X86_64,
        key: Some((KeyName { key_id: [1; 16], arm_id: [2; 16] }, KEY)),
        seed: [1; 32],
        entropy: [2; 24],
        max_datagram: 1416,
        codecs: Codec::Lz4.bit(),
        level: Level::ALL,
        handshake_timeout: 0,
        idle_timeout: 0,
        queue_timeout: 0,
        total_timeout: 0,
    };
    let mut image = Image::new(ImageParams { memory: 1 << 20, ..ImageParams::default() });
    let mut engine = Box::new(Engine6::new());
    engine.begin(config, Time(0), &Ring);
    let mut buf = [0; 2048];
    let len = engine.transmit(Time(0), &mut image, &Ring, &mut buf).unwrap();
    let start = buf[..len].to_vec();

    // A later client, and our server.
    let mut later = later_start(&start);
    later.extend(sealed_mac(b"nd6 start", &[&later]));
    assert!(is_authentic(&later, &KEY) && !is_authentic(&[&later_start(&start)[..], &[0; 16]].concat(), &KEY));
    let now = Instant::now();
    let mut session = Session6::new(Params6::default(), &later, Some(&KEY), [3; 32], now).unwrap();
    let mut out = Vec::new();
    assert!(session.poll_transmit(now, &mut out));
    assert!(Ack6::is_authentic(&Ring, &KEY, &later, &out));
    let ack = Ack6::parse(&out).unwrap();
    let keys = TrafficKeys::derive(&Ring, &KEY, &later, &out);
    let mut channel = Channel::<4>::new(Role::Client, Some(keys), ack.client, ack.server);
    let mut datagram = [0; 64];
    let len = channel.seal(&Ring, kind::PROGRESS, &mut datagram, 14).unwrap();
    session.handle(now + Duration::from_millis(1), &datagram[..len]);
    assert!(matches!(session.poll_event(), Some(Event::Proved)), "it is there");

    // Our client, and a later server.
    let mut session = Session6::new(Params6::default(), &start, Some(&KEY), [4; 32], now).unwrap();
    assert!(session.poll_transmit(now, &mut out));
    let start_hash = Ring.sha256(&[&start]);
    let mut later = later_ack(&out);
    later.extend(sealed_mac(b"nd6 ack", &[&start_hash, &later]));
    let mut changed = later.clone();
    changed[110] ^= 1;
    engine.handle(Time(1), &changed, &Ring);
    assert_eq!(engine.state(), State6::Handshake, "what is not known is authenticated all the same");
    engine.handle(Time(1), &later, &Ring);
    assert_eq!(engine.state(), State6::Serving);
    let len = engine.transmit(Time(1), &mut image, &Ring, &mut buf).unwrap();
    let keys = TrafficKeys::derive(&Ring, &KEY, &start, &later);
    let ack = Ack6::parse(&later).unwrap();
    let mut server = Channel::<4>::new(Role::Server, Some(keys), ack.server, Start6::parse(&start).unwrap().session);
    let (said, _, _) = server.open(&Ring, &mut buf[..len]).unwrap();
    assert_eq!(said, kind::PROGRESS);
}
