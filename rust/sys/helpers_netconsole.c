// SPDX-License-Identifier: GPL-2.0-only
/* The same helpers once more: Kbuild wants an object to be part of one module only. */
#include "helpers.c"
