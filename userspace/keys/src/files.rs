// SPDX-License-Identifier: GPL-2.0-or-later
//! Small files that are replaced in one step, and read only where nobody else could have written them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg, OFlag};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Reads a regular file of at most `limit` bytes; `None` where there is none. A symbolic link, a pipe, or a file that others
/// may write to, is an error.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
    Ok(read_with_mode(path, limit)?.map(|(bytes, _)| bytes))
}

fn read_with_mode(path: &Path, limit: u64) -> Result<Option<(Zeroizing<Vec<u8>>, u32)>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io(path))?,
    };
    let bad = |why: &str| Error::BadFile { path: path.into(), why: why.into() };
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(bad("not a regular file"));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(bad("others can write to it: 'chmod o-w' it after a look at it"));
    }
    // Once, at its full size: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(meta.len().min(limit) as usize + 1));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(bad("too long"));
    }
    Ok(Some((bytes, meta.mode())))
}

/// Like [`read`], for a secret: nobody but its owner and, with `group`, its group may read it.
pub(crate) fn read_secret(path: &Path, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some((bytes, mode)) = read_with_mode(path, limit)? else { return Ok(None) };
    if mode & 0o007 != 0 {
        let why =
            "everybody can read it: it is not secret any more; remove it, and run 'service netdump propagate' again";
        return Err(Error::BadFile { path: path.into(), why: why.into() });
    }
    Ok(Some(bytes))
}

/// Replaces a file in one step: a reader, also one after a power cut, sees the old or the new. On an error the old stays.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = dir.join(name);
    let written = write_new(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // It may never have been made; then this fails too, and that says nothing new.
        let _ = std::fs::remove_file(&temporary);
        return Err(Error::io(path)(error));
    }
    sync_dir(dir)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // One that is left of an earlier attempt may have other owners or links.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags.bits()).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes a change of names in a directory last.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

/// A directory that only `mode` may use; it is made if it is missing, and its parents with it.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::io(path))
}

/// One writer at a time, until the answer is dropped. It waits for the others.
pub(crate) fn lock(path: &Path, mode: u32) -> Result<Flock<File>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(mode).custom_flags(flags.bits());
    let file = options.open(path).map_err(Error::io(path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::io(path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_whole_and_read_with_suspicion() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it");
        assert!(read(&path, 9).unwrap().is_none());
        replace(&path, b"one", 0o640).unwrap();
        std::fs::write(dir.path().join("it.tmp"), "of an earlier attempt").unwrap();
        replace(&path, b"two", 0o640).unwrap();
        assert_eq!(**read_secret(&path, 3).unwrap().unwrap(), *b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(matches!(read(&path, 2), Err(Error::BadFile { .. })));
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path, 9).is_ok() && read_secret(&path, 9).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o642)).unwrap();
        assert!(read(&path, 9).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read(&link, 9).is_err());
        // A file cannot take the place of a directory: the error leaves what was there.
        assert!(replace(dir.path(), b"x", 0o600).is_err());
        assert!(path.exists());
    }
}
