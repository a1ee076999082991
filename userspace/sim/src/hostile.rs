// SPDX-License-Identifier: GPL-2.0-or-later
//! Peers that mean harm: what is said to a server by who is no client, and to a client by who is no server.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, Machine, Reply, Request, Start, Version, CHUNK_LEN, MAX_VERSION};
use netdump_core::wire::{Cookie, Pfn, RequestId};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn};
use serde::Serialize;

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FloodKind {
    /// Random bytes of random length, some with a plausible header.
    Garbage,
    /// START_NETDUMP, as if each address had crashed.
    Start,
    /// REPLY_MEM with guessed numbers.
    Mem,
    /// REPLY_LOG at random offsets.
    Log,
    /// All of them in turn.
    Mixed,
}

/// A flood of datagrams to a server.
#[derive(Debug, Clone)]
pub struct FloodParams {
    /// The server.
    pub server: SocketAddrV4,
    /// Source of all datagrams.
    pub source: SocketAddrV4,
    /// Number of source addresses, from `source` on.
    pub sources: u32,
    /// Forge the source address by a raw socket (needs CAP_NET_RAW) rather than bind to it.
    pub forge: bool,
    /// What is sent.
    pub kind: FloodKind,
    /// Datagrams a second.
    pub rate: u32,
    /// How long.
    pub time: Duration,
    /// Of all chance.
    pub seed: u64,
}

/// What a flood did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FloodReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Datagrams that could not be sent.
    pub unsent: u64,
    /// Datagrams that came back (never to forged addresses).
    pub answers: u64,
    /// Bytes in them.
    pub answer_bytes: u64,
}

/// Paces a loop at `rate` a second without waking for each: small bursts, a millisecond apart.
struct Pace {
    started: Instant,
    rate: u32,
    done: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Pace { started: Instant::now(), rate, done: 0 }
    }

    /// Waits until the next one is due; `false` when `time` is over.
    fn wait(&mut self, time: Duration) -> bool {
        loop {
            let elapsed = self.started.elapsed();
            if elapsed >= time {
                return false;
            }
            if (self.done as f64) < elapsed.as_secs_f64() * f64::from(self.rate) {
                self.done += 1;
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One datagram of a flood.
fn datagram(kind: FloodKind, rng: &mut fastrand::Rng, buf: &mut [u8]) -> usize {
    let kind = match kind {
        FloodKind::Mixed => {
            *rng.choice(&[FloodKind::Garbage, FloodKind::Start, FloodKind::Mem, FloodKind::Log]).unwrap_or(&kind)
        }
        kind => kind,
    };
    let mut bytes = [0; CHUNK_LEN];
    rng.fill(&mut bytes);
    let nr = RequestId(rng.u32(..));
    let body = match kind {
        FloodKind::Garbage | FloodKind::Mixed => {
            let len = rng.usize(0..1400);
            let out = &mut buf[..len];
            rng.fill(out);
            if len > 9 && rng.bool() {
                out[0] = rng.u8(4..=5);
                out[5..9].copy_from_slice(&rng.u32(0..14).to_be_bytes());
            }
            return len;
        }
        FloodKind::Start => Body::Start(Start::V5 {
            machine: Machine::X86_64,
            max_version: MAX_VERSION,
            task_struct: rng.u64(..),
            page_offset: rng.u64(..),
            magic: Cookie::new(rng.u64(..)),
        }),
        FloodKind::Mem => Body::Mem { offset: rng.u32(0..4) * 1024, data: &bytes },
        FloodKind::Log => Body::Log { offset: rng.u32(..), text: &bytes[..rng.usize(1..1000)] },
    };
    let version = if rng.bool() { Version::V4 } else { Version::V5 };
    Reply { version, nr, body }.emit(buf).expect("the buffer holds any reply")
}

/// A way to send from an address that is ours, or not.
enum Sender {
    Bound(Vec<UdpSocket>),
    Forged(OwnedFd),
}

impl Sender {
    fn new(params: &FloodParams) -> io::Result<Self> {
        if params.forge {
            // Of this protocol the header is ours to write.
            let raw = socket::socket(
                AddressFamily::Inet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::Raw,
            )?;
            return Ok(Sender::Forged(raw));
        }
        let sockets = (0..params.sources.max(1)).map(|n| {
            let socket = UdpSocket::bind(nth_source(params, n))?;
            socket.set_nonblocking(true)?;
            socket.connect(params.server)?;
            Ok(socket)
        });
        Ok(Sender::Bound(sockets.collect::<io::Result<_>>()?))
    }

    fn send(&self, params: &FloodParams, n: u32, payload: &[u8]) -> bool {
        match self {
            Sender::Bound(sockets) => sockets[n as usize].send(payload).is_ok(),
            Sender::Forged(raw) => {
                let packet = ipv4_udp(nth_source(params, n), params.server, payload);
                let to = SockaddrIn::from(params.server);
                socket::sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).is_ok()
            }
        }
    }

    fn answers(&self, report: &mut FloodReport) {
        let Sender::Bound(sockets) = self else { return };
        let mut buf = [0; 2048];
        for socket in sockets {
            while let Ok(len) = socket.recv(&mut buf) {
                report.answers += 1;
                report.answer_bytes += len as u64;
            }
        }
    }
}

fn nth_source(params: &FloodParams, n: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(*params.source.ip()).wrapping_add(n)), params.source.port())
}

