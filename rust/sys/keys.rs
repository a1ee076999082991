// SPDX-License-Identifier: GPL-2.0-only

//! The page that holds what is secret, and the device through which it gets there.
//!
//! User space writes a blob (`../wire/arm.rs`) to `/dev/netdump`. It is copied straight into a page that holds nothing
//! else, and that a dump shows as zeroes. The page has room for two blobs: one that counts, and one that is being
//! written; which counts changes in one store, so that a panic at any moment finds the old or the new.

use super::bindings;
use super::notifier;
use super::volatile::{pages_of, Changed, PhysRange, PAGE_SIZE};
use super::work::Shared;
use crate::wire::arm::{Arming, KeyId, MAX_LEN, WIPE};
use crate::wire::v6::handshake::KeyName;
use crate::wire::v6::probe::ProbeKey;
use crate::wire::v6::secure::Key;
use crate::wire::Cookie;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

/// Room for one blob: half a page.
const SLOT: usize = PAGE_SIZE as usize / 2;
const _: () = assert!(MAX_LEN <= SLOT - USED);
/// In front of a blob: its length, or [`PARAMETERS`]; then, for the parameters, the cookie.
const USED: usize = 16;
/// There is no blob: the cookie was given as parameters.
const PARAMETERS: u64 = u64::MAX;
/// Neither slot counts.
const NONE: usize = 2;

static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static COUNTS: AtomicUsize = AtomicUsize::new(NONE);
/// Under it one writes at a time.
static WRITING: Shared<()> = Shared::new();

/// The page and its device, for as long as this lives.
pub struct Keys {
    device: bool,
}

impl Keys {
    /// Makes both. `cookie` is that of `magic1=` and `magic2=`; 0 is none. Process context.
    pub fn new(cookie: u64) -> Result<Self> {
        // SAFETY: Asks for one zeroed page.
        let page = unsafe { bindings::nd_secret_page() }.cast::<u8>();
        if page.is_null() {
            return Err(ENOMEM);
        }
        PAGE.store(page, Ordering::Release);
        let mut keys = Keys { device: false };
        if cookie != 0 {
            WRITING.with(|_| {
                // SAFETY: Under the mutex, and neither half counts.
                let slot = unsafe { half_mut(page, 0) };
                head(slot, 0).copy_from_slice(&PARAMETERS.to_le_bytes());
                head(slot, 1).copy_from_slice(&cookie.to_le_bytes());
                COUNTS.store(0, Ordering::Release);
            });
        }
        // SAFETY: The device is static, and registered once for each `Keys`. On an error `keys` gives the page back.
        let errno = unsafe { bindings::nd_key_device_register() };
        if errno != 0 {
            return Err(Error::from_errno(errno));
        }
        keys.device = true;
        Ok(keys)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.device {
            // SAFETY: Registered by `new`. Nobody has it open: an open file holds the module.
            unsafe { bindings::nd_key_device_unregister() };
        }
        COUNTS.store(NONE, Ordering::Release);
        let page = PAGE.swap(core::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: Nothing writes any more, and nothing counts.
        unsafe {
            wipe(half_mut(page, 0));
            wipe(half_mut(page, 1));
            bindings::nd_secret_page_free(page.cast());
        }
    }
}

/// A half of the page, to write to.
///
/// # Safety
///
/// `page` is the page of `Keys::new`, and nobody else uses this half: it does not count, and the mutex is held or there is
/// no device any more.
unsafe fn half_mut<'a>(page: *mut u8, which: usize) -> &'a mut [u8] {
    // SAFETY: The caller's promise; either half lies within the page.
    unsafe { core::slice::from_raw_parts_mut(page.add(SLOT * which.min(1)), SLOT) }
}

/// One of the two words in front of a blob.
fn head(slot: &mut [u8], which: usize) -> &mut [u8] {
    let at = which.min(1) * 8;
    slot.get_mut(at..at + 8).unwrap_or(&mut [])
}

fn wipe(slot: &mut [u8]) {
    for byte in slot {
        // SAFETY: A live byte. Volatile: it may be the last access to it.
        unsafe { core::ptr::from_mut(byte).write_volatile(0) };
    }
}

/// What counts: the first word of its slot, and what is behind both.
fn counting<'a>() -> Option<(u64, &'a [u8])> {
    let page = PAGE.load(Ordering::Acquire);
    let which = COUNTS.load(Ordering::Acquire);
    if page.is_null() || which >= NONE {
        return None;
    }
    // SAFETY: A half of the page of `Keys::new`. The one that counts is not written to: callers hold the mutex, or the machine
    // has panicked and nothing else runs.
    let half = unsafe { core::slice::from_raw_parts(page.add(SLOT * which), SLOT) };
    let (length, rest) = half.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*length), rest))
}

fn blob<'a>() -> Option<Arming<'a>> {
    let (length, rest) = counting()?;
    let blob = rest.get(USED - 8..)?.get(..usize::try_from(length).ok()?)?;
    Arming::new_checked(blob).ok()
}

