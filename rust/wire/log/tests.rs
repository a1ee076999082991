// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The log formats byte by byte.

use super::super::classic::{Body, Reply};
use super::super::{Error, Writer};
use super::basic::Basic;
use super::extended::Extended;
use super::netlog::Stream;
use super::printk::{escape, Flag, Lines, Priority, RecordHeader, Unescaped};
use super::record::{Fragment, Record, MAX_BODY};
use super::syslog::{Escapes, Header, Original, Rfc5424, SequenceId};
use super::{Datagrams, UnixTime, MAX_DATAGRAM};
use std::vec::Vec;

fn all(mut cursor: impl Datagrams) -> Vec<Vec<u8>> {
    let mut buf = [0xeeu8; MAX_DATAGRAM];
    let mut out = Vec::new();
    while let Some(len) = cursor.emit_next(&mut buf).unwrap() {
        out.push(buf[..len].to_vec());
    }
    assert_eq!(cursor.emit_next(&mut buf), Ok(None), "done stays done");
    out
}

/// Text in which a shifted byte is seen.
fn filler(len: usize) -> Vec<u8> {
    (0..len).map(|n| b'a' + (n % 23) as u8).collect()
}

#[test]
fn netlog_counts_on() {
    let mut stream = Stream::new(u32::MAX - 1);
    let sent = all(stream.send(b"wrap\n"));
    assert_eq!(sent, [b"\x04\0\0\0\0\0\0\0\x02\xff\xff\xff\xfewrap\n"]);
    assert_eq!(stream.offset(), 3);
    stream.skip(10);
    assert_eq!(all(stream.send(b"x")), [b"\x04\0\0\0\0\0\0\0\x02\0\0\0\x0dx"]);
    assert!(all(stream.send(b"")).is_empty());
}

#[test]
fn netlog_cuts_at_1000() {
    let text = filler(2001);
    let mut stream = Stream::new(5);
    let mut offset = 5;
    let mut joined = Vec::new();
    for packet in all(stream.send(&text)) {
        let Body::Log { offset: at, text } = Reply::parse(&packet).unwrap().body else { panic!("no log") };
        assert_eq!(at, offset);
        assert!(text.len() <= 1000);
        offset += text.len() as u32;
        joined.extend_from_slice(text);
    }
    assert_eq!((joined, stream.offset()), (text, 2006));
}

#[test]
fn no_room_moves_nothing() {
    let mut stream = Stream::new(0);
    let mut cursor = stream.send(b"abcd");
    assert_eq!(cursor.emit_next(&mut [0; 16]), Err(Error::NoRoom));
    assert_eq!(cursor.emit_next(&mut [0; 17]), Ok(Some(17)));
    assert_eq!(Basic::new(b"abcd").emit_next(&mut [0; 3]), Err(Error::NoRoom));
    let mut fragments = Extended { record: &[b';'; 1001], ..Extended::default() }.datagrams();
    assert_eq!(fragments.emit_next(&mut [0; 999]), Err(Error::NoRoom));
    assert_eq!(fragments.emit_next(&mut [0; 1000]), Ok(Some(1000)));
    let mut original = Original::new(b"a\nb\n");
    assert_eq!(original.emit_next(&mut [0; 5]), Err(Error::NoRoom));
    let mut buf = [0; 6];
    assert_eq!(original.emit_next(&mut buf), Ok(Some(6)));
    assert_eq!(&buf, b"<5> a\n");
}

#[test]
fn basic_cuts_at_1000() {
    let text = filler(2300);
    assert_eq!(all(Basic::new(&text)), [&text[..1000], &text[1000..2000], &text[2000..]]);
    assert_eq!(all(Basic::new(&text[..1000])), [&text[..1000]]);
    assert!(all(Basic::new(b"")).is_empty());
}

