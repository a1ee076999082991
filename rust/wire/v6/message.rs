// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The bodies of datagrams, but for memory ([`cluster`](super::cluster)).
//!
//! Every body that does not end in bytes of any number may grow at its end in later versions: what follows the known fields is
//! ignored, and so are bits that are not known.

use super::super::{Error, Pfn, Reader, Result, Writer};
use super::{Codec, Level, Reason};

/// Kinds of datagrams; those of the server come first.
pub mod kind {
    /// [`Grant`](super::Grant).
    pub const GRANT: u8 = 1;
    /// [`Repair`](super::Repair)s.
    pub const REPAIR: u8 = 2;
    /// [`Ask`](super::Ask).
    pub const ASK: u8 = 3;
    /// [`Wait`](super::Wait).
    pub const WAIT: u8 = 4;
    /// [`End`](super::End).
    pub const END: u8 = 5;
    /// [`Show`](super::Show).
    pub const SHOW: u8 = 6;
    /// A [`ResetHint`](super::super::hint::ResetHint), which is no datagram of a session.
    pub const RESET_HINT: u8 = 7;
    /// A [`ProbeAck`](super::super::probe::ProbeAck), which is no datagram of a session either.
    pub const PROBE_ACK: u8 = 8;
    /// [`Part`](super::Part) of an item.
    pub const PART: u8 = 0x41;
    /// A [`Piece`](super::super::cluster::Piece) of a cluster.
    pub const PIECE: u8 = 0x42;
    /// [`Progress`](super::Progress).
    pub const PROGRESS: u8 = 0x43;
    /// A [`Line`](super::Line) of the task listing.
    pub const LINE: u8 = 0x44;
    /// The client goes; the body is that of END.
    pub const BYE: u8 = 0x45;
    /// A [`Probe`](super::super::probe::Probe), which belongs to no session.
    pub const PROBE: u8 = 0x46;
}

/// Segments in a GRANT, and segments that a client works on, at most.
pub const MAX_SEGMENTS: usize = 16;
/// Entries in a REPAIR, at most.
pub const MAX_REPAIRS: usize = 16;
/// Selected pages of a cluster, at most.
pub const MAX_CLUSTER_PAGES: u8 = 16;

/// Names a segment; never used twice in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u32);

/// Which pages of a segment are meant. A reader of a dump is of no use without some pages, such as the kernel's own image:
/// a server may want those of all memory before the others, so that what it has when a machine falls silent can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Turn {
    /// All.
    #[default]
    Any,
    /// Those that a reader needs first; which they are the client decides.
    First,
    /// The others.
    Second,
}

/// Page frames that the server wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Its name.
    pub id: SegmentId,
    /// First frame.
    pub start: Pfn,
    /// First frame behind it.
    pub end: Pfn,
    /// It was wanted before: what is left out of it is not counted again.
    pub again: bool,
    /// Which of its pages are.
    pub turn: Turn,
}

const SEGMENT_LEN: usize = 21;
const AGAIN: u8 = 1;
const FIRST: u8 = 2;
const SECOND: u8 = 4;

impl Turn {
    fn flags(self) -> u8 {
        match self {
            Turn::Any => 0,
            Turn::First => FIRST,
            Turn::Second => SECOND,
        }
    }

    /// Both bits together name no pages.
    fn of(flags: u8) -> Option<Self> {
        match flags & (FIRST | SECOND) {
            0 => Some(Turn::Any),
            FIRST => Some(Turn::First),
            SECOND => Some(Turn::Second),
            _ => None,
        }
    }
}

