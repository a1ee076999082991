// SPDX-License-Identifier: GPL-2.0-or-later
//! `/var/crash`: everything that is stored, reached from one directory descriptor.
//!
//! Names are made here, from an address and a time; nothing that a packet says becomes part of a path, symbolic
//! links are not followed, and what is created belongs to the server's user alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use netdump_core::wire::Cookie;
use nix::errno::Errno;
use nix::fcntl::{openat, renameat, OFlag};
use nix::sys::stat::{fstat, fstatat, mkdirat, FileStat, Mode};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{fsync, geteuid, unlinkat, UnlinkatFlags};

/// Name of a vmcore while it is being written.
pub const INCOMPLETE: &str = "vmcore-incomplete";
/// Name of a vmcore that is whole.
pub const COMPLETE: &str = "vmcore";
/// Name of a compressed vmcore while it is made of another one.
const CONVERSION: &str = "vmcore-kdump";
/// Which pages a vmcore has that is to be compressed.
const FRAMES: &str = "frames";
/// No `meta.json` is read that is longer, bytes.
const MAX_META: u64 = 4 << 20;

const PRIVATE_DIR: Mode = Mode::S_IRWXU;
const PRIVATE_FILE: Mode = Mode::from_bits_truncate(0o600);
/// Directories of one client that may begin in the same second.
const MAX_COLLISIONS: u32 = 1000;

/// The directory that everything is kept in.
#[derive(Debug, Clone)]
pub struct CrashDir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

/// One boot of one client.
#[derive(Debug)]
pub struct ClientDir {
    fd: OwnedFd,
    name: String,
    path: PathBuf,
}

/// Why a client's cookie file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum MagicError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Somebody else could have written or read it.
    #[error("is not private: {0}")]
    NotPrivate(&'static str),
    /// It does not hold 16 hexadecimal digits.
    #[error("does not hold 16 hexadecimal digits and a newline")]
    Malformed,
}

impl CrashDir {
    /// Opens the directory, creating it (but not its parents) when it is missing.
    pub fn open(path: &Path) -> io::Result<CrashDir> {
        // Absolute, because hooks get the path and a daemon changes to `/`.
        let path = std::path::absolute(path)?;
        match nix::unistd::mkdir(&path, PRIVATE_DIR) {
            Ok(()) => tracing::info!(dir = %path.display(), "created"),
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(&path, flags, Mode::empty())?;
        nix::unistd::faccessat(&fd, ".", nix::unistd::AccessFlags::W_OK, nix::fcntl::AtFlags::AT_EACCESS)?;
        Ok(CrashDir { fd: Arc::new(fd), path })
    }

    /// Its path, for hooks and messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who else could change what is in it, if anybody.
    pub fn exposure(&self) -> io::Result<Option<&'static str>> {
        let stat = stat(self.fd.as_fd())?;
        Ok(exposed(stat.st_uid, stat.st_mode))
    }

