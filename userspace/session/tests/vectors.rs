// SPDX-License-Identifier: GPL-2.0-or-later
//! docs/protocol.md is the specification: every vector in it decodes to what its name says, and back.

use std::collections::BTreeMap;

use netdump_core::wire::classic::{Body, Command, ItemId, Machine, Reply, Request, Start, Version};
use netdump_core::wire::ext::{
    ByteOrder, CpuFlags, CpuNote, KtextNote, MachineNote, Note, NotesWriter, PhysRange, Tlvs, VolatileRange,
};
use netdump_core::wire::log::basic::Basic;
use netdump_core::wire::log::extended::Extended;
use netdump_core::wire::log::printk::{Flag, RecordHeader};
use netdump_core::wire::log::record::{Fragment, Record};
use netdump_core::wire::log::syslog::{Escapes, Header, Original, Rfc5424, SequenceId};
use netdump_core::wire::log::{Datagrams, Priority, UnixTime};
use netdump_core::wire::v6::cluster::{Cluster, Content, Piece};
use netdump_core::wire::v6::handshake::{Ack6, KeyName, Start6, ACK_LEN};
use netdump_core::wire::v6::hint::ResetHint;
use netdump_core::wire::v6::message::{
    kind, Ask, End, Grant, Line, Part, Place, Progress, Repair, Segment, SegmentId, Show, Turn, Wait,
};
use netdump_core::wire::v6::probe::{Probe, ProbeAck, ProbeKey};
use netdump_core::wire::v6::secure::{Channel, Key, Role, TrafficKeys};
use netdump_core::wire::v6::{Codec, Counter, Header as Header6, Level, SessionId, MAX_MAX_DATAGRAM};
use netdump_core::wire::{Cookie, Pfn, PhysAddr, RequestId, Result};
use netdump_session::Ring;

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// All vectors of the page by name.
fn vectors() -> BTreeMap<&'static str, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```vector ") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        assert!(all.insert(name, bytes(&body)).is_none(), "two vectors named {name}");
    }
    all
}

fn bytes(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = Vec::new();
    for line in lines {
        let mut rest = *line;
        loop {
            rest = rest.trim_start();
            if rest.is_empty() || rest.starts_with('#') {
                break;
            }
            if let Some(text) = rest.strip_prefix('"') {
                let (text, after) = text.split_once('"').expect("closing quote");
                last = text.replace("\\n", "\n").into_bytes();
                out.extend_from_slice(&last);
                rest = after;
                continue;
            }
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = after;
            if let Some(count) = word.strip_prefix('×') {
                for _ in 1..count.parse::<usize>().expect("a count") {
                    out.extend_from_slice(&last);
                }
                continue;
            }
            assert_eq!(word.len(), 2, "{word:?} in {line:?}");
            last = vec![u8::from_str_radix(word, 16).expect("a byte")];
            out.extend_from_slice(&last);
        }
    }
    out
}

