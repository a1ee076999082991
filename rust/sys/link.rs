// SPDX-License-Identifier: GPL-2.0-only

//! A device that datagrams are sent through, one after the other: by netpoll while all is well.

use super::bindings;
use super::netdev::Device;
use crate::wire::frame::{Fill, Path, UdpHeaders};
use core::ffi::c_uint;
use kernel::sync::Arc;

const NET_XMIT_DROP: i32 = 1;

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is on its way, or will be soon.
    Yes,
    /// The device does not take frames.
    Dropped,
    /// There was no memory for it.
    NoMemory,
}

/// The device, and the count of what went through it.
pub struct Link {
    device: Arc<Device>,
    ident: u16,
}

impl Link {
    /// For a device that is set up.
    pub fn new(device: Arc<Device>) -> Self {
        Self { device, ident: 0 }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sends a datagram through netpoll. Interrupts are off; not for panics.
    pub fn send(&mut self, path: Path, payload: &[u8]) -> Sent {
        let dev = self.device.raw();
        self.ident = self.ident.wrapping_add(1);
        let headers_len = path.headers_len();
        let frame_len = headers_len + payload.len();
        // SAFETY: The device is held and set up; interrupts are off, as netpoll wants it. The buffer is ours until it
        // is given away, and has as much room as is asked for.
        unsafe {
            bindings::netpoll_zap_completion_queue();
            let headroom = bindings::nd_headroom(dev);
            let skb = find(dev, headroom + frame_len as c_uint + bindings::nd_tailroom(dev));
            if skb.is_null() {
                return Sent::NoMemory;
            }
            bindings::nd_skb_reserve(skb, headroom);
            bindings::skb_put(skb, frame_len as c_uint);
            let frame = core::slice::from_raw_parts_mut((*skb).data, frame_len);
            if let Some(to) = frame.get_mut(headers_len..) {
                to.copy_from_slice(payload);
            }
            let Some(emitted) = UdpHeaders::new(path).emit(frame, payload.len(), self.ident, Fill::Full) else {
                bindings::nd_kfree_skb(skb);
                return Sent::Dropped;
            };
            let ipv6 = path.local.is_ipv6();
            bindings::nd_skb_offsets(skb, emitted.ip as c_uint, emitted.udp as c_uint, ipv6, 0);
            (*skb).__bindgen_anon_1.__bindgen_anon_1.__bindgen_anon_1.dev = dev;
            if bindings::netpoll_send_skb(self.device.netpoll(), skb) as i32 == NET_XMIT_DROP {
                return Sent::Dropped;
            }
        }
        Sent::Yes
    }
}

/// A buffer; where there is no memory, the driver may have some to give back.
///
/// # Safety
///
/// `dev` is held and set up, and interrupts are off.
unsafe fn find(dev: *mut bindings::net_device, size: c_uint) -> *mut bindings::sk_buff {
    for _ in 0..10 {
        // SAFETY: By this function's contract.
        unsafe {
            let skb = bindings::nd_alloc_skb_atomic(size);
            if !skb.is_null() {
                return skb;
            }
            bindings::netpoll_poll_dev(dev);
        }
    }
    core::ptr::null_mut()
}
