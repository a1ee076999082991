// SPDX-License-Identifier: GPL-2.0-only

//! Firing: what happens in a panic. Everything here is panic path: it allocates nothing, sleeps nowhere, and every
//! wait ends by a clock that runs. It ends in what the administrator configured.

use super::arm::PLAN;
use super::engine::client::{Client, Dialects};
use super::engine::v6::{Choice, Config6, Source};
use super::engine::{self, End, ItemPart, PageClass, Target, Time, Unreadable};
use super::notes;
use super::pages::{self, Fate, Layout};
use super::plan::{Plan, Text};
use super::settings::Reboot;
use super::sys::claim;
use super::sys::clock::{self, Clock};
use super::sys::compress::Compressors;
use super::sys::crypto::{self, Kernel};
use super::sys::keys::Hidden;
use super::sys::memmap::{Early, StructPages};
use super::sys::memory::MemoryMap;
use super::sys::nic::Nic;
use super::sys::panic_cell::PanicStatic;
use super::sys::regs::{Regs, SegmentBases};
use super::sys::stop_cpus::Attempt;
use super::sys::system::{self, SoftirqContext, Symbol};
use super::sys::tasks::TaskListing;
use super::sys::tx::Checksum;
use super::sys::volatile::{Changed, PhysRange, ENTRY_LEN};
use super::sys::{keys, kmsg, notifier, stop_cpus};
use super::wire::classic::{ItemId, Machine};
use super::wire::frame::{self, Fill, Frame, MacAddr, NeighbourQuery, NeighbourReply, Path, UdpChecksum, UdpHeaders};
use super::wire::v6::message::Turn;
use super::wire::v6::{Codec, Level, Reason};
use super::wire::Pfn;
use core::ffi::CStr;
use kernel::prelude::*;

static ENGINE: PanicStatic<Client> = PanicStatic::new(Client::new());

/// Frames sent in one go before looking for requests again, and before the NIC is told at the latest.
const BURST: usize = 64;
/// Turns without progress after which a transmitter counts as stalled.
const STALLED: u32 = 8;
/// The network forgets who does not speak: say who we are this often, in nanoseconds.
const ANNOUNCE: u64 = 20_000_000_000;
/// How often the watchdogs are told that we live, in nanoseconds.
const TOUCH: u64 = 1_000_000_000;
/// Between the server's order and the restart (the original's value), in microseconds.
const REBOOT_DELAY: u32 = 3_000_000;

/// Before the other CPUs are stopped: bring the NIC to rest. Whether it is.
pub fn before_stop(attempt: Attempt) -> bool {
    if attempt.nested {
        PLAN.abandon();
    }
    let Some(mut plan) = PLAN.enter() else { return true };
    plan.online.read();
    plan.nic.quiesce(attempt)
}

/// Once the other CPUs are stopped: netconsole.ko may want to send what was printed meanwhile.
pub fn after_stop() {
    if let Some(mut plan) = PLAN.enter() {
        plan.nic.after_stop();
    }
}

/// The panic notifier.
pub fn on_panic(message: &CStr) {
    let Some(mut plan) = PLAN.enter() else {
        if PLAN.is_entered() {
            // What is still to be said may go out over netconsole.ko.
            claim::release();
            pr_emerg!("fault while dumping, giving up\n");
        } else {
            pr_emerg!("not armed, no dump\n");
        }
        return;
    };
    // A second panic after the dump, or a plan whose stack is in use: neither is dumped again.
    let Some(mut stack) = plan.stack.take() else { return };
    let mut end = None;
    let place = stack.range();
    plan.changed.range(place, "stack");
    stack.run(&mut |regs| end = dump(&mut plan, regs, message, place));
    // The stack is memory that cannot be freed here.
    core::mem::forget(stack);
    match end {
        Some(End::Reboot) if plan.settings.reboot == Reboot::Server => restart(),
        Some(end) => pr_emerg!("the dump ends: {}\n", format_args!("{}", Why(end))),
        None => {}
    }
}

fn restart() -> ! {
    pr_emerg!("rebooting in 3 seconds.\n");
    for _ in 0..REBOOT_DELAY / 100_000 {
        clock::spin_us(100_000);
        system::touch_watchdogs();
    }
    system::restart()
}

struct Why(End);

