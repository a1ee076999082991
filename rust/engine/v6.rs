// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The dump client of version 6 (docs/protocol.md, "Version 6"), without I/O, as [`Engine`](super::Engine) is for classic.
//!
//! The server grants segments of memory and so many datagrams; the client walks through the segments, puts the pages that
//! are selected into clusters, and sends them in pieces. It keeps one cluster, no timers for data and no record of what
//! was sent: pieces that are lost are asked for, and the cluster is read and encoded again.
//!
//! Panic path: nothing here allocates, waits, or can panic.

mod listing;
mod walk;

use super::super::wire::classic::{ItemId, Machine};
use super::super::wire::v6::cluster::MAX_CLUSTER_LEN;
use super::super::wire::v6::handshake::{Ack6, KeyName, Start6, MAX_START_LEN, SUITE_CHACHA20_POLY1305, SUITE_CLEAR};
use super::super::wire::v6::hint::{ResetHint, MIN_HINTED};
use super::super::wire::v6::message::{
    self, kind, Ask, Grant, Part, Progress, Repair, Show, Turn, Wait, PART_HEADER_LEN,
};
use super::super::wire::v6::secure::{Channel, Crypto, Key, Refused, Role, TrafficKeys};
use super::super::wire::v6::{Codec, Level, Reason, SessionId, MIN_MAX_DATAGRAM};
use super::super::wire::{Error, Pfn, Result};
use super::{add, End, Target, Time};
use listing::Listing;
use walk::Walk;

/// How often START6 is sent, ns.
const START_INTERVAL: u64 = 1_000_000_000;
/// A server that says nothing for so long may have forgotten the session: a new handshake is offered beside it, ns.
const SILENCE: u64 = 2_000_000_000;
/// The same for one that has hinted at it, ns. After so long it is also asked, with a datagram that a hint would answer.
const HINTED_SILENCE: u64 = 500_000_000;
/// A server hints no more often, ns.
const HINT_INTERVAL: u64 = 1_000_000_000;
/// Lengths of datagrams that are tried beside the longest: what paths for packets of 1,500, 1,460, 1,400 and 1,280 bytes leave
/// over IPv4 and over IPv6.
const SIZES: [usize; 7] = [1472, 1452, 1432, 1412, 1372, 1352, 1252];
/// Each is tried so often in a session.
const SIZE_ROUNDS: u8 = 3;
/// No datagram of a server is longer.
pub const MAX_INBOUND: usize = 512;
/// ASKs that wait.
const MAX_ASKS: usize = 8;

/// What the machine that is being dumped can do beside [`Target`].
pub trait Source: Target {
    /// What is to become of page frame `pfn`, and of those behind it up to `end` that share its fate. Each page that is
    /// kept has its turn in the one or in the other; the same one whenever it is asked for.
    fn select(&mut self, level: Level, turn: Turn, pfn: Pfn, end: Pfn) -> Choice;

    /// A number that differs when the bytes do. Only this client compares it.
    fn hash(&mut self, bytes: &[u8]) -> u32;

    /// Encodes `from` into `to`: its length, or `None` if it does not fit or cannot be done.
    fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize>;
}

/// What [`Source::select`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The page belongs into the dump.
    Keep,
    /// It does not.
    Skip {
        /// Nor do those in front of this one.
        to: Pfn,
        /// Why.
        reason: Reason,
    },
    /// It belongs into the dump, but this is not its turn.
    Pass {
        /// Nor is it that of those in front of this one.
        to: Pfn,
    },
}

/// The facts and limits of one dump.
#[derive(Debug, Clone, Copy)]
pub struct Config6 {
    /// This machine.
    pub machine: Machine,
    /// The key that it was armed with; `None`: all goes in clear.
    pub key: Option<(KeyName, Key)>,
    /// 32 random bytes, drawn while the machine was well.
    pub seed: [u8; 32],
    /// What can be known only now: clocks, and what the CPU says is random.
    pub entropy: [u8; 24],
    /// The longest datagram that can be sent.
    pub max_datagram: u16,
    /// Bits of the codecs that can be used.
    pub codecs: u32,
    /// What this machine leaves out, whatever the server wishes.
    pub level: Level,
    /// Longest wait for a server, ns; 0 waits for ever.
    pub handshake_timeout: u64,
    /// Longest time between two authentic datagrams, ns; 0 is no limit.
    pub idle_timeout: u64,
    /// Longest time that a server may keep the machine waiting for its turn, ns; 0 is no limit.
    pub queue_timeout: u64,
    /// Longest dump, handshake included, ns; 0 is no limit. Nothing extends it.
    pub total_timeout: u64,
}

