// SPDX-License-Identifier: GPL-2.0-or-later
//! The dump client against a network that says anything.

use netdump_core::engine::{
    Config, End, Engine, ItemPart, PageClass, State, Target, Time, Unreadable, MAX_DATAGRAM, QUEUE_LEN,
};
use netdump_core::wire::classic::{Body, Command, ItemId, Machine, Reply, Request, EXT};
use netdump_core::wire::{Cookie, Pfn, RequestId};

use crate::input::Input;

const COOKIE: Cookie = Cookie::new(0x0102_0304_0506_0708);
const NR_PAGES: u64 = 64;
const SECOND: u64 = 1_000_000_000;

/// Every third page is a hole, every seventh cannot be read.
struct Memory {
    pieces: u8,
}

impl Target for Memory {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        assert!(pfn.0 < NR_PAGES);
        if pfn.0 % 3 == 2 {
            PageClass::Hole { next: Some(Pfn(pfn.0 + 1)) }
        } else {
            PageClass::Ram
        }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        assert!(pfn.0 < NR_PAGES && pfn.0 % 3 != 2 && offset < 4096 && out.len() == 1024);
        out.fill(pfn.0 as u8);
        if pfn.0 % 7 == 3 {
            Err(Unreadable)
        } else {
            Ok(())
        }
    }

    fn regs(&self) -> &[u8] {
        &[1; 216]
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        let total = if item == ItemId::Notes { 3000 } else { 0 };
        let written = (total as usize).saturating_sub(offset as usize).min(out.len());
        out[..written].fill(2);
        ItemPart { total, written }
    }

    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        self.pieces = self.pieces.checked_sub(1)?;
        out[..9].fill(b'x');
        Some(9)
    }
}

/// Before START_NETDUMP is acknowledged nothing else is sent; after it only answers to numbers that came with the
/// right cookie; each of them well-formed; and never memory that cannot be read.
pub fn engine_sends_only_what_was_asked(data: &[u8]) {
    let mut input = Input::new(data);
    let mut engine = Box::new(Engine::new());
    let machine = if input.u8().unwrap_or(0) % 4 == 0 { Machine::I386 } else { Machine::X86_64 };
    let config = Config {
        cookie: COOKIE,
        machine,
        task_struct: 1,
        page_offset: 2,
        page_size: 4096,
        nr_pages: NR_PAGES,
        total_ram_pages: 3,
        log_offset: u32::MAX - 5,
        handshake_timeout: 60 * SECOND,
        idle_timeout: 30 * SECOND,
        total_timeout: 600 * SECOND,
    };
    engine.begin(config, Time(0));
    let mut memory = Memory { pieces: 3 };
    let mut now = 0u64;
    let mut asked = [false; 256];
    let mut buf = [0; MAX_DATAGRAM];
    while let Some(op) = input.u8() {
        match op % 8 {
            0 => now += u64::from(input.u16().unwrap_or(0)) * 1_000_000,
            1 => engine.handle(Time(now), input.bytes().unwrap_or(&[])),
            2..=4 => {
                let (nr, code) = (input.u8().unwrap_or(0), input.u8().unwrap_or(0));
                let code = if code == 200 { EXT } else { u32::from(code) };
                let command = Command::from_wire(code, input.u8().unwrap_or(0).into(), input.u16().unwrap_or(0).into());
                let cookie = if op >= 64 { COOKIE } else { Cookie::new(u64::from(op)) };
                asked[usize::from(nr)] |= op >= 64;
                let request = Request { cookie, nr: RequestId(nr.into()), command };
                let len = request.emit(&mut buf).expect("the buffer is long enough");
                engine.handle(Time(now), &buf[..len]);
            }
            _ => {
                let before = engine.state();
                let Some(len) = engine.transmit(Time(now), &mut memory, &mut buf) else { continue };
                let reply = Reply::parse(&buf[..len]).expect("well-formed");
                match reply.body {
                    Body::Start(_) => assert_eq!(before, State::Handshake),
                    Body::Log { .. } => assert!(matches!(before, State::Serving(_))),
                    Body::End => assert_eq!(engine.state(), State::Ended(End::Exit)),
                    Body::Mem { data, .. } => {
                        assert!(asked[reply.nr.0 as usize]);
                        assert!(data.iter().all(|b| *b == data[0] && b % 7 != 3 && b % 3 != 2));
                    }
                    _ => assert!(asked[reply.nr.0 as usize]),
                }
            }
        }
        assert!(engine.pending() <= QUEUE_LEN + 1);
        let ended = engine.poll(Time(now));
        assert_eq!(ended.is_some(), matches!(engine.state(), State::Ended(_)));
        if ended.is_some() {
            assert_eq!(engine.transmit(Time(now), &mut memory, &mut buf), None);
        }
    }
    let c = engine.counters();
    assert_eq!(
        c.received,
        c.accepted + c.short + c.bad_cookie + c.early + c.late + c.duplicate + c.queue_full,
        "every datagram is counted once"
    );
    assert_eq!(c.no_room, 0);
}
