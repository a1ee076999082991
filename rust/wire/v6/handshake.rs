// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! START6 and ACK6.
//!
//! Without a key their MACs are zeroes, and so are key and arming number. Both may grow, START6 by its fixed part and by TLVs,
//! ACK6 in front of its MAC: what a reader does not know it skips ("Other versions" in docs/protocol.md).

use super::super::classic::Machine;
use super::super::{Error, Reader, Result, Writer};
use super::secure::{same_mac, Crypto, Key, MAC_LEN};
use super::{SessionId, MAX_MAX_DATAGRAM, MIN_MAX_DATAGRAM, VERSION};

/// `code` of START6, the classic START_NETDUMP.
const CODE: u32 = 8;
/// `command` of ACK6, the classic START_NETDUMP_ACK.
const COMMAND: u32 = 7;
/// A START6 is at least as long, and longer than its answer: nobody gets more out of a server than he puts in.
pub const MIN_START_LEN: usize = 256;
/// The longest START6.
pub const MAX_START_LEN: usize = 2048;
/// The longest key exchange.
pub const MAX_KX_LEN: usize = 1152;
const START_FIXED: usize = 121;
/// Length of an ACK6.
pub const ACK_LEN: usize = 124;
/// Flag: there is a key.
const KEYED: u16 = 1;
/// Flag: turns are known.
const TURNS: u16 = 2;
/// TLV of no meaning.
const PADDING: u16 = 0;

/// Suite: nothing is sealed.
pub const SUITE_CLEAR: u8 = 0;
/// Suite: ChaCha20-Poly1305, keys by HKDF-SHA256.
pub const SUITE_CHACHA20_POLY1305: u8 = 1;

/// Which key a client was armed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyName {
    /// Names the root key. Not secret.
    pub key_id: [u8; 16],
    /// Names the arming.
    pub arm_id: [u8; 16],
}

/// START6 as the client writes it and the server reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start6<'a> {
    /// The client's machine.
    pub machine: Machine,
    /// Its key; `None` where it has none, and all goes in clear.
    pub key: Option<KeyName>,
    /// It knows turns; who does not is asked for all pages at once.
    pub turns: bool,
    /// Bit `n`: suite `n` can be used.
    pub suites: u32,
    /// Bit `n`: codec `n` can be asked for.
    pub codecs: u32,
    /// The longest datagram that the client sends, bytes of UDP payload.
    pub max_datagram: u16,
    /// Drawn once in a panic.
    pub fire_id: [u8; 16],
    /// Counts the handshakes of a panic.
    pub epoch: u32,
    /// Fresh in each handshake.
    pub random: [u8; 32],
    /// What the client calls the session.
    pub session: SessionId,
    /// Of a key exchange that went before; opaque.
    pub kx: &'a [u8],
}

impl<'a> Start6<'a> {
    /// Writes the message, with its MAC if there is a key; its length.
    pub fn emit(&self, crypto: &impl Crypto, arm_key: &Key, buf: &mut [u8]) -> Result<usize> {
        if self.kx.len() > MAX_KX_LEN {
            return Err(Error::Invalid("kx length"));
        }
        let unpadded = START_FIXED.saturating_add(self.kx.len()).saturating_add(MAC_LEN);
        // A TLV has four bytes at least.
        let padding = MIN_START_LEN.saturating_sub(unpadded);
        let padding = if padding == 0 { 0 } else { padding.max(4) };
        let len = unpadded.saturating_add(padding);
        let buf = buf.get_mut(..len).ok_or(Error::NoRoom)?;
        let mut w = Writer::new(buf);
        w.u8(VERSION)?;
        w.u32(u32::from(self.machine.0))?;
        w.u32(CODE)?;
        w.u32(u32::from(VERSION))?;
        w.u16(u16::try_from(len).map_err(|_| Error::NoRoom)?)?;
        w.u16(if self.key.is_some() { KEYED } else { 0 } | if self.turns { TURNS } else { 0 })?;
        w.u32(self.suites)?;
        w.u32(self.codecs)?;
        w.u16(self.max_datagram)?;
        w.u16(0)?;
        w.bytes(self.key.as_ref().map_or(&[0; 16], |key| &key.key_id))?;
        w.bytes(self.key.as_ref().map_or(&[0; 16], |key| &key.arm_id))?;
        w.bytes(&self.fire_id)?;
        w.u32(self.epoch)?;
        w.bytes(&self.random)?;
        w.bytes(&self.session.0)?;
        w.u16(u16::try_from(self.kx.len()).map_err(|_| Error::NoRoom)?)?;
        w.bytes(self.kx)?;
        if let Some(value) = padding.checked_sub(4) {
            w.u16(PADDING)?;
            w.u16(u16::try_from(value).map_err(|_| Error::NoRoom)?)?;
            w.claim(value)?.fill(0);
        }
        finish(buf, self.key.is_some().then(|| arm_key.derive(crypto, b"nd6 start", &[])), crypto, &[])
    }

