// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A client that speaks either dialect: it offers what it may, and goes on with what the server takes. Panic path.

use super::super::wire::v6::handshake::Ack6;
use super::super::wire::v6::secure::Crypto;
use super::v6::{Config6, Engine6, Source, State6};
use super::{Config, End, Engine, State, Time};

/// START_NETDUMP goes out half way between two START6, ns: a server that speaks both has answered by then.
const LATER: u64 = 500_000_000;

/// Which dialects a machine offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialects {
    /// Versions 4 and 5 alone.
    Classic,
    /// Version 6 alone: a machine that has a key sends nothing in clear.
    Six,
    /// Version 6 first.
    Either,
}

/// One dump in one of the dialects. As large as both engines: keep it in a static or on a heap.
#[derive(Debug)]
pub struct Client {
    classic: Engine,
    six: Engine6,
    speaks: Dialects,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client that has ended; [`begin`](Self::begin) makes it start. Usable for a static.
    pub const fn new() -> Self {
        Client { classic: Engine::new(), six: Engine6::new(), speaks: Dialects::Classic }
    }

    /// Starts a dump. A key in `six` overrules `dialects`.
    pub fn begin(&mut self, dialects: Dialects, classic: Config, six: Config6, now: Time, crypto: &impl Crypto) {
        self.speaks = if six.key.is_some() { Dialects::Six } else { dialects };
        if self.speaks != Dialects::Six {
            let later = if self.speaks == Dialects::Either { now.plus(LATER) } else { now };
            self.classic.begin(classic, later);
        }
        if self.speaks != Dialects::Classic {
            self.six.begin(six, now, crypto);
        }
    }

    /// The engine of the classic dialect.
    pub fn classic(&self) -> &Engine {
        &self.classic
    }

    /// The engine of version 6.
    pub fn six(&self) -> &Engine6 {
        &self.six
    }

    /// What it offers, or speaks.
    pub fn speaks(&self) -> Dialects {
        self.speaks
    }

    /// The handshake is done.
    pub fn is_serving(&self) -> bool {
        match self.speaks {
            Dialects::Classic => matches!(self.classic.state(), State::Serving(_)),
            Dialects::Six => self.six.state() == State6::Serving,
            Dialects::Either => false,
        }
    }

    /// Takes a UDP payload that comes from the server's address.
    pub fn handle(&mut self, now: Time, datagram: &[u8], crypto: &impl Crypto) {
        match self.speaks {
            Dialects::Classic => self.classic.handle(now, datagram),
            Dialects::Six => self.six.handle(now, datagram, crypto),
            Dialects::Either if Ack6::looks_like(datagram) => {
                self.six.handle(now, datagram, crypto);
                if self.six.state() == State6::Serving {
                    self.speaks = Dialects::Six;
                }
            }
            Dialects::Either => {
                self.classic.handle(now, datagram);
                if matches!(self.classic.state(), State::Serving(_)) {
                    self.speaks = Dialects::Classic;
                    self.six.abandon();
                }
            }
        }
    }

    /// Writes the next datagram, as [`Engine::transmit`] and [`Engine6::transmit`] do.
    pub fn transmit(
        &mut self,
        now: Time,
        source: &mut impl Source,
        crypto: &impl Crypto,
        buf: &mut [u8],
    ) -> Option<usize> {
        let six = match self.speaks {
            Dialects::Classic => None,
            Dialects::Six | Dialects::Either => self.six.transmit(now, source, crypto, buf),
        };
        match self.speaks {
            Dialects::Classic | Dialects::Either if six.is_none() => self.classic.transmit(now, source, buf),
            _ => six,
        }
    }

    /// Whether [`transmit`](Self::transmit) has something at once.
    pub fn has_more(&self) -> bool {
        match self.speaks {
            Dialects::Classic => self.classic.pending() > 0,
            Dialects::Six => self.six.has_more(),
            Dialects::Either => false,
        }
    }

    /// Whether the dump is over, by order or by time.
    pub fn poll(&mut self, now: Time) -> Option<End> {
        match self.speaks {
            Dialects::Classic => self.classic.poll(now),
            // A server that refuses the one may take the other; the limits are the same.
            Dialects::Six | Dialects::Either => self.six.poll(now),
        }
    }

    /// When something must be called next if no datagram comes in. `None`: never.
    pub fn next_deadline(&self) -> Option<Time> {
        let classic = if self.speaks == Dialects::Six { None } else { self.classic.next_deadline() };
        let six = if self.speaks == Dialects::Classic { None } else { self.six.next_deadline() };
        [classic, six].into_iter().flatten().min()
    }
}
