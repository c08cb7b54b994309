// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The datapath of labctl's netns provider: tc programs with the names, hooks and helpers of Cilium's. It is not Cilium.
//
// One source gives eight objects: HOST_ROUTING_LEGACY or HOST_ROUTING_BPF, with ENCAPSULATION_VXLAN or
// ENCAPSULATION_NATIVE, and each of them with SERVICES, too. As in Cilium the mode is decided when compiling; what differs
// from node to node is in the maps.
// What every tap sees of these programs is held against packets recorded on a real cluster: docs/datapath.md.
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#if defined(HOST_ROUTING_LEGACY) == defined(HOST_ROUTING_BPF)
#error "define one of HOST_ROUTING_LEGACY and HOST_ROUTING_BPF"
#endif
#if defined(ENCAPSULATION_VXLAN) == defined(ENCAPSULATION_NATIVE)
#error "define one of ENCAPSULATION_VXLAN and ENCAPSULATION_NATIVE"
#endif
#if defined(KUBE_PROXY) && defined(HOST_ROUTING_BPF)
#error "BPF host routing goes past the netfilter that kube-proxy's rules are in"
#endif

#define AF_INET 2
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define VXLAN_PORT 8472
#define GENEVE_PORT 6081
// Of either header; no tunnel of these programs has Geneve's options. Both have the VNI at the same place.
#define TUNNEL_BYTES 8
#define DELAY_ROUNDS 64
#define DELAY_READS 64

#include "maps.h"
#include "packet.h"

#include "outcome.h"

#include "arp.h"
#include "deliver.h"
#include "snat.h"
#ifdef SERVICES
#include "lb.h"
#endif
#include "kube_proxy.h"

char _license[] SEC("license") = "GPL"; // the kernel asks for it before it lends some of its helpers

static __always_inline const struct config *read_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

// The known slowdown that comparisons are tested with. It is here and nowhere else: once for every IPv4 packet that a
// pod sends, so twice in a round trip between pods. The verifier walks through every round, which is why one has many
// readings of the clock; layout.py says how long this can wait. What is left when no whole round fits any more is waited
// for reading by reading, so that the end is as near to what was asked as the clock can tell.
static __always_inline void busy_wait(__u64 delay_ns)
{
	__u64 start = bpf_ktime_get_ns(), now = bpf_ktime_get_ns(), round_ns = (now - start) * DELAY_READS;
	int round, read;

	for (round = 0; round < DELAY_ROUNDS; round++) {
		if (now - start + round_ns >= delay_ns)
			break;
#pragma unroll
		for (read = 0; read < DELAY_READS - 1; read++)
			bpf_ktime_get_ns();
		now = bpf_ktime_get_ns();
	}
	for (read = 0; read < 3 * DELAY_READS; read++)
		if (bpf_ktime_get_ns() - start >= delay_ns)
			break;
}

#ifdef SERVICES
#include "socket.h"
#include "nodeport.h"
#endif

// What this node sends on for a client outside, with the node's own address as source: nodeport.h.
static __always_inline bool is_relayed(const struct __sk_buff *skb)
{
#ifdef SERVICES
	return skb->mark == MARK_RELAYED;
#else
	return false;
#endif
}

static __always_inline void note_addresses(struct outcome *outcome, const struct iphdr *ip)
{
	outcome->source = ip->saddr;
	outcome->destination = ip->daddr;
	outcome->ttl = ip->ttl;
}

// Delivers to a pod of this node what came from elsewhere; an answer of a Service that the pod's packets are translated
// for gets the Service's address back first.
static __always_inline int arrive(struct __sk_buff *skb, const struct config *config, struct outcome *outcome,
				  const struct endpoint *receiver, bool at_ingress)
{
#ifdef SERVICES
	if (config->flags & FLAG_PACKET_LB) {
		int balanced = balance(skb, outcome, 0, 0);

		if (is_drop(balanced))
			return drop(skb, config, outcome, balanced);
	}
#endif
	return deliver(skb, config, outcome, receiver, at_ingress);
}

// lxc, ingress: what a pod sends.
SEC("tc")
int cil_from_container(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct endpoint *sender, *receiver;
	struct iphdr *ip;
	__be32 source, destination;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_FROM_CONTAINER;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, config, &outcome);
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return drop(skb, config, &outcome, DROP_UNSUPPORTED_L3);
	if (unlikely(config->extra_delay_ns))
		busy_wait(config->extra_delay_ns);
	ip = ipv4_header(skb);
	if (unlikely(!ip))
		return drop(skb, config, &outcome, DROP_INVALID);
	note_addresses(&outcome, ip);
	source = ip->saddr;
	destination = ip->daddr;
	sender = bpf_map_lookup_elem(&endpoints, &source);
	if (unlikely(!sender || sender->ifindex != skb->ifindex))
		return drop(skb, config, &outcome, DROP_INVALID_SOURCE);
	outcome.identity = sender->identity;
	if (unlikely(is_fragment(ip) || !is_known_protocol(ip->protocol))) {
		struct ports ports;
		bool has_header;
		int reason = transport_ports(skb, ip, &ports, &has_header);

		if (reason)
			return drop(skb, config, &outcome, reason);
	}

