// SPDX-License-Identifier: GPL-2.0-or-later
//! A connected UDP socket that receives and sends many datagrams with one call: `recvmmsg` and `sendmmsg`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, sockopt, MsgFlags, MultiHeaders, SockaddrStorage};

/// Datagrams of one call, at most.
pub(crate) const BATCH: usize = 64;
/// Asked for as socket buffer, bytes: what comes in a burst must not be lost before it is counted.
const SOCKET_BUFFER: usize = 8 << 20;

/// The socket, and what its batches need.
pub(crate) struct Batches {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrStorage>,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Batches {
    /// Connects `socket` to `remote`; it does not block any more.
    pub(crate) fn new(socket: UdpSocket, remote: SocketAddr) -> io::Result<Self> {
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        // Beyond the system's limit only with CAP_NET_ADMIN.
        if socket::setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
            socket::setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
        }
        socket::setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
        Ok(Batches { socket, headers: MultiHeaders::preallocate(BATCH, None) })
    }

    /// The descriptor to wait on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives what is there into the first of `slots`, cut where one is too short: how many, and how long each is.
    pub(crate) fn receive<'a>(
        &mut self,
        slots: impl Iterator<Item = &'a mut [u8]>,
    ) -> io::Result<(usize, [usize; BATCH])> {
        let mut slices: Vec<_> = slots.take(BATCH).map(|slot| [IoSliceMut::new(slot)]).collect();
        let (mut count, mut lengths) = (0, [0; BATCH]);
        let fd = self.socket.as_raw_fd();
        match socket::recvmmsg(fd, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
            Ok(messages) => {
                for (message, len) in messages.zip(&mut lengths) {
                    *len = message.bytes;
                    count += 1;
                }
            }
            // A port unreachable of an earlier datagram is no reason to stop: the other end may start later.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok((count, lengths))
    }

    /// Sends `datagrams`, no more than [`BATCH`], with one call: how many went out, at least one.
    pub(crate) fn send<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>) -> nix::Result<usize> {
        let slices: Vec<_> = datagrams.map(|datagram| [IoSlice::new(datagram)]).collect();
        let addresses = vec![None; slices.len()];
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = socket::sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &slices, &addresses, [], flags)?;
        // If none did there would be an error.
        Ok(sent.count().clamp(1, slices.len().max(1)))
    }
}
