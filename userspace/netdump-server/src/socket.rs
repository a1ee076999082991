// SPDX-License-Identifier: GPL-2.0-or-later
//! The one UDP socket: many datagrams per system call in both directions, drops counted.
//!
//! 60 MB/s of memory are 61,000 datagrams a second, so a call for each would cost more than the work. Receiving
//! uses `recvmmsg` and UDP GRO, sending one GSO call per client and round, or `sendmmsg` where the device or the
//! kernel has no GSO. Answers leave from the address that the client wrote to, because a client listens to that
//! one only.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    bind, getsockname, recvmmsg, sendmmsg, sendmsg, setsockopt, socket, sockopt, AddressFamily, ControlMessage,
    ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage,
};

use crate::config::Settings;

/// Slots of one `recvmmsg`.
const BATCH: usize = 64;
/// Size of a slot: what GRO can put together.
const SLOT: usize = 65_536;
/// Datagrams of one send call (the least UDP_MAX_SEGMENTS of any kernel with GSO).
const MAX_SEGMENTS: usize = 64;
/// Send buffer asked for: a window of requests for every client.
const SEND_BUFFER: usize = 4 << 20;

/// Where a datagram came from and at which of our addresses it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The peer; IPv4 as IPv4 whatever the socket's family.
    pub peer: SocketAddr,
    /// Our address, where the kernel told it.
    pub local: Option<IpAddr>,
}

/// What a send came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams that it refused; the session sends such again as if they were lost.
    pub refused: usize,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Sent) {
        self.sent += other.sent;
        self.refused += other.refused;
    }
}

/// The bound socket: two halves, so that answers can be sent while received datagrams are looked at.
pub struct Socket {
    /// Takes datagrams in.
    pub receiver: Receiver,
    /// Sends them.
    pub sender: Sender,
}

/// The half that receives, with its buffers.
pub struct Receiver {
    fd: OwnedFd,
    slots: Vec<Vec<u8>>,
    /// What is in the first slots.
    filled: Vec<Filled>,
    rcvbuf: usize,
    overflow: u32,
    drops: u64,
}

/// One slot after a batch.
#[derive(Debug, Clone, Copy)]
struct Filled {
    path: Path,
    /// Bytes.
    len: usize,
    /// The length of all datagrams in it but the last, which may be shorter.
    segment: usize,
}

/// The datagrams in a slot. `segment` is what the kernel said that each is long, or 0 if it said nothing: then there is one.
pub fn split(slot: &mut [u8], segment: usize) -> impl Iterator<Item = &mut [u8]> {
    // Also an empty datagram is one.
    let (alone, many) = if segment == 0 || slot.len() <= segment { (Some(slot), None) } else { (None, Some(slot)) };
    alone.into_iter().chain(many.into_iter().flat_map(move |slot| slot.chunks_mut(segment)))
}

/// The half that sends.
pub struct Sender {
    fd: OwnedFd,
    v6: bool,
    gso: bool,
}

impl Socket {
    /// Binds to the configured address; without one to all of IPv6 and IPv4, or to IPv4 where there is no IPv6.
    pub fn bind(settings: &Settings) -> io::Result<Socket> {
        match settings.addr {
            Some(addr) => Socket::open(SocketAddr::new(addr, settings.port), settings.rcvbuf),
            None => {
                let all = |ip| SocketAddr::new(ip, settings.port);
                match Socket::open(all(Ipv6Addr::UNSPECIFIED.into()), settings.rcvbuf) {
                    Err(error) if no_ipv6(&error) => Socket::open(all(Ipv4Addr::UNSPECIFIED.into()), settings.rcvbuf),
                    other => other,
                }
            }
        }
    }

