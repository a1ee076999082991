// SPDX-License-Identifier: GPL-2.0-or-later
//! Crash dump files.
//!
//! A dump is described by a [`DumpInfo`], which the server learns from the client before the first
//! page. Nothing here does more than arithmetic and file I/O; no value that came from a client is
//! used as a size without a bound.
#![deny(unsafe_code)]

pub mod describe;

pub use describe::{Cpu, DumpInfo, Ktext, Overlay, PageSize};