#ifdef SERVICES
	int balanced = LB_NONE;

	if (config->flags & (FLAG_PACKET_LB | FLAG_NODEPORT)) {
		__u32 begins = config->flags & FLAG_PACKET_LB ? BALANCE_BEGINS | BALANCE_OWN : 0;

		balanced = balance(skb, &outcome, begins | BALANCE_FROM_INSIDE, 0);
		if (balanced == DROP_NO_BACKEND)
			return refuse_connection(skb, config, &outcome);
		if (is_drop(balanced))
			return drop(skb, config, &outcome, balanced);
		ip = ipv4_header(skb);
		if (!ip)
			return drop(skb, config, &outcome, DROP_INVALID);
		destination = ip->daddr;
	}
#endif
	receiver = bpf_map_lookup_elem(&endpoints, &destination);
#ifdef KUBE_PROXY
	if (receiver && answers_translated(skb))
		return to_stack(skb, config, &outcome);
#endif
	if (receiver)
		return deliver(skb, config, &outcome, receiver, true);
#ifdef SERVICES
	// The answer of a NodePort goes back to where the request came from, past the stack in both modes.
	if (balanced == LB_REPLY)
		return forward(skb, config, &outcome);
#endif
	if (destination == config->node_address || destination == config->router_address)
		return to_stack(skb, config, &outcome);
#ifdef ENCAPSULATION_VXLAN
	__be32 node = tunnel_endpoint_of(destination);

	if (node)
		return encapsulate(skb, config, &outcome, node, sender->identity);
	return to_stack(skb, config, &outcome);
#elif defined(HOST_ROUTING_BPF)
	return forward(skb, config, &outcome);
#else
	return to_stack(skb, config, &outcome);
#endif
}

// cilium_host, egress: what the node's stack routes to pods, its own packets and those it forwards.
SEC("tc")
int cil_from_host(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct endpoint *receiver;
	struct iphdr *ip;
	__be32 destination;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_FROM_HOST;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return finish(skb, config, &outcome, VERDICT_PASS, TC_ACT_OK);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, &outcome, DROP_INVALID);
	note_addresses(&outcome, ip);
	destination = ip->daddr;
#ifdef KUBE_PROXY
	note_translated(skb);
#endif
	receiver = bpf_map_lookup_elem(&endpoints, &destination);
	if (receiver)
		return arrive(skb, config, &outcome, receiver, false);
	if (destination == config->node_address || destination == config->router_address)
		return finish(skb, config, &outcome, VERDICT_PASS, TC_ACT_OK);
#ifdef ENCAPSULATION_VXLAN
	__be32 source = outcome.source, node = tunnel_endpoint_of(destination);

	if (node) {
		bool is_own = source == config->node_address || source == config->router_address;
#ifdef SERVICES
		if (config->flags & FLAG_NODEPORT) {
			int reason = keep_apart(skb, &outcome, config->router_address);

			if (reason)
				return drop(skb, config, &outcome, reason);
		}
#endif
		struct ipcache_entry *sender = is_own ? NULL : bpf_map_lookup_elem(&ipcache, &source);
		__u32 identity = is_own ? IDENTITY_REMOTE_NODE : sender ? sender->identity : IDENTITY_WORLD;

		return encapsulate(skb, config, &outcome, node, identity);
	}
#endif
	// Passing it on would bring it to cilium_net, back to the stack and here again.
	return drop(skb, config, &outcome, DROP_UNROUTABLE);
}

// cilium_host and cilium_net, ingress: what goes to the node's stack.
SEC("tc")
int cil_to_host(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct iphdr *ip;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_TO_HOST;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		ip = ipv4_header(skb);
		if (ip)
			note_addresses(&outcome, ip);
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
	}
	return finish(skb, config, &outcome, VERDICT_TO_STACK, TC_ACT_OK);
}

// uplink, ingress: what comes from other nodes and from outside.
SEC("tc")
int cil_from_netdev(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct iphdr *ip;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_FROM_NETDEV;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return finish(skb, config, &outcome, VERDICT_TO_STACK, TC_ACT_OK);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, &outcome, DROP_INVALID);
	note_addresses(&outcome, ip);
