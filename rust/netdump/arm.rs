// SPDX-License-Identifier: GPL-2.0-only

//! Arming: finds the way to the server and keeps the plan up to date as devices, addresses, neighbours and memory
//! change. Everything here runs in process context, one run at a time.

use super::plan::Plan;
use super::probe::{Asker, Probes};
use super::settings::{Settings, DEFAULT_PORT};
use super::sys::crypto::Kernel;
use super::sys::keys::{self, Proof};
use super::sys::memory::MemoryMap;
use super::sys::nic::{self, Find, Identity, NotUsable};
use super::sys::panic_cell::PanicCell;
use super::sys::params;
use super::sys::route::{self, NoRoute};
use super::sys::volatile::PhysRange;
use super::sys::work::{DelayedWork, Shared};
use super::wire::frame::{MacAddr, Path};
use super::wire::target::Device;
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::net::IpAddr;
use kernel::prelude::*;

/// What the panic path follows.
pub static PLAN: PanicCell<Plan> = PanicCell::new();

static WORK: DelayedWork = DelayedWork::new();

static STATE: Shared<State> = Shared::new();

/// After a change, wait for the others that come with it, in milliseconds.
const SETTLE: u32 = 100;
/// Look again while not armed, in milliseconds.
const RETRY: u32 = 2_000;
/// Look again while armed: routes may change without a notification, and the neighbour is kept fresh.
const REFRESH: u32 = 30_000;

/// What arming knows.
struct State {
    settings: Settings,
    crypto: Kernel,
    probes: Probes,
    armed: Option<Armed>,
    reason: Option<NotArmed>,
}

/// The way that the current plan was made for.
struct Armed {
    ifindex: i32,
    device: Identity,
    path: Path,
    next_hop: IpAddr,
    memory: KVec<PhysRange>,
}

/// Why the module is not armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NotArmed {
    Disabled,
    Device(NotUsable),
    Route(NoRoute),
    NoMemory,
}

impl fmt::Display for NotArmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(reason) => reason.fmt(f),
            Self::Route(reason) => reason.fmt(f),
            Self::Disabled => f.write_str("disabled on the kernel command line (netdump.disable=1)"),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

impl From<NotUsable> for NotArmed {
    fn from(reason: NotUsable) -> Self {
        Self::Device(reason)
    }
}

impl From<NoRoute> for NotArmed {
    fn from(reason: NoRoute) -> Self {
        Self::Route(reason)
    }
}

/// Begins to arm, and goes on until [`stop`]. If all is there already it is armed when this returns.
pub fn start(settings: Settings, crypto: Kernel) {
    STATE.with(|state| {
        let probes = Probes::new(settings.probe_interval);
        *state = Some(State { settings, crypto, probes, armed: None, reason: None });
    });
    params::set_status(Some(show_status));
    WORK.start(run);
    run();
}

/// Disarms, and gives everything back.
pub fn stop() {
    WORK.stop();
    params::set_status(None);
    STATE.with(|state| *state = None);
    drop(PLAN.replace(None));
}

/// Something came that may be the server's answer. Softirq context.
fn on_answer() {
    WORK.soon(0);
}

/// Something has changed that may matter. Atomic context.
pub fn on_change() {
    WORK.soon(SETTLE);
}

fn run() {
    let proof = keys::proof();
    let next = STATE.with(|state| {
        let Some(state) = state else { return REFRESH };
        match state.update() {
            Ok(()) => state.probe(proof).min(REFRESH),
            Err(_) => RETRY,
        }
    });
    WORK.later(next);
}

impl State {
    /// Brings the plan up to date with the system.
    fn update(&mut self) -> Result<(), NotArmed> {
        let result = self.try_update();
        match result {
            Ok(()) => self.reason = None,
            Err(reason) => {
                self.probes.stop();
                if self.armed.take().is_some() {
                    drop(PLAN.replace(None));
                }
                if self.reason != Some(reason) {
                    pr_warn!("not armed: {}\n", format_args!("{reason}"));
                }
                self.reason = Some(reason);
            }
        }
        result
    }

