// SPDX-License-Identifier: GPL-2.0-or-later
//! From phase to phase: what ends each, and what time does to them.

use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, ItemId};
use netdump_core::wire::ext::VolatileRange;
use netdump_core::wire::RequestId;
use netdump_vmcore::PageSize;

use crate::ask::Ask;
use crate::closing::{Ending, Listing};
use crate::event::{Event, Failure, MemoryEnd, Outcome, Phase};
use crate::info::describe;
use crate::item::{Fetched, Item};
use crate::memory::{Memory, MAX_CONFLICTS};
use crate::params::Grant;
use crate::session::{Files, Session, Task};

/// HELLOs to a client that has not answered one yet.
const PROBE_TRIES: u32 = 12;
/// Requests for what a dump can do without.
const OPTIONAL_TRIES: u32 = 10;
/// Silence counts only when so many requests met with it.
const SILENT_REQUESTS: u64 = 3;
/// Limits of the items, bytes; the same in version 6.
pub(crate) const MAX_NOTES: usize = 1 << 20;
pub(crate) const MAX_LOG: usize = 1 << 20;
pub(crate) const MAX_VOLATILE: usize = 1 << 20;

impl Session {
    fn enter(&mut self, phase: Phase, task: Task) {
        self.phase = phase;
        self.task = task;
        self.tools.events.push(Event::Phase(phase));
    }

    /// Waits for the owner; HELLOs meanwhile.
    fn enter_wait(&mut self, now: Instant, phase: Phase) {
        self.enter(phase, Task::Hello(Ask::new(Command::Hello, now + self.params.keepalive)));
    }

    pub(crate) fn on_hello(&mut self, now: Instant) {
        if self.phase != Phase::Probe {
            self.task = Task::Hello(Ask::new(Command::Hello, now + self.params.keepalive));
            return;
        }
        self.ack_due = None;
        self.tools.events.push(Event::Proved);
        self.enter_wait(now, Phase::Waiting);
        if self.grant.is_some() {
            self.enter_describe(now);
        }
    }

    pub(crate) fn enter_describe(&mut self, now: Instant) {
        self.enter(Phase::Describe, Task::Ask(Ask::new(Command::GetPageSize, now)));
    }

    /// An answer (or an error, or nothing) to one of the three questions.
    pub(crate) fn on_described(&mut self, now: Instant, command: Command, body: Option<&Body<'_>>) {
        let next = match (command, body) {
            (Command::GetPageSize, Some(Body::PageSize(bytes))) => {
                let Some(page_size) = PageSize::from_bytes(*bytes) else {
                    return self.fail(now, Failure::Unusable("page size"));
                };
                self.page_size = Some(page_size);
                Command::GetNrPages
            }
            (Command::GetNrPages, Some(Body::NrPages(pages))) if *pages != 0 => {
                self.classic.nr_pages = u64::from(*pages);
                Command::GetRegs
            }
            (Command::GetRegs, _) => {
                if let Some(Body::Regs { total_ram_pages, block }) = body {
                    self.classic.total_ram_pages = *total_ram_pages;
                    self.classic.regs = block.to_vec();
                }
                return self.enter(Phase::Notes, Task::Item(Box::new(Item::new(ItemId::Notes, MAX_NOTES))));
            }
            _ => return self.fail(now, Failure::Unusable("no page size or number of pages")),
        };
        self.task = Task::Ask(Ask::new(next, now));
    }

    /// An item is there, or will never be.
    pub(crate) fn on_item(&mut self, now: Instant, id: ItemId, end: Fetched) {
        match id {
            ItemId::Notes => {
                self.extension = matches!(end, Fetched::Item(_) | Fetched::Absent);
                if let Fetched::Item(notes) = end {
                    self.notes = Some(notes);
                }
                if self.extension {
                    self.enter(Phase::Log, Task::Item(Box::new(Item::new(ItemId::Log, MAX_LOG))));
                } else {
                    self.enter_storage(now);
                }
            }
            ItemId::Log => {
                if let Fetched::Item(text) = end {
                    self.tools.events.push(Event::KernelLog(text));
                }
                self.enter_storage(now);
            }
            _ => {
                if let Fetched::Item(list) = end {
                    let entries: Vec<_> = VolatileRange::iter(&list).flatten().collect();
                    self.tools.events.push(Event::Volatile(entries));
                }
                self.enter_store(now);
            }
        }
    }

