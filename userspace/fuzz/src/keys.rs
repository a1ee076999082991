// SPDX-License-Identifier: GPL-2.0-or-later
//! Keys: what comes through ssh, from a disk, and into the module.

use netdump_core::wire::arm::{Arming, FIXED_LEN, MAGIC, MAX_LEN};
use netdump_keys::authorized::{Line, PublicKey};
use netdump_keys::login::{parse_auth_info, role};
use netdump_keys::message::{Answer, KeyFile, Registration, MAX_MESSAGE};
use netdump_keys::ClientId;

/// A blob that is taken has exactly the form of docs/keys.md.
pub fn arming_is_exact_or_refused(data: &[u8]) {
    let Ok(arming) = Arming::new_checked(data) else { return };
    assert!(data.starts_with(MAGIC) && (FIXED_LEN..=MAX_LEN).contains(&data.len()));
    assert_eq!(data[8..12], (data.len() as u32).to_le_bytes());
    assert_eq!(arming.key_id().0, data[16..32]);
    assert_eq!(arming.cookie().map_or(0, |cookie| cookie.expose()).to_le_bytes(), data[160..168]);
    assert_eq!(arming.probe_key(), &data[112..144]);
}

/// Messages and key files that are taken say the same when they are written again; nothing else opens anything.
pub fn key_texts_come_back(data: &[u8]) {
    if let Ok(message) = Registration::parse(data) {
        assert!(data.len() <= MAX_MESSAGE);
        let again = Registration::parse(message.emit().as_bytes()).expect("its own text");
        assert!(again.key_id == message.key_id && *again.root.to_hex() == *message.root.to_hex());
        assert_eq!(again.host, message.host);
    }
    if let Ok(file) = KeyFile::parse(data) {
        let again = KeyFile::parse(file.emit().as_bytes()).expect("its own text");
        assert!(again.key_id == file.key_id && again.server_id == file.server_id);
    }
    if let Ok(answer) = Answer::parse(data) {
        assert_eq!(answer.emit().as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(line) = Line::parse(text) {
            assert_eq!(line.to_string(), text, "one way to write a line");
        }
        let _ = PublicKey::parse_line(text);
        if let Ok(id) = text.parse::<ClientId>() {
            assert!(!id.as_str().contains(['/', '\0']) && !id.as_str().starts_with('.'));
        }
    }
    if let Ok(method) = parse_auth_info(data) {
        // No key has a role where none is enrolled.
        let _ = role(&method, "", Default::default());
    }
}