#[test]
fn extended_whole() {
    let message = Extended {
        release: b"7.3.4",
        record: b"6,416,1758426,-;eth0: link up\n SUBSYSTEM=net\n",
        userdata: b" rack=b7\n",
        sysdata: b" cpu=3\n msgid=9\n",
    };
    let wire = b"7.3.4,6,416,1758426,-;eth0: link up\n SUBSYSTEM=net\n rack=b7\n cpu=3\n msgid=9\n";
    assert_eq!(all(message.datagrams()), [wire]);
    assert_eq!(all(Extended { release: b"", ..message }.datagrams()), [&wire[6..]]);
}

#[test]
fn extended_is_whole_up_to_1000_bytes_in_all() {
    let mut record = b"6,416,1758426,-;".to_vec();
    record.extend_from_slice(&filler(1000 - record.len()));
    let message = Extended { record: &record, ..Extended::default() };
    assert_eq!(all(message.datagrams()), [&record[..]]);
    assert_eq!(all(Extended { userdata: b"u", ..message }.datagrams()).len(), 2);
    assert_eq!(all(Extended { sysdata: b"s", ..message }.datagrams()).len(), 2);
    assert_eq!(all(Extended { release: b"r", ..message }.datagrams()).len(), 2);
}

#[test]
fn extended_fragments() {
    let mut record = b"6,416,1758426,-,caller=T1;".to_vec();
    let text = filler(1500);
    record.extend_from_slice(&text);
    let userdata = filler(700);
    let message = Extended { release: b"7.3.4", record: &record, userdata: &userdata, sysdata: b" cpu=0\n" };
    let fragments = all(message.datagrams());

    let body = [&text[..], &userdata, b" cpu=0\n"].concat();
    assert_eq!(body.len(), 2207);
    // 31 bytes of release and header, then `,ncfrag=…;`, and the rest of 1000 for the body.
    let first = [b"7.3.4,6,416,1758426,-,caller=T1,ncfrag=0/2207;", &body[..954]].concat();
    let second = [b"7.3.4,6,416,1758426,-,caller=T1,ncfrag=954/2207;", &body[954..1906]].concat();
    let third = [b"7.3.4,6,416,1758426,-,caller=T1,ncfrag=1906/2207;", &body[1906..]].concat();
    assert_eq!((first.len(), second.len()), (1000, 1000));
    assert_eq!(fragments, [first, second, third]);
}

#[test]
fn extended_that_cannot_be_cut() {
    let mut buf = [0; MAX_DATAGRAM];
    let no_header = filler(1001);
    let message = Extended { record: &no_header, ..Extended::default() };
    assert_eq!(message.datagrams().emit_next(&mut buf), Err(Error::Invalid("record header")));

    // `,ncfrag=0/21;` has 13 bytes and one of the body must fit: a header of 986 bytes is the longest.
    for (len, expected) in [(986, Ok(Some(1000))), (987, Err(Error::Invalid("record header")))] {
        let record = [&std::vec![b'7'; len][..], b";", &filler(21)].concat();
        let message = Extended { record: &record, ..Extended::default() };
        assert_eq!(message.datagrams().emit_next(&mut buf), expected);
    }
}

#[test]
fn record_fields() {
    let record = Record::parse(b"7.3.4+deb13,30,416,1758426,c,caller=C2;foo \\x09bar\n SUBSYSTEM=usb\n junk\n A=b=c\n");
    let record = record.unwrap();
    assert_eq!(record.release, Some(&b"7.3.4+deb13"[..]));
    let header = RecordHeader { priority: 30, sequence: 416, time_us: 1_758_426, flag: Flag::Continued };
    assert_eq!(record.header, header);
    assert_eq!((record.fields, record.fragment), (&b",caller=C2"[..], None));
    assert_eq!(record.text(), b"foo \\x09bar");
    let pairs: Vec<_> = record.pairs().collect();
    assert_eq!(pairs, [(&b"SUBSYSTEM"[..], &b"usb"[..]), (b"A", b"b=c")]);

    let fragment = Record::parse(b"6,416,1758426,-,ncfrag=16/31; the 2nd chunk.").unwrap();
    assert_eq!(fragment.fragment, Some(Fragment { offset: 16, total: 31 }));
    assert_eq!((fragment.release, fragment.fields, fragment.body), (None, &b""[..], &b" the 2nd chunk."[..]));
    let with_caller = Record::parse(b"6,0,0,-,caller=T1,ncfrag=0/9;x").unwrap();
    assert_eq!(
        (with_caller.fields, with_caller.fragment),
        (&b",caller=T1"[..], Some(Fragment { offset: 0, total: 9 }))
    );
    assert_eq!(Record::parse(b"6,1,2,+;x").unwrap().header.flag, Flag::Continuation);
}

