// SPDX-License-Identifier: GPL-2.0-or-later
//! What a datagram is, whom it concerns, and whether it may.
//!
//! Cheap checks come first, and nothing is allocated for a sender that has proved nothing beyond one entry in a
//! table of [`MAX_PROBES`], whose oldest entry makes way.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Code, Reply, ReplyView, Start, REPLY_HEADER_LEN};
use netdump_core::wire::v6::handshake::{KeyName, Start6};
use netdump_core::wire::v6::probe::{Probe, ProbeAck, ProbeKey, PROBE_ACK_LEN};
use netdump_core::wire::v6::secure::Key as SealingKey;
use netdump_core::wire::v6::{Header, VERSION};
use netdump_core::wire::Cookie;
use netdump_keys::KeyId;
use netdump_session::v6::{is_authentic, Params6, Session6};
use netdump_session::{Dialogue, Params, Phase, Ring, Session};

use crate::admission::DumpId;
use crate::clients::{self, Owner, Refused};
use crate::dump::Dump;
use crate::events::Reason;
use crate::hooks::Hook;
use crate::logs::{Context, Text};
use crate::server::Server;
use crate::socket::{split, Path};

/// Clients that have sent START_NETDUMP and not yet answered a HELLO.
pub const MAX_PROBES: usize = 1024;
/// Of them, those of one address; the oldest makes way too. Enough that forged ones do not push out a client in the time
/// that its answer takes, and few enough to be looked at for each log packet.
const MAX_PROBES_PER_ADDRESS: usize = 64;
/// Unknown clients that are looked at in a second; the others send their START_NETDUMP again.
pub const STARTS_PER_SECOND: u32 = 2000;
/// Probes that are looked at in a second; who hears nothing asks again.
pub const PROBES_PER_SECOND: u32 = 1000;
/// Addresses for which it is remembered whether they may log.
const MAX_MAY_LOG: usize = 16_384;
/// Addresses that are looked up for that in a second: each costs two system calls.
const LOOKUPS_PER_SECOND: u32 = 1000;
/// How long it is remembered.
const MAY_LOG_FOR: Duration = Duration::from_secs(30);
/// A START6 counts as that of a client that crashed anew when its session was silent for so long.
const RESTART_SILENCE: Duration = Duration::from_secs(5);
/// Dumps of version 6 that are over and remembered: a copy of their START6 begins nothing.
const MAX_BURNT: usize = 4096;

/// Names a panic of a client: its key, if it has one, and what it drew.
pub type Fire = (Option<KeyName>, [u8; 16]);

/// The cookie of clients that are not known, as in the original.
pub const OPEN_COOKIE: Cookie = Cookie::new(0x1111_1111_1111_1111);

impl Server {
    /// Takes what lies in one slot: datagrams of `segment` bytes.
    pub(crate) fn datagrams(&mut self, path: Path, slot: &mut [u8], segment: usize) {
        let mut datagrams = split(slot, segment);
        // Memory in version 6 comes in long rows: one look at the tables does for a row. From the first datagram on that is
        // anything else each goes its own way.
        if let Some(dump) = self.dumps.get_mut(&path.peer) {
            let mut other = None;
            for datagram in datagrams.by_ref() {
                self.events.received += 1;
                if datagram.first() != Some(&VERSION) || Header::is_start(datagram) {
                    other = Some(datagram);
                    break;
                }
                self.events.received_bytes += datagram.len() as u64;
                dump.session.handle_in_place(self.now, datagram);
            }
            self.touch(path);
            if let Some(datagram) = other {
                self.datagram(path, datagram);
            }
        }
        for datagram in datagrams {
            self.events.received += 1;
            self.datagram(path, datagram);
        }
    }

