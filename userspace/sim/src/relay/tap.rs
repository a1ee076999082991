// SPDX-License-Identifier: GPL-2.0-or-later
//! Opening a TAP device, for which no interface but an ioctl exists.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// Attaches to the TAP device `name` in the network namespace of this process, which is made if it is not there.
/// A read gives one Ethernet frame, a write sends one; neither blocks.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let mut request =
        IfReq { name: [0; libc::IFNAMSIZ], flags: (libc::IFF_TAP | libc::IFF_NO_PI) as u16, pad: [0; 22] };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: no name for a device")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which `request` is in size and layout, and which lives
    // until the call returns; the descriptor is open.
    unsafe { tun_set_iff(tun.as_raw_fd(), std::ptr::from_mut(&mut request) as libc::c_ulong) }?;
    Ok(tun)
}

/// `struct ifreq` with the member `ifr_flags` of its union.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    pad: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());
