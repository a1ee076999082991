// SPDX-License-Identifier: GPL-2.0-only

//! The list of targets: how they come, go, are switched on and off, and follow their devices. The rules are upstream's
//! (`drivers/net/netconsole.c`), down to messages and errors.
//!
//! Three locks, taken in this order: [`CONTROL`] while anything is being switched, RTNL, the list's own.

use super::outlet::{self, Outlet, Shared, Sysdata, CONSOLES};
use super::settings::{DeviceName, Kind, Settings, SyslogFormat, BROADCAST};
use super::sys::console::Attached;
use super::sys::listed::Listed;
use super::sys::netdev::{Changed, Device, Event, Rtnl};
use super::sys::nic::Find;
use super::sys::text;
use super::sys::work::{self, DelayedWork};
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Held while a target is switched on or off.
static CONTROL: work::Shared<()> = work::Shared::new();
static TARGETS: Listed<KVec<KBox<Target>>> = Listed::new(KVec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// Takes up targets whose device has come back.
static WORK: DelayedWork = DelayedWork::new();

/// Longest name of a key of user data, in bytes.
const MAX_KEY: usize = 53;
/// Most keys of a target.
const MAX_KEYS: usize = 256;
/// Longest value of a key, with the newline that it may have been written with.
const MAX_VALUE: usize = 199;

/// Which target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id(u64);

/// Whether a target is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is not, because somebody wanted it so or it could not be.
    Disabled,
    /// It is.
    Enabled,
    /// It is not, because its device has gone away; it will be when the device comes back.
    Deactivated,
}

/// A target.
pub struct Target {
    id: Id,
    /// Its name, if it comes from a parameter and has no directory yet.
    parameter: Option<(Kind, u32)>,
    /// What is wanted.
    pub settings: Settings,
    /// Whether it is in use.
    pub state: State,
    /// What it keeps over time.
    pub shared: Arc<Shared>,
    live: Option<Live>,
    /// Its device has come back.
    resume: bool,
    /// It comes from a parameter that is ours, could not be switched on, and is tried again.
    retry: bool,
    userdata: KVec<Userdatum>,
}

/// What a target in use has.
struct Live {
    device: Arc<Device>,
    outlet: Use,
    /// The device follows from the route; this is its name.
    by_route: Option<DeviceName>,
}

enum Use {
    /// Nobody sends through it yet.
    Prepared(KBox<Outlet>),
    Attached(Attached<Outlet>),
    /// On its way from one to the other.
    Between,
}

/// A key that the administrator attached to the target's records.
struct Userdatum {
    id: u64,
    key: KVec<u8>,
    value: KVec<u8>,
}

impl Target {
    /// The Ethernet address of its device, while it has one.
    pub fn local_mac(&self) -> Option<[u8; 6]> {
        self.live.as_ref().map(|live| live.device.mac())
    }

    /// The Ethernet address that it sends to: what is configured, or else what has been found.
    pub fn remote_mac(&self) -> [u8; 6] {
        let found = || self.live.as_ref().and_then(|_| self.shared.next_hop());
        self.settings.remote_mac.or_else(found).unwrap_or(BROADCAST)
    }

    /// The name of its device.
    pub fn device(&self) -> DeviceName {
        let by_route = self.live.as_ref().and_then(|live| live.by_route);
        by_route.unwrap_or(self.settings.device())
    }

    /// Its device has another name now.
    fn rename(&mut self, name: DeviceName) {
        match self.live.as_mut() {
            Some(Live { by_route: Some(known), .. }) => *known = name,
            _ => self.settings.device = Some(name),
        }
    }

    /// Whether the way to the other end is to be followed.
    fn is_followed(&self) -> bool {
        let routed = |live: &Live| live.by_route.is_some() || self.settings.remote_mac.is_none();
        self.live.as_ref().is_some_and(routed)
    }

