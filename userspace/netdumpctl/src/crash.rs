// SPDX-License-Identifier: GPL-2.0-or-later
//! `crash`: the kernel with symbols that belongs to a dump, and a debugger on both.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

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
    root: &Path,
    dry_run: bool,
    more: &[String],
) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(vmcore).with_context(|| format!("{}", vmcore.display()))?;
    let info = reader.vmcoreinfo()?;
    let symbols = match (vmlinux, &info) {
        (Some(path), info) => {
            let id = info.as_ref().and_then(build_id_of);
            if let (Some(id), Some(found)) = (id, build_id(&path).filter(|found| Some(found.as_str()) != id)) {
                let path = path.display().to_string();
                eprintln!("netdumpctl: {} is of build {found}, the dump of {id}: they do not fit", plain(&path));
            }
            path
        }
        (None, Some(info)) => find(info, root, &debuginfod_caches())?,
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
        let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        writeln!(std::io::stdout(), "{}", plain(&line))?;
        return Ok(ExitCode::SUCCESS);
    }
    let program = if drgn { "drgn (Debian: python3-drgn)" } else { "crash (Debian: crash)" };
    Err(command.exec()).context(format!("{program} does not run"))
}

/// The file with symbols whose build ID is the dump's.
fn find(info: &Vmcoreinfo<'_>, root: &Path, caches: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let release = info.os_release().context("VMCOREINFO does not name the kernel's release (--vmlinux FILE does)")?;
    // It becomes part of a path: a release has no slash in it.
    if release.contains('/') || release.starts_with('.') {
        bail!("the kernel's release makes no sense: {}", plain(release));
    }
    let id = build_id_of(info);
    let mut others = Vec::new();
    for place in places(release, id, root, caches).into_iter().filter(|place| place.is_file()) {
        match (id, build_id(&place)) {
            (Some(id), Some(found)) if !found.eq_ignore_ascii_case(id) => {
                others.push(format!("{} is of another build ({found})", place.display()));
            }
            // An old kernel's dump does not say which build it is of: then the name must do.
            (None, _) | (Some(_), Some(_)) => return Ok(place),
            (Some(_), None) => others.push(format!("{} does not say of which build it is", place.display())),
        }
    }
    let mut asked = "set DEBUGINFOD_URLS";
    if let (Some(id), Some(_)) = (id, std::env::var_os("DEBUGINFOD_URLS").filter(|urls| !urls.is_empty())) {
        eprintln!("netdumpctl: asking debuginfod for the symbols of {} (a large file)", plain(release));
        asked = "install debuginfod-find (Debian: debuginfod)";
        if let Ok(output) = Command::new("debuginfod-find").args(["debuginfo", id]).stderr(Stdio::inherit()).output() {
            let path = PathBuf::from(OsStr::from_bytes(output.stdout.trim_ascii_end()));
            if output.status.success() && build_id(&path).is_some_and(|found| found.eq_ignore_ascii_case(id)) {
                return Ok(path);
            }
            asked = "ask another debuginfod (its servers in DEBUGINFOD_URLS do not have it)";
        }
    }
    let others = others.iter().map(|other| format!("; {other}")).collect::<String>();
    bail!(
        "no kernel with symbols for {release} (build ID {}){others}: install linux-image-{release}-dbg, or {asked}, or \
         name it (--vmlinux FILE)",
        id.unwrap_or("unknown"),
    )
}

/// The build ID that a dump says its kernel has.
fn build_id_of<'a>(info: &Vmcoreinfo<'a>) -> Option<&'a str> {
    let sound = |id: &&str| (8..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    info.text("BUILD-ID").filter(sound)
}

