// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine against requests written by hand, and against a scripted server.

use std::vec::Vec;

use super::super::wire::classic::{Machine, Request};
use super::*;

const COOKIE: Cookie = Cookie::new(0x1234_5678_9abc_def0);
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// A machine with 12 page frames: 0 and 1 are RAM, 2 to 4 a hole, 5 to 9 RAM with 7 poisoned, 10 and 11 a hole.
struct Memory {
    regs: [u8; 216],
    listing: Vec<&'static [u8]>,
    listings: usize,
}

impl Memory {
    fn new() -> Self {
        Memory { regs: [0xaa; 216], listing: Vec::from([&b"task one\n"[..], b"task two\n"]), listings: 0 }
    }

    fn byte(pfn: u64, offset: usize) -> u8 {
        (pfn as u8).wrapping_mul(31).wrapping_add((offset / 7) as u8)
    }
}

impl Target for Memory {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        match pfn.0 {
            0 | 1 | 5..=9 => PageClass::Ram,
            2..=4 => PageClass::Hole { next: Some(Pfn(5)) },
            _ => PageClass::Hole { next: None },
        }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> core::result::Result<(), Unreadable> {
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = Memory::byte(pfn.0, offset as usize + at);
        }
        if pfn == Pfn(7) && offset == 2048 {
            return Err(Unreadable);
        }
        Ok(())
    }

    fn regs(&self) -> &[u8] {
        &self.regs
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        let notes = [7u8; 1500];
        if item != ItemId::Notes {
            return ItemPart::default();
        }
        let rest = notes.get(offset as usize..).unwrap_or(&[]);
        let written = rest.len().min(out.len());
        out[..written].copy_from_slice(&rest[..written]);
        ItemPart { total: 1500, written }
    }

    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        let Some(piece) = self.listing.get(self.listings) else {
            self.listings = 0; // a second walk would begin again
            return None;
        };
        self.listings += 1;
        out[..piece.len()].copy_from_slice(piece);
        Some(piece.len())
    }
}

fn config() -> Config {
    Config {
        cookie: COOKIE,
        machine: Machine::X86_64,
        task_struct: 0xffff_8880_0000_1234,
        page_offset: 0xffff_8880_0000_0000,
        page_size: 4096,
        nr_pages: 12,
        total_ram_pages: 7,
        log_offset: 100,
        handshake_timeout: 300 * SECOND,
        idle_timeout: 30 * SECOND,
        total_timeout: 3600 * SECOND,
    }
}

struct Bench {
    engine: Engine,
    memory: Memory,
    now: Time,
    nr: u32,
}

impl Bench {
    fn new(config: Config) -> Self {
        let mut engine = Engine::new();
        engine.begin(config, Time(0));
        Bench { engine, memory: Memory::new(), now: Time(0), nr: 40 }
    }

    /// One that has its handshake behind it.
    fn serving() -> Self {
        let mut bench = Bench::new(config());
        assert_eq!(bench.drain().len(), 1, "START_NETDUMP");
        bench.request(Command::StartAck { max_version: 5 });
        bench
    }

    fn request_as(&mut self, cookie: Cookie, nr: u32, command: Command) {
        let mut buf = [0u8; 24];
        let len = Request { cookie, nr: RequestId(nr), command }.emit(&mut buf).unwrap();
        self.engine.handle(self.now, &buf[..len]);
    }

    fn request(&mut self, command: Command) -> u32 {
        self.nr += 1;
        self.request_as(COOKIE, self.nr, command);
        self.nr
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut buf = [0u8; MAX_DATAGRAM];
        while let Some(len) = self.engine.transmit(self.now, &mut self.memory, &mut buf) {
            sent.push(buf[..len].to_vec());
        }
        sent
    }

    /// Sends `command` and expects exactly one datagram.
    fn ask(&mut self, command: Command) -> Vec<u8> {
        self.request(command);
        let mut sent = self.drain();
        assert_eq!(sent.len(), 1, "answers to {command:?}");
        sent.pop().unwrap()
    }

    fn at(&mut self, ns: u64) -> Option<End> {
        self.now = Time(ns);
        self.engine.poll(self.now)
    }
}

fn body(datagram: &[u8]) -> Body<'_> {
    Reply::parse(datagram).unwrap().body
}

