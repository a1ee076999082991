// SPDX-License-Identifier: GPL-2.0-or-later
//! The thread that writes one dump's vmcore.
//!
//! The socket loop never waits for it: pages are handed over in batches, and how many may be on their way is decided
//! by the window of the session, which asks for no more than there is room for ([`crate::dump`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{channel, Receiver, Sender};

use netdump_core::wire::Pfn;
use netdump_session::{PageBuf, Pages};
use netdump_vmcore::{DumpInfo, FrameSet, PageSize, WriteError};
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::DumpId;
use crate::config::Format;
use crate::crashdir::ClientDir;
use crate::journal::{Cause, Journal, Step, Told};
use crate::meta::PageCounts;

/// One page on its way to the file.
#[derive(Debug)]
pub struct Page {
    /// Its number.
    pub pfn: Pfn,
    /// Its bytes.
    pub data: PageBuf,
    /// It may have been written before with other bytes.
    pub again: bool,
}

/// What the thread reports.
#[derive(Debug)]
pub enum WriterEvent {
    /// The file is there, with what another process had put into it.
    Ready(Box<Told>),
    /// What was handed over at once is written; the buffers come back.
    Written(Vec<PageBuf>),
    /// Nothing more can be written.
    Failed(io::Error),
    /// The file is closed. `Ok(true)`: it is whole and has its name. The last event.
    Closed(io::Result<bool>, FileFacts),
}

/// What the finished file is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Pages by what became of them.
    pub pages: PageCounts,
    /// Apparent size.
    pub bytes: u64,
    /// Bytes on the disk.
    pub disk_bytes: u64,
}

/// How the file is to be written.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Its layout.
    pub format: Format,
    /// Pages of zeroes become holes.
    pub skip_zero: bool,
}

/// Which dump the file is of, where another process can go on with it.
#[derive(Debug, Clone)]
pub struct Resumable {
    /// The panic.
    pub cause: Cause,
    /// There is a file of it, to go on with.
    pub begun: bool,
}

enum Job {
    Pages(Vec<Page>),
    /// Pages, and what is accounted for with them.
    Clusters(Vec<Pages>, Step),
    Finish {
        complete: bool,
    },
}

/// The way to the thread. Dropping it closes the file as incomplete.
#[derive(Debug)]
pub struct Writer {
    jobs: Sender<Job>,
}

impl Writer {
    /// Creates `vmcore-incomplete` in `dir`, in a thread of its own.
    pub fn start<E: From<(DumpId, WriterEvent)> + Send + 'static>(
        id: DumpId,
        dir: ClientDir,
        info: DumpInfo,
        options: WriterOptions,
        resumable: Option<Resumable>,
        events: UnboundedSender<E>,
    ) -> io::Result<Writer> {
        let (jobs, queue) = channel();
        // The receiver goes away only when the server ends.
        let report = move |event| drop(events.send((id, event).into()));
        let work = move || run(&dir, &info, options, resumable.as_ref(), &queue, &report);
        std::thread::Builder::new().name(format!("vmcore-{}", id.0)).spawn(work)?;
        Ok(Writer { jobs })
    }

    /// Hands pages over.
    pub fn pages(&self, pages: Vec<Page>) {
        // A thread that is gone has reported why.
        let _ = self.jobs.send(Job::Pages(pages));
    }

    /// Hands pages over that are together in their buffers, and says what is accounted for with them.
    pub fn clusters(&self, clusters: Vec<Pages>, step: Step) {
        let _ = self.jobs.send(Job::Clusters(clusters, step));
    }

    /// No more pages will come; the file is closed, and if `complete` gets its name.
    pub fn finish(&self, complete: bool) {
        let _ = self.jobs.send(Job::Finish { complete });
    }
}

/// Pages that are put together for one write call, at most, in bytes.
const MAX_RUN: usize = 1 << 20;
/// What is written where a client says that there are zeroes, piece by piece.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

