// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! PROBE and PROBE_ACK: while it is well, a machine asks whether its server would hear it, and hears the answer.
//!
//! They belong to no session and carry nothing. Where there is a key they have MACs of a key of their own, so that the arm key
//! is not touched before a panic: what computes with a key leaves traces of it on a stack that a dump holds.
//!
//! ```text
//! PROBE      0 header: kind, what the client drew, serial number | 16 flags u16 | 18 reserved u16 | 20 key id 16 | 36 arm id 16
//!            | 52 padding … | MAC 16
//! PROBE_ACK  0 header: kind, the same, the same | 16 flags u16 | 18 reserved u16 | MAC 16
//! ```

use super::super::{Error, Reader, Result, Writer};
use super::handshake::{finish, is_authentic, KeyName};
use super::message::kind;
use super::secure::{Crypto, Key, MAC_LEN};
use super::{Counter, Header, SessionId, HEADER_LEN};

/// Length of a PROBE: that of a START6 without a key exchange, which is what a panic begins with. Later versions may have
/// longer ones.
pub const PROBE_LEN: usize = 256;
/// The longest PROBE that is read.
pub const MAX_PROBE_LEN: usize = 1024;
/// Length of a PROBE_ACK: nobody gets more out of a server than he puts in.
pub const PROBE_ACK_LEN: usize = HEADER_LEN + 4 + MAC_LEN;
/// The longest PROBE_ACK that is read.
pub const MAX_PROBE_ACK_LEN: usize = 256;
/// Flag: there is a key.
const KEYED: u16 = 1;
/// What makes the key of both from the arm key.
pub const LABEL: &[u8] = b"nd6 probe";

/// The key of probes: not secret to those who have a dump of this machine.
#[derive(Debug, Clone, Copy)]
pub struct ProbeKey(Key);

impl ProbeKey {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        ProbeKey(Key::new(bytes))
    }

    /// From the arm key.
    pub fn derive(crypto: &impl Crypto, arm_key: &Key) -> Self {
        ProbeKey(arm_key.derive(crypto, LABEL, &[]))
    }
}

/// A question to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Drawn by the client.
    pub id: SessionId,
    /// No two with the same number.
    pub serial: Counter,
    /// The key that it was armed with, if there is one.
    pub key: Option<KeyName>,
}

impl Probe {
    /// Writes it, with its MAC if there is a key; its length.
    pub fn emit(&self, crypto: &impl Crypto, key: Option<&ProbeKey>, buf: &mut [u8]) -> Result<usize> {
        let buf = buf.get_mut(..PROBE_LEN).ok_or(Error::NoRoom)?;
        buf.fill(0);
        Header { kind: kind::PROBE, session: self.id, counter: self.serial }.emit(buf)?;
        let mut w = Writer::new(buf.get_mut(HEADER_LEN..).ok_or(Error::NoRoom)?);
        w.u16(if self.key.is_some() { KEYED } else { 0 })?;
        w.u16(0)?;
        w.bytes(self.key.as_ref().map_or(&[0; 16], |key| &key.key_id))?;
        w.bytes(self.key.as_ref().map_or(&[0; 16], |key| &key.arm_id))?;
        finish(buf, key.map(|ProbeKey(key)| *key), crypto, &[])
    }

    /// Whether a datagram says that it is one.
    pub fn looks_like(datagram: &[u8]) -> bool {
        Header::parse(datagram).is_ok_and(|(header, _)| header.kind == kind::PROBE)
    }

    /// Reads one; its MAC is another matter ([`is_authentic`](Self::is_authentic)).
    pub fn parse(datagram: &[u8]) -> Result<Self> {
        let (header, body) = Header::parse(datagram)?;
        if header.kind != kind::PROBE {
            return Err(Error::Invalid("kind"));
        }
        if !(PROBE_LEN..=MAX_PROBE_LEN).contains(&datagram.len()) {
            return Err(Error::Invalid("length"));
        }
        let mut r = Reader::new(body);
        let flags = r.u16("flags")?;
        r.u16("reserved")?;
        let (key_id, arm_id) = (*r.array("key id")?, *r.array("arm id")?);
        let keyed = flags & KEYED != 0;
        if !keyed && (key_id != [0; 16] || arm_id != [0; 16]) {
            return Err(Error::Invalid("key id"));
        }
        let key = if keyed { Some(KeyName { key_id, arm_id }) } else { None };
        Ok(Probe { id: header.session, serial: header.counter, key })
    }

