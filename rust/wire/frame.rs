// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Ethernet, ARP, IPv4, IPv6, neighbour discovery and UDP, as far as a dying machine needs them.
//!
//! The network stack is not used during a dump: frames come straight from the driver and go straight to it. This
//! module reads the few kinds of frames that matter ([`parse`]) and writes the two that are sent: a UDP datagram's
//! headers ([`UdpHeaders`]) and the answer to "who has this address" ([`NeighbourReply`]).
//!
//! Sources: RFC 826 (ARP), RFC 791 and 8200 (IP), RFC 768 (UDP), RFC 4861 (neighbour discovery), IEEE 802.1Q.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header without a VLAN tag, in bytes.
pub const ETH_HEADER_LEN: usize = 14;
/// Length of an 802.1Q tag, in bytes.
pub const VLAN_TAG_LEN: usize = 4;
/// Most bytes that any header stack written here takes: Ethernet, one VLAN tag, IPv6, UDP.
pub const MAX_HEADERS_LEN: usize = ETH_HEADER_LEN + VLAN_TAG_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN;
/// Shortest Ethernet frame that may be handed to a driver, in bytes, without the frame check sequence.
pub const MIN_FRAME_LEN: usize = 60;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const UDP_HEADER_LEN: usize = 8;
const ARP_LEN: usize = 28;
const NEIGHBOUR_LEN: usize = 24;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTO_UDP: u8 = 17;
const PROTO_ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const IPV4_TTL: u8 = 64;
const IPV6_HOP_LIMIT: u8 = 64;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address that every station listens to.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this names one station: not a group, not all zeroes.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }
}

impl core::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a frame is of no use here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotForUs {
    /// A header is cut off, or a length in it does not agree with the frame.
    Malformed,
    /// Well-formed as far as it was read, but of a kind that is not handled (another protocol, a fragment).
    OtherKind,
    /// The IP header's or the UDP checksum is wrong.
    BadChecksum,
}

/// A UDP datagram inside a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Udp<'a> {
    /// Ethernet source: the next hop on the way back.
    pub src_mac: MacAddr,
    /// IP source address.
    pub src: IpAddr,
    /// IP destination address.
    pub dst: IpAddr,
    /// UDP source port.
    pub src_port: u16,
    /// UDP destination port.
    pub dst_port: u16,
    /// What the datagram carries.
    pub payload: &'a [u8],
}

/// Somebody asks for the Ethernet address that belongs to an IP address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourQuery {
    /// Ethernet address of the asker.
    pub asker_mac: MacAddr,
    /// IP address of the asker (unspecified in a probe for duplicates).
    pub asker: IpAddr,
    /// The address asked for.
    pub target: IpAddr,
}

/// A frame that means something to a dumping machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A UDP datagram over IPv4 or IPv6.
    Udp(Udp<'a>),
    /// An ARP request or an IPv6 neighbour solicitation.
    NeighbourQuery(NeighbourQuery),
}

/// How far the checksums of a received frame can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpChecksum {
    /// The NIC (or the hypervisor) has vouched for it.
    Trusted,
    /// It must be computed here.
    Verify,
}

impl UdpChecksum {
    /// That of a frame for which somebody `vouched`, or nobody.
    pub fn new(vouched: bool) -> Self {
        if vouched {
            UdpChecksum::Trusted
        } else {
            UdpChecksum::Verify
        }
    }
}