#[test]
fn start_is_sent_once_a_second_until_it_is_acknowledged() {
    let mut bench = Bench::new(config());
    let first = bench.drain();
    assert_eq!(
        first,
        [b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x05task_struct:0xffff888000001234 page_offset:0xffff888000000000 netdump_magic:0x0\n"]
    );
    for second in 1..300 {
        assert_eq!(bench.at(second * SECOND - 1), None);
        assert_eq!(bench.drain().len(), 0);
        assert_eq!(bench.engine.next_deadline(), Some(Time(second * SECOND)));
        bench.at(second * SECOND);
        assert_eq!(bench.drain(), first);
    }
    bench.request(Command::StartAck { max_version: 5 });
    assert_eq!(bench.engine.state(), State::Serving(Version::V5));
    bench.at(301 * SECOND);
    assert_eq!(bench.drain().len(), 0);
    assert_eq!(bench.engine.counters().starts, 300);
}

#[test]
fn requests_before_the_acknowledgement_hurry_start_but_a_flood_gains_nothing() {
    let mut bench = Bench::new(config());
    bench.drain();
    let mut starts = 0;
    for ms in 0..1000 {
        bench.now = Time(ms * MS);
        for _ in 0..20 {
            bench.request(Command::Hello);
            starts += bench.drain().len();
        }
    }
    assert_eq!(starts, 9, "one in 100 ms");
    assert_eq!(bench.engine.counters().early, 20_000);
    bench.request_as(Cookie::new(0), 1, Command::Hello);
    assert_eq!(bench.engine.counters().bad_cookie, 1);
}

#[test]
fn versions() {
    for (machine, offered, state) in [
        (Machine::X86_64, 5, State::Serving(Version::V5)),
        (Machine::X86_64, 600, State::Serving(Version::V5)),
        (Machine::X86_64, 4, State::Serving(Version::V4)),
        (Machine::X86_64, 1, State::Serving(Version::V4)),
        (Machine::X86_64, 0, State::Ended(End::Refused)),
        (Machine::I386, 0, State::Serving(Version::V4)),
    ] {
        let mut bench = Bench::new(Config { machine, ..config() });
        bench.drain();
        bench.request(Command::StartAck { max_version: offered });
        assert_eq!(bench.engine.state(), state, "{machine:?} and a server of {offered}");
        if state == State::Serving(Version::V4) {
            assert_eq!(bench.ask(Command::Hello)[0], 4);
        }
    }
}

#[test]
fn a_refusal_ends_the_dump() {
    let mut bench = Bench::new(config());
    bench.request(Command::StartAck { max_version: 0 });
    assert_eq!(bench.at(1), Some(End::Refused));
    bench.request(Command::StartAck { max_version: 5 });
    assert_eq!(bench.at(2), Some(End::Refused));
    assert!(bench.drain().is_empty());
    assert_eq!(bench.engine.counters().late, 1);
}

#[test]
fn facts() {
    let mut bench = Bench::serving();
    let nr = bench.nr + 1;
    assert_eq!(bench.ask(Command::Hello)[1..5], nr.to_be_bytes());
    assert_eq!(body(&bench.ask(Command::Hello)), Body::Hello { version: 4 });
    assert_eq!(&bench.ask(Command::GetNrPages)[9..], b"\0\0\0\x0cNumber of pages: 12\n");
    assert_eq!(&bench.ask(Command::GetPageSize)[9..], b"\0\0\x10\0PAGE_SIZE: 4096\n");
    let regs = bench.ask(Command::GetRegs);
    assert_eq!(body(&regs), Body::Regs { total_ram_pages: 7, block: &[0xaa; 216] });
    assert_eq!(regs.len(), 13 + 23 + 216);
}

#[test]
fn a_page_comes_in_four_chunks() {
    let mut bench = Bench::serving();
    let nr = bench.request(Command::SendMem(Pfn(6)));
    let sent = bench.drain();
    assert_eq!(sent.len(), 4);
    for (chunk, datagram) in sent.iter().enumerate() {
        let reply = Reply::parse(datagram).unwrap();
        assert_eq!((reply.version, reply.nr), (Version::V5, RequestId(nr)));
        let Body::Mem { offset, data } = reply.body else { panic!("{reply:?}") };
        assert_eq!(offset as usize, chunk * 1024);
        assert!(data.iter().enumerate().all(|(at, b)| *b == Memory::byte(6, chunk * 1024 + at)));
    }
    assert_eq!(bench.engine.counters().pages, 1);
}

#[test]
fn a_page_may_be_of_64_kib() {
    let mut bench = Bench::new(Config { page_size: 65536, ..config() });
    bench.request(Command::StartAck { max_version: 5 });
    bench.request(Command::SendMem(Pfn(0)));
    assert_eq!(bench.drain().len(), 64);
}

#[test]
fn holes_and_poison_are_reserved_and_tell_the_way() {
    let mut bench = Bench::serving();
    for (pfn, next) in [(2, Some(5)), (4, Some(5)), (10, None), (11, None)] {
        let reply = bench.ask(Command::SendMem(Pfn(pfn)));
        assert_eq!(body(&reply), Body::Reserved { next: next.map(Pfn) }, "page {pfn}");
        assert_eq!(reply.len(), 13);
    }
    // Poison in the third chunk of page 7: two chunks, then the verdict, and nothing of the bad one.
    bench.request(Command::SendMem(Pfn(7)));
    let sent = bench.drain();
    assert_eq!(sent.len(), 3);
    assert_eq!(body(&sent[2]), Body::Reserved { next: Some(Pfn(8)) });
    assert_eq!(bench.engine.counters().unreadable, 1);
    assert_eq!(bench.engine.counters().pages, 0);
}

#[test]
fn a_target_cannot_send_the_server_backwards() {
    struct Liar(Memory);
    impl Target for Liar {
        fn classify(&mut self, _: Pfn) -> PageClass {
            PageClass::Hole { next: Some(Pfn(3)) }
        }
        fn read(&mut self, _: Pfn, _: u32, _: &mut [u8]) -> core::result::Result<(), Unreadable> {
            Err(Unreadable)
        }
        fn regs(&self) -> &[u8] {
            &[0; 5000]
        }
        fn item(&mut self, _: ItemId, _: u32, _: &mut [u8]) -> ItemPart {
            ItemPart { total: 9, written: usize::MAX }
        }
        fn show_state(&mut self, _: &mut [u8]) -> Option<usize> {
            Some(usize::MAX)
        }
    }
    let mut bench = Bench::serving();
    let mut liar = Liar(Memory::new());
    let mut buf = [0u8; MAX_DATAGRAM];
    let mut ask = |command| {
        bench.request(command);
        let len = bench.engine.transmit(bench.now, &mut liar, &mut buf)?;
        Some(buf[..len].to_vec())
    };
    assert_eq!(body(&ask(Command::SendMem(Pfn(3))).unwrap()), Body::Reserved { next: None });
    assert_eq!(ask(Command::Ext { item: ItemId::Notes, offset: 0 }).unwrap().len(), 13 + 1024);
    assert_eq!(ask(Command::GetRegs), None, "too large to be sent");
    assert_eq!(ask(Command::ShowState).unwrap().len(), 13 + 1000);
    assert_eq!(bench.engine.counters().no_room, 1);
    let _ = liar.0;
}

#[test]
fn errors_are_worded_as_in_the_original() {
    let mut bench = Bench::serving();
    let reply = bench.ask(Command::SendMem(Pfn(12)));
    assert_eq!(&reply[5..], b"\0\0\0\x01\0\0\0\0page 0000000c is bigger than max page # 0000000c!\n");
    let reply = bench.ask(Command::StartAck { max_version: 5 });
    assert_eq!(&reply[5..], b"\0\0\0\x01\0\0\0\x07Got unknown command code 7!\n");
    let reply = bench.ask(Command::Unknown { code: 77, from: 0, to: 0 });
    assert_eq!(&reply[5..], b"\0\0\0\x01\0\0\0\x4dGot unknown command code 77!\n");
    bench.request(Command::None);
    assert!(bench.drain().is_empty());
}

#[test]
fn more_pages_than_32_bits_hold() {
    let mut bench = Bench::new(Config { nr_pages: 1 << 33, ..config() });
    bench.request(Command::StartAck { max_version: 5 });
    assert_eq!(&bench.ask(Command::GetNrPages)[9..], b"\xff\xff\xff\xffNumber of pages: 4294967295\n");
}

#[test]
fn the_listing_goes_out_once_and_the_reply_follows_it() {
    let mut bench = Bench::serving();
    let first = bench.request(Command::ShowState);
    let again = bench.request(Command::ShowState);
    let sent = bench.drain();
    assert_eq!(sent.len(), 4);
    assert_eq!(sent[0], b"\x04\0\0\0\0\0\0\0\x02\0\0\0\x64task one\n");
    assert_eq!(sent[1], b"\x04\0\0\0\0\0\0\0\x02\0\0\0\x6dtask two\n");
    for (datagram, nr) in [(&sent[2], first), (&sent[3], again)] {
        let reply = Reply::parse(datagram).unwrap();
        assert_eq!((reply.nr, reply.body), (RequestId(nr), Body::ShowState));
    }
    assert_eq!(bench.engine.log_offset(), 118);
}

#[test]
fn an_empty_piece_ends_the_listing() {
    let mut bench = Bench::serving();
    bench.memory.listing.insert(1, b"");
    bench.request(Command::ShowState);
    assert_eq!(bench.drain().len(), 2, "one piece and the reply");
}

#[test]
fn items_come_in_pieces() {
    let mut bench = Bench::serving();
    let whole = bench.ask(Command::Ext { item: ItemId::Notes, offset: 0 });
    assert_eq!(body(&whole), Body::Ext { offset: 0, total: 1500, data: &[7; 1020] });
    let rest = bench.ask(Command::Ext { item: ItemId::Notes, offset: 1020 });
    assert_eq!(body(&rest), Body::Ext { offset: 1020, total: 1500, data: &[7; 480] });
    let past = bench.ask(Command::Ext { item: ItemId::Notes, offset: 4_000_000_000 });
    assert_eq!(body(&past), Body::Ext { offset: 4_000_000_000, total: 1500, data: &[] });
    let none = bench.ask(Command::Ext { item: ItemId::Unknown(99), offset: 0 });
    assert_eq!(body(&none), Body::Ext { offset: 0, total: 0, data: &[] });
}

#[test]
fn exit_says_goodbye_and_reboot_does_not() {
    let mut bench = Bench::serving();
    bench.request(Command::Exit);
    assert_eq!(bench.engine.poll(bench.now), None, "the goodbye must go out first");
    assert_eq!(bench.drain(), [b"\x05\0\0\0\0\0\0\0\x09\0\0\0\0NETDUMP end.\n"]);
    assert_eq!(bench.engine.poll(bench.now), Some(End::Exit));

    let mut bench = Bench::serving();
    bench.request(Command::Hello);
    bench.request(Command::Reboot);
    bench.request(Command::Hello);
    assert_eq!(bench.drain().len(), 1, "first come, first served; nothing after the order");
    assert_eq!(bench.engine.poll(bench.now), Some(End::Reboot));
    assert_eq!(bench.engine.next_deadline(), None);
}

#[test]
fn strangers_are_counted_and_get_nothing() {
    let mut bench = Bench::serving();
    let before = bench.engine.counters().sent;
    bench.now = Time(20 * SECOND);
    for bit in 0..64 {
        bench.request_as(Cookie::new(COOKIE.expose() ^ (1 << bit)), bit, Command::SendMem(Pfn(0)));
    }
    bench.engine.handle(bench.now, &[0; 23]);
    bench.engine.handle(bench.now, &[]);
    assert!(bench.drain().is_empty());
    let counters = bench.engine.counters();
    assert_eq!((counters.bad_cookie, counters.short, counters.sent), (64, 2, before));
    assert_eq!(bench.at(30 * SECOND), Some(End::IdleTimeout), "and they keep nothing alive");
}

#[test]
fn copies_are_answered_unless_one_waits() {
    let mut bench = Bench::serving();
    bench.request_as(COOKIE, 7, Command::SendMem(Pfn(0)));
    bench.request_as(COOKIE, 7, Command::SendMem(Pfn(0)));
    assert_eq!(bench.engine.pending(), 1);
    assert_eq!(bench.drain().len(), 4);
    bench.request_as(COOKIE, 7, Command::SendMem(Pfn(0)));
    assert_eq!(bench.drain().len(), 4);
    assert_eq!(bench.engine.counters().duplicate, 1);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let mut bench = Bench::serving();
    for _ in 0..QUEUE_LEN + 5 {
        bench.request(Command::SendMem(Pfn(0)));
    }
    assert_eq!(bench.engine.pending(), QUEUE_LEN);
    assert_eq!(bench.engine.counters().queue_full, 5);
    assert_eq!(bench.drain().len(), 4 * QUEUE_LEN);
}

#[test]
fn the_three_timeouts() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.at(300 * SECOND - 1), None);
    assert_eq!(bench.at(300 * SECOND), Some(End::HandshakeTimeout));

    let mut bench = Bench::serving();
    assert_eq!(bench.at(30 * SECOND - 1), None);
    bench.request(Command::Hello);
    assert_eq!(bench.at(60 * SECOND - 2), None);
    assert_eq!(bench.engine.next_deadline(), Some(Time(60 * SECOND - 1)));
    assert_eq!(bench.at(60 * SECOND - 1), Some(End::IdleTimeout));

    let mut bench = Bench::serving();
    for second in 1..3600 {
        assert_eq!(bench.at(second * SECOND), None);
        bench.request(Command::Hello);
        bench.drain();
    }
    assert_eq!(bench.at(3600 * SECOND), Some(End::TotalTimeout));
    assert!(bench.drain().is_empty());

    let mut bench = Bench::new(Config { handshake_timeout: 0, idle_timeout: 0, total_timeout: 0, ..config() });
    assert_eq!(bench.at(u64::MAX), None);
    bench.request(Command::StartAck { max_version: 5 });
    assert_eq!(bench.at(u64::MAX), None);
    assert_eq!(bench.engine.next_deadline(), None);
}

