/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What bindgen reads to make bindings.rs, and what helpers.c stands on: the kernel headers of every facility that
 * rust/sys wraps, and the prototypes of the helpers for inline functions and macros. bindgen_parameters says which
 * names come out at the other end.
 */
#ifndef NETDUMP_BINDINGS_HELPER_H
#define NETDUMP_BINDINGS_HELPER_H

#include <linux/atomic.h>
#include <linux/console.h>
#include <linux/configfs.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmi.h>
#include <linux/elf.h>
#include <linux/etherdevice.h>
#include <linux/filter.h>
#include <linux/hex.h>
#include <linux/if_ether.h>
#include <linux/if_vlan.h>
#include <linux/inet.h>
#include <linux/inetdevice.h>
#include <linux/ioport.h>
#include <linux/irq.h>
#include <linux/irqdesc.h>
#include <linux/interrupt.h>
#include <linux/kallsyms.h>
#include <linux/kdebug.h>
#include <linux/kexec.h>
#include <linux/kmsg_dump.h>
#include <linux/lz4.h>
#include <linux/mem_encrypt.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/netpoll.h>
#include <linux/nmi.h>
#include <linux/notifier.h>
#include <linux/nsproxy.h>
#include <linux/page-flags.h>
#include <linux/panic.h>
#include <linux/panic_notifier.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/reboot.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>
#include <linux/sched/debug.h>
#include <linux/sched/signal.h>
#include <linux/skbuff.h>
#include <linux/smp.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>
#include <linux/vmalloc.h>
#include <linux/vmcore_info.h>
#include <linux/workqueue.h>
#include <linux/xxhash.h>
#include <linux/zstd.h>
#include <net/addrconf.h>
#include <net/arp.h>
#include <net/gro.h>
#include <net/hotdata.h>
#include <net/ip6_route.h>
#include <net/ndisc.h>
#include <net/neighbour.h>
#include <net/netdev_rx_queue.h>
#include <net/netevent.h>
#include <net/route.h>
#include <crypto/chacha.h>
#include <crypto/chacha20poly1305.h>
#include <crypto/poly1305.h>
#include <crypto/sha2.h>
#include <asm/apic.h>
#include <asm/archrandom.h>
#include <asm/fpu/api.h>
#include <asm/fsgsbase.h>
#include <asm/irq_stack.h>
#include <asm/kexec.h>
#include <asm/msr.h>
#include <asm/nmi.h>
#include <asm/page_64.h>
#include <asm/smp.h>
#include <asm/unwind.h>

/* Panic context: registers, stacks, preemption. */
void nd_call_on_stack(void *top, struct pt_regs *regs, void *arg);
void nd_on_stack(void *arg);
void nd_unwind_start(struct unwind_state *state);
bool nd_unwind_done(struct unwind_state *state);
struct pt_regs *nd_unwind_entry_regs(struct unwind_state *state);
unsigned long nd_fs_base(void);
unsigned long nd_gs_base(void);
void nd_local_irq_enable(void);
void nd_cpu_relax(void);
unsigned int nd_cpu(void);
unsigned int nd_cpus_possible(void);
bool nd_cpu_online(unsigned int cpu);
struct task_struct *nd_current(void);
unsigned long nd_preempt_count(void);
void nd_preempt_count_set(unsigned long count);
unsigned long nd_preempt_count_in_softirq(unsigned long count);
void nd_softirqs_off(void);
void nd_softirqs_on(void);
void nd_touch_watchdogs(void);
void nd_udelay(unsigned long usecs);
struct bpf_net_context *nd_bpf_net_ctx_set(struct bpf_net_context *ctx);
void nd_bpf_net_ctx_clear(struct bpf_net_context *ctx);
void nd_send_nmi(unsigned int cpu);

unsigned int nd_nr_irqs(void);
bool nd_irq_in_progress(struct irq_data *data);

/* As long as sprint_symbol() needs. */
enum { ND_SYMBOL_LEN = KSYM_SYMBOL_LEN };

/* Tasks. */
void nd_rcu_read_lock(void);
void nd_rcu_read_unlock(void);
struct task_struct *nd_next_process(struct task_struct *task);
struct task_struct *nd_next_thread(struct task_struct *task);

