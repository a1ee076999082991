// SPDX-License-Identifier: GPL-2.0-or-later
//! Lossy links and simulated clients, for tests and load.
//!
//! - [`bare`]: the same bytes with the same system calls and nothing else.
//! - [`burst`]: a socket that sends many datagrams with one call.
//! - [`corpus`]: memory from a file.
//! - [`link`]: what a bad network does to datagrams, in whatever time the caller has.
//! - [`relay`]: that model between two real endpoints; the program `netdump-impair`.
//! - [`world`]: client and server over such a network in virtual time.
//! - [`conversation`]: one of each message, as datagrams and as a capture.
//! - [`image`]: a crashed machine with computed memory.
//! - [`crowd`]: such machines on real sockets; with [`hostile`] the program `netdump-sim`.
//! - [`fleet`]: machines that are well and talk.
//! - [`kernel_log`]: a kernel's page tables and log, in a dump.
//! - [`source`]: what version 6 asks of such a machine.
//! - [`world6`]: [`world`] in version 6.
//! - [`verify`]: whether a dump holds what such a machine held.
//! - [`units`]: numbers with units as programs here take them.

pub mod bare;
pub mod burst;
pub mod conversation;
pub mod corpus;
pub mod crowd;
pub mod fleet;
pub mod hostile;
pub mod image;
pub mod kernel_log;
pub mod link;
mod mmsg;
pub mod relay;
pub mod source;
pub mod units;
pub mod verify;
pub mod world;
pub mod world6;