impl Config6 {
    const EMPTY: Self = Config6 {
        machine: Machine(0),
        key: None,
        seed: [0; 32],
        entropy: [0; 24],
        max_datagram: MIN_MAX_DATAGRAM,
        codecs: 0,
        level: Level::ALL,
        handshake_timeout: 0,
        idle_timeout: 0,
        queue_timeout: 0,
        total_timeout: 0,
    };
}

/// Where the dump stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State6 {
    /// START6 is sent until it is acknowledged.
    Handshake,
    /// The server has proved that it holds the key, or none is needed.
    Serving,
    /// Nothing is sent any more.
    Ended(End),
}

/// What was received and sent. They wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each says what is counted
pub struct Counters6 {
    pub received: u64,
    /// Neither of a session nor an ACK6, or with a body that makes no sense.
    pub malformed: u64,
    /// For another session.
    pub other_session: u64,
    /// Seen before, or too old to know.
    pub replayed: u64,
    /// With a wrong tag or MAC.
    pub forged: u64,
    /// Hints that the server has forgotten the session.
    pub hints: u64,
    pub starts: u64,
    pub handshakes: u64,
    pub grants: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub clusters: u64,
    pub pages: u64,
    pub zero_pages: u64,
    pub pieces: u64,
    pub repairs: u64,
    /// Repairs whose cluster had changed.
    pub rebuilt: u64,
    /// Datagrams lost because the caller's buffer was too small, or could not be sealed.
    pub no_room: u64,
}

/// A START6 that was sent and not yet answered.
#[derive(Debug)]
struct Offer {
    bytes: [u8; MAX_START_LEN],
    len: usize,
    session: SessionId,
    epoch: u32,
    /// It may still be answered.
    open: bool,
    /// When it is due again.
    due: Time,
    /// One goes out no sooner than this, whatever was offered before.
    earliest: Time,
}

/// One dump. About 220 KiB: keep it in a static or on a heap, not on a stack.
#[derive(Debug)]
pub struct Engine6 {
    config: Config6,
    state: State6,
    began: Time,
    /// When the last authentic datagram came, or the handshake was done.
    refreshed: Time,
    waiting_since: Option<Time>,
    /// When somebody hinted that the server has forgotten the session.
    hinted: Option<Time>,
    /// When to ask a silent server whether it has.
    nudge_due: Time,
    nudge: bool,
    offer: Offer,
    channel: Channel<4>,
    /// The longest datagram of this session, as agreed on.
    max_datagram: usize,
    /// The longest one of memory: what the path takes. 0 until memory is granted; then it stays, since pieces of different
    /// lengths do not fit together.
    piece_max: usize,
    /// How often lengths are still to be tried, and the next one.
    size_rounds: u8,
    size_next: Option<usize>,
    /// The serial number of the last grant.
    serial: Option<u32>,
    /// Memory has counters below it.
    credit: u64,
    answer: bool,
    asks: [Ask; MAX_ASKS],
    asked: usize,
    listing: Listing,
    bye: Option<message::End>,
    walk: Walk,
    inbox: [u8; MAX_INBOUND],
    counters: Counters6,
}

impl Default for Engine6 {
    fn default() -> Self {
        Self::new()
    }
}

const NO_ASK: Ask = Ask { item: 0, offset: 0, part: 1, count: 0 };

impl Engine6 {
    /// An engine that has ended; [`begin`](Self::begin) makes it start. Usable for a static.
    pub const fn new() -> Self {
        Engine6 {
            config: Config6::EMPTY,
            state: State6::Ended(End::Exit),
            began: Time(0),
            refreshed: Time(0),
            waiting_since: None,
            hinted: None,
            nudge_due: Time(0),
            nudge: false,
            offer: Offer {
                bytes: [0; MAX_START_LEN],
                len: 0,
                session: SessionId([0; 6]),
                epoch: 0,
                open: false,
                due: Time(0),
                earliest: Time(0),
            },
            channel: Channel::new(Role::Client, None, SessionId([0; 6]), SessionId([0; 6])),
            max_datagram: 0,
            piece_max: 0,
            size_rounds: 0,
            size_next: None,
            serial: None,
            credit: 0,
            answer: false,
            asks: [NO_ASK; MAX_ASKS],
            asked: 0,
            listing: Listing::new(),
            bye: None,
            walk: Walk::new(),
            inbox: [0; MAX_INBOUND],
            counters: ZERO,
        }
    }

