// SPDX-License-Identifier: GPL-2.0-or-later
//! See the function of the same name.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| netdump_fuzz::session6_hands_over_only_what_was_asked(data));