    fn enter_storage(&mut self, now: Instant) {
        let Some(page_size) = self.page_size else {
            return self.fail(now, Failure::Unusable("no page size or number of pages"));
        };
        let described = describe(&self.start, page_size, &self.classic, self.notes.as_deref());
        self.notes = None;
        self.tools.counters.refused_notes += described.refused;
        self.beyond = described.beyond;
        let info = described.info;
        self.pfns = match &info.ranges {
            Some(ranges) => {
                let pfns = ranges.iter().map(|r| page_size.pfn(r.start).0..page_size.pfn(r.end).0);
                (pfns.collect(), false)
            }
            None => (std::iter::once(0..info.nr_pages).collect(), true),
        };
        self.tools.events.push(Event::Described(Box::new(info)));
        if self.grant == Some(Grant::LogOnly) {
            self.failure.get_or_insert(Failure::LogOnly);
            self.files = Files::Stored;
            return self.enter_show_state(now);
        }
        if self.failure == Some(Failure::Storage) {
            // Said while the client described itself: the owner has nothing more to say, and waits for us.
            self.files = Files::Stored;
            return self.enter_show_state(now);
        }
        self.enter_wait(now, Phase::Storage);
    }

    pub(crate) fn enter_memory(&mut self, now: Instant) {
        let Some(page_size) = self.page_size else {
            return;
        };
        let (pfns, walk) = std::mem::take(&mut self.pfns);
        let key = self.tools.numbers.next_key();
        let window = usize::from(self.params.max_window);
        self.memory_began = Some(now);
        self.keepalive = Ask::new(Command::Hello, now + self.params.keepalive);
        self.enter(Phase::Memory, Task::Memory(Box::new(Memory::new(page_size, pfns, walk, window, key))));
    }

    /// Looks whether the memory phase is over.
    pub(crate) fn check_memory(&mut self, now: Instant) {
        let Task::Memory(memory) = &self.task else {
            return;
        };
        let failure = if memory.conflicts > MAX_CONFLICTS {
            Some(Failure::Unusable("answers contradict each other"))
        } else if !memory.is_done() {
            return;
        } else if memory.unanswered > 0 {
            Some(Failure::Unanswered(memory.unanswered))
        } else if self.beyond > 0 {
            Some(Failure::BeyondReach(self.beyond))
        } else {
            None
        };
        self.end_memory(now, failure);
        self.enter_show_state(now);
    }

    pub(crate) fn end_memory(&mut self, now: Instant, failure: Option<Failure>) {
        self.pages = self.pages_so_far();
        self.memory_duration = self.memory_began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.files = Files::Closing;
        if self.failure.is_none() {
            self.failure.clone_from(&failure);
        }
        self.memory_done = failure.is_none();
        self.task = Task::Nothing;
        self.tools.events.push(Event::MemoryDone(MemoryEnd { failure, pages: self.pages }));
    }

    /// Asks what the client has changed, as late as can be: the task listing and other people's frames change more.
    pub(crate) fn enter_volatile(&mut self, now: Instant) {
        if self.extension && self.memory_began.is_some() {
            let item = Item::new(ItemId::Volatile, MAX_VOLATILE);
            self.enter(Phase::Volatile, Task::Item(Box::new(item)));
        } else {
            self.enter_store(now);
        }
    }

    pub(crate) fn enter_show_state(&mut self, now: Instant) {
        if self.params.show_state {
            self.keepalive = Ask::new(Command::Hello, now + self.params.keepalive);
            self.enter(Phase::ShowState, Task::Listing(Listing::new(now, self.extension)));
        } else {
            self.enter_volatile(now);
        }
    }

    fn enter_store(&mut self, now: Instant) {
        if self.files == Files::Closing {
            self.enter_wait(now, Phase::Store);
        } else {
            self.enter_end(now);
        }
    }

    pub(crate) fn enter_end(&mut self, now: Instant) {
        self.enter(Phase::End, Task::Ending(Ending::new(now, &self.params)));
    }

    pub(crate) fn finish(&mut self, now: Instant, obeyed: bool) {
        self.enter(Phase::Finished, Task::Nothing);
        self.ack_due = None;
        self.tools.events.push(Event::Finished(Outcome {
            // A client that had been silent before its last order cannot be said to have obeyed.
            obeyed: obeyed && !matches!(self.failure, Some(Failure::Silent(_))),
            failure: self.failure.clone(),
            pages: self.pages,
            show_state: self.show_state,
            duration: now.saturating_duration_since(self.began),
            memory_duration: self.memory_duration,
            restarted_as: self.restarted_as,
        }));
    }

