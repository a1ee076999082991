// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inline functions and macros of the kernel that Rust cannot call, one helper each and no logic, as in the kernel's
 * own rust/helpers. The safe modules of rust/sys are their only callers.
 */
#include "bindings_helper.h"

/*
 * The frame of this function stays live for as long as the dump runs on the other stack, so the registers taken here
 * unwind through it to whoever panicked.
 */
void nd_call_on_stack(void *top, struct pt_regs *regs, void *arg)
{
	crash_setup_regs(regs, NULL);
	call_on_stack(top, nd_on_stack, ASM_CALL_ARG1, , [arg1] "r" (arg));
}

void nd_unwind_start(struct unwind_state *state)
{
	unwind_start(state, current, NULL, NULL);
}

bool nd_unwind_done(struct unwind_state *state)
{
	return unwind_done(state);
}

struct pt_regs *nd_unwind_entry_regs(struct unwind_state *state)
{
	return unwind_get_entry_regs(state, NULL);
}

unsigned long nd_fs_base(void)
{
	return x86_fsbase_read_cpu();
}

unsigned long nd_gs_base(void)
{
	return native_rdmsrq(MSR_GS_BASE);
}

void nd_local_irq_enable(void)
{
	local_irq_enable();
}

void nd_cpu_relax(void)
{
	cpu_relax();
}

unsigned int nd_cpu(void)
{
	return raw_smp_processor_id();
}

unsigned int nd_cpus_possible(void)
{
	return nr_cpu_ids;
}

bool nd_cpu_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

struct task_struct *nd_current(void)
{
	return current;
}

unsigned long nd_preempt_count(void)
{
	return preempt_count();
}

void nd_preempt_count_set(unsigned long count)
{
	preempt_count_set(count);
}

/* One level of preemption off, serving a softirq, in no hard interrupt or NMI. */
unsigned long nd_preempt_count_in_softirq(unsigned long count)
{
	return (count & HARDIRQ_DISABLE_MASK) | PREEMPT_OFFSET | SOFTIRQ_OFFSET;
}

void nd_softirqs_off(void)
{
	local_bh_disable();
}

void nd_softirqs_on(void)
{
	local_bh_enable();
}

void nd_touch_watchdogs(void)
{
	touch_nmi_watchdog();
}

void nd_udelay(unsigned long usecs)
{
	udelay(usecs);
}

struct bpf_net_context *nd_bpf_net_ctx_set(struct bpf_net_context *ctx)
{
	return bpf_net_ctx_set(ctx);
}

void nd_bpf_net_ctx_clear(struct bpf_net_context *ctx)
{
	bpf_net_ctx_clear(ctx);
}

void nd_send_nmi(unsigned int cpu)
{
	apic->send_IPI(cpu, NMI_VECTOR);
}

unsigned int nd_nr_irqs(void)
{
	return irq_get_nr_irqs();
}

bool nd_irq_in_progress(struct irq_data *data)
{
	return irqd_irq_inprogress(data);
}

void nd_rcu_read_lock(void)
{
	rcu_read_lock();
}

void nd_rcu_read_unlock(void)
{
	rcu_read_unlock();
}

struct task_struct *nd_next_process(struct task_struct *task)
{
	return next_task(task);
}

struct task_struct *nd_next_thread(struct task_struct *task)
{
	return __next_thread(task);
}

void nd_dev_hold(struct net_device *dev, netdevice_tracker *tracker)
{
	netdev_hold(dev, tracker, GFP_KERNEL);
}

void nd_dev_put(struct net_device *dev, netdevice_tracker *tracker)
{
	netdev_put(dev, tracker);
}

const char *nd_dev_driver(struct net_device *dev)
{
	struct device *parent = dev->dev.parent;

	return parent && parent->driver ? parent->driver->name : NULL;
}

bool nd_dev_running(struct net_device *dev)
{
	return netif_running(dev);
}

bool nd_dev_present(struct net_device *dev)
{
	return netif_device_present(dev);
}

bool nd_dev_carrier(struct net_device *dev)
{
	return netif_carrier_ok(dev);
}

bool nd_dev_is_ethernet(struct net_device *dev)
{
	return dev->type == ARPHRD_ETHER && !(dev->flags & IFF_LOOPBACK);
}

bool nd_dev_shares_tx_skbs(struct net_device *dev)
{
	return dev->priv_flags & IFF_TX_SKB_SHARING;
}

unsigned int nd_dev_room(struct net_device *dev)
{
	return LL_RESERVED_SPACE(dev) + dev->needed_tailroom;
}

