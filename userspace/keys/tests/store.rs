// SPDX-License-Identifier: GPL-2.0-or-later
//! The server's store: what enrolment, registration, rotation and revocation leave on the disk.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use netdump_core::wire::Cookie;
use netdump_keys::authorized::PublicKey;
use netdump_keys::login::{Method, Role};
use netdump_keys::message::Registration;
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

fn message(number: u8) -> (Registration, Cookie) {
    let root = Root::from_hex(&format!("{number:02x}").repeat(32)).unwrap();
    let key_id = KeyId([number; 16]);
    let cookie = root.classic_cookie(&key_id);
    (Registration { key_id, root, host: format!("host{number}") }, cookie)
}

fn register(store: &Store, name: &str, number: u8, address: &str) -> Cookie {
    let (message, cookie) = message(number);
    store.register(&id(name), message, ip(address), NOW).unwrap();
    cookie
}

fn cookies(reader: &Reader, address: &str) -> Vec<(String, Vec<Cookie>)> {
    reader.clients_at(ip(address)).unwrap().into_iter().map(|found| (found.id.to_string(), found.cookies)).collect()
}

#[test]
fn two_generations_and_a_lost_answer() {
    let (dir, store, reader) = store();
    assert!(cookies(&reader, "192.0.2.7").is_empty() && !reader.knows(ip("192.0.2.7")).unwrap());
    let first = register(&store, "web", 1, "192.0.2.7");
    assert_eq!(cookies(&reader, "::ffff:192.0.2.7"), [("web".into(), vec![first])]);
    assert_eq!(register(&store, "web", 1, "192.0.2.7"), first);
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![first])], "the same again is no new generation");
    let second = register(&store, "web", 2, "192.0.2.7");
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![second, first])]);
    let third = register(&store, "web", 3, "192.0.2.7");
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![third, second])]);
    let mut forged = message(3).0;
    forged.root = Root::from_hex(&"99".repeat(32)).unwrap();
    assert!(store.register(&id("web"), forged, ip("192.0.2.7"), NOW).is_err());
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![third, second])]);
    for file in ["clients/web.json", "addresses/192.0.2.7", "server_id"] {
        assert_eq!(std::fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777, 0o640, "{file}");
    }
}

#[test]
fn an_address_belongs_to_those_who_came_from_it_and_nobody_is_pushed_out() {
    let (_dir, store, reader) = store();
    let victim = register(&store, "victim", 1, "192.0.2.7");
    for n in 2..5 {
        register(&store, &format!("other{n}"), n, "192.0.2.7");
    }
    let found = cookies(&reader, "192.0.2.7");
    assert_eq!(found.len(), 4);
    assert!(found.contains(&("victim".into(), vec![victim])));
    // A fifth is told so, and changes nothing, also not for itself.
    register(&store, "late", 5, "192.0.2.8");
    let before = cookies(&reader, "192.0.2.8");
    let refused = store.register(&id("late"), message(6).0, ip("192.0.2.7"), NOW).unwrap_err().to_string();
    assert!(refused.contains("victim") && refused.contains("revoke"), "{refused}");
    assert_eq!((cookies(&reader, "192.0.2.7"), cookies(&reader, "192.0.2.8")), (found, before));
    // One of the four can still renew its key.
    let victim = register(&store, "victim", 11, "192.0.2.7");
    assert_eq!(cookies(&reader, "192.0.2.7")[0].1[0], victim);
    // Who moves away leaves its place.
    register(&store, "other2", 12, "fd00::7");
    assert_eq!(cookies(&reader, "fd00::7").len(), 1);
    assert_eq!(cookies(&reader, "192.0.2.7").len(), 3);
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
    assert!(store.register_as(&fleet, message(1).0, ip("192.0.2.7"), NOW).is_err());
    assert!(store.register_as(&Method::Password, message(1).0, ip("192.0.2.7"), NOW).is_err());
    assert_eq!(store.register_as(&web, message(1).0, ip("192.0.2.7"), NOW).unwrap().0, id("web"));
    store.enrol_as(&fleet, &key(3), NOW).unwrap();
    assert!(store.enrol_as(&fleet, &key(4), later).is_err(), "it ends in time");
    store.revoke(&id("web")).unwrap();
    store.revoke(&id("fleet")).unwrap();
    assert!(store.register_as(&web, message(2).0, ip("192.0.2.7"), NOW).is_err());
    assert!(store.enrol_as(&fleet, &key(4), NOW).is_err());
    assert!(cookies(&reader, "192.0.2.7").is_empty());
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
    let second = register(&store, "web", 2, "192.0.2.7");
    store.rotate(&id("web")).unwrap();
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![second])]);
    assert!(store.list().unwrap()[0].rotate);
    let third = register(&store, "web", 3, "192.0.2.7");
    assert_eq!(cookies(&reader, "192.0.2.7"), [("web".into(), vec![third])], "nothing of before");
    store.revoke(&id("web")).unwrap();
    assert!(cookies(&reader, "192.0.2.7").is_empty() && store.list().unwrap().is_empty());
}

#[test]
fn damage_is_told_and_mended_by_the_next_registration() {
    let (dir, store, reader) = store();
    register(&store, "web", 1, "192.0.2.7");
    std::fs::write(dir.path().join("addresses/192.0.2.7"), "../../etc/passwd\n").unwrap();
    assert!(matches!(reader.clients_at(ip("192.0.2.7")), Err(Error::BadFile { .. })));
    let second = register(&store, "web", 2, "192.0.2.7");
    assert_eq!(cookies(&reader, "192.0.2.7")[0].1[0], second);
    let file = dir.path().join("clients/web.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for bad in ["", "{}", &text.replace("\"web\"", "\"other\""), &text.replace("\"version\": 1", "\"version\": 2")] {
        write_private(&file, bad);
        let error = reader.clients_at(ip("192.0.2.7")).unwrap_err().to_string();
        assert!(error.contains("revoke web") && !error.contains("0202"), "{error}");
        assert!(store.register(&id("web"), message(3).0, ip("192.0.2.7"), NOW).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad, "left as it is");
    }
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
    assert!(matches!(reader.clients_at(ip("192.0.2.7")), Err(Error::BadFile { .. })));
}
