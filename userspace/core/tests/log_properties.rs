// SPDX-License-Identifier: GPL-2.0-or-later
//! What holds for console text in every format: all of it arrives, in datagrams of bounded length, and no bytes do harm.

use netdump_core::wire::classic::{Body, Reply, MAX_LOG_TEXT};
use netdump_core::wire::log::basic::{self, Basic};
use netdump_core::wire::log::extended::{self, Extended};
use netdump_core::wire::log::netlog::Stream;
use netdump_core::wire::log::printk::{escape, Flag, RecordHeader};
use netdump_core::wire::log::record::{Fragment, Record};
use netdump_core::wire::log::syslog::{Escapes, Header, Original, Rfc5424, SequenceId, MAX_ORIGINAL};
use netdump_core::wire::log::{Datagrams, Lines, Priority, Unescaped, UnixTime, MAX_DATAGRAM};
use netdump_core::wire::Writer;
use proptest::collection::vec;
use proptest::prelude::*;

fn all(mut cursor: impl Datagrams) -> Vec<Vec<u8>> {
    let mut buf = [0; MAX_DATAGRAM];
    let mut out = Vec::new();
    while let Some(len) = cursor.emit_next(&mut buf).expect("room and sense") {
        assert!((1..=MAX_DATAGRAM).contains(&len));
        out.push(buf[..len].to_vec());
    }
    out
}

/// The same by way of [`Datagrams::next_in_place`], as netconsole.ko sends, and how many were not copied.
fn all_in_place(mut cursor: impl Datagrams) -> (Vec<Vec<u8>>, usize) {
    let mut buf = [0; MAX_DATAGRAM];
    let (mut out, mut in_place) = (Vec::new(), 0);
    loop {
        if let Some(datagram) = cursor.next_in_place() {
            in_place += 1;
            out.push(datagram.to_vec());
        } else if let Some(len) = cursor.emit_next(&mut buf).expect("room and sense") {
            out.push(buf[..len].to_vec());
        } else {
            return (out, in_place);
        }
    }
}

fn written(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buf = vec![0; 16_384];
    let mut w = Writer::new(&mut buf);
    fill(&mut w);
    let len = w.written();
    buf.truncate(len);
    buf
}

fn text(len: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![8 => any::<u8>(), 1 => Just(b'\n')], 0..len)
}

fn header() -> impl Strategy<Value = RecordHeader> {
    let flag = prop_oneof![Just(Flag::Whole), Just(Flag::Continued), Just(Flag::Continuation)];
    (any::<u32>(), any::<u64>(), any::<u64>(), flag).prop_map(|(priority, sequence, time_us, flag)| RecordHeader {
        priority,
        sequence,
        time_us,
        flag,
    })
}

/// The pieces of one record put together again.
fn joined(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let total = Record::parse(&datagrams[0]).unwrap().fragment.map(|fragment| fragment.total);
    let mut body = Vec::new();
    for datagram in datagrams {
        let record = Record::parse(datagram).unwrap();
        let expected = total.map(|total| Fragment { offset: body.len() as u32, total });
        assert_eq!(record.fragment, expected, "each begins where the one before it ended");
        body.extend_from_slice(record.body);
    }
    assert!(total.is_none_or(|total| body.len() == total as usize));
    body
}

