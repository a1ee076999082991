// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Pages on their way: a cluster is up to sixteen selected pages, encoded together and cut into pieces.
//!
//! ```text
//! cluster    0 runs u8 | runs × (skip u32 | pages u16) | the pages that are not zero, in the order of their frames
//! piece      0 first u64 | 8 gap u32 | 12 build u32 | 16 piece u8 | 17 pieces u8 | 18 codec u8 | 19 flags u8 | 20 length u32 | 24 data …
//! ```
//!
//! A run skips frames that are left out and then takes some, all of zeroes if bit 15 of `pages` says so. The first run skips
//! nothing: the piece says where the cluster begins, and how many frames in front of it were left out.

use super::super::{Error, Pfn, Reader, Result, Writer};
use super::message::MAX_CLUSTER_PAGES;
use super::Codec;

/// Bytes in front of the data of a piece.
pub const PIECE_HEADER_LEN: usize = 24;
/// Pieces of a cluster, at most: the bits of a REPAIR.
pub const MAX_PIECES: usize = 64;
/// Runs of a cluster, at most.
pub const MAX_RUNS: usize = 32;
const RUN_LEN: usize = 6;
/// Bytes in front of the pages of a cluster, at most.
pub const MAX_INDEX_LEN: usize = 1 + MAX_RUNS * RUN_LEN;
/// The page size that clusters are made of.
pub const PAGE: usize = 4096;
/// Frames of a cluster that are not left out, at most: those of zeroes cost nothing on the way, but the receiver a page each.
pub const MAX_CLUSTER_FRAMES: u64 = 1024;
/// A cluster that is not encoded, at most.
pub const MAX_CLUSTER_LEN: usize = MAX_INDEX_LEN + MAX_CLUSTER_PAGES as usize * PAGE;
const ZERO: u16 = 1 << 15;
/// Frames of one run, at most.
pub const MAX_RUN_PAGES: u16 = ZERO - 1;

/// A run of frames within a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Run {
    /// Frames in front of it that were left out.
    pub skip: u32,
    /// Its frames; never 0.
    pub pages: u16,
    /// They hold zeroes, and have no bytes of their own.
    pub zero: bool,
}

/// Writes the runs of a cluster so that they *end* at the end of `buf`; their length.
pub fn emit_index(runs: &[Run], buf: &mut [u8]) -> Result<usize> {
    if runs.is_empty() || runs.len() > MAX_RUNS {
        return Err(Error::Invalid("runs"));
    }
    let len = runs.len().saturating_mul(RUN_LEN).saturating_add(1);
    let at = buf.len().checked_sub(len).ok_or(Error::NoRoom)?;
    let mut w = Writer::new(buf.get_mut(at..).ok_or(Error::NoRoom)?);
    w.u8(runs.len() as u8)?;
    for run in runs {
        w.u32(run.skip)?;
        w.u16(run.pages | if run.zero { ZERO } else { 0 })?;
    }
    Ok(len)
}

/// A cluster that was put together and decoded.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    first: Pfn,
    runs: &'a [u8],
    pages: &'a [u8],
    end: Pfn,
}

/// One or more frames of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// One page.
    Page(Pfn, &'a [u8; PAGE]),
    /// Frames that hold zeroes.
    Zeroes(Pfn, u16),
}

impl<'a> Cluster<'a> {
    /// Reads a decoded cluster that begins at `first`. Everything about it is checked here.
    pub fn parse(first: Pfn, decoded: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(decoded);
        let number = usize::from(r.u8("runs")?);
        if number == 0 || number > MAX_RUNS {
            return Err(Error::Invalid("runs"));
        }
        let runs = r.bytes(number.saturating_mul(RUN_LEN), "runs")?;
        let pages = r.rest();
        let mut cluster = Cluster { first, runs, pages, end: first };
        let (mut selected, mut frames) = (0u64, 0u64);
        let mut is_first = true;
        for run in cluster.runs() {
            if run.pages == 0 || (is_first && run.skip != 0) {
                return Err(Error::Invalid("run"));
            }
            is_first = false;
            let end = cluster.end.0.checked_add(u64::from(run.skip));
            let end = end.and_then(|end| end.checked_add(u64::from(run.pages)));
            cluster.end = Pfn(end.ok_or(Error::Invalid("run"))?);
            frames = frames.saturating_add(u64::from(run.pages));
            if !run.zero {
                selected = selected.saturating_add(u64::from(run.pages));
            }
        }
        if frames > MAX_CLUSTER_FRAMES
            || selected > u64::from(MAX_CLUSTER_PAGES)
            || selected.saturating_mul(PAGE as u64) != pages.len() as u64
        {
            return Err(Error::Invalid("pages"));
        }
        Ok(cluster)
    }

