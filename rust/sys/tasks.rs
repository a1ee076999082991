// SPDX-License-Identifier: GPL-2.0-only

//! The listing of all tasks with their stacks, what alt-sysrq-t prints.

use super::bindings;
use super::kmsg::{LogReader, QuietConsoles};

/// Most tasks that are listed.
const MAX_TASKS: usize = 32_768;

/// Prints the tasks one by one into the kernel log and hands out the text. Panic path.
///
/// `show_state_filter()` is not exported; `sched_show_task()`, which it calls for each task, is.
pub struct TaskListing {
    log: LogReader,
    process: *mut bindings::task_struct,
    thread: *mut bindings::task_struct,
    left: usize,
    _quiet: QuietConsoles,
}

impl TaskListing {
    /// Begins with the first task. The other CPUs must be stopped, and stay so.
    pub fn begin() -> Self {
        let first = &raw mut bindings::init_task;
        Self { log: LogReader::at_end(), process: first, thread: first, left: MAX_TASKS, _quiet: QuietConsoles::new() }
    }

    /// The next line of the listing. None at its end.
    pub fn next_line(&mut self, line: &mut [u8]) -> Option<usize> {
        loop {
            if let Some(len) = self.log.next_line(line) {
                return Some(len);
            }
            if self.thread.is_null() || self.left == 0 {
                return None;
            }
            self.left -= 1;
            // SAFETY: Nobody else runs, so no task goes away; RCU's read side is a counter.
            unsafe {
                bindings::nd_rcu_read_lock();
                bindings::sched_show_task(self.thread);
                self.thread = bindings::nd_next_thread(self.thread);
                if self.thread.is_null() {
                    self.process = bindings::nd_next_process(self.process);
                    if self.process != &raw mut bindings::init_task {
                        self.thread = self.process;
                    }
                }
                bindings::nd_rcu_read_unlock();
                bindings::nd_touch_watchdogs();
            }
        }
    }
}

// SAFETY: Only the panicking CPU uses it, and nothing else runs.
unsafe impl Send for TaskListing {}
