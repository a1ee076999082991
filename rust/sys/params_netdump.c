// SPDX-License-Identifier: GPL-2.0-only
/* Parameters of netdump.ko: Rust's module! macro has no strings and no sysfs permissions. Declarations only. */
#include <linux/export.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include "bindings_helper.h"

char nd_param_netdump[ND_TARGET_LEN];
module_param_string(netdump, nd_param_netdump, ND_TARGET_LEN, 0444);
MODULE_PARM_DESC(netdump, "[src-port]@[src-ip]/[dev],[server-port]@<server-ip>/[mac] of the netdump server");

unsigned int nd_param_magic1;
module_param_named(magic1, nd_param_magic1, uint, 0);
MODULE_PARM_DESC(magic1, "low half of the classic cookie (visible to other users of this machine while modprobe runs)");

unsigned int nd_param_magic2;
module_param_named(magic2, nd_param_magic2, uint, 0);
MODULE_PARM_DESC(magic2, "high half of the classic cookie");

unsigned int nd_param_handshake_timeout = 300;
module_param_named(handshake_timeout, nd_param_handshake_timeout, uint, 0444);
MODULE_PARM_DESC(handshake_timeout, "seconds to look for a server after a panic (0: for ever; default 300)");

unsigned int nd_param_idle_timeout = 60;
module_param_named(idle_timeout, nd_param_idle_timeout, uint, 0444);
MODULE_PARM_DESC(idle_timeout, "seconds without a request after which a dump is given up (0: never; default 60)");

unsigned int nd_param_total_timeout = 43200;
module_param_named(total_timeout, nd_param_total_timeout, uint, 0444);
MODULE_PARM_DESC(total_timeout, "seconds after which a dump ends whatever happens (0: never; default 43200)");

unsigned int nd_param_queue_timeout = 3600;
module_param_named(queue_timeout, nd_param_queue_timeout, uint, 0444);
MODULE_PARM_DESC(queue_timeout, "seconds to wait for a turn while the server dumps other machines (0: for ever; default 3600)");

unsigned int nd_param_level;
module_param_named(level, nd_param_level, uint, 0444);
MODULE_PARM_DESC(level, "what is left out, a sum as for makedumpfile -d: 1 zero pages, 2 cache, 4 cache with private data, 8 processes, 16 free (default 0); version 6 only");

char nd_param_protocol[16] = "auto";
module_param_string(protocol, nd_param_protocol, sizeof(nd_param_protocol), 0444);
MODULE_PARM_DESC(protocol, "auto (version 6, and the classic one where no key is loaded), 6 or classic (default auto)");

char nd_param_simd[16] = "auto";
module_param_string(simd, nd_param_simd, sizeof(nd_param_simd), 0444);
MODULE_PARM_DESC(simd, "the CPU's vector units for the cipher: auto (if they are faster, as measured when loaded), on or off (default auto); off in any case where the kernel was using them");

unsigned int nd_param_probe_interval = 60;
module_param_named(probe_interval, nd_param_probe_interval, uint, 0444);
MODULE_PARM_DESC(probe_interval, "seconds between two questions to the server whether it would be there (0: none; default 60); version 6 only");

char nd_param_tags[ND_TAGS_LEN];
module_param_string(tags, nd_param_tags, ND_TAGS_LEN, 0444);
MODULE_PARM_DESC(tags, "what is to be said of this machine in its dumps: key=value,key=value (at most 16 pairs, 512 bytes)");

bool nd_param_disable;
module_param_named(disable, nd_param_disable, bool, 0444);
MODULE_PARM_DESC(disable, "load, but never arm (netdump.disable=1 on the kernel command line)");

char nd_param_reboot[16] = "server";
module_param_string(reboot, nd_param_reboot, sizeof(nd_param_reboot), 0444);
MODULE_PARM_DESC(reboot, "after a complete dump: server (restart when the server says so) or kernel (leave it to kernel.panic)");

static const struct kernel_param_ops nd_status_ops = { .get = nd_status_get };
module_param_cb(status, &nd_status_ops, NULL, 0444);
MODULE_PARM_DESC(status, "whether the module is armed, along which path, and if not, why");

/* Keys come in through here, and nothing comes out. An open file holds the module. */
static const struct file_operations nd_key_ops = { .owner = THIS_MODULE, .write = nd_key_write };
static struct miscdevice nd_key_device = { .minor = MISC_DYNAMIC_MINOR, .name = "netdump", .fops = &nd_key_ops, .mode = 0600 };

int nd_key_device_register(void)
{
	return misc_register(&nd_key_device);
}

void nd_key_device_unregister(void)
{
	misc_deregister(&nd_key_device);
}

/* Not a parameter: netconsole.ko looks it up (claim.rs). */
struct nd_nic_claim netdump_nic_claim = { .size = sizeof(struct nd_nic_claim) };
EXPORT_SYMBOL_GPL(netdump_nic_claim);
