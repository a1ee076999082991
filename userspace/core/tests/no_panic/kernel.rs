// SPDX-License-Identifier: GPL-2.0-or-later
//! Every entry into the shared code that a module has, as symbols of their own, so that it is all compiled.
#![no_std]

#[path = "../../../../rust/engine/mod.rs"]
pub mod engine;
#[path = "../../../../rust/wire/mod.rs"]
pub mod wire;

use engine::client::{Client, Dialects};
use engine::v6::{Choice, Config6, Source};
use engine::*;
use wire::classic::ItemId;
use wire::ext::{CpuNote, MachineNote, NotesWriter, PhysRange, VolatileRange};
use wire::log::basic::Basic;
use wire::log::extended::Extended;
use wire::log::netlog::Stream;
use wire::log::syslog::{Escapes, Header, Original, Rfc5424, SequenceId};
use wire::log::Datagrams;
use wire::v6::message::Turn;
use wire::v6::secure::Crypto;
use wire::v6::{Codec, Level};
use wire::{Pfn, PhysAddr};

/// Memory that the compiler knows nothing about.
pub struct Machine<'a>(&'a mut dyn Target2);

/// [`Target`] behind a table of function pointers.
pub trait Target2 {
    fn classify(&mut self, pfn: Pfn) -> PageClass;
    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable>;
    fn regs(&self) -> &[u8];
    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart;
    fn show_state(&mut self, out: &mut [u8]) -> Option<usize>;
}

/// What version 6 asks of a machine, behind a table too.
pub struct Machine6<'a>(Machine<'a>, &'a mut dyn Source2);

/// [`Source`] and [`Crypto`] behind a table of function pointers.
pub trait Source2 {
    fn select(&mut self, level: Level, turn: Turn, pfn: Pfn, end: Pfn) -> Choice;
    fn hash(&mut self, bytes: &[u8]) -> u32;
    fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize>;
}

/// Cryptography that the compiler knows nothing about.
pub struct Library<'a>(&'a dyn Library2);

/// [`Crypto`] behind a table of function pointers.
pub trait Library2 {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32];
    fn seal(&self, key: &[u8; 32], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool;
    fn open(&self, key: &[u8; 32], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool;
}

impl Crypto for Library<'_> {
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.0.sha256(parts)
    }
    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        self.0.hmac(key, parts)
    }
    fn seal(&self, key: &[u8; 32], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        self.0.seal(key, nonce, aad, text_and_tag)
    }
    fn open(&self, key: &[u8; 32], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool {
        self.0.open(key, nonce, aad, text_and_tag)
    }
}

impl Target for Machine6<'_> {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        self.0.classify(pfn)
    }
    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read(pfn, offset, out)
    }
    fn regs(&self) -> &[u8] {
        self.0.regs()
    }
    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        self.0.item(item, offset, out)
    }
    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        self.0.show_state(out)
    }
}

impl Source for Machine6<'_> {
    fn select(&mut self, level: Level, turn: Turn, pfn: Pfn, end: Pfn) -> Choice {
        self.1.select(level, turn, pfn, end)
    }
    fn hash(&mut self, bytes: &[u8]) -> u32 {
        self.1.hash(bytes)
    }
    fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize> {
        self.1.compress(codec, from, to)
    }
}

#[no_mangle]
pub fn begin_client(client: &mut Client, dialects: Dialects, classic: Config, six: Config6, now: Time, crypto: Library<'_>) {
    client.begin(dialects, classic, six, now, &crypto)
}

#[no_mangle]
pub fn handle_client(client: &mut Client, now: Time, datagram: &[u8], crypto: Library<'_>) {
    client.handle(now, datagram, &crypto)
}

#[no_mangle]
pub fn transmit_client(
    client: &mut Client,
    now: Time,
    mut machine: Machine6<'_>,
    crypto: Library<'_>,
    buf: &mut [u8],
) -> Option<usize> {
    client.transmit(now, &mut machine, &crypto, buf)
}

#[no_mangle]
pub fn poll_client(client: &mut Client, now: Time) -> (Option<End>, Option<Time>, bool, bool) {
    (client.poll(now), client.next_deadline(), client.has_more(), client.is_serving())
}

impl Target for Machine<'_> {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        self.0.classify(pfn)
    }
    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        self.0.read(pfn, offset, out)
    }
    fn regs(&self) -> &[u8] {
        self.0.regs()
    }
    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        self.0.item(item, offset, out)
    }
    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        self.0.show_state(out)
    }
}

#[no_mangle]
pub fn begin(engine: &mut Engine, config: &Config, now: Time) {
    engine.begin(*config, now)
}

#[no_mangle]
pub fn handle(engine: &mut Engine, now: Time, datagram: &[u8]) {
    engine.handle(now, datagram)
}

#[no_mangle]
pub fn transmit(engine: &mut Engine, now: Time, target: &mut dyn Target2, buf: &mut [u8]) -> Option<usize> {
    engine.transmit(now, &mut Machine(target), buf)
}

#[no_mangle]
pub fn poll(engine: &mut Engine, now: Time) -> Option<End> {
    engine.poll(now)
}

#[no_mangle]
pub fn next_deadline(engine: &Engine) -> Option<Time> {
    engine.next_deadline()
}

#[no_mangle]
pub fn notes(
    buf: &mut [u8],
    machine: &MachineNote,
    cpu: &CpuNote<'_>,
    ranges: &[PhysRange],
    pairs: &[(&str, &[u8])],
    paddr: PhysAddr,
) -> wire::Result<usize> {
    let mut w = NotesWriter::new(buf);
    w.machine(machine)?;
    w.cpu(cpu)?;
    w.vmcoreinfo(cpu.regs.unwrap_or(&[]))?;
    w.ranges(ranges)?;
    w.layout(paddr.0)?;
    w.identity(pairs)?;
    w.overlay(paddr, cpu.regs.unwrap_or(&[]))?;
    Ok(w.len())
}

#[no_mangle]
pub fn volatile(buf: &mut [u8], range: PhysRange, label: &str) -> wire::Result<usize> {
    VolatileRange::new(range, label).emit(buf)
}

#[no_mangle]
pub fn log_netlog(stream: &mut Stream, text: &[u8], buf: &mut [u8]) -> wire::Result<Option<usize>> {
    stream.send(text).emit_next(buf)
}

#[no_mangle]
pub fn log_basic(text: &[u8], buf: &mut [u8]) -> wire::Result<Option<usize>> {
    Basic::new(text).emit_next(buf)
}

#[no_mangle]
pub fn log_extended(message: Extended<'_>, buf: &mut [u8]) -> wire::Result<usize> {
    let mut cursor = message.datagrams();
    let mut sent = 0usize;
    while let Some(len) = cursor.emit_next(buf)? {
        sent = sent.saturating_add(len);
    }
    Ok(sent)
}

#[no_mangle]
pub fn log_original(text: &[u8], buf: &mut [u8]) -> wire::Result<Option<usize>> {
    Original::new(text).emit_next(buf)
}

#[no_mangle]
pub fn log_rfc5424(
    header: Header<'_>,
    sequence: &mut SequenceId,
    text: &[u8],
    escapes: Escapes,
    buf: &mut [u8],
) -> wire::Result<Option<usize>> {
    Rfc5424::new(header, sequence, text, escapes).emit_next(buf)
}