/// Reads one received frame, from its Ethernet header on.
///
/// `frame` may carry padding behind the IP packet, and one VLAN tag.
pub fn parse(frame: &[u8], udp_checksum: UdpChecksum) -> Result<Frame<'_>, NotForUs> {
    let (eth, mut rest) = split::<ETH_HEADER_LEN>(frame)?;
    let [_, _, _, _, _, _, s0, s1, s2, s3, s4, s5, t0, t1] = *eth;
    let src_mac = MacAddr([s0, s1, s2, s3, s4, s5]);
    let mut ethertype = u16::from_be_bytes([t0, t1]);
    if ethertype == ETHERTYPE_VLAN {
        let (tag, inner) = split::<VLAN_TAG_LEN>(rest)?;
        let [_, _, t0, t1] = *tag;
        ethertype = u16::from_be_bytes([t0, t1]);
        rest = inner;
    }
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(src_mac, rest, udp_checksum),
        ETHERTYPE_IPV6 => parse_ipv6(src_mac, rest, udp_checksum),
        ETHERTYPE_ARP => parse_arp(rest),
        _ => Err(NotForUs::OtherKind),
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), NotForUs> {
    bytes.split_first_chunk::<N>().ok_or(NotForUs::Malformed)
}

fn parse_arp(packet: &[u8]) -> Result<Frame<'_>, NotForUs> {
    let (arp, _) = split::<ARP_LEN>(packet)?;
    let (fixed, addresses) = split::<8>(arp)?;
    // Ethernet, IPv4, their lengths, and the operation "request".
    if *fixed != [0, 1, 8, 0, 6, 4, 0, 1] {
        return Err(NotForUs::OtherKind);
    }
    let (sender_mac, addresses) = split::<6>(addresses)?;
    let (sender, addresses) = split::<4>(addresses)?;
    let (_, addresses) = split::<6>(addresses)?;
    let (target, _) = split::<4>(addresses)?;
    Ok(Frame::NeighbourQuery(NeighbourQuery {
        asker_mac: MacAddr(*sender_mac),
        asker: IpAddr::V4(Ipv4Addr::from(*sender)),
        target: IpAddr::V4(Ipv4Addr::from(*target)),
    }))
}

fn parse_ipv4(src_mac: MacAddr, packet: &[u8], csum: UdpChecksum) -> Result<Frame<'_>, NotForUs> {
    let (header, _) = split::<IPV4_HEADER_LEN>(packet)?;
    let [vihl, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    if vihl >> 4 != 4 {
        return Err(NotForUs::Malformed);
    }
    let header_len = usize::from(vihl & 0xf).saturating_mul(4);
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    let packet = packet.get(..total_len).ok_or(NotForUs::Malformed)?;
    let (header, body) = packet.split_at_checked(header_len).ok_or(NotForUs::Malformed)?;
    if header_len < IPV4_HEADER_LEN {
        return Err(NotForUs::Malformed);
    }
    if Checksum::new().add(header).value() != 0 {
        return Err(NotForUs::BadChecksum);
    }
    // A set "more fragments" bit or an offset: nothing of ours is ever fragmented.
    if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 || protocol != PROTO_UDP {
        return Err(NotForUs::OtherKind);
    }
    let src = Ipv4Addr::new(s0, s1, s2, s3);
    let dst = Ipv4Addr::new(d0, d1, d2, d3);
    parse_udp(src_mac, IpAddr::V4(src), IpAddr::V4(dst), body, csum)
}

fn parse_ipv6(src_mac: MacAddr, packet: &[u8], csum: UdpChecksum) -> Result<Frame<'_>, NotForUs> {
    let (header, rest) = split::<IPV6_HEADER_LEN>(packet)?;
    let (fixed, addresses) = split::<8>(header)?;
    let [version, _, _, _, l0, l1, next_header, hop_limit] = *fixed;
    let (src, addresses) = split::<16>(addresses)?;
    let (dst, _) = split::<16>(addresses)?;
    let src = Ipv6Addr::from(*src);
    let dst = Ipv6Addr::from(*dst);
    if version >> 4 != 6 {
        return Err(NotForUs::Malformed);
    }
    let body = rest.get(..usize::from(u16::from_be_bytes([l0, l1]))).ok_or(NotForUs::Malformed)?;
    match next_header {
        PROTO_UDP => parse_udp(src_mac, IpAddr::V6(src), IpAddr::V6(dst), body, csum),
        // RFC 4861 7.1.1: a hop limit of 255 proves that no router has passed it on.
        PROTO_ICMPV6 if hop_limit == 255 => parse_solicitation(src_mac, src, dst, body),
        _ => Err(NotForUs::OtherKind),
    }
}

