// SPDX-License-Identifier: GPL-2.0-or-later
//! What the machine can do at most: the same bytes in datagrams of the same length, with the same system calls as a dump, and
//! nothing else.
//!
//! One process copies a [`Corpus`] into datagrams and sends them ([`Burst`]); the other receives them (UDP_GRO, `recvmmsg`),
//! copies them together and writes them to a file. Credit keeps what is on its way below what the receive buffer holds.
//! Nothing is repeated: a datagram that is lost is an error.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use netdump_core::wire::v6::cluster::PIECE_HEADER_LEN;
use netdump_core::wire::v6::secure::{Crypto, KEY_LEN};
use netdump_core::wire::v6::{HEADER_LEN, TAG_LEN};
use netdump_session::Ring;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recvmmsg, setsockopt, sockopt, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage};
use serde::Serialize;

use crate::burst::{Burst, MAX_DATAGRAM};
use crate::corpus::Corpus;
use crate::units::cpu_seconds;

/// Bytes in front of the data in each datagram: as many as a dump has there. The first eight are the place of the data.
const HEADER: usize = HEADER_LEN + PIECE_HEADER_LEN;
/// What sealed datagrams are sealed with: it is for the cost, not for a secret.
const KEY: [u8; KEY_LEN] = [0x5a; KEY_LEN];
/// Bytes that are copied together and written at once: about a cluster of sixteen pages.
const WRITE: usize = 1 << 16;
/// Slots of one `recvmmsg`, and bytes of a slot: as the server has them.
const BATCH: usize = 64;
const SLOT: usize = 65_536;
/// Receive buffer asked for, bytes: the server's default.
const RECEIVE_BUFFER: usize = 32 << 20;
/// Nobody waits longer for the other, ms.
const PATIENCE: u16 = 60_000;
/// Datagrams between two looks for credit.
const TURN: usize = 256;

/// What came of one end.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BareReport {
    /// Data, without headers.
    pub bytes: u64,
    /// From the first datagram until all was written, s.
    pub seconds: f64,
    /// 10^9 bytes of data a second.
    pub gigabytes_per_second: f64,
    /// What this end used of the CPU in that time, s.
    pub cpu_seconds: f64,
    /// System calls of the receiver that brought something; 0 at the sender.
    pub batches: u64,
}

impl BareReport {
    fn new(bytes: u64, (began, cpu): (Instant, f64), batches: u64) -> Self {
        let seconds = began.elapsed().as_secs_f64();
        let gigabytes_per_second = bytes as f64 / 1e9 / seconds;
        BareReport { bytes, seconds, gigabytes_per_second, cpu_seconds: cpu_seconds() - cpu, batches }
    }
}

fn gave_up(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came from the {what}"))
}

