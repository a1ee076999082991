// SPDX-License-Identifier: GPL-2.0-or-later
//! See the function of the same name.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| netdump_fuzz::tags_are_pairs_or_error(data));
