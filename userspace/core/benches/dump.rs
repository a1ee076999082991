// SPDX-License-Identifier: GPL-2.0-or-later
//! What a page costs the client: a request in, four datagrams out, over memory that is only copied.
#![allow(missing_docs)] // what criterion generates

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use netdump_core::engine::{Config, Engine, ItemPart, PageClass, Target, Time, Unreadable, MAX_DATAGRAM};
use netdump_core::wire::classic::{Command, ItemId, Machine, Reply, Request};
use netdump_core::wire::{Cookie, Pfn, RequestId};

const COOKIE: Cookie = Cookie::new(0x0102_0304_0506_0708);
const PAGE: usize = 4096;

struct Memory(Vec<u8>);

impl Target for Memory {
    fn classify(&mut self, _: Pfn) -> PageClass {
        PageClass::Ram
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        let at = (pfn.0 as usize * PAGE) % self.0.len() + offset as usize;
        out.copy_from_slice(&self.0[at..at + out.len()]);
        Ok(())
    }

    fn regs(&self) -> &[u8] {
        &[]
    }

    fn item(&mut self, _: ItemId, _: u32, _: &mut [u8]) -> ItemPart {
        ItemPart::default()
    }

    fn show_state(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
}

fn request(nr: u32, command: Command) -> [u8; 24] {
    let mut buf = [0; 24];
    Request { cookie: COOKIE, nr: RequestId(nr), command }.emit(&mut buf).expect("24 bytes");
    buf
}

fn pages(c: &mut Criterion) {
    let mut engine = Box::new(Engine::new());
    let config = Config {
        cookie: COOKIE,
        machine: Machine::X86_64,
        task_struct: 0,
        page_offset: 0,
        page_size: PAGE as u32,
        nr_pages: 1 << 32,
        total_ram_pages: 0,
        log_offset: 0,
        handshake_timeout: 0,
        idle_timeout: 0,
        total_timeout: 0,
    };
    engine.begin(config, Time(0));
    engine.handle(Time(0), &request(0, Command::StartAck { max_version: 5 }));
    let mut memory = Memory(vec![0x5a; 64 << 20]);
    let mut buf = [0; MAX_DATAGRAM];
    let mut nr = 0u32;
    let mut group = c.benchmark_group("engine");
    // A window of requests waits while each is answered, as in a dump.
    for window in [1u32, 64, 512] {
        group.throughput(Throughput::Bytes(u64::from(window) * PAGE as u64));
        group.bench_function(format!("pages, {window} at a time"), |b| {
            b.iter(|| {
                for _ in 0..window {
                    nr = nr.wrapping_add(1);
                    engine.handle(Time(0), &request(nr, Command::SendMem(Pfn(nr.into()))));
                }
                while let Some(len) = engine.transmit(Time(0), &mut memory, &mut buf) {
                    black_box(&buf[..len]);
                }
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("wire");
    engine.handle(Time(0), &request(0, Command::SendMem(Pfn(1))));
    let len = engine.transmit(Time(0), &mut memory, &mut buf).expect("an answer");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse MEM", |b| b.iter(|| Reply::parse(black_box(&buf[..len]))));
    group.bench_function("parse request", |b| {
        let datagram = request(1, Command::Hello);
        b.iter(|| Request::parse(black_box(&datagram)))
    });
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