fn parse_solicitation(src_mac: MacAddr, src: Ipv6Addr, dst: Ipv6Addr, body: &[u8]) -> Result<Frame<'_>, NotForUs> {
    let (message, _) = split::<NEIGHBOUR_LEN>(body)?;
    let (fixed, target) = split::<8>(message)?;
    let [kind, code, ..] = *fixed;
    if kind != NEIGHBOUR_SOLICITATION || code != 0 {
        return Err(NotForUs::OtherKind);
    }
    if pseudo_header(IpAddr::V6(src), IpAddr::V6(dst), PROTO_ICMPV6, body.len()).add(body).value() != 0 {
        return Err(NotForUs::BadChecksum);
    }
    let (target, _) = split::<16>(target)?;
    Ok(Frame::NeighbourQuery(NeighbourQuery {
        asker_mac: src_mac,
        asker: IpAddr::V6(src),
        target: IpAddr::V6(Ipv6Addr::from(*target)),
    }))
}

fn parse_udp(
    src_mac: MacAddr,
    src: IpAddr,
    dst: IpAddr,
    segment: &[u8],
    udp_checksum: UdpChecksum,
) -> Result<Frame<'_>, NotForUs> {
    let (header, _) = split::<UDP_HEADER_LEN>(segment)?;
    let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let segment = segment.get(..len).ok_or(NotForUs::Malformed)?;
    let payload = segment.get(UDP_HEADER_LEN..).ok_or(NotForUs::Malformed)?;
    // Zero means "not computed", which only IPv4 allows.
    let absent = (c0, c1) == (0, 0);
    if absent && src.is_ipv6() {
        return Err(NotForUs::BadChecksum);
    }
    if udp_checksum == UdpChecksum::Verify
        && !absent
        && pseudo_header(src, dst, PROTO_UDP, len).add(segment).value() != 0
    {
        return Err(NotForUs::BadChecksum);
    }
    Ok(Frame::Udp(Udp {
        src_mac,
        src,
        dst,
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
        payload,
    }))
}

/// The Internet checksum (RFC 1071), built up piece by piece. Every piece but the last must have an even length.
#[derive(Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// The checksum of nothing.
    pub fn new() -> Self {
        Self(0)
    }

    /// Adds a run of bytes.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // no operator: it takes bytes, not another sum
    pub fn add(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            if let Some(word) = word.first_chunk::<8>() {
                // Native words in any order: the sum is the same but for the byte order of the result.
                let word = u64::from_ne_bytes(*word);
                sum = sum.wrapping_add(word & 0xffff_ffff).wrapping_add(word >> 32);
            }
        }
        let mut rest = words.remainder();
        if let Some((word, tail)) = rest.split_first_chunk::<4>() {
            sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
            rest = tail;
        }
        if let Some((word, tail)) = rest.split_first_chunk::<2>() {
            sum = sum.wrapping_add(u64::from(u16::from_ne_bytes(*word)));
            rest = tail;
        }
        if let Some(byte) = rest.first() {
            sum = sum.wrapping_add(u64::from(u16::from_ne_bytes([*byte, 0])));
        }
        Self(sum)
    }

    /// Adds a field of two bytes.
    fn add_word(self, value: u16) -> Self {
        Self(self.0.wrapping_add(u64::from(u16::from_ne_bytes(value.to_be_bytes()))))
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        // Four folds bring 64 bits down to 16, whatever they are.
        for _ in 0..4 {
            sum = (sum & 0xffff).wrapping_add(sum >> 16);
        }
        u16::from_be((sum & 0xffff) as u16)
    }

    /// The checksum as it goes into a header; 0 over data that contains its own right checksum.
    pub fn value(self) -> u16 {
        !self.folded()
    }
}

fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Checksum {
    let [_, _, _, _, l0, l1, l2, l3] = (len as u64).to_be_bytes();
    let sum = Checksum::new().add(&[0, 0, 0, protocol, l0, l1, l2, l3]);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum.add(&src.octets()).add(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum.add(&src.octets()).add(&dst.octets()),
        // Never built: both ends of a path are of one family.
        _ => sum,
    }
}

