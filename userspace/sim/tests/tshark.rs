// SPDX-License-Identifier: GPL-2.0-or-later
//! Wireshark's dissector, which others wrote from the original's packets, reads what we emit as we mean it.
//!
//! The lab has a tshark (`make lab`); TSHARK names another one. Without any the test fails, unless NETDUMP_MAY_SKIP=1
//! says that this host cannot have one.

use std::path::PathBuf;
use std::process::Command;

use netdump_core::wire::classic::{ReplyView, RequestView};
use netdump_core::wire::Cookie;
use netdump_sim::conversation::{by_the_book, write_pcap};
use netdump_sim::image::{Image, ImageParams};

fn tshark() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TSHARK") {
        return Some(named.into());
    }
    let cache = std::env::var_os("NETDUMP_CACHE").map(PathBuf::from).or_else(|| {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("netdump"))
    })?;
    Some(cache.join("bin/tshark")).filter(|path| path.exists())
}

/// The fields of one packet as tshark prints them, in the order of `FIELDS`.
const FIELDS: [&str; 10] = [
    "ip.checksum.status",
    "udp.checksum.status",
    "netdump.magic",
    "netdump.command",
    "netdump.from",
    "netdump.to",
    "netdump.version",
    "netdump.seq_nr",
    "netdump.code",
    "netdump.info",
];

#[test]
fn tshark_reads_every_message_as_it_is_meant() {
    let Some(tshark) = tshark() else {
        let may_skip = std::env::var_os("NETDUMP_MAY_SKIP").is_some_and(|value| value == "1");
        assert!(may_skip, "there is no tshark; `make lab` gets one, or TSHARK=path names one");
        eprintln!("skipped: there is no tshark");
        return;
    };
    let mut image = Image::new(ImageParams { memory: 2 << 20, listing: 2, ..ImageParams::default() });
    let talk = by_the_book(&mut image, Cookie::new(0x1122_3344_5566_7788));
    let capture = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("every-message.pcap");
    write_pcap(&talk, &mut std::fs::File::create(&capture).unwrap()).unwrap();

    let mut command = Command::new(&tshark);
    command.arg("-r").arg(&capture).args(["-d", "udp.port==6666,netdump", "-T", "fields", "-E", "separator=|"]);
    command.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", tshark.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {}", tshark.display(), String::from_utf8_lossy(&output.stderr));

    // Checksums first: 1 is "good".
    let expected: Vec<String> = talk
        .iter()
        .flat_map(|exchange| {
            let request = exchange.request.iter().map(|bytes| {
                let r = RequestView::new_checked(bytes).unwrap();
                let (cookie, nr) = (r.cookie().expose(), r.nr().0);
                format!("1|1|{cookie:#018x}|{}|{:#010x}|{:#010x}||{nr:#010x}||", r.command(), r.from(), r.to())
            });
            let replies = exchange.replies.iter().map(|bytes| {
                let r = ReplyView::new_checked(bytes).unwrap();
                // The dissector reads `info` in the wrong byte order.
                let (nr, code, info) = (r.nr().0, r.code().to_wire(), r.info().swap_bytes());
                format!("1|1|||||{:#04x}|{nr:#010x}|{code}|{info:#010x}", r.version())
            });
            request.chain(replies).collect::<Vec<_>>()
        })
        .collect();
    let decoded: Vec<&str> = text.lines().collect();
    assert_eq!(decoded.len(), expected.len(), "{text}");
    for (number, (decoded, expected)) in decoded.iter().zip(&expected).enumerate() {
        assert_eq!(decoded, expected, "packet {}", number + 1);
    }
    println!("tshark agrees about {} packets", decoded.len());
}