    /// Ends the dump before its time. What was handed over stays good; so does a dump whose memory is complete.
    pub(crate) fn fail(&mut self, now: Instant, failure: Failure) {
        if matches!(self.phase, Phase::Finished | Phase::End) {
            return;
        }
        if self.phase == Phase::Memory {
            self.end_memory(now, Some(failure.clone()));
        } else if !self.memory_done {
            self.failure.get_or_insert(failure.clone());
        }
        match failure {
            Failure::Restarted | Failure::NotProved => self.finish(now, false),
            // Nobody has proved anything.
            _ if self.phase == Phase::Probe => self.finish(now, false),
            // Nothing was begun with this client, and nobody is there to be told to go.
            Failure::Silent(_) if self.phase == Phase::Waiting => self.finish(now, false),
            // The owner did not say `stored` in all that time either.
            Failure::TooLong if self.phase == Phase::Store => self.enter_end(now),
            _ if self.phase == Phase::Store => self.task = Task::Nothing,
            _ => self.enter_store(now),
        }
    }

    /// Time has passed. Early or superfluous calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Finished {
            return;
        }
        if now >= self.began + self.params.max_duration {
            self.fail(now, Failure::TooLong);
        }
        match &mut self.task {
            Task::Hello(ask) => {
                if self.phase == Phase::Probe && ask.tries() >= PROBE_TRIES && now >= ask.due() {
                    return self.fail(now, Failure::NotProved);
                }
            }
            Task::Ask(ask) => {
                let command = ask.command();
                if command == Command::GetRegs && ask.tries() >= OPTIONAL_TRIES && now >= ask.due() {
                    self.on_described(now, command, None);
                }
            }
            Task::Item(item) => item.handle_timeout(now, &mut self.tools),
            Task::Memory(memory) => memory.handle_timeout(now, &mut self.tools),
            Task::Listing(listing) => {
                if let Some(good) = listing.verdict(now, &self.params) {
                    self.show_state = good;
                    self.enter_volatile(now);
                }
            }
            Task::Ending(ending) => {
                if let Some(obeyed) = ending.verdict(now, &self.params) {
                    self.finish(now, obeyed);
                }
            }
            Task::Nothing => {}
        }
        if self.silence_deadline().is_some_and(|deadline| now >= deadline) {
            self.fail(now, Failure::Silent(self.phase));
        }
    }

    /// When a client that stays silent is given up.
    fn silence_deadline(&self) -> Option<Instant> {
        let counts = matches!(self.task, Task::Hello(_) | Task::Ask(_) | Task::Item(_) | Task::Memory(_))
            && self.phase != Phase::Probe
            && self.tools.counters.requests >= self.answered_requests + SILENT_REQUESTS;
        counts.then(|| self.last_answer + self.params.silence)
    }

    fn keep_alive_due(&self) -> Instant {
        self.keepalive.due().max(self.last_answer + self.params.keepalive)
    }

    /// HELLO, when nothing else keeps the client from giving up.
    pub(crate) fn keep_alive(&mut self, now: Instant) -> Option<(RequestId, Command)> {
        if now < self.keep_alive_due() {
            return None;
        }
        let tools = &mut self.tools;
        self.keepalive.poll(now, &mut tools.numbers, &tools.rtt).map(|nr| (nr, Command::Hello))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then `poll_transmit`, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Finished {
            return None;
        }
        let wait = self.tools.rtt.wait();
        let task = match &self.task {
            Task::Hello(ask) | Task::Ask(ask) => Some(ask.due()),
            Task::Item(item) => item.deadline(wait),
            Task::Memory(memory) => memory
                .deadline(wait)
                .or_else(|| Some(self.keepalive.due().max(self.last_answer + self.params.keepalive))),
            Task::Listing(listing) => Some(listing.deadline(&self.params)),
            Task::Ending(ending) => Some(ending.deadline()),
            Task::Nothing => None,
        };
        let limit = (self.phase != Phase::End).then(|| self.began + self.params.max_duration);
        [task, self.ack_due, self.silence_deadline(), limit].into_iter().flatten().min()
    }
}
