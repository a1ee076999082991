// SPDX-License-Identifier: GPL-2.0-or-later
//! What must hold for any input. Each function is the body of the fuzz target of its name, and panics where its
//! property fails.

mod console;
mod engine;
mod input;
mod keys;
mod messages;
mod session;
mod text;
mod version6;

pub use console::{
    console_record_or_text, log_datagrams_are_bounded, netlog_keeps_every_byte_once, records_come_out_once,
};
pub use engine::engine_sends_only_what_was_asked;
pub use keys::{arming_is_exact_or_refused, key_texts_come_back};
pub use messages::{
    frame_yields_only_its_own_bytes, notes_stay_in_bounds, wire_reply_comes_back, wire_request_comes_back,
};
pub use session::session_ends_and_hands_over_only_what_was_asked;
pub use text::{
    conf_renders_back, kernel_log_is_read_or_refused, tags_are_pairs_or_error, target_string_or_error,
    vmcore_is_read_or_refused, vmcoreinfo_is_read_or_refused,
};
pub use version6::{engine6_sends_what_it_may, session6_hands_over_only_what_was_asked, version6_messages_come_back};
