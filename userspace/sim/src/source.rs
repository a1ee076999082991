// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine that does not exist, as version 6 sees it.

use netdump_core::engine::v6::{Choice, Source};
use netdump_core::engine::{PageClass, Target};
use netdump_core::wire::v6::message::Turn;
use netdump_core::wire::v6::{Codec, Level, Reason};
use netdump_core::wire::Pfn;

use crate::image::Image;

/// Whether a level leaves out what is used for this.
pub fn leaves_out(level: Level, reason: Reason) -> bool {
    let bits = match reason {
        Reason::Free => Level::FREE,
        Reason::Cache => Level::CACHE | Level::PRIVATE_CACHE,
        Reason::PrivateCache => Level::PRIVATE_CACHE,
        Reason::User => Level::USER,
        Reason::HwPoison | Reason::Unreadable | Reason::Secret => return true,
    };
    level.leaves_out(bits)
}

/// Frames of which all or none are needed first.
const EARLY: u64 = 4;

/// Whether a made-up machine calls the page one that is needed first: one in eight, and all of the lowest.
pub fn is_early(pfn: Pfn) -> bool {
    let group = pfn.0 / EARLY;
    group < 8 || group % 8 == 3
}

impl Source for Image {
    fn select(&mut self, level: Level, turn: Turn, pfn: Pfn, end: Pfn) -> Choice {
        if let PageClass::Hole { next } = self.classify(pfn) {
            return Choice::Skip { to: next.unwrap_or(end).min(end), reason: Reason::Unreadable };
        }
        match self.use_of(pfn).filter(|reason| leaves_out(level, *reason)) {
            Some(reason) => Choice::Skip { to: Pfn((pfn.0 / 32 * 32 + 32).min(end.0)), reason },
            None if turn == Turn::Any || is_early(pfn) == (turn == Turn::First) => Choice::Keep,
            None => Choice::Pass { to: Pfn((pfn.0 / EARLY * EARLY + EARLY).min(end.0)) },
        }
    }

    fn hash(&mut self, bytes: &[u8]) -> u32 {
        xxhash_rust::xxh3::xxh3_64(bytes) as u32
    }

    fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize> {
        match codec {
            Codec::Raw => None,
            Codec::Lz4 => {
                // The library wants room for the worst case, the kernel's does not.
                let packed = lz4_flex::block::compress(from);
                to.get_mut(..packed.len())?.copy_from_slice(&packed);
                Some(packed.len())
            }
            Codec::Zstd => zstd::bulk::compress_to_buffer(from, to, 1).ok(),
        }
    }
}
