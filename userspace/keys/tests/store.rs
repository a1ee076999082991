// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's store: what enrolment, registration, rotation and revocation leave on the disk.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use netdump_keys::authorized::PublicKey;
use netdump_keys::login::{Method, Role};
use netdump_keys::message::Registration;
use netdump_keys::store::Armed;
use netdump_keys::{ClientId, Error, KeyId, Reader, Root, Store};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn store() -> (tempfile::TempDir, Store, Reader) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["clients", "addresses"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let (store, reader) = (Store::open(dir.path()).unwrap(), Reader::new(dir.path()));
    (dir, store, reader)
}

fn key(fill: u8) -> PublicKey {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([fill; 32]);
    data_encoding::BASE64.encode(&blob).parse().unwrap()
}

fn id(name: &str) -> ClientId {
    name.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn message(number: u8) -> Registration {
    let root = Root::from_hex(&format!("{number:02x}").repeat(32)).unwrap();
    Registration { key_id: KeyId([number; 16]), root, host: format!("host{number}") }
}

fn register(store: &Store, name: &str, number: u8, address: &str) {
    store.register(&id(name), message(number), ip(address), NOW).unwrap();
}

/// The arm key of key `number`, looked for at an address only.
fn armed(reader: &Reader, address: &str, number: u8) -> Result<Option<Armed>, Error> {
    reader.armed(ip(address), &KeyId([number; 16]), &[7; 16], b"", false)
}

/// What is known at an address: client, key, and whether it is the one before.
fn keys(reader: &Reader, address: &str) -> Vec<(String, u8, bool)> {
    let found = (1..20)
        .filter_map(|n| armed(reader, address, n).unwrap().map(|armed| (armed.id.to_string(), n, armed.previous)));
    found.collect()
}

fn clients(reader: &Reader, address: &str) -> BTreeSet<String> {
    keys(reader, address).into_iter().map(|(name, ..)| name).collect()
}

#[test]
fn two_generations_and_a_lost_answer() {
    let (dir, store, reader) = store();
    let web = |number, previous| ("web".to_owned(), number, previous);
    assert!(keys(&reader, "192.0.2.7").is_empty() && !reader.knows(ip("192.0.2.7")).unwrap());
    register(&store, "web", 1, "192.0.2.7");
    assert_eq!(keys(&reader, "::ffff:192.0.2.7"), [web(1, false)]);
    register(&store, "web", 1, "192.0.2.7");
    assert_eq!(keys(&reader, "192.0.2.7"), [web(1, false)], "the same again is no new generation");
    register(&store, "web", 2, "192.0.2.7");
    assert_eq!(keys(&reader, "192.0.2.7"), [web(1, true), web(2, false)]);
    register(&store, "web", 3, "192.0.2.7");
    assert_eq!(keys(&reader, "192.0.2.7"), [web(2, true), web(3, false)]);
    let before = armed(&reader, "192.0.2.7", 3).unwrap().unwrap().arm_key;
    let forged = Registration { root: Root::from_hex(&"99".repeat(32)).unwrap(), ..message(3) };
    assert!(store.register(&id("web"), forged, ip("192.0.2.7"), NOW).is_err());
    assert_eq!(keys(&reader, "192.0.2.7"), [web(2, true), web(3, false)]);
    assert_eq!(armed(&reader, "192.0.2.7", 3).unwrap().unwrap().arm_key, before);
    for file in ["clients/web.json", "addresses/192.0.2.7", "server_id"] {
        assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777, 0o640, "{file}");
    }
}

#[test]
fn an_address_belongs_to_those_who_came_from_it_and_nobody_is_pushed_out() {
    let (_dir, store, reader) = store();
    register(&store, "victim", 1, "192.0.2.7");
    for n in 2..5 {
        register(&store, &format!("other{n}"), n, "192.0.2.7");
    }
    let found = keys(&reader, "192.0.2.7");
    assert_eq!(found.len(), 4);
    assert!(found.contains(&("victim".into(), 1, false)));
    // A fifth is told so, and changes nothing, also not for itself.
    register(&store, "late", 5, "192.0.2.8");
    let before = keys(&reader, "192.0.2.8");
    let refused = store.register(&id("late"), message(6), ip("192.0.2.7"), NOW).unwrap_err().to_string();
    assert!(refused.contains("victim") && refused.contains("revoke"), "{refused}");
    assert_eq!((keys(&reader, "192.0.2.7"), keys(&reader, "192.0.2.8")), (found, before));
    // One of the four can still renew its key.
    register(&store, "victim", 11, "192.0.2.7");
    assert!(keys(&reader, "192.0.2.7").contains(&("victim".into(), 11, false)));
    // Who moves away leaves its place.
    register(&store, "other2", 12, "fd00::7");
    assert_eq!(clients(&reader, "fd00::7"), ["other2".to_owned()].into());
    assert_eq!(clients(&reader, "192.0.2.7").len(), 3);
}

