// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The keys of a session, and what is done with them to a datagram.
//!
//! ```text
//! arm key ─┬─ "nd6 start" ─ MAC of START6
//!          ├─ "nd6 ack"   ─ MAC of ACK6, over START6 too
//!          └─ "nd6 c2s", "nd6 s2c" ‖ SHA-256(START6 ‖ ACK6) ─ keys of the two directions
//! ```
//!
//! The primitives come from whoever compiles this: the kernel's library, or RustCrypto's ([`Crypto`]).

use super::super::{Error, Result};
use super::{Counter, Header, SessionId, HEADER_LEN, TAG_LEN};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes of the MAC of a handshake message: HMAC-SHA256, cut.
pub const MAC_LEN: usize = 16;

/// What is needed of a cryptographic library.
pub trait Crypto {
    /// SHA-256 of the parts, one after another.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];

    /// HMAC-SHA256 of the parts.
    fn hmac(&self, key: &[u8], parts: &[&[u8]]) -> [u8; 32];

    /// ChaCha20-Poly1305 (RFC 8439) in place; the nonce is four zero bytes and the number, little-endian. The last
    /// [`TAG_LEN`] bytes are room for the tag. False if it could not be done.
    fn seal(&self, key: &[u8; KEY_LEN], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool;

    /// The reverse. Whether the tag was right; if not, the text is of no use.
    fn open(&self, key: &[u8; KEY_LEN], nonce: u64, aad: &[u8], text_and_tag: &mut [u8]) -> bool;
}

/// A key. It shows itself nowhere.
#[derive(Clone, Copy)]
pub struct Key([u8; KEY_LEN]);

impl Key {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Key(bytes)
    }

    /// All zero, where none is wanted yet.
    pub const NONE: Key = Key([0; KEY_LEN]);

    /// HKDF-SHA256's expansion to one block, `info` being `label ‖ context`.
    pub fn derive(&self, crypto: &impl Crypto, label: &[u8], context: &[u8]) -> Key {
        Key(crypto.hmac(&self.0, &[label, context, &[1]]))
    }

    /// The MAC of a message in parts.
    pub fn mac(&self, crypto: &impl Crypto, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let whole = crypto.hmac(&self.0, parts);
        let mut mac = [0; MAC_LEN];
        if let Some(cut) = whole.first_chunk() {
            mac = *cut;
        }
        mac
    }

    /// Overwrites it.
    pub fn wipe(&mut self) {
        self.0 = [0; KEY_LEN];
        core::hint::black_box(&self.0);
    }

    /// The bytes, for whoever computes with them.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Whether two MACs are the same, in a time that does not tell where they differ.
pub fn same_mac(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    core::hint::black_box(u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b)) == 0
}

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The machine that crashed.
    Client,
    /// The other.
    Server,
}

/// The keys of a session.
#[derive(Debug, Clone, Copy)]
pub struct TrafficKeys {
    c2s: Key,
    s2c: Key,
}

impl TrafficKeys {
    /// From the arm key and the two messages of the handshake, whole.
    pub fn derive(crypto: &impl Crypto, arm_key: &Key, start: &[u8], ack: &[u8]) -> Self {
        let transcript = crypto.sha256(&[start, ack]);
        TrafficKeys {
            c2s: arm_key.derive(crypto, b"nd6 c2s", &transcript),
            s2c: arm_key.derive(crypto, b"nd6 s2c", &transcript),
        }
    }
}

/// The last counters that were received, so that none is taken twice: a window behind the highest.
#[derive(Debug, Clone)]
pub struct Replay<const WORDS: usize> {
    /// The highest counter seen, plus 1.
    next: u64,
    /// Bit `n % (64 * WORDS)` of it: counter `n` was seen.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> Replay<WORDS> {
    const BITS: u64 = 64 * WORDS as u64;

    /// Nothing was seen.
    pub const fn new() -> Self {
        Replay { next: 0, seen: [0; WORDS] }
    }

    /// The highest counter seen, plus 1.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the counter is new, as far as the window can tell.
    pub fn is_new(&self, counter: Counter) -> bool {
        if counter.0 >= self.next {
            // The last number is not used: there would be none behind it.
            return counter.0 != u64::MAX;
        }
        let age = self.next.wrapping_sub(counter.0);
        age <= Self::BITS && self.word(counter.0) & bit(counter.0) == 0
    }

    fn word(&self, n: u64) -> u64 {
        self.seen.get(Self::place(n)).copied().unwrap_or(u64::MAX)
    }

    fn place(n: u64) -> usize {
        (n.checked_rem(Self::BITS).unwrap_or(0) >> 6) as usize
    }

    /// Notes a counter that is new and authentic.
    pub fn note(&mut self, counter: Counter) {
        if counter.0 >= self.next {
            // What lies between was not seen; whole words are forgotten with it.
            let skipped = counter.0.wrapping_sub(self.next);
            if skipped >= Self::BITS {
                self.seen = [0; WORDS];
            } else {
                (0..=skipped).for_each(|n| self.clear(self.next.wrapping_add(n)));
            }
            self.next = counter.0.saturating_add(1);
        }
        if let Some(word) = self.seen.get_mut(Self::place(counter.0)) {
            *word |= bit(counter.0);
        }
    }

    fn clear(&mut self, n: u64) {
        if let Some(word) = self.seen.get_mut(Self::place(n)) {
            *word &= !bit(n);
        }
    }
}

impl<const WORDS: usize> Default for Replay<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

fn bit(n: u64) -> u64 {
    1u64.wrapping_shl((n & 63) as u32)
}