    /// Bytes that an ordinary write may still use.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(self.fd.as_fd())?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// Bytes in the logs of all clients' directories.
    pub fn log_bytes(&self) -> io::Result<u64> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut all = nix::dir::Dir::openat(self.fd.as_fd(), ".", flags, Mode::empty())?;
        let mut bytes = 0u64;
        for entry in all.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if began(name).is_none() {
                continue;
            }
            // A directory without a log, or one that goes away at this moment, has none.
            let log =
                fstatat(self.fd.as_fd(), format!("{name}/log").as_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
            bytes = bytes.saturating_add(log.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0)));
        }
        Ok(bytes)
    }

    /// The cookie in `magic/<ip>`; `None` where there is no such file.
    pub fn magic(&self, client: IpAddr) -> Result<Option<Cookie>, MagicError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let dir = match openat(self.fd.as_fd(), "magic", flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(io::Error::from)?,
        };
        // Without O_NONBLOCK a FIFO in place of the file would hold the server up.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(&dir, address_name(client).as_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(io::Error::from)?,
        };
        check_private(&stat(&dir)?, &stat(&file)?)?;
        let mut text = Vec::new();
        File::from(file).take(64).read_to_end(&mut text)?;
        parse_magic(&text).map(Some)
    }

    /// Which unfinished dumps there are, and in which directories.
    pub fn unfinished(&self) -> io::Result<Vec<(crate::journal::Cause, String)>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut all = nix::dir::Dir::openat(self.fd.as_fd(), ".", flags, Mode::empty())?;
        let mut found = Vec::new();
        for entry in all.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if began(name).is_none() {
                continue;
            }
            // A directory that goes away at this moment has none.
            let Ok(dir) = self.reopen(name) else { continue };
            found.extend(crate::journal::cause(&dir).map(|cause| (cause, name.to_owned())));
        }
        Ok(found)
    }

    /// Names of everything in it.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut all = nix::dir::Dir::openat(self.fd.as_fd(), ".", flags, Mode::empty())?;
        let names = all.iter().filter_map(|entry| match entry {
            Ok(entry) => entry.file_name().to_str().ok().map(|name| Ok(name.to_owned())),
            Err(error) => Some(Err(error.into())),
        });
        names.collect()
    }

    /// Makes the directory of a boot of `client` that begins at `at`.
    pub fn create(&self, client: IpAddr, at: Timestamp) -> io::Result<ClientDir> {
        let first = format!("{}-{}", address_name(client), at.strftime("%Y-%m-%d-%H:%M:%S"));
        for n in 1..=MAX_COLLISIONS {
            let name = if n == 1 { first.clone() } else { format!("{first}.{n}") };
            match mkdirat(self.fd.as_fd(), name.as_str(), PRIVATE_DIR) {
                Ok(()) => return self.reopen(&name),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Opens a directory that [`create`](Self::create) made, by the name that it got.
    pub fn reopen(&self, name: &str) -> io::Result<ClientDir> {
        if name.contains('/') || name.starts_with('.') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = openat(self.fd.as_fd(), name, flags, Mode::empty())?;
        Ok(ClientDir { fd, name: name.to_owned(), path: self.path.join(name) })
    }

    /// Takes a small file that lies beside the clients' directories; `None` where there is none. It is removed,
    /// because it tells of one moment only.
    pub fn take_state(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(self.fd.as_fd(), name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        File::from(file).take(limit).read_to_end(&mut bytes)?;
        unlinkat(self.fd.as_fd(), name, UnlinkatFlags::NoRemoveDir)?;
        Ok(Some(bytes))
    }

    /// Replaces a small file beside the clients' directories in one step.
    pub fn write_state(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(self.fd.as_fd(), name, bytes)
    }
}

impl ClientDir {
    /// Name inside the crash directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Full path, for hooks and messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle for the same directory.
    pub fn try_clone(&self) -> io::Result<ClientDir> {
        Ok(ClientDir { fd: self.fd.try_clone()?, name: self.name.clone(), path: self.path.clone() })
    }

    /// The log, to append to.
    pub fn open_log(&self) -> io::Result<File> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, "log", flags, PRIVATE_FILE)?))
    }

    /// An empty [`INCOMPLETE`], to read and write.
    pub fn create_vmcore(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, INCOMPLETE, flags, PRIVATE_FILE)?))
    }

    /// An [`INCOMPLETE`] that is there, to go on with.
    pub fn reopen_vmcore(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(File::from(openat(&self.fd, INCOMPLETE, flags, Mode::empty())?))
    }

    /// An empty journal of what is in it.
    pub fn create_journal(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, crate::journal::NAME, flags, PRIVATE_FILE)?))
    }

    /// The journal that is there, to read and to append to.
    pub fn open_journal(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, crate::journal::NAME, flags, Mode::empty())?))
    }

    /// The vmcore is whole: nobody goes on with it.
    pub fn remove_journal(&self) -> io::Result<()> {
        self.remove(crate::journal::NAME)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// An empty set of the pages that the vmcore has.
    pub fn create_frames(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, FRAMES, flags, PRIVATE_FILE)?))
    }

    /// The set that is there.
    pub fn open_frames(&self) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, FRAMES, flags, Mode::empty())?))
    }

    /// Nobody wants to know any more which pages there are.
    pub fn remove_frames(&self) -> io::Result<()> {
        self.remove(FRAMES)
    }

    /// A vmcore, [`INCOMPLETE`] or [`COMPLETE`], to read.
    pub fn read_vmcore(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// An empty file for what is made of a vmcore.
    pub fn create_conversion(&self) -> io::Result<File> {
        self.remove_conversion()?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, CONVERSION, flags, PRIVATE_FILE)?))
    }

    /// What was made, and synced, takes the place of the vmcore that it was made of.
    pub fn publish_conversion(&self, name: &str) -> io::Result<()> {
        renameat(&self.fd, CONVERSION, &self.fd, name)?;
        fsync(&self.fd)?;
        Ok(())
    }

    /// What was made of a vmcore is of no use.
    pub fn remove_conversion(&self) -> io::Result<()> {
        self.remove(CONVERSION)
    }

    /// Whether something is left of making a vmcore anew.
    pub fn has_conversion(&self) -> bool {
        [CONVERSION, FRAMES]
            .iter()
            .any(|name| fstatat(&self.fd, *name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) != Err(Errno::ENOENT))
    }

    /// `meta.json` as it is, if there is one.
    pub fn read_meta(&self) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.fd, "meta.json", flags, Mode::empty()).ok()?);
        let mut bytes = Vec::new();
        file.take(MAX_META).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Bytes of disk that the unfinished vmcore takes already.
    pub fn vmcore_disk_bytes(&self) -> u64 {
        let stat = fstatat(&self.fd, INCOMPLETE, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    /// Whether a vmcore, whole or not, is here already.
    pub fn has_vmcore(&self) -> bool {
        [INCOMPLETE, COMPLETE]
            .iter()
            .any(|name| fstatat(&self.fd, *name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) != Err(Errno::ENOENT))
    }

    /// Gives a whole vmcore its name. The file must have been synced.
    pub fn publish_vmcore(&self) -> io::Result<()> {
        renameat(&self.fd, INCOMPLETE, &self.fd, COMPLETE)?;
        fsync(&self.fd)?;
        Ok(())
    }

    /// Replaces `meta.json` in one step.
    pub fn write_meta(&self, json: &[u8]) -> io::Result<()> {
        replace(self.fd.as_fd(), "meta.json", json)
    }
}

fn replace(dir: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, temporary.as_str(), flags, PRIVATE_FILE)?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(dir, temporary.as_str(), dir, name)?;
    fsync(dir)?;
    Ok(())
}

