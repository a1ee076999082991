// SPDX-License-Identifier: GPL-2.0-or-later
//! Lossy links and simulated clients, for tests and load.
//!
//! - [`link`]: what a bad network does to datagrams, in whatever time the caller has.
//! - [`relay`]: that model between two real endpoints; the program `netdump-impair`.
//! - [`units`]: numbers with units as programs here take them.

pub mod link;
pub mod relay;
pub mod units;
