// SPDX-License-Identifier: GPL-2.0-or-later
//! One of each message: a dump by the book, as datagrams and as a capture for protocol analyzers.

use std::io::{self, Write};

use netdump_core::engine::{Engine, Time, MAX_DATAGRAM};
use netdump_core::wire::classic::{Command, ItemId, Request, DEFAULT_PORT};
use netdump_core::wire::frame::{Fill, MacAddr, Path, UdpHeaders, MAX_HEADERS_LEN};
use netdump_core::wire::{Cookie, Pfn, RequestId};

use crate::image::Image;

/// A request and what the client sent then.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// One word for it.
    pub name: &'static str,
    /// The request; none before the first START_NETDUMP.
    pub request: Option<Vec<u8>>,
    /// The answers.
    pub replies: Vec<Vec<u8>>,
}

/// Each command once, some with arguments that are refused, answered by the engine of the kernel module.
pub fn by_the_book(image: &mut Image, cookie: Cookie) -> Vec<Exchange> {
    let mut engine = Box::new(Engine::new());
    engine.begin(image.config(cookie), Time(0));
    let mut talk = vec![Exchange { name: "start", request: None, replies: drain(&mut engine, image) }];
    let commands = [
        ("ack", Command::StartAck { max_version: 5 }),
        ("ack_again", Command::StartAck { max_version: 5 }),
        ("hello", Command::Hello),
        ("page_size", Command::GetPageSize),
        ("nr_pages", Command::GetNrPages),
        ("regs", Command::GetRegs),
        ("notes", Command::Ext { item: ItemId::Notes, offset: 0 }),
        ("log", Command::Ext { item: ItemId::Log, offset: 1020 }),
        ("no_item", Command::Ext { item: ItemId::Unknown(9), offset: 0 }),
        ("page", Command::SendMem(Pfn(9))),
        ("hole", Command::SendMem(Pfn(0xa0))),
        ("no_page", Command::SendMem(Pfn(0xffff_ffff))),
        ("unknown", Command::Unknown { code: 99, from: 1, to: 2 }),
        ("show_state", Command::ShowState),
        ("exit", Command::Exit),
    ];
    for (nr, (name, command)) in (1..).zip(commands) {
        let mut buf = [0; 24];
        let request = Request { cookie, nr: RequestId(nr), command };
        request.emit(&mut buf).expect("24 bytes are enough");
        engine.handle(Time(0), &buf);
        talk.push(Exchange { name, request: Some(buf.to_vec()), replies: drain(&mut engine, image) });
    }
    talk
}

fn drain(engine: &mut Engine, image: &mut Image) -> Vec<Vec<u8>> {
    let mut buf = [0; MAX_DATAGRAM];
    std::iter::from_fn(|| engine.transmit(Time(0), image, &mut buf).map(|len| buf[..len].to_vec())).collect()
}

/// Writes a conversation as a pcap file of Ethernet frames, with the headers that the kernel module writes.
pub fn write_pcap(talk: &[Exchange], out: &mut impl Write) -> io::Result<()> {
    const LINKTYPE_ETHERNET: u32 = 1;
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, LINKTYPE_ETHERNET] {
        out.write_all(&u32::to_le_bytes(word))?;
    }
    let (client, server) = (MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 1]));
    let to_server = Path {
        local_mac: client,
        peer_mac: server,
        local: [10, 0, 0, 2].into(),
        peer: [10, 0, 0, 1].into(),
        local_port: DEFAULT_PORT,
        peer_port: DEFAULT_PORT,
        vlan: None,
    };
    let to_client =
        Path { local_mac: server, peer_mac: client, local: to_server.peer, peer: to_server.local, ..to_server };
    let datagrams = talk.iter().flat_map(|exchange| {
        let request = exchange.request.iter().map(|request| (to_client, request));
        request.chain(exchange.replies.iter().map(|reply| (to_server, reply)))
    });
    for (number, (path, payload)) in (0u32..).zip(datagrams) {
        let mut frame = vec![0; MAX_HEADERS_LEN + payload.len()];
        let headers = path.headers_len();
        frame[headers..headers + payload.len()].copy_from_slice(payload);
        let written = UdpHeaders::new(path)
            .emit(&mut frame, payload.len(), number as u16, Fill::Full)
            .ok_or_else(|| io::Error::other("a datagram too long for a frame"))?;
        frame.truncate(written.len);
        for word in [0, number, frame.len() as u32, frame.len() as u32] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(&frame)?;
    }
    Ok(())
}
