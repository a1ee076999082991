// SPDX-License-Identifier: GPL-2.0-or-later
//! `netdump-sim`: machines that crash without being there, and peers that mean harm.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use netdump_core::engine::client::Dialects;
use netdump_core::wire::arm::Arming;
use netdump_core::wire::classic::DEFAULT_PORT;
use netdump_core::wire::frame::MacAddr;
use netdump_core::wire::v6::handshake::KeyName;
use netdump_core::wire::v6::secure::Key;
use netdump_core::wire::v6::Level;
use netdump_core::wire::{target, Cookie};
use netdump_sim::bare;
use netdump_sim::corpus::{self, Corpus};
use netdump_sim::crowd::{self, CrowdParams};
use netdump_sim::fleet::{self, FleetParams, Way};
use netdump_sim::hostile::{self, FloodKind, FloodParams, ProbeParams};
use netdump_sim::image::{Image, ImageParams};
use netdump_sim::{units, verify};

/// Clients and enemies of a netdump server, on real sockets. Each command ends by printing its report as JSON.
#[derive(Parser, Debug)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Mode,
}

#[derive(Subcommand, Debug)]
enum Mode {
    /// Machines with made-up memory crash at once and are dumped by the server.
    /// The exit status is 0 if all were served.
    Crash(Crash),
    /// Floods a server with what no client would send.
    Flood(Flood),
    /// A server that acknowledges a client and then says HELLO for ever.
    HelloServer(HelloServer),
    /// Requests to a client with a wrong cookie, or from a wrong address.
    /// The exit status is 0 if none was answered.
    Probe(Probe),
    /// Machines that are well send console lines at a rate; then what the server has stored is compared with them.
    /// The exit status is 0 if all of it is there, and nothing else.
    Fleet(FleetArgs),
    /// Sends a corpus in datagrams like those of a dump, or receives it, with nothing but copies and system calls.
    Bare(Bare),
    /// Writes a file of noise that is the same each time, for the option --image, and prints its SHA-256.
    Corpus(CorpusArgs),
    /// Compares a vmcore with the memory of the machine that `crash` made up.
    /// The exit status is 0 if all of it is there and true.
    Verify(Verify),
}

#[derive(Args, Debug)]
struct Crash {
    /// The server.
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddrV4,
    /// Address of the first machine; the next one has the next address.
    #[arg(long, value_name = "IP", default_value = "127.0.1.1")]
    first: Ipv4Addr,
    /// UDP port of the machines.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Number of machines.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Memory of each.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "64M")]
    memory: u64,
    /// CPUs of each.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// One page in so many cannot be read; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    poisoned_every: u64,
    /// Clients that do not know our extension of the protocol: items are empty.
    #[arg(long)]
    no_items: bool,
    /// The shared secret, 16 hexadecimal digits.
    #[arg(long, value_parser = cookie, default_value = "1111111111111111")]
    cookie: Cookie,
    /// What they speak.
    #[arg(long, value_enum, default_value = "either")]
    protocol: Protocol,
    /// What they leave out of themselves, as makedumpfile -d (version 6).
    #[arg(long, value_name = "0-31", value_parser = level, default_value = "0")]
    level: Level,
    /// The longest datagram that they send, bytes of UDP payload (version 6).
    #[arg(long, value_name = "BYTES", default_value_t = 1416)]
    max_datagram: u16,
    /// Bytes after which the noise in a page repeats itself, a multiple of 8: 4096 does not compress.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    repeat: u64,
    /// What is in their memory, and how much that is.
    #[command(flatten)]
    image: ImageFile,
    /// What a machine was armed with, as it is written to /dev/netdump: they are sealed dumps then (version 6).
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Do without the kernel's segmentation of what is sent (UDP_SEGMENT).
    #[arg(long)]
    no_gso: bool,
    /// Longest wait for the server.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    handshake_timeout: Duration,
    /// Longest time without a request.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    idle_timeout: Duration,
    /// Longest dump.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "3600s")]
    total_timeout: Duration,
    /// Makes memory different from run to run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Memory from a file.
#[derive(Args, Debug)]
struct ImageFile {
    /// Memory from a file in place of what is made up.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Its SHA-256, in hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "image")]
    sha256: Option<String>,
}

impl ImageFile {
    fn load(&self) -> Result<Option<Corpus>> {
        let Some(file) = &self.image else { return Ok(None) };
        let corpus = Corpus::load(file, self.sha256.as_deref()).with_context(|| file.display().to_string())?;
        Ok(Some(corpus))
    }
}

#[derive(Args, Debug)]
struct Bare {
    /// Receive at this address.
    #[arg(long, value_name = "IP:PORT", requires = "file", conflicts_with = "to")]
    bind: Option<SocketAddrV4>,
    /// Where what is received is written to; it must not exist.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Bytes to receive.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "1G")]
    len: u64,
    /// Send to this address.
    #[arg(long, value_name = "IP:PORT", requires = "image", required_unless_present = "bind")]
    to: Option<SocketAddrV4>,
    #[command(flatten)]
    image: ImageFile,
    /// Bytes of UDP payload in each datagram that is sent.
    #[arg(long, value_name = "BYTES", default_value_t = 1416)]
    datagram: usize,
    /// Bytes on their way, at most; the receiver says four times in it how far it is.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "1M")]
    window: u64,
    /// Seal each datagram, and open it, as a dump does.
    #[arg(long)]
    sealed: bool,
}

#[derive(Args, Debug)]
struct CorpusArgs {
    /// The file.
    file: PathBuf,
    /// Its length.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "1G")]
    len: u64,
}

/// What a client offers.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Protocol {
    /// Versions 4 and 5.
    Classic,
    /// Version 6.
    Six,
    /// Version 6 first.
    Either,
}

