// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's store, `/var/lib/netdump`: who is enrolled, with which keys, at which address.
//!
//! [`Store`] is what ssh logins and the administrator change, one at a time; [`Reader`] is what netdump-server reads for each
//! crash, without a lock: every file is replaced in one step.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authorized::{Line, Owner, PublicKey};
use crate::error::{Error, Result};
use crate::files;
use crate::login::{self, Method, Role};
use crate::message::Registration;
use crate::names::{ClientId, KeyId, ServerId};
use crate::secret::Root;

/// Where it is.
pub const PLACE: &str = "/var/lib/netdump";
/// Clients that are looked at for one address.
pub const MAX_PER_ADDRESS: usize = 4;
/// Keys that can be enrolled: whoever has the password can fill the disk up to here.
pub const MAX_LINES: usize = 200_000;
const MAX_CLIENT_FILE: u64 = 16 << 10;
const MAX_ADDRESS_FILE: u64 = 1 << 10;
const MAX_AUTHORIZED: u64 = 64 << 20;
/// The group is that of the directories, netdump-server's.
const FILE_MODE: u32 = 0o640;

/// A key of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Generation {
    /// Names it.
    pub key_id: KeyId,
    /// It.
    #[serde(with = "root_hex")]
    pub root: Root,
    /// When it was registered.
    pub since: Timestamp,
}

/// `clients/<ID>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Version of this format.
    pub version: u32,
    /// The client.
    pub id: ClientId,
    /// What it calls itself.
    pub label: String,
    /// Where it registered from.
    pub address: Option<IpAddr>,
    /// The next registration leaves no previous key.
    pub rotate: bool,
    /// The key that it was given last.
    pub current: Option<Generation>,
    /// The one before, for a client that panics before it is armed with the new one.
    pub previous: Option<Generation>,
}

/// The store, to change it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// An enrolled client or enrolment key, for a list.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Name.
    pub id: ClientId,
    /// "client" or "enrolment key".
    pub kind: &'static str,
    /// What the client calls itself.
    pub label: String,
    /// Where it registered from.
    pub address: Option<IpAddr>,
    /// The current key.
    pub key_id: Option<KeyId>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when an enrolment key is good.
    pub until: Option<Timestamp>,
    /// Its next key leaves no previous one.
    pub rotate: bool,
}

impl Store {
    /// The store at `root`, which the package makes.
    pub fn open(root: &Path) -> Result<Store> {
        for dir in ["clients", "addresses"] {
            let path = root.join(dir);
            if !path.is_dir() {
                let error = io::Error::other("no such directory: is netdump-server installed whole?");
                return Err(Error::Io { path, error });
            }
        }
        Ok(Store { root: root.into() })
    }

    fn lock(&self) -> Result<Flock<File>> {
        files::lock(&self.root.join("lock"), 0o600)
    }

    fn authorized_path(&self) -> PathBuf {
        self.root.join("authorized_keys")
    }

