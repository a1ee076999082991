// SPDX-License-Identifier: GPL-2.0-or-later
//! Who has logged in as user netdump, and what that one may do.
//!
//! Only sshd is asked: with `ExposeAuthInfo yes` it writes down how somebody got in, and names the file in `SSH_USER_AUTH`.
//! What the client asked for, and what it sends, has no say in who it is.

use std::net::IpAddr;

use crate::authorized::{Line, Owner, PublicKey};
use crate::error::{Error, Result};
use crate::names::ClientId;

/// Longest file of sshd that is read.
pub const MAX_AUTH_INFO: u64 = 64 << 10;

/// How somebody got in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// With the password of user netdump.
    Password,
    /// With a key.
    Key(PublicKey),
}

/// Reads sshd's file. Several methods are there if sshd wanted several; a key says the most.
pub fn parse_auth_info(text: &[u8]) -> Result<Method> {
    let bad = |why: &str| Error::Refused(format!("sshd does not say how you logged in ({why})"));
    let text = std::str::from_utf8(text).map_err(|_| bad("not text"))?;
    let mut method = None;
    for line in text.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some("publickey") => {
                let (key, _) = PublicKey::parse_line(line.strip_prefix("publickey ").unwrap_or_default())
                    .map_err(|error| Error::Refused(error.to_string()))?;
                if matches!(&method, Some(Method::Key(other)) if *other != key) {
                    return Err(bad("two keys"));
                }
                method = Some(Method::Key(key));
            }
            Some("password" | "keyboard-interactive" | "keyboard-interactive/pam") => {
                method.get_or_insert(Method::Password);
            }
            _ => return Err(bad("an unknown method")),
        }
    }
    method.ok_or_else(|| bad("no method"))
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Make a public key known.
    Enrol,
    /// Register a root key for this client.
    Register(ClientId),
}

/// The role of a method, by the lines of `authorized_keys`.
pub fn role(method: &Method, authorized_keys: &str, now: jiff::Timestamp) -> Result<Role> {
    let key = match method {
        Method::Password => return Ok(Role::Enrol),
        Method::Key(key) => key,
    };
    let line = authorized_keys.lines().filter_map(Line::parse).find(|line| line.key == *key);
    match line.map(|line| line.owner) {
        Some(Owner::Client(id)) => Ok(Role::Register(id)),
        Some(Owner::Enrolment { until, .. }) if now < until => Ok(Role::Enrol),
        Some(Owner::Enrolment { .. }) => Err(Error::Refused("this enrolment key has expired".into())),
        None => Err(Error::Refused("this key is not enrolled (any more): run 'service netdump propagate'".into())),
    }
}

/// The other end's address, from `SSH_CONNECTION` ("address port address port").
pub fn peer(ssh_connection: &str) -> Result<IpAddr> {
    let address = ssh_connection.split(' ').next().unwrap_or("");
    // A link-local address has its interface behind it, which means nothing elsewhere.
    let address = address.split('%').next().unwrap_or("");
    let parsed: std::result::Result<IpAddr, _> = address.parse();
    parsed.map(|ip| ip.to_canonical()).map_err(|_| Error::Refused("sshd does not say where you come from".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorized::tests::key;

    #[test]
    fn only_what_sshd_says_counts() {
        let mine = format!("publickey {}\n", key(1));
        assert_eq!(parse_auth_info(mine.as_bytes()).unwrap(), Method::Key(key(1)));
        assert_eq!(parse_auth_info(b"password\n").unwrap(), Method::Password);
        assert_eq!(parse_auth_info(format!("password\n{mine}").as_bytes()).unwrap(), Method::Key(key(1)));
        for bad in [
            "",
            "none\n",
            "publickey\n",
            "publickey ssh-rsa AAAA\n",
            "hostbased x\n",
            &format!("{mine}publickey {}\n", key(2)),
        ] {
            assert!(parse_auth_info(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn roles() {
        let now = "2026-11-27T06:00:00Z".parse().unwrap();
        let later = "2026-11-28T06:00:00Z".parse().unwrap();
        let name: ClientId = "a".parse().unwrap();
        let lines = [
            Line { key: key(1), owner: Owner::Client(name.clone()) },
            Line { key: key(2), owner: Owner::Enrolment { name: name.clone(), until: later } },
            Line { key: key(3), owner: Owner::Enrolment { name: name.clone(), until: now } },
        ];
        let text: String =
            lines.iter().map(|line| format!("{line}\n")).chain([format!("{} client:b\n", key(4))]).collect();
        let role = |method| role(&method, &text, now).ok();
        assert_eq!(role(Method::Key(key(1))), Some(Role::Register(name)));
        assert_eq!(role(Method::Key(key(2))), Some(Role::Enrol));
        assert_eq!(
            (role(Method::Key(key(3))), role(Method::Key(key(4))), role(Method::Key(key(5)))),
            (None, None, None)
        );
        assert_eq!(role(Method::Password), Some(Role::Enrol));
    }

    #[test]
    fn where_from() {
        assert_eq!(peer("192.0.2.7 40000 192.0.2.1 22").unwrap().to_string(), "192.0.2.7");
        assert_eq!(peer("::ffff:192.0.2.7 1 2 3").unwrap().to_string(), "192.0.2.7");
        assert_eq!(peer("fe80::1%eth0 1 2 3").unwrap().to_string(), "fe80::1");
        assert!(peer("").is_err() && peer("UNKNOWN 65535 UNKNOWN 65535").is_err());
    }
}