impl core::fmt::Display for Why {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self.0 {
            End::Reboot => "the server has all and lets the machine restart",
            End::Exit => "the server lets the machine go on",
            End::Refused => "the server cannot handle this machine",
            End::QueueTimeout => "the server kept it waiting for too long (queue_timeout)",
            End::HandshakeTimeout => "no server answered (handshake_timeout)",
            End::IdleTimeout => "the server has gone silent (idle_timeout)",
            End::TotalTimeout => "it took too long (total_timeout)",
        })
    }
}

/// The whole dump, on a stack of its own.
fn dump(plan: &mut Plan, regs: &Regs, message: &CStr, stack: PhysRange) -> Option<End> {
    if !clock::runs() {
        // Suspending or resuming: no deadline would ever come.
        pr_emerg!("the clock stands still, no dump\n");
        return None;
    }
    if !plan.nic.is_up() {
        pr_emerg!("the network device is down, no dump\n");
        return None;
    }
    let (task, pid) = system::current_task();
    // If an oops led here, what it found is nearer to the cause than where we stand.
    plan.regs = notifier::oops_regs().unwrap_or(*regs).gregset(SegmentBases::read());
    let context = SoftirqContext::enter(&mut plan.bpf);
    let taken = plan.nic.take_over();
    // As it is set now: ethtool may have changed it since.
    plan.offload = plan.nic.sender().offloads_checksum(plan.path.local.is_ipv6());
    if taken.clean == 0 {
        pr_emerg!("the network device was in use when the machine stopped, trying it all the same\n");
    } else if taken.dirty > 0 {
        pr_emerg!("{} of the network device's queues cannot be used\n", taken.dirty);
    }
    name_stragglers();
    notes::write(plan, message.to_bytes(), task, pid);
    pr_emerg!("< netdump activated - performing handshake with the server. >\n");
    plan.log.len = kmsg::newest(&mut plan.log.bytes);
    report(plan);
    plan.nic.donate();

    let mut clock = Clock::start();
    let crypto = plan.crypto.in_panic();
    let engine = ENGINE.take()?;
    let key = keys::arm_key();
    // What is derived from the keys lies in the engine, and what computes with them leaves traces on this stack.
    if key.is_some() && !(plan.hidden.hide(&raw const ENGINE) && plan.hidden.hide_range(stack)) {
        pr_emerg!("no room to note where the keys are, no dump\n");
        return None;
    }
    let six = Config6 {
        machine: Machine::X86_64,
        key: key.map(|(name, key, _)| (name, key)),
        seed: key.map_or(plan.seed, |(_, _, seed)| seed),
        entropy: crypto::entropy(),
        max_datagram: plan.max_datagram,
        codecs: Codec::Lz4.bit() | Codec::Zstd.bit(),
        level: plan.settings.level,
        handshake_timeout: plan.settings.handshake_timeout,
        idle_timeout: plan.settings.idle_timeout,
        queue_timeout: plan.settings.queue_timeout,
        total_timeout: plan.settings.total_timeout,
    };
    engine.begin(
        plan.settings.dialects,
        engine::Config {
            cookie: keys::cookie(),
            machine: Machine::X86_64,
            task_struct: task,
            page_offset: plan.layout.page_offset,
            page_size: 4096,
            nr_pages: plan.memory.frames(),
            total_ram_pages: super::sys::memory::total_pages(),
            log_offset: 0,
            handshake_timeout: plan.settings.handshake_timeout,
            idle_timeout: plan.settings.idle_timeout,
            total_timeout: plan.settings.total_timeout,
        },
        six,
        Time(clock.now()),
        &crypto,
    );
    let end = serve(plan, engine, crypto, &mut clock);
    plan.nic.give_back();
    drop(context);
    summary(plan, engine, clock.now());
    Some(end)
}

/// Says which CPUs were not running normally. One that spins with interrupts off is often the reason for the panic,
/// but may also be waiting for the serial port that the panic's own messages occupy.
fn name_stragglers() {
    for cpu in (0..system::cpus_possible()).filter(|cpu| *cpu != system::cpu()) {
        match stop_cpus::cpu_state(cpu) {
            Some(state) if state.regs.is_none() => {
                pr_emerg!("CPU {cpu} could not be reached, its registers are not known\n")
            }
            Some(state) if state.by_nmi => {
                let place = Symbol::of(state.ip);
                pr_emerg!("CPU {cpu} was not taking interrupts and was stopped by NMI in {}\n", place.as_str());
            }
            Some(_) | None => {}
        }
    }
}

