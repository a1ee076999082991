// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's session against a client that answers anything, and an owner who says anything; what it hands over
//! goes into a dump file.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, Machine, Reply, Request, Start, Version, CHUNK_LEN};
use netdump_core::wire::{Cookie, Pfn, RequestId};
use netdump_session::{Event, Grant, Params, Session};
use netdump_vmcore::{Format, Storage, Writer};

use crate::input::Input;

const COOKIE: Cookie = Cookie::new(0x0102_0304_0506_0708);
/// Requests remembered to be answered.
const REMEMBERED: usize = 64;
/// The session's owner calls it that often at most after the input has ended.
const PATIENCE: usize = 100_000;

/// A disk that checks where it is written to, and keeps nothing.
struct Disk {
    len: Cell<u64>,
}

impl Storage for Disk {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset + data.len() as u64 <= self.len.get(), "beyond the end of the file");
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.set(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Bench {
    session: Session,
    format: Format,
    writer: Option<Writer<Disk>>,
    now: Instant,
    asked: VecDeque<Request>,
    asked_pages: HashSet<u64>,
    max_window: usize,
    finished: bool,
}

impl Bench {
    /// Takes what the session has to say and checks it.
    fn drain(&mut self) {
        for _ in 0..PATIENCE {
            if self.session.poll_timeout().is_some_and(|at| at <= self.now) {
                self.session.handle_timeout(self.now);
            }
            let mut quiet = true;
            while let Some(event) = self.session.poll_event() {
                quiet = false;
                // Console text may come at any time, and is the owner's to store.
                let late = self.finished && !matches!(event, Event::Netlog { .. });
                assert!(!late, "{event:?} after the end");
                match event {
                    Event::Page { pfn, data, again } => {
                        assert!(self.asked_pages.contains(&pfn.0), "{pfn:?} was never asked for");
                        let writer = self.writer.as_mut().expect("pages come after the description");
                        writer.write(pfn, &data, again).expect("every page has a place");
                        self.session.recycle(data);
                    }
                    Event::Absent { pfns, .. } => assert!(pfns.start < pfns.end),
                    Event::Described(info) => {
                        assert!(info.nr_pages <= 1 << 32);
                        if let Some(ranges) = &info.ranges {
                            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
                        }
                        let disk = Disk { len: Cell::new(0) };
                        self.writer = Some(Writer::create(disk, *info, self.format).expect("the disk takes all"));
                    }
                    Event::MemoryDone(end) => {
                        if let Some(writer) = self.writer.take() {
                            writer.finish(end.failure.is_none()).expect("the disk takes all");
                        }
                    }
                    Event::Finished(_) => self.finished = true,
                    _ => {}
                }
            }
            while let Some(datagram) = self.session.poll_transmit(self.now) {
                quiet = false;
                let request = Request::parse(&datagram).expect("well-formed");
                assert_eq!(request.cookie, COOKIE);
                if let Command::SendMem(pfn) = request.command {
                    self.asked_pages.insert(pfn.0);
                }
                if self.asked.len() == REMEMBERED {
                    self.asked.pop_front();
                }
                self.asked.push_back(request);
                assert!(self.session.progress().in_flight <= self.max_window);
            }
            if quiet {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn answer(&mut self, nr: RequestId, body: Body<'_>) {
        let mut buf = [0; 2048];
        let len = Reply { version: Version::V5, nr, body }.emit(&mut buf).expect("no reply is too long");
        self.session.handle(self.now, &buf[..len]);
    }

    /// The right answer to `request`, with contents that the input chooses.
    fn obey(&mut self, request: Request, input: &mut Input<'_>) {
        let fill = input.u8().unwrap_or(0);
        match request.command {
            Command::Hello => self.answer(request.nr, Body::Hello { version: 4 }),
            Command::GetNrPages => self.answer(request.nr, Body::NrPages(u32::from(fill) * 3)),
            Command::GetPageSize => self.answer(request.nr, Body::PageSize(4096 << (fill & 1))),
            Command::GetRegs => self.answer(request.nr, Body::Regs { total_ram_pages: 1, block: &[fill; 216] }),
            Command::SendMem(_) => {
                for chunk in 0..4 {
                    self.answer(request.nr, Body::Mem { offset: chunk * 1024, data: &[fill; CHUNK_LEN] });
                }
            }
            Command::ShowState => self.answer(request.nr, Body::ShowState),
            Command::Ext { offset, .. } => {
                let data = input.bytes().unwrap_or(&[]);
                let total = if data.is_empty() { 0 } else { offset.saturating_add(data.len() as u32) };
                let data = &data[..data.len().min(total.saturating_sub(offset) as usize)];
                self.answer(request.nr, Body::Ext { offset, total, data });
            }
            Command::Exit => self.answer(RequestId(0), Body::End),
            _ => {}
        }
    }
}

/// Pages are handed over only if they were asked for, no more is asked for than the window allows, and a session ends
/// whatever happens.
pub fn session_ends_and_hands_over_only_what_was_asked(data: &[u8]) {
    let mut input = Input::new(data);
    let now = Instant::now();
    let first = input.u8().unwrap_or(0);
    let max_window = 1 + u16::from(first % 32);
    let params = Params { max_window, max_duration: Duration::from_secs(3600), ..Params::new(COOKIE) };
    let start = Start::V5 {
        machine: Machine::X86_64,
        max_version: 5,
        task_struct: 0xffff_8880_0000_1000,
        page_offset: 0xffff_8880_0000_0000,
        magic: Cookie::new(0),
    };
    let mut bench = Bench {
        format: if first & 32 == 0 { Format::Elf } else { Format::Netdump },
        writer: None,
        session: Session::new(params, start, [7; 32], now),
        now,
        asked: VecDeque::new(),
        asked_pages: HashSet::new(),
        // Items are fetched by a window of their own, which is never larger than the default.
        max_window: usize::from(max_window).max(192),
        finished: false,
    };
    bench.drain();
    while let Some(op) = input.u8() {
        let index = usize::from(op >> 4);
        match op & 15 {
            0 => bench.now += Duration::from_millis(input.u8().unwrap_or(0).into()),
            1 => bench.now += Duration::from_millis(input.u16().unwrap_or(0).into()),
            2 => bench.session.handle(bench.now, input.bytes().unwrap_or(&[])),
            3..=7 => {
                // Newest first: choice 0 is the obedient client.
                let len = bench.asked.len();
                if let Some(request) = len.checked_sub(1 + index).and_then(|at| bench.asked.get(at)).copied() {
                    bench.obey(request, &mut input);
                }
            }
            8 => {
                let len = bench.asked.len();
                if let Some(request) = len.checked_sub(1 + index).and_then(|at| bench.asked.get(at)).copied() {
                    let text = input.bytes().unwrap_or(&[]);
                    let info = input.u32().unwrap_or(0);
                    match info % 5 {
                        0 => bench.answer(request.nr, Body::Error { info: request.command.code(), text }),
                        1 => bench.answer(request.nr, Body::Reserved { next: None }),
                        2 => bench.answer(request.nr, Body::Reserved { next: Some(Pfn(u64::from(info >> 8).max(1))) }),
                        3 => bench.answer(request.nr, Body::Error { info: 0, text }),
                        _ => bench
                            .answer(request.nr, Body::Mem { offset: info & !1023, data: &[index as u8; CHUNK_LEN] }),
                    }
                }
            }
            9 => bench.answer(RequestId(0), Body::Log { offset: input.u32().unwrap_or(0), text: b"text\n" }),
            10 => bench.answer(RequestId(0), Body::Start(start)),
            11 => bench.session.grant_slot(bench.now, if index == 0 { Grant::LogOnly } else { Grant::Full }),
            12 if index == 0 => bench.session.storage_failed(bench.now),
            12 => bench.session.storage_ready(bench.now),
            13 => bench.session.stored(bench.now),
            14 => bench.session.set_write_room(index * 8),
            _ => match index {
                0 => bench.session.cancel(bench.now),
                _ => bench.session.note_receive_drops(index as u64),
            },
        }
        bench.drain();
    }
    // The owner does what it must, the client nothing more: the session ends by itself.
    bench.session.set_write_room(usize::MAX);
    for _ in 0..PATIENCE {
        if bench.session.is_finished() {
            break;
        }
        bench.session.grant_slot(bench.now, Grant::Full);
        bench.session.storage_ready(bench.now);
        bench.session.stored(bench.now);
        bench.drain();
        if let Some(at) = bench.session.poll_timeout() {
            bench.now = bench.now.max(at);
        }
        bench.drain();
    }
    assert!(bench.session.is_finished(), "it never ends: {:?}", bench.session.phase());
}
