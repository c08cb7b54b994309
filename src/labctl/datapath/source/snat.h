// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Masquerading in eBPF, on the uplink: what leaves the cluster gets the node's address, replies get the pod's back.
//
// Ports and ICMP ids of masqueraded packets are 32768 and up. A port in that range is kept while nobody else has it.
// The node's own connections from that range are recorded too, so that no pod is given a port which the node uses.
//
// A mapping has two entries, one a direction, which live as long as their connection is used (lifetime.h). One whose time
// is up is none: its port is free. What takes it away is the next mapping that needs the port, and every new mapping looks
// at the oldest few; nothing else does while no connections begin, but labctl when it reads the table.
#pragma once

#include "lifetime.h"

#define NAT_FIRST_PORT 32768
#define NAT_ATTEMPTS 32
#define NAT_COLLECTED 4
#define NAT_COLLECTED_PRESSING 32
#define NO_ROOM (-7) // E2BIG: a hash map that is full

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

static __always_inline void way_back(const struct snat_key *out, __be32 node_address, __be16 port, struct snat_key *in)
{
	__builtin_memset(in, 0, sizeof(*in));
	in->source = out->destination;
	in->destination = node_address;
	in->source_port = out->destination_port;
	in->destination_port = port;
	in->protocol = out->protocol;
	in->direction = SNAT_IN;
}

static __always_inline void way_out(const struct snat_key *in, const struct snat_entry *entry, struct snat_key *out)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->source = entry->address;
	out->destination = in->source;
	out->source_port = entry->port;
	out->destination_port = in->source_port;
	out->protocol = in->protocol;
	out->direction = SNAT_OUT;
}

// What both entries of a mapping know; `other` is the key of the entry of the other direction.
static __always_inline __u16 state_of_both(const struct snat_entry *entry, const struct snat_key *other)
{
	struct snat_entry *back = bpf_map_lookup_elem(&snat, other);

	return back ? entry->state | back->state : entry->state;
}

