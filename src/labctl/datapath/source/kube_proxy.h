// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Beside kube-proxy: what the node's netfilter has translated must come back to it.
//
// A pod's packet to a Service goes to the node's stack, where netfilter gives it a backend's address. Between pods the
// programs would send the backend's answer past the stack, to a client that has never heard of the backend. So they keep
// the flows of the node's own pods that came back from the stack with another pod's address, and hand the answers to
// the stack, too.
#pragma once

#ifdef KUBE_PROXY

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, __u64);
} stack_flows SEC(".maps");

// The flow that a packet belongs to, from its client to the backend; of an ICMP error that of the packet it quotes.
// False for what has no ports.
static __always_inline bool flow_of(struct __sk_buff *skb, struct flow_key *flow, bool is_answer)
{
	struct iphdr *ip = ipv4_header(skb);
	struct ports ports;
	bool has_header;
	__u32 transport;
	__u8 type;

	if (!ip)
		return false;
	flow->protocol = ip->protocol;
	flow->source = is_answer ? ip->daddr : ip->saddr;
	flow->destination = is_answer ? ip->saddr : ip->daddr;
	transport = ETHERNET_BYTES + ip->ihl * 4;
	if (is_answer && ip->protocol == IPPROTO_ICMP && is_first_fragment(ip)) {
		struct iphdr quoted;

		if (bpf_skb_load_bytes(skb, transport, &type, sizeof(type)) ||
		    (type != ICMP_DEST_UNREACH && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETERPROB))
			return false;
		transport += ICMP_BYTES;
		if (bpf_skb_load_bytes(skb, transport, &quoted, sizeof(quoted)) || quoted.version != 4)
			return false;
		if (bpf_skb_load_bytes(skb, transport + quoted.ihl * 4, &ports, sizeof(ports)))
			return false;
		flow->protocol = quoted.protocol;
		flow->source = quoted.saddr;
		flow->destination = quoted.daddr;
		flow->source_port = ports.source;
		flow->destination_port = ports.destination;
		return true;
	}
	if (ip->protocol == IPPROTO_ICMP || transport_ports(skb, ip, &ports, &has_header))
		return false;
	flow->source_port = is_answer ? ports.destination : ports.source;
	flow->destination_port = is_answer ? ports.source : ports.destination;
	return true;
}

// At cilium_host's egress, of what the stack sends to a pod. Only what it has translated comes here from a pod of this
// node: everything else goes from pod to pod without the stack.
static __noinline int note_translated(struct __sk_buff *skb)
{
	struct iphdr *ip = ipv4_header(skb);
	struct flow_key flow = {};
	__be32 source;
	__u64 now;

	if (!ip)
		return 0;
	source = ip->saddr;
	if (!bpf_map_lookup_elem(&endpoints, &source) || !flow_of(skb, &flow, false))
		return 0;
	if (bpf_map_lookup_elem(&stack_flows, &flow)) // which keeps it young
		return 0;
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&stack_flows, &flow, &now, BPF_ANY);
	return 0;
}

// Whether a packet to a pod of this node answers what the node's netfilter has translated.
static __noinline int answers_translated(struct __sk_buff *skb)
{
	struct flow_key flow = {};

	return flow_of(skb, &flow, true) && bpf_map_lookup_elem(&stack_flows, &flow);
}

#endif