    /// Takes one datagram. What follows from it is worked out after its batch.
    pub(crate) fn datagram(&mut self, path: Path, datagram: &mut [u8]) {
        self.events.received_bytes += datagram.len() as u64;
        if path.peer.port() == 0 {
            return self.refuse(Reason::PortZero, path, "from port 0, which cannot be answered");
        }
        match datagram.first() {
            Some(4 | 5) => {}
            Some(&VERSION) => return self.version_6(path, datagram),
            // printk knows no NUL, so what has one is no console text.
            Some(_) if !datagram.contains(&0) => return self.log_text(path, Text::Netconsole(datagram), datagram),
            _ => return self.events.add(Reason::NotNetdump, 1),
        }
        if datagram.len() < REPLY_HEADER_LEN {
            return self.refuse(Reason::TooShort, path, "shorter than a netdump header");
        }
        let view = match ReplyView::new_checked(datagram) {
            Ok(view) => view,
            Err(error) => return self.refuse(Reason::Malformed, path, error),
        };
        match view.code() {
            Code::Log => {
                let text = Text::Netlog { offset: view.info(), text: view.payload() };
                self.log_text(path, text, datagram);
            }
            Code::Start => self.start_netdump(path, &view, datagram),
            _ => self.reply(path, datagram),
        }
    }

    /// An answer, which only a session can make sense of.
    fn reply(&mut self, path: Path, datagram: &[u8]) {
        if let Some(dump) = self.dumps.get_mut(&path.peer) {
            dump.session.handle(self.now, datagram);
            return self.touch(path);
        }
        let Some(others) = self.by_ip.get(&path.peer.ip()) else {
            return self.refuse(Reason::Stranger, path, "a reply that nobody asked for");
        };
        for addr in others {
            if let Some(dump) = self.dumps.get_mut(addr) {
                dump.wrong_port += 1;
            }
        }
        self.refuse(Reason::WrongPort, path, "a reply from another port than the client's");
    }

    /// A datagram of version 6: the session decides whether it is genuine.
    fn version_6(&mut self, path: Path, datagram: &mut [u8]) {
        let is_start = Header::is_start(datagram);
        let Some(dump) = self.dumps.get_mut(&path.peer) else {
            if is_start {
                return self.start_6(path, datagram);
            }
            if Probe::looks_like(datagram) {
                return self.probe(path, datagram);
            }
            self.hint(path, datagram);
            return self.refuse(Reason::Stranger, path, "a datagram of a session that is not known");
        };
        // A client that has crashed anew, or that has lost its session, says so while its old session is silent.
        let silent = dump.session.silent_for(self.now) >= RESTART_SILENCE;
        if !is_start {
            dump.session.handle_in_place(self.now, datagram);
            return self.touch(path);
        }
        dump.session.handle(self.now, datagram);
        if silent {
            let begun = self.start_key(path, datagram).map(|(start, _)| start.key.map(|name| name.key_id));
            if let (Some(key), Some(dump)) = (begun, self.dumps.get_mut(&path.peer)) {
                // Others with a key of their own, who can forge this address, end nobody's dump but theirs.
                if dump.burns.map(|(name, _)| name.map(|name| name.key_id)) != Some(key) {
                    return self.touch(path);
                }
                tracing::info!(client = %path.peer, "a new handshake of a client that has been silent: its dump ends");
                dump.session.cancel(self.now);
            }
        }
        self.touch(path);
    }

    /// A client may have a session that was lost when the server was restarted: the sooner it knows, the sooner it begins
    /// another. Anybody may say anything here, so that it is a short answer to a long datagram, and a rare one.
    fn hint(&mut self, path: Path, datagram: &[u8]) {
        if self.stopping {
            return;
        }
        if let Some(hint) = self.hints.answer(self.now, path.peer.ip(), datagram) {
            self.events.add(Reason::Hinted, 1);
            self.events.sent += self.sender.send(path, &hint, hint.len()).sent as u64;
        }
    }