/// An address as a file name: the colons of IPv6 are hyphens, because they separate fields elsewhere.
pub fn address_name(addr: IpAddr) -> String {
    addr.to_canonical().to_string().replace(':', "-")
}

/// Who but root and us could change what has this owner and mode.
pub(crate) fn exposed(owner: u32, mode: u32) -> Option<&'static str> {
    if owner != 0 && owner != geteuid().as_raw() {
        Some("belongs to another user")
    } else if mode & 0o022 != 0 {
        Some("can be written by others")
    } else {
        None
    }
}

/// When a directory of that name began, to the second.
pub(crate) fn began(name: &str) -> Option<Timestamp> {
    // The seconds stand behind the last colon; what follows them tells directories of one second apart.
    let end = name.rfind(':')? + 3;
    let text = name.get(end.checked_sub("YYYY-MM-DD-HH:MM:SS".len())?..end)?;
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d-%H:%M:%S", text).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
}

fn stat(fd: impl AsFd) -> io::Result<FileStat> {
    Ok(fstat(fd)?)
}

/// A cookie file may be 0644 as `echo >` over ssh makes it, as long as nobody can get at it through the directory.
fn check_private(dir: &FileStat, file: &FileStat) -> Result<(), MagicError> {
    let ours = |uid| uid == 0 || uid == geteuid().as_raw();
    if file.st_mode & 0o170_000 != 0o100_000 {
        return Err(MagicError::NotPrivate("not a regular file"));
    }
    if !ours(file.st_uid) || !ours(dir.st_uid) {
        return Err(MagicError::NotPrivate("it or magic/ belongs to another user"));
    }
    if (file.st_mode | dir.st_mode) & 0o022 != 0 {
        return Err(MagicError::NotPrivate("it or magic/ can be written by others"));
    }
    if file.st_mode & 0o044 != 0 && dir.st_mode & 0o011 != 0 {
        return Err(MagicError::NotPrivate("others can read it; magic/ should be mode 0700"));
    }
    Ok(())
}

