// SPDX-License-Identifier: GPL-2.0-or-later
//! Everything that is counted, and the log lines for what should not happen: one per reason and interval, with
//! the number of those left out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Time between two log lines for the same reason.
const QUIET: Duration = Duration::from_secs(10);

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What can become of a datagram, or of what it asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// Name in logs and in the status file.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Shorter than a netdump header.
    TooShort = "too_short",
    /// Neither netdump nor console text: empty, or with NUL bytes in it.
    NotNetdump = "not_netdump",
    /// The fields contradict each other.
    Malformed = "malformed",
    /// From source port 0, which nothing can be sent to.
    PortZero = "port_zero",
    /// A reply from an address that no dump is running with.
    Stranger = "stranger",
    /// Such a one was told that its session is not known.
    Hinted = "hinted",
    /// A machine that is well asked whether it is heard, and was told that it is.
    Probed = "probed",
    /// A reply from a dumping client's address, but not from its port.
    WrongPort = "wrong_port",
    /// A reply to a dump whose fields make no sense.
    BadReply = "bad_reply",
    /// A reply whose number belongs to no live request: late, or forged.
    UnknownNumber = "unknown_number",
    /// A START_NETDUMP from an address that nobody is known at (secure=1).
    NotRegistered = "not_registered",
    /// A START_NETDUMP from an address whose `magic/` file is of no use.
    BadMagic = "bad_magic",
    /// A START6 with a key that no enrolled client has.
    UnknownKey = "unknown_key",
    /// A START6 whose MAC is not that of its key, or a later datagram with a wrong tag.
    Forged = "forged",
    /// A START6 of a dump that is over.
    Burnt = "burnt",
    /// A client that is known by a key came without one.
    Downgrade = "downgrade",
    /// What the key store has of an address is of no use.
    BadKey = "bad_key",
    /// More START_NETDUMP of unknown clients than are looked at in a second.
    StartFlood = "start_flood",
    /// A client that never answered was pushed out by newer ones.
    ProbeEvicted = "probe_evicted",
    /// No room for another client.
    TooManyClients = "too_many_clients",
    /// A START_NETDUMP was not followed by an answer to HELLO.
    NotProved = "not_proved",
    /// The waiting queue is full.
    QueueFull = "queue_full",
    /// A dump of this address runs, and another one waits.
    AddressBusy = "address_busy",
    /// Too many dumps of one client in an hour.
    HourlyLimit = "hourly_limit",
    /// Log text from an address that may not log (secure=1).
    LogRefused = "log_refused",
    /// Log text from more unknown addresses than are looked up in a second.
    LogFlood = "log_flood",
    /// Log text beyond `log_rate`.
    LogRate = "log_rate",
    /// Log text beyond `log_max`.
    LogSize = "log_size",
    /// Log text came after its place had been given up.
    LogLate = "log_late",
    /// Log text came twice.
    LogDuplicate = "log_duplicate",
    /// Log text for which no directory may be made now.
    LogDirLimit = "log_dir_limit",
    /// Log text beyond `log_quota`.
    LogQuota = "log_quota",
    /// Fragments of a record that contradict each other.
    LogConflict = "log_conflict",
    /// Log text that the disk was too slow for.
    LogBacklog = "log_backlog",
    /// A script was not run because too many wait already.
    TooManyScripts = "too_many_scripts",
    /// A directory or log could not be written.
    StorageFailed = "storage_failed",
    /// A vmcore could not be compressed, and stays as it is.
    ConversionFailed = "conversion_failed",
    /// The kernel refused to send.
    SendRefused = "send_refused",
    /// The receive buffer was full.
    SocketDrop = "socket_drop",
}

impl Reason {
    /// Whether it is worth a log line: what a healthy network does now and then is only counted.
    fn is_loud(self) -> bool {
        !matches!(self, Reason::LogLate | Reason::LogDuplicate | Reason::UnknownNumber | Reason::NotNetdump)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The counters.
#[derive(Debug)]
pub struct Events {
    counts: Vec<u64>,
    quiet: Vec<Option<(Instant, u64)>>,
    /// Datagrams received.
    pub received: u64,
    /// System calls that brought them.
    pub batches: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of log text written.
    pub log_bytes: u64,
    /// Dumps begun.
    pub dumps_started: u64,
    /// Dumps complete.
    pub dumps_complete: u64,
    /// Dumps ended without being complete.
    pub dumps_incomplete: u64,
    /// Pages received.
    pub pages: u64,
}

impl Default for Events {
    fn default() -> Self {
        let kinds = Reason::ALL.len();
        Events {
            counts: vec![0; kinds],
            quiet: vec![None; kinds],
            received: 0,
            batches: 0,
            received_bytes: 0,
            sent: 0,
            log_bytes: 0,
            dumps_started: 0,
            dumps_complete: 0,
            dumps_incomplete: 0,
            pages: 0,
        }
    }
}

impl Events {
    /// Counts one and, if it is time, writes it to the log.
    pub fn note(&mut self, now: Instant, reason: Reason, peer: SocketAddr, detail: impl fmt::Display) {
        self.add(reason, 1);
        if !reason.is_loud() {
            return;
        }
        let slot = &mut self.quiet[reason as usize];
        let left_out = match slot {
            Some((since, left_out)) if now.saturating_duration_since(*since) < QUIET => {
                *left_out += 1;
                return;
            }
            Some((_, left_out)) => *left_out,
            None => 0,
        };
        *slot = Some((now, 0));
        if left_out > 0 {
            tracing::warn!(%peer, %reason, left_out, "{detail}");
        } else {
            tracing::warn!(%peer, %reason, "{detail}");
        }
    }

    /// Counts without a log line.
    pub fn add(&mut self, reason: Reason, count: u64) {
        self.counts[reason as usize] += count;
    }

    /// How many there were.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize]
    }

    /// Everything that is not zero, by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        let all = Reason::ALL.iter().map(|reason| (reason.name(), self.count(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }

    #[test]
    fn all_are_counted_and_few_are_logged() {
        let (mut events, now) = (Events::default(), Instant::now());
        for _ in 0..1000 {
            events.note(now, Reason::TooShort, ([10, 0, 0, 1], 1).into(), "x");
        }
        assert_eq!(events.count(Reason::TooShort), 1000);
        assert_eq!(events.quiet[Reason::TooShort as usize], Some((now, 999)));
        assert_eq!(events.by_name().len(), 1);
    }
}
