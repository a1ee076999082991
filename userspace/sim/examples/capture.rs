// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes a capture with one of each message: `cargo run -p netdump-sim --example capture FILE.pcap`.

use std::fs::File;
use std::io::BufWriter;

use anyhow::Context;
use netdump_core::wire::Cookie;
use netdump_sim::conversation::{by_the_book, write_pcap};
use netdump_sim::image::{Image, ImageParams};

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("the name of the file to write is missing")?;
    let mut image = Image::new(ImageParams { memory: 2 << 20, listing: 2, ..ImageParams::default() });
    let talk = by_the_book(&mut image, Cookie::new(0x1122_3344_5566_7788));
    write_pcap(&talk, &mut BufWriter::new(File::create(path)?))?;
    Ok(())
}
