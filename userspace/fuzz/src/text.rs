// SPDX-License-Identifier: GPL-2.0-or-later
//! Texts and files: parameters, settings, logs and stored dumps.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use netdump_core::wire::target::{Device, Target, MAX_DEVICE_NAME};
use netdump_core::wire::PhysAddr;
use netdump_server::config::Settings;
use netdump_server::netlog::{Piece, Stream, MAX_HELD_BYTES};
use netdump_vmcore::{Reader, Vmcoreinfo};
use nix::sys::memfd::{memfd_create, MFdFlags};

use crate::input::Input;

/// A target string is refused with a reason, or its parts are in bounds.
pub fn target_string_or_error(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Target::parse(text) {
        Ok(target) => {
            assert!(target.local.is_none_or(|local| local.is_ipv4() == target.remote.is_ipv4()));
            assert!(target.local_port != Some(0) && target.remote_port != Some(0));
            if let Some(Device::Name(name)) = target.device {
                assert!((1..=MAX_DEVICE_NAME).contains(&name.len()) && !name.contains('/'));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// VMCOREINFO is what a stranger sends.
pub fn vmcoreinfo_is_read_or_refused(data: &[u8]) {
    match Vmcoreinfo::parse(data) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file that says it is a dump may say anything in its headers.
pub fn vmcore_is_read_or_refused(data: &[u8]) {
    let file = File::from(memfd_create(c"vmcore", MFdFlags::empty()).expect("memory for a file"));
    file.write_all_at(data, 0).expect("memory for the input");
    let reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut page = [0; 4096];
    for segment in reader.loads() {
        // Whether the file holds it or not is for the reader to say.
        let _ = reader.read(PhysAddr(segment.paddr), &mut page);
        let _ = reader.read(PhysAddr(segment.paddr.saturating_add(segment.len)), &mut page[..1]);
    }
    let _ = reader.vmcoreinfo();
    assert!(reader.registers().iter().all(|(_, regs)| regs.len() <= data.len()));
}

/// A configuration file that is taken can be written out and says the same again; one that is not names its lines.
pub fn conf_renders_back(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Settings::parse(text) {
        Ok(settings) => {
            let rendered = settings.render();
            let again = Settings::parse(&rendered).unwrap_or_else(|problems| panic!("{rendered}\n{problems:?}"));
            assert_eq!(again.render(), rendered);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.lines().count();
            assert!(problems.iter().all(|p| p.line <= lines && !p.reason.is_empty()));
            assert!(problems.windows(2).all(|pair| pair[0].line <= pair[1].line));
        }
    }
}

/// Text comes out of a log stream once at most, little is held, and all of it is let go in the end.
pub fn netlog_keeps_every_byte_once(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stream = Stream::default();
    let mut now = Instant::now();
    let (mut taken, mut out) = (0, Vec::new());
    let mut offset = 0u32;
    while let Some(op) = input.u8() {
        match op % 8 {
            0 => now += Duration::from_millis(u64::from(input.u8().unwrap_or(1))),
            1 => offset = input.u32().unwrap_or(0),
            2 => offset = offset.wrapping_sub(input.u8().unwrap_or(0).into()),
            3 => offset = offset.wrapping_add(input.u16().unwrap_or(0).into()),
            _ => {
                let text = input.bytes().unwrap_or(&[]);
                taken += text.len();
                stream.push(now, offset, text, &mut out);
                offset = offset.wrapping_add(text.len() as u32);
            }
        }
        stream.poll(now, &mut out);
        assert!(stream.held_bytes() <= MAX_HELD_BYTES);
        assert!(stream.deadline().is_none_or(|at| at > now));
    }
    stream.flush(&mut out);
    assert_eq!((stream.held_bytes(), stream.deadline()), (0, None));
    let given: usize = out.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum();
    assert!(given <= taken, "{given} of {taken}");
}
