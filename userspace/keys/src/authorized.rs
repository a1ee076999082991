// SPDX-License-Identifier: GPL-2.0-or-later
//! Public keys, and the lines of `authorized_keys` that say what each may do.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::message::label;
use crate::names::ClientId;

/// What sshd starts for a key, whatever the client asks for. sshd_config's ForceCommand says the same; this is the second lock.
const COMMAND: &str = "/usr/libexec/netdump/netdump-key login";
const ALGORITHM: &str = "ssh-ed25519";
/// An ed25519 key as ssh sends it: the algorithm's name and 32 bytes, each behind its length.
const BLOB_LEN: usize = 4 + ALGORITHM.len() + 4 + 32;

/// An ed25519 public key. Other kinds are refused: one is enough, and all clients make this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; BLOB_LEN]);

impl PublicKey {
    /// Its bytes as ssh sends them.
    pub fn blob(&self) -> &[u8] {
        &self.0
    }

    /// From `ssh-ed25519 AAAA… [comment]`, the one line of a .pub file; the comment comes second.
    pub fn parse_line(line: &str) -> Result<(PublicKey, String)> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let bad = |why: &str| Error::BadMessage(format!("no public key: {why}"));
        if line.contains(['\n', '\r', '\0']) {
            return Err(bad("more than one line"));
        }
        let mut words = line.splitn(3, ' ');
        if words.next() != Some(ALGORITHM) {
            return Err(bad("it does not begin with ssh-ed25519"));
        }
        let key = words.next().unwrap_or("").parse()?;
        Ok((key, label(words.next().unwrap_or(""))))
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::BadMessage("no public key: not what ssh-keygen -t ed25519 makes".into());
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| bad())?;
        let blob: [u8; BLOB_LEN] = bytes.try_into().map_err(|_| bad())?;
        let mut head = (ALGORITHM.len() as u32).to_be_bytes().to_vec();
        head.extend_from_slice(ALGORITHM.as_bytes());
        head.extend_from_slice(&32u32.to_be_bytes());
        blob.starts_with(&head).then_some(PublicKey(blob)).ok_or_else(bad)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM} {}", BASE64.encode(&self.0))
    }
}

/// Who a key belongs to, and so what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A client: it may register a root key, for itself.
    Client(ClientId),
    /// Whoever has it may enrol a client, until then.
    Enrolment {
        /// Its name, for people.
        name: ClientId,
        /// When it ends.
        until: Timestamp,
    },
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The key.
    pub key: PublicKey,
    /// Whose.
    pub owner: Owner,
}

impl Line {
    /// Reads a line that [`Display`](fmt::Display) wrote; `None` for all else, such as what an administrator added: such a
    /// key opens nothing here.
    pub fn parse(line: &str) -> Option<Line> {
        let (options, rest) = line.split_once(' ')?;
        // The command has a space, in quotes.
        let (options, rest) = match rest.split_once('"') {
            Some((tail, rest)) => (format!("{options} {tail}\""), rest.strip_prefix(' ')?),
            None => (options.to_owned(), rest),
        };
        let mut words = rest.split(' ');
        if words.next()? != ALGORITHM {
            return None;
        }
        let key = words.next()?.parse().ok()?;
        let (kind, name) = words.next()?.split_once(':')?;
        let name: ClientId = name.parse().ok()?;
        let owner = match kind {
            "client" => Owner::Client(name),
            "enrol" => {
                let until = options.split_once("expiry-time=\"")?.1.split_once('"')?.0;
                let until = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", until).ok()?;
                Owner::Enrolment { name, until: until.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp() }
            }
            _ => return None,
        };
        let line = Line { key, owner };
        (words.next().is_none() && line.options() == options).then_some(line)
    }

    fn options(&self) -> String {
        match &self.owner {
            Owner::Client(_) => format!("restrict,command=\"{COMMAND}\""),
            Owner::Enrolment { until, .. } => {
                format!("restrict,expiry-time=\"{}\",command=\"{COMMAND}\"", until.strftime("%Y%m%d%H%M%SZ"))
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.owner {
            Owner::Client(name) => ("client", name),
            Owner::Enrolment { name, .. } => ("enrol", name),
        };
        write!(f, "{} {} {kind}:{name}", self.options(), self.key)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(fill: u8) -> PublicKey {
        let mut blob = *b"\0\0\0\x0bssh-ed25519\0\0\0\x20................................";
        blob[19..].fill(fill);
        PublicKey(blob)
    }

    #[test]
    fn lines_come_back() {
        let until = "2026-12-27T06:00:00Z".parse().unwrap();
        let name: ClientId = "web-1".parse().unwrap();
        for owner in [Owner::Client(name.clone()), Owner::Enrolment { name, until }] {
            let line = Line { key: key(7), owner };
            let text = line.to_string();
            assert_eq!(Line::parse(&text), Some(line), "{text}");
            for other in [
                text.replace("restrict", "pty"),
                text.replace(" login", " serve"),
                format!("{text} x"),
                text.replace(":web", ":WEB"),
                text[1..].into(),
            ] {
                assert_eq!(Line::parse(&other), None, "{other}");
            }
        }
        for other in ["", "# comment", "ssh-ed25519 AAAA client:a", &key(1).to_string(), "a b c d"] {
            assert_eq!(Line::parse(other), None, "{other}");
        }
    }

    #[test]
    fn public_keys() {
        let text = format!("{} root@web 1\n", key(3));
        let (read, comment) = PublicKey::parse_line(&text).unwrap();
        assert_eq!((read, comment.as_str()), (key(3), "root@web1"));
        for bad in [
            "",
            "ssh-rsa AAAA",
            "ssh-ed25519",
            "ssh-ed25519 !",
            "ssh-ed25519 AAAA",
            &format!("{text}{text}"),
            &format!("restrict {text}"),
        ] {
            assert!(PublicKey::parse_line(bad).is_err(), "{bad}");
        }
    }
}