/// Both ends of a conversation, down to the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Our Ethernet address.
    pub local_mac: MacAddr,
    /// Ethernet address of the next hop.
    pub peer_mac: MacAddr,
    /// Our IP address.
    pub local: IpAddr,
    /// The peer's IP address, of the same family.
    pub peer: IpAddr,
    /// Our UDP port.
    pub local_port: u16,
    /// The peer's UDP port.
    pub peer_port: u16,
    /// 802.1Q tag (priority and VLAN id) that goes into each frame.
    pub vlan: Option<u16>,
}

impl Path {
    /// Bytes of all headers before a UDP payload.
    pub fn headers_len(&self) -> usize {
        let ip = if self.local.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
        self.link_len().saturating_add(ip).saturating_add(UDP_HEADER_LEN)
    }

    fn link_len(&self) -> usize {
        match self.vlan {
            Some(_) => ETH_HEADER_LEN.saturating_add(VLAN_TAG_LEN),
            None => ETH_HEADER_LEN,
        }
    }
}

/// What the sender does about the UDP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Compute it here.
    Full,
    /// Write the pseudo-header's sum only: the NIC computes the rest (the kernel's CHECKSUM_PARTIAL).
    Offload,
}

/// Where things are in a frame that [`UdpHeaders::emit`] has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Length of the whole frame, without padding.
    pub len: usize,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the UDP header.
    pub udp: usize,
}

/// The same headers, written once for many datagrams along one path: what differs between them is filled in, with all
/// checksums. For senders that count instructions.
#[derive(Clone, Copy)]
pub struct PreparedHeaders {
    path: Path,
    /// As of an empty datagram; what differs is zero.
    bytes: [u8; MAX_HEADERS_LEN],
    at: Emitted,
    ip_sum: Checksum,
    udp_sum: Checksum,
}

/// Bytes of the headers without a VLAN tag.
const UDP_IPV4: usize = ETH_HEADER_LEN + IPV4_HEADER_LEN + UDP_HEADER_LEN;
const UDP_IPV6: usize = ETH_HEADER_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN;

/// Where the total length, the identification and the checksum are in an IPv4 header, and the length in an IPv6 header.
const IPV4_TOTAL: usize = 2;
const IPV4_IDENT: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_LENGTH: usize = 4;
const UDP_LENGTH: usize = 4;

impl PreparedHeaders {
    /// For datagrams along `path`. None if its ends are of two families.
    pub fn new(path: Path) -> Option<Self> {
        let mut bytes = [0; MAX_HEADERS_LEN];
        let at = UdpHeaders::new(path).emit(&mut bytes, 0, 0, Fill::Full)?;
        let mut headers = Patch(&mut bytes);
        if path.local.is_ipv4() {
            headers.put(at.ip, IPV4_TOTAL, 0)?;
            headers.put(at.ip, IPV4_CHECKSUM, 0)?;
        } else {
            headers.put(at.ip, IPV6_LENGTH, 0)?;
        }
        headers.put(at.udp, UDP_LENGTH, 0)?;
        headers.put(at.udp, UDP_CHECKSUM_OFFSET, 0)?;
        let ip_sum = Checksum::new().add(bytes.get(at.ip..at.udp)?);
        let udp_sum = pseudo_header(path.local, path.peer, PROTO_UDP, 0).add(bytes.get(at.udp..at.len)?);
        Some(Self { path, bytes, at, ip_sum, udp_sum })
    }

    /// The path that they are for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes before the payload.
    pub fn headers_len(&self) -> usize {
        self.at.len
    }

