// SPDX-License-Identifier: GPL-2.0-or-later
//! A connected UDP socket that sends many datagrams with one call: those of one length as one message that the kernel cuts
//! (UDP_SEGMENT), where it can, and otherwise by `sendmmsg`.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags, SockaddrStorage};

use crate::mmsg::{Batches, BATCH};

/// The longest datagram that can be pushed: that of an Ethernet with frames of 9000 bytes.
pub const MAX_DATAGRAM: usize = 8972;
/// Bytes of one message, at most: what an IPv4 packet holds.
const MAX_TRAIN: usize = 65_507;
/// Datagrams of one message, at most (the least UDP_MAX_SEGMENTS of any kernel that has it).
const MAX_SEGMENTS: usize = 64;
/// Bytes of each datagram that is received.
const INBOUND: usize = 2048;

/// The socket, and the datagrams that wait to be sent: all of one length, but the last, which may be shorter.
pub struct Burst {
    socket: Batches,
    train: Vec<u8>,
    len: usize,
    /// Length of each.
    segment: usize,
    gso: bool,
    unsent: u64,
    inbound: Vec<u8>,
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Burst").field("socket", &self.socket).field("gso", &self.gso).finish_non_exhaustive()
    }
}

impl Burst {
    /// Connects `socket` to `remote`. With `gso` false it does without UDP_SEGMENT.
    pub fn new(socket: UdpSocket, remote: SocketAddr, gso: bool) -> io::Result<Self> {
        Ok(Burst {
            socket: Batches::new(socket, remote)?,
            train: vec![0; MAX_TRAIN + MAX_DATAGRAM],
            len: 0,
            segment: 0,
            gso,
            unsent: 0,
            inbound: vec![0; BATCH * INBOUND],
        })
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }

    /// Datagrams that found no room or no listener.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Where to write the next datagram: [`MAX_DATAGRAM`] bytes. It waits for [`flush`](Self::flush) once it was
    /// [`push`](Self::push)ed.
    pub fn room(&mut self) -> &mut [u8] {
        let at = self.len;
        &mut self.train[at..at + MAX_DATAGRAM]
    }

    /// The datagram in the [`room`](Self::room) is `len` bytes long. Those that are waiting may be sent.
    ///
    /// # Errors
    ///
    /// What the socket says, but for want of room or of a listener, which is counted.
    pub fn push(&mut self, len: usize) -> io::Result<()> {
        let (start, end) = (self.len, self.len + len);
        // A longer one begins another message, as does what comes behind a shorter one.
        let fits = len <= self.segment && start % self.segment == 0;
        let full = end > MAX_TRAIN || start >= self.segment.saturating_mul(MAX_SEGMENTS);
        if start > 0 && (!fits || full) {
            self.flush()?;
            self.train.copy_within(start..end, 0);
        }
        if self.len == 0 {
            self.segment = len.max(1);
        }
        self.len += len;
        Ok(())
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn flush(&mut self) -> io::Result<()> {
        let train = &self.train[..self.len];
        if train.is_empty() {
            return Ok(());
        }
        self.len = 0;
        let count = train.len().div_ceil(self.segment);
        let (fd, flags) = (self.socket.fd().as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        if self.gso && count > 1 {
            let segment = u16::try_from(self.segment).unwrap_or(u16::MAX);
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            match socket::sendmsg::<SockaddrStorage>(fd, &[IoSlice::new(train)], &control, flags, None) {
                Ok(_) => return Ok(()),
                // The device cannot, or the kernel is too old.
                Err(Errno::EIO | Errno::EINVAL | Errno::EOPNOTSUPP) => self.gso = false,
                Err(error) => return refused(error, count, &mut self.unsent),
            }
        }
        let datagrams: Vec<&[u8]> = train.chunks(self.segment).collect();
        for batch in datagrams.chunks(BATCH) {
            match self.socket.send(batch.iter().copied()) {
                Ok(sent) => self.unsent += (batch.len() - sent) as u64,
                Err(error) => refused(error, batch.len(), &mut self.unsent)?,
            }
        }
        Ok(())
    }

    /// Hands each datagram of a batch to `take`, cut to 2048 bytes; whether there may be more.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        let (count, lengths) = self.socket.receive(self.inbound.chunks_mut(INBOUND))?;
        for (slot, len) in self.inbound.chunks(INBOUND).zip(&lengths[..count]) {
            take(&slot[..(*len).min(INBOUND)]);
        }
        Ok(count == BATCH)
    }
}

/// Whether an error is only that these datagrams are lost.
fn refused(error: Errno, count: usize, unsent: &mut u64) -> io::Result<()> {
    match error {
        Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE | Errno::ECONNREFUSED | Errno::EINTR => {
            *unsent += count as u64;
            Ok(())
        }
        other => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_as_they_were_pushed() {
        for gso in [true, false] {
            let to = UdpSocket::bind("127.0.0.1:0").unwrap();
            let from = UdpSocket::bind("127.0.0.1:0").unwrap();
            to.connect(from.local_addr().unwrap()).unwrap();
            let mut burst = Burst::new(from, to.local_addr().unwrap(), gso).unwrap();
            // Alike, a shorter one, longer ones, more than a message holds.
            let lengths = [&[100; 5][..], &[99, 100, 100, 500, 500], &[1; 70], &[8972; 9], &[3]].concat();
            let mut buf = [0; 9000];
            for part in lengths.chunks(30) {
                for (n, len) in part.iter().enumerate() {
                    burst.room()[..*len].fill(n as u8);
                    burst.push(*len).unwrap();
                }
                burst.flush().unwrap();
                for (n, len) in part.iter().enumerate() {
                    assert_eq!(to.recv(&mut buf).unwrap(), *len, "number {n}");
                    assert!(buf[..*len].iter().all(|byte| *byte == n as u8));
                }
            }
            assert_eq!(burst.unsent(), 0);
            for n in 0..100u8 {
                to.send(&[n; 9]).unwrap();
            }
            let mut got = Vec::new();
            while burst.receive(|datagram| got.push((datagram[0], datagram.len()))).unwrap() {}
            assert_eq!(got, (0..100).map(|n| (n, 9)).collect::<Vec<_>>());
        }
    }
}
