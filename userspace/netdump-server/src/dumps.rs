// SPDX-License-Identifier: GPL-2.0-or-later
//! The life of a dump: slot, directory, room on the disk, file, end.
//!
//! ```text
//! Proved            a slot, or the queue, or log only          admission
//! granted           directory, netdump-crash                   store
//! Described         enough room? netdump-nospace, once         store, hooks
//! enough            vmcore-incomplete                          writer
//! MemoryDone        synced, renamed to vmcore                  writer
//! Store             log synced; with both the client may go    store
//! Finished          meta.json, compress=, netdump-reboot       store, hooks
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use netdump_session::{Event, Failure, Grant, Phase};
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::{Decision, DumpId};
use crate::crashdir::{address_name, ClientDir};
use crate::dump::{Dump, Kaslr, Space};
use crate::events::Reason;
use crate::hooks::{Hook, Outcome as HookOutcome};
use crate::logs::Context;
use crate::server::{Report, Server};
use crate::socket::Sent;
use crate::store::{DirId, StoreEvent};
use crate::writer::{Page, Writer, WriterEvent, WriterOptions};

/// Clients beyond their hourly limit that are served at once; more are only told to go.
const MAX_LOG_ONLY: usize = 64;
/// Requests that are sent for one client before others have their turn.
const MAX_BURST: usize = 1024;
/// Disk that a dump needs beside its memory: headers, log, directories.
pub(crate) const OVERHEAD: u64 = 4 << 20;
/// Unfinished dumps that are remembered.
pub(crate) const MAX_UNFINISHED: usize = 4096;

impl Server {
    /// Works out what a session wants after something was done to it, and sends its requests.
    pub(crate) fn advance(&mut self, addr: SocketAddr) {
        let Some(mut dump) = self.dumps.remove(&addr) else { return };
        while let Some(event) = dump.session.poll_event() {
            self.take_event(&mut dump, event);
        }
        dump.flush();
        let room = self.room_per_dump(&dump, 1);
        dump.session.set_write_room(room, self.room_per_dump(&dump, 2));
        dump.session.set_max_window(self.window_6());
        self.transmit(&mut dump);
        self.note_counters(&mut dump);
        self.report_progress(&mut dump);
        if dump.outcome.is_some() {
            self.forget_address(addr);
            return self.close(dump);
        }
        if let Some(at) = dump.session.poll_timeout() {
            self.wake_at(at);
        }
        self.dumps.insert(addr, dump);
    }

    /// Pages that may wait for one dump's disk: every possible dump has an equal share of the whole.
    fn room_per_dump(&self, dump: &Dump, shares: usize) -> usize {
        let share = self.settings.write_buffer / self.settings.max_concurrent_dumps.max(1) as usize;
        let page = dump.info.as_ref().map_or(4096, |info| info.page_size.bytes());
        // At least one batch, or a slow disk would be fed page by page.
        (share.max(64 * page) * shares).saturating_sub(dump.on_their_way) / page
    }

    fn transmit(&mut self, dump: &mut Dump) {
        // Those of one length go out together.
        let (mut requests, mut len, mut next) = (Vec::new(), 0, Vec::new());
        let mut sent = Sent::default();
        for n in 0.. {
            if n == MAX_BURST {
                self.touched.push(dump.path.peer);
                break;
            }
            if !dump.session.poll_transmit(self.now, &mut next) {
                break;
            }
            if next.len() != len && !requests.is_empty() {
                sent += self.sender.send(dump.path, &requests, len);
                requests.clear();
            }
            len = next.len();
            requests.extend_from_slice(&next);
        }
        if !requests.is_empty() {
            sent += self.sender.send(dump.path, &requests, len);
        }
        self.events.sent += sent.sent as u64;
        if sent.refused > 0 {
            self.events.add(Reason::SendRefused, sent.refused as u64 - 1);
            self.refuse(Reason::SendRefused, dump.path, "the kernel did not take all requests");
        }
    }

