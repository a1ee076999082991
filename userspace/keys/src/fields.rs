// SPDX-License-Identifier: GPL-2.0-or-later
//! Text of lines `name value`, as key files and messages are made of: each name once, in any order, nothing else.

use crate::error::{Error, Result};

/// The lines of a text, split.
pub(crate) struct Fields<'a> {
    what: &'static str,
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Splits a text whose first line is `head`. Printable ASCII only. Errors never repeat a value: it may be a secret.
    pub(crate) fn parse(what: &'static str, head: &str, text: &'a [u8]) -> Result<Fields<'a>> {
        let bad = |why: &str| Error::BadMessage(format!("no {what}: {why}"));
        let text = std::str::from_utf8(text).map_err(|_| bad("not text"))?;
        if !text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)) {
            return Err(bad("not plain text"));
        }
        let body = text.strip_suffix('\n').ok_or_else(|| bad("the last line does not end"))?;
        let mut lines = body.split('\n');
        if lines.next() != Some(head) {
            return Err(bad(&format!("the first line is not '{head}'")));
        }
        let mut fields = Fields { what, lines: Vec::new() };
        for line in lines {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            if fields.lines.iter().any(|(known, _)| *known == name) {
                return Err(bad("a line is there twice"));
            }
            fields.lines.push((name, value));
        }
        Ok(fields)
    }

    /// The value of a name, taken out; `None` where there is none.
    pub(crate) fn optional(&mut self, name: &str) -> Option<&'a str> {
        let at = self.lines.iter().position(|(known, _)| *known == name)?;
        Some(self.lines.swap_remove(at).1)
    }

    /// The value of a name that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<&'a str> {
        self.optional(name).ok_or_else(|| Error::BadMessage(format!("no {}: '{name}' is missing", self.what)))
    }

    /// Nothing else may be there.
    pub(crate) fn end(self) -> Result<()> {
        match self.lines.is_empty() {
            true => Ok(()),
            false => Err(Error::BadMessage(format!("no {}: it has unknown lines", self.what))),
        }
    }
}