    /// Starts a dump, at its handshake, with all counters at 0.
    pub fn begin(&mut self, config: Config6, now: Time, crypto: &impl Crypto) {
        self.config = config;
        self.state = State6::Handshake;
        self.began = now;
        self.refresh(now);
        self.hinted = None;
        self.offer.earliest = now;
        self.waiting_since = None;
        self.counters = ZERO;
        self.listing.begin();
        self.bye = None;
        self.reset_session();
        self.walk.begin(config.level);
        self.make_offer(0, now, crypto);
    }

    /// Forgets what belongs to a session, not to the dump.
    fn reset_session(&mut self) {
        self.serial = None;
        self.credit = 0;
        self.piece_max = 0;
        (self.size_rounds, self.size_next) = (SIZE_ROUNDS, None);
        self.answer = false;
        self.asked = 0;
        self.listing.forget();
        self.walk.forget();
    }

    /// Writes a START6 with fresh numbers.
    fn make_offer(&mut self, epoch: u32, now: Time, crypto: &impl Crypto) {
        let config = &self.config;
        let draw =
            |label: &[u8], epoch: u32| crypto.hmac(&config.seed, &[label, &epoch.to_be_bytes(), &config.entropy]);
        let session = SessionId(cut(&draw(b"session", epoch)));
        let (key, arm_key) = match &config.key {
            Some((name, key)) => (Some(*name), *key),
            None => (None, Key::NONE),
        };
        let start = Start6 {
            machine: config.machine,
            key,
            turns: true,
            // A machine with a key never asks to do without.
            suites: 1 << if key.is_some() { SUITE_CHACHA20_POLY1305 } else { SUITE_CLEAR },
            codecs: config.codecs | Codec::Raw.bit(),
            max_datagram: config.max_datagram,
            fire_id: cut(&draw(b"fire", 0)),
            epoch,
            random: draw(b"random", epoch),
            session,
            kx: &[],
        };
        let len = start.emit(crypto, &arm_key, &mut self.offer.bytes).unwrap_or(0);
        (self.offer.len, self.offer.session, self.offer.epoch) = (len, session, epoch);
        (self.offer.open, self.offer.due) = (true, now.max(self.offer.earliest));
    }

    /// The server was heard.
    fn refresh(&mut self, now: Time) {
        self.refreshed = now;
        self.nudge = false;
        self.nudge_due = now.plus(HINTED_SILENCE);
    }

    /// When the server's silence is reason enough for another handshake.
    fn offer_due(&self) -> Time {
        // What the server sent before it died may come after the hint, which it does not repeat at once.
        let hinted = self.hinted.is_some_and(|at| at.plus(HINT_INTERVAL) >= self.refreshed);
        self.refreshed.plus(if hinted { HINTED_SILENCE } else { SILENCE })
    }

    /// Where the dump stands. Timeouts show only after [`poll`](Self::poll).
    pub fn state(&self) -> State6 {
        self.state
    }

    /// What was received and sent so far.
    pub fn counters(&self) -> &Counters6 {
        &self.counters
    }

    /// Frames left out so far, by [`Reason`].
    pub fn left_out(&self) -> &[u64; Reason::COUNT] {
        self.walk.left_out()
    }

    /// Ends the dump from outside: another dialect was chosen.
    pub fn abandon(&mut self) {
        self.end(End::Exit);
    }

    /// Nothing is left of the keys.
    fn end(&mut self, end: End) {
        self.state = State6::Ended(end);
        self.offer.open = false;
        if let Some((_, key)) = &mut self.config.key {
            key.wipe();
        }
        self.config.key = None;
        self.channel = Channel::new(Role::Client, None, SessionId([0; 6]), SessionId([0; 6]));
    }

