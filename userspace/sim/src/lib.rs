// SPDX-License-Identifier: GPL-2.0-or-later
//! Lossy links and simulated clients, for tests and load.