    /// Its first frame.
    pub fn first(&self) -> Pfn {
        self.first
    }

    /// The frame behind its last one.
    pub fn end(&self) -> Pfn {
        self.end
    }

    /// Its runs.
    pub fn runs(&self) -> impl Iterator<Item = Run> + 'a {
        self.runs.chunks_exact(RUN_LEN).filter_map(|run| {
            let mut r = Reader::new(run);
            let (skip, pages) = (r.u32("skip").ok()?, r.u16("pages").ok()?);
            Some(Run { skip, pages: pages & MAX_RUN_PAGES, zero: pages & ZERO != 0 })
        })
    }

    /// What is in it, ascending.
    pub fn for_each(&self, mut take: impl FnMut(Content<'a>)) {
        let mut at = self.first.0;
        let mut pages = self.pages;
        for run in self.runs() {
            at = at.saturating_add(u64::from(run.skip));
            if run.zero {
                take(Content::Zeroes(Pfn(at), run.pages));
                at = at.saturating_add(u64::from(run.pages));
                continue;
            }
            for _ in 0..run.pages {
                let Some((page, rest)) = pages.split_first_chunk::<PAGE>() else { return };
                pages = rest;
                take(Content::Page(Pfn(at), page));
                at = at.saturating_add(1);
            }
        }
    }
}