/// Where Debian, Fedora, kernel builders and debuginfod put kernels with symbols.
fn places(release: &str, id: Option<&str>, root: &Path, caches: &[PathBuf]) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some((head, tail)) = id.and_then(|id| id.split_at_checked(2)) {
        places.push(root.join(format!("usr/lib/debug/.build-id/{head}/{tail}.debug")));
    }
    let by_name = [
        "usr/lib/debug/lib/modules/@/vmlinux",
        "usr/lib/debug/usr/lib/modules/@/vmlinux",
        "usr/lib/debug/boot/vmlinux-@",
        "usr/lib/debug/vmlinux-@",
        "boot/vmlinux-@",
        "lib/modules/@/build/vmlinux",
        "lib/modules/@/vmlinux",
    ];
    places.extend(by_name.iter().map(|place| root.join(place.replace('@', release))));
    places.extend(caches.iter().filter_map(|cache| Some(cache.join(id?).join("debuginfo"))));
    places
}

/// Where debuginfod's client keeps what it has fetched.
fn debuginfod_caches() -> Vec<PathBuf> {
    let below = |name: &str, rest: &str| Some(Path::new(&std::env::var_os(name)?).join(rest));
    let mut caches = Vec::new();
    caches.extend(below("DEBUGINFOD_CACHE_PATH", ""));
    caches.extend(below("XDG_CACHE_HOME", "debuginfod_client"));
    caches.extend(below("HOME", ".cache/debuginfod_client"));
    caches.extend(below("HOME", ".debuginfod_client_cache"));
    caches
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

    /// An ELF file of nothing but a note with that build ID, found by a program header or by a section header.
    fn elf(id: &[u8], by_section: bool) -> Vec<u8> {
        let mut file = vec![0; 64 + 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let note = [&b"\x04\0\0\0"[..], &(id.len() as u32).to_le_bytes(), b"\x03\0\0\0GNU\0", id].concat();
        let (table, entry, kind, offset) = if by_section { (40, 58, 68, 88) } else { (32, 54, 64, 72) };
        file[table] = 64;
        file[entry] = if by_section { 64 } else { 56 };
        file[entry + 2] = 1;
        file[kind] = if by_section { 7 } else { 4 };
        file[offset] = 128;
        file[offset + if by_section { 8 } else { 24 }] = note.len() as u8;
        [file, note].concat()
    }

    const ID: &str = "00112233445566778899aabbccddeeff00112233";
    const INFO: &[u8] = b"OSRELEASE=7.3.0-sim\nBUILD-ID=00112233445566778899aabbccddeeff00112233\n";

    fn bytes(id: &str) -> Vec<u8> {
        (0..id.len() / 2).map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_kernel_is_found_where_it_may_be() {
        let info = Vmcoreinfo::parse(INFO).unwrap();
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache");
        let put = |path: &str, id: &str, by_section| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, elf(&bytes(id), by_section)).unwrap();
            path
        };
        let find = || find(&info, root.path(), std::slice::from_ref(&cache));
        let error = find().unwrap_err().to_string();
        assert!(error.contains(ID) && error.contains("linux-image-7.3.0-sim-dbg"), "{error}");
        // Another build under the right name is not taken, and the answer says so.
        put("boot/vmlinux-7.3.0-sim", &ID.replace("00", "ff"), false);
        assert!(find().unwrap_err().to_string().contains("of another build (ff11"));
        // From the last place to the first.
        for (place, by_section) in [
            (&*format!("cache/{ID}/debuginfo"), true),
            ("lib/modules/7.3.0-sim/vmlinux", false),
            ("lib/modules/7.3.0-sim/build/vmlinux", true),
            ("usr/lib/debug/boot/vmlinux-7.3.0-sim", false),
            ("usr/lib/debug/lib/modules/7.3.0-sim/vmlinux", true),
            (&*format!("usr/lib/debug/.build-id/{}/{}.debug", &ID[..2], &ID[2..]), true),
        ] {
            let path = put(place, ID, by_section);
            assert_eq!(find().unwrap(), path, "{place}");
        }
    }

    #[test]
    fn a_release_is_no_path() {
        for release in ["../../etc", ".", "a/b"] {
            let text = format!("OSRELEASE={release}\n");
            let info = Vmcoreinfo::parse(text.as_bytes()).unwrap();
            assert!(find(&info, Path::new("/"), &[]).unwrap_err().to_string().contains("makes no sense"));
        }
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