/// GRANT: all that the client may do, each time whole. Losing one or having two in the wrong order is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant<'a> {
    /// Counts the grants; an older one than the last is ignored.
    pub serial: u32,
    /// The client's datagrams of memory have counters below this.
    pub credit: u64,
    /// What the server leaves out.
    pub level: Level,
    /// The codec that it wishes.
    pub codec: Codec,
    /// Selected pages in a cluster, 1 to [`MAX_CLUSTER_PAGES`].
    pub pages: u8,
    /// An answer is wanted: PROGRESS.
    pub answer: bool,
    /// The longest datagram that has come, bytes of UDP payload: the path takes as much. `None`: the server does not say.
    pub largest: Option<u16>,
    segments: &'a [u8],
}

const ANSWER: u8 = 1;

impl<'a> Grant<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let (serial, credit) = (r.u32("serial")?, r.u64("credit")?);
        let level = Level::known(r.u8("level")?);
        let codec = Codec::from_wire(r.u8("codec")?).ok_or(Error::Invalid("codec"))?;
        let pages = r.u8("pages")?.min(MAX_CLUSTER_PAGES);
        if pages == 0 {
            return Err(Error::Invalid("pages"));
        }
        let answer = r.u8("flags")? & ANSWER != 0;
        let segments = list(&mut r, MAX_SEGMENTS, SEGMENT_LEN)?;
        let largest = r.u16("largest").ok();
        let grant = Grant { serial, credit, level, codec, pages, answer, largest, segments };
        let entries = grant.segments.chunks_exact(SEGMENT_LEN).filter_map(|entry| entry.last());
        if entries.clone().any(|flags| Turn::of(*flags).is_none()) || grant.segments().any(|s| s.start >= s.end) {
            return Err(Error::Invalid("segment"));
        }
        Ok(grant)
    }

    /// What the server wants, the most urgent first.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + 'a {
        self.segments.chunks_exact(SEGMENT_LEN).filter_map(|entry| {
            let mut r = Reader::new(entry);
            let id = SegmentId(r.u32("id").ok()?);
            let (start, end) = (Pfn(r.u64("start").ok()?), Pfn(r.u64("end").ok()?));
            let flags = r.u8("flags").ok()?;
            Some(Segment { id, start, end, again: flags & AGAIN != 0, turn: Turn::of(flags)? })
        })
    }

    /// Writes a body with these segments (at most [`MAX_SEGMENTS`]) instead of its own; its length.
    pub fn emit(&self, segments: &[Segment], buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u32(self.serial)?;
        w.u64(self.credit)?;
        w.u8(self.level.number())?;
        w.u8(self.codec as u8)?;
        w.u8(self.pages)?;
        w.u8(if self.answer { ANSWER } else { 0 })?;
        count(&mut w, segments.len(), MAX_SEGMENTS)?;
        for segment in segments {
            w.u32(segment.id.0)?;
            w.u64(segment.start.0)?;
            w.u64(segment.end.0)?;
            w.u8(segment.turn.flags() | if segment.again { AGAIN } else { 0 })?;
        }
        if let Some(largest) = self.largest {
            w.u16(largest)?;
        }
        Ok(w.written())
    }

    /// A grant without segments.
    pub const EMPTY: Grant<'static> = Grant {
        serial: 0,
        credit: 0,
        level: Level::ALL,
        codec: Codec::Raw,
        pages: MAX_CLUSTER_PAGES,
        answer: false,
        largest: None,
        segments: &[],
    };
}

/// The entries of a list: their number, then they.
fn list<'a>(r: &mut Reader<'a>, max: usize, len: usize) -> Result<&'a [u8]> {
    let number = usize::from(r.u8("count")?);
    if number > max {
        return Err(Error::Invalid("count"));
    }
    r.bytes(number.saturating_mul(len), "list")
}

fn count(w: &mut Writer<'_>, number: usize, max: usize) -> Result<()> {
    if number > max {
        return Err(Error::Invalid("count"));
    }
    w.u8(u8::try_from(number).map_err(|_| Error::Invalid("count"))?)
}