enum Message<'a> {
    Request(u32, Command),
    Reply(Version, u32, Body<'a>),
    Note(Note<'a>),
    Volatile(VolatileRange),
    /// The first, or the second, datagram of a cursor, and what a receiver reads there.
    Text(Box<dyn Datagrams + 'a>, usize, Option<Record<'a>>),
}

/// Text of the formats of netconsole.
fn console_text<'a>(long: &'a [u8], sequence: &'a mut SequenceId) -> Vec<(&'static str, Message<'a>)> {
    let link_up = b"[  12.345678] eth0: link up\n";
    while sequence.number() < 7 {
        *sequence = sequence.next();
    }
    let header =
        Header { priority: Priority::from_record(6), time: Some(UnixTime(1_795_515_320_123_456)), hostname: b"box" };
    let syslog = Rfc5424::new(header, sequence, b"eth0: link up", Escapes::None);
    let message = Extended {
        release: b"7.3.4",
        record: b"6,416,1758426,-,caller=T1;eth0: link up\n SUBSYSTEM=net\n",
        userdata: b" rack=b7\n",
        sysdata: b" cpu=3\n msgid=9\n",
    };
    let record = Record {
        release: Some(b"7.3.4"),
        header: RecordHeader { priority: 6, sequence: 416, time_us: 1_758_426, flag: Flag::Whole },
        fields: b",caller=T1",
        fragment: None,
        body: b"eth0: link up\n SUBSYSTEM=net\n rack=b7\n cpu=3\n msgid=9\n",
    };
    let fragments = Extended { record: long, userdata: b" a=b\n", ..Extended::default() };
    let text = &long[b"6,416,1758426,-;".len()..];
    let first = Record { release: None, fields: b"", body: &text[..970], ..record };
    let first = Record { fragment: Some(Fragment { offset: 0, total: 1500 }), ..first };
    vec![
        ("syslog-original", Message::Text(Box::new(Original::new(link_up)), 0, None)),
        ("syslog-5424", Message::Text(Box::new(syslog), 0, None)),
        ("basic", Message::Text(Box::new(Basic::new(link_up)), 0, None)),
        ("extended", Message::Text(Box::new(message.datagrams()), 0, Some(record))),
        ("extended-first-fragment", Message::Text(Box::new(fragments.datagrams()), 0, Some(first))),
        ("extended-last-fragment", Message::Text(Box::new(fragments.datagrams()), 1, None)),
    ]
}

use Message::Volatile;

fn expected<'a>(chunk: &'a [u8; 1024], regs: &'a [u8], ranges: &'a [u8]) -> BTreeMap<&'static str, Message<'a>> {
    let v5 = |nr, body| Message::Reply(Version::V5, nr, body);
    let v4 = |nr, body| Message::Reply(Version::V4, nr, body);
    let ask = Message::Request;
    let note = Message::Note;
    let flags = CpuFlags { crashing: true, was_online: true, by_nmi: false };
    let Some(Ok(Note::Ranges(ranges))) = Tlvs::new(ranges).next().map(|tlv| Note::parse(&tlv.unwrap())) else {
        panic!("note-ranges does not parse")
    };
    BTreeMap::from([
        ("request-send-mem", ask(0x1a2b_3c4d, Command::SendMem(Pfn(0x12345)))),
        ("request-ack", ask(2, Command::StartAck { max_version: 5 })),
        ("request-hello", ask(0x9988_7766, Command::Hello)),
        ("request-exit", ask(3, Command::Exit)),
        ("request-reboot", ask(4, Command::Reboot)),
        ("request-get-nr-pages", ask(5, Command::GetNrPages)),
        ("request-get-page-size", ask(6, Command::GetPageSize)),
        ("request-get-regs", ask(7, Command::GetRegs)),
        ("request-show-state", ask(8, Command::ShowState)),
        ("request-ext", ask(9, Command::Ext { item: ItemId::Log, offset: 1020 })),
        ("reply-hello", v5(0x9988_7766, Body::Hello { version: 4 })),
        ("reply-nr-pages", v5(5, Body::NrPages(131_072))),
        ("reply-page-size", v5(6, Body::PageSize(4096))),
        ("reply-regs", v5(7, Body::Regs { total_ram_pages: 128_000, block: regs })),
        (
            "reply-error-page",
            v5(0x1a2b_3c4d, Body::Error { info: 0, text: b"page 00012345 is bigger than max page # 00010000!\n" }),
        ),
        (
            "reply-error-command",
            v5(9, Body::Error { info: 0x4e44_0001, text: b"Got unknown command code 1313079297!\n" }),
        ),
        (
            "start-v5",
            v4(
                0,
                Body::Start(Start::V5 {
                    machine: Machine::X86_64,
                    max_version: 5,
                    task_struct: 0xffff_8881_004a_3c80,
                    page_offset: 0xffff_8880_0000_0000,
                    magic: Cookie::new(0),
                }),
            ),
        ),
        ("start-v4", v4(0, Body::Start(Start::V4))),
        ("reply-mem", v5(0x1a2b_3c4d, Body::Mem { offset: 1024, data: chunk })),
        ("reply-reserved", v5(0x1a2b_3c4d, Body::Reserved { next: Some(Pfn(0x10_0000)) })),
        ("reply-reserved-none", v5(0x1a2b_3c4d, Body::Reserved { next: None })),
        ("reply-log", v4(0, Body::Log { offset: 12048, text: b"[  12.345678] eth0: link up\n" })),
        ("reply-show-state", v5(8, Body::ShowState)),
        ("reply-end", v5(0, Body::End)),
        ("reply-ext", v5(9, Body::Ext { offset: 1020, total: 1024, data: b"last" })),
        ("reply-ext-no-item", v5(9, Body::Ext { offset: 0, total: 0, data: b"" })),
        (
            "note-machine",
            note(Note::Machine(MachineNote {
                e_machine: 62,
                page_shift: 12,
                byte_order: ByteOrder::Little,
                cpus_possible: 4,
                crashing_cpu: 1,
            })),
        ),
        (
            "note-cpu",
            note(Note::Cpu(CpuNote {
                cpu: 1,
                pid: 666,
                flags,
                task_struct: 0xffff_8881_004a_3c80,
                regs: Some(&[0x33; 216]),
            })),
        ),
        ("note-vmcoreinfo", note(Note::Vmcoreinfo(b"PAGESIZE=4096\n"))),
        ("note-ranges", note(Note::Ranges(ranges))),
        (
            "note-ktext",
            note(Note::Ktext(KtextNote {
                vaddr: 0xffff_ffff_8100_0000,
                paddr: PhysAddr(0x100_0000),
                length: 0x240_0000,
            })),
        ),
        ("note-layout", note(Note::Layout { page_offset: 0xffff_8880_0000_0000 })),
        ("note-identity", note(Note::Identity(b"hostname=box\nrelease=7.3.4\n"))),
        ("note-panic", note(Note::Panic(b"sysrq triggered crash"))),
        ("note-overlay", note(Note::Overlay { paddr: PhysAddr(0x3c0_0d80), data: &[3, 0, 0, 0, 0, 0, 0, 0] })),
        (
            "volatile",
            Volatile(VolatileRange::new(PhysRange { start: PhysAddr(0x20_0000), end: PhysAddr(0x24_0000) }, "pool")),
        ),
    ])
}

