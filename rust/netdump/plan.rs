// SPDX-License-Identifier: GPL-2.0-only

//! Everything that a dump needs, made while the machine is well.

use super::settings::Settings;
use super::sys::compress::Compressors;
use super::sys::crypto::{self, Kernel};
use super::sys::keys::Hidden;
use super::sys::memmap::{Early, StructPages};
use super::sys::memory::{self, Layout, MemoryMap, OnlineCpus};
use super::sys::nic::{Nic, NotUsable};
use super::sys::regs::GREGSET_LEN;
use super::sys::stack::Stack;
use super::sys::system::{self, BpfContext};
use super::sys::volatile::Changed;
use super::wire::classic::MAX_REPLY_LEN;
use super::wire::ext::PhysRange;
use super::wire::frame::{self, Path, UdpHeaders, MAX_HEADERS_LEN};
use super::wire::v6::{MAX_MAX_DATAGRAM, MIN_MAX_DATAGRAM};
use super::wire::PhysAddr;
use kernel::prelude::*;

/// Bytes of kernel log that go with a dump.
const LOG_LEN: usize = 256 * 1024;
/// The longest frame that the classic dialect sends.
const FRAME_LEN: usize = MAX_HEADERS_LEN + MAX_REPLY_LEN;
/// No packet is longer, whatever the device says.
const MAX_MTU: u32 = 9000;

/// What the panic path reads and writes; one exists while the module is armed.
pub struct Plan {
    pub settings: Settings,
    /// The cipher, as it is fastest here.
    pub crypto: Kernel,
    pub nic: Nic,
    pub path: Path,
    pub headers: UdpHeaders,
    /// The NIC computes UDP checksums. Known from the take-over on.
    pub offload: bool,
    /// The longest payload of a datagram of version 6.
    pub max_datagram: u16,
    pub memory: MemoryMap,
    pub struct_pages: StructPages,
    /// Pages that a reader of the dump needs first.
    pub early: Early,
    pub compressors: Compressors,
    /// Frames that are not dumped because of the keys in them.
    pub hidden: Hidden,
    /// 32 bytes for the numbers that a dump without a key draws.
    pub seed: [u8; 32],
    /// The same ranges in the form of the notes.
    pub ranges: KVec<PhysRange>,
    pub layout: Layout,
    pub vmcoreinfo: KVec<u8>,
    pub online: KBox<OnlineCpus>,
    pub bpf: BpfContext,
    /// None while the dump runs on it.
    pub stack: Option<Stack>,
    /// Registers of the panicking CPU.
    pub regs: [u8; GREGSET_LEN],
    pub notes: Text,
    pub log: Text,
    pub changed: Changed,
    /// Entries of `changed` that the server was told of.
    pub frozen: Option<usize>,
    /// Datagrams to our port that did not come from the server.
    pub foreign: u32,
    /// The start of a received frame.
    pub frame: [u8; 768],
}

/// A buffer that is filled at the take-over.
pub struct Text {
    pub bytes: KVVec<u8>,
    pub len: usize,
}

impl Text {
    fn with_room(room: usize) -> Result<Self> {
        Ok(Self { bytes: KVVec::from_elem(0, room, GFP_KERNEL)?, len: 0 })
    }

    /// What has been filled in.
    pub fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl Plan {
    /// Makes the plan for device `ifindex` and the given path. Process context; sleeps.
    pub fn new(
        settings: Settings,
        crypto: Kernel,
        ifindex: i32,
        mtu: u32,
        path: Path,
    ) -> Result<KBox<Self>, NotUsable> {
        let mtu = mtu.min(MAX_MTU) as usize;
        let headers = path.headers_len().saturating_sub(frame::ETH_HEADER_LEN);
        // A device for shorter packets than version 6 needs is one for the classic dialect.
        let longest = mtu.saturating_sub(headers).clamp(MIN_MAX_DATAGRAM.into(), MAX_MAX_DATAGRAM.into());
        let nic = Nic::arm(ifindex, FRAME_LEN.max(MAX_HEADERS_LEN.saturating_add(longest)))?;
        Self::with(settings, crypto, nic, longest as u16, path).map_err(|_| NotUsable::NoMemory)
    }

    fn with(settings: Settings, crypto: Kernel, nic: Nic, max_datagram: u16, path: Path) -> Result<KBox<Self>> {
        let mut seed = [0; 32];
        crypto::random(&mut seed);
        let memory = MemoryMap::read()?.with_window();
        let mut ranges = KVec::with_capacity(memory.ranges().len(), GFP_KERNEL)?;
        for range in memory.ranges() {
            ranges.push(PhysRange { start: PhysAddr(range.start), end: PhysAddr(range.end) }, GFP_KERNEL)?;
        }
        let vmcoreinfo = memory::vmcoreinfo()?;
        let notes = super::notes::room(system::cpus_possible() as usize, ranges.len(), vmcoreinfo.len());
        Ok(KBox::new(
            Self {
                settings,
                crypto,
                nic,
                path,
                headers: UdpHeaders::new(path),
                offload: false,
                max_datagram,
                memory,
                struct_pages: StructPages::new()?,
                early: Early::new()?,
                compressors: Compressors::new()?,
                hidden: Hidden::new()?,
                seed,
                ranges,
                layout: memory::layout(),
                vmcoreinfo,
                online: KBox::new(OnlineCpus::empty(), GFP_KERNEL)?,
                bpf: BpfContext::new(),
                stack: Some(Stack::new()?),
                regs: [0; GREGSET_LEN],
                notes: Text::with_room(notes)?,
                log: Text::with_room(LOG_LEN)?,
                changed: Changed::new()?,
                frozen: None,
                foreign: 0,
                frame: [0; 768],
            },
            GFP_KERNEL,
        )?)
    }
}