struct netdev_queue *nd_txq(struct net_device *dev, unsigned int index)
{
	return netdev_get_tx_queue(dev, index);
}

bool nd_tx_trylock(struct net_device *dev, struct netdev_queue *txq)
{
	return HARD_TX_TRYLOCK(dev, txq);
}

void nd_tx_unlock(struct net_device *dev, struct netdev_queue *txq)
{
	HARD_TX_UNLOCK(dev, txq);
}

void nd_tx_lock_reinit(struct netdev_queue *txq)
{
#ifdef CONFIG_LOCKDEP
	/* A lock that this CPU holds is not to be made anew. It is not given back: the preemption count is another by now. */
	if (lockdep_is_held(&txq->_xmit_lock))
		spin_release(&txq->_xmit_lock.dep_map, _THIS_IP_);
#endif
	spin_lock_init(&txq->_xmit_lock);
	txq->xmit_lock_owner = -1;
}

/* The same for a lock that this CPU holds: lockdep need not hear of its end as if it had been forgotten. */
void nd_tx_lock_forget(struct netdev_queue *txq)
{
	if (READ_ONCE(txq->xmit_lock_owner) != -1)
		spin_release(&txq->_xmit_lock.dep_map, _RET_IP_);
	nd_tx_lock_reinit(txq);
}

void nd_txq_thaw(struct netdev_queue *txq)
{
	clear_bit(__QUEUE_STATE_FROZEN, &txq->state);
}

bool nd_txq_stopped(struct netdev_queue *txq)
{
	return netif_xmit_frozen_or_drv_stopped(txq);
}

int nd_start_xmit(struct sk_buff *skb, struct net_device *dev, struct netdev_queue *txq, bool more)
{
	return netdev_start_xmit(skb, dev, txq, more);
}

struct sk_buff *nd_alloc_skb(unsigned int size, bool low)
{
	return alloc_skb(size, low ? GFP_KERNEL | GFP_DMA | __GFP_NOWARN : GFP_KERNEL);
}

bool nd_dev_reaches_all_memory(struct net_device *dev)
{
	struct device *parent = dev->dev.parent;

	return !parent || !parent->dma_mask || dma_get_mask(parent) >= dma_get_required_mask(parent);
}

void nd_kfree_skb(struct sk_buff *skb)
{
	kfree_skb(skb);
}

void nd_skb_get(struct sk_buff *skb)
{
	skb_get(skb);
}

void nd_skb_put_ref(struct sk_buff *skb)
{
	refcount_dec(&skb->users);
}

unsigned int nd_skb_users(struct sk_buff *skb)
{
	return refcount_read(&skb->users);
}

/* As after alloc_skb() and skb_reserve(headroom): whatever the driver pushed or pulled is forgotten. */
void nd_skb_rewind(struct sk_buff *skb, unsigned int headroom)
{
	skb->data = skb->head + headroom;
	skb_reset_tail_pointer(skb);
	skb->len = 0;
	skb->ip_summed = CHECKSUM_NONE;
}

void nd_skb_checksum_partial(struct sk_buff *skb, unsigned int start)
{
	skb_partial_csum_set(skb, start, offsetof(struct udphdr, check));
}

void nd_skb_offsets(struct sk_buff *skb, unsigned int ip, unsigned int udp, bool ipv6, u16 queue)
{
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ip);
	skb_set_transport_header(skb, udp);
	skb->protocol = htons(ipv6 ? ETH_P_IPV6 : ETH_P_IP);
	skb_set_queue_mapping(skb, queue);
}

/* Page pools assert that interrupts are on when a page comes back to them (include/linux/lockdep.h,
 * lockdep_assert_no_hardirq()), since a handler could meet itself there. With the other CPUs stopped and interrupts off for
 * good there is none to meet, which lockdep has no word for: it looks away. It does so of acquiring and releasing alike.
 */
static void lockdep_look_away(int change)
{
#ifdef CONFIG_PROVE_LOCKING
	this_cpu_add(lockdep_recursion, change);
#endif
}

/* In a panic, with the other CPUs stopped, as if in a softirq. */
void nd_napi_poll(struct napi_struct *napi, int budget)
{
	lockdep_look_away(1);
	napi->poll(napi, budget);
	lockdep_look_away(-1);
}

/* The CPU that allocated it may be stopped, and would never take it back: it is this one's now. Context as above. */
void nd_skb_to_cache(struct sk_buff *skb)
{
	lockdep_look_away(1);
	skb->alloc_cpu = smp_processor_id();
	napi_consume_skb(skb, 1);
	lockdep_look_away(-1);
}

