// SPDX-License-Identifier: GPL-2.0-or-later
//! Machines that crash at once and are dumped over real sockets, each with the engine of the kernel module.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use netdump_core::engine::client::{Client, Dialects};
use netdump_core::engine::v6::Config6;
use netdump_core::engine::{Config, End, Time};
use netdump_core::wire::classic::Machine as MachineKind;
use netdump_core::wire::v6::handshake::KeyName;
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::{Codec, Level};
use netdump_core::wire::Cookie;
use netdump_session::Ring;
use nix::poll::{ppoll, PollFd, PollFlags};
use nix::sys::time::{TimeSpec, TimeValLike};
use serde::Serialize;

use crate::burst::Burst;
use crate::image::{Image, ImageParams, PAGE_SIZE};
use crate::units::cpu_seconds;

/// Datagrams that one machine sends before the next has its turn.
const TURN: usize = 256;

/// The machines and where they are.
#[derive(Debug, Clone)]
pub struct CrowdParams {
    /// The server.
    pub server: SocketAddrV4,
    /// Address of the first machine; the others have the ones behind it. On the loopback any of 127.0.0.0/8 will do.
    pub first: Ipv4Addr,
    /// Port of all of them.
    pub port: u16,
    /// How many.
    pub count: u32,
    /// The same for all, but for the seed, which goes up.
    pub image: ImageParams,
    /// The same for all.
    pub cookie: Cookie,
    /// What they offer.
    pub dialects: Dialects,
    /// The key that they were armed with; it is the same for all.
    pub key: Option<(KeyName, Key)>,
    /// What they leave out.
    pub level: Level,
    /// The longest datagram that they send in version 6.
    pub max_datagram: u16,
    /// Send without UDP_SEGMENT, as where there is none.
    pub no_gso: bool,
    /// Limits of the engine, ns; 0 is none.
    pub handshake_timeout: u64,
    /// Likewise.
    pub idle_timeout: u64,
    /// Likewise.
    pub total_timeout: u64,
}

/// What became of one machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineReport {
    /// Its address.
    pub address: IpAddr,
    /// How its dump ended.
    pub end: String,
    /// Since it crashed, s.
    pub seconds: f64,
    /// Pages sent whole, copies included.
    pub pages: u64,
    /// Pages of RAM that it has.
    pub ram_pages: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Requests with a wrong cookie.
    pub bad_cookie: u64,
    /// Requests dropped because its queue was full.
    pub queue_full: u64,
    /// Datagrams for which the socket had no room.
    pub unsent: u64,
    /// START_NETDUMP or START6 sent.
    pub starts: u64,
    /// Version of the protocol that was spoken last.
    pub version: u8,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
}

/// What became of all of them.
#[derive(Debug, Clone, Serialize)]
pub struct CrowdReport {
    /// From the first crash to the last end, s.
    pub seconds: f64,
    /// Machines whose server ordered a reboot or an exit.
    pub served: usize,
    /// Machines that gave up.
    pub given_up: usize,
    /// Memory sent, copies included, in 10^6 bytes a second.
    pub megabytes_per_second: f64,
    /// RAM of all machines that were served, from the first crash to the last end, in 10^9 bytes a second: headers, waiting
    /// and what comes before and behind the memory are in the time.
    pub gigabytes_per_second: f64,
    /// What they used of the CPU in that time, s.
    pub cpu_seconds: f64,
    /// Each machine.
    pub machines: Vec<MachineReport>,
}

struct Machine {
    address: SocketAddrV4,
    socket: Burst,
    engine: Box<Client>,
    image: Image,
    end: Option<(End, f64)>,
}

