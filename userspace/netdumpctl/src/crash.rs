// SPDX-License-Identifier: GPL-2.0-or-later
//! `crash`: the kernel with symbols that belongs to a dump, and a debugger on both.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{bail, Context};
use netdump_vmcore::{Kind, Reader, Vmcoreinfo};

use crate::shown::plain;

/// Longest notes of a vmlinux that are looked at.
const MAX_NOTES: usize = 1 << 20;

/// Opens it, or says what it would run.
pub(crate) fn run(
    vmcore: &Path,
    drgn: bool,
    vmlinux: Option<PathBuf>,
    dry_run: bool,
    more: &[String],
) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(vmcore).with_context(|| format!("{}", vmcore.display()))?;
    let info = reader.vmcoreinfo()?;
    let symbols = match (vmlinux, &info) {
        (Some(path), _) => path,
        (None, Some(info)) => find(info)?,
        (None, None) => bail!("the dump has no VMCOREINFO: name the kernel with symbols (--vmlinux FILE)"),
    };
    let mut command = if drgn {
        let mut command = Command::new("drgn");
        command.arg("-c").arg(vmcore).arg("-s").arg(&symbols);
        command
    } else {
        let mut command = Command::new("crash");
        // In the layout of 2005 crash does not look for where the kernel was put.
        if let (Kind::Netdump, Some(info)) = (reader.kind(), &info) {
            command.args(info.crash_options().unwrap_or_default().split_ascii_whitespace());
        }
        command.arg(&symbols).arg(vmcore);
        command
    };
    command.args(more);
    if dry_run {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        println!("{}", words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "));
        return Ok(ExitCode::SUCCESS);
    }
    let program = if drgn { "drgn (Debian: python3-drgn)" } else { "crash (Debian: crash)" };
    Err(command.exec()).context(format!("{program} does not run"))
}

/// The file with symbols whose build ID is the dump's.
fn find(info: &Vmcoreinfo<'_>) -> anyhow::Result<PathBuf> {
    let release = info.os_release().context("VMCOREINFO does not name the kernel's release")?;
    // It becomes part of a path: a release has no slash in it.
    if release.contains('/') || release.starts_with('.') {
        bail!("the kernel's release makes no sense: {}", plain(release));
    }
    let id = info
        .text("BUILD-ID")
        .filter(|id| id.len() > 8 && id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let mut places = Vec::new();
    if let Some((head, tail)) = id.and_then(|id| id.split_at_checked(2)) {
        places.push(PathBuf::from(format!("/usr/lib/debug/.build-id/{head}/{tail}.debug")));
    }
    for place in [
        "/usr/lib/debug/lib/modules/@/vmlinux",
        "/usr/lib/debug/usr/lib/modules/@/vmlinux",
        "/usr/lib/debug/boot/vmlinux-@",
        "/usr/lib/debug/vmlinux-@",
        "/boot/vmlinux-@",
        "/lib/modules/@/build/vmlinux",
        "/lib/modules/@/vmlinux",
    ] {
        places.push(PathBuf::from(place.replace('@', release)));
    }
    if let (Some(home), Some(id)) = (std::env::var_os("HOME"), id) {
        places.push(Path::new(&home).join(format!(".cache/debuginfod_client/{id}/debuginfo")));
    }
    for place in &places {
        if place.is_file() && fits(place, id) {
            return Ok(place.clone());
        }
    }
    if let (Some(id), Some(_)) = (id, std::env::var_os("DEBUGINFOD_URLS")) {
        eprintln!("netdumpctl: asking debuginfod for the symbols of {} (a large file)", plain(release));
        let found = Command::new("debuginfod-find").args(["debuginfo", id]).output();
        if let Ok(output) = found {
            let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
            if output.status.success() && path.is_file() && fits(&path, Some(id)) {
                return Ok(path);
            }
        }
    }
    bail!(
        "no kernel with symbols for {} (build ID {}): install linux-image-{}-dbg, or set DEBUGINFOD_URLS, or name it (--vmlinux FILE)",
        plain(release),
        id.unwrap_or("unknown"),
        plain(release)
    )
}

/// Whether the file is of that build. One that does not say is taken: the name fits.
fn fits(path: &Path, id: Option<&str>) -> bool {
    match (id, build_id(path)) {
        (Some(id), Some(found)) => found.eq_ignore_ascii_case(id),
        _ => true,
    }
}

/// The build ID of a 64-bit little-endian ELF file, in hexadecimal, from its program headers or section headers.
fn build_id(path: &Path) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).ok()?;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let u16_at = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u32_at = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    // (table, size of an entry, count, offset of the kind, its value, offsets of place and length)
    let tables = [
        (u64_at(&head, 32)?, u16_at(&head, 54)?, u16_at(&head, 56)?, 0, 4, 8, 32),
        (u64_at(&head, 40)?, u16_at(&head, 58)?, u16_at(&head, 60)?, 4, 7, 24, 32),
    ];
    for (table, size, count, kind_at, kind, offset_at, len_at) in tables {
        for n in 0..u64::from(count) {
            let mut entry = vec![0; usize::from(size)];
            if file.read_exact_at(&mut entry, table.checked_add(n * u64::from(size))?).is_err() {
                break;
            }
            if u32_at(&entry, kind_at) != Some(kind) {
                continue;
            }
            let (offset, len) = (u64_at(&entry, offset_at)?, u64_at(&entry, len_at)?);
            let mut notes = vec![0; usize::try_from(len).ok()?.min(MAX_NOTES)];
            if file.read_exact_at(&mut notes, offset).is_err() {
                continue;
            }
            if let Some(id) = build_id_note(&notes) {
                return Some(id);
            }
        }
    }
    None
}

/// The note of type 3 named GNU.
fn build_id_note(notes: &[u8]) -> Option<String> {
    let mut rest = notes;
    while rest.len() >= 12 {
        let word = |at: usize| Some(u32::from_le_bytes(*rest.get(at..)?.first_chunk()?) as usize);
        let (name_len, desc_len, kind) = (word(0)?, word(4)?, word(8)?);
        let desc_at = 12 + name_len.checked_next_multiple_of(4)?;
        let desc = rest.get(desc_at..desc_at.checked_add(desc_len)?)?;
        if kind == 3 && rest.get(12..12 + name_len)? == b"GNU\0" {
            return Some(desc.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        rest = rest.get(desc_at + desc_len.checked_next_multiple_of(4)?..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_of_our_own_program() {
        // cargo's linker writes one; where it does not there is nothing to find, and nothing breaks.
        let own = std::env::current_exe().unwrap();
        if let Some(id) = build_id(&own) {
            assert!(id.len() >= 16 && fits(&own, Some(&id.to_uppercase())) && !fits(&own, Some("00")));
        }
        assert_eq!(build_id(Path::new("/proc/self/status")), None);
    }

    #[test]
    fn notes_that_lie_are_no_notes() {
        let good = b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";
        assert_eq!(build_id_note(good).as_deref(), Some("abcd"));
        for len in 0..good.len() - 2 {
            assert_eq!(build_id_note(&good[..len]), None);
        }
        assert_eq!(build_id_note(&[0xff; 64]), None);
    }
}
