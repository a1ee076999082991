// SPDX-License-Identifier: GPL-2.0-or-later
//! The machine code of the client holds no way to a panic, and needs little stack.
//!
//! The kernel modules run this code while the machine is crashing, on a stack of a few KiB, where a panic is
//! `BUG()`. The lints forbid what is known to panic; this looks at what the compiler made of the rest. It
//! compiles the shared code as the kernel does (`core` only, overflow checks on) and reads the assembly.

use std::path::Path;
use std::process::Command;

fn assembly() -> String {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/no_panic/kernel.rs");
    let output = dir.join("kernel.s");
    let run = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2021", "--crate-type=lib", "--emit=asm", "-Copt-level=2"])
        .args(["-Coverflow-checks=on", "-Cpanic=abort", "-Ccodegen-units=1", "-o"])
        .args([&output, &source])
        .output()
        .expect("rustc runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::fs::read_to_string(output).expect("rustc wrote the assembly")
}

/// What the assembly refers to but does not define, and how far each function moves the stack pointer.
#[test]
#[cfg(target_arch = "x86_64")] // the stack check reads x86_64 instructions
fn no_way_to_a_panic_and_small_stack_frames() {
    let assembly = assembly();
    let calls = assembly.lines().filter(|line| line.contains("call") || line.contains("jmp")).count();
    assert!(calls > 20, "the code is there: {calls} calls");

    let panics: Vec<_> = assembly
        .lines()
        .filter(|line| ["panicking", "panic_", "unwrap_failed", "_fail"].iter().any(|name| line.contains(name)))
        .filter(|line| !line.contains("panic_text")) // the note of the panic message
        .collect();
    assert!(panics.is_empty(), "{panics:#?}");

    let frame = |line: &str| line.trim().strip_prefix("subq\t$")?.strip_suffix(", %rsp")?.parse::<u32>().ok();
    let largest = assembly.lines().filter_map(frame).max().expect("some function has a frame");
    assert!(largest < 1024, "a frame of {largest} bytes");
}
