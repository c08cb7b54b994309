// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// ARP on the lxc: the pod asks for its gateway and hears the lxc's own MAC.
#pragma once

struct arp {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

// Every request is answered, whatever address it asks for (a pod has no neighbour but its gateway, whose address may
// have changed since the pod got its route), except one for the pod's own: that is how duplicates are detected.
static __always_inline int answer_arp(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	struct ethhdr *frame;
	struct endpoint *endpoint;
	struct arp *arp;
	__be32 sender;

	if (bpf_skb_pull_data(skb, ETHERNET_BYTES + sizeof(struct arp)))
		return drop(skb, config, outcome, DROP_INVALID);
	frame = (void *)(long)skb->data;
	arp = (void *)(frame + 1);
	if ((void *)(arp + 1) > (void *)(long)skb->data_end)
		return drop(skb, config, outcome, DROP_INVALID);
	if (arp->hardware_type != bpf_htons(1) || arp->protocol_type != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return drop(skb, config, outcome, DROP_INVALID);
	if (arp->operation != bpf_htons(1) || arp->target == arp->sender)
		return finish(skb, config, outcome, VERDICT_TO_STACK, TC_ACT_OK);
	sender = arp->sender;
	endpoint = bpf_map_lookup_elem(&endpoints, &sender);
	if (!endpoint || endpoint->ifindex != skb->ifindex)
		return drop(skb, config, outcome, DROP_INVALID_SOURCE);
	arp->operation = bpf_htons(2);
	__builtin_memcpy(arp->target_mac, endpoint->mac, 6);
	__builtin_memcpy(arp->sender_mac, endpoint->lxc_mac, 6);
	arp->sender = arp->target;
	arp->target = sender;
	__builtin_memcpy(frame, endpoint->mac, 12);
	outcome->target_ifindex = skb->ifindex;
	return finish(skb, config, outcome, VERDICT_ARP_REPLY, bpf_redirect(skb->ifindex, 0));
}
