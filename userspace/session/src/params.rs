// SPDX-License-Identifier: GPL-2.0-or-later
//! What the owner of a session decides.

use std::time::Duration;

use netdump_core::wire::Cookie;

/// Requests that may always be unanswered.
pub const MIN_WINDOW: u16 = crate::window::MIN as u16;

/// How a dump ends for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndWith {
    /// The machine restarts.
    Reboot,
    /// The client goes on with its panic.
    Exit,
}

/// What a client gets once there is room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The whole dump.
    Full,
    /// Notes, log and task listing, but no memory.
    LogOnly,
}

/// Settings of a session.
#[derive(Debug, Clone)]
pub struct Params {
    /// Goes into each request.
    pub cookie: Cookie,
    /// Ask for the task listing.
    pub show_state: bool,
    /// The last order to the client.
    pub end_with: EndWith,
    /// Pages (or item blocks) asked for and not yet answered, at most. Less than the receive ring of a
    /// network card (often 256), since a client that is busy sending takes nothing out of it. Less than
    /// [`MIN_WINDOW`] is that: with fewer, each loss would cost a timeout.
    pub max_window: u16,
    /// A client that answers nothing for so long is gone.
    pub silence: Duration,
    /// A dump takes no longer than this, whatever the client does.
    pub max_duration: Duration,
    /// Time between HELLOs while the session waits for its owner.
    pub keepalive: Duration,
    /// Log text that arrives within this time of the last keeps the task listing going.
    pub show_state_quiet: Duration,
    /// The task listing is given up after this time.
    pub show_state_limit: Duration,
    /// Time between two REBOOT or EXIT orders.
    pub end_interval: Duration,
    /// The last order is given up after so many.
    pub end_tries: u32,
}

impl Params {
    /// The defaults, with this cookie.
    pub fn new(cookie: Cookie) -> Self {
        Params {
            cookie,
            show_state: true,
            end_with: EndWith::Reboot,
            max_window: 192,
            silence: Duration::from_secs(60),
            max_duration: Duration::from_secs(24 * 3600),
            keepalive: Duration::from_secs(5),
            show_state_quiet: Duration::from_secs(5),
            show_state_limit: Duration::from_secs(120),
            end_interval: Duration::from_secs(1),
            end_tries: 10,
        }
    }
}
