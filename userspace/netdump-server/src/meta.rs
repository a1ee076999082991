// SPDX-License-Identifier: GPL-2.0-or-later
//! `meta.json`: what a directory holds, for people and programs.
//!
//! It is written when the directory begins, when a dump begins and when it ends, each time whole; a reader never
//! sees half of it. Times are RFC 3339 in UTC. Numbers are counts or bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

/// The file.
#[derive(Debug, Clone, Serialize)]
pub struct Meta {
    /// Version of this format.
    pub version: u32,
    /// Program and version that wrote it.
    pub server: String,
    /// The client's address.
    pub client: IpAddr,
    /// Name of the directory.
    pub directory: String,
    /// When the directory began.
    pub started: Timestamp,
    /// The client has proved who it is by a key, and everything of it was sealed. Never so in the classic protocol.
    pub authenticated: bool,
    /// Somebody is known at the client's address; what dumps from there had to know the secret.
    pub registered: bool,
    /// Which enrolled client dumped: its name. Absent where the secret was a file in `magic/`, or there was no dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// It was armed with the key before its current one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub previous_key: bool,
    /// The vmcore is whole.
    pub complete: bool,
    /// Size of `log`.
    pub log_bytes: u64,
    /// Bytes of log that never came or were not taken.
    pub log_lost_bytes: u64,
    /// hostname, release and so on, as the client told them.
    pub identity: BTreeMap<String, String>,
    /// The panic message.
    pub panic: Option<String>,
    /// About the dump; absent where only a log was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpMeta>,
    /// Ranges of memory that the client itself changed while it dumped.
    pub volatile: Vec<VolatileMeta>,
}

/// About a dump.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DumpMeta {
    /// When START_NETDUMP came.
    pub started: Option<Timestamp>,
    /// When it ended, in whatever way; absent while it runs.
    pub ended: Option<Timestamp>,
    /// What it is doing, or was doing last.
    pub phase: &'static str,
    /// Why it is not complete.
    pub failure: Option<String>,
    /// Protocol version.
    pub protocol: u32,
    /// `e_machine` of the client.
    pub machine: u16,
    /// Layout of the vmcore as it is now.
    pub format: &'static str,
    /// How far KASLR moved the kernel, in hexadecimal: crash needs it as `--kaslr` for the layout of 2005. Absent where
    /// the client does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_offset: Option<String>,
    /// Likewise, for `-m phys_base=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phys_base: Option<String>,
    /// Page size.
    pub page_size: u64,
    /// Highest page frame number + 1.
    pub nr_pages: u64,
    /// Bytes of memory that the client was to be asked for.
    pub memory_bytes: u64,
    /// Pages by what became of them.
    pub pages: PageCounts,
    /// Page frames that the client left out, by reason. Absent in the classic protocol, which leaves out nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<BTreeMap<&'static str, u64>>,
    /// Datagrams by what became of them.
    pub datagrams: DatagramCounts,
    /// Apparent size of the vmcore.
    pub vmcore_bytes: u64,
    /// Bytes that it takes on the disk.
    pub vmcore_disk_bytes: u64,
    /// How the vmcore was made into a kdump-compressed one, or is to be. Absent where that is not wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversion: Option<ConversionMeta>,
    /// CPUs whose registers are in it.
    pub cpus: usize,
    /// The task listing was acknowledged.
    pub show_state: bool,
    /// The client stopped answering after the last order.
    pub obeyed: bool,
    /// Seconds from START_NETDUMP to the end.
    pub seconds: f64,
    /// Seconds in the memory phase.
    pub memory_seconds: f64,
    /// Memory per second of the memory phase, in bytes.
    pub bytes_per_second: u64,
}

/// What `format=kdump` does when a dump is over.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct ConversionMeta {
    /// "waiting", "running"; then "done", and the vmcore is compressed, or "failed" or "abandoned": it is the ELF file that it was.
    pub state: &'static str,
    /// Why it is not done.
    pub failure: Option<String>,
    /// How pages are compressed.
    pub codec: &'static str,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bytes that the ELF file takes, or took, on the disk.
    pub elf_disk_bytes: u64,
}

/// Pages of a dump.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct PageCounts {
    /// In the file with their bytes.
    pub written: u64,
    /// All zero, and left as holes.
    pub zero: u64,
    /// The client says that there is no readable memory.
    pub reserved: u64,
    /// The client says that the number is too high.
    pub out_of_range: u64,
    /// The client left them out, as the level says.
    pub left_out: u64,
    /// Never answered.
    pub unanswered: u64,
}

/// Datagrams of a dump.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct DatagramCounts {
    /// Requests sent.
    pub requests: u64,
    /// Received from the client's address and port.
    pub received: u64,
    /// Requests sent again because no (whole) answer came.
    pub retransmissions: u64,
    /// Chunks that were there already.
    pub duplicates: u64,
    /// Chunks that differ from what had come before.
    pub conflicts: u64,
    /// Refused: malformed, unknown number, or wrong code.
    pub refused: u64,
    /// Refused because they came from another port.
    pub wrong_port: u64,
    /// Dropped by the kernel for all clients while the dump ran, because the receive buffer was full.
    pub socket_drops: u64,
}

/// A range of memory that the client changed while it dumped.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct VolatileMeta {
    /// First byte's physical address.
    pub start: u64,
    /// Last byte's physical address + 1.
    pub end: u64,
    /// What it is.
    pub label: String,
}

impl Meta {
    /// A directory that has just begun.
    pub fn new(client: IpAddr, started: Timestamp, registered: bool) -> Meta {
        Meta {
            version: 1,
            server: concat!("netdump-server ", env!("CARGO_PKG_VERSION")).into(),
            client: client.to_canonical(),
            directory: String::new(),
            started,
            authenticated: false,
            registered,
            client_id: None,
            previous_key: false,
            complete: false,
            log_bytes: 0,
            log_lost_bytes: 0,
            identity: BTreeMap::new(),
            panic: None,
            dump: None,
            volatile: Vec::new(),
        }
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps have string keys and floats are finite, so this cannot fail; an empty file would still be no lie.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let meta = Meta::new("10.0.2.15".parse().unwrap(), "2026-11-23T21:05:09Z".parse().unwrap(), true);
        let json: serde_json::Value = serde_json::from_slice(&meta.to_json()).unwrap();
        assert_eq!(json["started"], "2026-11-23T21:05:09Z");
        assert_eq!(json["client"], "10.0.2.15");
        assert_eq!(json["complete"], false);
        assert!(json.get("dump").is_none());
        assert!(json["volatile"].is_array());
    }
}