    /// Stops using the device, which the caller has to close.
    fn leave(&mut self) -> Option<Arc<Device>> {
        let Live { device, outlet, .. } = self.live.take()?;
        match outlet {
            Use::Attached(attached) => drop(attached.detach()),
            Use::Prepared(outlet) => drop(outlet),
            Use::Between => {}
        }
        if self.settings.bound_by_mac().is_some() {
            self.settings.device = Some(DeviceName::NONE);
        }
        // What was known of the next hop is of no use through another device.
        self.shared.set_next_hop(None);
        Some(device)
    }

    /// Writes the lines of user data anew.
    fn update_userdata(&self) -> Result {
        let mut lines = KVec::new();
        for datum in self.userdata.iter().filter(|datum| !datum.value.is_empty()) {
            for part in [b" " as &[u8], &datum.key, b"=", &datum.value, b"\n"] {
                lines.extend_from_slice(part, GFP_KERNEL)?;
            }
        }
        self.shared.userdata.replace(lines)
    }
}

/// Calls `f` with the target; ENOENT if it is gone.
pub fn with<R>(id: Id, f: impl FnOnce(&mut Target) -> Result<R>) -> Result<R> {
    TARGETS.with(|targets| f(targets.iter_mut().find(|target| target.id == id).ok_or(ENOENT)?))
}

/// The same while nothing is switched on or off; refused while the target is in use.
pub fn change(id: Id, name: &[u8], f: impl FnOnce(&mut Settings) -> Result) -> Result {
    CONTROL.with(|_| {
        with(id, |target| {
            if target.state == State::Enabled {
                pr_err!("target ({}) is enabled, disable to update parameters\n", text::Lossy(name));
                return Err(EINVAL);
            }
            f(&mut target.settings)
        })
    })
}