    /// Completes a frame, as [`UdpHeaders::emit`] does.
    pub fn emit(&self, frame: &mut [u8], payload_len: usize, ident: u16) -> Option<Emitted> {
        let udp_len = u16::try_from(payload_len.checked_add(UDP_HEADER_LEN)?).ok()?;
        let len = self.at.len.checked_add(payload_len)?;
        let (headers, payload) = frame.get_mut(..len)?.split_at_mut_checked(self.at.len)?;
        // Lengths that are known when this is compiled are copied by a few instructions.
        if let (Ok(to), Some(from)) = (<&mut [u8; UDP_IPV4]>::try_from(&mut *headers), self.bytes.first_chunk()) {
            *to = *from;
        } else if let (Ok(to), Some(from)) = (<&mut [u8; UDP_IPV6]>::try_from(&mut *headers), self.bytes.first_chunk())
        {
            *to = *from;
        } else {
            headers.copy_from_slice(self.bytes.get(..self.at.len)?);
        }
        let mut headers = Patch(headers);
        if self.path.local.is_ipv4() {
            let total = udp_len.checked_add(IPV4_HEADER_LEN as u16)?;
            headers.put(self.at.ip, IPV4_TOTAL, total)?;
            headers.put(self.at.ip, IPV4_IDENT, ident)?;
            headers.put(self.at.ip, IPV4_CHECKSUM, self.ip_sum.add_word(total).add_word(ident).value())?;
        } else {
            headers.put(self.at.ip, IPV6_LENGTH, udp_len)?;
        }
        headers.put(self.at.udp, UDP_LENGTH, udp_len)?;
        // Once in the pseudo-header, once in the header.
        let checksum = match self.udp_sum.add_word(udp_len).add_word(udp_len).add(payload).value() {
            0 => 0xffff,
            value => value,
        };
        headers.put(self.at.udp, UDP_CHECKSUM_OFFSET, checksum)?;
        Some(Emitted { len, ..self.at })
    }
}

/// Headers in which single fields are overwritten.
struct Patch<'a>(&'a mut [u8]);

impl Patch<'_> {
    fn put(&mut self, header: usize, field: usize, value: u16) -> Option<()> {
        let to = self.0.get_mut(header.checked_add(field)?..)?.first_chunk_mut::<2>()?;
        *to = value.to_be_bytes();
        Some(())
    }
}

/// Offset of the checksum inside a UDP header.
pub const UDP_CHECKSUM_OFFSET: usize = 6;

/// Writes the headers of UDP datagrams along one path.
#[derive(Clone, Copy)]
pub struct UdpHeaders {
    path: Path,
}

impl UdpHeaders {
    /// For datagrams along `path`.
    pub fn new(path: Path) -> Self {
        Self { path }
    }

    /// Completes a frame whose payload already stands in `frame` behind [`Path::headers_len`] bytes.
    ///
    /// `ident` is the IPv4 identification. None if the buffer is too short or the payload too long for IP.
    pub fn emit(&self, frame: &mut [u8], payload_len: usize, ident: u16, fill: Fill) -> Option<Emitted> {
        let udp_len = u16::try_from(payload_len.checked_add(UDP_HEADER_LEN)?).ok()?;
        let headers_len = self.path.headers_len();
        let len = headers_len.checked_add(payload_len)?;
        let (headers, payload) = frame.get_mut(..len)?.split_at_mut_checked(headers_len)?;
        let ip = self.path.link_len();
        let udp = headers_len.checked_sub(UDP_HEADER_LEN)?;
        let ethertype = if self.path.local.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };

        let mut out = Writer(headers);
        out.link(self.path.peer_mac, self.path.local_mac, self.path.vlan, ethertype)?;
        match (self.path.local, self.path.peer) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = udp_len.checked_add(IPV4_HEADER_LEN as u16)?;
                out.ipv4(src, dst, total, ident)?;
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => out.ipv6(src, dst, udp_len, PROTO_UDP, IPV6_HOP_LIMIT)?,
            _ => return None,
        }
        let ports = self.path.local_port.to_be_bytes();
        let peer_port = self.path.peer_port.to_be_bytes();
        let udp_len_bytes = udp_len.to_be_bytes();
        let sum = pseudo_header(self.path.local, self.path.peer, PROTO_UDP, usize::from(udp_len));
        let checksum = match fill {
            Fill::Offload => sum.folded(),
            Fill::Full => {
                let sum = sum.add(&ports).add(&peer_port).add(&udp_len_bytes).add(payload);
                // All zeroes would mean "no checksum": its other form stands for it.
                match sum.value() {
                    0 => 0xffff,
                    value => value,
                }
            }
        };
        out.put(&ports)?;
        out.put(&peer_port)?;
        out.put(&udp_len_bytes)?;
        out.put(&checksum.to_be_bytes())?;
        Some(Emitted { len, ip, udp })
    }
}

