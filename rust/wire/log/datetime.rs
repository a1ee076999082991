// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Wall-clock time as text.

use super::super::{Result, Writer};

/// Time since 1970-01-01 00:00 UTC in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400;
/// Years of four digits: up to the end of 9999.
const LAST_DAY: u64 = 2_932_896;
/// Days from 0000-03-01, where this calendar begins, to 1970-01-01.
const EPOCH: u64 = 719_468;
/// Days in 400, 100, 4 and 1 years that begin in March.
const ERA: u64 = 146_097;

impl UnixTime {
    /// Writes it as RFC 3339 with six digits behind the point, or `-` (RFC 5424, NILVALUE) past the year 9999.
    pub(super) fn emit(self, w: &mut Writer<'_>) -> Result<()> {
        let seconds = div(self.0, SECOND);
        let days = div(seconds, DAY);
        if days > LAST_DAY {
            return w.u8(b'-');
        }
        let (year, month, day) = civil(days);
        let second = modulo(seconds, DAY);
        padded(w, year, 4)?;
        for (before, value) in [
            (b'-', month),
            (b'-', day),
            (b'T', div(second, 3600)),
            (b':', div(modulo(second, 3600), 60)),
            (b':', modulo(second, 60)),
        ] {
            w.u8(before)?;
            padded(w, value, 2)?;
        }
        w.u8(b'.')?;
        padded(w, modulo(self.0, SECOND), 6)?;
        w.u8(b'Z')
    }
}

/// Year, month and day of a day since 1970. Years begin in March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(EPOCH);
    let era = div(days, ERA);
    let day_of_era = modulo(days, ERA);
    // Each fourth year is longer by a day, each hundredth is not, the four-hundredth is.
    let leap_days_before = div(day_of_era, 1460).saturating_add(div(day_of_era, 146_096));
    let year_of_era = div(day_of_era.saturating_add(div(day_of_era, 36_524)).saturating_sub(leap_days_before), 365);
    let before_year =
        365u64.saturating_mul(year_of_era).saturating_add(div(year_of_era, 4)).saturating_sub(div(year_of_era, 100));
    let day_of_year = day_of_era.saturating_sub(before_year);
    // March, May, July, August, October, December and January have 31 days: 153 days in five months.
    let month_from_march = div(day_of_year.saturating_mul(5).saturating_add(2), 153);
    let before_month = div(month_from_march.saturating_mul(153).saturating_add(2), 5);
    let day = day_of_year.saturating_sub(before_month).saturating_add(1);
    let (month, next_year) = if month_from_march < 10 {
        (month_from_march.saturating_add(3), 0)
    } else {
        (month_from_march.saturating_sub(9), 1)
    };
    (era.saturating_mul(400).saturating_add(year_of_era).saturating_add(next_year), month, day)
}

/// `value` with at least `width` digits.
fn padded(w: &mut Writer<'_>, value: u64, width: u32) -> Result<()> {
    let mut unit = 10u64.saturating_pow(width.saturating_sub(1));
    while unit > 1 && value < unit {
        w.u8(b'0')?;
        unit = div(unit, 10);
    }
    w.decimal(value)
}

fn div(value: u64, by: u64) -> u64 {
    value.checked_div(by).unwrap_or(0)
}

fn modulo(value: u64, by: u64) -> u64 {
    value.checked_rem(by).unwrap_or(0)
}