fn run(
    dir: &ClientDir,
    info: &DumpInfo,
    options: WriterOptions,
    resumable: Option<&Resumable>,
    queue: &Receiver<Job>,
    report: &dyn Fn(WriterEvent),
) {
    let opened = match resumable {
        Some(Resumable { cause, begun: true }) => Vmcore::resume(dir, info, options, cause),
        _ => Vmcore::create(dir, info, options).map(|mut vmcore| {
            vmcore.begin_journal(dir, info, options.format, resumable);
            (vmcore, Told::default())
        }),
    };
    let mut vmcore = match opened {
        Ok((vmcore, told)) => {
            report(WriterEvent::Ready(Box::new(told)));
            vmcore
        }
        Err(error) => {
            report(WriterEvent::Failed(error));
            return report(WriterEvent::Closed(Ok(false), FileFacts::default()));
        }
    };
    let mut broken = false;
    let mut complete = false;
    while let Ok(job) = queue.recv() {
        match job {
            Job::Pages(mut pages) => {
                // Answers come in almost the order of the page numbers; neighbours make one call.
                pages.sort_by_key(|page| page.pfn);
                if !broken {
                    if let Err(error) = vmcore.write(&pages) {
                        broken = true;
                        report(WriterEvent::Failed(error));
                    }
                }
                report(WriterEvent::Written(pages.into_iter().map(|page| page.data).collect()));
            }
            Job::Clusters(clusters, step) => {
                if !broken {
                    let written = clusters.iter().try_for_each(|pages| vmcore.write_cluster(pages));
                    if let Err(error) = written.and_then(|()| vmcore.note(&step)) {
                        broken = true;
                        report(WriterEvent::Failed(error));
                    }
                }
                report(WriterEvent::Written(clusters.into_iter().map(|pages| pages.data).collect()));
            }
            Job::Finish { complete: wanted } => {
                complete = wanted;
                break;
            }
        }
    }
    let (result, facts) = vmcore.close(dir, complete && !broken);
    report(WriterEvent::Closed(result, facts));
}

struct Vmcore {
    writer: netdump_vmcore::Writer<File>,
    /// A second handle: the facts of a file that could not be finished are still true.
    file: File,
    skip_zero: bool,
    page_size: PageSize,
    run: Vec<u8>,
    /// Pages taken, each counted once.
    pages: u64,
    /// Zero pages that were there before.
    zero_before: u64,
    journal: Option<Journal>,
    /// Which pages there are, where somebody wants to know.
    frames: Option<FrameSet>,
    /// Pages and zero pages that it was told of.
    noted: (u64, u64),
}

impl Vmcore {
    fn create(dir: &ClientDir, info: &DumpInfo, options: WriterOptions) -> io::Result<Vmcore> {
        let mut vmcore = Vmcore::open(dir.create_vmcore()?, info, options)?;
        if options.format == Format::Kdump {
            vmcore.frames = Some(FrameSet::create(dir.create_frames()?, info.nr_pages)?);
        }
        Ok(vmcore)
    }

    /// Goes on with a file that is there, if its journal is of this panic.
    fn resume(dir: &ClientDir, info: &DumpInfo, options: WriterOptions, cause: &Cause) -> io::Result<(Vmcore, Told)> {
        let (journal, told) = Journal::resume(dir, cause, info, options.format.name())?;
        let mut vmcore = Vmcore::open(dir.reopen_vmcore()?, info, options)?;
        vmcore.pages = told.resumed.pages;
        vmcore.zero_before = told.zero;
        vmcore.noted = (told.resumed.pages, told.zero);
        vmcore.journal = Some(journal);
        if options.format == Format::Kdump {
            vmcore.frames = Some(FrameSet::open(dir.open_frames()?, info.nr_pages)?);
        }
        Ok((vmcore, told))
    }

