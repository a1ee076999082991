// SPDX-License-Identifier: GPL-2.0-or-later
//! A fleet that talks: many machines whose consoles send lines to one server at a rate, each line computed, so that what
//! was stored of each machine can be compared byte by byte.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netdump_core::wire::frame::{Fill, MacAddr, Path as Route, UdpHeaders};
use netdump_core::wire::log::extended::Extended;
use netdump_core::wire::log::netlog::Stream;
use netdump_core::wire::log::printk::{Flag, RecordHeader};
use netdump_core::wire::log::syslog::Original;
use netdump_core::wire::log::{basic::Basic, Datagrams, MAX_DATAGRAM};
use netdump_core::wire::Writer;
use serde::Serialize;

use crate::relay::tap;

/// How lines are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// REPLY_LOG with its running offset.
    Netlog,
    /// Records of upstream's extended netconsole.
    Extended,
    /// Text of upstream's netconsole.
    Basic,
    /// `<5> ` and the line.
    Syslog,
}

/// Where a server keeps what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// `<address>-<date>/log`.
    Netdump,
    /// One file named by the address.
    Flat,
}

/// The machines and what they say.
#[derive(Debug, Clone)]
pub struct FleetParams {
    /// Address of the first machine; the others have the ones behind it.
    pub first: Ipv4Addr,
    /// UDP port of all of them.
    pub port: u16,
    /// How many.
    pub count: u32,
    /// How they say it.
    pub format: Format,
    /// Bytes of a line on average.
    pub line: usize,
    /// Makes lines different from run to run.
    pub seed: u64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FleetReport {
    /// Lines sent, by all machines.
    pub lines: u64,
    /// Lines of each machine.
    pub lines_each: u64,
    /// Bytes of all datagrams.
    pub bytes: u64,
    /// Datagrams that the sender's own kernel refused and that were sent again.
    pub again: u64,
    /// How long it took, s.
    pub seconds: f64,
    /// Lines a second.
    pub rate: f64,
    /// The longest time that the sender was behind its pace, s.
    pub behind: f64,
}

/// What of it was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Machines whose file holds every line, in order, once, and nothing else.
    pub whole: u32,
    /// Machines without a file.
    pub missing: u32,
    /// Machines whose file is something else.
    pub different: u32,
    /// Bytes that should be there.
    pub expected: u64,
    /// Bytes that are there.
    pub found: u64,
    /// The first file that is not as it should be, and where.
    pub first: Option<String>,
}

/// Letters that lines are cut from.
const FILLER: &[u8; 512] = &{
    let mut filler = [0; 512];
    let mut at = 0;
    while at < filler.len() {
        filler[at] = b"the quick brown fox jumps over the lazy dog; "[at % 45];
        at += 1;
    }
    filler
};

impl FleetParams {
    /// Address of a machine.
    pub fn address(&self, machine: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first).wrapping_add(machine))
    }

    /// A machine's line of that number, with its newline; returns its time in µs too.
    fn line(&self, machine: u32, number: u64, w: &mut Writer<'_>) -> netdump_core::wire::Result<u64> {
        let time_us = number * 1000 + u64::from(machine % 1000);
        let before = w.written();
        // From half to one and a half of the average, mixed well enough.
        let mixed = (number ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(machine) << 20))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            >> 32;
        let length = self.line / 2 + mixed as usize % (self.line + 1);
        if self.format != Format::Extended {
            w.bytes(b"[")?;
            for padding in [10_000, 1000, 100, 10] {
                if time_us / 1_000_000 < padding {
                    w.u8(b' ')?;
                }
            }
            w.decimal(time_us / 1_000_000)?;
            w.u8(b'.')?;
            for digit in [100_000, 10_000, 1000, 100, 10, 1] {
                w.u8(b'0' + (time_us / digit % 10) as u8)?;
            }
            w.bytes(b"] ")?;
        }
        w.bytes(b"machine ")?;
        w.decimal(machine.into())?;
        w.bytes(b" line ")?;
        w.decimal(number)?;
        w.bytes(b": ")?;
        let start = mixed as usize % 64;
        let rest = length.saturating_sub(w.written() - before).min(FILLER.len() - 64);
        w.bytes(&FILLER[start..start + rest])?;
        w.u8(b'\n')?;
        Ok(time_us)
    }

    /// The same as a record of the extended format.
    fn record(&self, machine: u32, number: u64, w: &mut Writer<'_>) -> netdump_core::wire::Result<()> {
        let mut text = [0; 1024];
        let mut line = Writer::new(&mut text);
        let time_us = self.line(machine, number, &mut line)?;
        let len = line.written();
        RecordHeader { priority: 6, sequence: number, time_us, flag: Flag::Whole }.emit(w)?;
        w.u8(b';')?;
        w.bytes(&text[..len])
    }

    /// What a server stores of a line.
    fn stored(&self, machine: u32, number: u64, buf: &mut [u8]) -> usize {
        let mut w = Writer::new(buf);
        let written = match self.format {
            Format::Extended => self.record(machine, number, &mut w),
            Format::Syslog => w.bytes(b"<5> ").and_then(|()| self.line(machine, number, &mut w).map(drop)),
            Format::Netlog | Format::Basic => self.line(machine, number, &mut w).map(drop),
        };
        written.expect("a line fits");
        w.written()
    }
}

