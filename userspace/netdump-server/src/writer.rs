// SPDX-License-Identifier: GPL-2.0-or-later
//! The thread that writes one dump's vmcore.
//!
//! The socket loop never waits for it: pages are handed over in batches, and how many may be on their way is decided
//! by the window of the session, which asks for no more than there is room for ([`crate::dump`]).

use std::io;
use std::sync::mpsc::{channel, Receiver, Sender};

use netdump_core::wire::Pfn;
use netdump_session::PageBuf;
use netdump_vmcore::DumpInfo;
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::DumpId;
use crate::config::Format;
use crate::crashdir::ClientDir;
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
    /// The file is there.
    Ready,
    /// These pages are written; their buffers come back.
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

enum Job {
    Pages(Vec<Page>),
    Finish { complete: bool },
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
        events: UnboundedSender<E>,
    ) -> io::Result<Writer> {
        let (jobs, queue) = channel();
        // The receiver goes away only when the server ends.
        let report = move |event| drop(events.send((id, event).into()));
        let work = move || run(&dir, &info, options, &queue, &report);
        std::thread::Builder::new().name(format!("vmcore-{}", id.0)).spawn(work)?;
        Ok(Writer { jobs })
    }

    /// Hands pages over.
    pub fn pages(&self, pages: Vec<Page>) {
        // A thread that is gone has reported why.
        let _ = self.jobs.send(Job::Pages(pages));
    }

    /// No more pages will come; the file is closed, and if `complete` gets its name.
    pub fn finish(&self, complete: bool) {
        let _ = self.jobs.send(Job::Finish { complete });
    }
}

fn run(
    dir: &ClientDir,
    info: &DumpInfo,
    options: WriterOptions,
    queue: &Receiver<Job>,
    report: &dyn Fn(WriterEvent),
) {
    let mut file = match open(dir, info, options) {
        Ok(file) => file,
        Err(error) => {
            report(WriterEvent::Failed(error));
            return report(WriterEvent::Closed(Ok(false), FileFacts::default()));
        }
    };
    report(WriterEvent::Ready);
    let mut broken = false;
    let mut complete = false;
    while let Ok(job) = queue.recv() {
        match job {
            Job::Pages(pages) => {
                let mut buffers = Vec::with_capacity(pages.len());
                for page in pages {
                    if !broken {
                        if let Err(error) = file.write_page(page.pfn, &page.data, page.again) {
                            broken = true;
                            report(WriterEvent::Failed(error));
                        }
                    }
                    buffers.push(page.data);
                }
                report(WriterEvent::Written(buffers));
            }
            Job::Finish { complete: wanted } => {
                complete = wanted;
                break;
            }
        }
    }
    let (result, facts) = close(dir, file, complete && !broken);
    report(WriterEvent::Closed(result, facts));
}

struct TempFile { file: std::fs::File, page: u64, facts: PageCounts, skip: bool }
impl TempFile {
    fn write_page(&mut self, pfn: Pfn, data: &[u8], again: bool) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        if self.skip && !again && data.iter().all(|b| *b == 0) { self.facts.zero += 1; return Ok(()); }
        self.facts.written += 1;
        self.file.write_all_at(data, pfn.0 * self.page)
    }
}
fn open(dir: &ClientDir, info: &DumpInfo, options: WriterOptions) -> io::Result<TempFile> {
    Ok(TempFile { file: dir.create_vmcore()?, page: info.page_size.bytes() as u64, facts: PageCounts::default(), skip: options.skip_zero })
}
fn close(dir: &ClientDir, file: TempFile, complete: bool) -> (io::Result<bool>, FileFacts) {
    use std::os::unix::fs::MetadataExt;
    let go = || { file.file.sync_all()?; let m = file.file.metadata()?; if complete { dir.publish_vmcore()?; } Ok::<_, io::Error>((m.len(), m.blocks() * 512)) };
    match go() { Ok((bytes, disk_bytes)) => (Ok(complete), FileFacts { pages: file.facts, bytes, disk_bytes }), Err(e) => (Err(e), FileFacts::default()) }
}