    /// The text of `authorized_keys`.
    pub fn authorized_keys(&self) -> Result<String> {
        let path = self.authorized_path();
        let bytes = files::read(&path, MAX_AUTHORIZED)?.unwrap_or_default();
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::BadFile { path, why: "not text".into() })
    }

    fn add_line(&self, text: &str, line: &Line) -> Result<()> {
        if text.lines().count() >= MAX_LINES {
            return Err(Error::Refused("too many keys are enrolled: 'netdumpctl key list', and revoke some".into()));
        }
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        files::replace(&self.authorized_path(), format!("{text}{end}{line}\n").as_bytes(), FILE_MODE)
    }

    /// What somebody who is logged in like that may do.
    pub fn role(&self, method: &Method, now: Timestamp) -> Result<Role> {
        login::role(method, &self.authorized_keys()?, now)
    }

    /// [`enrol`](Store::enrol) for somebody who is logged in. A login can wait for as long as it likes before it says what it
    /// wants, so its role is looked up again, under the lock: who was revoked meanwhile changes nothing.
    pub fn enrol_as(&self, method: &Method, key: &PublicKey, now: Timestamp) -> Result<ClientId> {
        let _lock = self.lock()?;
        match self.role(method, now)? {
            Role::Enrol => self.enrol_locked(key, None),
            Role::Register(id) => Err(Error::Refused(format!("client {id} may not enrol others"))),
        }
    }

    /// [`register`](Store::register) for somebody who is logged in, as the client that its key belongs to at this moment.
    pub fn register_as(
        &self,
        method: &Method,
        new: Registration,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<(ClientId, ServerId)> {
        let _lock = self.lock()?;
        match self.role(method, now)? {
            Role::Register(id) => self.register_locked(&id, new, address, now).map(|server| (id, server)),
            Role::Enrol => Err(Error::Refused("this login may only enrol a public key".into())),
        }
    }

    /// Makes a client's ssh key known; the client's name. A key that is known keeps its name.
    pub fn enrol(&self, key: &PublicKey, wanted: Option<ClientId>) -> Result<ClientId> {
        let _lock = self.lock()?;
        self.enrol_locked(key, wanted)
    }

    fn enrol_locked(&self, key: &PublicKey, wanted: Option<ClientId>) -> Result<ClientId> {
        let text = self.authorized_keys()?;
        let lines: Vec<_> = text.lines().filter_map(Line::parse).collect();
        if let Some(line) = lines.iter().find(|line| line.key == *key) {
            return match &line.owner {
                Owner::Client(id) if wanted.as_ref().is_none_or(|wanted| wanted == id) => Ok(id.clone()),
                Owner::Client(id) => Err(Error::Refused(format!("this key is that of client {id}"))),
                Owner::Enrolment { name, .. } => Err(Error::Refused(format!("this key is enrolment key {name}"))),
            };
        }
        let id = wanted.unwrap_or_else(|| ClientId::of_key(key.blob()));
        if lines.iter().any(|line| line.owner == Owner::Client(id.clone())) {
            return Err(Error::Refused(format!("client {id} has another key: 'netdumpctl key revoke {id}' first")));
        }
        self.add_line(&text, &Line { key: key.clone(), owner: Owner::Client(id.clone()) })?;
        Ok(id)
    }

    /// Adds a key with which clients can be enrolled.
    pub fn add_enrolment_key(&self, key: &PublicKey, name: ClientId, until: Timestamp) -> Result<()> {
        let _lock = self.lock()?;
        let text = self.authorized_keys()?;
        let taken = |owner: &Owner| matches!(owner, Owner::Enrolment { name: other, .. } if *other == name);
        if text.lines().filter_map(Line::parse).any(|line| taken(&line.owner)) {
            return Err(Error::Refused(format!(
                "there is an enrolment key {name}: 'netdumpctl key revoke {name}' first"
            )));
        }
        self.add_line(&text, &Line { key: key.clone(), owner: Owner::Enrolment { name, until } })
    }

    /// Takes a client's new root key. The old one stays beside it, and on any error all stays as it was.
    pub fn register(&self, id: &ClientId, new: Registration, address: IpAddr, now: Timestamp) -> Result<ServerId> {
        let _lock = self.lock()?;
        self.register_locked(id, new, address, now)
    }

    fn register_locked(&self, id: &ClientId, new: Registration, address: IpAddr, now: Timestamp) -> Result<ServerId> {
        let server_id = self.server_id()?;
        let before = self.client(id)?;
        let mut there = self.known_at(address)?;
        there.retain(|other| other != id);
        if there.len() >= MAX_PER_ADDRESS {
            let others: Vec<_> = there.iter().map(ClientId::as_str).collect();
            return Err(Error::Refused(format!(
                "{address} has {} clients already ({}): 'netdumpctl key revoke' one that is gone",
                there.len(),
                others.join(", ")
            )));
        }
        let old_address = before.as_ref().and_then(|client| client.address);
        let mut client = before.unwrap_or_else(|| Client {
            version: 1,
            id: id.clone(),
            label: String::new(),
            address: None,
            rotate: false,
            current: None,
            previous: None,
        });
        let fresh = Generation { key_id: new.key_id, root: new.root, since: now };
        match client.current.take() {
            // The answer to an earlier attempt was lost.
            Some(current) if current.key_id == fresh.key_id => {
                if !current.root.same(&fresh.root) {
                    return Err(Error::BadMessage("another key has this number already".into()));
                }
                client.current = Some(current);
            }
            current => {
                client.previous = if client.rotate { None } else { current };
                client.rotate = false;
                client.current = Some(fresh);
            }
        }
        client.label = new.host;
        client.address = Some(address);
        self.write_client(&client)?;
        // The one that came last is the likeliest.
        there.insert(0, id.clone());
        self.write_address(address, &there)?;
        if let Some(old) = old_address.filter(|old| *old != address) {
            self.drop_address(old, id)?;
        }
        Ok(server_id)
    }

    fn write_client(&self, client: &Client) -> Result<()> {
        let path = client_path(&self.root, &client.id);
        let mut json = Zeroizing::new(Vec::with_capacity(2048));
        serde_json::to_writer_pretty(&mut *json, client).map_err(|error| Error::io(&path)(error.into()))?;
        json.push(b'\n');
        files::replace(&path, &json, FILE_MODE)
    }

    fn client(&self, id: &ClientId) -> Result<Option<Client>> {
        read_client(&self.root, id)
    }

    fn drop_address(&self, address: IpAddr, id: &ClientId) -> Result<()> {
        let mut ids = self.known_at(address)?;
        ids.retain(|other| other != id);
        self.write_address(address, &ids)
    }

    /// Those at an address that are still enrolled there.
    fn known_at(&self, address: IpAddr) -> Result<Vec<ClientId>> {
        // A file that is damaged is made anew.
        let ids = match read_address(&self.root, address) {
            Err(Error::BadFile { .. }) => Vec::new(),
            other => other?,
        };
        let there = |id: &ClientId| matches!(self.client(id), Ok(Some(client)) if client.address == Some(address));
        Ok(ids.into_iter().filter(there).collect())
    }

    fn write_address(&self, address: IpAddr, ids: &[ClientId]) -> Result<()> {
        let path = address_path(&self.root, address);
        if ids.is_empty() {
            return files::remove(&path);
        }
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        files::replace(&path, text.as_bytes(), FILE_MODE)
    }

    /// The next key of a client leaves no previous one: what is known of it is not trusted any more.
    pub fn rotate(&self, id: &ClientId) -> Result<()> {
        let _lock = self.lock()?;
        let mut client = self.client(id)?.ok_or_else(|| Error::Refused(format!("client {id} has no key")))?;
        client.rotate = true;
        client.previous = None;
        self.write_client(&client)
    }

    /// Forgets a client or an enrolment key. Its dumps stay.
    pub fn revoke(&self, id: &ClientId) -> Result<()> {
        let _lock = self.lock()?;
        let text = self.authorized_keys()?;
        let is_it = |line: &str| match Line::parse(line).map(|line| line.owner) {
            Some(Owner::Client(name) | Owner::Enrolment { name, .. }) => name == *id,
            None => false,
        };
        let kept: String = text.lines().filter(|line| !is_it(line)).map(|line| format!("{line}\n")).collect();
        let client = client_path(&self.root, id);
        if kept.lines().count() == text.lines().count() && !client.exists() {
            return Err(Error::Refused(format!("nothing is enrolled as {id}: see 'netdumpctl key list'")));
        }
        // The door first. A file that cannot be read names no address; a reader checks each name that it finds.
        files::replace(&self.authorized_path(), kept.as_bytes(), FILE_MODE)?;
        let address = self.client(id).ok().flatten().and_then(|client| client.address);
        files::remove(&client)?;
        address.map_or(Ok(()), |address| self.drop_address(address, id))
    }

    /// All that is enrolled, by name.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for line in self.authorized_keys()?.lines().filter_map(Line::parse) {
            let mut entry = Entry {
                id: match &line.owner {
                    Owner::Client(id) | Owner::Enrolment { name: id, .. } => id.clone(),
                },
                kind: "client",
                label: String::new(),
                address: None,
                key_id: None,
                since: None,
                until: None,
                rotate: false,
            };
            match line.owner {
                Owner::Client(id) => {
                    if let Some(client) = self.client(&id)? {
                        entry.label = client.label;
                        entry.address = client.address;
                        entry.rotate = client.rotate;
                        entry.key_id = client.current.as_ref().map(|key| key.key_id);
                        entry.since = client.current.map(|key| key.since);
                    }
                }
                Owner::Enrolment { until, .. } => {
                    entry.kind = "enrolment key";
                    entry.until = Some(until);
                }
            }
            entries.push(entry);
        }
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }

    /// The server's number, made when it is first asked for.
    fn server_id(&self) -> Result<ServerId> {
        let path = self.root.join("server_id");
        if let Some(text) = files::read(&path, 64)? {
            let text = std::str::from_utf8(&text).unwrap_or("").trim_end();
            return text.parse().map_err(|error: Error| Error::BadFile { path, why: error.to_string() });
        }
        let id = ServerId::random()?;
        files::replace(&path, format!("{id}\n").as_bytes(), FILE_MODE)?;
        Ok(id)
    }
}

