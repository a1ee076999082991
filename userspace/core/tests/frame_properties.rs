// SPDX-License-Identifier: GPL-2.0-or-later
//! Frames and target strings: what is written is read back, and what was damaged is not.

use std::net::IpAddr;

use netdump_core::wire::frame::{
    parse, Fill, Frame, MacAddr, NeighbourQuery, NeighbourReply, NotForUs, Path, PreparedHeaders, UdpChecksum,
    UdpHeaders, ETH_HEADER_LEN, MAX_HEADERS_LEN, MIN_FRAME_LEN,
};
use netdump_core::wire::target::upstream::{self, Elements, Parsed, Refused};
use netdump_core::wire::target::{self, Device, Target};
use proptest::collection::vec;
use proptest::prelude::*;

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    (any::<[u8; 6]>(), any::<[u8; 6]>(), addresses(), any::<[u16; 2]>(), any::<Option<u16>>()).prop_map(
        |(local_mac, peer_mac, (local, peer), [local_port, peer_port], vlan)| Path {
            local_mac: MacAddr(local_mac),
            peer_mac: MacAddr(peer_mac),
            local,
            peer,
            local_port,
            peer_port,
            vlan,
        },
    )
}

fn datagram(path: Path, payload: &[u8], ident: u16) -> Vec<u8> {
    let mut frame = vec![0; MAX_HEADERS_LEN + payload.len()];
    let headers = path.headers_len();
    frame[headers..headers + payload.len()].copy_from_slice(payload);
    let written = UdpHeaders::new(path).emit(&mut frame, payload.len(), ident, Fill::Full).unwrap();
    frame.truncate(written.len);
    frame
}

/// Near enough to the kernel's functions for numbers and addresses.
struct Std;

impl Elements for Std {
    fn port(&self, text: &[u8]) -> Option<u16> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
    fn ip(&self, text: &[u8]) -> Option<IpAddr> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
    fn mac(&self, text: &[u8]) -> Option<[u8; 6]> {
        target::mac(std::str::from_utf8(text.get(..17)?).ok()?).map(|mac| mac.0)
    }
}