fn wait(fd: &impl AsFd, what: &str) -> io::Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE)) {
        Ok(0) => Err(gave_up(what)),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends `corpus` to `to` in datagrams of `datagram` bytes, of which no more than `window` bytes are on their way. `sealed`: each
/// is sealed as in a dump, by the same library.
///
/// # Errors
///
/// What the socket says, and if the receiver says nothing any more.
pub fn send(corpus: &Corpus, to: SocketAddrV4, datagram: usize, window: u64, sealed: bool) -> io::Result<BareReport> {
    let tag = if sealed { TAG_LEN } else { 0 };
    if !(HEADER + TAG_LEN + 1..=MAX_DATAGRAM).contains(&datagram) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut burst = Burst::new(socket, SocketAddr::V4(to), true)?;
    let bytes = corpus.bytes();
    let began = (Instant::now(), cpu_seconds());
    let (mut sent, mut written) = (0, 0u64);
    loop {
        let mut heard = false;
        let mut more = true;
        while more {
            more = burst.receive(|credit| {
                written = credit.first_chunk().map_or(written, |at| u64::from_be_bytes(*at).max(written));
                heard = true;
            })?;
        }
        if written == bytes.len() as u64 {
            break;
        }
        let mut turn = 0;
        while sent < bytes.len() && (sent as u64) < written + window && turn < TURN {
            // As in a dump each block ends with a shorter datagram.
            let block = (sent / WRITE + 1) * WRITE;
            let data = &bytes[sent..bytes.len().min(block).min(sent + datagram - HEADER - tag)];
            let room = burst.room();
            room[..8].copy_from_slice(&(sent as u64).to_be_bytes());
            room[HEADER..HEADER + data.len()].copy_from_slice(data);
            let len = HEADER + data.len() + tag;
            let (aad, rest) = room[..len].split_at_mut(HEADER_LEN);
            if sealed && !Ring.seal(&KEY, sent as u64, aad, rest) {
                return Err(io::Error::other("a datagram could not be sealed"));
            }
            burst.push(len)?;
            sent += data.len();
            turn += 1;
        }
        burst.flush()?;
        if burst.unsent() > 0 {
            return Err(io::Error::other("a datagram could not be sent"));
        }
        if turn == 0 && !heard {
            wait(&burst.fd(), "receiver")?;
        }
    }
    Ok(BareReport::new(bytes.len() as u64, began, 0))
}

/// A socket to [`receive`] at: whoever sends to it before that loses nothing.
///
/// # Errors
///
/// What the system says.
pub fn listen(at: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    // Without it each datagram comes by itself, which is only slower.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    Ok(socket)
}

/// Receives `len` bytes of data at `socket` and writes them to a new `file`; says after each `every` bytes how much that was.
/// `sealed` is that of the sender.
///
/// # Errors
///
/// What socket and file say, if a datagram is missing or makes no sense, and if the sender says nothing any more.
pub fn receive(socket: &UdpSocket, file: &Path, len: u64, every: u64, sealed: bool) -> io::Result<BareReport> {
    let file = File::create_new(file)?;
    file.set_len(len)?;
    let mut slots: Vec<_> = (0..BATCH).map(|_| vec![0; SLOT]).collect();
    let mut block = Block { file, bytes: vec![0; WRITE], at: 0, filled: 0, len };
    let (mut said, mut batches) = (0, 0);
    let mut began = None;
    while block.done() < len {
        let mut filled = [(0usize, 0usize); BATCH];
        let mut peer = None;
        let count = {
            let space = cmsg_space!(i32);
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(space));
            let mut slices: Vec<_> = slots.iter_mut().map(|slot| [IoSliceMut::new(slot)]).collect();
            match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(messages) => messages
                    .zip(&mut filled)
                    .map(|(message, (len, segment))| {
                        *len = message.bytes.min(SLOT);
                        for control in message.cmsgs().into_iter().flatten() {
                            if let ControlMessageOwned::UdpGroSegments(size) = control {
                                *segment = usize::try_from(size).unwrap_or(0);
                            }
                        }
                        peer = message.address;
                    })
                    .count(),
                Err(Errno::EAGAIN | Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            }
        };
        if count == 0 {
            wait(socket, "sender")?;
            continue;
        }
        batches += 1;
        began.get_or_insert_with(|| (Instant::now(), cpu_seconds()));
        for (slot, (len, segment)) in slots.iter_mut().zip(&filled[..count]) {
            let segment = if *segment == 0 { *len } else { *segment };
            for datagram in slot[..*len].chunks_mut(segment.max(1)) {
                block.take(if sealed { open(datagram, block.done())? } else { datagram })?;
            }
        }
        if block.done() - said >= every || block.done() == len {
            said = block.done();
            let name = peer.as_ref().and_then(|name| name.as_sockaddr_in()).map(|name| SocketAddrV4::from(*name));
            socket
                .send_to(&said.to_be_bytes(), name.ok_or_else(|| io::Error::other("a sender without an address"))?)?;
        }
    }
    Ok(BareReport::new(len, began.unwrap_or_else(|| (Instant::now(), cpu_seconds())), batches))
}

/// Opens a datagram in place; it is the one that carries the data from `at` on. What is left of it without its tag.
fn open(datagram: &mut [u8], at: u64) -> io::Result<&[u8]> {
    let len = datagram.len().saturating_sub(TAG_LEN);
    let parts = datagram.split_at_mut_checked(HEADER_LEN);
    if !parts.is_some_and(|(aad, rest)| Ring.open(&KEY, at, aad, rest)) {
        return Err(io::Error::other(format!("a datagram is missing at {at}, or was not sealed")));
    }
    Ok(&datagram[..len])
}

/// What was copied together and not yet written.
struct Block {
    file: File,
    bytes: Vec<u8>,
    at: u64,
    filled: usize,
    /// Of all.
    len: u64,
}

impl Block {
    fn done(&self) -> u64 {
        self.at + self.filled as u64
    }

    fn take(&mut self, datagram: &[u8]) -> io::Result<()> {
        let (head, data) = datagram.split_at_checked(HEADER).unwrap_or((&[], &[]));
        if head.first_chunk().is_none_or(|at| u64::from_be_bytes(*at) != self.done()) {
            return Err(io::Error::other(format!("a datagram is missing at {}", self.done())));
        }
        let place = self.bytes.get_mut(self.filled..self.filled + data.len());
        place.ok_or_else(|| io::Error::other("a datagram is too long"))?.copy_from_slice(data);
        self.filled += data.len();
        if self.filled == self.bytes.len() || self.done() == self.len {
            self.file.write_all_at(&self.bytes[..self.filled], self.at)?;
            (self.at, self.filled) = (self.done(), 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn what_arrives_is_what_was_sent() {
        let bytes: Vec<u8> = (0..1_000_001u32).map(|n| (n * 7 / 3) as u8).collect();
        for (datagram, sealed) in [(1416, false), (8900, false), (1416, true), (8900, true)] {
            let socket = listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
            let SocketAddr::V4(to) = socket.local_addr().unwrap() else { panic!("bound to IPv4") };
            let file = std::env::temp_dir().join(format!("netdump-bare-{}-{datagram}", std::process::id()));
            let _ = std::fs::remove_file(&file);
            let path = file.clone();
            let receiver = std::thread::spawn(move || receive(&socket, &path, 1_000_001, 30_000, sealed));
            send(&Corpus::new(bytes.clone()), to, datagram, 200_000, sealed).unwrap();
            assert_eq!(receiver.join().unwrap().unwrap().bytes, 1_000_001);
            assert!(std::fs::read(&file).unwrap() == bytes);
            std::fs::remove_file(file).unwrap();
        }
    }
}
