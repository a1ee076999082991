// SPDX-License-Identifier: GPL-2.0-or-later
//! `dmesg`: the kernel's log out of its memory.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use netdump_vmcore::kernel_memory::KernelMemory;
use netdump_vmcore::{printk, Reader};

use crate::shown::plain_bytes;

/// Prints it. On a terminal, and without `raw`, nothing in it reaches the terminal as it is.
pub(crate) fn run(vmcore: &Path, raw: bool) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(vmcore).with_context(|| format!("{}", vmcore.display()))?;
    let info = reader.vmcoreinfo()?;
    let info =
        info.context("the dump has no VMCOREINFO: crash with the kernel's symbols shows the log ('netdumpctl crash')")?;
    let memory = KernelMemory::new(&reader, &info)?;
    let out = std::io::stdout();
    let escape = !raw && out.is_terminal();
    let mut out = std::io::BufWriter::new(out.lock());
    printk::records(&memory, &info, |record| {
        for (time, line) in record.lines() {
            out.write_all(time.as_bytes())?;
            if escape {
                out.write_all(plain_bytes(line).as_bytes())?;
            } else {
                out.write_all(line)?;
            }
            out.write_all(b"\n")?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
