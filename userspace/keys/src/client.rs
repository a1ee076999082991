// SPDX-License-Identifier: GPL-2.0-or-later
//! The client's keys: `/etc/netdump/servers/<name>/{key,key.new,key.old}`.
//!
//! A new key becomes the key only when the server has said that it holds it, so that at every moment, also after a power
//! cut, the key that is there is one that the server knows.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use netdump_core::wire::arm::WIPE;
use nix::fcntl::OFlag;

use crate::blob;
use crate::error::{Error, Result};
use crate::files;
use crate::message::{Answer, KeyFile, Registration, MAX_MESSAGE};
use crate::names::{ClientId, KeyId, ServerName};
use crate::secret::Root;

/// The keys for one server.
#[derive(Debug)]
pub struct ClientKeys {
    dir: PathBuf,
    server: ServerName,
}

impl ClientKeys {
    /// Those below `base` (`/etc/netdump`).
    pub fn new(base: &Path, server: ServerName) -> ClientKeys {
        ClientKeys { dir: base.join("servers").join(server.as_str()), server }
    }

    /// The servers that there are keys for.
    pub fn servers(base: &Path) -> Result<Vec<ServerName>> {
        let dir = base.join("servers");
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io(&dir))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io(&dir))?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<ServerName>().ok()));
        }
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(names)
    }

    /// The message that registers the next key. The key is drawn once: an attempt that was cut off is taken up again.
    pub fn registration(&self, host: &str, now: Timestamp) -> Result<Registration> {
        files::make_dir(&self.dir, 0o700)?;
        let _lock = files::lock(&self.dir.join("lock"), 0o600)?;
        let new = match self.read("key.new") {
            Ok(Some(new)) => new,
            Ok(None) => self.draw(now)?,
            // Of an attempt that was cut off, and of no use to anybody.
            Err(Error::BadFile { .. }) => self.draw(now)?,
            Err(error) => return Err(error),
        };
        Ok(Registration { key_id: new.key_id, root: new.root, host: host.into() })
    }

    fn draw(&self, now: Timestamp) -> Result<KeyFile> {
        let new = KeyFile { key_id: KeyId::random()?, root: Root::random()?, server_id: None, since: now };
        files::replace(&self.dir.join("key.new"), new.emit().as_bytes(), 0o600)?;
        Ok(new)
    }

    /// The server has answered: the new key is the key from now on.
    pub fn commit(&self, answer: &[u8], now: Timestamp) -> Result<ClientId> {
        let (id, server_id) = match Answer::parse(answer)? {
            Answer::Registered(id, server_id) => (id, server_id),
            Answer::Enrolled(_) => return Err(Error::BadMessage("the server has enrolled, not registered".into())),
        };
        let _lock = files::lock(&self.dir.join("lock"), 0o600)?;
        let new = self.read("key.new")?.ok_or_else(|| Error::NoKey(self.server.to_string()))?;
        let accepted = KeyFile { server_id: Some(server_id), since: now, ..new };
        if let Some(old) = self.read("key")?.filter(|old| old.key_id != accepted.key_id) {
            files::replace(&self.dir.join("key.old"), old.emit().as_bytes(), 0o600)?;
        }
        files::replace(&self.dir.join("key"), accepted.emit().as_bytes(), 0o600)?;
        files::remove(&self.dir.join("key.new"))?;
        files::sync_dir(&self.dir)?;
        Ok(id)
    }

    /// The key that the server holds.
    pub fn key(&self) -> Result<KeyFile> {
        self.read("key")?.ok_or_else(|| Error::NoKey(self.server.to_string()))
    }

    /// Whether a key waits for the server's answer.
    pub fn pending(&self) -> bool {
        self.dir.join("key.new").exists()
    }

    /// Gives the module what is derived from the key.
    pub fn arm(&self, device: &Path) -> Result<KeyFile> {
        let key = self.key()?;
        let Some(server) = key.server_id else {
            let path = self.dir.join("key");
            return Err(Error::BadFile {
                path,
                why: "it does not name the server: run 'service netdump propagate'".into(),
            });
        };
        write_device(device, &blob::arming(&key, &server)?)?;
        Ok(key)
    }

    fn read(&self, name: &str) -> Result<Option<KeyFile>> {
        let path = self.dir.join(name);
        let Some(text) = files::read_secret(&path, MAX_MESSAGE as u64)? else { return Ok(None) };
        KeyFile::parse(&text).map(Some).map_err(|error| Error::BadFile { path, why: error.to_string() })
    }
}

/// Makes the module forget its key.
pub fn wipe(device: &Path) -> Result<()> {
    write_device(device, WIPE)
}

fn write_device(device: &Path, bytes: &[u8]) -> Result<()> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut file = match std::fs::OpenOptions::new().write(true).custom_flags(flags.bits()).open(device) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoDevice(device.into())),
        other => other.map_err(Error::io(device))?,
    };
    // The module takes a blob in one write or not at all.
    match file.write(bytes) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(written) => Err(Error::io(device)(io::Error::other(format!("took {written} of {} bytes", bytes.len())))),
        Err(error) => Err(Error::io(device)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ServerId;
    use netdump_core::wire::arm::FIXED_LEN;

    #[test]
    fn a_key_counts_when_the_server_has_it() {
        let base = tempfile::tempdir().unwrap();
        let keys = ClientKeys::new(base.path(), "crashhost".parse().unwrap());
        let now = Timestamp::UNIX_EPOCH;
        let device = base.path().join("device");
        assert!(matches!(keys.key(), Err(Error::NoKey(_))));
        let first = keys.registration("web", now).unwrap();
        let again = keys.registration("web", now).unwrap();
        assert_eq!(first.key_id, again.key_id, "an attempt is taken up again");
        assert!(keys.pending() && keys.arm(&device).is_err());
        assert!(keys.commit(b"Permission denied\n", now).is_err() && keys.pending());
        let answer = Answer::Registered("web".parse().unwrap(), ServerId([1; 16])).emit();
        assert_eq!(keys.commit(answer.as_bytes(), now).unwrap().as_str(), "web");
        assert_eq!(keys.key().unwrap().key_id, first.key_id);
        assert!(!keys.pending() && keys.commit(answer.as_bytes(), now).is_err());
        assert!(matches!(keys.arm(&device), Err(Error::NoDevice(_))));
        std::fs::write(&device, "").unwrap();
        keys.arm(&device).unwrap();
        assert_eq!(std::fs::read(&device).unwrap().len(), FIXED_LEN);
        let second = keys.registration("web", now).unwrap();
        assert_ne!(first.key_id, second.key_id);
        assert_eq!(keys.key().unwrap().key_id, first.key_id, "until the server says so");
        keys.commit(answer.as_bytes(), now).unwrap();
        assert_eq!(keys.key().unwrap().key_id, second.key_id);
        assert_eq!(keys.read("key.old").unwrap().unwrap().key_id, first.key_id);
        assert_eq!(ClientKeys::servers(base.path()).unwrap().len(), 1);
        std::fs::write(base.path().join("servers/crashhost/key"), "netdump-key 1\n").unwrap();
        assert!(matches!(keys.key(), Err(Error::BadFile { .. })));
    }
}
