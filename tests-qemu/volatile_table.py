# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: physical ranges of kernel objects that the kernel itself changes while it dies, by name.

The panicking CPU runs kernel code between the dump of a page and the moment when the machine is held: it prints, takes
time, receives and sends frames through the driver, allocates and frees their buffers, and restarts the machine. What
that code writes is named here; everything is found in the vmcore, before anything is compared. Prints a JSON list of
[start, end, label].
"""

import json
import sys
from itertools import islice
from pathlib import Path

import driver_rings
import truth
from drgn import FaultError, Object, cast, container_of, offsetof, sizeof
from drgn.helpers.linux.list import list_for_each_entry, list_for_each_entry_reverse
from drgn.helpers.linux.mm import follow_phys, page_to_virt, pfn_to_page, phys_to_virt
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.sched import task_cpu
from drgn.helpers.linux.slab import for_each_slab_cache

PAGE = 4096
PAGE_POOL_MAGIC = 0xDEAD000000000040  # PP_SIGNATURE
# Entries of a list of free pages that may be taken: a few, and as many as two refills of a CPU's own lists need.
HEADS, REFILLS = 16, 128
MAX_OWN = 512  # in one of a CPU's own lists
RECORDS = 2048
MAX_SHEAF = 256
MAX_SHEAVES = 16  # in a list of a barn; the kernel keeps ten
MISSING = (LookupError, FaultError, AttributeError, TypeError, ValueError)
# Only the panicking CPU still runs when pages are dumped.
CPUS = [task_cpu(prog.crashed_thread().object)]
SEGMENTS = truth.segments(Path(sys.argv[1]))
SLAB_PAGE = prog.constant("PGTY_slab").value_()
found = []

# Variables of the kernel's image, static per-CPU variables among them: who writes them after the stop of the others.
PRINTING = """prb printk_rb_static printk_rb_dynamic console_sem console_waiter console_owner console_owner_lock
console_seq console_list console_srcu console_srcu_srcu_usage console_srcu_srcu_data nbcon_cpu_emergency_cnt
nbcon_pcpu_emergency_nesting univ8250_console serial8250_ports serial8250_console_ops early_serial_console vt_console_driver
printk_count_nmi printk_count printk_context printk_pending dump_stack_cpu latched_seq clear_seq syslog_seq syslog_partial
syslog_time panic_console_dropped printk_cpu_sync_owner printk_cpu_sync_nested printk_cpu_sync_owner
legacy_allow_panic_sync console_suspended printk_kthreads_running suppress_panic_printk panic_on_this_cpu oops_timestamp"""
DYING = """panic_cpu panic_redirect_cpu panic_this_cpu_backtrace_printed panic_in_progress crashing_cpu system_state
reboot_mode reboot_emergency reboot_type reboot_default nmi_desc nmi_shootdown_done crash_ipi_issued waiting_for_crash_ipi
shootdown_callback stop_this_cpu_mask cpus_stop_mask stopping_cpu __num_online_cpus __cpu_online_mask __cpu_active_mask
__cpu_dying_mask cpus_booted_once_mask port_cf9_safe rtc_lock i8253_lock pci_config_lock io_apic_lock ioapic_lock
panic_force_cpu virt_rebooting suppress_printk panic_triggering_all_cpu_backtrace panic_notifier_list tainted_mask debug_locks
cpu_hotplug_lock sysrq_in_progress kmsg_dump_list_lock dump_list_lock i8042_suppress_kbd_ack"""
TIME = """jiffies jiffies_64 jiffies_seq jiffies_lock tk_core timekeeper tk_fast_mono tk_fast_raw clocksource_list
tick_next_period tick_do_timer_cpu tsc_early_khz cyc2ns hpet hpet_lock i8253_clear_counter_on_shutdown vdso_data
last_jiffies_update tick_cpu_sched hrtimer_bases timer_bases"""
PERCPU = """__preempt_count hardirq_stack_inuse irq_stat nmi_state nmi_cr2 nmi_dr7 nmi_stats kstack_offset softnet_data
napi_alloc_cache page_frag_cache bh_lock kernel_cpustat kstat runqueues cpu_info cpu_tlbstate cpu_tlbstate_shared
cpu_hw_events apic_pending cpu_tsc_khz mce_banks_ce_disabled batched_entropy_u8 batched_entropy_u16 batched_entropy_u32
batched_entropy_u64 crngs __stack_chk_guard irq_regs __irq_regs vm_event_states
netdev_alloc_cache rcu_data lapic_events processors current_task cpu_current_top_of_stack in_kernel_fpu kernel_fpu_allowed
boot_pageset boot_zonestats boot_nodestats xmit_recursion"""


def add(virtual, size, label):
    """Notes `size` bytes at a kernel address."""
    at = virtual
    while at < virtual + size:
        upto = min(virtual + size, (at // PAGE + 1) * PAGE)
        try:
            physical = follow_phys(prog["init_mm"].address_of_(), at).value_()
            found.append([physical, physical + upto - at, label])
        except (FaultError, LookupError):
            pass
        at = upto


def add_object(obj, label):
    """Notes a whole object."""
    add(obj.address_, obj.type_.size, label)


def add_percpu(obj, member, label):
    """Notes the panicking CPU's copy of what a per-CPU pointer points to."""
    try:
        for cpu in CPUS:
            add_object(per_cpu_ptr(obj.member_(member), cpu)[0], label)
    except MISSING:
        pass