    /// A dump is worth having even if nobody can go on with it.
    fn begin_journal(&mut self, dir: &ClientDir, info: &DumpInfo, format: Format, resumable: Option<&Resumable>) {
        let Some(resumable) = resumable else { return };
        match Journal::create(dir, &resumable.cause, info, format.name()) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => self.no_journal(&error),
        }
    }

    fn note(&mut self, step: &Step) -> io::Result<()> {
        // What the journal tells of is told here, too.
        self.frames.as_mut().map_or(Ok(()), FrameSet::flush)?;
        let now = (self.pages, self.zero());
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if let Err(error) = journal.note(step, now.0 - self.noted.0, now.1 - self.noted.1) {
            self.no_journal(&error);
        }
        self.noted = now;
        Ok(())
    }

    /// What it says so far is true, but not all.
    fn no_journal(&mut self, error: &io::Error) {
        tracing::warn!(
            "if the server ends in mid-dump, the dump will be begun anew: {}: {error}",
            crate::journal::NAME
        );
        self.journal = None;
    }

    fn zero(&self) -> u64 {
        self.zero_before + self.writer.written().zero_pages
    }

    fn open(storage: File, info: &DumpInfo, options: WriterOptions) -> io::Result<Vmcore> {
        let file = storage.try_clone()?;
        let format = match options.format {
            Format::Elf | Format::Kdump => netdump_vmcore::Format::Elf,
            Format::Netdump => netdump_vmcore::Format::Netdump,
        };
        let writer = netdump_vmcore::Writer::create(storage, info.clone(), format).map_err(io_error)?;
        let (skip_zero, page_size) = (options.skip_zero, info.page_size);
        Ok(Vmcore {
            writer,
            file,
            skip_zero,
            page_size,
            run: Vec::new(),
            pages: 0,
            zero_before: 0,
            journal: None,
            frames: None,
            noted: (0, 0),
        })
    }

    /// Writes pages that are sorted by their numbers.
    fn write(&mut self, pages: &[Page]) -> io::Result<()> {
        let neighbours = |a: &Page, b: &Page| b.pfn.0 == a.pfn.0 + 1 && a.again == b.again;
        for run in pages.chunk_by(neighbours) {
            for part in run.chunks((MAX_RUN / self.page_size.bytes()).max(1)) {
                let Some(first) = part.first() else { continue };
                self.run.clear();
                part.iter().for_each(|page| self.run.extend_from_slice(&page.data));
                // Only what is said to be a second copy is written even if it is zero.
                let force = first.again || !self.skip_zero;
                self.writer.write(first.pfn, &self.run, force).map_err(io_error)?;
                self.pages += if first.again { 0 } else { part.len() as u64 };
                self.there(first.pfn, part.len() as u64)?;
            }
        }
        Ok(())
    }

    /// Writes pages from where they are. They come once.
    fn write_cluster(&mut self, pages: &Pages) -> io::Result<()> {
        let force = !self.skip_zero;
        for run in &pages.runs {
            match pages.bytes(run) {
                Some(bytes) => self.writer.write(run.first, bytes, force).map_err(io_error)?,
                None => {
                    let each = (ZEROES.len() / Pages::PAGE) as u64;
                    for done in (0..run.count).step_by(each as usize) {
                        let len = (run.count - done).min(each) as usize * Pages::PAGE;
                        let zeroes = ZEROES.get(..len).unwrap_or(&[]);
                        self.writer.write(Pfn(run.first.0 + done), zeroes, force).map_err(io_error)?;
                    }
                }
            }
            self.pages += run.count;
            self.there(run.first, run.count)?;
        }
        Ok(())
    }

    fn there(&mut self, first: Pfn, count: u64) -> io::Result<()> {
        self.frames.as_mut().map_or(Ok(()), |frames| frames.add(first, count))
    }

    fn close(mut self, dir: &ClientDir, complete: bool) -> (io::Result<bool>, FileFacts) {
        // Zero pages of a run that failed are counted there, but not among the pages here.
        let zero = self.zero();
        let frames = self.frames.as_mut().map_or(Ok(()), FrameSet::flush);
        let result = frames.and_then(|()| self.writer.finish(complete).map_err(io_error)).and_then(|_| {
            if complete {
                dir.publish_vmcore()?;
                dir.remove_journal()?;
            }
            Ok(complete)
        });
        let size = self.file.metadata().map(|meta| (meta.len(), meta.blocks() * 512));
        let (bytes, disk_bytes) = size.unwrap_or_default();
        let pages = PageCounts { written: self.pages.saturating_sub(zero), zero, ..PageCounts::default() };
        (result, FileFacts { pages, bytes, disk_bytes })
    }
}