    /// A machine that is well asks whether it is heard. It is told so if its START6 would be taken; nothing is remembered.
    fn probe(&mut self, path: Path, datagram: &[u8]) {
        if self.stopping {
            return;
        }
        if !self.probes.take(self.now, PROBES_PER_SECOND) {
            return self.refuse(Reason::StartFlood, path, "too many probes");
        }
        let probe = match Probe::parse(datagram) {
            Ok(probe) => probe,
            Err(error) => return self.refuse(Reason::Malformed, path, error),
        };
        let Some(armed) = self.owner_of(path, probe.key, &[], "probe") else { return };
        let key = armed.map(|(key, _)| ProbeKey::derive(&Ring, &key));
        if key.as_ref().is_some_and(|key| !Probe::is_authentic(&Ring, key, datagram)) {
            return self.refuse(Reason::Forged, path, "a probe whose MAC is not that of its key");
        }
        let mut ack = [0; PROBE_ACK_LEN];
        if let Ok(len) = ProbeAck::emit(&probe, datagram, &Ring, key.as_ref(), &mut ack) {
            self.events.add(Reason::Probed, 1);
            self.events.sent += self.sender.send(path, &ack, len).sent as u64;
        }
    }

    fn start_6(&mut self, path: Path, datagram: &[u8]) {
        if !self.starts.take(self.now, STARTS_PER_SECOND) {
            return self.refuse(Reason::StartFlood, path, "too many START6 of unknown clients");
        }
        let Some((start, key)) = self.start_key(path, datagram) else { return };
        let mut seed = [0; 32];
        if let Err(error) = getrandom::fill(&mut seed) {
            return self.refuse(Reason::StorageFailed, path, format_args!("no randomness: {error}"));
        }
        let burnt = (start.key, start.fire_id);
        if self.burnt.contains(&burnt) {
            return self.refuse(Reason::Burnt, path, "START6 of a dump that is over");
        }
        if !self.make_room_for_probe(path) {
            return;
        }
        let params = Params6 {
            level: self.settings.level,
            codec: self.settings.codec,
            max_datagram: self.settings.max_datagram,
            cluster_pages: self.settings.cluster_pages,
            max_window: self.window_6(),
            silence: self.settings.client_timeout,
            ..Params6::default()
        };
        let (key, owner) = key.map_or((None, Owner::Anybody), |(key, owner)| (Some(key), owner));
        let Some(session) = Session6::new(params, datagram, key.as_ref(), seed, self.now) else {
            return self.refuse(Reason::Malformed, path, "START6 without a suite that is spoken here");
        };
        self.insert(path, Dialogue::Six(Box::new(session)), owner, Some(burnt));
    }

    /// Datagrams of version 6 that may be on their way to us for one of the dumps that run now: so many that the receive buffer
    /// holds those of all of them, whatever else comes. A datagram takes up to about twice its length there, by the kernel's
    /// count, of which it gives twice what it was asked for.
    pub(crate) fn window_6(&self) -> u32 {
        let room = usize::from(self.settings.max_datagram) + 888;
        let share = self.rcvbuf / 5 * 3 / self.admission.running().max(1);
        u32::try_from(share / room).unwrap_or(u32::MAX).max(64)
    }

