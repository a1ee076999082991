// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's log as it is in its memory: printk's ring buffer (`kernel/printk/printk_ringbuffer.h`), found through
//! VMCOREINFO alone.

use crate::kernel_memory::{KernelMemory, MemoryError};
use crate::vmcoreinfo::Vmcoreinfo;

/// Largest rings that are walked: the kernel allows 2^25 bytes of text, and has a record for each 2^5 of them.
const MAX_TEXT_BITS: u32 = 25;
const MAX_RECORD_BITS: u32 = 20;
/// Two bits of a descriptor's state say what it is good for.
const STATE_SHIFT: u32 = 62;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
/// A text block begins with the number of its descriptor.
const ID_LEN: u64 = 8;

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Nanoseconds since boot.
    pub nanoseconds: u64,
    /// Its lines, as they were printed. Not to be trusted, nor shown as they are.
    pub text: Vec<u8>,
}

impl Record {
    /// As dmesg shows it: the time before each line.
    pub fn lines(&self) -> impl Iterator<Item = (String, &[u8])> {
        let (seconds, rest) = (self.nanoseconds / 1_000_000_000, self.nanoseconds % 1_000_000_000);
        let time = format!("[{seconds:5}.{:06}] ", rest / 1000);
        self.text.split(|byte| *byte == b'\n').map(move |line| (time.clone(), line))
    }
}

/// Where the ring's parts are.
struct Ring<'a> {
    memory: &'a KernelMemory<'a>,
    descs: u64,
    infos: u64,
    records: u64,
    data: u64,
    bytes: u64,
    desc: Desc,
    info: Info,
}

struct Desc {
    size: u64,
    state: u64,
    begin: u64,
    next: u64,
}

struct Info {
    size: u64,
    time: u64,
    length: u64,
}

/// Calls `each` with the records, oldest first; how many there were. It ends at the first error of `each`.
pub fn records<E: From<MemoryError>>(
    memory: &KernelMemory<'_>,
    info: &Vmcoreinfo<'_>,
    mut each: impl FnMut(Record) -> Result<(), E>,
) -> Result<u64, E> {
    let (ring, tail, head) = Ring::find(memory, info)?;
    let mut count = 0;
    // Numbers wrap, and a damaged ring must not be walked for ever.
    let span = head.wrapping_sub(tail).wrapping_add(1) & !(3 << STATE_SHIFT);
    for step in 0..span.min(ring.records) {
        let id = tail.wrapping_add(step) & !(3 << STATE_SHIFT);
        if let Some(record) = ring.record(id)? {
            count += 1;
            each(record)?;
        }
    }
    Ok(count)
}

impl<'a> Ring<'a> {
    fn find(memory: &'a KernelMemory<'a>, info: &Vmcoreinfo<'_>) -> Result<(Self, u64, u64), MemoryError> {
        let offset = |name: &'static str| info.offset(name).ok_or(MemoryError::Missing(name));
        let size = |name: &'static str| info.size(name).filter(|size| *size < 4096).ok_or(MemoryError::Missing(name));
        let counter = offset("atomic_long_t.counter")?;
        let prb = memory.u64(info.symbol("prb").ok_or(MemoryError::Missing("SYMBOL(prb)"))?)?;
        let descs = prb.wrapping_add(offset("printk_ringbuffer.desc_ring")?);
        let texts = prb.wrapping_add(offset("printk_ringbuffer.text_data_ring")?);
        let record_bits = memory.u32(descs.wrapping_add(offset("prb_desc_ring.count_bits")?))?;
        let text_bits = memory.u32(texts.wrapping_add(offset("prb_data_ring.size_bits")?))?;
        if record_bits > MAX_RECORD_BITS || text_bits > MAX_TEXT_BITS {
            return Err(MemoryError::Nonsense("size of the log"));
        }
        let lpos = offset("prb_desc.text_blk_lpos")?;
        let ring = Ring {
            memory,
            descs: memory.u64(descs.wrapping_add(offset("prb_desc_ring.descs")?))?,
            infos: memory.u64(descs.wrapping_add(offset("prb_desc_ring.infos")?))?,
            records: 1 << record_bits,
            data: memory.u64(texts.wrapping_add(offset("prb_data_ring.data")?))?,
            bytes: 1 << text_bits,
            desc: Desc {
                size: size("prb_desc")?,
                state: offset("prb_desc.state_var")?.wrapping_add(counter),
                begin: lpos.wrapping_add(offset("prb_data_blk_lpos.begin")?),
                next: lpos.wrapping_add(offset("prb_data_blk_lpos.next")?),
            },
            info: Info {
                size: size("printk_info")?,
                time: offset("printk_info.ts_nsec")?,
                length: offset("printk_info.text_len")?,
            },
        };
        let id = |name: &'static str| memory.u64(descs.wrapping_add(offset(name)?).wrapping_add(counter));
        let (tail, head) = (id("prb_desc_ring.tail_id")?, id("prb_desc_ring.head_id")?);
        Ok((ring, tail, head))
    }

    /// The record of a number; `None` if it is not finished, or has been overwritten.
    fn record(&self, id: u64) -> Result<Option<Record>, MemoryError> {
        let place = id % self.records;
        let desc = self.descs.wrapping_add(place * self.desc.size);
        let state = self.memory.u64(desc.wrapping_add(self.desc.state))?;
        let good = matches!(state >> STATE_SHIFT, COMMITTED | FINALIZED);
        if !good || state & !(3 << STATE_SHIFT) != id {
            return Ok(None);
        }
        let info = self.infos.wrapping_add(place * self.info.size);
        let nanoseconds = self.memory.u64(info.wrapping_add(self.info.time))?;
        let mut length = [0; 2];
        self.memory.read(info.wrapping_add(self.info.length), &mut length)?;
        let begin = self.memory.u64(desc.wrapping_add(self.desc.begin))?;
        let next = self.memory.u64(desc.wrapping_add(self.desc.next))?;
        let text = self.text(begin, next, u64::from(u16::from_le_bytes(length)))?;
        Ok(Some(Record { nanoseconds, text }))
    }

    /// The text between two places that count through the ring again and again.
    fn text(&self, begin: u64, next: u64, length: u64) -> Result<Vec<u8>, MemoryError> {
        // Odd places mean that there is no text.
        if begin & 1 == 1 && next & 1 == 1 {
            return Ok(Vec::new());
        }
        // A block that would run over the end of the ring begins at its start instead.
        let (from, len) = match begin / self.bytes == next / self.bytes {
            true => (begin % self.bytes, next.wrapping_sub(begin)),
            false if next % self.bytes == 0 && next.wrapping_sub(begin) < self.bytes => {
                (begin % self.bytes, next.wrapping_sub(begin))
            }
            false => (0, next % self.bytes),
        };
        let length = length.min(len.saturating_sub(ID_LEN));
        let mut text = vec![0; length as usize];
        self.memory.read(self.data.wrapping_add(from).wrapping_add(ID_LEN), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_time() {
        let record = Record { nanoseconds: 12_345_678_999, text: b"one\ntwo".to_vec() };
        let lines: Vec<_> = record.lines().collect();
        assert_eq!(lines, [("[   12.345678] ".into(), &b"one"[..]), ("[   12.345678] ".into(), &b"two"[..])]);
    }
}