fn write_note(w: &mut NotesWriter<'_>, note: &Note<'_>) -> Result<()> {
    match *note {
        Note::Machine(ref machine) => w.machine(machine),
        Note::Cpu(ref cpu) => w.cpu(cpu),
        Note::Vmcoreinfo(text) => w.vmcoreinfo(text),
        Note::Ranges(ranges) => w.ranges(&ranges.iter().collect::<Vec<_>>()),
        Note::Ktext(ref ktext) => w.ktext(ktext),
        Note::Layout { page_offset } => w.layout(page_offset),
        Note::Identity(_) => w.identity(&[("hostname", b"box"), ("release", b"7.3.4")]),
        Note::Panic(text) => w.panic_text(text),
        Note::Overlay { paddr, data } => w.overlay(paddr, data),
        Note::Unknown { kind, value } => w.raw(kind, value),
    }
}

#[test]
fn every_vector_of_the_specification_decodes_and_encodes() {
    let vectors = vectors();
    let chunk = [0xa5; 1024];
    let mut regs = [0; 216];
    regs[..8].fill(0x11);
    regs[8..16].fill(0x22);
    let long = [b"6,416,1758426,-;", &[b'x'; 1495][..]].concat();
    let mut sequence = SequenceId::FIRST;
    let mut expected = expected(&chunk, &regs, &vectors["note-ranges"]);
    expected.extend(console_text(&long, &mut sequence));
    let classic: Vec<_> = vectors.keys().filter(|name| !name.starts_with("six-")).collect();
    assert_eq!(classic, expected.keys().collect::<Vec<_>>());

    for (name, wire) in vectors.iter().filter(|(name, _)| !name.starts_with("six-")) {
        let mut buf = [0; 2048];
        let len = match expected.get_mut(name).expect("compared above") {
            Message::Request(nr, command) => {
                let request =
                    Request { cookie: Cookie::new(0x0102_0304_0506_0708), nr: RequestId(*nr), command: *command };
                assert_eq!(Request::parse(wire), Ok(request), "{name}");
                request.emit(&mut buf)
            }
            Message::Reply(version, nr, body) => {
                let reply = Reply { version: *version, nr: RequestId(*nr), body: *body };
                assert_eq!(Reply::parse(wire), Ok(reply), "{name}");
                reply.emit(&mut buf)
            }
            Message::Note(note) => {
                let tlvs: Vec<_> = Tlvs::new(wire).map(|tlv| tlv.unwrap()).collect();
                assert_eq!(tlvs.len(), 1, "{name}");
                assert_eq!(Note::parse(&tlvs[0]), Ok(*note), "{name}");
                let mut w = NotesWriter::new(&mut buf);
                write_note(&mut w, note).map(|()| w.len())
            }
            Volatile(entry) => {
                assert_eq!(VolatileRange::parse(wire), Ok(*entry), "{name}");
                entry.emit(&mut buf)
            }
            Message::Text(cursor, skip, record) => {
                match record {
                    Some(record) => assert_eq!(Record::parse(wire), Ok(*record), "{name}"),
                    None => {
                        let fragment = Record::parse(wire).ok().and_then(|record| record.fragment);
                        assert_eq!(fragment.is_some(), name.ends_with("fragment"), "{name}");
                    }
                }
                for _ in 0..*skip {
                    assert!(cursor.emit_next(&mut buf).unwrap().is_some());
                }
                cursor.emit_next(&mut buf).map(|len| len.expect("a datagram"))
            }
        };
        assert_eq!(&buf[..len.unwrap()], wire.as_slice(), "{name}");
    }
}