/// How datagrams get to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A socket for each machine, bound to its address, which must be one of this host.
    Sockets,
    /// Ethernet frames through a TAP device of this network namespace: for the server they come from the network, and a
    /// frame costs the sender less than a call of a socket. The machines' addresses must be on its network.
    Tap {
        /// Name of the device.
        name: String,
        /// Its Ethernet address.
        mac: MacAddr,
    },
}

/// The UDP checksum in a frame over IPv4 without a VLAN tag. 0 is none: a NIC would have checked it.
const CHECKSUM: std::ops::Range<usize> = 40..42;
/// What stands before the UDP payload in such a frame.
const HEADERS: usize = 42;

enum Line {
    Socket(UdpSocket),
    Tap(UdpHeaders),
}

struct Machine {
    line: Line,
    stream: Stream,
}

impl Machine {
    /// One line as one datagram; its length.
    fn datagram(&mut self, params: &FleetParams, machine: u32, number: u64, buf: &mut [u8]) -> usize {
        let mut text = [0; MAX_DATAGRAM];
        let mut w = Writer::new(&mut text);
        let written = match params.format {
            Format::Extended => params.record(machine, number, &mut w),
            _ => params.line(machine, number, &mut w).map(drop),
        };
        written.expect("a line fits");
        let len = w.written();
        let text = &text[..len];
        let emitted = match params.format {
            Format::Netlog => self.stream.send(text).emit_next(buf),
            Format::Extended => Extended { record: text, ..Extended::default() }.datagrams().emit_next(buf),
            Format::Basic => Basic::new(text).emit_next(buf),
            Format::Syslog => Original::new(text).emit_next(buf),
        };
        emitted.ok().flatten().expect("a line is a datagram")
    }
}

/// The fleet, ready to talk.
pub struct Fleet {
    params: FleetParams,
    machines: Vec<Machine>,
    tap: Option<File>,
    next: u64,
}

impl Fleet {
    /// Gives each machine its address.
    pub fn new(params: FleetParams, server: SocketAddrV4, way: &Way) -> io::Result<Fleet> {
        let machines = (0..params.count).map(|machine| {
            let address = params.address(machine);
            let line = match way {
                Way::Sockets => {
                    let socket = UdpSocket::bind((address, params.port))?;
                    socket.connect(server)?;
                    Line::Socket(socket)
                }
                Way::Tap { mac, .. } => Line::Tap(UdpHeaders::new(Route {
                    local_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                    peer_mac: *mac,
                    local: address.into(),
                    peer: (*server.ip()).into(),
                    local_port: params.port,
                    peer_port: server.port(),
                    vlan: None,
                })),
            };
            Ok(Machine { line, stream: Stream::default() })
        });
        let machines = machines.collect::<io::Result<_>>()?;
        let tap = match way {
            Way::Sockets => None,
            Way::Tap { name, .. } => Some(tap::open(name)?),
        };
        Ok(Fleet { machines, tap, params, next: 0 })
    }

