// SPDX-License-Identifier: GPL-2.0-or-later
//! Crash dump files and their notes.