#[test]
fn record_header_comes_back() {
    let wire = b"7.3.4,6,18446744073709551615,1758426,-,caller=T1;";
    let datagram = [&wire[..], b"x\n"].concat();
    let record = Record::parse(&datagram).unwrap();
    let mut buf = [0; 100];
    let mut w = Writer::new(&mut buf);
    record.emit_header(&mut w).unwrap();
    let len = w.written();
    assert_eq!(&buf[..len], wire);
}

#[test]
fn what_is_no_record() {
    for text in [
        &b"[    1.234567] eth0: link up\n"[..],
        b"",
        b";",
        b"6,416,1758426;no flag\n",
        b"6,416,1758426,x;no such flag\n",
        b"6,416,1758426,-x;junk behind the flag\n",
        b"6,416,,-;no time\n",
        b"6,-1,5,-;negative\n",
        b"6,18446744073709551616,5,-;too large\n",
        b"4294967296,1,5,-;too large\n",
        b"a b,6,416,1758426,-;blank in the release\n",
        b",6,416,1758426,-;empty release\n",
    ] {
        let error = Record::parse(text).unwrap_err();
        assert!(matches!(error, Error::Truncated("record header") | Error::Invalid("record header")), "{error}");
    }
    let long = [&[b'r'; 65][..], b",6,416,1758426,-;x"].concat();
    assert_eq!(Record::parse(&long), Err(Error::Invalid("record header")));
    assert!(Record::parse(&long[1..]).is_ok());
    assert_eq!(Record::parse(b"6,416,1758426,-;"), Err(Error::Truncated("record body")));
    for bad in ["=", "=1", "=1/", "=/1", "=x/2", "=0/0", "=2/2", "=0/4294967296", "=4294967295/1", "=-1/5"] {
        let wire = std::format!("6,416,1758426,-,ncfrag{bad};x");
        assert_eq!(Record::parse(wire.as_bytes()), Err(Error::Invalid("ncfrag")), "{wire}");
    }
    for bad in [",ncfrag=0/5,ncfrag=0/5", ",ncfrag=0/5,caller=T1"] {
        assert_eq!(Record::parse(std::format!("6,1,2,-{bad};x").as_bytes()), Err(Error::Invalid("ncfrag")), "{bad}");
    }
    let total = |total: u32| std::format!("6,416,1758426,-,ncfrag=0/{total};x");
    assert!(Record::parse(total(MAX_BODY).as_bytes()).is_ok());
    assert_eq!(Record::parse(total(MAX_BODY + 1).as_bytes()), Err(Error::Invalid("ncfrag")));
}

#[test]
fn printk_escapes() {
    let mut buf = [0; 64];
    let mut w = Writer::new(&mut buf);
    let text = b"a\\b\tc\x7f\xc3\xa9\n~ ";
    escape(text, &mut w).unwrap();
    let len = w.written();
    assert_eq!(&buf[..len], b"a\\x5cb\\x09c\\x7f\\xc3\\xa9\\x0a~ ");
    assert!(Unescaped::new(&buf[..len]).eq(text.iter().copied()));
    assert!(Unescaped::new(b"\\x4\\xg0\\").eq(b"\\x4\\xg0\\".iter().copied()), "no escapes");
    assert!(Lines::new(b"a\n\nb").eq([&b"a"[..], b"", b"b"]));
    assert!(Lines::new(b"a\n").eq([b"a"]));
}

