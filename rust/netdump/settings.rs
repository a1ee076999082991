// SPDX-License-Identifier: GPL-2.0-only

//! The module's parameters, checked.

use super::engine::client::Dialects;
use super::sys::crypto::Simd;
use super::sys::params;
use super::wire::tags::{Tags, TagsError};
use super::wire::target::{Target, TargetError};
use super::wire::v6::Level;
use kernel::prelude::*;

/// Port of both ends where none is given.
pub const DEFAULT_PORT: u16 = 6666;
const NANOSECONDS: u64 = 1_000_000_000;

/// Who restarts the machine after a complete dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reboot {
    /// This module, when the server orders it (the original's contract).
    Server,
    /// The kernel, as `kernel.panic` says.
    Kernel,
}

/// What the administrator wants.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Where to send to, and what of the way there is fixed.
    pub target: Target<'static>,
    /// The administrator has switched it off.
    pub disabled: bool,
    /// After a complete dump.
    pub reboot: Reboot,
    /// Nanoseconds; 0 is no limit.
    pub handshake_timeout: u64,
    /// Nanoseconds; 0 is no limit.
    pub idle_timeout: u64,
    /// Nanoseconds; 0 is no limit.
    pub total_timeout: u64,
    /// Nanoseconds; 0 is no limit.
    pub queue_timeout: u64,
    /// What this machine leaves out.
    pub level: Level,
    /// What is offered to the server where no key is loaded.
    pub dialects: Dialects,
    /// What the cipher is computed with.
    pub simd: Simd,
    /// Nanoseconds between two probes; 0 is none.
    pub probe_interval: u64,
    /// What is said of this machine in its dumps.
    pub tags: Tags<'static>,
}

impl Settings {
    /// Reads the parameters; what is wrong with them is printed.
    pub fn from_parameters() -> Result<Self> {
        let Some(given) = params::get() else {
            pr_err!("a parameter is not plain text\n");
            return Err(EINVAL);
        };
        if given.netdump.is_empty() {
            pr_err!("not configured: netdump=[port]@[ip]/[dev],[port]@<server ip>/[mac] is missing\n");
            return Err(EINVAL);
        }
        let target = Target::parse(given.netdump).map_err(|error: TargetError| {
            pr_err!("netdump={}: {}\n", given.netdump, format_args!("{error}"));
            EINVAL
        })?;
        let reboot = match given.reboot.trim_end() {
            "server" => Reboot::Server,
            "kernel" => Reboot::Kernel,
            other => {
                pr_err!("reboot={other}: neither 'server' nor 'kernel'\n");
                return Err(EINVAL);
            }
        };
        let Some(level) = u8::try_from(given.level).ok().and_then(Level::new) else {
            pr_err!("level={}: not from 0 to 31\n", given.level);
            return Err(EINVAL);
        };
        let dialects = match given.protocol.trim_end() {
            "auto" => Dialects::Either,
            "6" => Dialects::Six,
            "classic" => Dialects::Classic,
            other => {
                pr_err!("protocol={other}: neither 'auto' nor '6' nor 'classic'\n");
                return Err(EINVAL);
            }
        };
        let simd = match given.simd.trim_end() {
            "auto" => Simd::Auto,
            "on" => Simd::On,
            "off" => Simd::Off,
            other => {
                pr_err!("simd={other}: neither 'auto' nor 'on' nor 'off'\n");
                return Err(EINVAL);
            }
        };
        let tags = Tags::parse(given.tags).map_err(|error: TagsError| {
            pr_err!("tags={}: {}\n", given.tags, format_args!("{error}"));
            EINVAL
        })?;
        let nanoseconds = |seconds: u32| u64::from(seconds).saturating_mul(NANOSECONDS);
        Ok(Self {
            target,
            disabled: given.disable,
            reboot,
            handshake_timeout: nanoseconds(given.handshake_timeout),
            idle_timeout: nanoseconds(given.idle_timeout),
            total_timeout: nanoseconds(given.total_timeout),
            queue_timeout: nanoseconds(given.queue_timeout),
            level,
            dialects,
            simd,
            // The classic dialect has none.
            probe_interval: if dialects == Dialects::Classic { 0 } else { nanoseconds(given.probe_interval) },
            tags,
        })
    }
}
