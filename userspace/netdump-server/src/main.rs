// SPDX-License-Identifier: GPL-2.0-or-later
//! The netdump daemon; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    netdump_server::daemon::main(std::env::args_os())
}
