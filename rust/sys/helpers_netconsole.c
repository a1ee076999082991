// SPDX-License-Identifier: GPL-2.0-only
/* The same helpers once more, since Kbuild wants an object to be part of one module only, and those that netdump.ko has no
 * use for.
 */
#include "helpers.c"

/* A buffer for a frame of this length, as netpoll's users make it. */
struct sk_buff *nd_netpoll_skb(struct net_device *dev, unsigned int len)
{
	struct sk_buff *skb;

	netpoll_zap_completion_queue();
	skb = alloc_skb(LL_RESERVED_SPACE(dev) + len + dev->needed_tailroom, GFP_ATOMIC | __GFP_NOWARN);
	if (skb) {
		skb_reserve(skb, LL_RESERVED_SPACE(dev));
		__skb_put(skb, len);
		skb->dev = dev;
	}
	return skb;
}

int nd_netpoll_send(struct netpoll *np, struct sk_buff *skb, unsigned int ip, unsigned int udp, bool ipv6)
{
	nd_skb_offsets(skb, ip, udp, ipv6, 0);
	return netpoll_send_skb(np, skb);
}