/// Every vector of version 6: what its fields say, and the same bytes again.
#[test]
fn version_6() {
    let all = vectors();
    let session = SessionId(*b"sessio");
    let body = |name: &str, kind: u8, counter: u64| {
        let (header, body) = Header6::parse(&all[name]).unwrap();
        assert_eq!(header, Header6 { kind, session, counter: Counter(counter) }, "{name}");
        body
    };
    let again = |name: &str, body: &[u8]| assert_eq!(&all[name][16..], body, "{name}");
    let mut buf = [0; 512];

    let grant = Grant::parse(body("six-grant", kind::GRANT, 9)).unwrap();
    let segment = Segment { id: SegmentId(5), start: Pfn(1), end: Pfn(0x9f), again: false, turn: Turn::Second };
    assert_eq!((grant.serial, grant.credit, grant.pages, grant.answer), (7, 256, 16, true));
    assert_eq!((grant.level, grant.codec), (Level::MAX, Codec::Zstd));
    assert_eq!(grant.segments().collect::<Vec<_>>(), [segment]);
    let len = grant.emit(&[segment], &mut buf).unwrap();
    again("six-grant", &buf[..len]);
    let later = Grant::parse(body("six-grant-largest", kind::GRANT, 10)).unwrap();
    assert_eq!(later.largest, Some(1416));
    let len = later.emit(&[], &mut buf).unwrap();
    again("six-grant-largest", &buf[..len]);

    let repairs: Vec<_> = Repair::parse(body("six-repair", kind::REPAIR, 10)).unwrap().collect();
    assert_eq!(
        repairs,
        [Repair { first: Pfn(0x123), end: Pfn(0x200), build: 0xcafe_babe, missing: 5, turn: Turn::First }]
    );
    let len = Repair::emit(&repairs, &mut buf).unwrap();
    again("six-repair", &buf[..len]);

    let piece = Piece::parse(body("six-piece", kind::PIECE, 11)).unwrap();
    assert_eq!((piece.first, piece.gap, piece.build), (Pfn(0x123), 4, 0xcafe_babe));
    assert_eq!((piece.piece, piece.pieces, piece.codec, piece.length), (0, 1, Codec::Raw, 13));
    let cluster = Cluster::parse(piece.first, piece.data).unwrap();
    let mut zeroes = Vec::new();
    cluster.for_each(|content| match content {
        Content::Zeroes(pfn, count) => zeroes.push((pfn.0, count)),
        Content::Page(..) => panic!("a page"),
    });
    assert_eq!((zeroes, cluster.end()), (vec![(0x123, 3), (0x128, 1)], Pfn(0x129)));
    piece.emit_header(&mut buf).unwrap();
    again("six-piece", &[&buf[..24], piece.data].concat());

    let progress = Progress::parse(body("six-progress", kind::PROGRESS, 12)).unwrap();
    let places: Vec<_> = progress.places().collect();
    assert_eq!(places, [Place { id: SegmentId(5), cursor: Pfn(0x9f), tail: Pfn(0x80) }]);
    assert_eq!(progress.left_out, [31, 0, 0, 0, 0, 0, 0]);
    let len = Progress::emit(7, places.into_iter(), &progress.left_out, &mut buf).unwrap();
    again("six-progress", &buf[..len]);

    let start = Start6::parse(&all["six-start"]).unwrap();
    assert_eq!((start.machine, start.key, start.max_datagram), (Machine::X86_64, None, 1472));
    assert!(start.turns);
    assert_eq!((start.fire_id, start.random, start.session), ([0xf1; 16], [0xa5; 32], session));
    let len = start.emit(&Ring, &Key::NONE, &mut buf).unwrap();
    assert_eq!(all["six-start"], buf[..len]);
    assert!(Header6::is_start(&buf));
    // Of a later one what is known is the same.
    let later = Start6::parse(&all["six-start-later"]).unwrap();
    assert_eq!((later.suites & 1, later.codecs & 7, later.max_datagram), (1, 7, MAX_MAX_DATAGRAM));
    let (suites, codecs, max_datagram) = (later.suites, later.codecs, later.max_datagram);
    assert_eq!(later, Start6 { suites, codecs, max_datagram, ..start });

    let hint = ResetHint { session: SessionId(*b"server"), counter: Counter(1234) };
    assert_eq!(ResetHint::parse(&all["six-hint"]), Some(hint));
    let mut asking = [0xee; 256];
    Header6 { kind: kind::PIECE, session: hint.session, counter: hint.counter }.emit(&mut asking).unwrap();
    assert_eq!(ResetHint::answer(&asking).unwrap()[..], all["six-hint"]);

    let key = KeyName { key_id: [0x11; 16], arm_id: [0x22; 16] };
    let (probe, probe_key) = (Probe { id: session, serial: Counter(42), key: Some(key) }, ProbeKey::new([0x77; 32]));
    let question = &all["six-probe"];
    assert_eq!(Probe::parse(question), Ok(probe));
    assert!(Probe::is_authentic(&Ring, &probe_key, question));
    let len = probe.emit(&Ring, Some(&probe_key), &mut buf).unwrap();
    assert_eq!(question, &buf[..len]);
    let answer = &all["six-probe-ack"];
    assert_eq!(ProbeAck::parse(answer), Ok(ProbeAck { id: session, serial: Counter(42) }));
    assert!(ProbeAck::is_authentic(&Ring, &probe_key, question, answer));
    let len = ProbeAck::emit(&probe, question, &Ring, Some(&probe_key), &mut buf).unwrap();
    assert_eq!(answer, &buf[..len]);

    let ack = Ack6::parse(&all["six-ack"]).unwrap();
    assert_eq!((ack.suite, ack.client, ack.server, ack.max_datagram), (0, session, SessionId(*b"server"), 1416));
    assert_eq!((ack.random, ack.kx), ([0x5a; 32], [0; 32]));
    let len = ack.emit(&Ring, None, &all["six-start"], &mut buf).unwrap();
    assert_eq!(all["six-ack"], buf[..len]);
}

