// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Where packets are sent: to a pod of this node, to another node, to this node itself.
#pragma once

// linux/bpf.h of kernel 6.0 made the key longer; a 5.10 kernel takes only its own size, newer ones take both.
#define TUNNEL_KEY_BYTES 28

// Several programs of the objects with Services forward and tunnel in several places: there it is one function each.
#ifdef SERVICES
#define SHARED __noinline
#else
#define SHARED __always_inline
#endif

// To a pod of this node: one hop less, the lxc's MAC as source. Legacy sends it out of the lxc, where captures see it;
// BPF host routing moves it to the pod's eth0 at once (only possible at ingress), where the lxc never sees it.
static __always_inline int deliver(struct __sk_buff *skb, const struct config *config, struct outcome *outcome,
				   const struct endpoint *endpoint, bool at_ingress)
{
	struct iphdr *ip = ipv4_header(skb);
	void *frame;

	if (unlikely(!ip))
		return drop(skb, config, outcome, DROP_INVALID);
	if (unlikely(is_fragment(ip))) {
		struct ports ports;
		bool has_header;
		int reason = transport_ports(skb, ip, &ports, &has_header);

		if (reason)
			return drop(skb, config, outcome, reason);
		ip = ipv4_header(skb);
		if (!ip)
			return drop(skb, config, outcome, DROP_INVALID);
	}
	if (unlikely(!decrement_ttl(ip)))
		return drop(skb, config, outcome, DROP_TTL_EXCEEDED);
	frame = (void *)ip - ETHERNET_BYTES;
	__builtin_memcpy(frame, endpoint->mac, 12);
	outcome->target_ifindex = endpoint->ifindex;
#ifdef HOST_ROUTING_BPF
	if (at_ingress && likely(!(config->flags & FLAG_NO_REDIRECT_PEER))) {
		// The frame of a tunnelled packet has the sender's lxc as destination: the stack calls it someone else's.
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return finish(skb, config, outcome, VERDICT_REDIRECT_PEER, bpf_redirect_peer(endpoint->ifindex, 0));
	}
#endif
	return finish(skb, config, outcome, VERDICT_REDIRECT, bpf_redirect(endpoint->ifindex, 0));
}

// To this node's own stack, as the hop that the pod's gateway is.
static __always_inline int to_stack(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	struct iphdr *ip = ipv4_header(skb);

	if (unlikely(!ip))
		return drop(skb, config, outcome, DROP_INVALID);
	if (unlikely(!decrement_ttl(ip)))
		return drop(skb, config, outcome, DROP_TTL_EXCEEDED);
	return finish(skb, config, outcome, VERDICT_TO_STACK, TC_ACT_OK);
}

#ifdef ENCAPSULATION_VXLAN
// The node that an address is to be tunnelled to, or 0: what the ipcache says of it, else the pod CIDR it is in.
static __always_inline __be32 tunnel_endpoint_of(__be32 address)
{
	struct tunnel_key key = {.prefix_length = 32, .address = address};
	struct ipcache_entry *entry = bpf_map_lookup_elem(&ipcache, &address);
	__be32 *node;

	if (entry && entry->tunnel_endpoint)
		return entry->tunnel_endpoint;
	if (entry)
		return 0;
	node = bpf_map_lookup_elem(&tunnel, &key);
	return node ? *node : 0;
}

// The packet itself stays as it is; the envelope's VNI is the sender's identity.
static SHARED int encapsulate(struct __sk_buff *skb, const struct config *config, struct outcome *outcome,
			      __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {};

	if (unlikely(config->flags & FLAG_WRONG_VNI))
		identity ^= 0x8000;
	key.tunnel_id = identity;
	key.remote_ipv4 = bpf_ntohl(node);
	key.tunnel_ttl = 64;
	outcome->identity = identity;
	outcome->target_ifindex = config->cilium_vxlan_ifindex;
	if (unlikely(bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, BPF_F_ZERO_CSUM_TX)))
		return drop(skb, config, outcome, DROP_WRITE);
	return finish(skb, config, outcome, VERDICT_TUNNEL, bpf_redirect(config->cilium_vxlan_ifindex, 0));
}

// Out of cilium_net, and so into cilium_host: a tunnelled packet to the node's own address.
static __always_inline int to_host(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	struct iphdr *ip = ipv4_header(skb);
	struct ethhdr *frame;

	if (unlikely(!ip))
		return drop(skb, config, outcome, DROP_INVALID);
	if (unlikely(!decrement_ttl(ip)))
		return drop(skb, config, outcome, DROP_TTL_EXCEEDED);
	frame = (void *)ip - ETHERNET_BYTES;
	__builtin_memcpy(frame->h_dest, config->cilium_host_mac, sizeof(frame->h_dest));
	__builtin_memcpy(frame->h_source, config->cilium_host_mac, sizeof(frame->h_source));
	outcome->target_ifindex = config->cilium_net_ifindex;
	return finish(skb, config, outcome, VERDICT_TO_HOST, bpf_redirect(config->cilium_net_ifindex, 0));
}
#endif

#if (defined(HOST_ROUTING_BPF) && defined(ENCAPSULATION_NATIVE)) || defined(SERVICES)
// What the stack would do, without the stack: the kernel's routes decide, its neighbour table gives the MAC.
static SHARED int forward(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh next_hop = {};
	struct iphdr *ip = ipv4_header(skb);
	int result;

	if (unlikely(!ip))
		return drop(skb, config, outcome, DROP_INVALID);
	fib.family = AF_INET;
	fib.ifindex = skb->ifindex;
	fib.tos = ip->tos;
	fib.l4_protocol = ip->protocol;
	fib.ipv4_src = ip->saddr;
	fib.ipv4_dst = ip->daddr;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (unlikely(result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH))
		return drop(skb, config, outcome, DROP_NO_FIB);
	if (unlikely(!decrement_ttl(ip)))
		return drop(skb, config, outcome, DROP_TTL_EXCEEDED);
	next_hop.nh_family = AF_INET;
	next_hop.ipv4_nh = fib.ipv4_dst; // bpf_fib_lookup leaves the next hop here
	outcome->target_ifindex = fib.ifindex;
	return finish(skb, config, outcome, VERDICT_REDIRECT_NEIGH,
		      bpf_redirect_neigh(fib.ifindex, &next_hop, sizeof(next_hop), 0));
}
#endif
