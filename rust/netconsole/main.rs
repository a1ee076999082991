// SPDX-License-Identifier: GPL-2.0-only

//! netconsole.ko: what the kernel prints goes to other machines. It takes the place of the kernel's own module of that
//! name, whose parameters, files and formats it has (`drivers/net/netconsole.c`), and adds netlog, syslog, the way to
//! the other end without its Ethernet address, and the text of a panic, whatever `kernel.panic` is.
//!
//! `targets.rs` is the list of targets, `outlet.rs` what sends a record to one, `attributes.rs` configfs.

#![allow(unreachable_pub)]

#[path = "../sys/mod_netconsole.rs"]
mod sys;
// User space and netdump.ko use more of this than the module does.
#[path = "../wire/mod.rs"]
#[allow(dead_code, unused_imports)]
mod wire;

mod attributes;
mod outlet;
mod settings;
mod targets;

use kernel::prelude::*;
use settings::{Kind, SyslogFormat};
use sys::configfs::Subsystem;
use sys::netdev::Events;
use sys::on_panic::OnPanic;
use sys::params;
use sys::peer::{Memory, Search};

module! {
    type: Netconsole,
    name: "netconsole",
    authors: ["The netdump authors"],
    description: "Sends what the kernel prints to other machines: netconsole, netlog, syslog",
    license: "GPL v2",
    imports_ns: ["NETDEV_INTERNAL"],
}

/// What is undone when the module goes.
struct Netconsole {
    _panic: OnPanic,
    _peer: Search,
    configfs: Option<Subsystem<attributes::Netconsole>>,
    events: Option<Events>,
}

impl kernel::Module for Netconsole {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let format = SyslogFormat::from_parameters()?;
        let given = params::get();
        targets::start();
        targets::add_parameter(given.netconsole, Kind::Netconsole, format);
        targets::add_parameter(given.netlog, Kind::Netlog, format);
        targets::add_parameter(given.syslog, Kind::Syslog, format);
        // If one of these fails, the targets are all there is to take back.
        let peer = Search::start(report).inspect_err(|_| targets::end())?;
        let panic = OnPanic::register(on_panic).inspect_err(|_| targets::end())?;
        let mut this = Self { _panic: panic, _peer: peer, configfs: None, events: None };
        // From here on, `drop` takes back what there is.
        this.events = Some(Events::register(targets::on_device, targets::on_neighbour)?);
        this.configfs = Some(attributes::register(module)?);
        targets::register_consoles();
        pr_info!("network logging started\n");
        Ok(this)
    }
}

/// In a panic, once the other CPUs are stopped and before a dump begins: all that has been printed goes out.
fn on_panic() {
    for console in outlet::CONSOLES {
        console.write_out(outlet::Outlet::drain);
    }
}

/// In a panic, for a dump: what changes when something is printed.
fn report(memory: &mut Memory) {
    for console in outlet::CONSOLES {
        console.report(memory, outlet::Outlet::report);
    }
}

impl Drop for Netconsole {
    fn drop(&mut self) {
        // First: the devices that `events` says goodbye to look as if they went, and a target that follows its device would be
        // taken up again, and its console registered, after the consoles have gone.
        targets::stop();
        outlet::hurry();
        for console in outlet::CONSOLES {
            console.unregister();
        }
        self.configfs = None;
        self.events = None;
        targets::end();
    }
}
