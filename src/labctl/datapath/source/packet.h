// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Frames and IPv4 headers: reading them, and what every forwarding step changes in them.
#pragma once

#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

// libbpf 1.6 and later has both in bpf_helpers.h, with the same meaning.
#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#endif
#ifndef unlikely
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

// The IPv4 header of the frame, or NULL when the frame is too short for one. Valid until a helper changes the packet.
static __always_inline struct iphdr *ipv4_header(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (unlikely(data + ETHERNET_BYTES + IPV4_BYTES > end)) {
		if (bpf_skb_pull_data(skb, ETHERNET_BYTES + IPV4_BYTES))
			return NULL;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + ETHERNET_BYTES + IPV4_BYTES > end)
			return NULL;
	}
	return data + ETHERNET_BYTES;
}

static __always_inline bool is_tunnel_port(__be16 port)
{
	return port == bpf_htons(VXLAN_PORT) || port == bpf_htons(GENEVE_PORT);
}

static __always_inline bool is_fragment(const struct iphdr *ip)
{
	return ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET);
}

static __always_inline bool is_first_fragment(const struct iphdr *ip)
{
	return !(ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET));
}

// One hop: TTL less one, checksum kept right (RFC 1624). False when the packet has no hop left.
static __always_inline bool decrement_ttl(struct iphdr *ip)
{
	__u32 sum;

	if (ip->ttl <= 1)
		return false;
	ip->ttl--;
	sum = (__u32)ip->check + bpf_htons(0x0100);
	ip->check = (__sum16)(sum + (sum >= 0xffff));
	return true;
}

// What Cilium's connection tracking knows; it drops everything else that a pod sends.
static __always_inline bool is_known_protocol(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP ||
	       protocol == IPPROTO_SCTP;
}

// The transport ports of a packet, also of a later fragment whose first one was seen. For ICMP: 0 and 0.
// Gives 0, or the reason to drop the packet for. `has_header` is cleared for a later fragment. A later fragment of
// ICMP is dropped, as Cilium does: it has nothing that its first one could be found by. So is a header that says it is
// shorter than one can be: what would be taken for its ports, and rewritten, is its own addresses.
static __always_inline int transport_ports(struct __sk_buff *skb, const struct iphdr *ip, struct ports *ports,
					   bool *has_header)
{
	struct fragment_key key = {};
	struct ports *seen;
	__u32 offset = ETHERNET_BYTES + ip->ihl * 4;
	__u8 protocol = ip->protocol;
	bool first = is_first_fragment(ip);
	bool fragmented = is_fragment(ip);

	ports->source = ports->destination = 0;
	*has_header = first;
	if (unlikely(ip->ihl * 4 < IPV4_BYTES))
		return DROP_INVALID;
	if (!is_known_protocol(protocol))
		return DROP_UNKNOWN_PROTOCOL;
	if (protocol == IPPROTO_ICMP)
		return first ? 0 : DROP_INVALID;
	if (unlikely(fragmented)) {
		key.source = ip->saddr;
		key.destination = ip->daddr;
		key.id = ip->id;
		key.protocol = protocol;
		if (!first) {
			seen = bpf_map_lookup_elem(&fragments, &key);
			if (!seen)
				return DROP_FRAGMENT_NOT_FOUND;
			*ports = *seen;
			return 0;
		}
	}
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(*ports)))
		return DROP_INVALID;
	if (unlikely(fragmented))
		bpf_map_update_elem(&fragments, &key, ports, BPF_ANY);
	return 0;
}