#[test]
fn enrolment_is_idempotent_and_names_are_not_taken_over() {
    let (_dir, store, _) = store();
    let name = store.enrol(&key(1), None).unwrap();
    assert_eq!(store.enrol(&key(1), None).unwrap(), name);
    assert_eq!(store.authorized_keys().unwrap().lines().count(), 1);
    assert_eq!(store.enrol(&key(2), Some(id("web"))).unwrap(), id("web"));
    assert!(matches!(store.enrol(&key(3), Some(id("web"))), Err(Error::Refused(_))));
    assert!(matches!(store.enrol(&key(2), Some(id("other"))), Err(Error::Refused(_))));
    store.add_enrolment_key(&key(4), id("fleet"), NOW).unwrap();
    assert!(store.enrol(&key(4), None).is_err() && store.add_enrolment_key(&key(5), id("fleet"), NOW).is_err());
    let names: Vec<_> = store.list().unwrap().into_iter().map(|entry| (entry.id.to_string(), entry.kind)).collect();
    assert!(names.contains(&("fleet".into(), "enrolment key")) && names.contains(&("web".into(), "client")));
}

#[test]
fn a_login_that_waits_does_not_outlive_its_revocation() {
    let (_dir, store, reader) = store();
    let later = "2100-01-01T00:00:00Z".parse().unwrap();
    store.enrol(&key(1), Some(id("web"))).unwrap();
    store.add_enrolment_key(&key(2), id("fleet"), later).unwrap();
    let (web, fleet) = (Method::Key(key(1)), Method::Key(key(2)));
    assert_eq!(store.role(&web, NOW).unwrap(), Role::Register(id("web")));
    assert!(store.enrol_as(&web, &key(3), NOW).is_err(), "a client enrols nobody");
    assert!(store.register_as(&fleet, message(1), ip("192.0.2.7"), NOW).is_err());
    assert!(store.register_as(&Method::Password, message(1), ip("192.0.2.7"), NOW).is_err());
    assert_eq!(store.register_as(&web, message(1), ip("192.0.2.7"), NOW).unwrap().0, id("web"));
    store.enrol_as(&fleet, &key(3), NOW).unwrap();
    assert!(store.enrol_as(&fleet, &key(4), later).is_err(), "it ends in time");
    store.revoke(&id("web")).unwrap();
    store.revoke(&id("fleet")).unwrap();
    assert!(store.register_as(&web, message(2), ip("192.0.2.7"), NOW).is_err());
    assert!(store.enrol_as(&fleet, &key(4), NOW).is_err());
    assert!(keys(&reader, "192.0.2.7").is_empty());
}

#[test]
fn what_an_administrator_added_stays_and_opens_nothing() {
    let (dir, store, _) = store();
    let path = dir.path().join("authorized_keys");
    std::fs::write(&path, "# ours\nssh-ed25519 AAAA somebody").unwrap();
    store.enrol(&key(1), Some(id("web"))).unwrap();
    store.revoke(&id("web")).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# ours\nssh-ed25519 AAAA somebody\n");
    assert!(store.revoke(&id("web")).is_err());
}

#[test]
fn rotation_and_revocation() {
    let (_dir, store, reader) = store();
    store.enrol(&key(1), Some(id("web"))).unwrap();
    assert!(store.rotate(&id("web")).is_err());
    register(&store, "web", 1, "192.0.2.7");
    register(&store, "web", 2, "192.0.2.7");
    store.rotate(&id("web")).unwrap();
    assert_eq!(keys(&reader, "192.0.2.7"), [("web".into(), 2, false)]);
    assert!(store.list().unwrap()[0].rotate);
    register(&store, "web", 3, "192.0.2.7");
    assert_eq!(keys(&reader, "192.0.2.7"), [("web".into(), 3, false)], "nothing of before");
    assert!(reader.knows(ip("192.0.2.7")).unwrap());
    store.revoke(&id("web")).unwrap();
    assert!(keys(&reader, "192.0.2.7").is_empty() && store.list().unwrap().is_empty());
    assert!(!reader.knows(ip("192.0.2.7")).unwrap());
}

#[test]
fn damage_is_told_and_mended_by_the_next_registration() {
    let (dir, store, reader) = store();
    register(&store, "web", 1, "192.0.2.7");
    std::fs::write(dir.path().join("addresses/192.0.2.7"), "../../etc/passwd\n").unwrap();
    assert!(matches!(armed(&reader, "192.0.2.7", 1), Err(Error::BadFile { .. })));
    assert!(reader.knows(ip("192.0.2.7")).is_err());
    register(&store, "web", 2, "192.0.2.7");
    assert!(keys(&reader, "192.0.2.7").contains(&("web".into(), 2, false)));
    let file = dir.path().join("clients/web.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for bad in ["", "{}", &text.replace("\"web\"", "\"other\""), &text.replace("\"version\": 1", "\"version\": 2")] {
        write_private(&file, bad);
        let error = armed(&reader, "192.0.2.7", 2).err().unwrap().to_string();
        assert!(error.contains("revoke web") && !error.contains("0202"), "{error}");
        assert!(store.register(&id("web"), message(3), ip("192.0.2.7"), NOW).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad, "left as it is");
        assert!(reader.knows(ip("192.0.2.7")).unwrap(), "somebody is enrolled there, whatever his file says");
    }
    // Which address was his cannot be read: nobody is held back for it.
    store.revoke(&id("web")).unwrap();
    assert!(!reader.knows(ip("192.0.2.7")).unwrap());
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
}

#[test]
fn what_everybody_can_read_is_not_secret() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store, reader) = store();
    register(&store, "web", 1, "192.0.2.7");
    let file = dir.path().join("clients/web.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(armed(&reader, "192.0.2.7", 1), Err(Error::BadFile { .. })));
}