/// `MAGIC2MAGIC1`: the high half first, so the digits are simply the number.
fn parse_magic(text: &[u8]) -> Result<Cookie, MagicError> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    let all_hex = digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| all_hex).ok_or(MagicError::Malformed)?;
    u64::from_str_radix(digits, 16).map(Cookie::new).map_err(|_| MagicError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{symlink, PermissionsExt};

    fn scratch() -> (tempfile::TempDir, CrashDir) {
        let root = tempfile::tempdir().unwrap();
        let dir = CrashDir::open(&root.path().join("crash")).unwrap();
        (root, dir)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at() -> Timestamp {
        "2026-11-23T21:05:09.7Z".parse().unwrap()
    }

    #[test]
    fn names_are_address_and_utc_time() {
        let (_root, dir) = scratch();
        assert_eq!(dir.create(ip("10.0.2.15"), at()).unwrap().name(), "10.0.2.15-2026-11-23-21:05:09");
        assert_eq!(dir.create(ip("10.0.2.15"), at()).unwrap().name(), "10.0.2.15-2026-11-23-21:05:09.2");
        assert_eq!(dir.create(ip("fd00::1"), at()).unwrap().name(), "fd00--1-2026-11-23-21:05:09");
        let v6 = dir.create(ip("::ffff:10.0.2.15"), at()).unwrap();
        assert_eq!(v6.name(), "10.0.2.15-2026-11-23-21:05:09.3");
        for name in ["fd00--1-2026-11-23-21:05:09", v6.name()] {
            assert_eq!(began(name), Some("2026-11-23T21:05:09Z".parse().unwrap()));
        }
        for name in ["", ":", "x:é9", "10.0.2.15-2026-13-23-21:05:09"] {
            assert_eq!(began(name), None, "{name}");
        }
        assert_eq!(std::fs::metadata(v6.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn files_are_private_and_replaced_in_one_step() {
        let (_root, dir) = scratch();
        let client = dir.create(ip("10.0.2.15"), at()).unwrap();
        client.write_meta(b"{}").unwrap();
        client.write_meta(b"{\"a\":1}").unwrap();
        assert_eq!(std::fs::read(client.path().join("meta.json")).unwrap(), b"{\"a\":1}");
        assert!(!client.path().join("meta.json.tmp").exists());
        client.open_log().unwrap().write_all(b"a").unwrap();
        client.open_log().unwrap().write_all(b"b").unwrap();
        assert_eq!(std::fs::read(client.path().join("log")).unwrap(), b"ab");
        assert!(!client.has_vmcore());
        client.create_vmcore().unwrap();
        assert!(client.has_vmcore());
        assert!(client.create_vmcore().is_err(), "an old dump is never written over");
        client.publish_vmcore().unwrap();
        for name in ["log", "vmcore", "meta.json"] {
            let mode = std::fs::metadata(client.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let (root, dir) = scratch();
        let client = dir.create(ip("10.0.2.15"), at()).unwrap();
        let target = root.path().join("target");
        std::fs::write(&target, b"keep").unwrap();
        symlink(&target, client.path().join("log")).unwrap();
        symlink(&target, client.path().join("meta.json.tmp")).unwrap();
        assert!(client.open_log().is_err());
        assert!(client.write_meta(b"x").is_err());
        symlink("/", dir.path().join("10.0.0.1-x")).unwrap();
        assert!(dir.reopen("10.0.0.1-x").is_err());
        assert!(dir.reopen("../crash").is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"keep");
    }

    #[test]
    fn cookies_are_read_and_checked() {
        let (_root, dir) = scratch();
        let client = ip("10.0.2.15");
        assert!(dir.magic(client).unwrap().is_none());
        let magic = dir.path().join("magic");
        std::fs::create_dir(&magic).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&magic, 0o700);
        assert!(dir.magic(client).unwrap().is_none());
        let file = magic.join("10.0.2.15");
        std::fs::write(&file, "aabbccdd11223344\n").unwrap();
        mode(&file, 0o644);
        assert_eq!(dir.magic(client).unwrap(), Some(Cookie::from_magic(0x1122_3344, 0xaabb_ccdd)));
        mode(&magic, 0o755);
        assert!(matches!(dir.magic(client), Err(MagicError::NotPrivate(_))));
        mode(&file, 0o600);
        assert!(dir.magic(client).unwrap().is_some());
        mode(&file, 0o620);
        assert!(matches!(dir.magic(client), Err(MagicError::NotPrivate(_))));
        mode(&file, 0o600);
        for bad in ["", "aabbccdd1122334", "aabbccdd112233445\n", "+abbccdd11223344\n", "aabbccdd11223344\n\n"] {
            std::fs::write(&file, bad).unwrap();
            assert!(matches!(dir.magic(client), Err(MagicError::Malformed)), "{bad:?}");
        }
        std::fs::remove_file(&file).unwrap();
        symlink("/etc/passwd", &file).unwrap();
        assert!(matches!(dir.magic(client), Err(MagicError::Io(_))));
    }
}