#[test]
fn priorities() {
    assert_eq!(Priority::kern(3).map(Priority::number), Some(3));
    assert_eq!(Priority::kern(8), None);
    assert_eq!(Priority::from_record(30).number(), 30);
    assert_eq!(Priority::from_record(191).number(), 191);
    assert_eq!((Priority::from_record(195).number(), Priority::from_record(195).level()), (3, 3));
}

#[test]
fn original_syslog() {
    let text = b"[    1.2] one\n\n[    1.3] two";
    assert_eq!(all(Original::new(text)), [&b"<5> [    1.2] one\n"[..], b"<5> \n", b"<5> [    1.3] two\n"]);
    let long = filler(1200);
    let sent = all(Original::new(&long));
    assert_eq!(sent, [[b"<5> ", &long[..995], b"\n"].concat()]);
    assert_eq!(sent[0].len(), 1000);
}

#[test]
fn rfc5424() {
    let header = Header {
        priority: Priority::from_record(4),
        time: Some(UnixTime(1_795_515_320_000_042)),
        hostname: b"box.example",
    };
    let mut sequence = SequenceId::FIRST.next();
    let sent = all(Rfc5424::new(header, &mut sequence, b"one\\x0atwo \\x1b[0m\\x5c\\xe9\n", Escapes::Printk));
    assert_eq!(
        sent,
        [
            &b"<4>1 2026-11-24T10:15:20.000042Z box.example kernel - - [meta sequenceId=\"2\"] one"[..],
            b"<4>1 2026-11-24T10:15:20.000042Z box.example kernel - - [meta sequenceId=\"3\"] two \\x1b[0m\\\xe9",
        ]
    );
    assert_eq!(sequence.number(), 4);

    let header = Header { priority: Priority::KERN_NOTICE, time: None, hostname: b"" };
    let mut sequence = SequenceId::LAST;
    let sent = all(Rfc5424::new(header, &mut sequence, b"a\\x0ab\n\n", Escapes::None));
    assert_eq!(
        sent,
        [
            &b"<5>1 - - kernel - - [meta sequenceId=\"2147483647\"] a\\x0ab"[..],
            b"<5>1 - - kernel - - [meta sequenceId=\"1\"] ",
        ]
    );
    let odd = Header { hostname: "b\u{fc} x".as_bytes(), ..header };
    let sent = all(Rfc5424::new(odd, &mut SequenceId::default(), b"a", Escapes::None));
    assert_eq!(sent, [b"<5>1 - b???x kernel - - [meta sequenceId=\"1\"] a"]);
}

#[test]
fn rfc5424_is_bounded() {
    let header = Header { priority: Priority::KERN_NOTICE, time: None, hostname: &[b'h'; 300] };
    // Only the last line fits; the escape in the first is not cut in two.
    let long = [&[b'x'; 2000][..], b"\nend\n"].concat();
    let sent = all(Rfc5424::new(header, &mut SequenceId::default(), &long, Escapes::None));
    assert_eq!((sent.len(), sent[0].len()), (2, MAX_DATAGRAM));
    assert!(sent[1].ends_with(b"] end"));
    assert_eq!(sent[0].iter().filter(|byte| **byte == b'h').count(), 255);
    let escapes = [1; 1000];
    let sent = all(Rfc5424::new(header, &mut SequenceId::default(), &escapes, Escapes::None));
    assert!(sent[0].ends_with(b"\\x01") && sent[0].len() <= MAX_DATAGRAM);
    assert!(sent[0].len() > MAX_DATAGRAM - 4);
}

#[test]
fn dates() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (951_868_799, "2000-02-29T23:59:59.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
        (253_402_300_800, "-"),
    ] {
        let mut buf = [0; 40];
        let mut w = Writer::new(&mut buf);
        UnixTime(seconds * 1_000_000).emit(&mut w).unwrap();
        let len = w.written();
        assert_eq!(core::str::from_utf8(&buf[..len]), Ok(text));
    }
}