/// REPAIR: pieces of a cluster that have not arrived. Lost ones are sent again by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repair {
    /// The cluster's first frame.
    pub first: Pfn,
    /// The end of the segment that it was sent for.
    pub end: Pfn,
    /// What the pieces that are there belong to.
    pub build: u32,
    /// Bit `n`: piece `n` is missing.
    pub missing: u64,
    /// The turn of that segment: without it the cluster could not be put together again.
    pub turn: Turn,
}

const REPAIR_LEN: usize = 29;

impl Repair {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<impl Iterator<Item = Repair> + '_> {
        let entries = list(&mut Reader::new(body), MAX_REPAIRS, REPAIR_LEN)?;
        Ok(entries.chunks_exact(REPAIR_LEN).filter_map(|entry| {
            let mut r = Reader::new(entry);
            let (first, end) = (Pfn(r.u64("first").ok()?), Pfn(r.u64("end").ok()?));
            let (build, missing) = (r.u32("build").ok()?, r.u64("missing").ok()?);
            let turn = Turn::of(r.u8("flags").ok()?)?;
            (first < end).then_some(Repair { first, end, build, missing, turn })
        }))
    }

    /// Writes a body with these entries; its length.
    pub fn emit(repairs: &[Repair], buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        count(&mut w, repairs.len(), MAX_REPAIRS)?;
        for repair in repairs {
            w.u64(repair.first.0)?;
            w.u64(repair.end.0)?;
            w.u32(repair.build)?;
            w.u64(repair.missing)?;
            w.u8(repair.turn.flags())?;
        }
        Ok(w.written())
    }
}

/// ASK: parts of an item, as in the classic extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Which item.
    pub item: u32,
    /// From this byte on.
    pub offset: u32,
    /// Bytes in each part but the last.
    pub part: u16,
    /// How many parts.
    pub count: u16,
}

impl Ask {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let (item, offset) = (r.u32("item")?, r.u32("offset")?);
        let (part, count) = (r.u16("part")?, r.u16("count")?);
        if part == 0 || count == 0 {
            return Err(Error::Invalid("part"));
        }
        Ok(Ask { item, offset, part, count })
    }

    /// Writes a body; its length.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u32(self.item)?;
        w.u32(self.offset)?;
        w.u16(self.part)?;
        w.u16(self.count)?;
        Ok(w.written())
    }
}

/// PART: bytes of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// Which item.
    pub item: u32,
    /// Where in it the data belong.
    pub offset: u32,
    /// Length of the whole item; 0 if there is none.
    pub total: u32,
    /// They.
    pub data: &'a [u8],
}

/// Bytes in front of the data of a PART.
pub const PART_HEADER_LEN: usize = 12;

impl<'a> Part<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let (item, offset, total) = (r.u32("item")?, r.u32("offset")?, r.u32("total")?);
        Ok(Part { item, offset, total, data: r.rest() })
    }

    /// Writes a header; the data stand behind it already.
    pub fn emit_header(&self, buf: &mut [u8]) -> Result<()> {
        let mut w = Writer::new(buf);
        w.u32(self.item)?;
        w.u32(self.offset)?;
        w.u32(self.total)
    }
}

/// WAIT: others are served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The server will be heard again within this time.
    pub seconds: u16,
    /// Its place among those who wait; 1 is the next.
    pub position: u32,
}

impl Wait {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        Ok(Wait { seconds: r.u16("seconds")?, position: r.u32("position")? })
    }

    /// Writes a body; its length.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u16(self.seconds)?;
        w.u32(self.position)?;
        Ok(w.written())
    }
}

/// END: the last order, and BYE, its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The machine restarts.
    Reboot = 1,
    /// Its panic goes on.
    Exit = 2,
}

impl End {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        match Reader::new(body).u8("end")? {
            1 => Ok(End::Reboot),
            2 => Ok(End::Exit),
            _ => Err(Error::Invalid("end")),
        }
    }

    /// Writes a body; its length.
    pub fn emit(self, buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u8(self as u8)?;
        Ok(w.written())
    }
}

