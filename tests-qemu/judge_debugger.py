# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: what somebody who looks for the cause of a crash reads, as JSON: section -> lines. Tasks with stacks, maps and files,
modules, slab caches and the bytes of all their objects, vmalloc memory, mounts, sockets and pipes with what waits in them, devices.

A line that begins with ERROR is a place where drgn could not go on. Bytes are given as digests.
"""

import hashlib
import json
import stat
import sys

from drgn import FaultError, cast
from drgn.helpers.linux.block import disk_name, for_each_disk
from drgn.helpers.linux.cgroup import cgroup_path, css_for_each_descendant_pre
from drgn.helpers.linux.fs import d_path, for_each_file, for_each_mount, mount_dst, mount_fstype, mount_src
from drgn.helpers.linux.ipc import for_each_sysv_shm
from drgn.helpers.linux.irq import for_each_irq_desc, irq_desc_action_names
from drgn.helpers.linux.mm import PageSlab, for_each_page, for_each_vma, for_each_vmap_area, page_size, page_to_phys, page_to_virt
from drgn.helpers.linux.module import for_each_module, module_address_regions
from drgn.helpers.linux.net import SOCKET_I, for_each_net, for_each_netdev, netdev_ipv4_addrs, netdev_name, skb_shinfo
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import task_state_to_char
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_for_each_allocated_object, slab_cache_usage
from drgn.helpers.linux.swap import for_each_swap_info, swap_file_path

ANON = 1  # FOLIO_MAPPING_ANON
VM_ALLOC = 2
WALKED = {b"task_struct": "struct task_struct", b"dentry": "struct dentry", b"sock_inode_cache": "struct socket_alloc", b"filp": "struct file"}
secrets = set(json.loads(sys.argv[1]))  # frames that are left out for another reason than the level


def digest(data):
    """Short and the same for the same bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def text(value):
    """A C string."""
    return value.string_().decode(errors="replace")


def tasks():
    """Each task with its stack and its memory map."""
    for task in for_each_task(prog):
        yield f"{task.pid.value_()} {text(task.comm)} {task_state_to_char(task)}"
        try:
            yield str(prog.stack_trace(task))
        except ValueError as error:
            yield f"no stack: {error}"  # a task that runs, on a CPU whose registers drgn does not want
        if task.mm:
            maps = [(vma.vm_start.value_(), vma.vm_end.value_(), vma.vm_flags.value_(), vma.vm_file.value_()) for vma in for_each_vma(task.mm)]
            yield f"{len(maps)} maps {digest(repr(maps).encode())}"


def each_file():
    """All open files: (task, number, file)."""
    for task in for_each_task(prog):
        if task.files:
            for number, file in for_each_file(task):
                yield task, number, file


def files():
    """Open files by name."""
    for task, number, file in each_file():
        yield f"{task.pid.value_()} {number} {d_path(file.f_path).decode(errors='replace')} {file.f_pos.value_()}"


def buffers(skb):
    """The bytes of a socket buffer."""
    data = prog.read(skb.head, skb.end.value_())
    shared = skb_shinfo(skb)
    for fragment in shared.frags[: shared.nr_frags.value_()]:
        page = cast("struct page *", fragment.netmem)
        if page.mapping.value_() & ANON:
            continue  # memory of a process that was sent without a copy
        data += prog.read(page_to_virt(page).value_() + fragment.offset.value_(), fragment.len.value_())
    return data


def queue(head):
    """What waits in a queue of socket buffers."""
    skb, out = head.next, []
    while skb.value_() != head.address_of_().value_():
        out.append(f"{skb.len.value_()} {digest(buffers(skb))}")
        skb = skb.next
    return f"{len(out)} {' '.join(out)}"


def sockets():
    """Sockets of all tasks, with what waits in them."""
    for task, number, file in each_file():
        if stat.S_ISSOCK(file.f_inode.i_mode.value_()):
            socket = SOCKET_I(file.f_inode)
            sk = socket.sk
            if sk:
                about = f"{text(sk.sk_prot_creator.name)} family {sk.__sk_common.skc_family.value_()} state {sk.__sk_common.skc_state.value_()}"
                yield f"{task.pid.value_()} {number} {about} in: {queue(sk.sk_receive_queue)} out: {queue(sk.sk_write_queue)}"


