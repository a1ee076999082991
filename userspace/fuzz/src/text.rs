// SPDX-License-Identifier: GPL-2.0-or-later
//! Texts and files: parameters, settings, logs and stored dumps.

use std::fs::File;
use std::os::unix::fs::FileExt;

use netdump_core::wire::tags::{Tags, MAX_KEY_LEN, MAX_PAIRS};
use netdump_core::wire::target::upstream::{self, Elements};
use netdump_core::wire::target::{self, Device, Target, MAX_DEVICE_NAME};
use netdump_core::wire::PhysAddr;
use netdump_server::config::Settings;
use netdump_sim::kernel_log::{Kernel, KernelParams};
use netdump_vmcore::kernel_memory::{KernelMemory, MemoryError};
use netdump_vmcore::{printk, Reader, Vmcoreinfo};
use nix::sys::memfd::{memfd_create, MFdFlags};

/// Tags are refused with a reason, or pairs that fit on a line of note IDENTITY.
pub fn tags_are_pairs_or_error(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Tags::parse(text) {
        Ok(tags) => {
            assert!(tags.pairs().count() <= MAX_PAIRS);
            for (key, value) in tags.pairs() {
                assert!((1..=MAX_KEY_LEN).contains(&key.len()) && !key.contains('='));
                assert!(value.is_ascii() && !value.contains(['\n', ',']));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

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
    // Upstream's form passes whatever this one does, but for what may be left out at the end.
    let upstream = upstream::parse(data, &Std);
    if let Ok(parsed) = &upstream {
        assert!(parsed.local.is_none_or(|local| local.is_ipv4() == parsed.remote.is_ipv4()));
    }
    if let (Ok(target), true) = (Target::parse(text), text.bytes().filter(|byte| *byte == b'/').count() == 2) {
        if !text.ends_with('\n') {
            let parsed = upstream.expect("netdump's form is one of upstream's");
            assert_eq!((parsed.local, parsed.remote), (target.local, target.remote));
        }
    }
}

/// Near enough to the kernel's functions for numbers and addresses.
struct Std;

impl Elements for Std {
    fn port(&self, text: &[u8]) -> Option<u16> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
    fn ip(&self, text: &[u8]) -> Option<std::net::IpAddr> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
    fn mac(&self, text: &[u8]) -> Option<[u8; 6]> {
        target::mac(std::str::from_utf8(text.get(..17)?).ok()?).map(|mac| mac.0)
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
    if let Ok(Some(info)) = reader.vmcoreinfo() {
        if let Ok(memory) = KernelMemory::new(&reader, &info) {
            let _ = printk::records(&memory, &info, |record| {
                assert!(record.text.len() <= usize::from(u16::MAX));
                Ok::<_, MemoryError>(())
            });
        }
    }
    assert!(reader.registers().iter().all(|(_, regs)| regs.len() <= data.len()));
}

/// A dump with good headers of memory that somebody made: page tables and log of it may be anything. The first byte says
/// how many levels the page tables have.
pub fn kernel_log_is_read_or_refused(data: &[u8]) {
    let Some((levels, memory)) = data.split_first() else { return };
    let mut kernel = Kernel::new(KernelParams { five_levels: levels & 1 == 1, ..KernelParams::default() });
    kernel.memory().truncate(4096);
    kernel.memory().extend_from_slice(memory);
    let len = kernel.memory().len().next_multiple_of(4096).max(8192);
    kernel.memory().resize(len, 0);
    let reader = Reader::new(kernel.dumped().expect("memory for a file")).expect("its headers are good");
    let info = reader.vmcoreinfo().expect("it is good").expect("it is there");
    let memory = KernelMemory::new(&reader, &info).expect("VMCOREINFO says where the page tables are");
    let mut total = 0;
    let result = printk::records(&memory, &info, |record| {
        total += record.text.len();
        Ok::<_, MemoryError>(())
    });
    assert!(total <= 1 << 25);
    assert!(result.map_or_else(|error| !error.to_string().is_empty(), |count| count <= 1 << 20));
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
