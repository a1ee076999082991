// SPDX-License-Identifier: GPL-2.0-or-later
//! The netdump server.
#![forbid(unsafe_code)]

pub mod admission;
pub mod allow;
pub mod cli;
pub mod clients;
pub mod config;
pub mod console;
pub mod convert;
pub mod crashdir;
pub mod daemon;
pub mod dispatch;
pub mod dump;
pub mod dumps;
pub mod events;
pub mod hooks;
pub mod journal;
pub mod logs;
pub mod meta;
pub mod netlog;
pub mod records;
pub mod server;
pub mod sink;
pub mod socket;
mod status;
pub mod store;
pub mod writer;