def pipes():
    """Pipes of all tasks, with what waits in them, as far as it is not memory of a process that was given to the pipe."""
    for task, number, file in each_file():
        if stat.S_ISFIFO(file.f_inode.i_mode.value_()):
            pipe = file.f_inode.i_pipe
            out, size = [], pipe.ring_size.value_()
            for n in range(pipe.tail.value_(), pipe.head.value_()):
                part = pipe.bufs[n & (size - 1)]
                if part.page.mapping.value_() & ANON:
                    out.append("a process's")
                else:
                    out.append(digest(prog.read(page_to_virt(part.page).value_() + part.offset.value_(), part.len.value_())))
            yield f"{task.pid.value_()} {number} {' '.join(out)}"


def modules():
    """Modules, and their code and data."""
    for module in for_each_module(prog):
        yield f"{text(module.name)} {module.state.value_()}"
        for start, size in module_address_regions(module):
            yield f"  {size} {digest(prog.read(start, size))}"


def slabs():
    """Slab caches: what is used of them, all of their memory, and the objects of some, one by one."""
    memory = {}
    for page in for_each_page(prog):
        try:
            if not PageSlab(page):
                continue
        except FaultError:
            continue  # a hole
        cache = cast("struct slab *", page).slab_cache
        memory.setdefault(cache.value_(), hashlib.sha256()).update(prog.read(page_to_phys(page).value_(), page_size(page).value_(), True))
    for cache in for_each_slab_cache(prog):
        usage = slab_cache_usage(cache)
        bytes_of_it = memory.get(cache.value_())
        yield f"{text(cache.name)} {usage.num_slabs} {usage.num_objs} {usage.free_objs} {bytes_of_it and bytes_of_it.hexdigest()[:16]}"
        name = cache.name.string_()
        if name in WALKED:
            yield f"  {sum(1 for _ in slab_cache_for_each_allocated_object(cache, WALKED[name]))} objects of it are allocated"


def vmalloc():
    """Memory of vmalloc."""
    for area in for_each_vmap_area(prog):
        if area.vm and area.vm.flags & VM_ALLOC and area.vm.nr_pages:
            pages = [area.vm.pages[n] for n in range(area.vm.nr_pages.value_())]
            places = [page_to_phys(page).value_() for page in pages]
            data = b"".join(prog.read(place, 4096, True) for place in places if place >> 12 not in secrets)
            yield f"{area.va_start.value_():#x} {len(pages)} {digest(data)}"


def mounts():
    """Mounts."""
    for mount in for_each_mount(prog):
        yield " ".join(part.decode() for part in (mount_src(mount), mount_dst(mount), mount_fstype(mount)))


def network():
    """Network devices of all namespaces."""
    for net in for_each_net(prog):
        for device in for_each_netdev(net):
            yield f"{netdev_name(device).decode()} {device.mtu.value_()} {netdev_ipv4_addrs(device)}"


def others():
    """Disks, swap, shared memory, interrupts, control groups."""
    yield from (f"disk {disk_name(disk).decode()}" for disk in for_each_disk(prog))
    yield from (f"swap {swap_file_path(info).decode()} {info.pages.value_()}" for info in for_each_swap_info(prog))
    yield from (f"shm {shm.shm_perm.id.value_()} {shm.shm_segsz.value_()}" for shm in for_each_sysv_shm(prog["init_task"].nsproxy.ipc_ns))
    for number, desc in for_each_irq_desc(prog):
        yield f"irq {number} {irq_desc_action_names(desc)}"
    for css in css_for_each_descendant_pre(prog["cgrp_dfl_root"].cgrp.self.address_of_()):
        yield f"cgroup {cgroup_path(css.cgroup).decode()}"


def log():
    """The kernel's log."""
    yield from get_dmesg(prog).decode(errors="replace").splitlines()


def main():
    seen = {}
    for section in (tasks, files, sockets, pipes, modules, slabs, vmalloc, mounts, network, others, log):
        lines = seen[section.__name__] = []
        try:
            lines.extend(section())
        except (FaultError, LookupError, AttributeError, TypeError, ValueError) as error:
            lines.append(f"ERROR {type(error).__name__}: {error}")
    json.dump(seen, sys.stdout)


main()