// Both entries of a mapping as young as its last packet: at most once a second, unless the state changes. `other` is the
// key of the entry of the other direction.
//
// Both directions may be at work at once, on two CPUs. So each writes its FIN into its own entry only: were it one word
// for both, two FINs that meet would leave one, and the mapping would stay for hours. An answer and a reset are written
// into both. Whoever has closed reads the other's entry, until the last acknowledgement.
static __noinline int keep_mapping(const struct snat_key *key, struct snat_entry *entry, const struct snat_key *other,
				   __u64 now, __u8 tcp_flags)
{
	bool is_reply = key->direction == SNAT_IN, is_new;
	__u16 own_fin = is_reply ? FLOW_REPLY_FIN : FLOW_REQUEST_FIN;
	__u16 before = entry->state, own = before, state;
	struct snat_entry *back;
	__u64 expires;

	is_new = !is_reply && (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
		 is_closing(key->protocol, state_of_both(entry, other));
	if (is_new)
		own = 0; // the same ports again, for another connection
	if (is_reply)
		own |= FLOW_REPLIED;
	if (tcp_flags & TCP_FIN)
		own |= own_fin;
	if (tcp_flags & TCP_RST)
		own |= FLOW_RESET;
	entry->state = own;
	state = own & own_fin && !is_new ? state_of_both(entry, other) : own;
	expires = now + lifetime_of(key->protocol, state);
	if (likely(own == before && expires < entry->expires_ns + REFRESH_NS &&
		   entry->expires_ns < expires + REFRESH_NS))
		return 0;
	entry->expires_ns = expires;
	back = bpf_map_lookup_elem(&snat, other);
	if (!back)
		return 0;
	back->expires_ns = expires;
	if (is_new)
		back->state = 0;
	else if (own & ~back->state & (FLOW_REPLIED | FLOW_RESET))
		back->state |= own & (FLOW_REPLIED | FLOW_RESET);
	return 0;
}

// Functions that are not static are verified once, with any arguments, and not in each state of their callers. So the body
// of a loop is one: otherwise the kernel walks through every turn of it, which takes most of the time of a load. Before
// kernel 5.12 they take numbers alone.

// Looks at the oldest mapping, and removes it when its time is up; else it goes to the end of the queue. Pressing, when
// there is no room: also when it was closed, or never answered. 0, or 1 when there is none.
__noinline int collect_oldest(__be32 node_address, __u64 now, __u32 pressing)
{
	struct snat_key out, in;
	struct snat_entry *entry;
	__u16 state;

	if (bpf_map_pop_elem(&snat_queue, &out))
		return 1;
	entry = bpf_map_lookup_elem(&snat, &out);
	if (!entry)
		return 0;
	way_back(&out, node_address, entry->port, &in);
	state = pressing ? state_of_both(entry, &in) : 0;
	if (now < entry->expires_ns && !(pressing && (is_closing(out.protocol, state) || !(state & FLOW_REPLIED)))) {
		bpf_map_push_elem(&snat_queue, &out, 0);
		return 0;
	}
	bpf_map_delete_elem(&snat, &in);
	bpf_map_delete_elem(&snat, &out);
	return 0;
}

#define NEW_MAPPING_PRESSING 0x100
#define NEW_MAPPING_RANDOM 0x200
#define NAT_PORT_TAKEN (-1000)

// One attempt at a new mapping of an outgoing flow: with its own port or (NEW_MAPPING_RANDOM) a random one. Pressing, it
// may be that of a connection that was closed. The port, in network order; NAT_PORT_TAKEN; or the reason to drop the packet
// for, negated.
__noinline int try_mapping(__be32 source, __be32 destination, __u32 ports, __u32 how, __be32 node_address)
{
	struct snat_key in, old, out = {
		.source = source,
		.destination = destination,
		.source_port = (__be16)ports,
		.destination_port = (__be16)(ports >> 16),
		.protocol = (__u8)how,
		.direction = SNAT_OUT,
	};
	__u64 now = bpf_ktime_get_ns();
	struct snat_entry back = {.created_ns = now, .address = source, .port = out.source_port};
	__u16 port = bpf_ntohs(out.source_port);
	struct snat_entry *taken;
	int refused;

	back.expires_ns = now + lifetime_of(out.protocol, 0);
	if (how & NEW_MAPPING_RANDOM)
		port = NAT_FIRST_PORT | (bpf_get_prandom_u32() & 0x7fff);
	way_back(&out, node_address, bpf_htons(port), &in);
	taken = bpf_map_lookup_elem(&snat, &in);
	if (taken) {
		way_out(&in, taken, &old);
		if (now < taken->expires_ns &&
		    !(how & NEW_MAPPING_PRESSING && is_closing(out.protocol, state_of_both(taken, &old))))
			return NAT_PORT_TAKEN;
		bpf_map_delete_elem(&snat, &old);
		bpf_map_delete_elem(&snat, &in);
	}
	refused = bpf_map_update_elem(&snat, &in, &back, BPF_NOEXIST);
	if (refused == NO_ROOM)
		return -DROP_NAT_FULL;
	if (refused)
		return NAT_PORT_TAKEN; // another CPU took it
	back.address = node_address;
	back.port = bpf_htons(port);
	if (bpf_map_update_elem(&snat, &out, &back, BPF_ANY)) {
		bpf_map_delete_elem(&snat, &in);
		return -DROP_NAT_FULL;
	}
	bpf_map_push_elem(&snat_queue, &out, 0);
	return back.port;
}

// A new mapping of an outgoing flow, after a look at the oldest ones: the port that it was given, in network order, or less
// than 0: the reason to drop the packet for, negated.
__noinline int new_mapping(__be32 source, __be32 destination, __u32 ports, __u32 how, __be32 node_address)
{
	__u64 now = bpf_ktime_get_ns();
	int number, given, most = how & NEW_MAPPING_PRESSING ? NAT_COLLECTED_PRESSING : NAT_COLLECTED;

#pragma clang loop unroll(disable)
	for (number = 0; number < NAT_COLLECTED_PRESSING; number++) {
		if (number >= most || collect_oldest(node_address, now, how & NEW_MAPPING_PRESSING))
			break;
	}
	if (bpf_ntohs((__be16)ports) < NAT_FIRST_PORT)
		how |= NEW_MAPPING_RANDOM;
#pragma clang loop unroll(disable)
	for (number = 0; number < NAT_ATTEMPTS; number++) {
		given = try_mapping(source, destination, ports, how, node_address);
		if (given != NAT_PORT_TAKEN)
			return given;
		how |= NEW_MAPPING_RANDOM;
	}
	return -DROP_NAT_NO_PORT;
}

// The mapping of an outgoing flow: the one it has, or a new one. `out` must be a SNAT_OUT key.
static __always_inline int mapping_of(const struct snat_key *out, __be32 node_address, __u8 tcp_flags,
				      struct snat_entry *mapping)
{
	struct snat_entry *known = bpf_map_lookup_elem(&snat, out);
	__u64 now = bpf_ktime_get_ns();
	struct snat_key in;
	__u32 ports = out->source_port | (__u32)out->destination_port << 16;
	int given;

	if (likely(known)) {
		way_back(out, node_address, known->port, &in);
		if (likely(now < known->expires_ns)) {
			*mapping = *known;
			return keep_mapping(out, known, &in, now, tcp_flags);
		}
		bpf_map_delete_elem(&snat, &in);
		bpf_map_delete_elem(&snat, out);
	}
	given = new_mapping(out->source, out->destination, ports, out->protocol, node_address);
	if (unlikely(given < 0))
		given = new_mapping(out->source, out->destination, ports, out->protocol | NEW_MAPPING_PRESSING, node_address);
	if (given < 0)
		return -given;
	mapping->address = node_address;
	mapping->port = (__be16)given;
	return 0;
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

static __always_inline bool is_error(__u8 icmp_type)
{
	return icmp_type == ICMP_DEST_UNREACH || icmp_type == ICMP_TIME_EXCEEDED || icmp_type == ICMP_PARAMETERPROB;
}

// The packet that an ICMP error quotes: the key of the mapping that it went by, if any.
struct quoted {
	struct snat_key key;
	__u32 header;  // where its IPv4 header is
	__u32 port_at; // where the port, or ICMP id, is of the end that was masqueraded
	__be16 port;
};

// `was_sent`: the packet that is quoted was masqueraded on its way out; else it is an answer, as the pod got it.
static __noinline int read_quoted(struct __sk_buff *skb, __u32 transport, bool was_sent, struct quoted *quoted)
{
	struct ports ports = {};
	struct iphdr ip;
	__u32 inner;

	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->header = transport + ICMP_BYTES;
	if (bpf_skb_load_bytes(skb, quoted->header, &ip, sizeof(ip)) || ip.version != 4 ||
	    ip.ihl * 4 < IPV4_BYTES || !is_first_fragment(&ip))
		return 0;
	inner = quoted->header + ip.ihl * 4;
	quoted->port_at = inner + (was_sent ? PORT_OF_SOURCE : PORT_OF_DESTINATION);
	if (ip.protocol == IPPROTO_ICMP) {
		quoted->port_at = inner + ICMP_ID_OFFSET;
		if (bpf_skb_load_bytes(skb, quoted->port_at, was_sent ? &ports.source : &ports.destination, 2))
			return 0;
	} else if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, inner, &ports, sizeof(ports)))
			return 0;
	} else {
		return 0;
	}
	if (was_sent) { // the way back of its mapping
		quoted->key.direction = SNAT_IN;
		quoted->port = ports.source;
		quoted->key.source_port = ports.destination;
		quoted->key.destination_port = ports.source;
	} else {
		quoted->key.direction = SNAT_OUT;
		quoted->port = ports.destination;
		quoted->key.source_port = ports.destination;
		quoted->key.destination_port = ports.source;
	}
	quoted->key.source = ip.daddr;
	quoted->key.destination = ip.saddr;
	quoted->key.protocol = ip.protocol;
	return 1;
}