impl Machine {
    fn crash(params: &CrowdParams, number: u32, now: Time) -> io::Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::from(u32::from(params.first).wrapping_add(number)), params.port);
        let socket = UdpSocket::bind(address)?;
        let socket = Burst::new(socket, SocketAddr::V4(params.server), !params.no_gso)?;
        let seed = params.image.seed.wrapping_add(u64::from(number));
        let image = Image::new(ImageParams { seed, ..params.image.clone() });
        let mut engine = Box::new(Client::new());
        let config = Config {
            handshake_timeout: params.handshake_timeout,
            idle_timeout: params.idle_timeout,
            total_timeout: params.total_timeout,
            ..image.config(params.cookie)
        };
        let six = Config6 {
            machine: MachineKind::X86_64,
            key: params.key,
            seed: [seed as u8 ^ 0x5a; 32],
            entropy: std::array::from_fn(|n| (std::process::id() >> (n % 4 * 8)) as u8 ^ number as u8),
            max_datagram: params.max_datagram,
            codecs: Codec::Lz4.bit() | Codec::Zstd.bit(),
            level: params.level,
            handshake_timeout: params.handshake_timeout,
            idle_timeout: params.idle_timeout,
            queue_timeout: 0,
            total_timeout: params.total_timeout,
        };
        engine.begin(params.dialects, config, six, now, &Ring);
        Ok(Machine { address, socket, engine, image, end: None })
    }

    /// One round of the kernel module's loop. Whether there is more to send.
    fn turn(&mut self, now: Time) -> io::Result<bool> {
        while self.socket.receive(|datagram| self.engine.handle(now, datagram, &Ring))? {}
        let mut more = true;
        for _ in 0..TURN {
            let Some(len) = self.engine.transmit(now, &mut self.image, &Ring, self.socket.room()) else {
                more = self.engine.has_more();
                break;
            };
            self.socket.push(len)?;
        }
        self.socket.flush()?;
        self.end = self.engine.poll(now).map(|end| (end, now.0 as f64 / 1e9));
        Ok(more)
    }

    fn report(&self) -> MachineReport {
        let (counters, six) = (self.engine.classic().counters(), self.engine.six().counters());
        MachineReport {
            address: IpAddr::V4(*self.address.ip()),
            end: self.end.map_or_else(|| "running".into(), |(end, _)| format!("{end:?}")),
            seconds: self.end.map_or(0.0, |(_, seconds)| seconds),
            pages: counters.pages + six.pages + six.zero_pages,
            ram_pages: self.image.ram_pages().count() as u64,
            requests: counters.accepted,
            bad_cookie: counters.bad_cookie,
            queue_full: counters.queue_full,
            unsent: self.socket.unsent(),
            starts: counters.starts + six.starts,
            version: if self.engine.speaks() == Dialects::Classic { 5 } else { 6 },
            sent_bytes: counters.sent_bytes + six.sent_bytes,
        }
    }
}

/// Crashes all machines and returns when the last dump is over. Without timeouts that may be never.
pub fn run(params: &CrowdParams) -> io::Result<CrowdReport> {
    let started = Instant::now();
    let now = || Time(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let cpu = cpu_seconds();
    let mut machines = (0..params.count).map(|n| Machine::crash(params, n, now())).collect::<io::Result<Vec<_>>>()?;
    loop {
        let mut busy = false;
        for machine in machines.iter_mut().filter(|m| m.end.is_none()) {
            busy |= machine.turn(now())?;
        }
        let running: Vec<_> = machines.iter().filter(|m| m.end.is_none()).collect();
        if running.is_empty() {
            break;
        }
        if busy {
            continue;
        }
        let deadline = running.iter().filter_map(|m| m.engine.next_deadline()).min();
        let wait =
            deadline.map(|at| TimeSpec::nanoseconds(i64::try_from(at.0.saturating_sub(now().0)).unwrap_or(i64::MAX)));
        let mut fds: Vec<_> = running.iter().map(|m| PollFd::new(m.socket.fd(), PollFlags::POLLIN)).collect();
        ppoll(&mut fds, wait, None)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds() - cpu;
    let reports: Vec<_> = machines.iter().map(Machine::report).collect();
    let pages: u64 = reports.iter().map(|r| r.pages).sum();
    let is_served = |machine: &&Machine| matches!(machine.end, Some((End::Reboot | End::Exit, _)));
    let served = machines.iter().filter(is_served).count();
    let ram: u64 = machines.iter().filter(is_served).map(|machine| machine.image.ram_pages().count() as u64).sum();
    Ok(CrowdReport {
        seconds,
        served,
        given_up: machines.len() - served,
        megabytes_per_second: (pages * PAGE_SIZE) as f64 / 1e6 / seconds,
        gigabytes_per_second: (ram * PAGE_SIZE) as f64 / 1e9 / seconds,
        cpu_seconds,
        machines: reports,
    })
}
