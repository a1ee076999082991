# SPDX-License-Identifier: GPL-2.0-or-later
"""For volatile_table.py: rings, bookkeeping and receive buffers of network drivers that are no virtio.

Each generator yields (address, size, physical, what): kernel addresses, or physical ones for buffers.
"""

from drgn import Object

RX_BUFFER = 2048


def private(device, kind):
    """The driver's own part of a net_device."""
    return Object(device.prog_, f"{kind} *", device.priv.address_)


def vmxnet3(device):
    """Rings shared with the device, and the adapter, which holds the queues."""
    adapter = private(device, "struct vmxnet3_adapter")
    yield adapter.value_(), adapter.type_.type.size, False, "adapter"
    for pointer in (adapter.shared, adapter.tqd_start, adapter.rqd_start):
        yield pointer.value_(), pointer.type_.type.size, False, "shared"
    for i in range(adapter.num_tx_queues.value_()):
        queue = adapter.tx_queue[i]
        for ring in (queue.tx_ring, queue.comp_ring):
            yield ring.base.value_(), ring.size.value_() * 16, False, "transmit ring"
        if queue.data_ring.base:
            yield queue.data_ring.base.value_(), queue.data_ring.size.value_() * queue.txdata_desc_size.value_(), False, "transmit data"
        yield queue.buf_info.value_(), queue.tx_ring.size.value_() * queue.buf_info.type_.type.size, False, "transmit bookkeeping"
    for i in range(adapter.num_rx_queues.value_()):
        queue = adapter.rx_queue[i]
        yield queue.comp_ring.base.value_(), queue.comp_ring.size.value_() * 16, False, "receive ring"
        if queue.data_ring.base:
            size = queue.rx_ring[0].size.value_() * queue.data_ring.desc_size.value_()
            yield queue.data_ring.base.value_(), size, False, "receive data"
        for n in range(2):
            ring, info = queue.rx_ring[n], queue.buf_info[n]
            count = ring.size.value_()
            yield ring.base.value_(), count * 16, False, "receive ring"
            if info:
                yield info.value_(), count * info.type_.type.size, False, "receive bookkeeping"
            # Its buffers are many and change hands at each frame: the module reports those that were used.


def e1000(device):
    """e1000 and e1000e: descriptor rings, their bookkeeping, receive buffers."""
    adapter = private(device, "struct e1000_adapter")
    yield adapter.value_(), adapter.type_.type.size, False, "adapter"
    length = adapter.rx_buffer_len.value_() or RX_BUFFER
    for rings, what in ((adapter.tx_ring, "transmit"), (adapter.rx_ring, "receive")):
        ring = rings[0]
        count = ring.count.value_()
        yield rings.value_(), rings.type_.type.size, False, what + " ring"
        yield ring.desc.value_(), ring.size.value_(), False, what + " ring"
        yield ring.buffer_info.value_(), count * ring.buffer_info.type_.type.size, False, what + " bookkeeping"
        for k in range(count):
            info = ring.buffer_info[k]
            if info.dma:
                yield info.dma.value_(), length, True, what + " buffers"
            if what == "receive":
                # While a slot waits to be filled again it keeps its buffer (a small frame was copied out of it) without
                # an address for the device; and where the device cannot reach the buffer, that address is elsewhere.
                data = info.rxbuf.data if hasattr(info, "rxbuf") else info.skb.data if info.skb else None
                if data:
                    yield data.value_(), length, False, what + " buffers"


DRIVERS = {"vmxnet3": vmxnet3, "e1000": e1000, "e1000e": e1000}


def of(device):
    """What the driver of a net_device has; nothing for a driver that is not known here."""
    parent = device.dev.parent
    if not parent or not parent.driver:
        return iter(())
    name = parent.driver.name.string_().decode()
    known = DRIVERS.get(name)
    return known(device) if known else iter(())