/// The answer to a [`NeighbourQuery`] for our address: an ARP reply or a neighbour advertisement.
#[derive(Clone, Copy)]
pub struct NeighbourReply {
    /// Whom to answer, and about which address.
    pub query: NeighbourQuery,
    /// Our Ethernet address.
    pub local_mac: MacAddr,
    /// 802.1Q tag of the frame.
    pub vlan: Option<u16>,
}

impl NeighbourReply {
    /// Writes the whole frame, padded to [`MIN_FRAME_LEN`]; its length, or None if `frame` is too short.
    pub fn emit(&self, frame: &mut [u8]) -> Option<usize> {
        let room = frame.len();
        let to = self.query.asker_mac;
        let mut out = Writer(frame);
        match (self.query.asker, self.query.target) {
            (IpAddr::V4(asker), IpAddr::V4(target)) => {
                out.link(to, self.local_mac, self.vlan, ETHERTYPE_ARP)?;
                out.put(&[0, 1, 8, 0, 6, 4, 0, 2])?;
                out.put(&self.local_mac.0)?;
                out.put(&target.octets())?;
                out.put(&to.0)?;
                out.put(&asker.octets())?;
            }
            (IpAddr::V6(asker), IpAddr::V6(target)) => {
                // RFC 4861 7.2.4: a probe for duplicates (asker unspecified) is answered to all nodes.
                let solicited = !asker.is_unspecified();
                let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                let (to, dst) = if solicited { (to, asker) } else { (MacAddr([0x33, 0x33, 0, 0, 0, 1]), all_nodes) };
                let mut message = [0u8; NEIGHBOUR_LEN + 8];
                let mut body = Writer(&mut message);
                let flags = if solicited { 0x60 } else { 0x20 };
                body.put(&[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])?;
                body.put(&target.octets())?;
                body.put(&[2, 1])?;
                body.put(&self.local_mac.0)?;
                let sum = pseudo_header(IpAddr::V6(target), IpAddr::V6(dst), PROTO_ICMPV6, message.len());
                let checksum = sum.add(&message).value().to_be_bytes();
                message.get_mut(2..4)?.copy_from_slice(&checksum);
                out.link(to, self.local_mac, self.vlan, ETHERTYPE_IPV6)?;
                out.ipv6(target, dst, (NEIGHBOUR_LEN + 8) as u16, PROTO_ICMPV6, 255)?;
                out.put(&message)?;
            }
            _ => return None,
        }
        let written = room.checked_sub(out.0.len())?;
        if let Some(pad) = MIN_FRAME_LEN.checked_sub(written) {
            out.0.get_mut(..pad)?.fill(0);
        }
        Some(written.max(MIN_FRAME_LEN))
    }
}

