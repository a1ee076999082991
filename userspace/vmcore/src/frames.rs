// SPDX-License-Identifier: GPL-2.0-or-later
//! Which page frames a dump has: one bit for each, in a file beside it.
//!
//! A page of zeroes is a hole in a sparse file, and so is one that never came; only this tells them apart. It is in the
//! order that bitmaps of kdump-compressed files have: frame `n` is bit `n % 8` of byte `n / 8`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use netdump_core::wire::Pfn;

/// Bytes that are in memory at a time, whatever the size of the machine.
pub(crate) const BLOCK: usize = 4096;
/// Frames that they tell of.
const FRAMES: u64 = BLOCK as u64 * 8;

/// A set of page frames in a file.
#[derive(Debug)]
pub struct FrameSet {
    file: File,
    /// Frames from here on are not in it.
    end: u64,
    block: Box<[u8; BLOCK]>,
    /// Which block that is.
    number: Option<u64>,
    changed: bool,
}

impl FrameSet {
    /// An empty set of frames below `end`. The file should be empty.
    pub fn create(file: File, end: u64) -> io::Result<Self> {
        file.set_len(end.div_ceil(8))?;
        Ok(Self::over(file, end))
    }

    /// A set that was written before.
    pub fn open(file: File, end: u64) -> io::Result<Self> {
        if file.metadata()?.len() != end.div_ceil(8) {
            return Err(io::Error::other("the set of pages has another length"));
        }
        Ok(Self::over(file, end))
    }

    fn over(file: File, end: u64) -> Self {
        FrameSet { file, end, block: Box::new([0; BLOCK]), number: None, changed: false }
    }

    /// Frames that it may hold: those below.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes frames in; those at the end and beyond are passed over. What was taken is in the file after
    /// [`flush`](Self::flush).
    pub fn add(&mut self, first: Pfn, count: u64) -> io::Result<()> {
        let end = first.0.saturating_add(count).min(self.end);
        let mut at = first.0;
        while at < end {
            self.go_to(at / FRAMES)?;
            let stop = end.min((at / FRAMES + 1) * FRAMES);
            set(&mut self.block[..], at % FRAMES, stop - at);
            self.changed = true;
            at = stop;
        }
        Ok(())
    }

    /// Gives what was added to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(number) = self.number.filter(|_| self.changed) else { return Ok(()) };
        let start = number * BLOCK as u64;
        let len = self.end.div_ceil(8).saturating_sub(start).min(BLOCK as u64) as usize;
        self.file.write_all_at(&self.block[..len], start)?;
        self.changed = false;
        Ok(())
    }

    fn go_to(&mut self, number: u64) -> io::Result<()> {
        if self.number != Some(number) {
            self.flush()?;
            self.number = None;
            read_block(&self.file, number, &mut self.block)?;
            self.number = Some(number);
        }
        Ok(())
    }

    /// How many [blocks](Self::block) there are.
    pub(crate) fn blocks(&self) -> u64 {
        self.end.div_ceil(FRAMES)
    }

    /// A block of bits as the file has it: bit 0 is frame `number * BLOCK * 8`. None is set at the end and beyond.
    pub(crate) fn block(&self, number: u64, block: &mut [u8; BLOCK]) -> io::Result<()> {
        read_block(&self.file, number, block)?;
        // The last byte may have bits that were never meant.
        for frame in self.end..(self.end.next_multiple_of(8)).min((number + 1) * FRAMES) {
            if let Some(byte) = (frame / FRAMES == number).then(|| &mut block[(frame % FRAMES / 8) as usize]) {
                *byte &= !(1 << (frame % 8));
            }
        }
        Ok(())
    }
}

/// Sets `count` bits from `first` on.
pub(crate) fn set(bits: &mut [u8], first: u64, count: u64) {
    let (mut at, end) = (first, first + count);
    while at < end {
        let Some(byte) = bits.get_mut((at / 8) as usize) else { return };
        let stop = end.min((at / 8 + 1) * 8);
        let (low, high) = (at % 8, stop - at / 8 * 8);
        *byte |= ((1u16 << high) - (1u16 << low)) as u8;
        at = stop;
    }
}

/// What lies behind the end of the file is zero.
fn read_block(file: &File, number: u64, block: &mut [u8; BLOCK]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, number * BLOCK as u64 + done as u64) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn frames(set: &FrameSet) -> BTreeSet<u64> {
        let mut block = [0xff; BLOCK];
        let mut found = BTreeSet::new();
        for number in 0..set.blocks() {
            set.block(number, &mut block).unwrap();
            for bit in 0..FRAMES {
                if block[bit as usize / 8] & 1 << (bit % 8) != 0 {
                    found.insert(number * FRAMES + bit);
                }
            }
        }
        found
    }

    proptest! {
        /// What was added is in it, and nothing else, whatever the order; also for the next process.
        #[test]
        fn what_was_added_is_there(
            end in 1u64..3 * FRAMES,
            adds in proptest::collection::vec((0u64..3 * FRAMES, 0u64..300, any::<bool>()), 0..40),
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut set = FrameSet::create(file.try_clone().unwrap(), end).unwrap();
            let mut expected = BTreeSet::new();
            for (first, count, reopen) in adds {
                set.add(Pfn(first), count).unwrap();
                expected.extend((first..first + count).filter(|frame| *frame < end));
                if reopen {
                    set.flush().unwrap();
                    set = FrameSet::open(file.try_clone().unwrap(), end).unwrap();
                }
            }
            set.flush().unwrap();
            prop_assert_eq!(frames(&set), expected);
        }
    }

    #[test]
    fn a_file_of_another_machine_or_with_stray_bits_is_not_believed() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xff, 0xff], 0).unwrap();
        assert!(FrameSet::open(file.try_clone().unwrap(), 8).is_err());
        assert_eq!(frames(&FrameSet::open(file, 11).unwrap()), (0..11).collect());
    }
}
