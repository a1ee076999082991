// SPDX-License-Identifier: GPL-2.0-or-later
//! Numbers with units, as they stand on a command line, and what a run cost.

use std::time::Duration;

use nix::sys::resource::{getrusage, UsageWho};

/// A share of all frames: `1%`, `0.5%` or `0.01`; 0 to 1.
pub fn probability(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    let value = number.trim().parse::<f64>().map_err(|e| format!("{text}: {e}"))? * scale;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text}: not between 0 and 100%"))
    }
}

/// A time: `250us`, `1.5ms` or `2s`; a bare number is milliseconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1e-3));
    let value = number.trim().parse::<f64>().map_err(|e| format!("{text}: {e}"))?;
    Duration::try_from_secs_f64(value * scale).map_err(|e| format!("{text}: {e}"))
}

/// Bits per second: `100mbit`, `1gbit`, `64kbit` or a bare number.
pub fn rate(text: &str) -> Result<u64, String> {
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)];
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1.0));
    let value = number.trim().parse::<f64>().map_err(|e| format!("{text}: {e}"))? * scale;
    if (1.0..=1e15).contains(&value) {
        Ok(value as u64)
    } else {
        Err(format!("{text}: not a rate"))
    }
}

/// Bytes: `512M`, `1G`, `64K` (binary) or a bare number.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = [("G", 30), ("M", 20), ("K", 10)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    let value = number.trim().parse::<u64>().map_err(|e| format!("{text}: {e}"))?;
    value.checked_mul(1 << shift).ok_or_else(|| format!("{text}: too many"))
}

/// What this process has used of its CPUs, s. On a busy machine that tells more than the time that went by.
pub fn cpu_seconds() -> f64 {
    let seconds = |usage: nix::sys::resource::Usage| {
        [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
    };
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| seconds(usage).iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(probability("1%"), Ok(0.01));
        assert_eq!(probability("0.25"), Ok(0.25));
        assert!(probability("101%").is_err() && probability("-1").is_err() && probability("NaN").is_err());
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("3"), Ok(Duration::from_millis(3)));
        assert!(duration("-1s").is_err() && duration("s").is_err());
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert!(rate("0").is_err());
        assert_eq!(bytes("64K"), Ok(65536));
        assert!(bytes("99999999999G").is_err());
    }
}