    /// Asks the server whether it is there, if that is due; after how many milliseconds to come back.
    fn probe(&mut self, proof: Proof) -> u32 {
        let Some(armed) = &self.armed else { return REFRESH };
        let key = match proof {
            Proof::None => None,
            Proof::Key(name, key) => Some((name, key)),
            // A server that knows the cookie takes nothing without it, and probes are of version 6.
            Proof::Cookie => {
                self.probes.stop();
                return REFRESH;
            }
        };
        let asker = Asker { ifindex: armed.ifindex, path: armed.path, key, crypto: self.crypto };
        self.probes.step(&asker, on_answer)
    }

    fn try_update(&mut self) -> Result<(), NotArmed> {
        if self.settings.disabled {
            return Err(NotArmed::Disabled);
        }
        let target = &self.settings.target;
        let wanted = match target.device {
            None => 0,
            Some(Device::Name(name)) => nic::find(Find::Name(c_name(name, &mut [0; 16])?))?,
            Some(Device::Mac(mac)) => nic::find(Find::Mac(mac.0))?,
        };
        let route = route::lookup(target.remote, target.local, wanted)?;
        let device = nic::probe(route.ifindex)?;
        let same_way = |armed: &&Armed| {
            armed.ifindex == route.ifindex
                && armed.device == device
                && armed.path.local == route.source
                && armed.next_hop == route.next_hop
        };
        let before = self.armed.as_ref().filter(same_way);
        let peer_mac = match target.remote_mac {
            Some(mac) => mac,
            // The neighbour may be away for a while: what was known of it is better than nothing.
            None => match (nic::neighbour(route.ifindex, route.next_hop), before) {
                (Ok(mac), _) => MacAddr(mac),
                (Err(NoRoute::Unresolved), Some(armed)) => armed.path.peer_mac,
                (Err(reason), _) => return Err(reason.into()),
            },
        };
        let path = Path {
            local_mac: MacAddr(device.mac),
            peer_mac,
            local: route.source,
            peer: target.remote,
            local_port: target.local_port.unwrap_or(DEFAULT_PORT),
            peer_port: target.remote_port.unwrap_or(DEFAULT_PORT),
            vlan: None,
        };
        let memory = MemoryMap::read().map_err(|_| NotArmed::NoMemory)?;
        if before.is_some_and(|armed| armed.path == path && armed.memory[..] == *memory.ranges()) {
            return Ok(());
        }
        let mut ranges = KVec::new();
        ranges.extend_from_slice(memory.ranges(), GFP_KERNEL).map_err(|_| NotArmed::NoMemory)?;
        let plan = Plan::new(self.settings, self.crypto, route.ifindex, device.mtu, path)?;
        // The old plan holds the old device; it goes only when the new one is in place.
        drop(PLAN.replace(Some(plan)));
        self.armed = Some(Armed { ifindex: route.ifindex, device, path, next_hop: route.next_hop, memory: ranges });
        pr_info!("armed: {}\n", format_args!("{}", Way(&device, &path)));
        Ok(())
    }
}

fn c_name<'a>(name: &str, buffer: &'a mut [u8; 16]) -> Result<&'a CStr, NotArmed> {
    // A parsed name is shorter than the buffer, so that a NUL stays behind it.
    for (to, from) in buffer.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    CStr::from_bytes_until_nul(buffer).map_err(|_| NotArmed::Device(NotUsable::Missing))
}

/// The way to the server, for people.
struct Way<'a>(&'a Identity, &'a Path);

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(device, path) = self;
        write!(
            f,
            "{} port {} on {} to {} port {} through {}",
            path.local,
            path.local_port,
            device.name(),
            path.peer,
            path.peer_port,
            path.peer_mac
        )
    }
}

fn show_status(out: &mut dyn Write) -> fmt::Result {
    let key = keys::key_id();
    STATE.with(|state| {
        let Some(state) = state else { return Ok(()) };
        match (&state.armed, state.reason) {
            (Some(armed), _) => writeln!(out, "armed: {}", Way(&armed.device, &armed.path)),
            (None, Some(reason)) => writeln!(out, "not armed: {reason}"),
            (None, None) => writeln!(out, "not armed: just loaded"),
        }?;
        match key {
            Some(key) => writeln!(out, "key: {key}"),
            None => writeln!(out, "key: none"),
        }?;
        match state.armed {
            Some(_) => writeln!(out, "probe: {}", state.probes),
            None => Ok(()),
        }
    })
}