    /// Whether the MAC of a PROBE is that of this key.
    pub fn is_authentic(crypto: &impl Crypto, key: &ProbeKey, datagram: &[u8]) -> bool {
        is_authentic(crypto, &key.0, &[], datagram)
    }
}

/// The answer to a [`Probe`]: whoever sent it heard the question, and would take a dump with the key that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeAck {
    /// From the question.
    pub id: SessionId,
    /// From the question.
    pub serial: Counter,
}

impl ProbeAck {
    /// Writes the answer to `probe`, which was read from the datagram `question`; its length.
    pub fn emit(
        probe: &Probe,
        question: &[u8],
        crypto: &impl Crypto,
        key: Option<&ProbeKey>,
        buf: &mut [u8],
    ) -> Result<usize> {
        let buf = buf.get_mut(..PROBE_ACK_LEN).ok_or(Error::NoRoom)?;
        buf.fill(0);
        Header { kind: kind::PROBE_ACK, session: probe.id, counter: probe.serial }.emit(buf)?;
        let mut w = Writer::new(buf.get_mut(HEADER_LEN..).ok_or(Error::NoRoom)?);
        w.u16(if key.is_some() { KEYED } else { 0 })?;
        finish(buf, key.map(|ProbeKey(key)| *key), crypto, question)
    }

    /// Reads one; its MAC is another matter ([`is_authentic`](Self::is_authentic)).
    pub fn parse(datagram: &[u8]) -> Result<Self> {
        let (header, body) = Header::parse(datagram)?;
        if header.kind != kind::PROBE_ACK {
            return Err(Error::Invalid("kind"));
        }
        if !(PROBE_ACK_LEN..=MAX_PROBE_ACK_LEN).contains(&datagram.len()) {
            return Err(Error::Invalid("length"));
        }
        Reader::new(body).u16("flags")?;
        Ok(ProbeAck { id: header.session, serial: header.counter })
    }

    /// Whether the MAC of an answer is that of this key and question.
    pub fn is_authentic(crypto: &impl Crypto, key: &ProbeKey, question: &[u8], datagram: &[u8]) -> bool {
        is_authentic(crypto, &key.0, question, datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_their_own_kinds_and_lengths() {
        let probe = [6, kind::PROBE].into_iter().chain([1; 14]).chain([0; PROBE_LEN]).collect::<std::vec::Vec<u8>>();
        assert!(Probe::looks_like(&probe) && !Probe::looks_like(&probe[..15]));
        let parsed = Probe::parse(&probe[..PROBE_LEN]).unwrap();
        assert_eq!((parsed.id, parsed.serial, parsed.key), (SessionId([1; 6]), Counter(0x0101_0101_0101_0101), None));
        assert_eq!(Probe::parse(&probe).unwrap(), parsed, "a longer one of a later version");
        assert!(Probe::parse(&probe[..PROBE_LEN - 1]).is_err());
        let long = [&probe[..], &[0; MAX_PROBE_LEN]].concat();
        assert!(Probe::parse(&long[..MAX_PROBE_LEN]).is_ok() && Probe::parse(&long[..=MAX_PROBE_LEN]).is_err());
        assert!(ProbeAck::parse(&probe[..PROBE_ACK_LEN]).is_err());
        let mut ack = probe.clone();
        ack[1] = kind::PROBE_ACK;
        assert_eq!(ProbeAck::parse(&ack[..PROBE_ACK_LEN]).unwrap(), ProbeAck { id: parsed.id, serial: parsed.serial });
        assert!(ProbeAck::parse(&ack[..PROBE_ACK_LEN - 1]).is_err() && ProbeAck::parse(&ack).is_err());
        assert!(!Probe::looks_like(&ack) && Probe::parse(&ack[..PROBE_LEN]).is_err());
        // A name of a key without the flag.
        let mut named = probe[..PROBE_LEN].to_vec();
        named[20] = 1;
        assert!(Probe::parse(&named).is_err());
    }
}