/// Notes what will change from now on, before the first page is read.
fn report(plan: &mut Plan) {
    let Plan { nic, memory, struct_pages, early, changed, .. } = plan;
    early.complete();
    early.report(changed);
    nic.report(changed);
    memory.report(changed);
    struct_pages.report(changed);
    changed.itself("state");
    let place: *const Plan = &*plan;
    plan.changed.place(place, "state");
    plan.changed.place(&raw const ENGINE, "state");
    plan.changed.place(&raw const PLAN, "state");
    system::report(&mut plan.changed);
    keys::report(&mut plan.changed);
    claim::report(&mut plan.changed);
}

/// Answers the server until the engine says that it is over.
fn serve(plan: &mut Plan, engine: &mut Client, crypto: Kernel, clock: &mut Clock) -> End {
    let Plan { nic, path, headers, offload, memory, regs, notes, log, changed, frozen, frame, foreign, .. } = plan;
    let Plan { struct_pages, early, compressors, hidden, .. } = plan;
    let mut link = Link { path, headers, crypto, offload: *offload, ident: 0, foreign, answer: None };
    let noted = changed.pages();
    let mut target = Machinery {
        memory,
        regs,
        notes,
        log,
        changed,
        noted,
        frozen,
        struct_pages,
        early,
        compressors,
        hidden,
        listing: None,
    };
    let mut announced = clock.now();
    let mut touched = announced;
    let mut stalled = 0u32;
    let mut serving = false;
    loop {
        nic.poll();
        let now = Time(clock.now());
        while let Some(received) = nic.receive() {
            received.report(target.changed);
            let len = received.copy_to(frame);
            let checksum = UdpChecksum::new(received.checksum_trusted());
            drop(received);
            link.take(engine, now, frame.get(..len).unwrap_or(&[]), checksum);
        }
        if send_burst(nic, &mut link, engine, &mut target, now) {
            stalled = 0;
        } else {
            stalled = stalled.wrapping_add(1);
            if stalled % STALLED == 0 {
                nic.unstall();
            }
        }
        if let Some(end) = engine.poll(now) {
            drain(nic, clock);
            return end;
        }
        if !serving && engine.is_serving() {
            serving = true;
            pr_emerg!("< handshake completed - listening for dump requests. >\n");
        }
        if now.0.saturating_sub(announced) > ANNOUNCE {
            announced = now.0;
            link.announce();
        }
        if now.0.saturating_sub(touched) > TOUCH {
            touched = now.0;
            system::touch_watchdogs();
        }
    }
}

/// Sends what is due. False if the transmitter is stuck on something.
fn send_burst(nic: &mut Nic, link: &mut Link<'_>, engine: &mut Client, target: &mut Machinery<'_>, now: Time) -> bool {
    for _ in 0..BURST {
        let sender = nic.sender();
        // What is written here may wait for the frame after it, which the NIC is told of at the same time.
        if !sender.advance() {
            return false;
        }
        let Some(mut slot) = sender.free() else {
            let flushed = sender.flush();
            return flushed && sender.free().is_some();
        };
        let Some(written) = link.write(engine, target, now, slot.frame()) else { break };
        slot.commit(written.len, written.ip, written.udp, link.path.local.is_ipv6(), written.checksum);
    }
    nic.sender().flush()
}

/// The last frame may still wait for the driver.
fn drain(nic: &mut Nic, clock: &mut Clock) {
    const LIMIT: u64 = 10_000_000;
    let until = clock.now().saturating_add(LIMIT);
    while !nic.sender().flush() && clock.now() < until {
        nic.unstall();
    }
}

/// Our end of the network.
struct Link<'a> {
    path: &'a Path,
    headers: &'a UdpHeaders,
    crypto: Kernel,
    offload: bool,
    ident: u16,
    /// Datagrams to our port from somebody else than the server.
    foreign: &'a mut u32,
    /// Whom to tell our Ethernet address.
    answer: Option<NeighbourQuery>,
}

struct Written {
    len: usize,
    ip: usize,
    udp: usize,
    checksum: Checksum,
}

