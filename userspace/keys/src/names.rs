// SPDX-License-Identifier: GPL-2.0-or-later
//! Names and numbers that say who is who. None of them is secret.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A client as the server knows it: `[a-z0-9][a-z0-9.-]{0,62}`. It is chosen on the server, and is a file name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl ClientId {
    /// The name of a client that nobody has named: it follows from its ssh key.
    pub fn of_key(blob: &[u8]) -> ClientId {
        let digest = Sha256::digest(blob);
        ClientId(format!("c{}", HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]))))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = name.bytes().next().is_some_and(fits);
        if !first || name.len() > 63 || !name.bytes().all(|byte| fits(byte) || byte == b'.' || byte == b'-') {
            let why = "is no client name: up to 63 of a-z, 0-9, '.' and '-', a letter or digit first";
            return Err(Error::BadName { name: name.into(), why });
        }
        Ok(ClientId(name.into()))
    }
}

impl TryFrom<String> for ClientId {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> String {
        id.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server as the client's settings name it: a host name or an address. It is a directory name on the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(String);

impl ServerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".:-".contains(&byte);
        if name.is_empty() || name.len() > 255 || name.starts_with(['.', '-']) || !name.bytes().all(fits) {
            return Err(Error::BadName { name: name.into(), why: "is neither a host name nor an address" });
        }
        Ok(ServerName(name.into()))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! sixteen_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A random one.
            pub fn random() -> Result<Self, Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(Error::NoRandomness)?;
                Ok($name(bytes))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                hex(text).map($name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(it: $name) -> String {
                it.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }
    };
}

sixteen_bytes! {
    /// Names a root key. 32 hexadecimal digits as text.
    KeyId
}
sixteen_bytes! {
    /// Names a server. 32 hexadecimal digits as text.
    ServerId
}

/// Exactly `N` bytes in lower-case hexadecimal. What is wrong is said without the text: it may be a secret.
pub(crate) fn hex<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let fits = HEXLOWER.decode_len(text.len()) == Ok(N);
    if !fits || HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_err() {
        return Err(Error::BadMessage(format!("{} hexadecimal digits (0-9, a-f) are expected", 2 * N)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_of_one_form() {
        for good in ["a", "0", "c0123456789abcdef", "web-1.example", &"x".repeat(63)] {
            assert_eq!(good.parse::<ClientId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", ".a", "A", "a/b", "a b", "a\n", "é", &"x".repeat(64)] {
            assert!(bad.parse::<ClientId>().is_err(), "{bad:?}");
        }
        for good in ["crashhost", "192.0.2.1", "fd00::1", "a.b-c"] {
            assert!(good.parse::<ServerName>().is_ok(), "{good}");
        }
        for bad in ["", "..", "-oProxyCommand=x", "a/b", "a b", "a\0", "a@b", "fe80::1%eth0"] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_have_one_form() {
        let id = KeyId([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        for bad in ["", "ab", &"AB".repeat(16), &"ab".repeat(17), &"zz".repeat(16), &format!(" {}", "ab".repeat(16))] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
        }
        assert_ne!(KeyId::random().unwrap(), KeyId::random().unwrap());
    }
}
