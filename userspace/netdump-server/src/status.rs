// SPDX-License-Identifier: GPL-2.0-or-later
//! The status file: counters and running dumps as JSON, for monitoring and for `netdumpctl`.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::server::Server;

/// The file's bytes.
pub(crate) fn render(server: &Server) -> Vec<u8> {
    let dumps: Vec<_> = server
        .dumps
        .values()
        .filter(|dump| !dump.is_probe())
        .map(|dump| {
            let (progress, counters) = (dump.session.progress(), dump.session.counters());
            json!({
                "client": dump.path.peer.to_string(),
                "phase": dump.session.phase().name(),
                "directory": dump.client_dir.as_ref().map(|dir| dir.name()),
                "started": dump.started,
                "registered": dump.registered,
                "pages_done": progress.done,
                "pages_total": progress.total,
                "window": progress.window,
                "rtt_seconds": progress.rtt.as_secs_f64(),
                "requests": counters.requests,
                "retransmissions": counters.lost_by_order + counters.lost_by_time,
            })
        })
        .collect();
    let probes = server.dumps.values().filter(|dump| dump.is_probe()).count();
    let events = &server.events;
    let status = json!({
        "version": 1,
        "pid": std::process::id(),
        "started": server.began,
        "written": jiff::Timestamp::now(),
        "datagrams_received": events.received,
        "receive_batches": events.batches,
        "bytes_received": events.received_bytes,
        "datagrams_sent": events.sent,
        "log_bytes": events.log_bytes,
        "log_sources": server.logs.sources(),
        "log_used": server.logs.used(),
        "log_quota": server.settings.log_quota,
        "pages_received": events.pages,
        "dumps_started": events.dumps_started,
        "dumps_complete": events.dumps_complete,
        "dumps_incomplete": events.dumps_incomplete,
        "dumps_running": server.admission.running(),
        "clients_waiting": server.admission.waiting(),
        "clients_unproven": probes,
        "socket_drops": server.drops,
        "counts": events.by_name(),
        "dumps": dumps,
        "conversions": server.conversions.shown(),
    });
    let mut bytes = status.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Replaces the file in one step. It blocks.
pub(crate) fn write(file: &Path, json: &[u8]) -> io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut out = std::fs::File::create(&temporary)?;
    out.write_all(json)?;
    drop(out);
    std::fs::rename(&temporary, file)
}
