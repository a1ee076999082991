// SPDX-License-Identifier: GPL-2.0-or-later
//! Crash dump files: what crash, drgn and gdb read.
//!
//! A dump is described by a [`DumpInfo`], which the server learns from the client before the first page;
//! [`Writer`] makes a file of it and of the pages, [`Reader`] reads one back, [`convert`] makes a kdump-compressed one of it, [`Vmcoreinfo`] understands
//! what the kernel says about itself. No value that came from a client is used as a size without a bound.
#![deny(unsafe_code)]

pub mod describe;
mod elf;
mod frames;
mod kdump;
pub mod kernel_memory;
mod layout;
mod notes;
pub mod printk;
mod reader;
#[cfg(test)]
mod testing;
mod vmcoreinfo;
mod writer;

pub use describe::{Cpu, DumpInfo, Ktext, Overlay, PageSize};
pub use elf::{Class, Segment};
pub use frames::FrameSet;
pub use kdump::{convert, Compression, KdumpError, KdumpFacts, KdumpOptions, Progress};
pub use layout::{Format, Layout};
pub use reader::{Kind, Note, Piece, ReadError, Reader};
pub use vmcoreinfo::{Vmcoreinfo, VmcoreinfoError};
pub use writer::{Storage, WriteError, Writer, Written};