/// A client that says it was armed with one of its keys.
pub struct Armed {
    /// Its name.
    pub id: ClientId,
    /// It was armed with the key before its current one.
    pub previous: bool,
    /// The arm key: what its START6 must have been signed with.
    pub arm_key: Zeroizing<[u8; 32]>,
}

/// The store, for netdump-server. Each look takes a few system calls, however many clients there are.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
}

impl Reader {
    /// The store at `root`. It need not be there yet.
    pub fn new(root: &Path) -> Reader {
        Reader { root: root.into() }
    }

    /// Whether anybody is enrolled at an address.
    pub fn knows(&self, address: IpAddr) -> Result<bool> {
        for id in read_address(&self.root, address)? {
            // The name of one that was revoked while its file was damaged stays behind.
            let path = client_path(&self.root, &id);
            if path.try_exists().map_err(|error| Error::Io { path, error })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The client that has this key, with the key of this arming. It is looked for among those that registered from
    /// `address` first; then, if `everywhere`, among all: a machine may have another address by now.
    pub fn armed(
        &self,
        address: IpAddr,
        key_id: &KeyId,
        arm_id: &[u8; 16],
        kx: &[u8],
        everywhere: bool,
    ) -> Result<Option<Armed>> {
        let server = match files::read(&self.root.join("server_id"), 64)? {
            Some(text) => std::str::from_utf8(&text).unwrap_or("").trim_end().parse::<ServerId>()?,
            None => return Ok(None),
        };
        let armed = |id: &ClientId| -> Result<Option<Armed>> {
            let Some(client) = read_client(&self.root, id)? else { return Ok(None) };
            let keys = [&client.current, &client.previous];
            let found = keys.into_iter().enumerate().find_map(|(n, key)| {
                let key = key.as_ref().filter(|key| key.key_id == *key_id)?;
                Some(Armed { id: id.clone(), previous: n > 0, arm_key: key.root.arm_key(key_id, arm_id, &server, kx) })
            });
            Ok(found)
        };
        for id in read_address(&self.root, address)? {
            if let Some(found) = armed(&id)? {
                return Ok(Some(found));
            }
        }
        if !everywhere {
            return Ok(None);
        }
        let path = self.root.join("clients");
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => return Err(Error::Io { path, error }),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
            // One file that is damaged must not hide the others.
            if let Some(found) = id.and_then(|id| armed(&id).ok().flatten()) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn client_path(root: &Path, id: &ClientId) -> PathBuf {
    root.join("clients").join(format!("{id}.json"))
}

/// An address as a file name: the colons of IPv6 are hyphens, as in the crash directory.
fn address_path(root: &Path, address: IpAddr) -> PathBuf {
    root.join("addresses").join(address.to_canonical().to_string().replace(':', "-"))
}

fn read_client(root: &Path, id: &ClientId) -> Result<Option<Client>> {
    let path = client_path(root, id);
    let Some(json) = files::read_secret(&path, MAX_CLIENT_FILE)? else { return Ok(None) };
    // serde's words would repeat what is in the file.
    match serde_json::from_slice::<Client>(&json) {
        Ok(client) if client.version == 1 && client.id == *id => Ok(Some(client)),
        _ => Err(Error::BadFile {
            path,
            why: format!("damaged: 'netdumpctl key revoke {id}', and enrol the client again"),
        }),
    }
}

fn read_address(root: &Path, address: IpAddr) -> Result<Vec<ClientId>> {
    let path = address_path(root, address);
    let Some(text) = files::read(&path, MAX_ADDRESS_FILE)? else { return Ok(Vec::new()) };
    let bad =
        || Error::BadFile { path: path.clone(), why: "damaged: the next registration from there makes it anew".into() };
    let text = std::str::from_utf8(&text).map_err(|_| bad())?;
    text.lines().take(MAX_PER_ADDRESS).map(|line| line.parse().map_err(|_| bad())).collect()
}

mod root_hex {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    use crate::secret::Root;

    pub(super) fn serialize<S: Serializer>(root: &Root, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&root.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Root, D::Error> {
        struct Hex;
        impl Visitor<'_> for Hex {
            type Value = Root;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Root, E> {
                Root::from_hex(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Hex)
    }
}
