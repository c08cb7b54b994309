// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Masquerading in eBPF, on the uplink: what leaves the cluster gets the node's address, replies get the pod's back.
//
// Ports and ICMP ids of masqueraded packets are 32768 and up. A port in that range is kept while nobody else has it.
// The node's own connections from that range are recorded too, so that no pod is given a port which the node uses.
#pragma once

#define NAT_FIRST_PORT 32768
#define NAT_ATTEMPTS 16

#define ICMP_CHECKSUM_OFFSET 2
#define ICMP_ID_OFFSET 4
#define ICMP_BYTES 8
#define IPV4_CHECKSUM_OFFSET 10
#define IPV4_SOURCE_OFFSET 12
#define IPV4_DESTINATION_OFFSET 16

#define PORT_OF_SOURCE 0
#define PORT_OF_DESTINATION 2

// Puts `address` and `port` into the source (or the destination) of a packet, with its checksums.
// Gives 0, or the reason to drop the packet for.
static __always_inline int rewrite(struct __sk_buff *skb, __u8 protocol, __u32 transport, bool has_header,
				   bool is_source, __be32 old_address, __be32 address, __be16 old_port, __be16 port)
{
	__u32 address_at = ETHERNET_BYTES + (is_source ? IPV4_SOURCE_OFFSET : IPV4_DESTINATION_OFFSET);
	__u32 port_at = transport + (is_source ? PORT_OF_SOURCE : PORT_OF_DESTINATION);
	__u32 sum_at = transport;
	__u64 flags = BPF_F_PSEUDO_HDR;
	bool has_pseudo_header = true;

	switch (protocol) {
	case IPPROTO_TCP:
		sum_at += 16;
		break;
	case IPPROTO_UDP:
		sum_at += 6;
		flags |= BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_ICMP:
		sum_at += ICMP_CHECKSUM_OFFSET;
		port_at = transport + ICMP_ID_OFFSET;
		has_pseudo_header = false;
		break;
	default:
		return DROP_NAT_UNSUPPORTED; // SCTP's checksum is a CRC over everything
	}
	if (has_header) {
		if (has_pseudo_header && bpf_l4_csum_replace(skb, sum_at, old_address, address, flags | 4))
			return DROP_WRITE;
		if (port != old_port) {
			if (bpf_l4_csum_replace(skb, sum_at, old_port, port, (flags & ~BPF_F_PSEUDO_HDR) | 2))
				return DROP_WRITE;
			if (bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0))
				return DROP_WRITE;
		}
	}
	if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + IPV4_CHECKSUM_OFFSET, old_address, address, 4))
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, address_at, &address, sizeof(address), 0) ? DROP_WRITE : 0;
}

// The mapping of an outgoing flow: the one it has, or a new one. `out` must be a SNAT_OUT key.
static __always_inline int mapping_of(const struct snat_key *out, __be32 node_address, struct snat_entry *mapping)
{
	struct snat_entry *known = bpf_map_lookup_elem(&snat, out);
	struct snat_key in = {
		.source = out->destination,
		.destination = node_address,
		.source_port = out->destination_port,
		.protocol = out->protocol,
		.direction = SNAT_IN,
	};
	struct snat_entry back = {.address = out->source, .port = out->source_port};
	__u16 port = bpf_ntohs(out->source_port);
	int attempt;

	if (likely(known)) {
		*mapping = *known;
		in.destination_port = known->port;
		// Keeps the way back as young as the way out; makes it anew if it was the oldest of a full map.
		if (likely(bpf_map_lookup_elem(&snat, &in)))
			return 0;
		back.created_ns = known->created_ns;
		return bpf_map_update_elem(&snat, &in, &back, BPF_NOEXIST) ? DROP_NAT_NO_PORT : 0;
	}
	back.created_ns = bpf_ktime_get_ns();
	for (attempt = 0; attempt < NAT_ATTEMPTS; attempt++) {
		if (attempt || port < NAT_FIRST_PORT)
			port = NAT_FIRST_PORT | (bpf_get_prandom_u32() & 0x7fff);
		in.destination_port = bpf_htons(port);
		if (!bpf_map_update_elem(&snat, &in, &back, BPF_NOEXIST)) {
			mapping->created_ns = back.created_ns;
			mapping->address = node_address;
			mapping->port = in.destination_port;
			mapping->unused = 0;
			bpf_map_update_elem(&snat, out, mapping, BPF_ANY);
			return 0;
		}
	}
	return DROP_NAT_NO_PORT;
}

// An address that pods are seen under their own address by: the pods' range; with native routing the nodes, too
// (with vxlan a node has no route back to a pod but through the tunnel).
static __always_inline bool is_reached_unmasqueraded(const struct config *config, __be32 address)
{
	if ((address & config->pod_mask) == config->pod_cidr)
		return true;
#ifdef ENCAPSULATION_NATIVE
	struct ipcache_entry *entry = bpf_map_lookup_elem(&ipcache, &address);

	return entry &&
	       (entry->identity == IDENTITY_REMOTE_NODE || entry->identity == IDENTITY_KUBE_APISERVER);
#else
	return false;
#endif
}

