// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's dump as seen by the server.
//!
//! [`Session`] is a state machine without I/O and without a clock: datagrams and the time go in,
//! requests and [`Event`]s come out. The owner of the socket drives it like this:
//!
//! ```text
//! on START_NETDUMP of an unknown client   Session::new
//! on any datagram of that client          handle
//! when poll_timeout is reached            handle_timeout
//! after each of these                     poll_event until None, then poll_transmit until None
//! ```
//!
//! The dialogue, with what the owner has to say in between:
//!
//! ```text
//! START -> ACK, HELLO with a random number
//!   Event::Proved       the client is there and sees what we send   owner: grant_slot, when there is room
//! page size, number of pages, registers, NOTES, LOG
//!   Event::Described    everything that the headers need            owner: storage_ready, or storage_failed
//! memory
//!   Event::MemoryDone   all pages were handed over                  owner: stored, once they are safe
//! SHOW_STATE, VOLATILE, REBOOT or EXIT
//!   Event::Finished
//! ```
//!
//! [`v6::Session6`] is driven likewise.
//!
//! While it waits for its owner a session keeps the client's idle timer from ending the dump with HELLOs.
#![deny(unsafe_code)]

mod ask;
mod closing;
mod crypto;
mod dialogue;
mod event;
mod flight;
mod info;
mod item;
mod memory;
mod number;
mod params;
mod phases;
mod rtt;
mod session;
mod tools;
pub mod v6;
mod window;
mod work;

pub use crypto::Ring;
pub use dialogue::Dialogue;
pub use event::{Absence, Counters, Event, Failure, MemoryEnd, Outcome, PageBuf, Pages, Phase, Progress, Resumed, Run};
pub use params::{EndWith, Grant, Params, MIN_WINDOW};
pub use session::Session;