/* Network devices, buffers, queues. */
void nd_dev_hold(struct net_device *dev, netdevice_tracker *tracker);
void nd_dev_put(struct net_device *dev, netdevice_tracker *tracker);
bool nd_dev_running(struct net_device *dev);
bool nd_dev_present(struct net_device *dev);
bool nd_dev_carrier(struct net_device *dev);
bool nd_dev_is_ethernet(struct net_device *dev);
bool nd_dev_shares_tx_skbs(struct net_device *dev);
unsigned int nd_dev_room(struct net_device *dev);
const char *nd_dev_driver(struct net_device *dev);
struct netdev_queue *nd_txq(struct net_device *dev, unsigned int index);
bool nd_tx_trylock(struct net_device *dev, struct netdev_queue *txq);
void nd_tx_unlock(struct net_device *dev, struct netdev_queue *txq);
void nd_tx_lock_reinit(struct netdev_queue *txq);
void nd_tx_lock_forget(struct netdev_queue *txq);
void nd_txq_thaw(struct netdev_queue *txq);
bool nd_txq_stopped(struct netdev_queue *txq);
int nd_start_xmit(struct sk_buff *skb, struct net_device *dev, struct netdev_queue *txq, bool more);
struct sk_buff *nd_alloc_skb(unsigned int size, bool low);
bool nd_dev_reaches_all_memory(struct net_device *dev);
void nd_kfree_skb(struct sk_buff *skb);
void nd_skb_get(struct sk_buff *skb);
void nd_skb_put_ref(struct sk_buff *skb);
unsigned int nd_skb_users(struct sk_buff *skb);
void nd_skb_rewind(struct sk_buff *skb, unsigned int headroom);
void nd_skb_checksum_partial(struct sk_buff *skb, unsigned int start);
void nd_skb_offsets(struct sk_buff *skb, unsigned int ip, unsigned int udp, bool ipv6, u16 queue);
void nd_napi_poll(struct napi_struct *napi, int budget);
void nd_skb_to_cache(struct sk_buff *skb);
unsigned int nd_skb_summed(struct sk_buff *skb);
unsigned char *nd_skb_mac_header(struct sk_buff *skb);
unsigned int nd_skb_frags(struct sk_buff *skb);
struct page *nd_skb_frag_page(struct sk_buff *skb, unsigned int index);
unsigned int nd_skb_shared_info_len(void);
bool nd_features_checksum(struct net_device *dev, bool ipv6);
unsigned long nd_feature_gro(void);
struct netdev_rx_queue *nd_rxq(struct net_device *dev, unsigned int index);
struct list_head *nd_net_ptype_all(struct net_device *dev);
struct softnet_data *nd_softnet(void);

/* Routes and neighbours. */
__be32 nd_rt_nexthop(const struct rtable *rt, __be32 daddr);
const struct in6_addr *nd_rt6_nexthop(const struct rt6_info *rt, const struct in6_addr *daddr);
struct neighbour *nd_neigh4(__be32 addr, struct net_device *dev);
struct neighbour *nd_neigh6(const struct in6_addr *addr, struct net_device *dev);
bool nd_neigh_valid(struct neighbour *neigh);
void nd_neigh_kick(struct neighbour *neigh);
void nd_neigh_mac(struct neighbour *neigh, unsigned char *mac);
void nd_neigh_release(struct neighbour *neigh);

/* Memory. */
void *nd_phys_to_virt(phys_addr_t paddr);
void *nd_secret_page(void);
void nd_secret_page_free(void *page);
phys_addr_t nd_virt_to_phys(const void *addr);
bool nd_page_hwpoison(struct page *page);
bool nd_page_offline(struct page *page);
bool nd_page_unaccepted(struct page *page);
phys_addr_t nd_page_to_phys(struct page *page);
unsigned long nd_total_ram_pages(void);
unsigned long nd_kernel_map_start(void);

void nd_invlpg(unsigned long addr);
struct page *nd_alloc_pages(unsigned int order);
bool nd_boot_cpu_has(unsigned int feature);
u64 nd_encryption_bits(void);

/* Struct pages (memmap.rs), and what compress.rs needs. */
enum {
	ND_PG_HEAD = PG_head,
	ND_PG_LRU = PG_lru,
	ND_PG_PRIVATE = PG_private,
	ND_PG_SWAPBACKED = PG_swapbacked,
	ND_PG_SWAPCACHE = PG_swapcache,
#ifdef CONFIG_MEMORY_FAILURE
	ND_PG_HWPOISON = PG_hwpoison,
#else
	ND_PG_HWPOISON = 0,
#endif
	ND_PGTY_BUDDY = PGTY_buddy,
	ND_PGTY_OFFLINE = PGTY_offline,
	ND_PGTY_HUGETLB = PGTY_hugetlb,
	ND_PGTY_SLAB = PGTY_slab,
	ND_PGTY_TABLE = PGTY_table,
	ND_PGTY_UNACCEPTED = PGTY_unaccepted,
	ND_MAX_PAGE_ORDER = MAX_PAGE_ORDER,
	ND_LZ4_WORK = LZ4_MEM_COMPRESS,
};
unsigned long nd_vmemmap(void);
void *nd_cpu_variable(unsigned int cpu);
unsigned long nd_thread_size(void);
struct list_head *nd_this_module_list(void);
u64 nd_cycles(void);
unsigned long nd_cpu_random(void);