def variables(names, label):
    """Variables of the kernel, in the panicking CPU's copy where they are per-CPU."""
    try:
        first, last = prog.symbol("__per_cpu_start").address, prog.symbol("__per_cpu_end").address
    except LookupError:
        first = last = 0
    for name in names.split():
        try:
            symbol = prog.symbol(name)
        except LookupError:
            continue
        size = max(symbol.size, 1)
        if first <= symbol.address < last:
            for cpu in CPUS:
                offset = prog["__per_cpu_offset"][cpu].value_()
                add((symbol.address + offset) & (2**64 - 1), size, f"{label}: {name}")
        else:
            add(symbol.address, size, f"{label}: {name}")


def log_buffer():
    """The printk ring: its text, and the descriptors and infos of the next RECORDS records (the task listing is the bulk)."""
    ring = prog["prb"]
    descriptors = ring.desc_ring
    count = 1 << descriptors.count_bits.value_()
    add_object(ring[0], "log buffer")
    head = descriptors.head_id.counter.value_() & (count - 1)
    for array, label in ((descriptors.descs, "log buffer: descriptors"), (descriptors.infos, "log buffer: infos")):
        size = array.type_.type.size
        if RECORDS >= count:
            add(array.value_(), count * size, label)
            continue
        # The record that is being written when its page is dumped is the one at the head.
        first, last = head, head + RECORDS
        add(array.value_() + first * size, (min(last, count) - first) * size, label)
        if last > count:
            add(array.value_(), (last - count) * size, label)
    text = ring.text_data_ring
    add(text.data.value_(), 1 << text.size_bits.value_(), "log buffer: text")


def panicking_task():
    """The stack on which the panic goes on when the dump is over, and its task."""
    task = prog.crashed_thread().object
    add(task.stack.value_(), 4 * PAGE, "stack of the panicking task")
    add(task.value_(), task.type_.type.size, "panicking task")


def cpu_stacks():
    """Interrupt and exception stacks: NMIs and interrupts that come to a CPU on its way down."""
    for cpu in CPUS:
        for name, pages in (("hardirq_stack_ptr", 4), ("cea_exception_stacks", 8)):
            try:
                top = per_cpu_ptr(prog[name].address_of_(), cpu)[0].value_()
            except MISSING:
                continue
            if name == "hardirq_stack_ptr":
                add((top & ~(PAGE - 1)) - (pages - 1) * PAGE, pages * PAGE, f"interrupt stack of CPU {cpu}")
            else:
                add(top, prog.type("struct cea_exception_stacks").size, f"exception stacks of CPU {cpu}")