impl Link<'_> {
    /// Looks at a frame: requests of the server go to the engine, questions for our address are answered.
    fn take(&mut self, engine: &mut Client, now: Time, frame: &[u8], checksum: UdpChecksum) {
        match frame::parse(frame, checksum) {
            Ok(Frame::Udp(udp)) => {
                // The source port is not looked at, as in the original: the cookie is what counts.
                if udp.dst != self.path.local || udp.dst_port != self.path.local_port {
                    return;
                }
                if udp.src == self.path.peer {
                    engine.handle(now, udp.payload, &self.crypto);
                } else {
                    *self.foreign = self.foreign.saturating_add(1);
                }
            }
            Ok(Frame::NeighbourQuery(query)) if query.target == self.path.local => self.answer = Some(query),
            // Everybody else's traffic.
            Ok(Frame::NeighbourQuery(_)) | Err(_) => {}
        }
    }

    /// Says who we are to everybody.
    fn announce(&mut self) {
        let unasked = match self.path.local {
            core::net::IpAddr::V4(_) => self.path.local,
            core::net::IpAddr::V6(_) => core::net::IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED),
        };
        self.answer = Some(NeighbourQuery { asker_mac: MacAddr::BROADCAST, asker: unasked, target: self.path.local });
    }

    /// Writes the next frame that is due. None if there is none.
    fn write(
        &mut self,
        engine: &mut Client,
        target: &mut Machinery<'_>,
        now: Time,
        frame: &mut [u8],
    ) -> Option<Written> {
        if let Some(query) = self.answer.take() {
            let reply = NeighbourReply { query, local_mac: self.path.local_mac, vlan: self.path.vlan };
            if let Some(len) = reply.emit(frame) {
                return Some(Written {
                    len,
                    ip: frame::ETH_HEADER_LEN,
                    udp: frame::ETH_HEADER_LEN,
                    checksum: Checksum::Done,
                });
            }
        }
        let payload = frame.get_mut(self.path.headers_len()..)?;
        let payload_len = engine.transmit(now, target, &self.crypto, payload)?;
        self.ident = self.ident.wrapping_add(1);
        let fill = if self.offload { Fill::Offload } else { Fill::Full };
        let emitted = self.headers.emit(frame, payload_len, self.ident, fill)?;
        let checksum = if self.offload { Checksum::Offload(emitted.udp) } else { Checksum::Done };
        let mut len = emitted.len;
        if let Some(pad) = frame.get_mut(len..frame::MIN_FRAME_LEN) {
            pad.fill(0);
            len = frame::MIN_FRAME_LEN;
        }
        Some(Written { len, ip: emitted.ip, udp: emitted.udp, checksum })
    }
}

/// The machine as the engine sees it.
struct Machinery<'a> {
    memory: &'a MemoryMap,
    regs: &'a [u8],
    notes: &'a Text,
    log: &'a Text,
    changed: &'a mut Changed,
    /// Pages that `changed` held when the dump began.
    noted: usize,
    frozen: &'a mut Option<usize>,
    struct_pages: &'a mut StructPages,
    early: &'a Early,
    compressors: &'a mut Compressors,
    hidden: &'a Hidden,
    listing: Option<TaskListing>,
}

impl Target for Machinery<'_> {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        match self.memory.classify(pfn.0) {
            Ok(()) => PageClass::Ram,
            Err(next) => PageClass::Hole { next: next.map(Pfn) },
        }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        if self.is_secret(pfn) {
            out.fill(0);
            return Ok(());
        }
        self.memory.copy(pfn.0, offset as usize, out).map_err(|_| Unreadable)
    }

    fn regs(&self) -> &[u8] {
        self.regs
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        match item {
            ItemId::Notes => part_of(self.notes.get(), offset, out),
            ItemId::Log => part_of(self.log.get(), offset, out),
            ItemId::Volatile => self.changed_part(offset as usize, out),
            ItemId::Unknown(_) => ItemPart::default(),
        }
    }

    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        self.listing.get_or_insert_with(TaskListing::begin).next_line(out)
    }
}

