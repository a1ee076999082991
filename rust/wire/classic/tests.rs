// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The classic messages byte by byte.

use super::super::{Cookie, Error, Pfn, RequestId};
use super::*;

const COOKIE: Cookie = Cookie::new(0x0102_0304_0506_0708);

fn emit(reply: &Reply<'_>) -> std::vec::Vec<u8> {
    let mut buf = [0u8; 2048];
    let len = reply.emit(&mut buf).unwrap();
    assert!(len <= reply.buffer_len());
    buf[..len].to_vec()
}

fn v5(nr: u32, body: Body<'_>) -> Reply<'_> {
    Reply { version: Version::V5, nr: RequestId(nr), body }
}

#[test]
fn request_bytes() {
    let request = Request { cookie: COOKIE, nr: RequestId(0x1122_3344), command: Command::SendMem(Pfn(0xabcd)) };
    let wire = [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0xab, 0xcd, 0, 0, 0, 0];
    let mut buf = [0xffu8; 24];
    assert_eq!(request.emit(&mut buf), Ok(24));
    assert_eq!(buf, wire);
    assert_eq!(Request::parse(&wire), Ok(request));
}

#[test]
fn request_numbers_are_those_of_the_original() {
    let commands = [
        (0, Command::None),
        (1, Command::SendMem(Pfn(7))),
        (2, Command::Exit),
        (3, Command::Reboot),
        (4, Command::Hello),
        (5, Command::GetNrPages),
        (6, Command::GetPageSize),
        (7, Command::StartAck { max_version: 7 }),
        (8, Command::GetRegs),
        (9, Command::ShowState),
        (0x4e44_0001, Command::Ext { item: ItemId::Unknown(7), offset: 0 }),
        (10, Command::Unknown { code: 10, from: 7, to: 0 }),
    ];
    for (code, command) in commands {
        let mut wire = [0u8; 24];
        wire[12..16].copy_from_slice(&u32::to_be_bytes(code));
        wire[19] = 7;
        assert_eq!(Request::parse(&wire).unwrap().command, command);
        assert_eq!(command.code(), code);
    }
}

#[test]
fn request_for_the_extension() {
    let request =
        Request { cookie: Cookie::new(0), nr: RequestId(9), command: Command::Ext { item: ItemId::Log, offset: 1020 } };
    let mut buf = [0u8; 24];
    request.emit(&mut buf).unwrap();
    assert_eq!(buf[8..], [0, 0, 0, 9, 0x4e, 0x44, 0, 1, 0, 0, 0, 2, 0, 0, 3, 0xfc]);
    assert_eq!(Request::parse(&buf), Ok(request));
}

#[test]
fn request_short_long_and_too_far() {
    assert_eq!(Request::parse(&[0; 23]), Err(Error::Truncated("to")));
    assert_eq!(Request::parse(&[0; 11]), Err(Error::Truncated("nr")));
    assert!(Request::parse(&[0; 25]).is_ok());
    let far = Request { cookie: COOKIE, nr: RequestId(1), command: Command::SendMem(Pfn(1 << 32)) };
    assert_eq!(far.emit(&mut [0; 24]), Err(Error::Invalid("pfn")));
    let near = Request { cookie: COOKIE, nr: RequestId(1), command: Command::Hello };
    assert_eq!(near.emit(&mut [0; 23]), Err(Error::NoRoom));
}

#[test]
fn start_bytes() {
    let start = Reply {
        version: Version::V4,
        nr: RequestId(0),
        body: Body::Start(Start::V5 {
            machine: Machine::X86_64,
            max_version: 5,
            task_struct: 0xffff_8880_0123_4540,
            page_offset: 0xffff_8880_0000_0000,
            magic: Cookie::new(0),
        }),
    };
    let mut wire = b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x05".to_vec();
    wire.extend_from_slice(b"task_struct:0xffff888001234540 page_offset:0xffff888000000000 netdump_magic:0x0\n");
    assert_eq!(emit(&start), wire);
    assert_eq!(Reply::parse(&wire), Ok(start));
}

#[test]
fn start_of_version_4() {
    let wire = b"\x04\0\0\0\0\0\0\0\x08\0\0\0\0NETDUMP start, waiting for start-ACK.\n";
    let start = Reply { version: Version::V4, nr: RequestId(0), body: Body::Start(Start::V4) };
    assert_eq!(Reply::parse(wire), Ok(start));
    assert_eq!(emit(&start), wire);
}

#[test]
fn start_must_be_whole() {
    let parse = |text: &str| {
        let mut wire = b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x05".to_vec();
        wire.extend_from_slice(text.as_bytes());
        Reply::parse(&wire).map(|_| ())
    };
    assert_eq!(parse("task_struct:0x1 page_offset:0x2 netdump_magic:0x3\n"), Ok(()));
    assert_eq!(parse("task_struct:0x1 page_offset:0x2\n"), Err(Error::Truncated("netdump_magic")));
    assert_eq!(parse("task_struct:0x page_offset:0x2 netdump_magic:0x3\n"), Err(Error::Invalid("task_struct")));
    assert_eq!(
        parse("task_struct:0x1 page_offset:0x12345678901234567 netdump_magic:0x3\n"),
        Err(Error::Invalid("page_offset"))
    );
    assert_eq!(parse("task_struct:0x1 page_offset:0x2 netdump_magic:0xg\n"), Err(Error::Invalid("netdump_magic")));
    assert_eq!(Reply::parse(b"\x04\0\x01\0\0\0\0\0\x08\0\0\0\x05"), Err(Error::Invalid("machine")));
    assert_eq!(Reply::parse(b"\x04\0\0\0\x3e\0\0\0\x08\0\0\0\x03"), Err(Error::Invalid("info of START_NETDUMP")));
}

#[test]
fn mem_bytes() {
    let data = [0x5a; CHUNK_LEN];
    let mem = v5(0x0102_0304, Body::Mem { offset: 3072, data: &data });
    let wire = emit(&mem);
    assert_eq!(wire.len(), 1037);
    assert_eq!(wire[..14], [5, 1, 2, 3, 4, 0, 0, 0, 3, 0, 0, 0x0c, 0, 0x5a]);
    assert_eq!(Reply::parse(&wire), Ok(mem));
    assert_eq!(Reply::parse(&wire[..1036]), Err(Error::Invalid("payload of MEM")));
    let mut skew = wire;
    skew[12] = 1;
    assert_eq!(Reply::parse(&skew), Err(Error::Invalid("offset of MEM")));
}

#[test]
fn replies_with_text() {
    let cases: [(Body<'_>, &[u8]); 8] = [
        (
            Body::Hello { version: BASE_VERSION },
            b"\x05\0\0\0\x07\0\0\0\x05\0\0\0\x04Hello, this is netdump version 0.04\n",
        ),
        (Body::NrPages(131_072), b"\x05\0\0\0\x07\0\0\0\x06\0\x02\0\0Number of pages: 131072\n"),
        (Body::PageSize(4096), b"\x05\0\0\0\x07\0\0\0\x07\0\0\x10\0PAGE_SIZE: 4096\n"),
        (Body::Reserved { next: Some(Pfn(256)) }, b"\x05\0\0\0\x07\0\0\0\x04\0\0\x01\0"),
        (Body::Reserved { next: None }, b"\x05\0\0\0\x07\0\0\0\x04\0\0\0\0"),
        (Body::End, b"\x05\0\0\0\x07\0\0\0\x09\0\0\0\0NETDUMP end.\n"),
        (Body::ShowState, b"\x05\0\0\0\x07\0\0\0\x0c\0\0\0\0"),
        (
            Body::Regs { total_ram_pages: 2, block: b"\x01\x02" },
            b"\x05\0\0\0\x07\0\0\0\x0a\0\0\0\x02Sending register info.\n\x01\x02",
        ),
    ];
    for (body, wire) in cases {
        let reply = v5(7, body);
        assert_eq!(emit(&reply), wire);
        assert_eq!(Reply::parse(wire), Ok(reply));
    }
}

#[test]
fn error_texts() {
    let mut buf = [0u8; 96];
    let len = bad_page_text(&mut buf, Pfn(0x1f_ffff), 0x2_0000).unwrap();
    assert_eq!(&buf[..len], b"page 001fffff is bigger than max page # 00020000!\n");
    let len = unknown_command_text(&mut buf, 7).unwrap();
    assert_eq!(&buf[..len], b"Got unknown command code 7!\n");
    let len = unknown_command_text(&mut buf, 0xffff_fffe).unwrap();
    assert_eq!(&buf[..len], b"Got unknown command code -2!\n");
}

#[test]
fn registers_may_have_garbage_behind_them() {
    let mut wire = b"\x05\0\0\0\x07\0\0\0\x0a\0\0\0\x02Sending register info.\n".to_vec();
    wire.extend_from_slice(&[9; 216 + 3]);
    let Body::Regs { block, .. } = Reply::parse(&wire).unwrap().body else { panic!("not REGS") };
    assert!(block.len() >= Machine::X86_64.regs_len().unwrap());
    assert_eq!(Reply::parse(&wire[..13 + 22]), Err(Error::Truncated("registers")));
}

#[test]
fn extension_bytes() {
    let reply = v5(7, Body::Ext { offset: 1020, total: 1022, data: b"ab" });
    let wire = b"\x05\0\0\0\x07\x4e\x44\0\x01\0\0\x03\xfc\0\0\x03\xfeab";
    assert_eq!(emit(&reply), wire);
    assert_eq!(Reply::parse(wire), Ok(reply));
    assert_eq!(Reply::parse(&wire[..18]), Err(Error::Invalid("item data length")));
    assert_eq!(Reply::parse(&wire[..16]), Err(Error::Truncated("item length")));
    let none = v5(7, Body::Ext { offset: 0, total: 0, data: b"" });
    assert_eq!(Reply::parse(&emit(&none)), Ok(none));
}

#[test]
fn replies_that_are_none() {
    assert_eq!(Reply::parse(&[4; 12]), Err(Error::Truncated("info")));
    assert_eq!(Reply::parse(&[6; 13]), Err(Error::Version(6)));
    assert_eq!(Reply::parse(&[4; 1473]), Err(Error::Invalid("payload length")));
    assert_eq!(Reply::parse(b"\x05\0\0\0\x07\0\0\0\x07\0\0\x10\x01"), Err(Error::Invalid("page size")));
}