/// Why a datagram of a session is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its header cannot be read.
    Malformed,
    /// It is for another session.
    OtherSession,
    /// Its counter was seen, or is too old to know.
    Replayed,
    /// Its tag is wrong, or missing.
    Forged,
}

/// One end of an established session: seals what goes out, opens what comes in.
#[derive(Debug, Clone)]
pub struct Channel<const WORDS: usize> {
    keys: Option<TrafficKeys>,
    role: Role,
    ours: SessionId,
    theirs: SessionId,
    counter: u64,
    replay: Replay<WORDS>,
}

impl<const WORDS: usize> Channel<WORDS> {
    /// Without keys nothing is sealed.
    pub const fn new(role: Role, keys: Option<TrafficKeys>, ours: SessionId, theirs: SessionId) -> Self {
        Channel { keys, role, ours, theirs, counter: 0, replay: Replay::new() }
    }

    /// Whether datagrams are sealed.
    pub fn is_sealed(&self) -> bool {
        self.keys.is_some()
    }

    /// Bytes that a datagram has beside its body.
    pub fn overhead(&self) -> usize {
        if self.is_sealed() {
            HEADER_LEN + TAG_LEN
        } else {
            HEADER_LEN
        }
    }

    /// The number of the next datagram that goes out.
    pub fn next_counter(&self) -> u64 {
        self.counter
    }

    /// The highest counter that came in, plus 1.
    pub fn received(&self) -> u64 {
        self.replay.next()
    }

    /// The name of our end.
    pub fn session(&self) -> SessionId {
        self.ours
    }

    /// The name of the other end.
    pub fn peer(&self) -> SessionId {
        self.theirs
    }

    /// Room for a body in a datagram of `max` bytes at the front of `buf`.
    pub fn body<'a>(&self, buf: &'a mut [u8], max: usize) -> Result<&'a mut [u8]> {
        let end = max.min(buf.len()).checked_sub(if self.is_sealed() { TAG_LEN } else { 0 }).ok_or(Error::NoRoom)?;
        buf.get_mut(HEADER_LEN..end).ok_or(Error::NoRoom)
    }

    /// Makes a datagram of the `body_len` bytes that were written to [`body`](Self::body); its whole length.
    pub fn seal(&mut self, crypto: &impl Crypto, kind: u8, buf: &mut [u8], body_len: usize) -> Result<usize> {
        let counter = self.counter;
        Header { kind, session: self.theirs, counter: Counter(counter) }.emit(buf)?;
        let (header, rest) = buf.split_at_mut_checked(HEADER_LEN).ok_or(Error::NoRoom)?;
        let mut len = HEADER_LEN.saturating_add(body_len);
        if let Some(keys) = &self.keys {
            let key = match self.role {
                Role::Client => &keys.c2s,
                Role::Server => &keys.s2c,
            };
            let sealed = rest.get_mut(..body_len.saturating_add(TAG_LEN)).ok_or(Error::NoRoom)?;
            if !crypto.seal(&key.0, counter, header, sealed) {
                return Err(Error::Invalid("cipher"));
            }
            len = len.saturating_add(TAG_LEN);
        }
        self.counter = counter.checked_add(1).ok_or(Error::Invalid("counter"))?;
        Ok(len)
    }

    /// Opens a datagram in place: its kind, its counter, and its body.
    pub fn open<'a>(
        &mut self,
        crypto: &impl Crypto,
        datagram: &'a mut [u8],
    ) -> core::result::Result<(u8, Counter, &'a [u8]), Refused> {
        let (header, _) = Header::parse(datagram).map_err(|_| Refused::Malformed)?;
        if header.session != self.ours {
            return Err(Refused::OtherSession);
        }
        if !self.replay.is_new(header.counter) {
            return Err(Refused::Replayed);
        }
        let (aad, rest) = datagram.split_at_mut_checked(HEADER_LEN).ok_or(Refused::Malformed)?;
        let body = match &self.keys {
            None => rest,
            Some(keys) => {
                let key = match self.role {
                    Role::Client => &keys.s2c,
                    Role::Server => &keys.c2s,
                };
                if rest.len() < TAG_LEN || !crypto.open(&key.0, header.counter.0, aad, rest) {
                    return Err(Refused::Forged);
                }
                rest.split_last_chunk_mut::<TAG_LEN>().ok_or(Refused::Forged)?.0
            }
        };
        self.replay.note(header.counter);
        Ok((header.kind, header.counter, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_taken_once() {
        let mut replay = Replay::<4>::new();
        for n in [0, 2, 1, 300, 299, 45, 555, 556, 1 << 40] {
            assert!(replay.is_new(Counter(n)), "{n}");
            replay.note(Counter(n));
            assert!(!replay.is_new(Counter(n)), "{n} again");
        }
        assert_eq!(replay.next(), (1 << 40) + 1);
        assert!(replay.is_new(Counter((1 << 40) - 255)), "within the window");
        assert!(!replay.is_new(Counter((1 << 40) - 256)), "too old to know");
        assert!(!replay.is_new(Counter(u64::MAX)), "the last one is never taken: there is none after it");
    }

    #[test]
    fn a_window_does_not_remember_the_round_before() {
        let mut replay = Replay::<1>::new();
        (0..64).for_each(|n| replay.note(Counter(n)));
        replay.note(Counter(100));
        for n in 64..100 {
            assert!(replay.is_new(Counter(n)), "{n} was skipped");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(std::format!("{:?}", Key::new([7; 32])), "Key(..)");
        assert!(same_mac(&[1; 16], &[1; 16]) && !same_mac(&[1; 16], &[0; 16]));
    }
}
