// SPDX-License-Identifier: GPL-2.0-or-later
//! What a datagram is, whom it concerns, and whether it may.
//!
//! Cheap checks come first, and nothing is allocated for a sender that has proved nothing beyond one entry in a
//! table of [`MAX_PROBES`], whose oldest entry makes way.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Code, Reply, ReplyView, Start, REPLY_HEADER_LEN};
use netdump_core::wire::Cookie;
use netdump_session::{Params, Phase, Session};

use crate::admission::DumpId;
use crate::clients::{self, Owner, Useless};
use crate::dump::Dump;
use crate::events::Reason;
use crate::hooks::Hook;
use crate::logs::{Context, Text};
use crate::server::Server;
use crate::socket::Path;

/// Clients that have sent START_NETDUMP and not yet answered a HELLO.
pub const MAX_PROBES: usize = 1024;
/// Of them, those of one address; the oldest makes way too. Enough that forged ones do not push out a client in the time
/// that its answer takes, and few enough to be looked at for each log packet.
const MAX_PROBES_PER_ADDRESS: usize = 64;
/// Unknown clients that are looked at in a second; the others send their START_NETDUMP again.
pub const STARTS_PER_SECOND: u32 = 2000;
/// Addresses for which it is remembered whether they may log.
const MAX_MAY_LOG: usize = 16_384;
/// Addresses that are looked up for that in a second: each costs two system calls.
const LOOKUPS_PER_SECOND: u32 = 1000;
/// How long it is remembered.
const MAY_LOG_FOR: Duration = Duration::from_secs(30);
/// The cookie of clients that are not known, as in the original.
pub const OPEN_COOKIE: Cookie = Cookie::new(0x1111_1111_1111_1111);

impl Server {
    /// Takes one datagram. What follows from it is worked out after its batch.
    pub(crate) fn datagram(&mut self, path: Path, datagram: &[u8]) {
        self.events.received_bytes += datagram.len() as u64;
        if path.peer.port() == 0 {
            return self.refuse(Reason::PortZero, path, "from port 0, which cannot be answered");
        }
        match datagram.first() {
            Some(4 | 5) => {}
            Some(6) => return self.refuse(Reason::UnknownVersion, path, "version 6 is not spoken here"),
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
        let (mut candidates, useless) = clients::candidates(self.keys.as_ref(), &self.root, path.peer.ip());
        let registered = !candidates.is_empty();
        for Useless { reason, detail } in &useless {
            self.refuse(*reason, path, detail);
        }
        if !registered && !useless.is_empty() {
            return;
        }
        if !registered && self.settings.secure {
            let detail = "START_NETDUMP from an address that nobody is known at: not dumped (secure=1)";
            return self.refuse(Reason::NotRegistered, path, detail);
        }
        if !registered {
            candidates.push((OPEN_COOKIE, Owner::Anybody));
        }
        let (cookies, owners): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        let Some((cookie, other_cookies)) = cookies.split_first() else { return };
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
            other_cookies: other_cookies.to_vec(),
            ..Params::new(*cookie)
        };
        let session = Session::new(params, start, seed, self.now);
        self.next_id += 1;
        let id = DumpId(self.next_id);
        let dump = Dump::new(id, session, path, owners, self.now, self.drops);
        self.dumps.insert(path.peer, Box::new(dump));
        self.by_ip.entry(path.peer.ip()).or_default().push(path.peer);
        tracing::debug!(client = %path.peer, ?start, "START_NETDUMP");
        self.touch(path);
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
