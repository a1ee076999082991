// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Numbers in text.

/// The number that `digits` are in decimal. `None` if there are none, others among them, or too many.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for byte in digits {
        let digit = char::from(*byte).to_digit(10)?;
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// What stands before and behind the first `at`.
pub(super) fn cut(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    let (before, rest) = text.split_at_checked(place)?;
    Some((before, rest.split_first()?.1))
}
