// SPDX-License-Identifier: GPL-2.0-or-later
//! The ends of the relay: a TAP device, or one end of a QEMU `-netdev dgram`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use nix::errno::Errno;

use super::tap;
use crate::mmsg::{self, Batches};

/// The largest frame that is relayed: an Ethernet frame of a 1500-byte link with a VLAN tag, or anything a test
/// needs beyond that.
pub const MAX_FRAME: usize = 9216;

/// Frames that one call receives or sends at most.
pub const BATCH: usize = mmsg::BATCH;

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
    Udp(Udp),
}

impl Endpoint {
    /// Opens the end of that name.
    pub fn open(name: &EndpointName) -> io::Result<Self> {
        match name {
            EndpointName::Tap(name) => Ok(Endpoint::Tap(tap::open(name)?)),
            EndpointName::Udp { local, remote } => Endpoint::from_socket(UdpSocket::bind(*local)?, *remote),
        }
    }

    /// An end that is a socket of the caller's, connected to `remote`.
    pub fn from_socket(socket: UdpSocket, remote: SocketAddr) -> io::Result<Self> {
        Ok(Endpoint::Udp(Udp(Box::new(Batches::new(socket, remote)?))))
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Endpoint::Tap(file) => file.as_fd(),
            Endpoint::Udp(udp) => udp.0.fd(),
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

/// A connected socket and what its batches need.
#[derive(Debug)]
pub struct Udp(Box<Batches>);

impl Udp {
    fn receive(&mut self, frames: &mut [Vec<u8>]) -> io::Result<usize> {
        let (count, lengths) = self.0.receive(frames.iter_mut().map(Vec::as_mut_slice))?;
        for (frame, len) in frames.iter_mut().zip(&lengths[..count]) {
            frame.truncate(*len);
        }
        Ok(count)
    }

    fn send(&mut self, frames: &[Vec<u8>]) -> io::Result<usize> {
        let mut sent = 0;
        let mut refused = 0;
        while sent + refused < frames.len() {
            match self.0.send(frames[sent + refused..].iter().take(BATCH).map(Vec::as_slice)) {
                Ok(count) => sent += count,
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
