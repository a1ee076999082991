// SPDX-License-Identifier: GPL-2.0-or-later
//! Console text, as it is sent and as it is put in order.

use std::time::{Duration, Instant};

use netdump_core::wire::log::extended::{self, Extended};
use netdump_core::wire::log::record::{Fragment, Record};
use netdump_core::wire::log::syslog::{Escapes, Header, Original, Rfc5424, SequenceId, MAX_ORIGINAL};
use netdump_core::wire::log::{Datagrams, Lines, Priority, UnixTime, MAX_DATAGRAM};
use netdump_core::wire::Writer;
use netdump_server::netlog;
use netdump_server::records;
use netdump_server::sink::Piece;

use crate::input::Input;

/// Text comes out of a log stream once at most, little is held, and all of it is let go in the end.
pub fn netlog_keeps_every_byte_once(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stream = netlog::Stream::default();
    let mut now = Instant::now();
    let (mut taken, mut out) = (0, Vec::new());
    let mut offset = 0u32;
    while let Some(op) = input.u8() {
        match op % 8 {
            0 => now += Duration::from_millis(u64::from(input.u8().unwrap_or(1))),
            1 => offset = input.u32().unwrap_or(0),
            2 => offset = offset.wrapping_sub(input.u8().unwrap_or(0).into()),
            3 => offset = offset.wrapping_add(input.u16().unwrap_or(0).into()),
            _ => {
                let text = input.bytes().unwrap_or(&[]);
                taken += text.len();
                stream.push(now, offset, text, &mut out);
                offset = offset.wrapping_add(text.len() as u32);
            }
        }
        stream.poll(now, &mut out);
        assert!(stream.held_bytes() <= netlog::MAX_HELD_BYTES);
        assert!(stream.deadline().is_none_or(|at| at > now));
    }
    stream.flush(&mut out);
    assert_eq!((stream.held_bytes(), stream.deadline()), (0, None));
    let given: usize = out.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum();
    assert!(given <= taken, "{given} of {taken}");
}

/// Any datagram is a record in bounds, whose header comes back, or it is none.
pub fn console_record_or_text(data: &[u8]) {
    let Ok(record) = Record::parse(data) else { return };
    assert!(!record.body.is_empty() && data.ends_with(record.body));
    if let Some(Fragment { offset, total }) = record.fragment {
        assert!(offset as usize + record.body.len() <= total as usize);
    }
    assert!(record.pairs().count() <= record.body.len() && record.text().len() <= record.body.len());
    let mut buf = vec![0; data.len() + 64];
    let mut w = Writer::new(&mut buf);
    record.emit_header(&mut w).expect("room");
    w.bytes(record.body).expect("room");
    let len = w.written();
    assert_eq!(Record::parse(&buf[..len]), Ok(Record { fragment: None, ..record }));
}

/// Whatever printk hands over, datagrams are bounded, and what can be cut comes back whole.
pub fn log_datagrams_are_bounded(data: &[u8]) {
    let mut input = Input::new(data);
    let priority = Priority::from_record(input.u32().unwrap_or(0));
    let time = input.u32().map(|time| UnixTime(u64::from(time) << 28));
    let hostname = input.bytes().unwrap_or(&[]);
    let (release, userdata) = (input.bytes().unwrap_or(&[]), input.bytes().unwrap_or(&[]));
    let text = input.rest();
    let mut buf = [0; MAX_DATAGRAM];

    let mut cursor = Original::new(text);
    while let Some(len) = cursor.emit_next(&mut buf).expect("room") {
        assert!(len <= MAX_ORIGINAL && buf[..len].ends_with(b"\n"));
    }
    let header = Header { priority, time, hostname };
    for escapes in [Escapes::None, Escapes::Printk] {
        let mut sequence = SequenceId::FIRST;
        let mut cursor = Rfc5424::new(header, &mut sequence, text, escapes);
        let mut lines = 0;
        while let Some(len) = cursor.emit_next(&mut buf).expect("room") {
            assert!(buf[..len].iter().all(|byte| *byte >= b' ' && *byte != 0x7f));
            lines += 1;
        }
        assert!(escapes == Escapes::Printk || lines == Lines::new(text).count());
    }

    let mut cursor = Extended { release, record: text, userdata, sysdata: b" cpu=0\n" }.datagrams();
    let (mut body, mut parsed, mut cut) = (Vec::new(), true, false);
    loop {
        match cursor.emit_next(&mut buf) {
            Ok(Some(len)) => {
                assert!(len <= extended::MAX_DATAGRAM);
                match Record::parse(&buf[..len]) {
                    Ok(Record { fragment: Some(fragment), body: piece, .. }) if parsed => {
                        cut = true;
                        assert_eq!(fragment.offset as usize, body.len());
                        body.extend_from_slice(piece);
                    }
                    _ => parsed = false,
                }
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    // A record that has a fragment's field of its own, or a release with a semicolon, reads as something else.
    if parsed && cut && !text.windows(7).any(|word| word == b"ncfrag=") && !release.contains(&b';') {
        assert!([text, userdata, b" cpu=0\n"].concat().ends_with(&body));
    }
}

/// Whatever records come in whatever order: little is held, none comes out twice, and all of it is let go in the end.
pub fn records_come_out_once(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stream = records::Stream::default();
    let mut now = Instant::now();
    let (mut taken, mut out) = (0, Vec::new());
    let (mut sequence, mut time) = (0u64, 0u64);
    while let Some(op) = input.u8() {
        match op % 8 {
            0 => now += Duration::from_millis(u64::from(input.u8().unwrap_or(1))),
            1 => sequence = u64::from(input.u32().unwrap_or(0)) << (op / 8),
            2 => sequence = sequence.wrapping_sub(input.u8().unwrap_or(0).into()),
            3 => time = u64::from(input.u16().unwrap_or(0)) << (op / 8),
            op => {
                let fragment = match (op, input.u8().unwrap_or(0), input.u8().unwrap_or(0)) {
                    (4 | 5, _, _) => String::new(),
                    (_, offset, total) => format!(",ncfrag={offset}/{total}"),
                };
                let mut datagram = format!("6,{sequence},{time},-{fragment};").into_bytes();
                datagram.extend_from_slice(input.bytes().unwrap_or(&[]));
                if op == 5 {
                    datagram.extend_from_slice(format!("\n msgid={}\n", sequence as u32 / 2).as_bytes());
                }
                if let Ok(record) = Record::parse(&datagram) {
                    taken += datagram.len() + 64;
                    stream.push(now, &datagram, &record, &mut out);
                }
                sequence = sequence.wrapping_add(1);
            }
        }
        stream.poll(now, &mut out);
        assert!(stream.held_bytes() <= records::MAX_HELD_BYTES);
        assert!(stream.deadline().is_none_or(|at| at > now));
    }
    stream.flush(&mut out);
    assert_eq!((stream.held_bytes(), stream.deadline()), (0, None));
    let given: usize = out.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum();
    // Each gap between fragments may be marked, by less than 64 bytes.
    assert!(given <= 2 * taken, "{given} of {taken}");
}
