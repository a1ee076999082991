// SPDX-License-Identifier: GPL-2.0-only

//! The targets in configfs: `/sys/kernel/config/netconsole/<target>/`. Names, permissions, texts and errors are
//! upstream's (Documentation/networking/netconsole.rst); `type` and `syslog_format` are ours.

use super::outlet::Sysdata;
use super::settings::{DeviceName, Kind, Settings, ShowMac, SyslogFormat, BROADCAST};
use super::sys::configfs::{Attribute, Entry, Input, ParentOf, Subsystem, Tree};
use super::sys::netdev::NAME_LEN;
use super::sys::page::Page;
use super::sys::text;
use super::targets::{self, Id, Key, State, Target};
use core::ffi::CStr;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use kernel::prelude::*;

/// The subsystem `netconsole`.
pub struct Netconsole;

/// A directory: the target, and its name for messages.
pub struct Directory {
    id: Id,
    name: KVec<u8>,
}

impl Tree for Netconsole {
    type Top = Directory;
    type Leaf = Key;
    const NAME: &'static CStr = c"netconsole";
    const DEFAULT_GROUP: &'static CStr = c"userdata";

    fn make_top(name: &CStr) -> Result<Directory> {
        let mut copy = KVec::new();
        copy.extend_from_slice(name.to_bytes(), GFP_KERNEL)?;
        Ok(Directory { id: targets::make(name)?, name: copy })
    }

    fn drop_top(top: &Directory) {
        targets::remove(top.id);
    }

    fn make_leaf(top: &Directory, name: &CStr) -> Result<Key> {
        targets::add_key(top.id, name)
    }

    fn drop_leaf(top: &Directory, leaf: &Key) {
        targets::remove_key(top.id, *leaf);
    }
}

/// Registers the subsystem.
pub fn register(owner: &'static ThisModule) -> Result<Subsystem<Netconsole>> {
    let mut top = KVec::new();
    for entry in [
        Entry::top::<Enabled>(),
        Entry::top::<Extended>(),
        Entry::top::<Release>(),
        Entry::top::<DevName>(),
        Entry::top::<LocalPort>(),
        Entry::top::<RemotePort>(),
        Entry::top::<LocalIp>(),
        Entry::top::<RemoteIp>(),
        Entry::top::<LocalMac>(),
        Entry::top::<RemoteMac>(),
        Entry::top::<TransmitErrors>(),
        Entry::top::<Type>(),
        Entry::top::<Format>(),
    ] {
        top.push(entry, GFP_KERNEL)?;
    }
    let mut userdata = KVec::new();
    for entry in [
        Entry::default_group::<CpuNr>(),
        Entry::default_group::<Taskname>(),
        Entry::default_group::<ReleaseData>(),
        Entry::default_group::<Msgid>(),
    ] {
        userdata.push(entry, GFP_KERNEL)?;
    }
    let mut leaf = KVec::new();
    leaf.push(Entry::leaf::<Value>(), GFP_KERNEL)?;
    Subsystem::register(owner, top, userdata, leaf)
}

const READ: u16 = 0o444;
const READ_WRITE: u16 = 0o644;

fn line(page: &mut Page, text: core::fmt::Arguments<'_>) -> Result {
    // What does not fit in a page is cut.
    let _ = page.write_fmt(text);
    let _ = page.write_str("\n");
    Ok(())
}

fn change(of: &Directory, f: impl FnOnce(&mut Settings) -> Result) -> Result {
    targets::change(of.id, &of.name, f)
}

/// An attribute of a target: how it is shown, and what writing to it does.
macro_rules! attribute {
    ($type:ident, $name:literal, $mode:expr, |$target:ident, $page:ident| $show:expr, |$of:pat_param, $input:pat_param| $store:expr) => {
        struct $type;

        impl Attribute for $type {
            type Of = Directory;
            const NAME: &'static CStr = $name;
            const MODE: u16 = $mode;

            fn show(of: &Directory, $page: &mut Page) -> Result {
                targets::with(of.id, |$target: &mut Target| $show)
            }

            fn store($of: &Directory, $input: &Input<'_>) -> Result {
                $store
            }
        }
    };
}

attribute!(
    Enabled,
    c"enabled",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", u8::from(target.state == State::Enabled))),
    |of, input| targets::switch(of.id, input.text)
);

attribute!(
    Extended,
    c"extended",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", u8::from(target.settings.extended))),
    |of, input| change(of, |settings| {
        settings.extended = text::boolean(input.text)?;
        Ok(())
    })
);

attribute!(
    Release,
    c"release",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", u8::from(target.settings.release))),
    |of, input| change(of, |settings| {
        settings.release = text::boolean(input.text)?;
        Ok(())
    })
);