// At the uplink's egress. Gives 0 when the packet may go, else the reason to drop it for.
static __noinline int masquerade(struct __sk_buff *skb, const struct config *config)
{
	struct iphdr *ip = ipv4_header(skb);
	struct snat_key out = {};
	struct snat_entry mapping = {};
	struct ports ports;
	bool has_header, is_own;
	__u32 transport;
	__u8 protocol, icmp_type;
	__be32 source;
	int reason;

	if (!ip)
		return 0;
	source = ip->saddr;
	protocol = ip->protocol;
	transport = ETHERNET_BYTES + ip->ihl * 4;
	is_own = source == config->node_address;
	if (is_reached_unmasqueraded(config, ip->daddr))
		return 0;
	if (!is_own && source != config->router_address && !bpf_map_lookup_elem(&endpoints, &source))
		return 0;
	if (is_own && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_ICMP)
		return 0;
	reason = transport_ports(skb, ip, &ports, &has_header);
	if (reason)
		return is_own ? 0 : reason;
	if (protocol == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, transport, &icmp_type, sizeof(icmp_type)) ||
		    bpf_skb_load_bytes(skb, transport + ICMP_ID_OFFSET, &ports.source, sizeof(ports.source)))
			return DROP_INVALID;
		if (icmp_type == ICMP_ECHOREPLY)
			return 0;
		if (icmp_type != ICMP_ECHO)
			return is_own ? 0 : DROP_NAT_UNSUPPORTED;
		ports.destination = 0;
	}
	if (is_own && (bpf_ntohs(ports.source) < NAT_FIRST_PORT || ports.destination == bpf_htons(VXLAN_PORT)))
		return 0;
	out.direction = SNAT_OUT;
	out.source = source;
	out.destination = ip->daddr;
	out.source_port = ports.source;
	out.destination_port = ports.destination;
	out.protocol = protocol;
	reason = mapping_of(&out, config->node_address, &mapping);
	if (reason)
		return reason;
	if (mapping.address == source && mapping.port == ports.source)
		return 0;
	count(skb, PROGRAM_TO_NETDEV, VERDICT_MASQUERADED);
	return rewrite(skb, protocol, transport, has_header, true, source, mapping.address, ports.source, mapping.port);
}

// An ICMP error about a masqueraded packet: its receiver is the sender of the packet quoted inside.
static __always_inline int unmasquerade_error(struct __sk_buff *skb, const struct config *config, __u32 transport)
{
	__u32 quoted = transport + ICMP_BYTES, inner, port_at;
	struct snat_key in = {};
	struct snat_entry *entry;
	struct iphdr ip;
	struct ports ports = {};
	__be32 old_address = config->node_address, address;
	__be16 port;

	if (bpf_skb_load_bytes(skb, quoted, &ip, sizeof(ip)) || ip.version != 4 || ip.saddr != old_address)
		return 0;
	inner = quoted + ip.ihl * 4;
	port_at = inner;
	if (ip.protocol == IPPROTO_ICMP) {
		port_at += ICMP_ID_OFFSET;
		if (bpf_skb_load_bytes(skb, port_at, &ports.source, sizeof(ports.source)))
			return 0;
	} else if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, inner, &ports, sizeof(ports)))
			return 0;
	} else {
		return 0;
	}
	in.direction = SNAT_IN;
	in.source = ip.daddr;
	in.destination = ip.saddr;
	in.source_port = ports.destination;
	in.destination_port = ports.source;
	in.protocol = ip.protocol;
	entry = bpf_map_lookup_elem(&snat, &in);
	if (!entry)
		return 0;
	address = entry->address;
	port = entry->port;
	if (address == old_address && port == ports.source)
		return 0;
	// The quoted header's sum stays what it was (its own checksum takes up the change of address), so that the
	// error's checksum only sees the port.
	if (bpf_l3_csum_replace(skb, quoted + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, quoted + IPV4_SOURCE_OFFSET, &address, sizeof(address), 0))
		return DROP_WRITE;
	if (port != ports.source &&
	    (bpf_l4_csum_replace(skb, transport + ICMP_CHECKSUM_OFFSET, ports.source, port, 2) ||
	     bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0)))
		return DROP_WRITE;
	count(skb, PROGRAM_FROM_NETDEV, VERDICT_UNMASQUERADED);
	if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, ETHERNET_BYTES + IPV4_DESTINATION_OFFSET, &address, sizeof(address), 0))
		return DROP_WRITE;
	return 0;
}

// At the uplink's ingress, of a packet to the node's own address. Gives 0, or the reason to drop the packet for.
static __noinline int unmasquerade(struct __sk_buff *skb, const struct config *config)
{
	struct iphdr *ip = ipv4_header(skb);
	struct snat_key in = {};
	struct snat_entry *entry;
	struct ports ports;
	bool has_header;
	__u32 transport;
	__u8 protocol, icmp_type;
	__be32 address;
	__be16 port;

	if (!ip)
		return 0;
	protocol = ip->protocol;
	transport = ETHERNET_BYTES + ip->ihl * 4;
	in.direction = SNAT_IN;
	in.source = ip->saddr;
	in.destination = ip->daddr;
	in.protocol = protocol;
	if (transport_ports(skb, ip, &ports, &has_header))
		return 0;
	if (protocol == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, transport, &icmp_type, sizeof(icmp_type)))
			return 0;
		if (icmp_type == ICMP_DEST_UNREACH || icmp_type == ICMP_TIME_EXCEEDED || icmp_type == ICMP_PARAMETERPROB)
			return unmasquerade_error(skb, config, transport);
		if (icmp_type != ICMP_ECHOREPLY)
			return 0;
		if (bpf_skb_load_bytes(skb, transport + ICMP_ID_OFFSET, &ports.destination, sizeof(ports.destination)))
			return 0;
	}
	if (bpf_ntohs(ports.destination) < NAT_FIRST_PORT)
		return 0;
	in.source_port = ports.source;
	in.destination_port = ports.destination;
	entry = bpf_map_lookup_elem(&snat, &in);
	if (!entry || (entry->address == in.destination && entry->port == ports.destination))
		return 0;
	address = entry->address;
	port = entry->port;
	count(skb, PROGRAM_FROM_NETDEV, VERDICT_UNMASQUERADED);
	return rewrite(skb, protocol, transport, has_header, false, in.destination, address, ports.destination, port);
}
