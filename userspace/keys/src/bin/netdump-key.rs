// SPDX-License-Identifier: GPL-2.0-or-later
//! See the library.

fn main() -> std::process::ExitCode {
    netdump_keys::cli::netdump_key()
}