impl From<Protocol> for Dialects {
    fn from(protocol: Protocol) -> Dialects {
        match protocol {
            Protocol::Classic => Dialects::Classic,
            Protocol::Six => Dialects::Six,
            Protocol::Either => Dialects::Either,
        }
    }
}

fn level(text: &str) -> Result<Level, String> {
    text.parse().ok().and_then(Level::new).ok_or_else(|| "not a number from 0 to 31".into())
}

#[derive(Args, Debug)]
struct Flood {
    /// The server.
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddrV4,
    /// What to send.
    #[arg(long, value_enum, default_value = "mixed")]
    kind: FloodKind,
    /// Source address and port of the first sender.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.2.1:6666")]
    source: SocketAddrV4,
    /// Number of senders, with the addresses from there on.
    #[arg(long, default_value_t = 1)]
    sources: u32,
    /// Forge the source address with a raw socket: it may be another machine's. Needs CAP_NET_RAW.
    #[arg(long)]
    forge: bool,
    /// Datagrams a second.
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    time: Duration,
    /// Of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
struct FleetArgs {
    /// The server.
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddrV4,
    /// Address of the first machine; the next one has the next address.
    #[arg(long, value_name = "IP", default_value = "127.8.0.1")]
    first: Ipv4Addr,
    /// UDP port of the machines.
    #[arg(long, default_value_t = 6665)]
    port: u16,
    /// Number of machines.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// How they send their lines.
    #[arg(long, value_enum, default_value = "netlog")]
    format: fleet::Format,
    /// Bytes of a line on average, 40 to 400.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(40..=400))]
    line: u16,
    /// Lines a second, of all machines together.
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
    time: Duration,
    /// Where the server keeps them.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Send through this TAP device, on whose network the machines' addresses are, instead of by sockets of theirs.
    #[arg(long, value_name = "NAME", requires = "mac")]
    tap: Option<String>,
    /// Ethernet address of the TAP device.
    #[arg(long, value_parser = mac)]
    mac: Option<MacAddr>,
    /// What is in there.
    #[arg(long, value_enum, default_value = "netdump")]
    layout: fleet::Layout,
    /// Makes lines different from run to run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
struct HelloServer {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:6666")]
    bind: SocketAddrV4,
    /// The shared secret, 16 hexadecimal digits.
    #[arg(long, value_parser = cookie, default_value = "1111111111111111")]
    cookie: Cookie,
    /// Time between two HELLOs.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "500ms")]
    interval: Duration,
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    time: Duration,
}

#[derive(Args, Debug)]
struct Probe {
    /// The client.
    #[arg(long, value_name = "IP:PORT")]
    client: SocketAddrV4,
    /// Where requests come from.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:0")]
    source: SocketAddrV4,
    /// The cookie in them, 16 hexadecimal digits; a new random one each time if not given.
    #[arg(long, value_parser = cookie)]
    cookie: Option<Cookie>,
    /// Requests a second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
    time: Duration,
    /// Of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args, Debug)]
struct Verify {
    /// The dump.
    vmcore: PathBuf,
    /// Memory of the machine.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "64M")]
    memory: u64,
    /// One page in so many cannot be read; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    poisoned_every: u64,
    #[command(flatten)]
    image: ImageFile,
    /// Seed of the machine: that of `crash`, and one more for each machine behind the first.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn cookie(text: &str) -> Result<Cookie, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map(Cookie::new).map_err(|e| format!("{text}: {e}"))
}

fn mac(text: &str) -> Result<MacAddr, String> {
    target::mac(text).ok_or_else(|| format!("{text}: not six hexadecimal bytes with colons"))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn main() -> Result<ExitCode> {
    let (report, good) = match Cli::parse().command {
        Mode::Crash(args) => crash(&args)?,
        Mode::Flood(args) => (flood(&args)?, true),
        Mode::Fleet(args) => fleet_trial(&args)?,
        Mode::HelloServer(args) => {
            let report = hostile::hello_forever(args.bind, args.cookie, args.interval, args.time)?;
            (serde_json::to_string_pretty(&report)?, true)
        }
        Mode::Probe(args) => probe(&args)?,
        Mode::Verify(args) => verify(&args)?,
        Mode::Bare(args) => (bare_loop(&args)?, true),
        Mode::Corpus(args) => {
            let sha256 = corpus::write(&args.file, args.len).with_context(|| args.file.display().to_string())?;
            (serde_json::json!({ "bytes": args.len, "sha256": sha256 }).to_string(), true)
        }
    };
    println!("{report}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn crash(args: &Crash) -> Result<(String, bool)> {
    let report = crowd::run(&CrowdParams {
        server: args.server,
        first: args.first,
        port: args.port,
        count: args.count,
        image: ImageParams {
            memory: args.memory,
            seed: args.seed,
            cpus: args.cpus,
            poisoned_every: args.poisoned_every,
            repeat: args.repeat,
            extension: !args.no_items,
            corpus: args.image.load()?,
            ..ImageParams::default()
        },
        cookie: args.cookie,
        dialects: args.protocol.into(),
        key: args.key.as_deref().map(key).transpose()?,
        level: args.level,
        max_datagram: args.max_datagram,
        no_gso: args.no_gso,
        handshake_timeout: nanos(args.handshake_timeout),
        idle_timeout: nanos(args.idle_timeout),
        total_timeout: nanos(args.total_timeout),
    })?;
    Ok((serde_json::to_string_pretty(&report)?, report.given_up == 0))
}

/// What a client with a key needs of what it is armed with.
fn key(file: &Path) -> Result<(KeyName, Key)> {
    let blob = std::fs::read(file).with_context(|| file.display().to_string())?;
    let arming = Arming::new_checked(&blob).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    Ok((arming.name(), Key::new(*arming.arm_key())))
}

fn bare_loop(args: &Bare) -> Result<String> {
    let report = match (args.bind, &args.file, args.to) {
        (Some(bind), Some(file), _) => {
            let socket = bare::listen(bind).with_context(|| bind.to_string())?;
            bare::receive(&socket, file, args.len, args.window / 4, args.sealed)?
        }
        (_, _, Some(to)) => {
            let corpus = args.image.load()?.context("nothing to send")?;
            bare::send(&corpus, to, args.datagram, args.window, args.sealed)?
        }
        _ => anyhow::bail!("neither --bind nor --to"),
    };
    Ok(serde_json::to_string_pretty(&report)?)
}

fn flood(args: &Flood) -> Result<String> {
    let report = hostile::flood(&FloodParams {
        server: args.server,
        source: args.source,
        sources: args.sources,
        forge: args.forge,
        kind: args.kind,
        rate: args.rate,
        time: args.time,
        seed: args.seed,
    })?;
    Ok(serde_json::to_string_pretty(&report)?)
}

fn fleet_trial(args: &FleetArgs) -> Result<(String, bool)> {
    let params = FleetParams {
        first: args.first,
        port: args.port,
        count: args.count,
        format: args.format,
        line: args.line.into(),
        seed: args.seed,
    };
    let stored = fleet::Stored { dir: args.dir.clone(), layout: args.layout };
    let way = match (&args.tap, args.mac) {
        (Some(name), Some(mac)) => Way::Tap { name: name.clone(), mac },
        _ => Way::Sockets,
    };
    let trial = fleet::trial(params, args.server, &way, &stored, args.rate.into(), args.time)?;
    Ok((serde_json::to_string_pretty(&trial)?, trial.whole))
}

fn probe(args: &Probe) -> Result<(String, bool)> {
    let report = hostile::probe(&ProbeParams {
        client: args.client,
        source: args.source,
        cookie: args.cookie,
        rate: args.rate,
        time: args.time,
        seed: args.seed,
    })?;
    Ok((serde_json::to_string_pretty(&report)?, report.answers == 0))
}

fn verify(args: &Verify) -> Result<(String, bool)> {
    let image = Image::new(ImageParams {
        memory: args.memory,
        poisoned_every: args.poisoned_every,
        seed: args.seed,
        corpus: args.image.load()?,
        ..ImageParams::default()
    });
    let report = verify::vmcore(&args.vmcore, &image).with_context(|| args.vmcore.display().to_string())?;
    Ok((serde_json::to_string_pretty(&report)?, report.is_true()))
}
