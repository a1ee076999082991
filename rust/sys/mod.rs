// SPDX-License-Identifier: GPL-2.0-only

//! The only home of `unsafe`: one safe module per kernel facility that the crates above need.
//!
//! Struct layouts come from our own bindgen run over `bindings_helper.h`; inline functions and macros through the
//! one-line helpers of `helpers.c`. What is marked "panic path" in its docs may run when the machine has panicked:
//! it does not allocate, sleep, take a blocking lock or wait without a deadline.

#[path = "generated.rs"]
mod bindings;

pub mod ask;
pub mod claim;
pub mod clock;
pub mod compress;
pub mod crypto;
pub mod keys;
pub mod kmsg;
pub mod memmap;
pub mod memory;
pub mod nic;
pub mod notifier;
pub mod page;
pub mod panic_cell;
pub mod params;
mod reap;
pub mod regs;
pub mod route;
pub mod rx;
pub mod stack;
pub mod stop_cpus;
pub mod system;
pub mod tasks;
pub mod tx;
pub mod volatile;
pub mod work;
