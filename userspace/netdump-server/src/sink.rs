// SPDX-License-Identifier: GPL-2.0-or-later
//! Where console text goes once it is in order.

use std::fmt;

/// What is known to be missing from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// So many bytes of text.
    Bytes(u64),
    /// So many whole messages, of unknown length.
    Messages(u64),
}

impl fmt::Display for Lost {
    /// The line that stands in a log in place of what is missing, without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, what) = match *self {
            Lost::Bytes(count) => (count, "byte"),
            Lost::Messages(count) => (count, "message"),
        };
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "[netdump: {count} {what}{plural} lost]")
    }
}

/// Takes what a stream puts in order.
pub trait Sink {
    /// Append these bytes.
    fn text(&mut self, text: &[u8]);
    /// Here something is missing.
    fn lost(&mut self, lost: Lost);
    /// What follows is from another boot (or another load of the client's module).
    fn restart(&mut self);
}

/// One call of a [`Sink`], for those who collect them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// [`Sink::text`]; text that comes in one go is one piece.
    Text(Vec<u8>),
    /// [`Sink::lost`].
    Lost(Lost),
    /// [`Sink::restart`].
    Restart,
}

impl Sink for Vec<Piece> {
    fn text(&mut self, text: &[u8]) {
        match self.last_mut() {
            Some(Piece::Text(last)) => last.extend_from_slice(text),
            _ => self.push(Piece::Text(text.to_vec())),
        }
    }

    fn lost(&mut self, lost: Lost) {
        self.push(Piece::Lost(lost));
    }

    fn restart(&mut self) {
        self.push(Piece::Restart);
    }
}

/// What became of a packet of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken, at once or after what it waits for.
    Taken,
    /// Seen before.
    Duplicate,
    /// Came after its place had been given up.
    Late,
    /// Contradicts what came before it.
    Conflict,
}
