// SPDX-License-Identifier: GPL-2.0-or-later
//! The pure half of the kernel modules, built and tested with cargo.
//!
//! Nothing is defined here: the modules are the very files that `netdump.ko` is compiled from, so a
//! type in the server is the type in the client. They must not be able to panic, which the lints
//! below hold them to (their tests excepted), and they use `core` only, which `no_std` proves.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[path = "../../../rust/engine/mod.rs"]
pub mod engine;

#[path = "../../../rust/pages/mod.rs"]
pub mod pages;

#[path = "../../../rust/wire/mod.rs"]
pub mod wire;