    /// Reads a message; its MAC is another matter ([`is_authentic`](Self::is_authentic)).
    pub fn parse(datagram: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(datagram);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let machine = Machine(u16::try_from(r.u32("machine")?).map_err(|_| Error::Invalid("machine"))?);
        if r.u32("code")? != CODE {
            return Err(Error::Invalid("code"));
        }
        // Its highest version: a later one begins like this one.
        if r.u32("info")? < u32::from(VERSION) {
            return Err(Error::Invalid("info"));
        }
        let len = usize::from(r.u16("length")?);
        if len != datagram.len() || !(MIN_START_LEN..=MAX_START_LEN).contains(&len) {
            return Err(Error::Invalid("length"));
        }
        let flags = r.u16("flags")?;
        let (suites, codecs) = (r.u32("suites")?, r.u32("codecs")?);
        let max_datagram = max_datagram(&mut r)?;
        // Of the fixed part; a later version's may be longer.
        let fixed = match usize::from(r.u16("header length")?) {
            0 => START_FIXED,
            fixed => fixed,
        };
        let (key_id, arm_id) = (*r.array("key id")?, *r.array("arm id")?);
        let keyed = flags & KEYED != 0;
        if !keyed && (key_id != [0; 16] || arm_id != [0; 16]) {
            return Err(Error::Invalid("key id"));
        }
        let (fire_id, epoch) = (*r.array("fire id")?, r.u32("epoch")?);
        let (random, session) = (*r.array("random")?, SessionId(*r.array("session")?));
        let kx_len = usize::from(r.u16("kx length")?);
        if kx_len > MAX_KX_LEN {
            return Err(Error::Invalid("kx length"));
        }
        r.bytes(fixed.checked_sub(START_FIXED).ok_or(Error::Invalid("header length"))?, "header")?;
        let kx = r.bytes(kx_len, "kx")?;
        let tlvs = r.rest().len().checked_sub(MAC_LEN).ok_or(Error::Truncated("mac"))?;
        let mut tlvs = Reader::new(r.bytes(tlvs, "tlvs")?);
        while !tlvs.rest().is_empty() {
            // None has a meaning yet; all of them can be skipped.
            tlvs.u16("tlv type")?;
            let len = usize::from(tlvs.u16("tlv length")?);
            tlvs.bytes(len, "tlv")?;
        }
        let key = keyed.then_some(KeyName { key_id, arm_id });
        let turns = flags & TURNS != 0;
        Ok(Start6 { machine, key, turns, suites, codecs, max_datagram, fire_id, epoch, random, session, kx })
    }

    /// Whether the MAC of a message that [`parse`](Self::parse) took is that of this key.
    pub fn is_authentic(crypto: &impl Crypto, arm_key: &Key, datagram: &[u8]) -> bool {
        is_authentic(crypto, &arm_key.derive(crypto, b"nd6 start", &[]), &[], datagram)
    }
}

/// ACK6 as the server writes it and the client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack6 {
    /// The suite that is used from now on.
    pub suite: u8,
    /// The client's name of the session, from START6.
    pub client: SessionId,
    /// The server's.
    pub server: SessionId,
    /// Fresh.
    pub random: [u8; 32],
    /// Of a key exchange to come; zeroes.
    pub kx: [u8; 32],
    /// The longest datagram that the client is to send.
    pub max_datagram: u16,
}