fn add(settings: Settings, parameter: Option<(Kind, u32)>) -> Result<Id> {
    let id = Id(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let target = Target {
        id,
        parameter,
        settings,
        state: State::Disabled,
        shared: Arc::new(Shared::new(), GFP_KERNEL)?,
        live: None,
        resume: false,
        retry: false,
        userdata: KVec::new(),
    };
    let target = KBox::new(target, GFP_KERNEL)?;
    TARGETS.with(|targets| targets.push(target, GFP_KERNEL))?;
    Ok(id)
}

/// The targets of one parameter, in use as far as that goes.
pub fn add_parameter(string: &CStr, kind: Kind, format: SyslogFormat) {
    if string.is_empty() {
        return;
    }
    let mut number = 0;
    for part in string.to_bytes().split(|byte| *byte == b';') {
        let Some(settings) = Settings::parse(part, kind, format) else { continue };
        settings.print();
        let Ok(id) = add(settings, Some((kind, number))) else { continue };
        if CONTROL.with(|_| switch_on(id, true)).is_err() {
            if kind == Kind::Netconsole {
                pr_err!("Not enabling netconsole for {}{}. Netpoll setup failed\n", kind.parameter_name(), number);
            } else {
                pr_warn!("{}{} waits for the network\n", kind.parameter_name(), number);
                let _ = with(id, |target| {
                    target.retry = true;
                    Ok(())
                });
            }
        }
        outlet::console(&settings).replay();
        number += 1;
    }
}

/// Registers the consoles of all targets there are, and begins to follow their ways. Where all wait for the network the
/// console waits as well, so that the log which is replayed then is whole.
pub fn register_consoles() {
    WORK.soon(0);
    for console in CONSOLES {
        let is_ready =
            |target: &KBox<Target>| !target.retry && core::ptr::eq(outlet::console(&target.settings), console);
        if TARGETS.with(|targets| targets.iter().any(is_ready)) {
            console.register();
        }
    }
}

/// A directory of this name is made: it is that of a target from a parameter, or a new one's.
pub fn make(name: &CStr) -> Result<Id> {
    let from_parameter = TARGETS.with(|targets| {
        let is_it = |(kind, number): (Kind, u32)| {
            let rest = name.to_bytes().strip_prefix(kind.parameter_name().as_bytes());
            rest.is_some_and(|rest| is_number(rest, number))
        };
        let target = targets.iter_mut().find(|target| target.parameter.is_some_and(is_it))?;
        target.parameter = None;
        Some(target.id)
    });
    match from_parameter {
        Some(id) => Ok(id),
        None => add(Settings::new(Kind::Netconsole, SyslogFormat::from_parameters()?), None),
    }
}

/// Whether `text` is `number`, written as usual.
fn is_number(text: &[u8], mut number: u32) -> bool {
    let mut digits = 0;
    for digit in text.iter().rev() {
        if digits > 0 && number == 0 || u32::from(*digit) != u32::from(b'0') + number % 10 {
            return false;
        }
        number /= 10;
        digits += 1;
    }
    digits > 0 && number == 0
}

/// The directory of a target is gone, and with it the target.
pub fn remove(id: Id) {
    CONTROL.with(|_| {
        let target = TARGETS.with(|targets| {
            let at = targets.iter().position(|target| target.id == id)?;
            let mut target = targets.remove(at).ok()?;
            let device = target.leave();
            Some((target, device))
        });
        close(target.and_then(|(_, device)| device));
    });
}

fn close(device: Option<Arc<Device>>) {
    if let Some(device) = device {
        device.close(&Rtnl::lock());
    }
}

/// Switches a target on or off, as its attribute says.
pub fn switch(id: Id, text: &CStr) -> Result {
    CONTROL.with(|_| {
        let enable = text::boolean(text)?;
        let settings = with(id, |target| {
            // Somebody says what is wanted: it does not come back by itself any more.
            if target.state == State::Deactivated {
                target.state = State::Disabled;
            }
            target.retry = false;
            let enabled = target.state == State::Enabled;
            if enable == enabled {
                pr_info!("network logging has already {}\n", if enabled { "started" } else { "stopped" });
                return Err(EINVAL);
            }
            Ok(target.settings)
        })?;
        if !enable {
            let device = with(id, |target| {
                target.state = State::Disabled;
                Ok(target.leave())
            })?;
            unregister_consoles(id);
            close(device);
            return Ok(());
        }
        if settings.kind == Kind::Netconsole && settings.release && !settings.extended {
            pr_err!("Not enabling netconsole. Release feature requires extended log message\n");
            return Err(EINVAL);
        }
        outlet::console(&settings).register();
        settings.print();
        switch_on(id, true)?;
        WORK.later(RETRY);
        pr_info!("network logging started\n");
        Ok(())
    })
}

/// Takes back the consoles of which `id` was the last target.
fn unregister_consoles(id: Id) {
    for console in CONSOLES {
        let needed =
            |target: &KBox<Target>| target.id != id && core::ptr::eq(outlet::console(&target.settings), console);
        if !TARGETS.with(|targets| targets.iter().any(needed)) {
            console.unregister();
        }
    }
}

/// Brings a target's device up and begins to send through it. Under [`CONTROL`]. `say` why it cannot be.
fn switch_on(id: Id, say: bool) -> Result {
    let mut settings = with(id, |target| Ok(target.settings))?;
    let shared = with(id, |target| Ok(target.shared.clone()))?;
    {
        let mut rtnl = Rtnl::lock();
        let (device, by_route) = open(&mut rtnl, &mut settings, say)?;
        let name = DeviceName(device.name(&rtnl));
        let outlet = Outlet::new(settings, device.clone(), shared, &rtnl)
            .and_then(|outlet| Ok(KBox::new(outlet, GFP_KERNEL)?))
            .inspect_err(|_| device.close(&rtnl))?;
        // Under RTNL, so that what happens to the device from now on finds the target in use.
        with(id, |target| {
            target.state = State::Enabled;
            target.retry = false;
            if !by_route {
                target.settings.addresses = settings.addresses;
                target.settings.device = Some(name);
            }
            let outlet = Use::Prepared(outlet);
            target.live = Some(Live { device, outlet, by_route: by_route.then_some(name) });
            Ok(())
        })?;
    }
    // What polls the driver has begun to do so before netpoll was there ends.
    Device::settle();
    // Before the first record: it is either known or asked for now.
    follow_next_hops();
    let device = with(id, |target| {
        // It may have gone again meanwhile.
        let Some(live) = target.live.as_mut() else { return Ok(None) };
        let Use::Prepared(outlet) = core::mem::replace(&mut live.outlet, Use::Between) else { return Ok(None) };
        match outlet::console(&settings).attach(outlet) {
            Ok(attached) => live.outlet = Use::Attached(attached),
            Err(_) => {
                target.state = State::Disabled;
                return Ok(target.leave());
            }
        }
        Ok(None)
    })?;
    if device.is_some() {
        close(device);
        return Err(ENOMEM);
    }
    Ok(())
}

/// Finds the device, takes it up, finds the local address if there is none yet, and registers with netpoll. The device
/// and whether it follows from the route.
fn open(rtnl: &mut Rtnl, settings: &mut Settings, say: bool) -> Result<(Arc<Device>, bool)> {
    let local = settings.addresses.local();
    let local = (!local.is_unspecified()).then_some(local);
    if settings.is_routed() {
        let remote = settings.addresses.remote();
        let (mut device, local) = Device::towards(rtnl, remote, local).map_err(|why| {
            if say {
                pr_err!("{}: {}\n", settings.kind.name(), format_args!("{why}"));
            }
            ENETUNREACH
        })?;
        settings.addresses.set_local(local);
        device.set_up(rtnl)?;
        return Ok((Arc::new(device, GFP_KERNEL)?, true));
    }
    let mut device = find(rtnl, settings).inspect_err(|_| {
        if say {
            pr_err!("netconsole: {} doesn't exist, aborting\n", settings.show_device());
        }
    })?;
    if device.has_master(rtnl) {
        if say {
            pr_err!("netconsole: {} is a slave device, aborting\n", settings.show_device());
        }
        return Err(EBUSY);
    }
    if !device.is_running() {
        if say {
            pr_info!("netconsole: device {} not up yet, forcing it\n", settings.show_device());
        }
        device.open(rtnl).inspect_err(|_| {
            pr_err!("netconsole: failed to open {}\n", text::Lossy(DeviceName(device.name(rtnl)).bytes()));
        })?;
        rtnl.without(|| {
            if !device.wait_for_carrier() {
                pr_notice!("netconsole: timeout waiting for carrier\n");
            }
        });
        if !device.is_registered(rtnl) {
            return Err(ENODEV);
        }
    }
    if local.is_none() {
        let remote = settings.addresses.remote();
        let (label, what) = if remote.is_ipv6() { ("IPv6", "IPv6 ") } else { ("IP", "IP ") };
        let Some(local) = device.local_address(rtnl, remote) else {
            if say {
                pr_err!("netconsole: no {}address for {}, aborting\n", what, settings.show_device());
            }
            return Err(EDESTADDRREQ);
        };
        settings.addresses.set_local(local);
        pr_info!("netconsole: local {} {}\n", label, text::ShowIp(local));
    }
    device.set_up(rtnl)?;
    Ok((Arc::new(device, GFP_KERNEL)?, false))
}

/// The device by name, or else by its address.
fn find(rtnl: &Rtnl, settings: &Settings) -> Result<Device> {
    let name = settings.device();
    match CStr::from_bytes_until_nul(&name.0) {
        Ok(text) if !text.is_empty() => Device::find(rtnl, Find::Name(text)),
        _ => Device::find(rtnl, Find::Mac(settings.bound_by_mac().ok_or(ENODEV)?)),
    }
}

/// Whether there is a target whose next hop or device has to be followed.
static FOLLOWING: AtomicBool = AtomicBool::new(false);

/// After a change, wait for the others that come with it, in milliseconds.
const SETTLE: u32 = 100;
/// Look again while something is missing, in milliseconds.
const RETRY: u32 = 2_000;
/// Look again while nothing is: routes may change without a notification, and neighbours are kept fresh.
const REFRESH: u32 = 30_000;

/// Finds the next hop's Ethernet address of each target that has none configured. What has been found before stays while
/// the kernel does not know it: old knowledge is better than none. Whether all are known.
fn follow_next_hops() -> bool {
    let rtnl = Rtnl::lock();
    let mut known = true;
    TARGETS.with(|targets| {
        let following = targets.iter().any(|target| target.is_followed());
        FOLLOWING.store(following, Ordering::Release);
        for target in targets.iter_mut().filter(|target| target.settings.remote_mac.is_none()) {
            let Some(live) = &target.live else { continue };
            let addresses = &target.settings.addresses;
            match live.device.next_hop(&rtnl, addresses.remote(), addresses.local()) {
                Ok(mac) => target.shared.set_next_hop(Some(mac)),
                Err(_) => known &= target.shared.next_hop().is_some(),
            }
        }
    });
    known
}

/// A target in use whose route leads through another device now.
fn misrouted() -> Option<Id> {
    let rtnl = Rtnl::lock();
    TARGETS.with(|targets| {
        let moved = |target: &&mut KBox<Target>| {
            let Some(live) = target.live.as_ref().filter(|live| live.by_route.is_some()) else { return false };
            let addresses = &target.settings.addresses;
            !live.device.is_on_route(&rtnl, addresses.remote(), addresses.local())
        };
        targets.iter_mut().find(moved).map(|target| target.id)
    })
}

/// A neighbour or a route may have changed. Any context.
pub fn on_neighbour() {
    if FOLLOWING.load(Ordering::Acquire) {
        WORK.soon(SETTLE);
    }
}

/// Something has happened to a device.
pub fn on_device(rtnl: &Rtnl, event: Event, changed: &Changed<'_>) {
    if event == Event::Other {
        on_neighbour();
        return;
    }
    let mut stopped = false;
    let mut resume = false;
    TARGETS.with(|targets| {
        for target in targets.iter_mut() {
            if target.live.as_ref().is_some_and(|live| live.device.id() == changed.device) {
                let state = match event {
                    Event::Renamed => {
                        target.rename(DeviceName(*changed.name));
                        None
                    }
                    Event::Joining | Event::Releasing => Some(State::Disabled),
                    Event::Unregistered => Some(State::Deactivated),
                    Event::Registered | Event::Other => None,
                };
                if let Some(state) = state {
                    target.state = state;
                    target.retry = target.live.as_ref().is_some_and(|live| live.by_route.is_some());
                    resume |= target.retry;
                    stopped = true;
                    if let Some(device) = target.leave() {
                        device.close(rtnl);
                    }
                }
            }
            let comes = matches!(event, Event::Registered | Event::Renamed);
            if comes && target.state == State::Deactivated && target.settings.is_device(changed.name, changed.mac) {
                target.resume = true;
                resume = true;
            }
        }
    });
    if stopped {
        let why = match event {
            Event::Unregistered => "unregistered",
            Event::Releasing => "released slaves",
            _ => "is joining a master device",
        };
        let name = DeviceName(*changed.name);
        pr_info!("network logging stopped on interface {} as it {}\n", text::Lossy(name.bytes()), why);
    }
    if resume {
        WORK.soon(0);
    }
}

/// Begins to take up targets when their devices come back.
pub fn start() {
    CONTROL.with(|control| *control = Some(()));
    WORK.start(update);
}

/// Nothing is taken up any more, and no way followed. Process context; waits for what is under way.
pub fn stop() {
    WORK.stop();
}

/// Does so, and forgets all targets. Those that are left come from parameters.
pub fn end() {
    stop();
    while let Some(id) = TARGETS.with(|targets| targets.first().map(|target| target.id)) {
        remove(id);
    }
    TARGETS.with(|targets| *targets = KVec::new());
    for console in CONSOLES {
        console.tidy();
    }
}

/// Takes up the targets whose device has come back, or that wait for the network, and follows the way of the others.
/// Process context.
fn update() {
    let complete = CONTROL.with(|_| {
        while let Some(id) = TARGETS.with(|targets| {
            let target = targets.iter_mut().find(|target| target.resume && target.state == State::Deactivated)?;
            target.resume = false;
            Some(target.id)
        }) {
            // Once, as upstream.
            let resumed = switch_on(id, true).is_ok();
            let _ = with(id, |target| {
                if resumed {
                    let name = target.device();
                    pr_info!("network logging resumed on interface {}\n", text::Lossy(name.bytes()));
                } else {
                    target.state = State::Disabled;
                }
                Ok(())
            });
        }
        let mut complete = true;
        let mut last = None;
        while let Some(id) = TARGETS.with(|targets| {
            let waits = |target: &&mut KBox<Target>| target.retry && last.is_none_or(|last: Id| target.id.0 > last.0);
            Some(targets.iter_mut().find(waits)?.id)
        }) {
            last = Some(id);
            if switch_on(id, false).is_ok() {
                let settings = with(id, |target| {
                    let kind = target.settings.kind.name();
                    pr_info!("{} begins on interface {}\n", kind, text::Lossy(target.device().bytes()));
                    Ok(target.settings)
                });
                if let Ok(settings) = settings {
                    outlet::console(&settings).register();
                }
            } else {
                complete = false;
            }
        }
        if let Some(id) = misrouted() {
            let device = with(id, |target| {
                target.state = State::Disabled;
                target.retry = true;
                Ok(target.leave())
            });
            close(device.ok().flatten());
            let _ = switch_on(id, true);
            complete = false;
        }
        follow_next_hops() && complete
    });
    let waiting = TARGETS.with(|targets| targets.iter().any(|target| target.is_followed() || target.retry));
    if waiting {
        WORK.later(if complete { REFRESH } else { RETRY });
    }
}

/// Switches a kind of system data on or off.
pub fn set_sysdata(id: Id, sysdata: Sysdata, on: bool) -> Result {
    with(id, |target| {
        let bits = &target.shared.sysdata;
        if on {
            bits.fetch_or(sysdata as u32, Ordering::Relaxed);
        } else {
            bits.fetch_and(!(sysdata as u32), Ordering::Relaxed);
        }
        Ok(())
    })
}

/// Which key of a target's user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u64);

/// Adds a key without a value.
pub fn add_key(id: Id, key: &CStr) -> Result<Key> {
    if key.to_bytes().len() > MAX_KEY {
        return Err(ENAMETOOLONG);
    }
    with(id, |target| {
        if target.userdata.len() >= MAX_KEYS {
            return Err(ENOSPC);
        }
        let datum = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut name = KVec::new();
        name.extend_from_slice(key.to_bytes(), GFP_KERNEL)?;
        target.userdata.push(Userdatum { id: datum, key: name, value: KVec::new() }, GFP_KERNEL)?;
        Ok(Key(datum))
    })
}

/// Takes a key away.
pub fn remove_key(id: Id, key: Key) {
    let _ = with(id, |target| {
        target.userdata.retain(|datum| datum.id != key.0);
        // Without memory the key stays in the records until the next change.
        target.update_userdata()
    });
}

/// Sets the value of a key. `len` is what was written, of which `text` is the part before a NUL.
pub fn set_value(id: Id, key: Key, text: &CStr, len: usize) -> Result {
    if len > MAX_VALUE {
        return Err(EMSGSIZE);
    }
    let text = text.to_bytes();
    let mut new = KVec::new();
    new.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text), GFP_KERNEL)?;
    with(id, |target| {
        let find = |target: &mut Target| target.userdata.iter().position(|datum| datum.id == key.0);
        let at = find(target).ok_or(ENOENT)?;
        let Some(datum) = target.userdata.get_mut(at) else { return Err(ENOENT) };
        let old = core::mem::replace(&mut datum.value, new);
        let updated = target.update_userdata();
        if let (Err(_), Some(datum)) = (&updated, target.userdata.get_mut(at)) {
            datum.value = old;
        }
        updated
    })
}

/// Calls `f` with the value of a key.
pub fn value(id: Id, key: Key, f: impl FnOnce(&[u8]) -> Result) -> Result {
    with(id, |target| {
        let datum = target.userdata.iter().find(|datum| datum.id == key.0).ok_or(ENOENT)?;
        f(&datum.value)
    })
}
