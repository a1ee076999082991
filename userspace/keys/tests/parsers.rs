// SPDX-License-Identifier: GPL-2.0-or-later
//! Whatever comes from the other side or from a disk: no parser panics, and what is taken comes back the same.

use netdump_keys::authorized::{Line, Owner, PublicKey};
use netdump_keys::login::{parse_auth_info, peer, Method};
use netdump_keys::message::{Answer, KeyFile, Registration};
use netdump_keys::{ClientId, KeyId, Root, ServerId, ServerName};
use proptest::prelude::*;

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(|bytes| {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend(bytes);
        data_encoding::BASE64.encode(&blob).parse().unwrap()
    })
}

fn client_id() -> impl Strategy<Value = ClientId> {
    "[a-z0-9][a-z0-9.-]{0,62}".prop_map(|name| name.parse().unwrap())
}

/// Some bytes of a text changed, removed or doubled.
fn damaged(text: String) -> impl Strategy<Value = Vec<u8>> {
    let length = text.len();
    (0..length, any::<u8>(), 0..3usize).prop_map(move |(at, byte, how)| {
        let mut bytes = text.clone().into_bytes();
        match how {
            0 => bytes[at] = byte,
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, byte),
        }
        bytes
    })
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), text in "\\PC{0,200}") {
        let _ = Registration::parse(&bytes);
        let _ = KeyFile::parse(&bytes);
        let _ = Answer::parse(&bytes);
        let _ = parse_auth_info(&bytes);
        let _ = Line::parse(&text);
        let _ = PublicKey::parse_line(&text);
        let _ = peer(&text);
        let _ = text.parse::<ClientId>();
        let _ = text.parse::<ServerName>();
    }

    #[test]
    fn registrations(key_id: [u8; 16], root: [u8; 32], host in "[!-~]{0,64}", damage in any::<prop::sample::Index>(), byte: u8) {
        let root = Root::from_hex(&data_encoding::HEXLOWER.encode(&root)).unwrap();
        let message = Registration { key_id: KeyId(key_id), root, host };
        let text = message.emit();
        let read = Registration::parse(text.as_bytes()).unwrap();
        prop_assert_eq!((read.key_id, &read.host), (message.key_id, &message.host));
        prop_assert!(*read.root.to_hex() == *message.root.to_hex());
        // A changed byte is noticed, or is part of a value of the same form.
        let mut other = text.as_bytes().to_vec();
        let at = damage.index(other.len());
        other[at] = byte;
        if let Ok(read) = Registration::parse(&other) {
            // A newline in place of the last character of the name ends the text earlier.
            prop_assert!(read.emit().len() <= text.len());
        }
    }

    #[test]
    fn key_files(key_id: [u8; 16], root: [u8; 32], server: Option<[u8; 16]>, second in 0i64..4_000_000_000) {
        let root = Root::from_hex(&data_encoding::HEXLOWER.encode(&root)).unwrap();
        let since = jiff::Timestamp::from_second(second).unwrap();
        let file = KeyFile { key_id: KeyId(key_id), root, server_id: server.map(ServerId), since };
        let read = KeyFile::parse(file.emit().as_bytes()).unwrap();
        prop_assert_eq!((read.key_id, read.server_id, read.since), (file.key_id, file.server_id, since));
        prop_assert!(*read.root.to_hex() == *file.root.to_hex());
    }

    #[test]
    fn lines(key in public_key(), name in client_id(), until in proptest::option::of(0i64..4_000_000_000)) {
        let owner = match until {
            None => Owner::Client(name),
            Some(second) => Owner::Enrolment { name, until: jiff::Timestamp::from_second(second).unwrap() },
        };
        let line = Line { key, owner };
        let text = line.to_string();
        prop_assert_eq!(Line::parse(&text), Some(line));
    }

    /// Only a line that reads back to itself gives a key a role: there is no second way to write one.
    #[test]
    fn damaged_lines((bytes, _) in (public_key(), client_id()).prop_flat_map(|(key, name)| {
        let text = Line { key, owner: Owner::Client(name) }.to_string();
        (damaged(text.clone()), Just(text))
    })) {
        if let Ok(text) = std::str::from_utf8(&bytes) {
            if let Some(line) = Line::parse(text) {
                prop_assert_eq!(line.to_string(), text);
            }
        }
    }

    #[test]
    fn auth_info(key in public_key()) {
        let text = format!("publickey {}\n", key);
        prop_assert_eq!(parse_auth_info(text.as_bytes()).unwrap(), Method::Key(key));
    }
}
