// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! RESET_HINT: a server says that it does not know the session of a datagram.
//!
//! It has lost the keys with the session, so the hint is not sealed and proves nothing. It repeats what only they know who
//! saw the datagram, and is shorter than a sixteenth of it.

use super::message::kind;
use super::{Counter, Header, SessionId, HEADER_LEN};

/// Bytes of a hint: the header of the datagram, with another kind.
pub const HINT_LEN: usize = HEADER_LEN;
/// Shorter datagrams are not answered.
pub const MIN_HINTED: usize = 256;
/// Kinds of datagrams that clients send are at least this.
const FIRST_OF_CLIENTS: u8 = 0x40;

/// A hint as the client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetHint {
    /// What the client believes the server calls the session.
    pub session: SessionId,
    /// Of the datagram that was answered.
    pub counter: Counter,
}

impl ResetHint {
    /// Reads a datagram; `None` if it is something else.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, _) = Header::parse(datagram).ok()?;
        let Header { kind, session, counter } = header;
        (kind == kind::RESET_HINT).then_some(ResetHint { session, counter })
    }

    /// The answer to a client's datagram of a session that is not known; `None` if it gets none.
    pub fn answer(datagram: &[u8]) -> Option<[u8; HINT_LEN]> {
        let (header, _) = Header::parse(datagram).ok()?;
        if datagram.len() < MIN_HINTED || header.kind < FIRST_OF_CLIENTS {
            return None;
        }
        let mut hint = [0; HINT_LEN];
        Header { kind: kind::RESET_HINT, ..header }.emit(&mut hint).ok()?;
        Some(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_answers_long_datagrams_of_clients() {
        let mut datagram = [0; MIN_HINTED];
        let header = Header { kind: kind::PIECE, session: SessionId(*b"server"), counter: Counter(77) };
        header.emit(&mut datagram).unwrap();
        let hint = ResetHint::answer(&datagram).unwrap();
        assert_eq!(ResetHint::parse(&hint), Some(ResetHint { session: header.session, counter: Counter(77) }));
        assert_eq!(ResetHint::answer(&datagram[..MIN_HINTED - 1]), None);
        assert_eq!(ResetHint::parse(&datagram), None);
        for kind in [kind::RESET_HINT, kind::GRANT, 0] {
            datagram[1] = kind;
            assert_eq!(ResetHint::answer(&datagram), None, "two servers would answer each other");
        }
    }
}