#[test]
fn time_that_jumps_back_does_no_harm() {
    let mut bench = Bench::new(config());
    bench.now = Time(u64::MAX - 5);
    bench.drain();
    assert_eq!(bench.at(0), None);
    bench.request(Command::Hello);
    bench.request(Command::StartAck { max_version: 5 });
    assert_eq!(bench.at(0), None);
}

#[test]
fn a_buffer_too_small_loses_the_answer_and_ends() {
    let mut bench = Bench::serving();
    for _ in 0..3 {
        bench.request(Command::SendMem(Pfn(0)));
    }
    assert_eq!(bench.engine.transmit(bench.now, &mut bench.memory, &mut [0; 1036]), None);
    assert_eq!(bench.engine.counters().no_room, 3);
    assert_eq!(bench.engine.pending(), 0);
    assert_eq!(body(&bench.ask(Command::Hello)), Body::Hello { version: 4 });
}

#[test]
fn beginning_again_forgets_everything() {
    let mut bench = Bench::serving();
    bench.request(Command::SendMem(Pfn(0)));
    bench.request(Command::Hello);
    let mut buf = [0u8; MAX_DATAGRAM];
    bench.engine.transmit(bench.now, &mut bench.memory, &mut buf);
    bench.engine.begin(config(), Time(5));
    bench.now = Time(5);
    assert_eq!(bench.engine.state(), State::Handshake);
    assert_eq!((bench.engine.pending(), *bench.engine.counters()), (0, Counters::default()));
    assert_eq!(bench.drain().len(), 1);
}