/// A piece of an encoded cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The cluster's first frame.
    pub first: Pfn,
    /// Frames in front of it that were left out, back to the end of the cluster before.
    pub gap: u32,
    /// Names what was encoded: pieces of different builds do not belong together.
    pub build: u32,
    /// Which piece.
    pub piece: u8,
    /// Of how many.
    pub pieces: u8,
    /// How the cluster is encoded.
    pub codec: Codec,
    /// Length of the encoded cluster.
    pub length: u32,
    /// Its bytes. All pieces are equally long, but the last may be shorter.
    pub data: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let (first, gap, build) = (Pfn(r.u64("first")?), r.u32("gap")?, r.u32("build")?);
        let (piece, pieces) = (r.u8("piece")?, r.u8("pieces")?);
        let codec = Codec::from_wire(r.u8("codec")?).ok_or(Error::Invalid("codec"))?;
        r.u8("flags")?;
        let length = r.u32("length")?;
        let data = r.rest();
        if pieces == 0 || usize::from(pieces) > MAX_PIECES || piece >= pieces {
            return Err(Error::Invalid("piece"));
        }
        if length == 0 || length as usize > MAX_CLUSTER_LEN || data.is_empty() {
            return Err(Error::Invalid("length"));
        }
        let piece = Piece { first, gap, build, piece, pieces, codec, length, data };
        piece.offset()?;
        if u64::from(gap) > first.0 {
            return Err(Error::Invalid("gap"));
        }
        Ok(piece)
    }

    /// Where in the encoded cluster its data belong.
    pub fn offset(&self) -> Result<usize> {
        let (length, len) = (self.length as usize, self.data.len());
        let last = self.piece.saturating_add(1) == self.pieces;
        let offset = if last {
            length.checked_sub(len)
        } else {
            usize::from(self.piece).checked_mul(len).filter(|at| {
                // The last one has something left.
                let whole = len.saturating_mul(usize::from(self.pieces).saturating_sub(1));
                whole < length && at.saturating_add(len) <= length
            })
        };
        offset.ok_or(Error::Invalid("length"))
    }

    /// Writes a header; the data stand behind it already.
    pub fn emit_header(&self, buf: &mut [u8]) -> Result<()> {
        let mut w = Writer::new(buf);
        w.u64(self.first.0)?;
        w.u32(self.gap)?;
        w.u32(self.build)?;
        w.u8(self.piece)?;
        w.u8(self.pieces)?;
        w.u8(self.codec as u8)?;
        w.u8(0)?;
        w.u32(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn cluster(runs: &[Run]) -> Vec<u8> {
        let mut index = [0; MAX_INDEX_LEN];
        let len = emit_index(runs, &mut index).unwrap();
        let mut bytes = index[MAX_INDEX_LEN - len..].to_vec();
        for (n, _) in runs.iter().filter(|run| !run.zero).flat_map(|run| 0..run.pages).enumerate() {
            bytes.extend([n as u8 + 1; PAGE]);
        }
        bytes
    }

    #[test]
    fn runs_say_where_pages_belong() {
        let run = |skip, pages, zero| Run { skip, pages, zero };
        let bytes = cluster(&[run(0, 2, false), run(3, 1000, true), run(0, 1, false)]);
        assert_eq!(bytes[..7], [3, 0, 0, 0, 0, 0, 2]);
        let cluster = Cluster::parse(Pfn(100), &bytes).unwrap();
        assert_eq!((cluster.first(), cluster.end()), (Pfn(100), Pfn(1106)));
        let mut got = Vec::new();
        cluster.for_each(|content| {
            got.push(match content {
                Content::Page(pfn, page) => (pfn.0, 1, page[0]),
                Content::Zeroes(pfn, pages) => (pfn.0, pages, 0),
            })
        });
        assert_eq!(got, [(100, 1, 1), (101, 1, 2), (105, 1000, 0), (1105, 1, 3)]);
    }

    #[test]
    fn a_cluster_that_lies_is_refused() {
        let run = |skip, pages, zero| Run { skip, pages, zero };
        let good = cluster(&[run(0, 2, false)]);
        assert!(Cluster::parse(Pfn(0), &good[..good.len() - 1]).is_err());
        assert!(Cluster::parse(Pfn(u64::MAX - 1), &good).is_err());
        for runs in [&[run(1, 1, true)][..], &[run(0, 0, true)], &[run(0, 17, false)], &[run(0, 1025, true)]] {
            assert!(Cluster::parse(Pfn(0), &cluster(runs)).is_err(), "{runs:?}");
        }
        assert!(Cluster::parse(Pfn(0), &[]).is_err() && Cluster::parse(Pfn(0), &[0]).is_err());
        assert!(Cluster::parse(Pfn(0), &[33; 300]).is_err());
    }

    #[test]
    fn pieces_fill_a_cluster() {
        let piece = |piece, pieces, length, data| Piece {
            first: Pfn(7),
            gap: 7,
            build: 9,
            piece,
            pieces,
            codec: Codec::Lz4,
            length,
            data,
        };
        let data = [5; 1000];
        for (n, len, offset) in [(0, 1000, 0), (1, 1000, 1000), (2, 500, 2000)] {
            let piece = piece(n, 3, 2500, &data[..len]);
            let mut body = vec![0; PIECE_HEADER_LEN];
            piece.emit_header(&mut body).unwrap();
            body.extend_from_slice(piece.data);
            assert_eq!(Piece::parse(&body).unwrap(), piece);
            assert_eq!(piece.offset(), Ok(offset));
        }
        for bad in
            [piece(3, 3, 2500, &data), piece(0, 65, 2500, &data), piece(1, 3, 1500, &data), piece(0, 3, 0, &data)]
        {
            let mut body = vec![0; PIECE_HEADER_LEN];
            bad.emit_header(&mut body).unwrap();
            body.extend_from_slice(bad.data);
            assert!(Piece::parse(&body).is_err(), "{bad:?}");
        }
    }
}
