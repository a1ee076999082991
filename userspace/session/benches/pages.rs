// SPDX-License-Identifier: GPL-2.0-or-later
//! What a page costs the session: request, four answers, event.
#![allow(missing_docs)] // what criterion generates

use std::time::Instant;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use netdump_core::wire::classic::{
    Body, Code, Command, Machine, Reply, ReplyHeader, Request, Start, Version, CHUNK_LEN, EXT, REPLY_HEADER_LEN,
    REQUEST_LEN,
};
use netdump_core::wire::{Cookie, RequestId};
use netdump_session::{Event, Grant, Params, Session};

fn answer(session: &mut Session, now: Instant, nr: RequestId, body: Body<'_>) {
    let mut buf = [0; 2048];
    let len = Reply { version: Version::V5, nr, body }.emit(&mut buf).expect("room");
    session.handle(now, &buf[..len]);
}

/// A session in its memory phase.
fn in_memory(now: Instant) -> (Session, Vec<[u8; REQUEST_LEN]>) {
    let start =
        Start::V5 { machine: Machine::X86_64, max_version: 5, task_struct: 0, page_offset: 0, magic: Cookie::new(0) };
    let mut session = Session::new(Params::new(Cookie::new(1)), start, [5; 32], now);
    session.grant_slot(now, Grant::Full);
    loop {
        while let Some(event) = session.poll_event() {
            if matches!(event, Event::Described(_)) {
                session.storage_ready(now);
            }
        }
        let requests: Vec<_> = std::iter::from_fn(|| session.poll_transmit(now)).collect();
        for datagram in &requests {
            let request = Request::parse(datagram).expect("a request");
            match request.command {
                Command::Hello => answer(&mut session, now, request.nr, Body::Hello { version: 4 }),
                Command::GetPageSize => answer(&mut session, now, request.nr, Body::PageSize(4096)),
                Command::GetNrPages => answer(&mut session, now, request.nr, Body::NrPages(u32::MAX)),
                Command::GetRegs => {
                    answer(&mut session, now, request.nr, Body::Regs { total_ram_pages: 1, block: &[0; 216] });
                }
                Command::Ext { .. } => answer(&mut session, now, request.nr, Body::Error { info: EXT, text: b"" }),
                Command::SendMem(_) => return (session, requests),
                _ => {}
            }
        }
    }
}

fn pages(c: &mut Criterion) {
    let now = Instant::now();
    let (mut session, mut requests) = in_memory(now);
    let mut reply = [0xaa; REPLY_HEADER_LEN + CHUNK_LEN];
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("page", |b| {
        b.iter(|| {
            if requests.is_empty() {
                requests.extend(std::iter::from_fn(|| session.poll_transmit(now)));
                requests.reverse();
            }
            let datagram = requests.pop().expect("a request");
            let request = Request::parse(&datagram).expect("a request");
            for offset in [0, 1024, 2048, 3072] {
                let header = ReplyHeader { version: Version::V5, nr: request.nr, code: Code::Mem, info: offset };
                header.emit(&mut reply).expect("room");
                session.handle(now, &reply);
            }
            while let Some(event) = session.poll_event() {
                if let Event::Page { data, .. } = event {
                    session.recycle(data);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
