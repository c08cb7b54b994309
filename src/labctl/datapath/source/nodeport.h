// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// NodePorts, for what comes from outside: at the uplink of the node that was asked, and on the way back through it.
//
// A backend of this node sees the client itself. One of another node is to answer this node, which is why the client's
// address is replaced: by cilium_host's where packets are tunnelled, by the node's own where they are routed. Both
// directions go past the stack of this node, in Legacy, too.
#pragma once

#define NOT_A_NODEPORT (-1)

static __always_inline int to_other_node(struct __sk_buff *skb, const struct config *config, struct outcome *outcome,
					 __be32 destination)
{
#ifdef ENCAPSULATION_VXLAN
	__be32 node = tunnel_endpoint_of(destination);

	if (node) {
		struct iphdr *ip = ipv4_header(skb);

		if (unlikely(!ip))
			return drop(skb, config, outcome, DROP_INVALID);
		if (unlikely(!decrement_ttl(ip)))
			return drop(skb, config, outcome, DROP_TTL_EXCEEDED);
		return encapsulate(skb, config, outcome, node, IDENTITY_WORLD);
	}
#endif
	return forward(skb, config, outcome);
}

// A packet to the node's own address. Gives the action for one that leaves for another node, or back to its client; one
// for a backend of this node is translated and goes on as every packet to a pod does.
static __noinline int at_nodeport(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
#ifdef ENCAPSULATION_VXLAN
	__be32 answered_at = config->router_address, destination;
#else
	__be32 answered_at = config->node_address, destination;
#endif
	int balanced = balance(skb, outcome, BALANCE_BEGINS, answered_at);
	struct iphdr *ip;

	if (balanced == LB_NONE || balanced == LB_OWN)
		return NOT_A_NODEPORT;
	if (balanced == DROP_NO_BACKEND)
		return refuse_connection(skb, config, outcome);
	if (is_drop(balanced))
		return drop(skb, config, outcome, balanced);
	if (balanced == LB_REPLY)
		return forward(skb, config, outcome);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, outcome, DROP_INVALID);
	destination = ip->daddr;
	if (bpf_map_lookup_elem(&endpoints, &destination))
		return NOT_A_NODEPORT;
#ifdef ENCAPSULATION_NATIVE
	skb->mark = MARK_RELAYED;
#endif
	return to_other_node(skb, config, outcome, destination);
}

#ifdef ENCAPSULATION_VXLAN
// A tunnelled packet to cilium_host's address: perhaps another node's backend answers.
static __noinline int answer_of_nodeport(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	int balanced = balance(skb, outcome, 0, 0);

	if (is_drop(balanced))
		return drop(skb, config, outcome, balanced);
	return balanced == LB_NONE || balanced == LB_OWN ? NOT_A_NODEPORT : forward(skb, config, outcome);
}
#endif