fn io_error(error: WriteError) -> io::Error {
    match error {
        WriteError::Io { source, what } => io::Error::new(source.kind(), format!("{what}: {source}")),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crashdir::CrashDir;
    use jiff::Timestamp;
    use netdump_core::wire::classic::Machine;
    use netdump_core::wire::ext::ByteOrder;
    use netdump_session::Run;
    use nix::fcntl::{fcntl, FcntlArg, SealFlag};
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use std::os::unix::fs::FileExt;

    pub(crate) fn info() -> DumpInfo {
        DumpInfo {
            machine: Machine::X86_64,
            byte_order: ByteOrder::Little,
            page_size: PageSize::KIB4,
            nr_pages: 16,
            total_ram_pages: 16,
            task_struct: 0,
            page_offset: 0,
            regs: Vec::new(),
            crashing_cpu: None,
            cpus_possible: 0,
            cpus: Vec::new(),
            vmcoreinfo: None,
            ranges: None,
            ktext: None,
            identity: Default::default(),
            panic: None,
            overlays: Vec::new(),
        }
    }

    #[test]
    fn pages_that_came_together_are_written_where_they_belong() {
        let root = tempfile::tempdir().unwrap();
        let dir = CrashDir::open(root.path()).unwrap();
        let dir = dir.create("10.0.0.1".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap();
        for skip_zero in [true, false] {
            let file = File::from(memfd_create(c"vmcore", MFdFlags::empty()).unwrap());
            let info = DumpInfo { nr_pages: 100, ..info() };
            let writer =
                netdump_vmcore::Writer::create(file.try_clone().unwrap(), info, netdump_vmcore::Format::Elf).unwrap();
            let mut vmcore = Vmcore {
                writer,
                file,
                skip_zero,
                page_size: PageSize::KIB4,
                run: Vec::new(),
                pages: 0,
                zero_before: 0,
                journal: None,
                frames: None,
                noted: (0, 0),
            };
            let data: Vec<u8> = [&[9; 100][..], &[1; 4096], &[2; 4096], &[3; 4096]].concat();
            let run = |first, count, at| Run { first: Pfn(first), count, at };
            let runs = vec![run(3, 2, Some(100)), run(5, 40, None), run(50, 1, Some(8292))];
            vmcore.write_cluster(&Pages { runs, data: data.into() }).unwrap();
            let place = |pfn: u64| vmcore.file.metadata().unwrap().len() - (100 - pfn) * 4096;
            for (pfn, byte) in [(2, 0), (3, 1), (4, 2), (5, 0), (44, 0), (49, 0), (50, 3), (51, 0)] {
                let mut page = [7; 4096];
                vmcore.file.read_exact_at(&mut page, place(pfn)).unwrap();
                assert!(page.iter().all(|found| *found == byte), "page {pfn}");
            }
            let (_, facts) = vmcore.close(&dir, false);
            assert_eq!((facts.pages.written, facts.pages.zero), if skip_zero { (3, 40) } else { (43, 0) });
        }
    }

    #[test]
    fn the_facts_of_a_file_whose_disk_failed_are_still_counted() {
        let root = tempfile::tempdir().unwrap();
        let dir = CrashDir::open(root.path()).unwrap();
        let dir = dir.create("10.0.0.1".parse().unwrap(), Timestamp::UNIX_EPOCH).unwrap();
        let file = File::from(memfd_create(c"vmcore", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        let format = netdump_vmcore::Format::Elf;
        let writer = netdump_vmcore::Writer::create(file.try_clone().unwrap(), info(), format).unwrap();
        let mut vmcore = Vmcore {
            writer,
            file,
            skip_zero: true,
            page_size: PageSize::KIB4,
            run: Vec::new(),
            pages: 0,
            zero_before: 0,
            journal: None,
            frames: None,
            noted: (0, 0),
        };
        fcntl(&vmcore.file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        let page = |pfn, byte| Page { pfn: Pfn(pfn), data: vec![byte; 4096].into(), again: false };
        vmcore.write(&[page(0, 0), page(1, 0), page(2, 1)]).unwrap_err();
        let (_, facts) = vmcore.close(&dir, false);
        assert_eq!((facts.pages.written, facts.pages.zero), (0, 2));
    }
}
