// SPDX-License-Identifier: GPL-2.0-or-later
//! The netdump server.
#![forbid(unsafe_code)]

pub mod admission;
pub mod allow;
pub mod config;
pub mod crashdir;
pub mod hooks;
pub mod netlog;
pub mod socket;
pub mod meta;
pub mod store;
pub mod events;
pub mod logs;