impl Ack6 {
    /// Whether a datagram from the server may be one.
    pub fn looks_like(datagram: &[u8]) -> bool {
        let mut r = Reader::new(datagram);
        let prefix = (r.u64("magic"), r.u32("nr"), r.u32("command"), r.u32("from"));
        matches!(prefix, (Ok(0), Ok(_), Ok(COMMAND), Ok(6..)))
    }

    /// Writes the message, with its MAC if there is a key; its length. `start` is the whole START6 that it answers.
    pub fn emit(&self, crypto: &impl Crypto, arm_key: Option<&Key>, start: &[u8], buf: &mut [u8]) -> Result<usize> {
        let buf = buf.get_mut(..ACK_LEN).ok_or(Error::NoRoom)?;
        let mut w = Writer::new(buf);
        w.u64(0)?;
        w.u32(0)?;
        w.u32(COMMAND)?;
        w.u32(u32::from(VERSION))?;
        w.u32(0)?;
        w.u16(ACK_LEN as u16)?;
        w.u8(self.suite)?;
        w.u8(0)?;
        w.bytes(&self.client.0)?;
        w.bytes(&self.server.0)?;
        w.bytes(&self.random)?;
        w.bytes(&self.kx)?;
        w.u16(self.max_datagram)?;
        w.u16(0)?;
        let start_hash = crypto.sha256(&[start]);
        finish(buf, arm_key.map(|key| key.derive(crypto, b"nd6 ack", &[])), crypto, &start_hash)
    }

    /// Reads a message; its MAC is another matter ([`is_authentic`](Self::is_authentic)).
    pub fn parse(datagram: &[u8]) -> Result<Self> {
        if !Self::looks_like(datagram) {
            return Err(Error::Invalid("not an ACK6"));
        }
        let mut r = Reader::new(datagram);
        r.bytes(24, "prefix")?;
        let len = usize::from(r.u16("length")?);
        if len != datagram.len() || len < ACK_LEN {
            return Err(Error::Invalid("length"));
        }
        let suite = r.u8("suite")?;
        r.u8("flags")?;
        let (client, server) = (SessionId(*r.array("session")?), SessionId(*r.array("session")?));
        let (random, kx) = (*r.array("random")?, *r.array("kx")?);
        let max_datagram = max_datagram(&mut r)?;
        Ok(Ack6 { suite, client, server, random, kx, max_datagram })
    }

    /// Whether its MAC is that of this key and this START6.
    pub fn is_authentic(crypto: &impl Crypto, arm_key: &Key, start: &[u8], datagram: &[u8]) -> bool {
        let start_hash = crypto.sha256(&[start]);
        is_authentic(crypto, &arm_key.derive(crypto, b"nd6 ack", &[]), &start_hash, datagram)
    }
}

/// A later version may have longer ones than we ever use.
fn max_datagram(r: &mut Reader<'_>) -> Result<u16> {
    match r.u16("largest datagram")?.min(MAX_MAX_DATAGRAM) {
        ..MIN_MAX_DATAGRAM => Err(Error::Invalid("largest datagram")),
        max => Ok(max),
    }
}

/// Puts the MAC, or zeroes, at the end of a message.
pub(super) fn finish(buf: &mut [u8], key: Option<Key>, crypto: &impl Crypto, before: &[u8]) -> Result<usize> {
    let len = buf.len();
    let (text, mac) = buf.split_last_chunk_mut::<MAC_LEN>().ok_or(Error::NoRoom)?;
    *mac = match key {
        Some(key) => key.mac(crypto, &[before, text]),
        None => [0; MAC_LEN],
    };
    Ok(len)
}

/// Whether the MAC at the end of a message is that of `before` and the rest of it.
pub(super) fn is_authentic(crypto: &impl Crypto, key: &Key, before: &[u8], datagram: &[u8]) -> bool {
    datagram.split_last_chunk::<MAC_LEN>().is_some_and(|(text, mac)| same_mac(&key.mac(crypto, &[before, text]), mac))
}
