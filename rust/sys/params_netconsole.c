// SPDX-License-Identifier: GPL-2.0-only
/* Parameters of netconsole.ko: Rust's module! macro has no strings and no sysfs permissions. Declarations only. */
#include "bindings_helper.h"

char nc_param_netconsole[ND_TARGET_LEN];
module_param_string(netconsole, nc_param_netconsole, ND_TARGET_LEN, 0);
MODULE_PARM_DESC(netconsole, " netconsole=[+][r][src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...]");

char nc_param_netlog[ND_TARGET_LEN];
module_param_string(netlog, nc_param_netlog, ND_TARGET_LEN, 0);
MODULE_PARM_DESC(netlog, "[src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...] of netdump-server");

char nc_param_syslog[ND_TARGET_LEN];
module_param_string(syslog, nc_param_syslog, ND_TARGET_LEN, 0);
MODULE_PARM_DESC(syslog, "[src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-macaddr][;...] of a syslog server");

char nc_param_syslog_format[16] = "classic";
module_param_string(syslog_format, nc_param_syslog_format, sizeof(nc_param_syslog_format), 0444);
MODULE_PARM_DESC(syslog_format, "classic (<5> and the line) or rfc5424");

bool nc_param_oops_only;
module_param_named(oops_only, nc_param_oops_only, bool, 0600);
MODULE_PARM_DESC(oops_only, "Only log oops messages");