/// What is left of an output buffer.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let (to, rest) = core::mem::take(&mut self.0).split_at_mut_checked(bytes.len())?;
        to.copy_from_slice(bytes);
        self.0 = rest;
        Some(())
    }

    fn link(&mut self, to: MacAddr, from: MacAddr, vlan: Option<u16>, ethertype: u16) -> Option<()> {
        self.put(&to.0)?;
        self.put(&from.0)?;
        if let Some(tag) = vlan {
            self.put(&ETHERTYPE_VLAN.to_be_bytes())?;
            self.put(&tag.to_be_bytes())?;
        }
        self.put(&ethertype.to_be_bytes())
    }

    fn ipv4(&mut self, src: Ipv4Addr, dst: Ipv4Addr, total_len: u16, ident: u16) -> Option<()> {
        let [l0, l1] = total_len.to_be_bytes();
        let [i0, i1] = ident.to_be_bytes();
        let [s0, s1, s2, s3] = src.octets();
        let [d0, d1, d2, d3] = dst.octets();
        // 0x40: do not fragment; the datagrams are sized for the path.
        let without = [0x45, 0, l0, l1, i0, i1, 0x40, 0, IPV4_TTL, PROTO_UDP, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
        let [c0, c1] = Checksum::new().add(&without).value().to_be_bytes();
        self.put(&[0x45, 0, l0, l1, i0, i1, 0x40, 0, IPV4_TTL, PROTO_UDP, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3])
    }

    fn ipv6(&mut self, src: Ipv6Addr, dst: Ipv6Addr, len: u16, next: u8, hop_limit: u8) -> Option<()> {
        let [l0, l1] = len.to_be_bytes();
        self.put(&[0x60, 0, 0, 0, l0, l1, next, hop_limit])?;
        self.put(&src.octets())?;
        self.put(&dst.octets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn path(local: &str, peer: &str, vlan: Option<u16>) -> Path {
        Path {
            local_mac: CLIENT,
            peer_mac: SERVER,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            local_port: 6666,
            peer_port: 6667,
            vlan,
        }
    }

    fn datagram(path: Path, payload: &[u8], fill: Fill) -> Vec<u8> {
        let headers_len = path.headers_len();
        let mut frame = vec![0u8; headers_len + payload.len()];
        frame[headers_len..].copy_from_slice(payload);
        let emitted = UdpHeaders::new(path).emit(&mut frame, payload.len(), 7, fill).unwrap();
        assert_eq!(emitted.len, frame.len());
        frame
    }

    #[test]
    fn ipv4_datagram_byte_for_byte() {
        let frame = datagram(path("10.0.0.2", "10.0.0.1", None), b"abc", Fill::Full);
        let expected = [
            0x02, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x08, 0x00, // Ethernet
            0x45, 0, 0, 31, 0, 7, 0x40, 0, 64, 17, 0x26, 0xc5, 10, 0, 0, 2, 10, 0, 0, 1, // IPv4
            0x1a, 0x0a, 0x1a, 0x0b, 0, 11, 0xf3, 0x5d, b'a', b'b', b'c', // UDP
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn what_is_emitted_is_parsed() {
        for (local, peer) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
            for vlan in [None, Some(0x2064)] {
                for payload in [&b""[..], b"x", b"xy", b"a longer payload, odd"] {
                    let path = path(local, peer, vlan);
                    let frame = datagram(path, payload, Fill::Full);
                    let expected = Udp {
                        src_mac: CLIENT,
                        src: path.local,
                        dst: path.peer,
                        src_port: 6666,
                        dst_port: 6667,
                        payload,
                    };
                    assert_eq!(parse(&frame, UdpChecksum::Verify), Ok(Frame::Udp(expected)));
                }
            }
        }
    }

    #[test]
    fn padding_is_not_payload_and_a_flipped_bit_is_seen() {
        let mut frame = datagram(path("10.0.0.2", "10.0.0.1", None), b"abc", Fill::Full);
        frame.resize(MIN_FRAME_LEN, 0xee);
        match parse(&frame, UdpChecksum::Verify) {
            Ok(Frame::Udp(udp)) => assert_eq!(udp.payload, b"abc"),
            other => panic!("{other:?}"),
        }
        frame[43] ^= 1;
        assert_eq!(parse(&frame, UdpChecksum::Verify), Err(NotForUs::BadChecksum));
        assert!(parse(&frame, UdpChecksum::Trusted).is_ok());
    }

    #[test]
    fn cut_frames_are_malformed() {
        for path in [path("10.0.0.2", "10.0.0.1", None), path("fd00::2", "fd00::1", Some(5))] {
            let frame = datagram(path, b"abc", Fill::Full);
            for len in 0..frame.len() {
                assert_eq!(parse(&frame[..len], UdpChecksum::Verify), Err(NotForUs::Malformed), "{len}");
            }
        }
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut frame = datagram(path("10.0.0.2", "10.0.0.1", None), b"abc", Fill::Full);
        let fix = |frame: &mut [u8]| {
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = Checksum::new().add(&frame[14..34]).value().to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
        };
        frame[20] = 0x20;
        fix(&mut frame);
        assert_eq!(parse(&frame, UdpChecksum::Verify), Err(NotForUs::OtherKind));
        frame[20] = 0x40;
        frame[23] = 6;
        fix(&mut frame);
        assert_eq!(parse(&frame, UdpChecksum::Verify), Err(NotForUs::OtherKind));
    }

    #[test]
    fn arp_request_and_its_answer() {
        let mut request = vec![0xff; 6];
        request.extend_from_slice(&SERVER.0);
        request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&SERVER.0);
        request.extend_from_slice(&[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        let Ok(Frame::NeighbourQuery(query)) = parse(&request, UdpChecksum::Verify) else { panic!("not a query") };
        assert_eq!(query.target, "10.0.0.2".parse::<IpAddr>().unwrap());
        let mut answer = [0xaa; 128];
        let reply = NeighbourReply { query, local_mac: CLIENT, vlan: None };
        assert_eq!(reply.emit(&mut answer), Some(60));
        let expected = [
            0x02, 0, 0, 0, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // reply
            0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1,
        ];
        assert_eq!(answer[..42], expected);
        assert_eq!(answer[42..60], [0; 18]);
        assert_eq!(parse(&answer[..60], UdpChecksum::Verify), Err(NotForUs::OtherKind));
    }

    #[test]
    fn solicitation_and_advertisement() {
        let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "ff02::1:ff00:2".parse().unwrap());
        let target: Ipv6Addr = "fd00::2".parse().unwrap();
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(&target.octets());
        body.extend_from_slice(&[1, 1]);
        body.extend_from_slice(&SERVER.0);
        let sum = pseudo_header(IpAddr::V6(src), IpAddr::V6(dst), PROTO_ICMPV6, body.len()).add(&body).value();
        body[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 2];
        frame.extend_from_slice(&SERVER.0);
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend_from_slice(&src.octets());
        frame.extend_from_slice(&dst.octets());
        frame.extend_from_slice(&body);
        let Ok(Frame::NeighbourQuery(query)) = parse(&frame, UdpChecksum::Verify) else { panic!("not a query") };
        assert_eq!(query, NeighbourQuery { asker_mac: SERVER, asker: IpAddr::V6(src), target: IpAddr::V6(target) });
        let mut answer = [0u8; 128];
        let len = NeighbourReply { query, local_mac: CLIENT, vlan: None }.emit(&mut answer).unwrap();
        assert_eq!(len, 14 + 40 + 32);
        assert_eq!(answer[..6], SERVER.0);
        assert_eq!(answer[54..56], [136, 0]);
        assert_eq!(answer[58], 0x60);
        let check = pseudo_header(IpAddr::V6(target), IpAddr::V6(src), PROTO_ICMPV6, 32).add(&answer[54..86]);
        assert_eq!(check.value(), 0);
        frame[21] = 64;
        assert_eq!(parse(&frame, UdpChecksum::Verify), Err(NotForUs::OtherKind), "came through a router");
    }

    #[test]
    fn offloaded_checksum_is_the_pseudo_headers() {
        let full = datagram(path("10.0.0.2", "10.0.0.1", None), b"abc", Fill::Full);
        let mut offload = datagram(path("10.0.0.2", "10.0.0.1", None), b"abc", Fill::Offload);
        // What a NIC does: sum from the UDP header to the end, complement, store.
        let sum = Checksum::new().add(&offload[34..]).value().to_be_bytes();
        offload[40..42].copy_from_slice(&sum);
        assert_eq!(full, offload);
    }
}