/// A whole dump by the book: handshake, facts, notes, each page with holes skipped, listing, reboot.
#[test]
fn a_scripted_server_gets_the_whole_machine() {
    let mut bench = Bench::serving();
    let Body::NrPages(nr_pages) = body(&bench.ask(Command::GetNrPages)) else { panic!() };
    let mut pages = Vec::new();
    let mut pfn = 0;
    while pfn < u64::from(nr_pages) {
        bench.request(Command::SendMem(Pfn(pfn)));
        let sent = bench.drain();
        match body(sent.last().unwrap()) {
            Body::Mem { .. } => {
                pages.push(pfn);
                let whole: Vec<u8> = sent.iter().flat_map(|chunk| chunk[13..].to_vec()).collect();
                assert!(whole.iter().enumerate().all(|(at, b)| *b == Memory::byte(pfn, at)));
                pfn += 1;
            }
            Body::Reserved { next: Some(next) } => pfn = next.0,
            Body::Reserved { next: None } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pages, [0, 1, 5, 6, 8, 9]);
    bench.request(Command::ShowState);
    assert_eq!(bench.drain().len(), 3);
    bench.request(Command::Reboot);
    assert!(bench.drain().is_empty());
    assert_eq!(bench.engine.poll(bench.now), Some(End::Reboot));
    assert_eq!(bench.engine.counters().pages, 6);
}