// Puts `address` and `port` in place of one end of the quoted packet, and `address` into the error's own header. The
// quoted header's sum stays what it was (its own checksum takes up the change of address), so that the error's checksum
// sees the port alone.
static __noinline int rewrite_error(struct __sk_buff *skb, const struct quoted *quoted, const struct snat_entry *entry,
				    bool was_sent)
{
	__be32 old_address = was_sent ? quoted->key.destination : quoted->key.source, address = entry->address;
	__be16 old_port = quoted->port, port = entry->port;
	__u32 quoted_at = quoted->header + (was_sent ? IPV4_SOURCE_OFFSET : IPV4_DESTINATION_OFFSET);
	__u32 address_at = ETHERNET_BYTES + (was_sent ? IPV4_DESTINATION_OFFSET : IPV4_SOURCE_OFFSET);
	__u32 sum_at = quoted->header - ICMP_BYTES + ICMP_CHECKSUM_OFFSET;

	if (bpf_l3_csum_replace(skb, quoted->header + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, quoted_at, &address, sizeof(address), 0))
		return DROP_WRITE;
	if (port != old_port && (bpf_l4_csum_replace(skb, sum_at, old_port, port, 2) ||
				 bpf_skb_store_bytes(skb, quoted->port_at, &port, sizeof(port), 0)))
		return DROP_WRITE;
	if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, address_at, &address, sizeof(address), 0))
		return DROP_WRITE;
	return 0;
}