/// The cookie of requests; 0 where none was given. Panic path, or under the mutex.
pub fn cookie() -> Cookie {
    match counting() {
        Some((PARAMETERS, rest)) => Cookie::new(rest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))),
        _ => blob().and_then(|blob| blob.cookie()).unwrap_or_default(),
    }
}

/// The key of version 6, and randomness for the panic, where a key was given. Panic path.
pub fn arm_key() -> Option<(KeyName, Key, [u8; 32])> {
    let blob = blob()?;
    Some((blob.name(), Key::new(*blob.arm_key()), *blob.seed()))
}

/// What this machine has to show for itself, as far as probes go.
#[derive(Clone, Copy)]
pub enum Proof {
    /// Nothing.
    None,
    /// A classic cookie, which no probe may show.
    Cookie,
    /// The key of probes. It may be known to who has a dump: see docs/keys.md.
    Key(KeyName, ProbeKey),
}

/// What there is. Process context.
pub fn proof() -> Proof {
    WRITING.with(|_| match blob() {
        Some(blob) => Proof::Key(blob.name(), ProbeKey::new(*blob.probe_key())),
        None if cookie() == Cookie::default() => Proof::None,
        None => Proof::Cookie,
    })
}

/// Frames that hold secrets while a dump runs: the keys that were derived, and the stack on which that was done. They are
/// no part of any dump.
pub struct Hidden {
    frames: KVec<u64>,
}

/// Frames that can be hidden: more than the state and the stack of a dump have.
const MAX_HIDDEN: usize = 256;

impl Hidden {
    /// None yet. Process context.
    pub fn new() -> Result<Self> {
        Ok(Self { frames: KVec::with_capacity(MAX_HIDDEN, GFP_KERNEL)? })
    }

    /// Hides an object at any mapped kernel address. False if not all of it can be. Panic path.
    pub fn hide<T>(&mut self, place: *const T) -> bool {
        pages_of(place as usize, size_of::<T>()).all(|page| page.is_some_and(|range| self.hide_range(range)))
    }

    /// Hides a range. False if not all of it can be. Panic path.
    pub fn hide_range(&mut self, range: PhysRange) -> bool {
        let frames = range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE);
        let mut all = true;
        for frame in frames {
            all &= self.frames.push_within_capacity(frame).is_ok();
        }
        all
    }

    /// Whether a frame is hidden. Panic path.
    pub fn holds(&self, pfn: u64) -> bool {
        self.frames.contains(&pfn)
    }
}

/// Which key counts. Process context.
pub fn key_id() -> Option<KeyId> {
    WRITING.with(|_| blob().map(|blob| blob.key_id()))
}

/// Where the page of secrets is. Panic path.
fn place() -> Option<PhysRange> {
    let page = PAGE.load(Ordering::Relaxed);
    (!page.is_null()).then(|| PhysRange::of_linear(page, PAGE_SIZE as usize))
}

/// Whether frame `pfn` is the page of secrets. Panic path.
pub fn is_secret(pfn: u64) -> bool {
    place().is_some_and(|page| page.start / PAGE_SIZE == pfn)
}

/// Says that the page is not sent as it is. Panic path.
pub fn report(changed: &mut Changed) {
    if let Some(page) = place() {
        changed.range(page, "keys");
    }
}

/// Called by the kernel when the device is written to.
#[no_mangle]
extern "C" fn nd_key_write(_: *mut bindings::file, from: *const u8, len: usize, _: *mut i64) -> isize {
    let taken = WRITING.with(|_| take(from, len));
    match taken {
        Ok(()) => {
            notifier::changed();
            len as isize
        }
        Err(error) => error.to_errno() as isize,
    }
}

/// Takes a blob into the half that does not count, and lets it count if its form is right.
fn take(from: *const u8, len: usize) -> Result {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return Err(ENODEV);
    }
    if len > MAX_LEN {
        return Err(EINVAL);
    }
    let now = COUNTS.load(Ordering::Acquire);
    let next = if now == 0 { 1 } else { 0 };
    // SAFETY: Under the mutex, and this half does not count.
    let free = unsafe { half_mut(page, next) };
    let result = fill(free, from, len);
    if result != Ok(true) {
        wipe(free);
    }
    if let Ok(wanted) = result {
        COUNTS.store(if wanted { next } else { NONE }, Ordering::Release);
        // SAFETY: Under the mutex, and this half does not count any more.
        wipe(unsafe { half_mut(page, 1 - next) });
    }
    result.map(|_| ())
}

/// Whether it is a blob (true) or the order to wipe (false).
fn fill(free: &mut [u8], from: *const u8, len: usize) -> Result<bool> {
    let (length, rest) = free.split_first_chunk_mut::<8>().ok_or(EINVAL)?;
    let room = rest.get_mut(USED - 8..).and_then(|rest| rest.get_mut(..len)).ok_or(EINVAL)?;
    UserSlice::new(UserPtr::from_addr(from as usize), len).reader().read_slice(room)?;
    if room == WIPE {
        return Ok(false);
    }
    Arming::new_checked(room).map_err(|_| EINVAL)?;
    *length = (len as u64).to_le_bytes();
    Ok(true)
}