    fn take_event(&mut self, dump: &mut Dump, event: Event) {
        match event {
            Event::Phase(phase) => {
                if phase == Phase::Memory {
                    dump.memory.0 = Some(self.now);
                }
                if dump.outcome.is_none() {
                    self.write_meta(dump);
                }
                // Before the client is told to reboot; where it has no file to wait for, at that moment.
                if let (Phase::Store | Phase::End, Some(dir), false) = (phase, dump.dir, dump.log_synced) {
                    self.store.sync(dir);
                }
                if self.settings.verbose >= 2 {
                    tracing::info!(client = %dump.path.peer, phase = phase.name(), "phase");
                } else {
                    tracing::debug!(client = %dump.path.peer, phase = phase.name(), "phase");
                }
            }
            Event::Proved => self.request_slot(dump),
            Event::Described(info) => {
                let mib = info.memory_bytes() >> 20;
                let panic = info.panic.as_deref().map(str::trim_end).unwrap_or("unknown");
                tracing::info!(client = %dump.path.peer, machine = info.machine.0, cpus = info.cpus.len(), mib, panic, "described");
                dump.kaslr = Kaslr::of(&info);
                dump.info = Some(info);
                self.prepare_storage(dump);
            }
            // Log packets are taken from the socket directly, from any port of the client; see dispatch.
            Event::Netlog { .. } => {}
            Event::KernelLog(text) => {
                let mut all =
                    format!("\n[netdump: the kernel log as of the crash, {} bytes]\n", text.len()).into_bytes();
                all.extend_from_slice(&text);
                if text.last().is_some_and(|byte| *byte != b'\n') {
                    all.push(b'\n');
                }
                dump.kernel_log = all;
                if dump.client_dir.is_some() || dump.storage_error.is_some() {
                    self.write_kernel_log(dump);
                }
            }
            Event::Listing(text) => {
                let mut all = format!("\n[netdump: the tasks as of the crash, {} bytes]\n", text.len()).into_bytes();
                all.extend(text);
                let mut cx = Context {
                    now: self.now,
                    settings: &self.settings,
                    store: &mut self.store,
                    events: &mut self.events,
                };
                self.logs.append(&mut cx, dump.path.peer.ip(), dump.registered, &all);
            }
            Event::Page { pfn, data, again } => {
                self.events.pages += 1;
                dump.push_page(Page { pfn, data, again });
            }
            Event::Pages(pages) => {
                self.events.pages += pages.count();
                dump.push_cluster(pages);
            }
            Event::Absent { pfns, why } => dump.note_absent(pfns.end.saturating_sub(pfns.start), why),
            Event::Accounted { frames, early } => dump.push_accounted(frames, early),
            Event::MemoryDone(end) => {
                dump.flush();
                dump.memory.1 = Some(self.now);
                dump.whole = end.failure.is_none();
                if let Some(writer) = &dump.writer {
                    writer.finish(dump.whole);
                }
            }
            Event::Volatile(ranges) => dump.volatile = ranges,
            Event::Finished(outcome) => dump.outcome = Some(outcome),
        }
    }

    fn request_slot(&mut self, dump: &mut Dump) {
        match self.admission.request(dump.id, dump.path.peer.ip(), self.now) {
            Decision::Start => self.grant(dump, Grant::Full),
            Decision::Wait(place) => {
                dump.session.set_position(u32::try_from(place + 1).unwrap_or(u32::MAX));
                tracing::info!(client = %dump.path.peer, place = place + 1, "waiting for a slot");
            }
            Decision::LogOnly => {
                let detail = format!(
                    "dumps_per_hour={} reached: only the log is taken, then the client is rebooted",
                    self.settings.dumps_per_hour
                );
                self.events.note(self.now, Reason::HourlyLimit, dump.path.peer, detail);
                self.grant_log_only(dump);
            }
            Decision::Full => {
                let detail = "too many clients wait already: only the log is taken, then the client is rebooted";
                self.refuse(Reason::QueueFull, dump.path, detail);
                self.grant_log_only(dump);
            }
            Decision::AddressBusy => {
                // No log either: logs are told apart by their address, and this would break into that of the others.
                let detail = "a dump of this address runs and another waits: the client is only rebooted";
                self.refuse(Reason::AddressBusy, dump.path, detail);
                dump.session.cancel(self.now);
            }
        }
    }