    fn open(addr: SocketAddr, rcvbuf: usize) -> io::Result<Socket> {
        let v6 = addr.is_ipv6();
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        if v6 {
            setsockopt(&fd, sockopt::Ipv6V6Only, &!addr.ip().is_unspecified())?;
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        }
        // Beyond rmem_max only with CAP_NET_ADMIN; without it the kernel silently gives what it allows.
        if setsockopt(&fd, sockopt::RcvBufForce, &rcvbuf).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &rcvbuf)?;
        }
        let got = nix::sys::socket::getsockopt(&fd, sockopt::RcvBuf)?;
        if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER)?;
        }
        setsockopt(&fd, sockopt::RxqOvfl, &1)?;
        // An old kernel without it delivers datagrams one by one, which is only slower.
        let _ = setsockopt(&fd, sockopt::UdpGroSegment, &true);
        match addr {
            SocketAddr::V4(v4) => bind(fd.as_raw_fd(), &SockaddrIn::from(v4))?,
            SocketAddr::V6(v6) => bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?,
        }
        let slots = (0..BATCH).map(|_| vec![0; SLOT]).collect();
        // The kernel doubles what is asked for, for its own book-keeping.
        let sender = Sender { fd: fd.try_clone()?, v6, gso: true };
        Ok(Socket {
            receiver: Receiver { fd, slots, filled: Vec::new(), rcvbuf: got / 2, overflow: 0, drops: 0 },
            sender,
        })
    }
}

impl Receiver {
    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let name: SockaddrStorage = getsockname(self.fd.as_raw_fd())?;
        socket_addr(&name).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The receive buffer that the kernel granted, in bytes as they are asked for.
    pub fn rcvbuf(&self) -> usize {
        self.rcvbuf
    }

    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// The same socket for the reactor, which tells when there is something to receive.
    pub fn readiness(&self) -> io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.fd.try_clone()?.into())
    }

    /// Hands the datagrams of one batch to `each`, which may do with their bytes what it likes: those that the kernel has put
    /// together as one slice, and the length of each to [`split`] it. `WouldBlock` if there are none.
    pub fn receive(&mut self, mut each: impl FnMut(Path, &mut [u8], usize)) -> io::Result<()> {
        self.fill()?;
        for (slot, filled) in self.slots.iter_mut().zip(&self.filled) {
            each(filled.path, &mut slot[..filled.len], filled.segment);
        }
        Ok(())
    }

    /// Receives one batch.
    fn fill(&mut self) -> io::Result<()> {
        self.filled.clear();
        // Headers and slices are made anew for each batch: the kernel shortens the lengths in them.
        let space = cmsg_space!(u32, i32, libc::in6_pktinfo, libc::in_pktinfo);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(space));
        let mut slices: Vec<_> = self.slots.iter_mut().map(|slot| [IoSliceMut::new(slot)]).collect();
        let fd = self.fd.as_raw_fd();
        let batch = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for message in batch {
            let mut local = None;
            let mut segment = 0usize;
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::RxqOvfl(dropped) => {
                        self.drops += u64::from(dropped.wrapping_sub(self.overflow));
                        self.overflow = dropped;
                    }
                    ControlMessageOwned::UdpGroSegments(size) => segment = usize::try_from(size).unwrap_or(0),
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        local = Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr))));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
                    }
                    _ => {}
                }
            }
            let peer = message.address.as_ref().and_then(socket_addr);
            // A sender without an address that can be written down is nobody: port 0 is refused later.
            let peer = peer.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
            self.filled.push(Filled { path: Path { peer, local }, len: message.bytes.min(SLOT), segment });
        }
        Ok(())
    }
}

impl Sender {
    /// Sends `data`, which is datagrams of `size` bytes one behind another, to one peer.
    pub fn send(&mut self, path: Path, data: &[u8], size: usize) -> Sent {
        let mut total = Sent::default();
        for burst in data.chunks(size.max(1) * MAX_SEGMENTS) {
            let count = burst.len().div_ceil(size.max(1));
            let sent = self.send_burst(path, burst, size, count).unwrap_or(0);
            total.sent += sent;
            total.refused += count - sent;
        }
        total
    }