    /// Takes a UDP payload. The caller has checked that it comes from the server's address.
    ///
    /// Anything but an authentic datagram of this session is counted and otherwise ignored.
    pub fn handle(&mut self, now: Time, datagram: &[u8], crypto: &impl Crypto) {
        add(&mut self.counters.received, 1);
        if matches!(self.state, State6::Ended(_)) {
            return;
        }
        if Ack6::looks_like(datagram) {
            return self.on_ack(now, datagram, crypto);
        }
        if self.state != State6::Serving {
            return add(&mut self.counters.malformed, 1);
        }
        if let Some(hint) = ResetHint::parse(datagram) {
            return self.on_hint(now, hint);
        }
        let mut inbox = core::mem::replace(&mut self.inbox, [0; MAX_INBOUND]);
        let opened = match inbox.get_mut(..datagram.len()) {
            Some(copy) => {
                fill(copy, datagram);
                self.channel.open(crypto, copy).map(|(kind, _, body)| (kind, body))
            }
            None => Err(Refused::Malformed),
        };
        match opened {
            Ok((kind, body)) => {
                self.refresh(now);
                // What was offered meanwhile is not needed: the session lives.
                self.offer.open = false;
                if self.on_message(now, kind, body).is_err() {
                    add(&mut self.counters.malformed, 1);
                }
                self.try_sizes();
            }
            Err(Refused::Malformed) => add(&mut self.counters.malformed, 1),
            Err(Refused::OtherSession) => add(&mut self.counters.other_session, 1),
            Err(Refused::Replayed) => add(&mut self.counters.replayed, 1),
            Err(Refused::Forged) => add(&mut self.counters.forged, 1),
        }
        self.inbox = inbox;
    }

    /// Anybody on the path can send one, so that it only makes us less patient with a server that is silent.
    fn on_hint(&mut self, now: Time, hint: ResetHint) {
        if hint.session != self.channel.peer() || hint.counter.0 >= self.channel.next_counter() {
            return add(&mut self.counters.other_session, 1);
        }
        add(&mut self.counters.hints, 1);
        self.hinted = Some(now);
    }

    fn on_ack(&mut self, now: Time, datagram: &[u8], crypto: &impl Crypto) {
        if !self.offer.open {
            return; // a copy
        }
        let start = self.offer.bytes.get(..self.offer.len).unwrap_or(&[]);
        let Ok(ack) = Ack6::parse(datagram) else { return add(&mut self.counters.malformed, 1) };
        if ack.client != self.offer.session {
            return add(&mut self.counters.other_session, 1);
        }
        let keys = match &self.config.key {
            Some((_, key)) => {
                if ack.suite != SUITE_CHACHA20_POLY1305 || !Ack6::is_authentic(crypto, key, start, datagram) {
                    return add(&mut self.counters.forged, 1);
                }
                Some(TrafficKeys::derive(crypto, key, start, datagram))
            }
            None if ack.suite == SUITE_CLEAR => None,
            None => return add(&mut self.counters.malformed, 1),
        };
        add(&mut self.counters.handshakes, 1);
        self.offer.open = false;
        self.channel = Channel::new(Role::Client, keys, ack.client, ack.server);
        self.max_datagram = usize::from(ack.max_datagram.min(self.config.max_datagram));
        self.reset_session();
        self.try_sizes();
        // Says that the handshake is done: the server waits for something that only this machine can have sent.
        self.answer = true;
        self.state = State6::Serving;
        self.refresh(now);
        self.hinted = None;
    }

    /// Some lengths are to be tried again, until memory is granted.
    fn try_sizes(&mut self) {
        if self.size_next.is_none() && self.size_rounds > 0 && self.piece_max == 0 {
            self.size_rounds = self.size_rounds.saturating_sub(1);
            self.size_next = Some(self.max_datagram);
        }
    }

    fn on_message(&mut self, now: Time, kind: u8, body: &[u8]) -> Result<()> {
        if matches!(kind, kind::ASK | kind::SHOW | kind::END) {
            self.waiting_since = None;
        }
        match kind {
            kind::GRANT => {
                let grant = Grant::parse(body)?;
                // A grant is the whole state: one that was overtaken says nothing any more.
                let newer = self.serial.is_none_or(|last| (grant.serial.wrapping_sub(last) as i32) > 0);
                if newer {
                    self.serial = Some(grant.serial);
                    self.credit = self.credit.max(grant.credit);
                    self.answer |= grant.answer;
                    if self.piece_max == 0 && grant.segments().next().is_some() {
                        let known = grant.largest.map_or(self.max_datagram, usize::from);
                        self.piece_max = known.min(self.max_datagram).max(MIN_MAX_DATAGRAM.into());
                        self.size_next = None;
                    }
                    self.walk.grant(&grant, self.config.codecs);
                    add(&mut self.counters.grants, 1);
                }
            }
            kind::REPAIR => {
                for repair in Repair::parse(body)? {
                    self.walk.repair(repair);
                }
            }
            kind::ASK => {
                let ask = Ask::parse(body)?;
                let known = self.asks.iter().take(self.asked).any(|queued| *queued == ask);
                if let (false, Some(place)) = (known, self.asks.get_mut(self.asked)) {
                    *place = ask;
                    self.asked = self.asked.saturating_add(1);
                }
            }
            kind::WAIT => {
                Wait::parse(body)?;
                self.waiting_since.get_or_insert(now);
            }
            kind::SHOW => self.listing.show(Show::parse(body)?),
            kind::END => self.bye = Some(message::End::parse(body)?),
            // Of a later version.
            _ => return Err(Error::Invalid("kind")),
        }
        Ok(())
    }

