// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's dump as seen by the server.