// A pod's ICMP error about an answer that it got: the answer came to the node's address.
static __noinline int masquerade_error(struct __sk_buff *skb, const struct config *config, __u32 transport)
{
	struct quoted quoted;
	struct snat_entry *entry;

	if (!read_quoted(skb, transport, false, &quoted))
		return DROP_NAT_UNSUPPORTED;
	entry = bpf_map_lookup_elem(&snat, &quoted.key);
	if (!entry || bpf_ktime_get_ns() >= entry->expires_ns)
		return DROP_NAT_UNSUPPORTED;
	count(skb, PROGRAM_TO_NETDEV, VERDICT_MASQUERADED);
	return rewrite_error(skb, &quoted, entry, false);
}

// An ICMP error about a masqueraded packet: its receiver is the sender of the packet quoted inside.
static __noinline int unmasquerade_error(struct __sk_buff *skb, const struct config *config, __u32 transport)
{
	struct quoted quoted;
	struct snat_entry *entry;

	if (!read_quoted(skb, transport, true, &quoted) || quoted.key.destination != config->node_address)
		return 0;
	entry = bpf_map_lookup_elem(&snat, &quoted.key);
	if (!entry || bpf_ktime_get_ns() >= entry->expires_ns)
		return 0;
	if (entry->address == quoted.key.destination && entry->port == quoted.port)
		return 0;
	count(skb, PROGRAM_FROM_NETDEV, VERDICT_UNMASQUERADED);
	return rewrite_error(skb, &quoted, entry, true);
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
	__u8 protocol, icmp_type, tcp_flags = 0;
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
		if (is_error(icmp_type) && !is_own)
			return masquerade_error(skb, config, transport);
		if (icmp_type != ICMP_ECHO)
			return is_own ? 0 : DROP_NAT_UNSUPPORTED;
		ports.destination = 0;
	}
	if (protocol == IPPROTO_TCP && has_header &&
	    bpf_skb_load_bytes(skb, transport + TCP_FLAGS_OFFSET, &tcp_flags, sizeof(tcp_flags)))
		return DROP_INVALID;
	if (is_own && (bpf_ntohs(ports.source) < NAT_FIRST_PORT || is_tunnel_port(ports.destination)))
		return 0;
	out.direction = SNAT_OUT;
	out.source = source;
	out.destination = ip->daddr;
	out.source_port = ports.source;
	out.destination_port = ports.destination;
	out.protocol = protocol;
	reason = mapping_of(&out, config->node_address, tcp_flags, &mapping);
	if (reason)
		return reason;
	if (mapping.address == source && mapping.port == ports.source)
		return 0;
	count(skb, PROGRAM_TO_NETDEV, VERDICT_MASQUERADED);
	return rewrite(skb, protocol, transport, has_header, true, source, mapping.address, ports.source, mapping.port);
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
	__u8 protocol, icmp_type, tcp_flags = 0;
	struct snat_key out;
	__be32 address;
	__be16 port;
	__u64 now;

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
		if (is_error(icmp_type))
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
	if (!entry)
		return 0;
	now = bpf_ktime_get_ns();
	if (now >= entry->expires_ns)
		return 0;
	if (protocol == IPPROTO_TCP && has_header &&
	    bpf_skb_load_bytes(skb, transport + TCP_FLAGS_OFFSET, &tcp_flags, sizeof(tcp_flags)))
		return DROP_INVALID;
	address = entry->address;
	port = entry->port;
	way_out(&in, entry, &out);
	keep_mapping(&in, entry, &out, now, tcp_flags);
	if (address == in.destination && port == ports.destination)
		return 0;
	count(skb, PROGRAM_FROM_NETDEV, VERDICT_UNMASQUERADED);
	return rewrite(skb, protocol, transport, has_header, false, in.destination, address, ports.destination, port);
}
