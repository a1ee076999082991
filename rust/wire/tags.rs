// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What an administrator wants to be said of a machine: `key=value` pairs with commas between them, such as
//! `rack=b12,role=db`. They go with a dump as note IDENTITY (docs/protocol.md) and end up in its meta.json.

/// Longest text, in bytes.
pub const MAX_LEN: usize = 512;
/// Most pairs.
pub const MAX_PAIRS: usize = 16;
/// Longest key, in bytes.
pub const MAX_KEY_LEN: usize = 32;

/// Pairs that were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tags<'a>(&'a str);

/// What is wrong with a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TagsError {
    /// It is longer than [`MAX_LEN`].
    TooLong,
    /// There are more than [`MAX_PAIRS`].
    TooMany,
    /// A pair has no `=`.
    NoValue,
    /// A key is empty, longer than [`MAX_KEY_LEN`], or has other characters than letters, digits, `-`, `_` and `.`.
    Key,
    /// A value has a character that cannot be printed, or is not ASCII.
    Value,
}

impl core::fmt::Display for TagsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            TagsError::TooLong => "longer than 512 bytes",
            TagsError::TooMany => "more than 16 pairs",
            TagsError::NoValue => "no '=' in a pair",
            TagsError::Key => "a key is not 1 to 32 of letters, digits, '-', '_' and '.'",
            TagsError::Value => "a value is not printable ASCII",
        })
    }
}

impl<'a> Tags<'a> {
    /// Checks a text; a newline at its end does not count.
    pub fn parse(text: &'a str) -> Result<Self, TagsError> {
        let text = text.trim_end_matches('\n');
        if text.len() > MAX_LEN {
            return Err(TagsError::TooLong);
        }
        let tags = Tags(text);
        if tags.items().nth(MAX_PAIRS).is_some() {
            return Err(TagsError::TooMany);
        }
        for pair in tags.items() {
            let (key, value) = pair.split_once('=').ok_or(TagsError::NoValue)?;
            let is_key = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
            if key.is_empty() || key.len() > MAX_KEY_LEN || !key.bytes().all(is_key) {
                return Err(TagsError::Key);
            }
            if !value.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) {
                return Err(TagsError::Value);
            }
        }
        Ok(tags)
    }

    fn items(self) -> impl Iterator<Item = &'a str> {
        // Not `split`: what it compiles to has a panic in it, if one that cannot be reached.
        let mut left = Some(self.0);
        let next = move || {
            let (pair, rest) = left?.split_once(',').map_or((left?, None), |(pair, rest)| (pair, Some(rest)));
            left = rest;
            Some(pair)
        };
        core::iter::from_fn(next).filter(|pair| !pair.is_empty())
    }

    /// Keys and values, in their order.
    pub fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.items().filter_map(|pair| pair.split_once('='))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pairs_come_out_as_they_went_in() {
        let tags = Tags::parse("rack=b12,role=db a=b,,note=\n").unwrap();
        assert_eq!(tags.pairs().collect::<Vec<_>>(), [("rack", "b12"), ("role", "db a=b"), ("note", "")]);
        assert_eq!(Tags::parse("").unwrap().pairs().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = std::format!("k={}", "v".repeat(MAX_LEN - 1));
        let many = "k=v,".repeat(MAX_PAIRS + 1);
        let long_key = std::format!("{}=v", "k".repeat(MAX_KEY_LEN + 1));
        for (text, error) in [
            (long.as_str(), TagsError::TooLong),
            (many.as_str(), TagsError::TooMany),
            ("a=b,c", TagsError::NoValue),
            ("=b", TagsError::Key),
            ("a b=c", TagsError::Key),
            (long_key.as_str(), TagsError::Key),
            ("a=\tb", TagsError::Value),
            ("a=\u{e4}", TagsError::Value),
        ] {
            assert_eq!(Tags::parse(text), Err(error), "{text}");
        }
        assert!(Tags::parse(&"k=v,".repeat(MAX_PAIRS)).is_ok());
    }
}