#ifdef SERVICES
	if ((config->flags & FLAG_NODEPORT) && ip->daddr == config->node_address) {
		int action = at_nodeport(skb, config, &outcome);

		if (action != NOT_A_NODEPORT)
			return action;
		ip = ipv4_header(skb);
		if (!ip)
			return drop(skb, config, &outcome, DROP_INVALID);
	}
#endif
	if ((config->flags & FLAG_MASQUERADE) && ip->daddr == config->node_address) {
		int reason = unmasquerade(skb, config);

		if (reason)
			return drop(skb, config, &outcome, reason);
#ifdef HOST_ROUTING_BPF
		ip = ipv4_header(skb);
		if (!ip)
			return drop(skb, config, &outcome, DROP_INVALID);
#endif
	}
#ifdef HOST_ROUTING_BPF
	__be32 destination = ip->daddr;
	struct endpoint *receiver = bpf_map_lookup_elem(&endpoints, &destination);

	if (receiver)
		return arrive(skb, config, &outcome, receiver, true);
#endif
	// Legacy leaves pods' packets to the stack, so that netfilter and conntrack see them.
	return finish(skb, config, &outcome, VERDICT_TO_STACK, TC_ACT_OK);
}

// uplink, egress: what leaves the node.
SEC("tc")
int cil_to_netdev(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct iphdr *ip;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_TO_NETDEV;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return finish(skb, config, &outcome, VERDICT_PASS, TC_ACT_OK);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, &outcome, DROP_INVALID);
	note_addresses(&outcome, ip);
#ifdef SERVICES
	// As recorded: masquerading in eBPF does not know what to do with an ICMP error of the datapath itself.
	if ((config->flags & FLAG_MASQUERADE) && skb->mark == MARK_NO_BACKEND)
		return drop(skb, config, &outcome, DROP_UNKNOWN_ICMP_CODE);
#endif
	if ((config->flags & FLAG_MASQUERADE) && !is_relayed(skb)) { // its source is translated already
		int reason = masquerade(skb, config);

		if (reason)
			return drop(skb, config, &outcome, reason);
	}
#if defined(SERVICES) && defined(ENCAPSULATION_NATIVE)
	if ((config->flags & FLAG_NODEPORT) && !is_relayed(skb)) {
		int reason = keep_apart(skb, &outcome, config->node_address);

		if (reason)
			return drop(skb, config, &outcome, reason);
	}
#endif
	return finish(skb, config, &outcome, VERDICT_PASS, TC_ACT_OK);
}

#ifdef ENCAPSULATION_VXLAN
// cilium_vxlan, ingress: what was inside the envelope.
SEC("tc")
int cil_from_overlay(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct bpf_tunnel_key key = {};
	struct endpoint *receiver;
	struct iphdr *ip;
	__be32 destination;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_FROM_OVERLAY;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return finish(skb, config, &outcome, VERDICT_TO_STACK, TC_ACT_OK);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, &outcome, DROP_INVALID);
	note_addresses(&outcome, ip);
	if (bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, 0))
		return drop(skb, config, &outcome, DROP_INVALID);
	outcome.identity = key.tunnel_id;
	if (key.tunnel_id == IDENTITY_HOST) // only a node itself is its host
		return drop(skb, config, &outcome, DROP_INVALID_IDENTITY);
	destination = ip->daddr;
	receiver = bpf_map_lookup_elem(&endpoints, &destination);
#ifdef KUBE_PROXY
	if (receiver && answers_translated(skb)) {
		// The frame inside has a pod's device as destination: the stack would call it someone else's.
		bpf_skb_change_type(skb, PACKET_HOST);
		return finish(skb, config, &outcome, VERDICT_TO_STACK, TC_ACT_OK);
	}
#endif
	if (receiver)
		return arrive(skb, config, &outcome, receiver, true);
#ifdef SERVICES
	if ((config->flags & FLAG_NODEPORT) && destination == config->router_address) {
		int action = answer_of_nodeport(skb, config, &outcome);

		if (action != NOT_A_NODEPORT)
			return action;
	}
#endif
	return to_host(skb, config, &outcome);
}

// cilium_vxlan, egress: about to be put into its envelope.
SEC("tc")
int cil_to_overlay(struct __sk_buff *skb)
{
	struct outcome outcome = {};
	const struct config *config = read_config();
	struct bpf_tunnel_key key = {};
	struct iphdr *ip;

	if (!config)
		return TC_ACT_SHOT;
	outcome.program = PROGRAM_TO_OVERLAY;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		ip = ipv4_header(skb);
		if (ip)
			note_addresses(&outcome, ip);
		if (unlikely(config->flags & FLAG_TRACE) && !bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_BYTES, 0))
			outcome.identity = key.tunnel_id;
	}
	return finish(skb, config, &outcome, VERDICT_PASS, TC_ACT_OK);
}
#endif