/// The short ones.
#[test]
fn version_6_orders_and_answers() {
    let all = vectors();
    let mut buf = [0; 64];
    type Emit<'a> = dyn Fn(&[u8], &mut [u8]) -> Result<usize> + 'a;
    let mut holds = |name: &str, kind: u8, counter: u64, emit: &Emit<'_>| {
        let (header, body) = Header6::parse(&all[name]).unwrap();
        assert_eq!(header, Header6 { kind, session: SessionId(*b"sessio"), counter: Counter(counter) }, "{name}");
        let len = emit(body, &mut buf).unwrap();
        assert_eq!(&buf[..len], body, "{name}");
    };
    let ask = Ask { item: 2, offset: 1024, part: 1024, count: 32 };
    holds("six-ask", kind::ASK, 1, &|body, buf| {
        assert_eq!(Ask::parse(body), Ok(ask));
        ask.emit(buf)
    });
    let wait = Wait { seconds: 1, position: 3 };
    holds("six-wait", kind::WAIT, 2, &|body, buf| {
        assert_eq!(Wait::parse(body), Ok(wait));
        wait.emit(buf)
    });
    for (name, kind, counter) in [("six-end", kind::END, 3), ("six-bye", kind::BYE, 8)] {
        holds(name, kind, counter, &|body, buf| {
            assert_eq!(End::parse(body), Ok(End::Reboot));
            End::Reboot.emit(buf)
        });
    }
    let show = Show { from: 4096, again: true };
    holds("six-show", kind::SHOW, 4, &|body, buf| {
        assert_eq!(Show::parse(body), Ok(Some(show)));
        show.emit(buf)
    });
    holds("six-show-all", kind::SHOW, 5, &|body, _| {
        assert_eq!(Show::parse(body), Ok(None));
        Ok(0)
    });
    let part = Part { item: 2, offset: 1024, total: 1028, data: b"last" };
    holds("six-part", kind::PART, 6, &|body, buf| {
        assert_eq!(Part::parse(body), Ok(part));
        part.emit_header(buf)?;
        buf[12..16].copy_from_slice(part.data);
        Ok(16)
    });
    holds("six-line", kind::LINE, 7, &|body, buf| {
        assert_eq!(Line::parse(body), Ok(Line { offset: 4096, last: true, text: b"task\n" }));
        Line::emit_header(4096, true, buf)?;
        buf[5..10].copy_from_slice(b"task\n");
        Ok(10)
    });
}