attribute!(
    DevName,
    c"dev_name",
    READ_WRITE,
    |target, page| {
        // A name need not be text.
        let _ = page.write_bytes(target.device().bytes());
        let _ = page.write_str("\n");
        Ok(())
    },
    |of, input| {
        let written = input.bytes.strip_suffix(b"\n").unwrap_or(input.bytes);
        if written.len() >= NAME_LEN {
            return Err(ENAMETOOLONG);
        }
        change(of, |settings| {
            let name = DeviceName::cut(input.text.to_bytes());
            let name = name.bytes();
            settings.device = Some(DeviceName::cut(name.strip_suffix(b"\n").unwrap_or(name)));
            Ok(())
        })
    }
);

attribute!(
    LocalPort,
    c"local_port",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", target.settings.local_port())),
    |of, input| change(of, |settings| {
        settings.local_port = Some(text::decimal16(input.text)?);
        Ok(())
    })
);

attribute!(
    RemotePort,
    c"remote_port",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", target.settings.remote_port())),
    |of, input| change(of, |settings| {
        settings.remote_port = Some(text::decimal16(input.text)?);
        Ok(())
    })
);

attribute!(
    LocalIp,
    c"local_ip",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", text::ShowIp(target.settings.addresses.local()))),
    |of, input| change(of, |settings| {
        settings.addresses.set_local(text::ip(input.text).ok_or(EINVAL)?);
        Ok(())
    })
);

attribute!(
    RemoteIp,
    c"remote_ip",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", text::ShowIp(target.settings.addresses.remote()))),
    |of, input| change(of, |settings| {
        settings.addresses.set_remote(text::ip(input.text).ok_or(EINVAL)?);
        Ok(())
    })
);

attribute!(
    LocalMac,
    c"local_mac",
    READ,
    |target, page| line(page, format_args!("{}", ShowMac(target.local_mac().unwrap_or(BROADCAST)))),
    |_, _| Err(EACCES)
);

attribute!(
    RemoteMac,
    c"remote_mac",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", ShowMac(target.remote_mac()))),
    |of, input| change(of, |settings| {
        const LEN: usize = 17;
        let mac = text::mac(input.text).ok_or(EINVAL)?;
        if !matches!(input.text.to_bytes().get(LEN), None | Some(b'\n')) {
            return Err(EINVAL);
        }
        settings.remote_mac = Some(mac);
        Ok(())
    })
);

attribute!(
    TransmitErrors,
    c"transmit_errors",
    READ,
    |target, page| line(page, format_args!("{}", target.shared.errors())),
    |_, _| Err(EACCES)
);

attribute!(
    Type,
    c"type",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", target.settings.kind.name())),
    |of, input| change(of, |settings| {
        let kinds = Kind::ALL.into_iter();
        settings.kind = one_of(kinds, Kind::name, input)?;
        Ok(())
    })
);

attribute!(
    Format,
    c"syslog_format",
    READ_WRITE,
    |target, page| line(page, format_args!("{}", target.settings.syslog_format.name())),
    |of, input| change(of, |settings| {
        let formats = SyslogFormat::ALL.into_iter();
        settings.syslog_format = one_of(formats, SyslogFormat::name, input)?;
        Ok(())
    })
);

fn one_of<T: Copy>(mut values: impl Iterator<Item = T>, name: fn(T) -> &'static str, input: &Input<'_>) -> Result<T> {
    let written = input.bytes.strip_suffix(b"\n").unwrap_or(input.bytes);
    values.find(|value| name(*value).as_bytes() == written).ok_or(EINVAL)
}

/// A switch for one kind of system data.
macro_rules! sysdata {
    ($type:ident, $name:literal, $bit:expr) => {
        attribute!(
            $type,
            $name,
            READ_WRITE,
            |target, page| {
                let on = target.shared.sysdata.load(Ordering::Relaxed) & $bit as u32 != 0;
                line(page, format_args!("{}", u8::from(on)))
            },
            |of, input| targets::set_sysdata(of.id, $bit, text::boolean(input.text)?)
        );
    };
}

sysdata!(CpuNr, c"cpu_nr_enabled", Sysdata::Cpu);
sysdata!(Taskname, c"taskname_enabled", Sysdata::Task);
sysdata!(ReleaseData, c"release_enabled", Sysdata::Release);
sysdata!(Msgid, c"msgid_enabled", Sysdata::MessageId);

/// The value of a key of user data.
struct Value;

impl Attribute for Value {
    type Of = (Key, ParentOf<Netconsole>);
    const NAME: &'static CStr = c"value";
    const MODE: u16 = READ_WRITE;

    fn show((key, target): &Self::Of, page: &mut Page) -> Result {
        targets::value(target.get().id, *key, |value| {
            let _ = page.write_bytes(value);
            let _ = page.write_str("\n");
            Ok(())
        })
    }

    fn store((key, target): &Self::Of, input: &Input<'_>) -> Result {
        targets::set_value(target.get().id, *key, input.text, input.bytes.len())
    }
}