impl Source for Machinery<'_> {
    fn select(&mut self, level: Level, turn: Turn, pfn: Pfn, end: Pfn) -> Choice {
        if let Err(next) = self.memory.classify(pfn.0) {
            let to = next.map_or(end, Pfn).min(end);
            return Choice::Skip { to, reason: Reason::Unreadable };
        }
        if self.is_secret(pfn) {
            return Choice::Skip { to: Pfn(pfn.0.saturating_add(1)), reason: Reason::Secret };
        }
        let layout = self.struct_pages.layout();
        match pages::select(&layout, level, self.struct_pages, pfn.0) {
            Fate::Keep => self.turn_of(&layout, turn, pfn, end),
            Fate::Leave { to, reason } => Choice::Skip { to: Pfn(to.min(end.0)), reason },
        }
    }

    fn hash(&mut self, bytes: &[u8]) -> u32 {
        crypto::hash(bytes)
    }

    fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize> {
        self.compressors.report(codec, self.changed);
        self.compressors.compress(codec, from, to)
    }
}

impl Machinery<'_> {
    /// Whether it is the turn of a page that is kept.
    fn turn_of(&mut self, layout: &Layout, turn: Turn, pfn: Pfn, end: Pfn) -> Choice {
        if turn == Turn::Any {
            return Choice::Keep;
        }
        let (first, to) = pages::comes_first(layout, self.struct_pages, self.early.frames(), pfn.0);
        if first == (turn == Turn::First) {
            return Choice::Keep;
        }
        // What the network drivers were given since may have been no such page when the first had their turn.
        if first && self.changed.noted_since(pfn.0, self.noted) {
            return Choice::Keep;
        }
        // One at a time where such pages may be among them.
        let to = if first && self.changed.pages() > self.noted { pfn.0.saturating_add(1) } else { to };
        Choice::Pass { to: Pfn(to.min(end.0)) }
    }
}

fn part_of(whole: &[u8], offset: u32, out: &mut [u8]) -> ItemPart {
    let left = whole.get(offset as usize..).unwrap_or(&[]);
    let mut written = 0;
    for (to, from) in out.iter_mut().zip(left) {
        *to = *from;
        written += 1;
    }
    ItemPart { total: whole.len() as u32, written }
}

impl Machinery<'_> {
    fn is_secret(&self, pfn: Pfn) -> bool {
        keys::is_secret(pfn.0) || self.hidden.holds(pfn.0)
    }

    fn changed_part(&mut self, offset: usize, out: &mut [u8]) -> ItemPart {
        if offset == 0 && self.frozen.is_none() {
            *self.frozen = Some(self.changed.len());
        }
        let total = self.frozen.unwrap_or(0).saturating_mul(ENTRY_LEN);
        let mut written = 0;
        while let Some(to) = out.get_mut(written) {
            let at = offset.saturating_add(written);
            if at >= total {
                break;
            }
            let Some(entry) = self.changed.entry(at / ENTRY_LEN) else { break };
            *to = entry.get(at % ENTRY_LEN).copied().unwrap_or(0);
            written += 1;
        }
        ItemPart { total: total as u32, written }
    }
}

fn summary(plan: &mut Plan, engine: &Client, elapsed: u64) {
    if plan.changed.overflow() > 0 {
        pr_emerg!("{} places that changed found no room in the report\n", plan.changed.overflow());
    }
    if engine.speaks() == Dialects::Classic {
        let counters = engine.classic().counters();
        pr_emerg!(
            "{} pages ({} not readable) in {} ms, {} requests ({} with a wrong cookie, {} too short)\n",
            counters.pages,
            counters.reserved,
            elapsed / 1_000_000,
            counters.received,
            counters.bad_cookie,
            counters.short
        );
    } else {
        let counters = engine.six().counters();
        pr_emerg!(
            "{} pages and {} of zeroes in {} ms, {} bytes sent, {} left out; {} datagrams received ({} forged, {} replayed, {} malformed), {} pieces sent again\n",
            counters.pages,
            counters.zero_pages,
            elapsed / 1_000_000,
            counters.sent_bytes,
            engine.six().left_out().iter().fold(0u64, |sum, count| sum.saturating_add(*count)),
            counters.received,
            counters.forged,
            counters.replayed,
            counters.malformed,
            counters.repairs
        );
    }
    let (_, full) = plan.nic.sender().counts();
    pr_emerg!(
        "{} datagrams from elsewhere, {} frames dropped, transmitter full {} times\n",
        plan.foreign,
        plan.nic.dropped(),
        full
    );
}