    /// Each machine says so many more lines, in turn, all together at `rate` lines a second.
    pub fn talk(&mut self, lines_each: u64, rate: f64) -> io::Result<FleetReport> {
        let mut frame = [0; HEADERS + MAX_DATAGRAM];
        let began = Instant::now();
        let mut report =
            FleetReport { lines: 0, lines_each: 0, bytes: 0, again: 0, seconds: 0.0, rate: 0.0, behind: 0.0 };
        let last = self.next + lines_each;
        while self.next < last {
            for (number, machine) in self.machines.iter_mut().enumerate() {
                // The clock is looked at for each few lines, which leaves no burst that a pace of any use would not have.
                if report.lines % 16 == 0 {
                    let due = report.lines as f64 / rate;
                    loop {
                        let early = due - began.elapsed().as_secs_f64();
                        if early <= 0.0 {
                            report.behind = report.behind.max(-early);
                            break;
                        }
                        if early > 0.000_2 {
                            thread::sleep(Duration::from_secs_f64(early - 0.000_1));
                        } else {
                            std::hint::spin_loop();
                        }
                    }
                }
                let len = machine.datagram(&self.params, number as u32, self.next, &mut frame[HEADERS..]);
                loop {
                    let sent = match (&machine.line, &mut self.tap) {
                        (Line::Socket(socket), _) => socket.send(&frame[HEADERS..HEADERS + len]),
                        (Line::Tap(headers), Some(tap)) => {
                            headers
                                .emit(&mut frame, len, self.next as u16, Fill::Offload)
                                .expect("the frame is long enough");
                            frame[CHECKSUM].fill(0);
                            tap.write(&frame[..HEADERS + len])
                        }
                        (Line::Tap(_), None) => Err(ErrorKind::NotConnected.into()),
                    };
                    match sent {
                        Ok(_) => break,
                        // Who does not listen yet answers by ICMP; the datagram behind it is sent again.
                        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::WouldBlock) => {
                            report.again += 1;
                        }
                        Err(error) => return Err(error),
                    }
                }
                report.lines += 1;
                report.bytes += len as u64;
            }
            self.next += 1;
            report.lines_each += 1;
        }
        report.seconds = began.elapsed().as_secs_f64();
        report.rate = report.lines as f64 / report.seconds;
        Ok(report)
    }
}

/// Where the server that is talked to keeps what it gets.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The directory.
    pub dir: PathBuf,
    /// What is in it.
    pub layout: Layout,
}

/// One measurement: how many lines a second a server is sent, and whether it stored all of them.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// What was sent, but for the first line of each machine, with which its file begins.
    pub sent: FleetReport,
    /// What was stored.
    pub stored: VerifyReport,
    /// Whether that is all of it, in every file.
    pub whole: bool,
}

/// How fast first lines are sent: each makes the server begin a file.
const FIRST_LINES_RATE: f64 = 1000.0;
/// The first lines are waited for so long.
const FIRST_LINES_PATIENCE: Duration = Duration::from_secs(60);
/// After the last line nothing more is expected when files have not grown for so long.
const QUIET: Duration = Duration::from_secs(3);

/// Each machine says one line, and when all of those are stored, lines at `rate` for `time`. Then what is stored is compared.
pub fn trial(
    params: FleetParams,
    server: SocketAddrV4,
    way: &Way,
    stored: &Stored,
    rate: f64,
    time: Duration,
) -> io::Result<Trial> {
    let mut fleet = Fleet::new(params.clone(), server, way)?;
    fleet.talk(1, FIRST_LINES_RATE)?;
    let end = Instant::now() + FIRST_LINES_PATIENCE;
    loop {
        let first = verify(&params, &stored.dir, stored.layout, 1)?;
        if first.whole == params.count {
            break;
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("the first lines were not stored: {first:?}")));
        }
        thread::sleep(Duration::from_millis(100));
    }
    let lines_each = (rate * time.as_secs_f64() / f64::from(params.count)).ceil().max(1.0) as u64;
    let sent = fleet.talk(lines_each, rate)?;
    let (mut size, mut since) = (0, Instant::now());
    while since.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(200));
        let now = sizes(&params, stored)?;
        if now != size {
            (size, since) = (now, Instant::now());
        }
    }
    let report = verify(&params, &stored.dir, stored.layout, 1 + lines_each)?;
    Ok(Trial { sent, whole: report.whole == params.count, stored: report })
}