/// An IPv4 packet with a UDP datagram in it. The kernel fills in the IP checksum and identification; without a UDP
/// checksum (0) nothing depends on the addresses.
fn ipv4_udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = Vec::with_capacity(28 + payload.len());
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&(20 + udp_len).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    for word in [from.port(), to.port(), udp_len, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

/// Floods a server.
pub fn flood(params: &FloodParams) -> io::Result<FloodReport> {
    let sender = Sender::new(params)?;
    let mut rng = fastrand::Rng::with_seed(params.seed);
    let mut pace = Pace::new(params.rate);
    let mut report = FloodReport::default();
    let mut buf = [0; 2048];
    while pace.wait(params.time) {
        let len = datagram(params.kind, &mut rng, &mut buf);
        if sender.send(params, rng.u32(0..params.sources.max(1)), &buf[..len]) {
            report.sent += 1;
            report.sent_bytes += len as u64;
        } else {
            report.unsent += 1;
        }
        if pace.done % 256 == 0 {
            sender.answers(&mut report);
        }
    }
    sender.answers(&mut report);
    Ok(report)
}

/// What a server that never lets go saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GripReport {
    /// START_NETDUMP received.
    pub starts: u64,
    /// HELLO sent.
    pub hellos: u64,
    /// REPLY_HELLO received.
    pub answers: u64,
}

/// A server that acknowledges a client and then says HELLO every `interval`, for `time`, and asks for nothing.
pub fn hello_forever(bind: SocketAddrV4, cookie: Cookie, interval: Duration, time: Duration) -> io::Result<GripReport> {
    let socket = UdpSocket::bind(bind)?;
    socket.set_read_timeout(Some(interval.max(Duration::from_millis(1))))?;
    let started = Instant::now();
    let mut report = GripReport::default();
    let mut client = None;
    let mut nr = 0;
    let mut last_hello = started;
    let mut buf = [0; 2048];
    while started.elapsed() < time {
        match socket.recv_from(&mut buf) {
            Ok((len, from)) => match Reply::parse(&buf[..len]).map(|reply| reply.body) {
                Ok(Body::Start(_)) => {
                    report.starts += 1;
                    client = Some(from);
                    nr += 1;
                    let ack = Command::StartAck { max_version: MAX_VERSION };
                    send_request(&socket, from, cookie, nr, ack)?;
                }
                Ok(Body::Hello { .. }) => report.answers += 1,
                _ => {}
            },
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // A client that is gone answers with port unreachable; it may come back.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e),
        }
        if let Some(client) = client.filter(|_| last_hello.elapsed() >= interval) {
            last_hello = Instant::now();
            nr += 1;
            send_request(&socket, client, cookie, nr, Command::Hello)?;
            report.hellos += 1;
        }
    }
    Ok(report)
}