    /// Whether [`transmit`](Self::transmit) has something at once.
    pub fn has_more(&self) -> bool {
        self.state == State6::Serving
            && (self.answer
                || self.nudge
                || self.size_next.is_some()
                || self.asked > 0
                || self.listing.has_more()
                || self.bye.is_some()
                || (self.channel.next_counter() < self.credit && self.walk.has_more()))
    }

    /// Writes the next datagram to the front of `buf`, which must hold `Config6::max_datagram` bytes, and returns its
    /// length; `None` when there is nothing to send now, or when more has to be looked at first
    /// ([`has_more`](Self::has_more)).
    ///
    /// Call it only when the datagram can be sent: it is not kept, and only the server can ask for it again.
    pub fn transmit(
        &mut self,
        now: Time,
        source: &mut impl Source,
        crypto: &impl Crypto,
        buf: &mut [u8],
    ) -> Option<usize> {
        let sent = match self.state {
            State6::Ended(_) => None,
            State6::Handshake => self.transmit_start(now, buf),
            State6::Serving => {
                if !self.offer.open && now >= self.offer_due() {
                    self.make_offer(self.offer.epoch.wrapping_add(1), now, crypto);
                }
                if !self.offer.open && now >= self.nudge_due {
                    self.nudge = true;
                    self.nudge_due = now.plus(HINTED_SILENCE);
                }
                let start = if self.offer.open { self.transmit_start(now, buf) } else { None };
                match start {
                    Some(len) => Some(len),
                    None => self.transmit_answer(source, crypto, buf),
                }
            }
        }?;
        add(&mut self.counters.sent, 1);
        add(&mut self.counters.sent_bytes, sent as u64);
        Some(sent)
    }

    fn transmit_start(&mut self, now: Time, buf: &mut [u8]) -> Option<usize> {
        let start = self.offer.bytes.get(..self.offer.len).filter(|start| !start.is_empty())?;
        if now < self.offer.due {
            return None;
        }
        let place = buf.get_mut(..start.len())?;
        fill(place, start);
        self.offer.due = now.plus(START_INTERVAL);
        self.offer.earliest = self.offer.due;
        add(&mut self.counters.starts, 1);
        Some(self.offer.len)
    }

    fn transmit_answer(&mut self, source: &mut impl Source, crypto: &impl Crypto, buf: &mut [u8]) -> Option<usize> {
        let (kind, written) = {
            let body = self.channel.body(buf, self.max_datagram);
            let body = body.map_err(|_| add(&mut self.counters.no_room, 1)).ok()?;
            self.next_body(source, body)?
        };
        let sealed = written.and_then(|len| self.channel.seal(crypto, kind, buf, len));
        if kind == kind::BYE {
            let end = if self.bye == Some(message::End::Reboot) { End::Reboot } else { End::Exit };
            self.end(end);
        }
        sealed.map_err(|_| add(&mut self.counters.no_room, 1)).ok()
    }

    /// The kind of the next datagram, and what came of writing its body.
    fn next_body(&mut self, source: &mut impl Source, body: &mut [u8]) -> Option<(u8, Result<usize>)> {
        if self.answer || self.nudge {
            let len = if self.nudge { MIN_HINTED.saturating_sub(self.channel.overhead()) } else { 0 };
            (self.answer, self.nudge) = (false, false);
            return Some((kind::PROGRESS, self.write_progress(len, body)));
        }
        if let Some(size) = self.size_next {
            self.size_next = SIZES.into_iter().find(|next| *next < size);
            let len = size.saturating_sub(self.channel.overhead());
            return Some((kind::PROGRESS, self.write_progress(len, body)));
        }
        if self.asked > 0 {
            return Some((kind::PART, self.write_part(source, body)));
        }
        if self.listing.has_more() {
            return Some((kind::LINE, self.listing.write(source, body)));
        }
        if let Some(end) = self.bye {
            return Some((kind::BYE, end.emit(body)));
        }
        if self.channel.next_counter() >= self.credit {
            return None;
        }
        let room = self.piece_max.saturating_sub(self.channel.overhead());
        let piece = self.walk.next_piece(source, body.get_mut(..room)?, &mut self.counters)?;
        Some((kind::PIECE, piece))
    }