/// Bytes in all files.
fn sizes(params: &FleetParams, stored: &Stored) -> io::Result<u64> {
    let names = names(&stored.dir)?;
    let files = (0..params.count).filter_map(|n| file_of(&stored.dir, stored.layout, &names, params.address(n)));
    Ok(files.filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum())
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// The machine's file below `dir`; `None` if there is none, or more than one.
fn file_of(dir: &Path, layout: Layout, names: &[String], address: Ipv4Addr) -> Option<PathBuf> {
    match layout {
        Layout::Flat => Some(dir.join(address.to_string())),
        Layout::Netdump => {
            let prefix = format!("{address}-");
            let first = names.partition_point(|name| *name < prefix);
            let mut of_it = names[first..].iter().take_while(|name| name.starts_with(&prefix));
            let name = of_it.next()?;
            of_it.next().is_none().then(|| dir.join(name).join("log"))
        }
    }
}

/// Compares what is stored below `dir` with the first `lines` of each machine.
pub fn verify(params: &FleetParams, dir: &Path, layout: Layout, lines: u64) -> io::Result<VerifyReport> {
    let names = names(dir)?;
    let mut report = VerifyReport::default();
    let mut buf = [0; MAX_DATAGRAM];
    let mut expected = Vec::new();
    for machine in 0..params.count {
        expected.clear();
        for number in 0..lines {
            let len = params.stored(machine, number, &mut buf);
            expected.extend_from_slice(&buf[..len]);
        }
        report.expected += expected.len() as u64;
        let address = params.address(machine);
        let found = file_of(dir, layout, &names, address).map(fs::read);
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {
                report.missing += 1;
                report.first.get_or_insert_with(|| format!("{address}: no file of its own"));
                continue;
            }
        };
        report.found += found.len() as u64;
        if found == expected {
            report.whole += 1;
            continue;
        }
        report.different += 1;
        let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
        report.first.get_or_insert_with(|| {
            let here = String::from_utf8_lossy(&found[at.saturating_sub(20)..found.len().min(at + 60)]).into_owned();
            format!("{address}: {} bytes instead of {}, different at {at}: {here:?}", found.len(), expected.len())
        });
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdump_core::wire::classic::{Body, Reply};
    use netdump_core::wire::log::record::Record;

    fn params(format: Format) -> FleetParams {
        FleetParams { first: [127, 9, 0, 1].into(), port: 6665, count: 3, format, line: 100, seed: 1 }
    }

    #[test]
    fn lines_are_what_their_format_says() {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buf = [0; MAX_DATAGRAM];
        let mut stored = [0; MAX_DATAGRAM];
        let mut total = 0;
        for number in 0..200 {
            let mut machine = Machine { line: Line::Socket(socket()), stream: Stream::new(7) };
            let params = params(Format::Netlog);
            let len = machine.datagram(&params, 1, number, &mut buf);
            let end = params.stored(1, number, &mut stored);
            let Body::Log { offset: 7, text } = Reply::parse(&buf[..len]).unwrap().body else { panic!() };
            assert_eq!(text, &stored[..end]);
            total += end;

            for format in [Format::Syslog, Format::Basic] {
                let params = self::params(format);
                let len = machine.datagram(&params, 1, number, &mut buf);
                let end = params.stored(1, number, &mut stored);
                assert_eq!(buf[..len], stored[..end]);
            }

            let params = self::params(Format::Extended);
            let len = machine.datagram(&params, 1, number, &mut buf);
            let end = params.stored(1, number, &mut stored);
            assert_eq!(buf[..len], stored[..end]);
            assert_eq!(Record::parse(&buf[..len]).unwrap().header.sequence, number);
        }
        assert!((80..130).contains(&(total / 200)), "{}", total / 200);
    }

    #[test]
    fn what_is_stored_is_compared() {
        let dir = std::env::temp_dir().join(format!("netdump-fleet-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let params = params(Format::Syslog);
        let mut buf = [0; MAX_DATAGRAM];
        let mut write = |machine: u32, lines: &[u64]| {
            let mut text = Vec::new();
            for number in lines {
                let len = params.stored(machine, *number, &mut buf);
                text.extend_from_slice(&buf[..len]);
            }
            fs::write(dir.join(params.address(machine).to_string()), text).unwrap();
        };
        write(0, &[0, 1, 2]);
        write(1, &[0, 2, 1]);
        let report = verify(&params, &dir, Layout::Flat, 3).unwrap();
        assert_eq!((report.whole, report.different, report.missing), (1, 1, 1));
        assert!(report.first.unwrap().starts_with("127.9.0.2: "));
        fs::remove_dir_all(dir).unwrap();
    }
}