    fn send_burst(&mut self, path: Path, burst: &[u8], size: usize, count: usize) -> nix::Result<usize> {
        let to = self.name(path.peer);
        let v4_info;
        let v6_info;
        let mut control = Vec::with_capacity(2);
        match path.local {
            Some(local) if self.v6 => {
                let addr = match local {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                // A link-local address means nothing without its interface.
                let scope = match path.peer {
                    SocketAddr::V6(peer) => peer.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                v6_info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: addr.octets() },
                    ipi6_ifindex: scope as _,
                };
                control.push(ControlMessage::Ipv6PacketInfo(&v6_info));
            }
            Some(IpAddr::V4(v4)) => {
                v4_info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: v4.to_bits().to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                control.push(ControlMessage::Ipv4PacketInfo(&v4_info));
            }
            _ => {}
        }
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.fd.as_raw_fd();
        let segment = u16::try_from(size).unwrap_or(u16::MAX);
        let mut refused = false;
        if count > 1 && self.gso {
            control.push(ControlMessage::UdpGsoSegments(&segment));
            match sendmsg(fd, &[IoSlice::new(burst)], &control, flags, Some(&to)) {
                Ok(_) => return Ok(count),
                // The device cannot checksum, or the kernel is too old, or it is this peer that is wrong.
                Err(Errno::EIO | Errno::EINVAL | Errno::EOPNOTSUPP) => {
                    control.pop();
                    refused = true;
                }
                Err(error) => return Err(error),
            }
        }
        let sent = send_each(fd, burst, size, to, &control, flags);
        if refused && sent.is_ok() {
            // The same without it can be sent: never again.
            self.gso = false;
            tracing::debug!("no UDP segmentation offload, using sendmmsg");
        }
        match sent {
            // Our address there was none that can be sent from (a broadcast address): let the route choose.
            Err(Errno::EINVAL) if !control.is_empty() => send_each(fd, burst, size, to, &[], flags),
            other => other,
        }
    }

    fn name(&self, peer: SocketAddr) -> SockaddrStorage {
        match (peer, self.v6) {
            (SocketAddr::V4(v4), true) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            (other, _) => other.into(),
        }
    }
}