def sheaf(pointer, label, objects):
    """An array of free objects of a slab cache; with `objects`, what it points to as well."""
    if not pointer:
        return
    cache = pointer.cache
    # A sheaf that was freed while its page was dumped has anything for a size.
    capacity = min(max(cache.sheaf_capacity.value_(), pointer.size.value_()), MAX_SHEAF) if cache else 32
    add(pointer.value_(), pointer.type_.type.size + 8 * capacity, label)
    if objects:
        for i in range(capacity):
            # Slots above `size` still hold what was taken from them last.
            address = pointer.objects[i].value_()
            if address:
                add(address, cache.size.value_(), label + ": objects")


def slab(cache, label, objects=False):
    """What an allocation or a free of a cache changes beside the object itself."""
    for cpu in CPUS:
        try:
            local = per_cpu_ptr(cache.cpu_sheaves, cpu)
            add_object(local[0], label)
            for name in ("main", "spare", "rcu_free"):
                sheaf(local.member_(name), label, objects)
        except MISSING:
            pass
    try:
        per_node = cache.per_node[0]
        for pointer in (per_node.node, per_node.barn):
            if pointer:
                add_object(pointer[0], label)
        for head in ("sheaves_full", "sheaves_empty"):
            # One that changed while it was dumped may never come back to its head.
            sheaves = list_for_each_entry("struct slab_sheaf", per_node.barn.member_(head).address_of_(), "barn_list")
            for item in islice(sheaves, MAX_SHEAVES):
                sheaf(item, label, objects)
    except MISSING:
        pass


def network_slabs():
    """Caches of frames. Small frames live in the caches of sk_buff and of their data; kmalloc serves larger ones."""
    wanted, whole = {}, {}
    for name in ("skbuff_cache", "skbuff_fclone_cache", "skb_small_head_cache"):
        for holder in ("net_hotdata", "_net_hotdata"):
            try:
                cache = prog[holder].member_(name)
                wanted[cache.value_()] = cache
            except MISSING:
                pass
    try:
        fclone = prog["net_hotdata"].skbuff_fclone_cache.value_()
    except MISSING:
        fclone = 0
    for cache in for_each_slab_cache(prog):
        name = cache.name.string_().decode()
        if cache.value_() in wanted or name.startswith(("skbuff_", "skb_")):
            slab(cache, f"slab {name}", objects=True)
            # A sk_buff with its clone is sent by TCP alone: some are freed when the transmitter is done, none are made.
            if cache.value_() != fclone:
                whole[cache.value_()] = cache
        elif name.startswith(("kmalloc-", "page->ptl")):
            slab(cache, f"slab {name}")
            # Arrays of free objects are allocated from here when those of the caches of frames run over.
            if name == "kmalloc-256":
                whole[cache.value_()] = cache
    slab_pages(whole)
    for cpu in CPUS:
        local = per_cpu_ptr(prog["napi_alloc_cache"].address_of_(), cpu)
        add_object(local[0], "napi_alloc_cache")
        fragment(local.page, "napi_alloc_cache: page")
        for i in range(local.skb_cache.type_.length):
            address = local.skb_cache[i].value_()
            if address:
                add(address, 256, "napi_alloc_cache: skbs")
        try:
            fragment(per_cpu_ptr(prog["netdev_alloc_cache"].address_of_(), cpu)[0], "netdev_alloc_cache: page")
        except MISSING:
            pass


