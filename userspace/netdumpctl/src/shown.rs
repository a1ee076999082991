// SPDX-License-Identifier: GPL-2.0-or-later
//! Text that came from somewhere else, on a terminal: a log or a host name may hold escape sequences.

use std::fmt::Write;
use std::io;

/// The text with whatever could steer a terminal, or show itself in another order than it is, written out.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(c),
            // Marks of direction, and separators that some take for the end of a line.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                escape(&mut out, c)
            }
            c if c.is_control() => escape(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

fn escape(out: &mut String, c: char) {
    // Writing to a string does not fail.
    let _ = match u32::from(c) {
        code @ 0..=0xff => write!(out, "\\x{code:02x}"),
        code => write!(out, "\\u{{{code:x}}}"),
    };
}

/// The same for bytes that need not be text.
pub(crate) fn plain_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&plain(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Whether the reader of our output has gone.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("a\tb\x1b[31m\r\n\u{202e}é\u{9b}"), "a\tb\\x1b[31m\\x0d\\x0a\\u{202e}é\\x9b");
        assert_eq!(plain_bytes(b"ok\xff\x07"), "ok\\xff\\x07");
        assert_eq!((size(1023), size(1536), size(5 << 40)), ("1023 B".into(), "1.5 KiB".into(), "5.0 TiB".into()));
    }
}