proptest! {
    #[test]
    fn prepared_headers_are_the_same(path in path(), payload in vec(any::<u8>(), 0..1473), ident in any::<u16>()) {
        let expected = datagram(path, &payload, ident);
        let prepared = PreparedHeaders::new(path).unwrap();
        let mut frame = vec![0xaa; expected.len()];
        frame[prepared.headers_len()..].copy_from_slice(&payload);
        let emitted = prepared.emit(&mut frame, payload.len(), ident).unwrap();
        prop_assert_eq!(emitted.len, frame.len());
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn datagrams_come_back(path in path(), payload in vec(any::<u8>(), 0..1473), ident in any::<u16>(), pad in 0..64usize) {
        let mut frame = datagram(path, &payload, ident);
        frame.resize(frame.len() + pad, 0); // short frames are padded on the way
        for checksum in [UdpChecksum::Verify, UdpChecksum::Trusted] {
            let Ok(Frame::Udp(udp)) = parse(&frame, checksum) else { panic!("{:?}", parse(&frame, checksum)) };
            prop_assert_eq!((udp.src, udp.dst, udp.src_mac), (path.local, path.peer, path.local_mac));
            prop_assert_eq!((udp.src_port, udp.dst_port), (path.local_port, path.peer_port));
            prop_assert_eq!(udp.payload, &payload[..]);
        }
    }

    #[test]
    fn a_damaged_datagram_is_not_taken_for_itself(
        path in path(),
        payload in vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let good = datagram(path, &payload, 1);
        let ip = ETH_HEADER_LEN + if path.vlan.is_some() { 4 } else { 0 };
        let mut bad = good.clone();
        let at = ip + at.index(good.len() - ip);
        bad[at] ^= 1 << bit;
        match parse(&bad, UdpChecksum::Verify) {
            // IPv6 has fields that no checksum covers: traffic class, flow label, hop limit. In IPv4 a checksum of
            // one bit that loses it says that there is none.
            Ok(taken) => {
                let uncovered = path.local.is_ipv6() && at < ip + 8;
                let unchecked = path.local.is_ipv4() && bad[ip + 26..ip + 28] == [0, 0];
                prop_assert!(uncovered || unchecked, "byte {} of {}", at, good.len());
                prop_assert_eq!(Ok(taken), parse(&good, UdpChecksum::Verify));
            }
            Err(NotForUs::BadChecksum | NotForUs::Malformed | NotForUs::OtherKind) => {}
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_refused(
        mut bytes in vec(any::<u8>(), 0..200),
        ethertype in prop::sample::select(vec![[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0x81, 0x00]]),
        first in prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60, 0x00]),
    ) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[14] = first;
        }
        if let Ok(Frame::Udp(udp)) = parse(&bytes, UdpChecksum::Trusted) {
            prop_assert!(udp.payload.len() + 42 <= bytes.len());
        }
    }

    #[test]
    fn neighbours_are_answered_in_whole_frames(
        (asker, target) in addresses(), mac in any::<[u8; 6]>(), vlan in any::<Option<u16>>(), room in 0..200usize,
    ) {
        let query = NeighbourQuery { asker_mac: MacAddr(mac), asker, target };
        let reply = NeighbourReply { query, local_mac: MacAddr([2, 0, 0, 0, 0, 1]), vlan };
        let mut frame = vec![0xee; room];
        if let Some(len) = reply.emit(&mut frame) {
            prop_assert!((MIN_FRAME_LEN..=room).contains(&len));
            prop_assert!(frame[len..].iter().all(|b| *b == 0xee));
            prop_assert_eq!(&frame[6..12], &[2, 0, 0, 0, 0, 1]);
        } else {
            prop_assert!(room < 14 + 4 + 40 + 32);
        }
    }

    #[test]
    fn target_strings_come_back(
        local_port in prop::option::of(1u16..), remote_port in prop::option::of(1u16..),
        (local, remote) in addresses(), with_local in any::<bool>(),
        device in prop::option::of("[a-z][a-z0-9.-]{0,14}"), mac in prop::option::of(any::<[u8; 6]>()),
    ) {
        let show = |text: Option<String>| text.unwrap_or_default();
        let text = format!(
            "{}@{}/{},{}@{}/{}",
            show(local_port.map(|p| p.to_string())),
            if with_local { local.to_string() } else { String::new() },
            device.clone().unwrap_or_default(),
            show(remote_port.map(|p| p.to_string())),
            remote,
            show(mac.map(|m| MacAddr(m).to_string())),
        );
        let target = Target::parse(&text).unwrap();
        prop_assert_eq!(target.local_port, local_port);
        prop_assert_eq!(target.local, with_local.then_some(local));
        prop_assert_eq!(target.device, device.as_deref().map(Device::Name));
        prop_assert_eq!((target.remote_port, target.remote), (remote_port, remote));
        prop_assert_eq!(target.remote_mac, mac.map(MacAddr));
    }

    #[test]
    fn upstreams_target_strings_come_back(
        (extended, release) in prop_oneof![Just((false, false)), Just((true, false)), Just((true, true))],
        local_port in any::<Option<u16>>(), remote_port in any::<Option<u16>>(),
        (local, remote) in addresses(), with_local in any::<bool>(),
        device in prop::option::of("[^:,\\PC]{1,20}"), mac in any::<Option<[u8; 6]>>(),
    ) {
        let show = |text: Option<String>| text.unwrap_or_default();
        let text = format!(
            "{}{}{}@{}/{},{}@{}/{}",
            if extended { "+" } else { "" },
            if release { "r" } else { "" },
            show(local_port.map(|p| p.to_string())),
            if with_local { local.to_string() } else { String::new() },
            device.clone().unwrap_or_default(),
            show(remote_port.map(|p| p.to_string())),
            remote,
            show(mac.map(|m| MacAddr(m).to_string())),
        );
        let device = device.as_ref().map(|name| upstream::Device::Name(name.as_bytes()));
        prop_assert_eq!(
            upstream::parse(text.as_bytes(), &Std),
            Ok(Parsed {
                extended, release, local_port, local: with_local.then_some(local), device, remote_port, remote, remote_mac: mac,
            })
        );
    }

    #[test]
    fn upstreams_parser_says_where_it_ends(text in "[+r@/,:.0-9a-f]{0,60}") {
        match upstream::parse(text.as_bytes(), &Std) {
            Ok(parsed) => prop_assert!(parsed.local.is_none_or(|local| local.is_ipv4() == parsed.remote.is_ipv4())),
            Err(Refused::At(at)) => prop_assert!(text.as_bytes().windows(at.len().max(1)).any(|part| part == at) || at.is_empty()),
            Err(Refused::ReleaseWithoutExtended) => prop_assert!(text.starts_with('r')),
        }
    }
}