def slab_pages(caches):
    """Every page of some slab caches: they get new ones, and objects come and go, with each frame."""
    page = prog.type("struct page")
    type_at = prog.type("struct page").member("page_type").offset
    cache_at = prog.type("struct slab").member("slab_cache").offset
    for start, end in ram():
        first = pfn_to_page(prog, start // PAGE).value_()
        count = (end - start) // PAGE
        for begin in range(0, count, 32768):
            number = min(32768, count - begin)
            try:
                words = memoryview(prog.read(first + begin * page.size, number * page.size))
            except FaultError:
                continue
            kinds = words.cast("I")[type_at // 4 :: page.size // 4].tolist()
            for index, kind in enumerate(kinds):
                if kind >> 24 == SLAB_PAGE:
                    at = index * page.size + cache_at
                    cache = caches.get(int.from_bytes(words[at : at + 8], "little"))
                    if cache is not None:
                        address, order = start + (begin + index) * PAGE, cache.oo.x.value_() >> 16
                        found.append([address, address + (PAGE << order), "slab pages of " + cache.name.string_().decode()])


def ram():
    """Physical memory that has struct pages, as the dump's headers give it."""
    for segment in SEGMENTS:
        if segment.virtual < truth.TEXT_BASE:
            yield segment.start, segment.end


def fragment(cache, label):
    """The pages that a page_frag_cache hands out."""
    encoded = cache.encoded_page.value_()
    if encoded:
        order = encoded & 0xFF
        add(encoded & ~(PAGE - 1), PAGE << min(order, 3), label)


def page_allocator():
    """Free lists: per-CPU ones, zones, counters."""
    for node in for_each_online_pgdat(prog):
        # All of it but the lists of zones in order of preference, which are most of it and constant.
        lists = node.node_zonelists
        add(node.value_(), lists.address_ - node.value_(), "page allocator: node")
        after = lists.address_ + sizeof(lists)
        add(after, node.value_() + node.type_.type.size - after, "page allocator: node")
        for zone in node.node_zones:
            if not zone.present_pages:
                continue
            for cpu in CPUS:
                for name in ("per_cpu_pageset", "per_cpu_zonestats"):
                    add_object(per_cpu_ptr(zone.member_(name), cpu)[0], f"page allocator: {name}")
        try:
            for cpu in CPUS:
                add_object(per_cpu_ptr(node.per_cpu_nodestats, cpu)[0], "page allocator: nodestats")
        except MISSING:
            pass


def on_list(head, member, count, walk=list_for_each_entry):
    """The first pages of a list of free pages. One that was taken while the list was dumped leads anywhere: no further."""
    first = prog["vmemmap_base"].value_()
    end = first + max(end for _, end in ram()) // PAGE * prog.type("struct page").size
    for page in islice(walk("struct page", head.address_of_(), member), count):
        if not first <= page.value_() < end:
            return
        yield page


def free_lists():
    """The struct pages at the head of every list of free pages: who is taken first, its neighbour in the list, and where
    a large block is split. Few are ever used, but which ones depends on what drivers ask for."""
    label = "page allocator: free lists"
    size = prog.type("struct page").size
    for node in for_each_online_pgdat(prog):
        for zone in node.node_zones:
            if not zone.present_pages:
                continue
            for order in range(zone.free_area.type_.length):
                for head in zone.free_area[order].free_list:
                    for page in on_list(head, "buddy_list", max(HEADS, REFILLS >> order)):
                        add(page.value_(), size, label)
                        for split in range(order):
                            # A block that is taken apart: the upper half of each size goes to its own list.
                            add(page.value_() + (size << split), 8 * size, label)
            # The CPU's own lists: what is taken and given back comes to stand before others. Behind one that was taken
            # meanwhile they are found from the other end.
            for cpu in CPUS:
                for head in per_cpu_ptr(zone.per_cpu_pageset, cpu).lists:
                    for walk in (list_for_each_entry, list_for_each_entry_reverse):
                        for page in on_list(head, "pcp_list", MAX_OWN, walk):
                            add(page.value_(), size, label)


def devices(bus):
    """The devices of a bus."""
    for kobject in list_for_each_entry("struct kobject", prog["bus_kset"].list.address_of_(), "entry"):
        if kobject.name.string_() != bus.encode():
            continue
        private = container_of(kobject, "struct subsys_private", "subsys.kobj")
        head = private.klist_devices.k_list.address_of_()
        for node in list_for_each_entry("struct klist_node", head, "n_node"):
            yield container_of(node, "struct device_private", "knode_bus").device


def vring(queue, label):
    """A virtio queue: its struct, rings and bookkeeping."""
    virtual = container_of(queue, "struct vring_virtqueue", "vq")
    add_object(virtual[0], label)
    packed = bool(virtual.layout.value_() in (1, 3)) if not hasattr(virtual, "packed_ring") else bool(virtual.packed_ring)
    if packed:
        ring = virtual.packed
        number = ring.vring.num.value_()
        for part, size in ((ring.vring.desc, 16 * number), (ring.vring.driver, 4), (ring.vring.device, 4)):
            add(part.value_(), size, label + ": ring")
        table = None
    else:
        ring = virtual.split
        number = ring.vring.num.value_()
        for part, size in ((ring.vring.desc, 16 * number), (ring.vring.avail, 6 + 2 * number), (ring.vring.used, 6 + 8 * number)):
            add(part.value_(), size, label + ": ring")
        table = ring.vring.desc
    for part in (ring.desc_state, ring.desc_extra):
        add(part.value_(), part.type_.type.size * number, label + ": bookkeeping")
    return table, ring, number


def virtio():
    """Every virtio device's queues; for network devices also the buffers that the device may write into."""
    for device in devices("virtio"):
        virtio_device = container_of(device, "struct virtio_device", "dev")
        for queue in list_for_each_entry("struct virtqueue", virtio_device.vqs.address_of_(), "list"):
            name = queue.name.string_().decode() if queue.name else "?"
            label = f"virtio{virtio_device.index.value_()} {name}"
            try:
                table, ring, number = vring(queue, label)
            except MISSING:
                continue
            if not name.startswith(("input", "output")):
                continue
            for i in range(number):
                for entry in ([table[i]] if table else []) + [ring.desc_extra[i]]:
                    address, length = entry.addr.value_(), entry.len.value_()
                    if 0 < address < 1 << 46 and 0 < length <= 1 << 16:
                        found.append([address, address + length, label + ": buffers"])


def network_devices():
    """Counters and queues that every received or sent frame touches."""
    for namespace in list_for_each_entry("struct net", prog["net_namespace_list"].address_of_(), "list"):
        for device in list_for_each_entry("struct net_device", namespace.dev_base_head.address_of_(), "dev_list"):
            label = device.name.string_().decode()
            add_object(device[0], label)
            for i in range(device.num_tx_queues.value_()):
                add_object(device._tx[i], label + ": transmit queue")
                # A queue that has room again asks for its discipline to run, which never comes about.
                if device._tx[i].qdisc:
                    add_object(device._tx[i].qdisc[0], label + ": queueing discipline")
            for i in range(device.num_rx_queues.value_()):
                add_object(device._rx[i], label + ": receive queue")
            add_percpu(device, "lstats", label + ": counters")
            add_percpu(device, "pcpu_refcnt", label + ": counters")
            for napi in list_for_each_entry("struct napi_struct", device.napi_list.address_of_(), "dev_list"):
                add_object(napi[0], label + ": napi")
            pools(device, label)
            try:
                for address, size, physical, what in driver_rings.of(device):
                    if physical:
                        found.append([address, address + size, f"{label}: {what}"])
                    else:
                        add(address, size, f"{label}: {what}")
            except MISSING as error:
                print(f"volatile_table: {label}: {error}", file=sys.stderr)


def pools(device, label):
    """Page pools of a device: pages that are free for its next frames."""
    addresses = set()
    try:
        node = device.page_pools.first
        while node:
            pool = container_of(node, "struct page_pool", "user.list")
            addresses.add(pool.value_())
            add_object(pool[0], label + ": page pool")
            for i in range(pool.alloc.cache.type_.length):
                netmem(pool.alloc.cache[i].value_(), pool.p.order.value_(), label)
            for i in range(pool.ring.size.value_()):
                netmem(cast("unsigned long *", pool.ring.queue)[i].value_(), pool.p.order.value_(), label)
            add(pool.ring.queue.value_(), 8 * pool.ring.size.value_(), label + ": page pool")
            add_percpu(pool, "recycle_stats", label + ": page pool")
            node = node.next
    except MISSING:
        pass
    if addresses:
        pool_pages(addresses, label + ": page pool pages")


def pool_pages(pools, label):
    """Every page that belongs to one of some page pools, wherever it is at the moment: its struct page says so. A page
    goes to and fro between pool and ring while the ring's and the pool's own pages are dumped one after the other."""
    kind = prog.type("struct page")
    words, magic, owner = kind.size // 8, offsetof(kind, "pp_magic") // 8, offsetof(kind, "pp") // 8
    section = 1 << 15
    for node in for_each_online_pgdat(prog):
        first = node.node_start_pfn.value_()
        for start in range(first // section * section, first + node.node_spanned_pages.value_(), section):
            try:
                table = memoryview(prog.read(pfn_to_page(prog, start).value_(), section * kind.size)).cast("Q")
            except FaultError:
                continue
            for number, pool in enumerate(table[owner::words].tolist()):
                if pool in pools and table[number * words + magic] & ~3 == PAGE_POOL_MAGIC:
                    add(page_to_virt(pfn_to_page(prog, start + number)).value_(), PAGE, label)


def netmem(value, order, label):
    """A page of a page pool."""
    if value and not value & 1:
        try:
            page = Object(prog, "struct page *", value)
            add(page_to_virt(page).value_(), PAGE << order, label + ": page pool pages")
        except MISSING:
            pass


def page_tables():
    """The lowest page tables over all that is listed, in the direct map and in modules: memory that was read-only once is
    mapped clean, and the first write to it sets the dirty bit."""
    top = prog["init_mm"].pgd.value_()
    five = prog["__pgtable_l5_enabled"].value_() if "__pgtable_l5_enabled" in prog else 0
    large = 512 * PAGE
    regions = {phys_to_virt(prog, start).value_() // large for start, _, _ in found}
    regions |= {phys_to_virt(prog, end - 1).value_() // large for _, end, _ in found}
    for module in for_each_module(prog):
        for part in module.mem:
            base, size = part.base.value_(), part.size.value_()
            regions |= set(range(base // large, (base + size) // large + 1)) if size else set()
    for region in sorted(regions):
        address = region * large
        entry = prog.read_u64(top + (address >> (48 if five else 39) & 511) * 8)
        for shift in (39, 30, 21) if five else (30, 21):
            table = entry & 0x000F_FFFF_FFFF_F000
            if not entry & 1 or entry & 0x80:
                break
            entry = prog.read_u64(table + (address >> shift & 511) * 8, physical=True)
        else:
            if entry & 1 and not entry & 0x80:
                table = entry & 0x000F_FFFF_FFFF_F000
                found.append([table, table + PAGE, "page tables of the above"])


def struct_pages():
    """The struct pages of listed memory that is allocated and freed: reference counts and free lists change with it."""
    fixed = ("log buffer", "printing", "dying", "time", "per-CPU", "stack", "panicking", "exception", "interrupt", "page allocator")
    frames = {frame for start, end, label in found if not str(label).startswith(fixed) for frame in range(start // PAGE, -(-end // PAGE))}
    listed = set()
    for frame in frames:
        page = pfn_to_page(prog, frame)
        listed.add(page.value_() // PAGE * PAGE)
    for address in sorted(listed):
        add(address, PAGE, "struct pages of the above")


for names, label in ((PRINTING, "printing"), (DYING, "dying"), (TIME, "time"), (PERCPU, "per-CPU")):
    variables(names, label)
for part in (log_buffer, panicking_task, cpu_stacks, network_slabs, page_allocator, free_lists, network_devices, virtio):
    try:
        part()
    except MISSING as error:
        print(f"volatile_table: {part.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
for argument in sys.argv[2:]:
    # What the module reported, so that the struct pages of that are listed too.
    for entry in json.load(open(argument, encoding="utf-8")).get("volatile", []):
        found.append([entry["start"], entry["end"], None])
struct_pages()
page_tables()
json.dump([entry for entry in found if entry[2]], sys.stdout)
