// SPDX-License-Identifier: GPL-2.0-only

//! The only home of `unsafe`, as netconsole.ko needs it (see `mod.rs`): what it shares with netdump.ko is used in part.

#[path = "generated.rs"]
mod bindings;

#[allow(dead_code)]
pub mod claim;
#[allow(dead_code)]
pub mod clock;
pub mod configfs;
pub mod console;
#[allow(dead_code)]
pub mod kmsg;
pub mod link;
pub mod listed;
#[allow(dead_code)]
pub mod memory;
pub mod netdev;
#[allow(dead_code)]
pub mod nic;
#[allow(dead_code)]
pub mod notifier;
pub mod on_panic;
pub mod page;
#[path = "params_netconsole.rs"]
pub mod params;
pub mod peer;
mod reap;
#[allow(dead_code)]
pub mod regs;
#[allow(dead_code)]
pub mod route;
#[allow(dead_code)]
pub mod rx;
pub mod snapshot;
#[allow(dead_code)]
pub mod stack;
#[allow(dead_code)]
pub mod stop_cpus;
#[allow(dead_code)]
pub mod system;
pub mod text;
#[allow(dead_code)]
pub mod tx;
#[allow(dead_code)]
pub mod volatile;
#[allow(dead_code)]
pub mod work;
