// SPDX-License-Identifier: GPL-2.0-only

//! netdump.ko: when the machine panics, its memory goes to another machine.
//!
//! The original is Red Hat's `drivers/net/netdump.c` of 2002-2006. Two phases: *arm* (`arm.rs`), while all is well,
//! does whatever can sleep or fail and leaves a plan; *fire* (`fire.rs`), in the panic, only follows the plan and
//! always ends. The protocol is `../engine`, everything unsafe is `../sys`.

#![allow(unreachable_pub)]

// User space uses more of the two shared parts than the module does.
#[path = "../engine/mod.rs"]
#[allow(dead_code, unused_imports)]
mod engine;
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../sys/mod.rs"]
mod sys;
#[path = "../wire/mod.rs"]
#[allow(dead_code, unused_imports)]
mod wire;

mod arm;
mod fire;
mod notes;
mod plan;
mod probe;
mod settings;

use kernel::prelude::*;
use sys::{keys::Keys, notifier::Notifiers, params, stop_cpus::Interposed};

module! {
    type: Netdump,
    name: "netdump",
    authors: ["The netdump authors"],
    description: "Sends the memory of a panicked machine to a netdump server",
    license: "GPL v2",
}

/// What is undone, in this order, when the module goes.
struct Netdump {
    _notifiers: Notifiers,
    _interposed: Interposed,
    _keys: Keys,
}

impl kernel::Module for Netdump {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let cookie = params::take_cookie();
        let settings = settings::Settings::from_parameters()?;
        let crypto = sys::crypto::Kernel::choose(settings.simd)?;
        let keys = Keys::new(cookie)?;
        if cookie == 0 && !settings.disabled {
            pr_notice!("no cookie yet: until a key comes through /dev/netdump, anybody who can send from the server's address can have this machine's memory\n");
        }
        if settings.disabled {
            pr_notice!("disabled (netdump.disable=1 on the kernel command line)\n");
        }
        if sys::system::kdump_loaded() {
            pr_notice!("a kdump image is loaded: unless crash_kexec_post_notifiers=Y, kdump comes first and netdump is not asked\n");
        }
        arm::start(settings, crypto);
        // Building one fails only for lack of memory; what is built already is taken back.
        let interposed = Interposed::install(fire::before_stop, fire::after_stop).inspect_err(|_| arm::stop())?;
        let notifiers = Notifiers::register(fire::on_panic, arm::on_change).inspect_err(|_| arm::stop())?;
        Ok(Self { _notifiers: notifiers, _interposed: interposed, _keys: keys })
    }
}

impl Drop for Netdump {
    fn drop(&mut self) {
        arm::stop();
        pr_info!("not armed any more\n");
    }
}