unsigned int nd_skb_summed(struct sk_buff *skb)
{
	return skb->ip_summed;
}

unsigned char *nd_skb_mac_header(struct sk_buff *skb)
{
	return skb_mac_header(skb);
}

unsigned int nd_skb_frags(struct sk_buff *skb)
{
	return skb_shinfo(skb)->nr_frags;
}

struct page *nd_skb_frag_page(struct sk_buff *skb, unsigned int index)
{
	return skb_frag_page(&skb_shinfo(skb)->frags[index]);
}

unsigned int nd_skb_shared_info_len(void)
{
	return SKB_DATA_ALIGN(sizeof(struct skb_shared_info));
}

bool nd_features_checksum(struct net_device *dev, bool ipv6)
{
	return dev->features & (NETIF_F_HW_CSUM | (ipv6 ? NETIF_F_IPV6_CSUM : NETIF_F_IP_CSUM));
}

unsigned long nd_feature_gro(void)
{
	return NETIF_F_GRO;
}

struct netdev_rx_queue *nd_rxq(struct net_device *dev, unsigned int index)
{
	return &dev->_rx[index];
}

struct list_head *nd_net_ptype_all(struct net_device *dev)
{
	return &dev_net(dev)->ptype_all;
}

struct softnet_data *nd_softnet(void)
{
	return raw_cpu_ptr(&softnet_data);
}

__be32 nd_rt_nexthop(const struct rtable *rt, __be32 daddr)
{
	return rt_nexthop(rt, daddr);
}

const struct in6_addr *nd_rt6_nexthop(const struct rt6_info *rt, const struct in6_addr *daddr)
{
	return rt6_nexthop(rt, daddr);
}

struct neighbour *nd_neigh4(__be32 addr, struct net_device *dev)
{
	return __neigh_lookup(&arp_tbl, &addr, dev, 1);
}

struct neighbour *nd_neigh6(const struct in6_addr *addr, struct net_device *dev)
{
	return __neigh_lookup(&nd_tbl, addr, dev, 1);
}

bool nd_neigh_valid(struct neighbour *neigh)
{
	return READ_ONCE(neigh->nud_state) & NUD_VALID;
}

void nd_neigh_kick(struct neighbour *neigh)
{
	neigh_event_send(neigh, NULL);
}

void nd_neigh_mac(struct neighbour *neigh, unsigned char *mac)
{
	neigh_ha_snapshot(mac, neigh, neigh->dev);
}

void nd_neigh_release(struct neighbour *neigh)
{
	neigh_release(neigh);
}

void *nd_secret_page(void)
{
	return (void *)get_zeroed_page(GFP_KERNEL);
}

void nd_secret_page_free(void *page)
{
	free_page((unsigned long)page);
}

void *nd_phys_to_virt(phys_addr_t paddr)
{
	return __va(paddr);
}

phys_addr_t nd_virt_to_phys(const void *addr)
{
	return virt_to_phys((void *)addr);
}

bool nd_page_hwpoison(struct page *page)
{
	return PageHWPoison(page);
}

bool nd_page_offline(struct page *page)
{
	return PageOffline(page);
}

bool nd_page_unaccepted(struct page *page)
{
	return PageUnaccepted(page);
}

phys_addr_t nd_page_to_phys(struct page *page)
{
	return page_to_phys(page);
}

void *nd_cpu_variable(unsigned int cpu)
{
	return per_cpu_ptr(&softnet_data, cpu);
}

unsigned long nd_thread_size(void)
{
	return THREAD_SIZE;
}

struct list_head *nd_this_module_list(void)
{
	return &THIS_MODULE->list;
}

unsigned long nd_vmemmap(void)
{
	return (unsigned long)vmemmap;
}

u64 nd_cycles(void)
{
	return get_cycles();
}

/* 0 from a CPU without RDRAND. */
unsigned long nd_cpu_random(void)
{
	unsigned long number = 0;

	return arch_get_random_longs(&number, 1) ? number : 0;
}

unsigned long nd_total_ram_pages(void)
{
	return totalram_pages();
}

unsigned long nd_kernel_map_start(void)
{
	return __START_KERNEL_map;
}

void nd_invlpg(unsigned long addr)
{
	asm volatile("invlpg (%0)" : : "r" (addr) : "memory");
}