fn send_each(
    fd: i32,
    burst: &[u8],
    size: usize,
    to: SockaddrStorage,
    control: &[ControlMessage<'_>],
    flags: MsgFlags,
) -> nix::Result<usize> {
    let slices: Vec<_> = burst.chunks(size).map(|datagram| [IoSlice::new(datagram)]).collect();
    if let [one] = &slices[..] {
        return sendmsg(fd, one, control, flags, Some(&to)).map(|_| 1);
    }
    let names = vec![Some(to); slices.len()];
    let space = cmsg_space!(libc::in6_pktinfo);
    let mut headers =
        MultiHeaders::<SockaddrStorage>::preallocate(slices.len(), (!control.is_empty()).then_some(space));
    let sent = sendmmsg(fd, &mut headers, &slices, &names, control, flags)?;
    Ok(sent.count())
}

fn socket_addr(name: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = name.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = name.as_sockaddr_in6()?;
    Some(match IpAddr::V6(v6.ip()).to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), v6.port()),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id()).into(),
    })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == libc::EAFNOSUPPORT || code == libc::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn settings(addr: Option<&str>) -> Settings {
        Settings { port: 0, addr: addr.map(|a| a.parse().unwrap()), rcvbuf: 1 << 20, ..Settings::default() }
    }

    #[test]
    fn a_slot_is_split_where_the_kernel_said() {
        let lengths = |len: usize, segment| {
            let mut slot: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let parts: Vec<Vec<u8>> = split(&mut slot, segment).map(|part| part.to_vec()).collect();
            assert_eq!(parts.concat(), slot);
            parts.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(0, 0), [0], "an empty datagram");
        assert_eq!(lengths(0, 5), [0]);
        assert_eq!(lengths(7, 0), [7]);
        assert_eq!(lengths(7, 7), [7]);
        assert_eq!(lengths(7, 70), [7]);
        assert_eq!(lengths(14, 7), [7, 7]);
        assert_eq!(lengths(15, 7), [7, 7, 1]);
        assert_eq!(lengths(SLOT, 1).len(), SLOT);
    }

    #[test]
    fn what_was_sent_as_one_comes_as_it_was_sent() {
        let mut socket = Socket::bind(&settings(Some("127.0.0.1"))).unwrap();
        let to: SockaddrStorage = socket.receiver.local_addr().unwrap().into();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let data: Vec<u8> = (0..3100u32).map(|n| (n / 1000) as u8).collect();
        let control = [ControlMessage::UdpGsoSegments(&1000)];
        sendmsg(peer.as_raw_fd(), &[IoSlice::new(&data)], &control, MsgFlags::empty(), Some(&to)).unwrap();
        let got = receive_some(&mut socket, 4);
        let seen: Vec<_> = got.iter().map(|(path, data)| (path.peer.port(), data[0], data.len())).collect();
        let port = peer.local_addr().unwrap().port();
        assert_eq!(seen, [(port, 0, 1000), (port, 1, 1000), (port, 2, 1000), (port, 3, 100)]);
    }

    fn receive_some(socket: &mut Socket, want: usize) -> Vec<(Path, Vec<u8>)> {
        let mut got = Vec::new();
        while got.len() < want {
            let each = |path, slot: &mut [u8], size| got.extend(split(slot, size).map(|data| (path, data.to_vec())));
            match socket.receiver.receive(each) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => other.unwrap(),
            }
        }
        got
    }

    fn round_trip(server: Option<&str>, client: &str) {
        let mut socket = Socket::bind(&settings(server)).unwrap();
        let port = socket.receiver.local_addr().unwrap().port();
        let peer = UdpSocket::bind((client, 0)).unwrap();
        for n in 0..100u8 {
            peer.send_to(&[n; 100], (client, port)).unwrap();
        }
        let got = receive_some(&mut socket, 100);
        assert_eq!(got.len(), 100);
        let path = got[0].0;
        assert_eq!(path.peer, peer.local_addr().unwrap());
        assert_eq!(path.local, Some(client.parse().unwrap()));
        for gso in [true, false] {
            socket.sender.gso = gso;
            let data: Vec<u8> = (0..130u8).flat_map(|n| [n; 24]).collect();
            assert_eq!(socket.sender.send(path, &data, 24), Sent { sent: 130, refused: 0 });
            for n in 0..130u8 {
                let mut buf = [0; 100];
                let (len, from) = peer.recv_from(&mut buf).unwrap();
                assert_eq!((len, buf[0], from.port()), (24, n, port));
            }
        }
    }

    #[test]
    fn dual_stack_takes_both_families() {
        round_trip(None, "127.0.0.1");
        round_trip(None, "::1");
    }

    #[test]
    fn bound_to_one_address() {
        round_trip(Some("127.0.0.1"), "127.0.0.1");
        round_trip(Some("::1"), "::1");
    }

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        let mut socket = Socket::bind(&settings(None)).unwrap();
        let port = socket.receiver.local_addr().unwrap().port();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"x", ("127.0.0.7", port)).unwrap();
        let path = receive_some(&mut socket, 1)[0].0;
        assert_eq!(path.local, Some("127.0.0.7".parse().unwrap()));
        socket.sender.send(path, &[0; 24], 24);
        assert_eq!(peer.recv_from(&mut [0; 24]).unwrap().1, SocketAddr::from(([127, 0, 0, 7], port)));
    }

    #[test]
    fn one_peer_that_cannot_be_sent_to_spoils_nothing_for_the_others() {
        let mut socket = Socket::bind(&settings(Some("127.0.0.1"))).unwrap();
        let nowhere = Path { peer: SocketAddr::from(([127, 0, 0, 1], 0)), local: None };
        assert_eq!(socket.sender.send(nowhere, &[0; 48], 24), Sent { sent: 0, refused: 2 });
        assert!(socket.sender.gso);
    }

    #[test]
    fn drops_are_counted() {
        let mut socket = Socket::bind(&Settings { rcvbuf: 64 << 10, ..settings(Some("127.0.0.1")) }).unwrap();
        let port = socket.receiver.local_addr().unwrap().port();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..2000 {
            peer.send_to(&[0; 1037], ("127.0.0.1", port)).unwrap();
        }
        let mut got = 0;
        while socket.receiver.receive(|_, slot, size| got += split(slot, size).count()).is_ok() {}
        // The counter travels with the datagrams queued after the drops.
        peer.send_to(&[0; 1037], ("127.0.0.1", port)).unwrap();
        got += receive_some(&mut socket, 1).len();
        assert_eq!(got as u64 + socket.receiver.drops(), 2001);
        assert!(socket.receiver.drops() > 0);
    }
}