    /// PROGRESS, in at least so many bytes.
    fn write_progress(&mut self, len: usize, body: &mut [u8]) -> Result<usize> {
        let serial = self.serial.unwrap_or(0);
        let written = Progress::emit(serial, self.walk.places(), self.walk.left_out(), body)?;
        if let Some(padding) = body.get_mut(written..len) {
            padding.fill(0);
        }
        Ok(written.max(len.min(body.len())))
    }

    fn write_part(&mut self, source: &mut impl Source, body: &mut [u8]) -> Result<usize> {
        let ask = self.asks.first_mut().ok_or(Error::NoRoom)?;
        let (head, data) = body.split_at_mut_checked(PART_HEADER_LEN).ok_or(Error::NoRoom)?;
        let room = usize::from(ask.part).min(data.len());
        let offset = ask.offset;
        let out = source.item(ItemId::from_wire(ask.item), offset, data.get_mut(..room).unwrap_or(&mut []));
        let written = out.written.min(room);
        Part { item: ask.item, offset, total: out.total, data: &[] }.emit_header(head)?;
        ask.count = ask.count.saturating_sub(1);
        ask.offset = offset.saturating_add(written as u32);
        if ask.count == 0 || ask.offset >= out.total || written == 0 {
            self.asks.rotate_left(1);
            self.asked = self.asked.saturating_sub(1);
        }
        Ok(PART_HEADER_LEN.saturating_add(written))
    }

    /// Whether the dump is over, by order or by time.
    pub fn poll(&mut self, now: Time) -> Option<End> {
        let passed = |deadline: Option<Time>| deadline.is_some_and(|deadline| now >= deadline);
        let end = match self.state {
            State6::Ended(end) => return Some(end),
            _ if passed(self.total_deadline()) => End::TotalTimeout,
            _ if passed(self.queue_deadline()) => End::QueueTimeout,
            State6::Handshake if passed(self.handshake_deadline()) => End::HandshakeTimeout,
            State6::Serving if passed(self.idle_deadline()) => End::IdleTimeout,
            _ => return None,
        };
        self.end(end);
        Some(end)
    }

    fn handshake_deadline(&self) -> Option<Time> {
        self.began.deadline(self.config.handshake_timeout)
    }

    fn idle_deadline(&self) -> Option<Time> {
        self.refreshed.deadline(self.config.idle_timeout)
    }

    fn queue_deadline(&self) -> Option<Time> {
        self.waiting_since?.deadline(self.config.queue_timeout)
    }

    fn total_deadline(&self) -> Option<Time> {
        self.began.deadline(self.config.total_timeout)
    }

    /// When [`transmit`](Self::transmit) or [`poll`](Self::poll) must be called next if no datagram comes in, and if
    /// `transmit` was called until it returned `None` and [`has_more`](Self::has_more) is false. `None`: never.
    pub fn next_deadline(&self) -> Option<Time> {
        let (start, limit) = match self.state {
            State6::Ended(_) => return None,
            State6::Handshake => (Some(self.offer.due), self.handshake_deadline()),
            State6::Serving if self.offer.open => (Some(self.offer.due), self.idle_deadline()),
            State6::Serving => (Some(self.offer_due().min(self.nudge_due)), self.idle_deadline()),
        };
        [start, limit, self.queue_deadline(), self.total_deadline()].into_iter().flatten().min()
    }
}

const ZERO: Counters6 = Counters6 {
    received: 0,
    malformed: 0,
    other_session: 0,
    replayed: 0,
    forged: 0,
    hints: 0,
    starts: 0,
    handshakes: 0,
    grants: 0,
    sent: 0,
    sent_bytes: 0,
    clusters: 0,
    pages: 0,
    zero_pages: 0,
    pieces: 0,
    repairs: 0,
    rebuilt: 0,
    no_room: 0,
};

/// Copies what is as long as its place.
fn fill(to: &mut [u8], from: &[u8]) {
    // The test leaves the compiler no way to a panic.
    if to.len() == from.len() {
        to.copy_from_slice(from);
    }
}

/// The first bytes of a hash.
fn cut<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    hash.first_chunk::<N>().copied().unwrap_or([0; N])
}

/// Room for an encoded cluster.
type Room = [u8; MAX_CLUSTER_LEN];