struct page *nd_alloc_pages(unsigned int order)
{
	return alloc_pages(GFP_KERNEL, order);
}

bool nd_boot_cpu_has(unsigned int feature)
{
	return boot_cpu_has(feature);
}

u64 nd_encryption_bits(void)
{
	return sme_get_me_mask();
}

static DEFINE_MUTEX(nd_mutex);

void nd_lock(void)
{
	mutex_lock(&nd_mutex);
}

void nd_unlock(void)
{
	mutex_unlock(&nd_mutex);
}

void nd_init_delayed_work(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

bool nd_queue_delayed_work(struct delayed_work *work, unsigned int msecs)
{
	return queue_delayed_work(system_percpu_wq, work, msecs_to_jiffies(msecs));
}

bool nd_mod_delayed_work(struct delayed_work *work, unsigned int msecs)
{
	return mod_delayed_work(system_percpu_wq, work, msecs_to_jiffies(msecs));
}

static DEFINE_MUTEX(nd_list_mutex);

void nd_list_lock(void)
{
	mutex_lock(&nd_list_mutex);
}

void nd_list_unlock(void)
{
	mutex_unlock(&nd_list_mutex);
}

unsigned long nd_local_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void nd_local_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

void nd_sleep_us(unsigned long usecs)
{
	fsleep(usecs);
}

void nd_mutex_init(struct mutex *mutex)
{
	mutex_init(mutex);
}

void nd_configfs_add_default_group(struct config_group *group, struct config_group *parent)
{
	configfs_add_default_group(group, parent);
}

struct net *nd_current_net(void)
{
	return current->nsproxy->net_ns;
}

bool nd_first_ip4(struct net_device *dev, __be32 *address)
{
	struct in_device *in_dev = __in_dev_get_rtnl(dev);
	const struct in_ifaddr *first = in_dev ? rtnl_dereference(in_dev->ifa_list) : NULL;

	if (first)
		*address = first->ifa_local;
	return first;
}

bool nd_first_ip6(struct net_device *dev, bool link_local, struct in6_addr *address)
{
	struct inet6_dev *in6_dev = __in6_dev_get(dev);
	struct inet6_ifaddr *entry;
	bool found = false;

	if (!in6_dev)
		return false;
	read_lock_bh(&in6_dev->lock);
	list_for_each_entry(entry, &in6_dev->addr_list, if_list) {
		found = !(ipv6_addr_type(&entry->addr) & IPV6_ADDR_LINKLOCAL) == !link_local;
		if (found) {
			*address = entry->addr;
			break;
		}
	}
	read_unlock_bh(&in6_dev->lock);
	return found;
}

void nd_print_ip6(char *buffer, unsigned long size, const u8 *address)
{
	scnprintf(buffer, size, "%pI6c", address);
}

bool nd_oops_in_progress(void)
{
	return READ_ONCE(oops_in_progress);
}

void nd_skb_set_queue(struct sk_buff *skb, u16 queue)
{
	skb_set_queue_mapping(skb, queue);
}

bool nd_in_nmi(void)
{
	return in_nmi();
}

bool nd_in_hardirq(void)
{
	return in_hardirq();
}

unsigned long nd_preempt_count_with_softirq(unsigned long count)
{
	return count | SOFTIRQ_OFFSET;
}

/* What netpoll has put aside for its delayed work. */
static struct sk_buff_head *netpoll_queue(struct net_device *dev)
{
	struct netpoll_info *info = rcu_dereference_raw(dev->npinfo);

	return info ? &info->txq : NULL;
}

bool nd_netpoll_has_stranded(struct net_device *dev)
{
	struct sk_buff_head *queue = netpoll_queue(dev);

	return queue && !skb_queue_empty_lockless(queue);
}

/* The first of it, without the lock: nobody else is left. */
struct sk_buff *nd_netpoll_stranded(struct net_device *dev)
{
	struct sk_buff_head *queue = netpoll_queue(dev);

	return queue ? __skb_dequeue(queue) : NULL;
}

/* Holds the other module until nd_put_claim(). */
void *nd_find_claim(void)
{
	return __symbol_get("netdump_nic_claim");
}

void nd_put_claim(void)
{
	__symbol_put("netdump_nic_claim");
}

bool nd_within_module(void *address, void *module)
{
	return within_module((unsigned long)address, module);
}

struct net *nd_dev_net(struct net_device *dev)
{
	return dev_net(dev);
}

unsigned long nd_local_clock(void)
{
	return local_clock();
}

unsigned int nd_random(void)
{
	return get_random_u32();
}