    fn grant_log_only(&mut self, dump: &mut Dump) {
        let log_only = self.dumps.values().filter(|dump| dump.grant == Some(Grant::LogOnly)).count();
        if log_only >= MAX_LOG_ONLY {
            self.refuse(Reason::TooManyClients, dump.path, "not even the log is taken");
            return dump.session.cancel(self.now);
        }
        if !self.admission.may_leave_log(dump.path.peer.ip(), self.now) {
            self.refuse(Reason::HourlyLimit, dump.path, "not even the log is taken: it has left enough this hour");
            return dump.session.cancel(self.now);
        }
        self.grant(dump, Grant::LogOnly);
    }

    fn grant(&mut self, dump: &mut Dump, grant: Grant) {
        dump.grant = Some(grant);
        dump.format = self.settings.format;
        let client = dump.path.peer.ip();
        let begun = dump.resumable().filter(|_| grant == Grant::Full).and_then(|of| self.unfinished.remove(&of.cause));
        begun.iter().for_each(|name| self.keep_from_conversion(name));
        dump.begun = begun.is_some();
        if let Some(name) = &begun {
            tracing::info!(client = %dump.path.peer, directory = name, "a dump that was begun before goes on");
        }
        let mut cx =
            Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
        let dir = self.logs.begin_dump(&mut cx, client, dump.registered, begun);
        dump.dir = Some(dir);
        self.store.hold(dir);
        self.store.open(dir);
        self.events.dumps_started += 1;
        self.write_meta(dump);
        tracing::info!(client = %dump.path.peer, log_only = grant == Grant::LogOnly, "dump begins");
        dump.session.grant_slot(self.now, grant);
    }

    /// Gives free slots to those who wait.
    pub(crate) fn admit_next(&mut self) {
        while let Some((id, decision)) = self.admission.next(self.now) {
            let addr = self.dumps.iter().find(|(_, dump)| dump.id == id).map(|(addr, _)| *addr);
            let Some(mut dump) = addr.and_then(|addr| self.dumps.remove(&addr)) else {
                self.admission.leave(id);
                continue;
            };
            if dump.session.phase() != Phase::Waiting {
                // It has waited for too long and is being told to go.
                self.admission.leave(id);
                self.dumps.insert(dump.path.peer, dump);
                continue;
            }
            if decision == Decision::Start {
                self.grant(&mut dump, Grant::Full);
            } else {
                self.refuse(
                    Reason::HourlyLimit,
                    dump.path,
                    "dumps_per_hour reached while waiting: only the log is taken",
                );
                self.grant_log_only(&mut dump);
            }
            self.touched.push(dump.path.peer);
            self.dumps.insert(dump.path.peer, dump);
        }
        self.renew_positions();
    }

    /// Those who wait are told how far they have moved up, each when it is spoken to next.
    fn renew_positions(&mut self) {
        if !self.admission.has_moved() {
            return;
        }
        let places: HashMap<DumpId, usize> = self.admission.queue().zip(1..).collect();
        for dump in self.dumps.values_mut() {
            if let Some(place) = places.get(&dump.id) {
                dump.session.set_position(u32::try_from(*place).unwrap_or(u32::MAX));
            }
        }
    }

