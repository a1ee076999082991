// SPDX-License-Identifier: GPL-2.0-or-later
//! Text that came from somewhere else, on a terminal: a log or a host name may hold escape sequences.

use std::fmt::Write;
use std::io;

use serde::Serialize;

/// Whether a character could steer a terminal, or show itself in another order than it is.
fn steers(c: char) -> bool {
    // Marks of direction, and separators that some take for the end of a line.
    let unseen = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    unseen || c.is_control()
}

/// The text with whatever steers written out.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c != '\t' && steers(c) => escape(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// JSON in which whatever steers is written as JSON has it. Such characters are only in its strings.
pub(crate) fn json(out: &mut impl io::Write, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && steers(c) {
            write!(line, "\\u{:04x}", u32::from(c))?;
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Ok(out.write_all(line.as_bytes())?)
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
    fn json_stays_what_it_says() {
        let value = serde_json::json!({"a\u{9b}": ["b\x1b[2J\n", "\u{202e}\u{7f}é"]});
        let mut out = Vec::new();
        json(&mut out, &value).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !steers(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("a\tb\x1b[31m\r\n\u{202e}é\u{9b}"), "a\tb\\x1b[31m\\x0d\\x0a\\u{202e}é\\x9b");
        assert_eq!(plain_bytes(b"ok\xff\x07"), "ok\\xff\\x07");
        assert_eq!((size(1023), size(1536), size(5 << 40)), ("1023 B".into(), "1.5 KiB".into(), "5.0 TiB".into()));
    }
}
