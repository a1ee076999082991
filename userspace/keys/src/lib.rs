// SPDX-License-Identifier: GPL-2.0-or-later
//! Keys of netdump: a secret per client and server, how it gets there, and what is derived from it.
//!
//! The formats and the two sides' steps are described in `docs/keys.md`. The library holds all of it; the program
//! `netdump-key` is the command line around it, and `netdump-login` is what sshd starts for user netdump. The server
//! reads the store with [`Reader`].

pub mod authorized;
pub mod blob;
pub mod cli;
pub mod client;
mod error;
mod fields;
mod files;
pub mod login;
pub mod message;
pub mod names;
pub mod secret;
pub mod store;

pub use error::{Error, Result};
pub use names::{ClientId, KeyId, ServerId, ServerName};
pub use secret::Root;
pub use store::{Reader, Store};