/// Where a client stands in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Which.
    pub id: SegmentId,
    /// Everything below this frame was looked at, and sent or left out.
    pub cursor: Pfn,
    /// Behind the last frame that was sent: from here to the cursor all were left out.
    pub tail: Pfn,
}

const PLACE_LEN: usize = 20;

/// PROGRESS: the answer to a GRANT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Of the GRANT.
    pub serial: u32,
    /// Frames left out so far, by [`Reason`].
    pub left_out: [u64; Reason::COUNT],
    places: &'a [u8],
}

impl<'a> Progress<'a> {
    /// Reads a body. Reasons of a later version are passed over.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let serial = r.u32("serial")?;
        let places = list(&mut r, MAX_SEGMENTS, PLACE_LEN)?;
        let mut left_out = [0; Reason::COUNT];
        let reasons = usize::from(r.u8("reasons")?);
        for n in 0..reasons {
            let value = r.u64("left out")?;
            if let Some(place) = left_out.get_mut(n) {
                *place = value;
            }
        }
        Ok(Progress { serial, left_out, places })
    }

    /// Where the client stands, in each segment that it knows.
    pub fn places(&self) -> impl Iterator<Item = Place> + 'a {
        self.places.chunks_exact(PLACE_LEN).filter_map(|entry| {
            let mut r = Reader::new(entry);
            Some(Place {
                id: SegmentId(r.u32("id").ok()?),
                cursor: Pfn(r.u64("cursor").ok()?),
                tail: Pfn(r.u64("tail").ok()?),
            })
        })
    }

    /// Writes a body; its length.
    pub fn emit(
        serial: u32,
        places: impl ExactSizeIterator<Item = Place>,
        left_out: &[u64; Reason::COUNT],
        buf: &mut [u8],
    ) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u32(serial)?;
        count(&mut w, places.len(), MAX_SEGMENTS)?;
        for place in places {
            w.u32(place.id.0)?;
            w.u64(place.cursor.0)?;
            w.u64(place.tail.0)?;
        }
        w.u8(Reason::COUNT as u8)?;
        for number in left_out {
            w.u64(*number)?;
        }
        Ok(w.written())
    }
}

/// SHOW: the task listing is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Show {
    /// All text in front of this place has come, bytes.
    pub from: u32,
    /// Text behind it was lost: it is sent again from there.
    pub again: bool,
}

const SHOW_AGAIN: u8 = 1;

impl Show {
    /// Reads a body. `None`: a server that takes what comes and asks for nothing again.
    pub fn parse(body: &[u8]) -> Result<Option<Self>> {
        if body.is_empty() {
            return Ok(None);
        }
        let mut r = Reader::new(body);
        let from = r.u32("from")?;
        Ok(Some(Show { from, again: r.u8("flags")? & SHOW_AGAIN != 0 }))
    }

    /// Writes a body; its length.
    pub fn emit(&self, buf: &mut [u8]) -> Result<usize> {
        let mut w = Writer::new(buf);
        w.u32(self.from)?;
        w.u8(if self.again { SHOW_AGAIN } else { 0 })?;
        Ok(w.written())
    }
}

/// LINE: text of the task listing, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Place of the text in the listing, bytes.
    pub offset: u32,
    /// There is no more text behind this.
    pub last: bool,
    /// It.
    pub text: &'a [u8],
}

/// Bytes in front of the text of a LINE.
pub const LINE_HEADER_LEN: usize = 5;

impl<'a> Line<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(body);
        let offset = r.u32("offset")?;
        let last = r.u8("flags")? & 1 != 0;
        Ok(Line { offset, last, text: r.rest() })
    }

    /// Writes a header; the text stands behind it already.
    pub fn emit_header(offset: u32, last: bool, buf: &mut [u8]) -> Result<()> {
        let mut w = Writer::new(buf);
        w.u32(offset)?;
        w.u8(u8::from(last))
    }
}