/// Where each release has left its vectors: a file for each version, in it a name and hexadecimal digits on each line.
const RELEASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors");

/// Whether a vector is read as what its name says. Text has no form that could be wrong.
fn is_read(name: &str, wire: &[u8]) -> bool {
    let session = |parse: fn(&[u8]) -> bool| Header6::parse(wire).is_ok_and(|(_, body)| parse(body));
    let (kind, _) = name.split_once('-').unwrap_or((name, ""));
    match kind {
        "request" => Request::parse(wire).is_ok(),
        "reply" | "start" => Reply::parse(wire).is_ok(),
        "note" => Tlvs::new(wire).all(|tlv| tlv.is_ok_and(|tlv| Note::parse(&tlv).is_ok())),
        "volatile" => VolatileRange::parse(wire).is_ok(),
        "syslog" | "basic" => true,
        "extended" => Record::parse(wire).is_ok(),
        "six" => match wire[1] {
            0 if Ack6::looks_like(wire) => Ack6::parse(wire).is_ok(),
            0 => Start6::parse(wire).is_ok(),
            kind::GRANT => session(|body| Grant::parse(body).is_ok()),
            kind::REPAIR => session(|body| Repair::parse(body).is_ok()),
            kind::ASK => session(|body| Ask::parse(body).is_ok()),
            kind::WAIT => session(|body| Wait::parse(body).is_ok()),
            kind::RESET_HINT => ResetHint::parse(wire).is_some(),
            kind::PROBE => Probe::parse(wire).is_ok(),
            kind::PROBE_ACK => ProbeAck::parse(wire).is_ok(),
            kind::SHOW => session(|body| Show::parse(body).is_ok()),
            kind::PART => session(|body| Part::parse(body).is_ok()),
            kind::PIECE => session(|body| Piece::parse(body).is_ok()),
            kind::PROGRESS => session(|body| Progress::parse(body).is_ok()),
            kind::LINE => session(|body| Line::parse(body).is_ok()),
            kind::END | kind::BYE => session(|body| End::parse(body).is_ok()),
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn vectors_of_every_release_are_still_read() {
    let this = format!("{}.txt", env!("CARGO_PKG_VERSION"));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let now: String = vectors().iter().map(|(name, wire)| format!("{name} {}\n", hex(wire))).collect();
    let path = std::path::Path::new(RELEASES).join(&this);
    if std::env::var_os("NETDUMP_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    // Until it is out a version's vectors are those of the page; then the version is raised, and they stay what they are.
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == now, "{this} is not what the page says: set NETDUMP_WRITE_VECTORS to write it anew");
    for file in std::fs::read_dir(RELEASES).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() > 40, "{path:?}");
        for line in text.lines() {
            let (name, digits) = line.split_once(' ').expect("a name and digits");
            let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
            let wire: Vec<u8> = digits.as_bytes().chunks(2).map(byte).collect();
            assert!(is_read(name, &wire), "{path:?}: {name}");
        }
    }
}

/// Computed with Python's hmac and hashlib from the tables of the page.
#[test]
fn keys_of_version_6() {
    let key = Key::new(std::array::from_fn(|n| n as u8));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let start = Start6 {
        machine: Machine::X86_64,
        key: Some(KeyName { key_id: [1; 16], arm_id: [2; 16] }),
        turns: false,
        suites: 2,
        codecs: 7,
        max_datagram: 1472,
        fire_id: [3; 16],
        epoch: 0,
        random: [4; 32],
        session: SessionId([5; 6]),
        kx: &[],
    };
    let mut buf = [0; 256];
    let len = start.emit(&Ring, &key, &mut buf).unwrap();
    assert_eq!((len, hex(&buf[240..])), (256, START_MAC.into()));
    assert!(Start6::is_authentic(&Ring, &key, &buf));
    let ack = Ack6 {
        suite: 1,
        client: SessionId([5; 6]),
        server: SessionId([6; 6]),
        random: [7; 32],
        kx: [0; 32],
        max_datagram: 1416,
    };
    let mut answer = [0; ACK_LEN];
    ack.emit(&Ring, Some(&key), &buf, &mut answer).unwrap();
    assert_eq!(hex(&answer[108..]), ACK_MAC);
    assert!(Ack6::looks_like(&answer) && Ack6::is_authentic(&Ring, &key, &buf, &answer));
    assert_eq!(Ack6::parse(&answer).unwrap(), ack);
    // The first datagram of the client: PROGRESS without anything.
    let keys = TrafficKeys::derive(&Ring, &key, &buf, &answer);
    let mut channel = Channel::<4>::new(Role::Client, Some(keys), ack.client, ack.server);
    let mut datagram = [0; 64];
    datagram[16..19].copy_from_slice(b"abc");
    let len = channel.seal(&Ring, 0x43, &mut datagram, 3).unwrap();
    assert_eq!(hex(&datagram[..len]), SEALED);
}

const START_MAC: &str = "c5d3f884c31a45b6d872f9175ad01a39";
const ACK_MAC: &str = "cc9068b5cc5a949ca7977904cc2a7e17";
const SEALED: &str = "064306060606060600000000000000002e6193b54a66528f167e62f3a449a2c7b7e797";
