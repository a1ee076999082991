// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes the first inputs of each fuzz target to `corpus/`, made from real messages.

use std::fs;
use std::io;
use std::path::Path;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::{ByteOrder, PhysRange};
use netdump_core::wire::frame::{Fill, MacAddr, Path as Route, UdpHeaders};
use netdump_core::wire::{Cookie, PhysAddr};
use netdump_server::config::Settings;
use netdump_sim::conversation;
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::kernel_log::{Kernel, KernelParams};
use netdump_vmcore::{DumpInfo, Format, PageSize, Writer};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };

    let mut image = Image::new(ImageParams { memory: 2 << 20, log: 2000, listing: 2, ..ImageParams::default() });
    put("notes_stay_in_bounds", "machine", image.notes())?;
    for exchange in conversation::by_the_book(&mut image, Cookie::new(0x1111_1111_1111_1111)) {
        if let Some(request) = &exchange.request {
            put("wire_request_comes_back", exchange.name, request)?;
        }
        if let Some(reply) = exchange.replies.first() {
            put("wire_reply_comes_back", exchange.name, reply)?;
        }
    }
    for (name, bytes) in frames() {
        put("frame_yields_only_its_own_bytes", name, &bytes)?;
    }
    for (name, text) in [
        ("full", "6665@10.0.0.1/eth1,6666@10.0.0.2/12:34:56:78:9a:bc"),
        ("short", "@/,@10.0.0.2/"),
        ("ipv6", "6666@fd00::2/enp1s0,6666@fd00::1/ff:ff:ff:ff:ff:ff\n"),
        ("by_mac", "@/52:54:00:12:34:56,@10.0.0.2"),
    ] {
        put("target_string_or_error", name, text.as_bytes())?;
    }
    put("tags_are_pairs_or_error", "usual", b"machine-id=0a1b2c,boot-id=11-22,rack=b12,role=db a=b,note=\n")?;
    put("tags_are_pairs_or_error", "none", b",")?;
    put("conf_renders_back", "defaults", Settings::default().render().as_bytes())?;
    put("conf_renders_back", "quoted", b"# comment\n\n dumpdir = \"/var/crash\"  # tail\nsecure=0\ndaemon=true\n")?;
    put(
        "vmcoreinfo_is_read_or_refused",
        "kernel",
        b"OSRELEASE=7.3.1+deb13-amd64\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff82a1b0c0\nOFFSET(page.flags)=0\n\
          SIZE(page)=64\nLENGTH(mem_section)=2048\nNUMBER(phys_base)=-10485760\nNUMBER(KERNEL_IMAGE_SIZE)=1073741824\n\
          KERNELOFFSET=1a000000\nNUMBER(VMALLOC)=0xffffc90000000000\n",
    )?;

    put("vmcore_is_read_or_refused", "elf", &vmcore(&image, Format::Elf)?)?;
    put("vmcore_is_read_or_refused", "netdump", &vmcore(&image, Format::Netdump)?)?;
    for (name, five_levels) in [("four_levels", false), ("five_levels", true)] {
        let mut kernel =
            Kernel::new(KernelParams { five_levels, record_bits: 2, text_bits: 8, ..KernelParams::default() });
        for turn in 0..6 {
            kernel.print(turn, b"a line of a kernel that never was\nand more");
        }
        put("kernel_log_is_read_or_refused", name, &[&[u8::from(five_levels)], &kernel.memory()[4096..]].concat())?;
    }

    // Operations of the state machines, by the numbers that their targets give them.
    put("engine_sends_only_what_was_asked", "dump", &engine_dump())?;
    put("session_ends_and_hands_over_only_what_was_asked", "dump", &session_dump(40))?;
    put("session_ends_and_hands_over_only_what_was_asked", "short", &session_dump(12))?;
    put(
        "netlog_keeps_every_byte_once",
        "gap",
        b"\x04\x05hello\x03\x05\x00\x04\x05world\x02\x0a\x04\x05other\x00\xff\x00\xff",
    )?;
    let long = format!("6,416,1758426,-,caller=T1;{}\n SUBSYSTEM=net\n", "x".repeat(1200));
    for (name, datagram) in [
        ("whole", &b"6,416,1758426,-;eth0: link up\n SUBSYSTEM=net\n cpu=3\n msgid=9\n"[..]),
        ("release", b"7.3.4+deb13-amd64,30,0,0,c,caller=C2;a\\x09b\n"),
        ("fragment", b"6,416,1758426,-,ncfrag=16/31; the 2nd chunk."),
        ("basic", b"[    0.000000] Linux version 7.3.4\n"),
    ] {
        put("console_record_or_text", name, datagram)?;
    }
    let pushed = |text: &str| [&b"\x05\0\0\0\x01\0\0\0\x04host\x057.3.4\x04 a=b"[..], text.as_bytes()].concat();
    put("log_datagrams_are_bounded", "long", &pushed(&long))?;
    put("log_datagrams_are_bounded", "lines", &pushed("<1>one\ntwo \\x0a three\n\n"))?;
    put(
        "records_come_out_once",
        "gap",
        b"\x03\x09\x00\x04\x00\x00\x03one\x02\x02\x04\x00\x00\x04zero\x00\xff\x00\xff\x06\x00\x06\x03abc\x02\x01\x06\x03\x06\x03def\
          \x01\x09\x00\x00\x00\x05\x00\x00\x02xy\x00\xff",
    )?;
    Ok(())
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let route = |local: &str, peer: &str, vlan| Route {
        local_mac: MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        peer_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        local: local.parse().expect("an address"),
        peer: peer.parse().expect("an address"),
        local_port: 6666,
        peer_port: 6666,
        vlan,
    };
    let udp = |route: Route| {
        let headers = route.headers_len();
        let mut frame = vec![0x5a; headers + 24];
        UdpHeaders::new(route).emit(&mut frame, 24, 7, Fill::Full).expect("it fits");
        frame
    };
    let mut arp = vec![0xff; 6];
    arp.extend_from_slice(&[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    arp.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let mut solicitation = vec![0x33, 0x33, 0xff, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255];
    let address = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    solicitation.extend_from_slice(&address(1));
    solicitation.extend_from_slice(&address(2));
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&address(2));
    let sum = icmp_checksum(&address(1), &address(2), &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    solicitation.extend_from_slice(&message);
    vec![
        ("ipv4", udp(route("10.0.0.2", "10.0.0.1", None))),
        ("ipv6", udp(route("fd00::2", "fd00::1", None))),
        ("vlan", udp(route("10.0.0.2", "10.0.0.1", Some(5)))),
        ("arp", arp),
        ("solicitation", solicitation),
    ]
}

fn icmp_checksum(src: &[u8; 16], dst: &[u8; 16], message: &[u8]) -> u16 {
    let pseudo = [0, 0, 0, message.len() as u8, 0, 0, 0, 58];
    let all = [&src[..], dst, &pseudo, message].concat();
    let sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn engine_dump() -> Vec<u8> {
    let mut ops = vec![1, 5];
    let mut ask = |nr: u8, code: u8, from: u8, sends: usize| {
        ops.extend_from_slice(&[66, nr, code, from, 0, 0]);
        ops.extend(std::iter::repeat_n(5, sends));
    };
    ask(1, 7, 5, 1);
    ask(2, 4, 0, 1);
    ask(3, 5, 0, 1);
    ask(4, 6, 0, 1);
    ask(5, 8, 0, 1);
    ask(6, 200, 1, 1);
    ask(7, 1, 0, 4);
    ask(8, 1, 2, 1);
    ask(9, 1, 3, 1);
    ask(10, 9, 0, 5);
    ask(11, 99, 0, 1);
    ask(12, 2, 0, 1);
    ops
}

/// The obedient client: the owner grants and stores, the newest request is answered, and time passes.
fn session_dump(rounds: usize) -> Vec<u8> {
    let mut ops = vec![15];
    for _ in 0..rounds {
        ops.extend_from_slice(&[3, 5, 4, b'a', b'b', b'c', b'd', 0x1b, 0x1c, 0x0d, 0, 30]);
        ops.extend_from_slice(&[0x13, 6, 0, 0x23, 7, 0]);
    }
    ops
}

/// The headers of a small dump.
fn vmcore(image: &Image, format: Format) -> io::Result<Vec<u8>> {
    let info = DumpInfo {
        machine: Machine::X86_64,
        byte_order: ByteOrder::Little,
        page_size: PageSize::KIB4,
        nr_pages: 3,
        total_ram_pages: 3,
        task_struct: 1,
        page_offset: 0xffff_8880_0000_0000,
        regs: image.registers().to_vec(),
        crashing_cpu: Some(0),
        cpus_possible: 1,
        cpus: Vec::new(),
        vmcoreinfo: Some(b"OSRELEASE=7.3\nPAGESIZE=4096\n".to_vec()),
        ranges: Some(vec![PhysRange { start: PhysAddr(0x1000), end: PhysAddr(0x3000) }]),
        ktext: None,
        identity: Default::default(),
        panic: None,
        overlays: Vec::new(),
    };
    let path = std::env::temp_dir().join(format!("netdump-seed-{}", std::process::id()));
    let file = fs::File::create(&path)?;
    let writer = Writer::create(file, info, format).map_err(io::Error::other)?;
    writer.finish(true).map_err(io::Error::other)?;
    let mut bytes = fs::read(&path)?;
    fs::remove_file(&path)?;
    // Its memory says nothing: what counts is in the first bytes.
    bytes.truncate(3000);
    Ok(bytes)
}