    /// Reads a START6 and looks for its key; `None` where it is refused. Without a key only those are dumped that nobody
    /// knows, and only with secure=0.
    #[allow(clippy::type_complexity)] // the two things that are said of a key
    fn start_key<'a>(&mut self, path: Path, datagram: &'a [u8]) -> Option<(Start6<'a>, Option<(SealingKey, Owner)>)> {
        let start = match Start6::parse(datagram) {
            Ok(start) => start,
            Err(error) => {
                self.refuse(Reason::Malformed, path, error);
                return None;
            }
        };
        let armed = self.owner_of(path, start.key, start.kx, "START6")?;
        if armed.as_ref().is_some_and(|(key, _)| !is_authentic(datagram, key)) {
            self.refuse(Reason::Forged, path, "START6 whose MAC is not that of its key");
            return None;
        }
        Some((start, armed))
    }

    /// The key of that name and whose it is, or nothing where there is no key and none is needed; `None` where that is refused.
    /// Whether the message, called `what`, was made with the key the caller has yet to find out.
    #[allow(clippy::type_complexity)] // as above
    fn owner_of(
        &mut self,
        path: Path,
        key: Option<KeyName>,
        kx: &[u8],
        what: &str,
    ) -> Option<Option<(SealingKey, Owner)>> {
        let client = path.peer.ip();
        let Some(name) = key else {
            let refused = match clients::without_key(self.keys.as_ref(), &self.root, client, self.settings.secure) {
                Ok((_, Owner::Anybody)) => None,
                // It would go around the cookie.
                Ok(_) => Some((Reason::Downgrade, "a cookie is laid down for its address".to_owned())),
                Err(Refused { reason, detail }) => Some((reason, detail)),
            };
            if let Some((reason, detail)) = refused {
                self.refuse(reason, path, format_args!("{what} without a key is not answered: {detail}"));
                return None;
            }
            return Some(None);
        };
        let everywhere = self.lookups.take(self.now, LOOKUPS_PER_SECOND / 100);
        let key_id = KeyId(name.key_id);
        let found = self.keys.as_ref().map(|keys| keys.armed(client, &key_id, &name.arm_id, kx, everywhere));
        match found {
            Some(Ok(Some(armed))) => {
                let key = SealingKey::new(*armed.arm_key);
                let owner = Owner::Enrolled { id: armed.id.to_string(), previous: armed.previous };
                Some(Some((key, owner)))
            }
            Some(Err(error)) => {
                self.refuse(Reason::BadKey, path, error);
                None
            }
            Some(Ok(None)) | None => {
                self.refuse(
                    Reason::UnknownKey,
                    path,
                    format_args!("{what} with a key that no client is enrolled with"),
                );
                None
            }
        }
    }

    /// Adds a session to the tables.
    fn insert(&mut self, path: Path, session: Dialogue, owner: Owner, burns: Option<Fire>) {
        self.next_id += 1;
        let mut dump = Dump::new(DumpId(self.next_id), session, path, owner, self.now, self.drops);
        dump.burns = burns;
        self.dumps.insert(path.peer, Box::new(dump));
        self.by_ip.entry(path.peer.ip()).or_default().push(path.peer);
        self.touch(path);
    }

    fn log_text(&mut self, path: Path, text: Text<'_>, datagram: &[u8]) {
        let client = path.peer.ip();
        let mut dumping = false;
        let mut registered = false;
        for addr in self.by_ip.get(&client).into_iter().flatten() {
            let Some(dump) = self.dumps.get_mut(addr) else { continue };
            if dump.session.phase() != Phase::Probe {
                dumping = true;
                registered |= dump.registered;
                // So that it knows that the task listing goes on, from whatever port that comes.
                if matches!(text, Text::Netlog { .. }) {
                    dump.session.handle(self.now, datagram);
                }
                if !self.touched.contains(addr) {
                    self.touched.push(*addr);
                }
            }
        }
        if !dumping {
            if !self.logs.would_take(client, self.now, &self.settings) {
                return self.refuse(Reason::LogDirLimit, path, "no new directory this minute");
            }
            registered = match self.may_log(client) {
                Some(may_log) => may_log,
                // Who may log anyway is not refused for that.
                None if !self.settings.secure => false,
                None => return self.refuse(Reason::LogFlood, path, "log text of too many unknown addresses"),
            };
            if !registered && self.settings.secure {
                return self.refuse(Reason::LogRefused, path, "log text from an address that nobody is known at");
            }
        }
        let mut cx =
            Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
        let followup = self.logs.packet(&mut cx, path.peer, registered, text);
        if followup.booted && !dumping {
            self.run_hook(Hook::Start, client, None);
        }
    }

    fn start_netdump(&mut self, path: Path, view: &ReplyView<'_>, datagram: &[u8]) {
        if let Some(dump) = self.dumps.get_mut(&path.peer) {
            // It decides whether this is the same crash again.
            dump.session.handle(self.now, datagram);
            return self.touch(path);
        }
        let start = match Reply::from_view(view) {
            Ok(Reply { body: Body::Start(start), .. }) => start,
            Ok(_) => return self.refuse(Reason::Malformed, path, "not a START_NETDUMP"),
            Err(error) => return self.refuse(Reason::Malformed, path, error),
        };
        if !self.starts.take(self.now, STARTS_PER_SECOND) {
            return self.refuse(Reason::StartFlood, path, "too many START_NETDUMP of unknown clients");
        }
        self.begin_session(path, start);
    }

    /// Begins a session, which sends its ACK and a HELLO; nothing more is done until that is answered.
    pub(crate) fn begin_session(&mut self, path: Path, start: Start) {
        let client = path.peer.ip();
        let (cookie, owner) = match clients::without_key(self.keys.as_ref(), &self.root, client, self.settings.secure) {
            Ok(known) => known,
            Err(Refused { reason, detail }) => {
                return self.refuse(reason, path, format_args!("START_NETDUMP is not answered: {detail}"));
            }
        };
        let mut seed = [0; 32];
        if let Err(error) = getrandom::fill(&mut seed) {
            return self.refuse(Reason::StorageFailed, path, format_args!("no randomness: {error}"));
        }
        if !self.make_room_for_probe(path) {
            return;
        }
        let params = Params {
            max_window: u16::try_from(self.settings.max_outstanding_pages).unwrap_or(u16::MAX),
            silence: self.settings.client_timeout,
            ..Params::new(cookie)
        };
        let session = Session::new(params, start, seed, self.now);
        tracing::debug!(client = %path.peer, ?start, "START_NETDUMP");
        self.insert(path, Dialogue::Classic(Box::new(session)), owner, None);
    }

    /// Keeps the table of unproven clients at its size, and each address's part of it.
    fn make_room_for_probe(&mut self, path: Path) -> bool {
        let addrs = self.by_ip.get(&path.peer.ip()).into_iter().flatten();
        let probes: Vec<_> =
            addrs.filter_map(|a| Some((self.dumps.get(a).filter(|d| d.is_probe())?.began, *a))).collect();
        if probes.len() >= MAX_PROBES_PER_ADDRESS {
            // The newest is the one that is most likely to be there: a client answers in no time.
            if let Some((_, oldest)) = probes.into_iter().min_by_key(|(began, _)| *began) {
                let detail = "too many clients of this address that answer no HELLO; the oldest is dropped";
                self.refuse(Reason::ProbeEvicted, path, detail);
                self.drop_session(oldest);
            }
        }
        // What is proven is bounded by the slots, the queue and MAX_LOG_ONLY.
        if self.dumps.len() < MAX_PROBES + self.admission.running() + self.admission.waiting() {
            return true;
        }
        let probes = self.dumps.iter().filter(|(_, dump)| dump.is_probe());
        let oldest = probes.min_by_key(|(_, dump)| dump.began).map(|(addr, _)| *addr);
        match oldest {
            Some(oldest) => {
                self.refuse(Reason::ProbeEvicted, path, "too many clients that answer no HELLO; the oldest is dropped");
                self.drop_session(oldest);
                true
            }
            None => {
                self.refuse(Reason::TooManyClients, path, "no room for another client");
                false
            }
        }
    }

    /// Whether the address may log by itself; `None` if it cannot be looked up now.
    fn may_log(&mut self, client: IpAddr) -> Option<bool> {
        if let Some((answer, since)) = self.may_log.get(&client) {
            if self.now.saturating_duration_since(*since) < MAY_LOG_FOR {
                return Some(*answer);
            }
        }
        if !self.lookups.take(self.now, LOOKUPS_PER_SECOND) {
            return None;
        }
        let answer = self.settings.log_allow.holds(client) || clients::is_known(self.keys.as_ref(), &self.root, client);
        if self.may_log.len() >= MAX_MAY_LOG {
            self.may_log.clear();
        }
        self.may_log.insert(client, (answer, self.now));
        Some(answer)
    }

    /// A dump of version 6 is over.
    pub(crate) fn burn(&mut self, fire: Fire) {
        if self.burnt.len() >= MAX_BURNT {
            self.burnt.clear();
        }
        self.burnt.insert(fire);
    }

    fn touch(&mut self, path: Path) {
        if self.touched.last() != Some(&path.peer) && !self.touched.contains(&path.peer) {
            self.touched.push(path.peer);
        }
    }

    pub(crate) fn refuse(&mut self, reason: Reason, path: Path, detail: impl std::fmt::Display) {
        self.events.note(self.now, reason, path.peer, detail);
    }

    pub(crate) fn wake_at(&mut self, at: Instant) {
        self.next_timeout = Some(self.next_timeout.map_or(at, |next| next.min(at)));
    }
}
