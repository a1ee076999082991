// SPDX-License-Identifier: GPL-2.0-or-later
//! The ends of the relay: a TAP device, or one end of a QEMU `-netdev dgram`.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::socket::{self, sockopt, MsgFlags, MultiHeaders, SockaddrStorage};

use super::tap;

/// The largest frame that is relayed: an Ethernet frame of a 1500-byte link with a VLAN tag, or anything a test
/// needs beyond that.
pub const MAX_FRAME: usize = 9216;

/// Frames that one call receives or sends at most.
pub const BATCH: usize = 64;

/// Asked for as socket buffer: what a guest sends in a burst must not be lost before it is counted.
const SOCKET_BUFFER: usize = 8 << 20;

/// An end as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointName {
    /// `tap:NAME`.
    Tap(String),
    /// `udp:LOCAL,REMOTE`, each an address and a port.
    Udp {
        /// Where we receive.
        local: SocketAddr,
        /// Where we send, and from where alone we take frames.
        remote: SocketAddr,
    },
}

impl FromStr for EndpointName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("tap:") {
            return Ok(EndpointName::Tap(name.to_owned()));
        }
        let pair = text.strip_prefix("udp:").and_then(|rest| rest.split_once(','));
        let (local, remote) = pair.ok_or_else(|| format!("{text}: neither tap:NAME nor udp:LOCAL,REMOTE"))?;
        let address = |part: &str| part.parse().map_err(|e| format!("{part}: {e}"));
        Ok(EndpointName::Udp { local: address(local)?, remote: address(remote)? })
    }
}

/// An open end.
#[derive(Debug)]
pub enum Endpoint {
    /// A TAP device.
    Tap(File),
    /// A connected socket and what its batches need.
    Udp(Box<Udp>),
}

impl Endpoint {
    /// Opens the end of that name.
    pub fn open(name: &EndpointName) -> io::Result<Self> {
        match name {
            EndpointName::Tap(name) => Ok(Endpoint::Tap(tap::open(name)?)),
            EndpointName::Udp { local, remote } => Ok(Endpoint::Udp(Box::new(Udp::open(*local, *remote)?))),
        }
    }

    /// An end that is a socket of the caller's, connected to `remote`.
    pub fn from_socket(socket: UdpSocket, remote: SocketAddr) -> io::Result<Self> {
        Ok(Endpoint::Udp(Box::new(Udp::new(socket, remote)?)))
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Endpoint::Tap(file) => file.as_fd(),
            Endpoint::Udp(udp) => udp.socket.as_fd(),
        }
    }

    /// Receives frames that are there into the front of `frames`, each cut to its length, and returns their number.
    /// The buffers must have [`MAX_FRAME`] bytes.
    pub fn receive(&mut self, frames: &mut [Vec<u8>]) -> io::Result<usize> {
        match self {
            Endpoint::Tap(file) => {
                for (count, frame) in frames.iter_mut().enumerate() {
                    match file.read(frame) {
                        Ok(len) => frame.truncate(len),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(count),
                        // A device that is down has no frames; it may come up again.
                        Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(count),
                        Err(e) => return Err(e),
                    }
                }
                Ok(frames.len())
            }
            Endpoint::Udp(udp) => udp.receive(frames),
        }
    }

    /// Sends `frames` and returns how many could be sent; the others found no room or no listener.
    pub fn send(&mut self, frames: &[Vec<u8>]) -> io::Result<usize> {
        match self {
            Endpoint::Tap(file) => {
                let mut sent = 0;
                for frame in frames {
                    match file.write(frame) {
                        Ok(_) => sent += 1,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        // EIO: the device is down. EINVAL: a frame too short for a header.
                        Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::ENOBUFS)) => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(sent)
            }
            Endpoint::Udp(udp) => udp.send(frames),
        }
    }
}

/// A socket that takes and sends frames in batches.
pub struct Udp {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrStorage>,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Udp {
    fn open(local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        Self::new(UdpSocket::bind(local)?, remote)
    }

    fn new(socket: UdpSocket, remote: SocketAddr) -> io::Result<Self> {
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        // Beyond the system's limit only with CAP_NET_ADMIN.
        if socket::setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
            socket::setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        }
        socket::setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
        Ok(Udp { socket, headers: MultiHeaders::preallocate(BATCH, None) })
    }

    fn receive(&mut self, frames: &mut [Vec<u8>]) -> io::Result<usize> {
        let mut lengths = [0usize; BATCH];
        let mut count = 0;
        {
            let mut slices: Vec<_> = frames.iter_mut().take(BATCH).map(|f| [IoSliceMut::new(f)]).collect();
            let fd = self.socket.as_raw_fd();
            match socket::recvmmsg(fd, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(messages) => {
                    for (message, len) in messages.zip(&mut lengths) {
                        *len = message.bytes;
                        count += 1;
                    }
                }
                // A port unreachable of an earlier frame is no reason to stop: QEMU may start later.
                Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        for (frame, len) in frames.iter_mut().zip(&lengths[..count]) {
            frame.truncate(*len);
        }
        Ok(count)
    }

    fn send(&mut self, frames: &[Vec<u8>]) -> io::Result<usize> {
        let mut sent = 0;
        let mut refused = 0;
        while sent + refused < frames.len() {
            let batch: Vec<_> = frames[sent + refused..].iter().take(BATCH).map(|f| [IoSlice::new(f)]).collect();
            let addresses = vec![None; batch.len()];
            let flags = MsgFlags::MSG_DONTWAIT;
            match socket::sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &batch, &addresses, [], flags) {
                // At least one went out, or there would be an error.
                Ok(results) => sent += results.count().max(1),
                // The error of an earlier frame; this one was not tried, and would meet the same.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => refused += 1,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!("tap:nd0".parse(), Ok(EndpointName::Tap("nd0".into())));
        let udp = "udp:127.0.0.1:7001,127.0.0.1:7002".parse();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(udp, Ok(EndpointName::Udp { local: address(7001), remote: address(7002) }));
        for bad in ["", "eth0", "udp:127.0.0.1:7001", "udp:1,2"] {
            assert!(bad.parse::<EndpointName>().is_err(), "{bad}");
        }
    }
}
