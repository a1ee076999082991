// SPDX-License-Identifier: GPL-2.0-or-later
//! What client and server say to one another over ssh, and the client's key file.

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::names::{ClientId, KeyId, ServerId};
use crate::secret::Root;

/// Longest message, and longest key file, in bytes.
pub const MAX_MESSAGE: usize = 4096;
const REGISTRATION: &str = "netdump-registration 1";
const KEY_FILE: &str = "netdump-key 1";
/// Longest host name that is kept of a client.
const MAX_LABEL: usize = 64;

/// A client's new key, on its way to the server.
#[derive(Debug)]
pub struct Registration {
    /// Names the key.
    pub key_id: KeyId,
    /// The key.
    pub root: Root,
    /// What the client calls itself. For people only.
    pub host: String,
}

impl Registration {
    /// The message. `end` in the last line tells a whole one from one that was cut off.
    pub fn emit(&self) -> Zeroizing<String> {
        let root = self.root.to_hex();
        let host = label(&self.host);
        Zeroizing::new(format!("{REGISTRATION}\nkey_id {}\nroot {}\nhost {host}\nend\n", self.key_id, *root))
    }

    /// Reads a message. Errors do not repeat what is in it.
    pub fn parse(text: &[u8]) -> Result<Registration> {
        if text.len() > MAX_MESSAGE {
            return Err(Error::BadMessage(format!("no registration: longer than {MAX_MESSAGE} bytes")));
        }
        if !text.ends_with(b"\nend\n") {
            return Err(Error::BadMessage("no registration: its end is missing".into()));
        }
        let mut fields = Fields::parse("registration", REGISTRATION, text)?;
        let registration = Registration {
            key_id: fields.required("key_id")?.parse()?,
            root: Root::from_hex(fields.required("root")?)?,
            host: label(fields.required("host")?),
        };
        fields.required("end")?;
        fields.end()?;
        Ok(registration)
    }
}

/// A host name as it is kept: printable ASCII without spaces, not too long.
pub(crate) fn label(host: &str) -> String {
    host.chars().filter(char::is_ascii_graphic).take(MAX_LABEL).collect()
}

/// The server's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A public key is known from now on.
    Enrolled(ClientId),
    /// The key is on the server's disk.
    Registered(ClientId, ServerId),
}

impl Answer {
    /// One line.
    pub fn emit(&self) -> String {
        match self {
            Answer::Enrolled(id) => format!("enrolled {id}\n"),
            Answer::Registered(id, server) => format!("registered {id} {server}\n"),
        }
    }

    /// Reads that line.
    pub fn parse(text: &[u8]) -> Result<Answer> {
        let bad = || {
            Error::BadMessage(
                "the server's answer is neither 'registered' nor 'enrolled': is netdump-server installed there?".into(),
            )
        };
        let text = std::str::from_utf8(text).map_err(|_| bad())?;
        let words: Vec<_> = text.strip_suffix('\n').ok_or_else(bad)?.split(' ').collect();
        match words[..] {
            ["enrolled", id] => Ok(Answer::Enrolled(id.parse()?)),
            ["registered", id, server] => Ok(Answer::Registered(id.parse()?, server.parse()?)),
            _ => Err(bad()),
        }
    }
}

/// The client's file of one key.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Names the key.
    pub key_id: KeyId,
    /// The key.
    pub root: Root,
    /// The server that has it; absent until it says so.
    pub server_id: Option<ServerId>,
    /// When it was drawn, or accepted.
    pub since: Timestamp,
}

impl KeyFile {
    /// The file's text.
    pub fn emit(&self) -> Zeroizing<String> {
        let root = self.root.to_hex();
        let server = self.server_id.map_or(String::new(), |id| format!("server_id {id}\n"));
        Zeroizing::new(format!("{KEY_FILE}\nkey_id {}\nroot {}\n{server}since {}\n", self.key_id, *root, self.since))
    }

    /// Reads it.
    pub fn parse(text: &[u8]) -> Result<KeyFile> {
        let mut fields = Fields::parse("key file", KEY_FILE, text)?;
        let file = KeyFile {
            key_id: fields.required("key_id")?.parse()?,
            root: Root::from_hex(fields.required("root")?)?,
            server_id: fields.optional("server_id").map(str::parse).transpose()?,
            since: fields
                .required("since")?
                .parse()
                .map_err(|_| Error::BadMessage("no key file: 'since' is no time".into()))?,
        };
        fields.end()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_whole_or_nothing() {
        let message =
            Registration { key_id: KeyId([1; 16]), root: Root::random().unwrap(), host: "we b\n1\x1b[31mé".into() };
        let text = message.emit();
        let read = Registration::parse(text.as_bytes()).unwrap();
        assert_eq!((read.key_id, read.host.as_str()), (message.key_id, "web1[31m"));
        assert_eq!(*read.root.to_hex(), *message.root.to_hex());
        for cut in 0..text.len() {
            assert!(Registration::parse(&text.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        for (from, to) in [
            ("\nhost", "\nhost x\nhost"),
            ("key_id ", "key_id  "),
            ("end", "more 1\nend"),
            (" 1\n", " 2\n"),
            ("root 0", "root G"),
        ] {
            let other = text.replacen(from, to, 1);
            assert!(other == **text || Registration::parse(other.as_bytes()).is_err(), "{from:?} -> {to:?}");
        }
        let error = Registration::parse(text.replace("root ", "root x").as_bytes()).unwrap_err().to_string();
        assert!(!error.contains(&message.root.to_hex()[..8]), "{error}");
        assert!(Registration::parse(&[b'x'; MAX_MESSAGE + 1]).is_err());
    }

    #[test]
    fn answers_and_key_files_come_back() {
        for answer in
            [Answer::Enrolled("a".parse().unwrap()), Answer::Registered("b".parse().unwrap(), ServerId([7; 16]))]
        {
            assert_eq!(Answer::parse(answer.emit().as_bytes()).unwrap(), answer);
        }
        for bad in
            ["", "\n", "enrolled\n", "enrolled A\n", "enrolled a", "registered a\n", "Last login: today\nenrolled a\n"]
        {
            assert!(Answer::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for server_id in [None, Some(ServerId([9; 16]))] {
            let since = "2026-11-27T06:00:00Z".parse().unwrap();
            let file = KeyFile { key_id: KeyId([1; 16]), root: Root::random().unwrap(), server_id, since };
            let read = KeyFile::parse(file.emit().as_bytes()).unwrap();
            assert_eq!((read.key_id, read.server_id, read.since), (file.key_id, server_id, since));
        }
    }
}