fn send_request(
    socket: &UdpSocket,
    to: std::net::SocketAddr,
    cookie: Cookie,
    nr: u32,
    command: Command,
) -> io::Result<()> {
    let mut buf = [0; 24];
    let request = Request { cookie, nr: RequestId(nr), command };
    let len = request.emit(&mut buf).map_err(io::Error::other)?;
    socket.send_to(&buf[..len], to).map(|_| ())
}

/// Requests to a client from who may not ask.
#[derive(Debug, Clone)]
pub struct ProbeParams {
    /// The client.
    pub client: SocketAddrV4,
    /// Where they come from.
    pub source: SocketAddrV4,
    /// The cookie in them; `None` takes a random one each time.
    pub cookie: Option<Cookie>,
    /// Requests a second.
    pub rate: u32,
    /// How long.
    pub time: Duration,
    /// Of all chance.
    pub seed: u64,
}

/// What came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Requests sent.
    pub sent: u64,
    /// Datagrams that came back.
    pub answers: u64,
    /// Those of them that held memory, registers or anything else of the extension.
    pub secrets: u64,
}

/// Asks a client for memory, registers, notes and a reboot.
pub fn probe(params: &ProbeParams) -> io::Result<ProbeReport> {
    let socket = UdpSocket::bind(params.source)?;
    socket.set_nonblocking(true)?;
    let mut rng = fastrand::Rng::with_seed(params.seed);
    let mut pace = Pace::new(params.rate);
    let mut report = ProbeReport::default();
    while pace.wait(params.time) {
        let command = match rng.u8(0..8) {
            0 => Command::GetRegs,
            1 => Command::Reboot,
            2 => Command::StartAck { max_version: MAX_VERSION },
            3 => Command::from_wire(netdump_core::wire::classic::EXT, 1, 0),
            4 => Command::ShowState,
            _ => Command::SendMem(Pfn(u64::from(rng.u32(0..1 << 20)))),
        };
        let cookie = params.cookie.unwrap_or_else(|| Cookie::new(rng.u64(..)));
        if send_request(&socket, params.client.into(), cookie, rng.u32(..), command).is_ok() {
            report.sent += 1;
        }
        count_answers(&socket, &mut report);
    }
    thread::sleep(Duration::from_millis(200)); // for what is under way
    count_answers(&socket, &mut report);
    Ok(report)
}

fn count_answers(socket: &UdpSocket, report: &mut ProbeReport) {
    let mut buf = [0; 2048];
    while let Ok(len) = socket.recv(&mut buf) {
        report.answers += 1;
        let body = Reply::parse(&buf[..len]).map(|reply| reply.body);
        if matches!(body, Ok(Body::Mem { .. } | Body::Regs { .. } | Body::Ext { .. } | Body::Log { .. })) {
            report.secrets += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_packets_are_well_formed() {
        let address = |last, port| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port);
        let packet = ipv4_udp(address(1, 6666), address(2, 6667), b"abc");
        assert_eq!(
            packet,
            [
                0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x1a, 0x0a, 0x1a, 0x0b, 0, 11, 0,
                0, b'a', b'b', b'c'
            ]
        );
    }

    #[test]
    fn floods_are_what_they_say() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut buf = [0; 2048];
        for _ in 0..100 {
            let len = datagram(FloodKind::Start, &mut rng, &mut buf);
            assert!(matches!(Reply::parse(&buf[..len]).unwrap().body, Body::Start(Start::V5 { .. })));
            let len = datagram(FloodKind::Mem, &mut rng, &mut buf);
            assert!(matches!(Reply::parse(&buf[..len]).unwrap().body, Body::Mem { .. }));
        }
        let parsed = (0..1000).filter(|_| {
            let len = datagram(FloodKind::Garbage, &mut rng, &mut buf);
            Reply::parse(&buf[..len]).is_ok()
        });
        assert!((100..900).contains(&parsed.count()), "some get past the header, not all");
    }
}
