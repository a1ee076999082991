// SPDX-License-Identifier: GPL-2.0-or-later
//! Datagrams and frames.

use netdump_core::wire::classic::{Reply, ReplyView, Request, REQUEST_LEN};
use netdump_core::wire::ext::{Note, NotesWriter, Tlvs, VolatileRange, TLV_HEADER_LEN, VOLATILE_LEN};
use netdump_core::wire::frame::MacAddr;
use netdump_core::wire::frame::{self, Frame, NeighbourReply, UdpChecksum};

/// A request is 24 bytes or more, and what it says can be said again.
pub fn wire_request_comes_back(data: &[u8]) {
    let Ok(request) = Request::parse(data) else {
        assert!(data.len() < REQUEST_LEN);
        return;
    };
    let mut buf = [0; REQUEST_LEN];
    assert_eq!(request.emit(&mut buf), Ok(REQUEST_LEN));
    assert_eq!(Request::parse(&buf), Ok(request));
    assert_eq!(buf[..16], data[..16], "cookie, number and command are as they were");
}

/// A reply is refused or can be said again, in no more bytes than it announces.
pub fn wire_reply_comes_back(data: &[u8]) {
    let Ok(reply) = Reply::parse(data) else { return };
    let view = ReplyView::new_checked(data).expect("a reply has a header");
    assert!(view.payload().len() + 13 == data.len());
    let mut buf = [0; 2048];
    let len = reply.emit(&mut buf).expect("no reply is longer than a frame");
    assert!(len <= reply.buffer_len());
    assert_eq!(Reply::parse(&buf[..len]), Ok(reply));
    assert!(reply.emit(&mut buf[..len - 1]).is_err());
}

/// Notes lie one behind the other in the item, and a note that was read can be written again.
pub fn notes_stay_in_bounds(data: &[u8]) {
    let mut taken = 0;
    let mut buf = vec![0; data.len() + 64];
    for tlv in Tlvs::new(data) {
        let Ok(tlv) = tlv else { break };
        let start = taken + TLV_HEADER_LEN;
        assert_eq!(tlv.value, &data[start..start + tlv.value.len()]);
        taken = start + tlv.value.len();
        let Ok(note) = Note::parse(&tlv) else { continue };
        let mut writer = NotesWriter::new(&mut buf);
        match note {
            Note::Machine(machine) => writer.machine(&machine),
            Note::Cpu(cpu) => writer.cpu(&cpu),
            Note::Vmcoreinfo(text) => writer.vmcoreinfo(text),
            Note::Ranges(ranges) => {
                let ranges: Vec<_> = ranges.iter().collect();
                assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
                writer.ranges(&ranges)
            }
            Note::Ktext(ktext) => writer.ktext(&ktext),
            Note::Layout { page_offset } => writer.layout(page_offset),
            Note::Identity(text) | Note::Panic(text) => writer.raw(tlv.kind, text),
            Note::Overlay { paddr, data } => writer.overlay(paddr, data),
            Note::Unknown { kind, value } => writer.raw(kind, value),
        }
        .expect("it was there before");
        let len = writer.len();
        let again = Tlvs::new(&buf[..len]).next().expect("a note").expect("whole");
        assert_eq!(Note::parse(&again), Ok(note));
    }
    for (place, entry) in VolatileRange::iter(data).enumerate() {
        let Ok(entry) = entry else { continue };
        let mut again = [0; VOLATILE_LEN];
        assert_eq!(entry.emit(&mut again), Ok(VOLATILE_LEN));
        assert_eq!(again[..], data[place * VOLATILE_LEN..][..VOLATILE_LEN]);
        assert!(entry.label().is_none_or(|label| label.len() <= 16));
    }
}

/// What is found in a frame lies in the frame, and the answer to a query goes to who asked.
pub fn frame_yields_only_its_own_bytes(data: &[u8]) {
    let trusted = frame::parse(data, UdpChecksum::Trusted);
    if let Ok(verified) = frame::parse(data, UdpChecksum::Verify) {
        assert_eq!(trusted, Ok(verified), "a check can only refuse");
    }
    match trusted {
        Ok(Frame::Udp(udp)) => {
            let (frame, payload) = (data.as_ptr_range(), udp.payload.as_ptr_range());
            assert!(frame.start <= payload.start && payload.end <= frame.end);
            assert_eq!(udp.src.is_ipv4(), udp.dst.is_ipv4());
        }
        Ok(Frame::NeighbourQuery(query)) => {
            let reply = NeighbourReply { query, local_mac: MacAddr([2, 0, 0, 0, 0, 9]), vlan: None };
            let mut buf = [0xee; 128];
            let len = reply.emit(&mut buf).expect("room enough");
            assert!((frame::MIN_FRAME_LEN..=buf.len()).contains(&len));
            assert!(buf[len..].iter().all(|b| *b == 0xee));
            assert!(buf[..6] == query.asker_mac.0 || buf[0] == 0x33);
            // It is an answer, and so nothing that would be answered in turn.
            assert!(!matches!(frame::parse(&buf[..len], UdpChecksum::Verify), Ok(Frame::NeighbourQuery(_))));
        }
        Err(_) => {}
    }
}
