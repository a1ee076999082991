// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's LZ4 and zstd, with all memory that they need made beforehand.

use super::bindings;
use super::volatile::Changed;
use crate::wire::v6::cluster::MAX_CLUSTER_LEN;
use crate::wire::v6::Codec;
use core::ffi::c_void;
use kernel::prelude::*;

/// As zstd's fastest.
const ZSTD_LEVEL: i32 = 1;
/// All pages of a cluster. With its index it is a little longer, for which zstd would want twice the memory.
const ZSTD_WINDOW_LOG: u32 = 16;

/// Both, ready.
pub struct Compressors {
    lz4: KVVec<u64>,
    zstd: KVVec<u64>,
    params: bindings::zstd_parameters,
    /// What of them was said to change.
    reported: Option<Codec>,
}

impl Compressors {
    /// Process context.
    pub fn new() -> Result<Self> {
        // SAFETY: Both compute from numbers.
        let (params, room) = unsafe {
            let mut params = bindings::zstd_get_params(ZSTD_LEVEL, MAX_CLUSTER_LEN as u64);
            params.cParams.windowLog = params.cParams.windowLog.min(ZSTD_WINDOW_LOG);
            (params, bindings::zstd_cctx_workspace_bound(&raw const params.cParams))
        };
        Ok(Self {
            lz4: KVVec::from_elem(0, (bindings::ND_LZ4_WORK as usize).div_ceil(8), GFP_KERNEL)?,
            zstd: KVVec::from_elem(0, room.div_ceil(8), GFP_KERNEL)?,
            params,
            reported: None,
        })
    }

    /// Encodes `from` into `to`: its length, or None if it does not fit. Panic path.
    pub fn compress(&mut self, codec: Codec, from: &[u8], to: &mut [u8]) -> Option<usize> {
        match codec {
            Codec::Raw => None,
            Codec::Lz4 => {
                let (from_len, room) = (i32::try_from(from.len()).ok()?, i32::try_from(to.len()).ok()?);
                // SAFETY: Live slices, and a work area of the size that it wants.
                let len = unsafe {
                    bindings::LZ4_compress_fast(
                        from.as_ptr().cast(),
                        to.as_mut_ptr().cast(),
                        from_len,
                        room,
                        1,
                        self.lz4.as_mut_ptr().cast(),
                    )
                };
                usize::try_from(len).ok().filter(|len| *len > 0)
            }
            Codec::Zstd => {
                let work: *mut c_void = self.zstd.as_mut_ptr().cast();
                // SAFETY: A work area of the size that it wants for these parameters, made anew each time; live slices.
                unsafe {
                    let context = bindings::zstd_init_cctx(work, self.zstd.len() * 8);
                    if context.is_null() {
                        return None;
                    }
                    let (out, room) = (to.as_mut_ptr().cast(), to.len());
                    let params = &raw const self.params;
                    let len =
                        bindings::zstd_compress_cctx(context, out, room, from.as_ptr().cast(), from.len(), params);
                    (bindings::zstd_is_error(len) == 0).then_some(len)
                }
            }
        }
    }

    /// Says what a codec writes to, when it is used for the first time: what is not used does not change. Panic path.
    pub fn report(&mut self, codec: Codec, changed: &mut Changed) {
        if self.reported == Some(codec) {
            return;
        }
        self.reported = Some(codec);
        let work = match codec {
            Codec::Raw => return,
            Codec::Lz4 => &self.lz4,
            Codec::Zstd => &self.zstd,
        };
        changed.object(work.as_ptr().cast(), work.len() * 8, "codec");
    }
}