proptest! {
    #[test]
    fn netlog_and_basic_lose_nothing(text in text(5000), start: u32) {
        let mut stream = Stream::new(start);
        let mut got = Vec::new();
        for datagram in all(stream.send(&text)) {
            let Body::Log { offset, text } = Reply::parse(&datagram).unwrap().body else { panic!("no log") };
            prop_assert_eq!(offset, start.wrapping_add(got.len() as u32));
            prop_assert!(text.len() <= MAX_LOG_TEXT);
            got.extend_from_slice(text);
        }
        prop_assert_eq!(&got, &text);
        prop_assert_eq!(stream.offset(), start.wrapping_add(text.len() as u32));

        let datagrams = all(Basic::new(&text));
        prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= basic::MAX_TEXT));
        prop_assert_eq!(all_in_place(Basic::new(&text)), (datagrams.clone(), datagrams.len()));
        prop_assert_eq!(datagrams.concat(), text);
    }

    #[test]
    fn extended_comes_back(
        header in header(),
        release in "|[!-+.-:<-~-]{1,64}",
        caller in "|,caller=T[0-9]{1,5}",
        text in text(800),
        keys in text(400),
        userdata in text(6000),
        sysdata in text(300),
    ) {
        let record = written(|w| {
            header.emit(w).unwrap();
            w.bytes(caller.as_bytes()).unwrap();
            w.u8(b';').unwrap();
            escape(&text, w).unwrap();
            w.u8(b'\n').unwrap();
            w.bytes(&keys).unwrap();
        });
        let message = Extended { release: release.as_bytes(), record: &record, userdata: &userdata, sysdata: &sysdata };
        let datagrams = all(message.datagrams());
        prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= extended::MAX_DATAGRAM));
        let prefix = if release.is_empty() { 0 } else { release.len() + 1 };
        let whole = prefix + record.len() + userdata.len() + sysdata.len() <= extended::MAX_DATAGRAM;
        prop_assert_eq!(datagrams.len() == 1, whole, "cut only where it must be");
        let bare = Extended { record: &record, ..Extended::default() };
        prop_assert_eq!(all_in_place(message.datagrams()).0, datagrams.clone());
        prop_assert_eq!(all_in_place(bare.datagrams()), (all(bare.datagrams()), usize::from(record.len() <= extended::MAX_DATAGRAM)));

        for datagram in &datagrams {
            let parsed = Record::parse(datagram).unwrap();
            prop_assert_eq!(parsed.header, header);
            prop_assert_eq!(parsed.release, (!release.is_empty()).then_some(release.as_bytes()));
            prop_assert_eq!(parsed.fields, caller.as_bytes());
        }
        let body = joined(&datagrams);
        let (_, sent) = record.split_at(record.iter().position(|byte| *byte == b';').unwrap() + 1);
        prop_assert_eq!(&body, &[sent, &userdata, &sysdata].concat());

        let parsed = Record { fragment: None, body: &body, ..Record::parse(&datagrams[0]).unwrap() };
        prop_assert!(Unescaped::new(parsed.text()).eq(text.iter().copied()));
        let again = written(|w| parsed.emit_header(w).unwrap());
        let release = if release.is_empty() { Vec::new() } else { format!("{release},").into_bytes() };
        prop_assert_eq!(again, [&release, &record[..record.len() - sent.len()]].concat());
    }

    #[test]
    fn syslog_has_a_datagram_for_each_line(text in text(3000), time in proptest::option::of(any::<u64>()), host: Vec<u8>) {
        let lines: Vec<&[u8]> = Lines::new(&text).collect();
        let sent = all(Original::new(&text));
        prop_assert_eq!(sent.len(), lines.len());
        for (datagram, line) in sent.iter().zip(&lines) {
            prop_assert!(datagram.len() <= MAX_ORIGINAL && datagram.starts_with(b"<5> ") && datagram.ends_with(b"\n"));
            prop_assert!(line.starts_with(&datagram[4..datagram.len() - 1]));
        }

        let header = Header { priority: Priority::from_record(13), time: time.map(UnixTime), hostname: &host };
        let escaped = written(|w| escape(&text, w).unwrap());
        for (text, escapes) in [(&text, Escapes::None), (&escaped, Escapes::Printk)] {
            let mut sequence = SequenceId::FIRST;
            let sent = all(Rfc5424::new(header, &mut sequence, text, escapes));
            prop_assert_eq!(sent.len(), lines.len());
            prop_assert_eq!(sequence.number() as usize, 1 + lines.len());
            for (n, datagram) in sent.iter().enumerate() {
                prop_assert!(datagram.iter().all(|byte| *byte >= b' ' && *byte != 0x7f), "no control bytes");
                let mark = format!(" kernel - - [meta sequenceId=\"{}\"] ", n + 1);
                prop_assert!(datagram.windows(mark.len()).any(|window| window == mark.as_bytes()));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..1100), head in "([!-+.-~]{0,8},)?[0-9]{0,3},[0-9]{0,21},[0-9]{0,4},[-c+x]?(,[a-z]*=[0-9/]*){0,3};?") {
        let _ = Record::parse(&bytes);
        let datagram = [head.as_bytes(), &bytes].concat();
        if let Ok(record) = Record::parse(&datagram) {
            prop_assert!(!record.body.is_empty() && datagram.ends_with(record.body));
            if let Some(Fragment { offset, total }) = record.fragment {
                prop_assert!(offset as usize + record.body.len() <= total as usize);
            }
            prop_assert!(record.pairs().count() <= record.body.len());
        }
    }

    #[test]
    fn any_record_is_cut_or_refused(record in vec(any::<u8>(), 0..2100), userdata in vec(any::<u8>(), 0..1100)) {
        let message = Extended { record: &record, userdata: &userdata, ..Extended::default() };
        let mut cursor = message.datagrams();
        let mut buf = [0; MAX_DATAGRAM];
        let mut sent = 0;
        while let Ok(Some(len)) = cursor.emit_next(&mut buf) {
            sent += 1;
            prop_assert!(len <= extended::MAX_DATAGRAM && sent <= record.len() + userdata.len() + 1);
        }
    }
}