/* Deferred work. */
void nd_lock(void);
void nd_unlock(void);
void nd_init_delayed_work(struct delayed_work *work, work_func_t func);
bool nd_queue_delayed_work(struct delayed_work *work, unsigned int msecs);
bool nd_mod_delayed_work(struct delayed_work *work, unsigned int msecs);

/* Consoles, configfs, and the rest of what netconsole.ko needs. */
unsigned long nd_local_irq_save(void);
void nd_local_irq_restore(unsigned long flags);
void nd_sleep_us(unsigned long usecs);
void nd_mutex_init(struct mutex *mutex);
void nd_configfs_add_default_group(struct config_group *group, struct config_group *parent);
struct net *nd_current_net(void);
bool nd_first_ip4(struct net_device *dev, __be32 *address);
bool nd_first_ip6(struct net_device *dev, bool link_local, struct in6_addr *address);
void nd_print_ip6(char *buffer, unsigned long size, const u8 *address);
bool nd_oops_in_progress(void);
struct sk_buff *nd_netpoll_skb(struct net_device *dev, unsigned int len);
int nd_netpoll_send(struct netpoll *np, struct sk_buff *skb, unsigned int ip, unsigned int udp, bool ipv6);
void nd_skb_set_queue(struct sk_buff *skb, u16 queue);
bool nd_in_nmi(void);
bool nd_in_hardirq(void);
unsigned long nd_preempt_count_with_softirq(unsigned long count);
bool nd_netpoll_has_stranded(struct net_device *dev);
struct sk_buff *nd_netpoll_stranded(struct net_device *dev);
void *nd_find_claim(void);
void nd_put_claim(void);
bool nd_within_module(void *address, void *module);
struct net *nd_dev_net(struct net_device *dev);
unsigned long nd_local_clock(void);
unsigned int nd_random(void);
void nd_list_lock(void);
void nd_list_unlock(void);

/* What netdump.ko lets netconsole.ko know (claim.rs); exported by params_netdump.c. */
typedef void (*nd_add_memory)(void *to, const void *start, unsigned long len);
struct nd_nic_claim {
	void *dev;
	unsigned int size;
	unsigned int state;
	unsigned int users;
	/* Adds all that netconsole.ko may change; NULL while it is not there. */
	void (*tell)(void *to, nd_add_memory add);
};
extern struct nd_nic_claim netdump_nic_claim;

/* Parameters of netconsole.ko (params_netconsole.c). */
#define ND_TARGET_LEN 256
extern char nc_param_netconsole[ND_TARGET_LEN];
extern char nc_param_netlog[ND_TARGET_LEN];
extern char nc_param_syslog[ND_TARGET_LEN];
extern char nc_param_syslog_format[16];
extern bool nc_param_oops_only;

/* Parameters of netdump.ko (params_netdump.c). */
extern char nd_param_netdump[ND_TARGET_LEN];
extern char nd_param_reboot[16];
extern unsigned int nd_param_magic1;
extern unsigned int nd_param_magic2;
extern unsigned int nd_param_handshake_timeout;
extern unsigned int nd_param_idle_timeout;
extern unsigned int nd_param_total_timeout;
extern unsigned int nd_param_queue_timeout;
extern unsigned int nd_param_level;
extern char nd_param_protocol[16];
extern char nd_param_simd[16];
/* With room for a newline, so that what is too long is not cut but refused. */
#define ND_TAGS_LEN (512 + 2)
extern unsigned int nd_param_probe_interval;
extern char nd_param_tags[ND_TAGS_LEN];
int nd_status_get(char *buffer, const struct kernel_param *kp);
ssize_t nd_key_write(struct file *file, const char __user *from, size_t len, loff_t *offset);
int nd_key_device_register(void);
void nd_key_device_unregister(void);
extern bool nd_param_disable;

#endif