    pub(crate) fn take_store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Created(..) => {}
            StoreEvent::Failed(dir, error) => {
                let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
                self.events.note(self.now, Reason::StorageFailed, nobody, &error);
                self.logs.dir_failed(dir);
                self.with_dir(dir, |server, dump| {
                    // A dump whose file is open goes on: only the name of its directory has gone.
                    if dump.client_dir.is_some() {
                        return;
                    }
                    let full = error.kind() == std::io::ErrorKind::StorageFull;
                    if full && !dump.helped && dump.grant == Some(Grant::Full) {
                        let client = dump.path.peer;
                        tracing::error!(%client, "No space for a directory; calling netdump-nospace");
                        // What it would have been called, but for the time.
                        let path = server.root.path().join(address_name(client.ip()));
                        server.call_for_space(dump, Some(path));
                    } else {
                        server.storage_failed(dump, &format!("directory: {error}"));
                    }
                });
            }
            StoreEvent::NotWritten(dir, error, bytes) => {
                let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
                self.events.note(self.now, Reason::StorageFailed, nobody, format_args!("log or meta.json: {error}"));
                self.logs.not_written(dir, bytes);
            }
            StoreEvent::Opened(dir, Ok(client_dir)) => self.with_dir(dir, |server, dump| {
                let path = client_dir.path().to_owned();
                dump.client_dir = Some(client_dir);
                server.write_kernel_log(dump);
                server.run_hook(Hook::Crash, dump.path.peer.ip(), Some(path));
                server.prepare_storage(dump);
            }),
            StoreEvent::Opened(dir, Err(error)) => self.with_dir(dir, |server, dump| {
                // Of a directory that could not be made, which is being taken care of.
                if dump.space != Space::Hook {
                    server.storage_failed(dump, &format!("directory: {error}"));
                }
            }),
            StoreEvent::Free(dir, free) => self.with_dir(dir, |server, dump| match free {
                Ok(free) => server.judge_space(dump, free),
                Err(error) => server.storage_failed(dump, &format!("free space unknown: {error}")),
            }),
            StoreEvent::Usage(Ok(bytes)) => self.logs.shares().measured(bytes),
            StoreEvent::Usage(Err(error)) => {
                let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
                self.events.note(
                    self.now,
                    Reason::StorageFailed,
                    nobody,
                    format_args!("the logs cannot be measured: {error}"),
                );
            }
            StoreEvent::Synced(dir) => self.with_dir(dir, |server, dump| {
                dump.log_synced = true;
                server.let_go(dump);
            }),
        }
    }

    /// Once file and log are safe the client may go.
    fn let_go(&mut self, dump: &mut Dump) {
        // The client must not wait for a file that will never be.
        if dump.log_synced && !dump.is_writing() {
            dump.session.stored(self.now);
        }
    }

    fn with_dir(&mut self, dir: DirId, act: impl FnOnce(&mut Server, &mut Dump)) {
        let addr = self.dumps.iter().find(|(_, dump)| dump.dir == Some(dir)).map(|(addr, _)| *addr);
        let Some((addr, mut dump)) = addr.and_then(|addr| Some((addr, self.dumps.remove(&addr)?))) else { return };
        act(self, &mut dump);
        self.dumps.insert(addr, dump);
        self.touched.push(addr);
    }

    /// Once the directory is open and the client has described itself: is there room?
    fn prepare_storage(&mut self, dump: &mut Dump) {
        if dump.client_dir.is_none() || dump.info.is_none() || dump.grant != Some(Grant::Full) {
            return;
        }
        if dump.space != Space::Unknown || dump.storage_error.is_some() {
            return;
        }
        if !self.settings.space_check {
            return self.open_file(dump);
        }
        if let Some(dir) = dump.dir {
            dump.space = Space::Measuring { last: false };
            self.store.measure(dir);
        }
    }

    fn judge_space(&mut self, dump: &mut Dump, free: u64) {
        let Space::Measuring { last } = dump.space else { return };
        let Some(info) = &dump.info else { return };
        let there = dump.client_dir.as_ref().filter(|_| dump.begun).map_or(0, ClientDir::vmcore_disk_bytes);
        let needed = info.memory_bytes().saturating_add(OVERHEAD).saturating_sub(there);
        let others: u64 = self.dumps.values().map(|other| other.still_reserved()).sum();
        let usable = free.saturating_sub(others).saturating_sub(self.conversions.reserved());
        let client = dump.path.peer;
        if usable >= needed {
            dump.reserved = needed;
            return self.open_file(dump);
        }
        let (need, have) = (needed >> 20, usable >> 20);
        if last || dump.helped {
            tracing::error!(%client, "No space for dump image, even after calling netdump-nospace: {need} MiB needed, {have} MiB free");
            dump.space = Space::Lacking;
            return self.storage_failed(dump, &format!("no space: {need} MiB needed, {have} MiB free"));
        }
        tracing::error!(%client, "No space for dump image: {need} MiB needed, {have} MiB free; calling netdump-nospace");
        let path = dump.client_dir.as_ref().map(|dir| dir.path().to_owned());
        self.call_for_space(dump, path);
    }

    fn call_for_space(&mut self, dump: &mut Dump, path: Option<PathBuf>) {
        dump.space = Space::Hook;
        dump.helped = true;
        let client = dump.path.peer;
        let (hooks, timeout) = (self.hooks.clone(), self.settings.hook_timeout);
        let (reports, id) = (self.reports.clone(), dump.id);
        tokio::spawn(async move {
            let outcome = hooks.run(Hook::NoSpace, client.ip(), path.as_deref(), timeout).await;
            report_busy(&reports, &outcome, client.ip());
            // Nobody listens any more when the server ends.
            let _ = reports.send(Report::SpaceHook(id));
        });
    }

    pub(crate) fn space_hook_done(&mut self, id: DumpId) {
        let Some(dump) = self.dumps.values_mut().find(|dump| dump.id == id) else { return };
        let Some(mut dir) = dump.dir else { return };
        if dump.client_dir.is_some() {
            dump.space = Space::Measuring { last: true };
            return self.store.measure(dir);
        }
        let mut cx =
            Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
        dir = self.logs.dump_dir(&mut cx, dump.path.peer.ip(), dump.registered);
        dump.dir = Some(dir);
        dump.space = Space::Unknown;
        self.store.hold(dir);
        self.store.open(dir);
    }

    fn open_file(&mut self, dump: &mut Dump) {
        dump.space = Space::Enough;
        let (Some(dir), Some(info)) = (dump.client_dir.as_ref(), dump.info.as_ref()) else { return };
        let options = WriterOptions { format: dump.format, skip_zero: self.settings.skip_zero };
        let info = (**info).clone();
        let (of, reports) = (dump.resumable(), self.reports.clone());
        let started = dir.try_clone().and_then(|dir| Writer::start(dump.id, dir, info, options, of, reports));
        match started {
            Ok(writer) => dump.writer = Some(writer),
            Err(error) => self.storage_failed(dump, &format!("cannot write: {error}")),
        }
    }

    fn storage_failed(&mut self, dump: &mut Dump, why: &str) {
        if dump.storage_error.is_none() {
            self.refuse(Reason::StorageFailed, dump.path, format_args!("no (more) memory is stored: {why}"));
            dump.storage_error = Some(why.to_owned());
        }
        dump.reserved = 0;
        // The log may have a place even so.
        self.write_kernel_log(dump);
        dump.session.storage_failed(self.now);
    }

    fn write_kernel_log(&mut self, dump: &mut Dump) {
        let text = std::mem::take(&mut dump.kernel_log);
        // It is there already where the dump was begun before.
        if text.is_empty() || dump.begun {
            return;
        }
        let mut cx =
            Context { now: self.now, settings: &self.settings, store: &mut self.store, events: &mut self.events };
        self.logs.append(&mut cx, dump.path.peer.ip(), dump.registered, &text);
    }

    pub(crate) fn take_writer_event(&mut self, id: DumpId, event: WriterEvent) {
        if self.closing.contains_key(&id) {
            return self.take_closing_event(id, event);
        }
        let addr = self.dumps.iter().find(|(_, dump)| dump.id == id).map(|(addr, _)| *addr);
        let Some((addr, mut dump)) = addr.and_then(|addr| Some((addr, self.dumps.remove(&addr)?))) else { return };
        match event {
            WriterEvent::Ready(told) => {
                tracing::debug!(client = %addr, "server creating vmcore");
                if dump.begun {
                    let (pages, left_out) = (told.resumed.pages, told.left_out);
                    tracing::info!(client = %addr, pages, left_out, "what was stored before is not fetched again");
                }
                dump.absent.left_out += told.left_out;
                dump.session.resume(told.resumed);
                dump.session.storage_ready(self.now);
            }
            WriterEvent::Written(buffers) => {
                dump.on_their_way = dump.on_their_way.saturating_sub(buffers.iter().map(|buf| buf.len()).sum());
                for buffer in buffers {
                    dump.session.recycle(buffer);
                }
            }
            WriterEvent::Failed(error) => {
                self.storage_failed(&mut dump, &format!("writing failed: {error}"));
                // With the file closed now, what it holds is safe whatever happens later.
                if let Some(writer) = &dump.writer {
                    writer.finish(false);
                }
            }
            WriterEvent::Closed(result, facts) => {
                note_closed(&mut dump, result, facts);
                self.let_go(&mut dump);
                self.write_meta(&dump);
            }
        }
        self.dumps.insert(addr, dump);
        self.touched.push(addr);
    }

    /// From the writer of a dump whose session is over.
    fn take_closing_event(&mut self, id: DumpId, event: WriterEvent) {
        match event {
            WriterEvent::Ready(_) | WriterEvent::Written(_) => {}
            WriterEvent::Failed(error) => {
                if let Some(dump) = self.closing.get_mut(&id) {
                    dump.storage_error.get_or_insert(format!("writing failed: {error}"));
                }
            }
            WriterEvent::Closed(result, facts) => {
                if let Some(mut dump) = self.closing.remove(&id) {
                    note_closed(&mut dump, result, facts);
                    self.conclude(dump);
                }
            }
        }
    }

    /// The session is over; the file may not be.
    fn close(&mut self, mut dump: Box<Dump>) {
        if let Some(writer) = dump.writer.as_ref().filter(|_| dump.facts.is_none()) {
            // Sent a second time where MemoryDone did it: the thread takes the first.
            writer.finish(false);
        }
        dump.log_lost = if dump.grant.is_some() { self.logs.end_dump(dump.path.peer.ip(), self.now) } else { 0 };
        // One whose memory is not whole may be begun again, by a client that has lost its session.
        if let (Some(fire), true) = (dump.burns, dump.whole) {
            self.burn(fire);
        }
        let restarted = dump.outcome.as_mut().and_then(|outcome| outcome.restarted_as.take());
        let path = dump.path;
        if dump.is_writing() {
            self.closing.insert(dump.id, dump);
        } else {
            self.conclude(dump);
        }
        if let Some(start) = restarted {
            tracing::info!(client = %path.peer, "the client crashed again and starts another dump");
            self.begin_session(path, start);
        }
    }

    /// Everything is over: says so, frees the slot, runs the last scripts.
    fn conclude(&mut self, dump: Box<Dump>) {
        self.admission.leave(dump.id);
        let client = dump.path.peer;
        if dump.grant.is_none() {
            match dump.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref()) {
                Some(Failure::NotProved) => self.refuse(Reason::NotProved, dump.path, "no answer to HELLO"),
                Some(failure) => tracing::info!(%client, "no dump: {failure}"),
                None => tracing::info!(%client, "no dump"),
            }
            return self.admit_next();
        }
        // Whoever comes back of this panic finds what is there.
        if let (false, Some(of), Some(dir)) = (dump.complete, dump.resumable(), &dump.client_dir) {
            if self.unfinished.len() < MAX_UNFINISHED && crate::journal::cause(dir).as_ref() == Some(&of.cause) {
                self.unfinished.insert(of.cause, dir.name().to_owned());
            }
        }
        let meta = dump.meta(self.drops);
        if let Some(facts) = &meta.dump {
            let directory = dump.client_dir.as_ref().map_or("", |dir| dir.name());
            let seconds = format!("{:.1}", facts.seconds);
            let rate = format!("{:.1}", facts.bytes_per_second as f64 / 1e6);
            if meta.complete {
                self.events.dumps_complete += 1;
                tracing::info!(%client, directory, seconds, mb_per_second = rate, pages = ?facts.pages, datagrams = ?facts.datagrams, "dump complete");
            } else {
                self.events.dumps_incomplete += 1;
                let failure = facts.failure.as_deref().unwrap_or("unknown");
                tracing::warn!(%client, directory, failure, seconds, pages = ?facts.pages, datagrams = ?facts.datagrams, "dump not complete");
            }
        }
        let scripts_wait = self.order_conversion(&dump, meta);
        if let Some(dir) = dump.dir {
            self.store.forget(dir);
        }
        if !scripts_wait {
            self.last_scripts(client.ip(), dump.client_dir.as_ref().map(|dir| dir.path().to_owned()), dump.complete);
        }
        self.run_conversions();
        self.admit_next();
    }

    /// What is to be done with a vmcore that nobody changes any more.
    pub(crate) fn last_scripts(&mut self, client: IpAddr, dir: Option<PathBuf>, complete: bool) {
        if self.stopping {
            // They would be killed in the middle.
            return;
        }
        let Some(dir) = dir else { return };
        let compress = if complete { self.settings.compress.clone() } else { String::new() };
        let (hooks, timeout, reports) = (self.hooks.clone(), self.settings.hook_timeout, self.reports.clone());
        tokio::spawn(async move {
            if !compress.is_empty() {
                let outcome = hooks.compress(&compress, &dir.join(crate::crashdir::COMPLETE), client).await;
                report_busy(&reports, &outcome, client);
            }
            let outcome = hooks.run(Hook::Reboot, client, Some(&dir), timeout).await;
            report_busy(&reports, &outcome, client);
        });
    }

    pub(crate) fn run_hook(&mut self, hook: Hook, client: IpAddr, dir: Option<PathBuf>) {
        let (hooks, timeout, reports) = (self.hooks.clone(), self.settings.hook_timeout, self.reports.clone());
        tokio::spawn(async move {
            let outcome = hooks.run(hook, client, dir.as_deref(), timeout).await;
            report_busy(&reports, &outcome, client);
        });
    }

    pub(crate) fn write_meta(&self, dump: &Dump) {
        if let Some(dir) = dump.dir {
            self.store.meta(dir, dump.meta(self.drops));
        }
    }

    fn note_counters(&mut self, dump: &mut Dump) {
        let (now, before) = (dump.session.counters(), dump.seen);
        dump.seen = now;
        let path = dump.path;
        self.events.add(Reason::UnknownNumber, now.unknown_nr - before.unknown_nr);
        let bad = (now.malformed - before.malformed) + (now.wrong_code - before.wrong_code);
        if bad > 0 {
            self.events.add(Reason::BadReply, bad - 1);
            self.refuse(Reason::BadReply, path, "a reply whose fields make no sense");
        }
    }

    fn report_progress(&self, dump: &mut Dump) {
        if self.settings.verbose == 0 || dump.session.phase() != Phase::Memory {
            return;
        }
        let progress = dump.session.progress();
        let tenths = (progress.done * 10).checked_div(progress.total).unwrap_or(0);
        if tenths > dump.tenths {
            dump.tenths = tenths;
            let (window, rtt) = (progress.window, progress.rtt);
            tracing::info!(client = %dump.path.peer, window, ?rtt, "received {tenths}0% of pages");
        }
    }

    fn forget_address(&mut self, addr: SocketAddr) {
        if let Some(addrs) = self.by_ip.get_mut(&addr.ip()) {
            addrs.retain(|other| *other != addr);
            if addrs.is_empty() {
                self.by_ip.remove(&addr.ip());
            }
        }
    }

    /// Drops a client that has proved nothing.
    pub(crate) fn drop_session(&mut self, addr: SocketAddr) {
        self.dumps.remove(&addr);
        self.forget_address(addr);
    }

    /// The server ends: every file is closed as it is.
    pub(crate) fn stop_dumps(&mut self) {
        for (_, mut dump) in std::mem::take(&mut self.dumps) {
            if dump.grant.is_none() {
                continue;
            }
            dump.flush();
            if let Some(writer) = dump.writer.as_ref().filter(|_| dump.facts.is_none()) {
                writer.finish(false);
            }
            dump.stopped = true;
            self.closing.insert(dump.id, dump);
        }
        self.by_ip.clear();
    }
}

/// A script that did not get its turn is counted with everything else that is refused.
fn report_busy(reports: &UnboundedSender<Report>, outcome: &HookOutcome, client: IpAddr) {
    if matches!(outcome, HookOutcome::Busy) {
        // Nobody listens any more when the server ends.
        let _ = reports.send(Report::TooManyScripts(client));
    }
}

fn note_closed(dump: &mut Dump, result: std::io::Result<bool>, facts: crate::writer::FileFacts) {
    dump.facts = Some(facts);
    dump.reserved = 0;
    match result {
        Ok(complete) => dump.complete = complete,
        Err(error) => {
            tracing::error!(client = %dump.path.peer, "the vmcore could not be closed: {error}");
            dump.storage_error.get_or_insert(format!("closing failed: {error}"));
        }
    }
}
