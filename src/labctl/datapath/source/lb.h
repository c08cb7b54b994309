// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Services: which backend a connection gets, and what becomes of each of its packets where sockets are not translated.
//
// A translated connection has two entries in the map `ct`, one for each direction, with the whole tuple that its
// packets get. The first packet chooses the backend; the others, and ICMP errors about them, go by the entries.
//
// What a node relays to another node's backend has the node's own address as source, and so have the node's own
// connections to pods; a pod may use one port for a Service and for a backend itself. Connections that are of no Service
// are recorded too where that can happen, so that none gets the answers of another: the later one gets another source
// port.
#pragma once

#include "lifetime.h"

#define BACKEND_TRIES 4
#define BACKEND_SCAN 32
#define FLOW_ATTEMPTS 8
#define LOOPBACK bpf_htonl(0xa9fe2a01) // 169.254.42.1: whom a pod sees that reaches itself through a Service
#define MARK_NO_BACKEND 0x4e4f4245
#define MARK_RELAYED 0x534e4154 // on its way out for a client outside, its source taken from `ct`
#define FIRST_POD_IDENTITY 256
#define TCP_BYTES 20
#define UDP_BYTES 8

// What became of a packet: one of these, or the reason to drop it for (64 and up).
enum lb_result {
	LB_NONE = 0,
	LB_REQUEST = 1,
	LB_REPLY = 2,
	LB_OWN = 3, // of a connection of the node's own, either direction
};

static __always_inline bool is_drop(int result)
{
	return result >= DROP_INVALID_SOURCE;
}

// The list of backends of a Service: slot 0 of the one that `key` is for, whose scope is decided here.
static __always_inline struct service_entry *find_service(struct service_key *key, bool from_inside)
{
	struct service_entry *service;

	key->slot = 0;
	key->scope = SCOPE_EXTERNAL;
	service = bpf_map_lookup_elem(&services, key);
	if (service && from_inside && (service->flags & SERVICE_TWO_SCOPES)) {
		key->scope = SCOPE_INTERNAL;
		service = bpf_map_lookup_elem(&services, key);
	}
	return service;
}

static __always_inline bool is_alive(const struct backend *backend)
{
	__u32 address = backend->address;

	return !(backend->flags & BACKEND_WATCHED) || bpf_map_lookup_elem(&alive, &address);
}

// A random one of the backends that are there; its number, or 0. Where the first tries meet backends that went away,
// the next ones in the list are tried one after the other. Not static: such a function is verified once and not at each
// of its calls, but takes numbers alone before kernel 5.12. `rest` is port, protocol and scope of the Service.
__noinline __u32 choose_backend(__be32 address, __u32 rest, __u32 count)
{
	struct service_key key = {
		.address = address,
		.port = (__be16)rest,
		.protocol = (__u8)(rest >> 16),
		.scope = (__u8)(rest >> 24),
	};
	__u32 slot = 0, attempt;

#pragma clang loop unroll(disable)
	for (attempt = 0; attempt < BACKEND_TRIES + BACKEND_SCAN; attempt++) {
		struct service_entry *entry;
		struct backend *backend;
		__u32 number;

		if (!count)
			break;
		slot = attempt < BACKEND_TRIES ? bpf_get_prandom_u32() % count : (slot + 1) % count;
		key.slot = (__u16)(slot + 1);
		entry = bpf_map_lookup_elem(&services, &key);
		if (!entry)
			continue;
		number = entry->backend;
		backend = bpf_map_lookup_elem(&backends, &number);
		if (backend && is_alive(backend))
			return number;
	}
	return 0;
}

static __always_inline __u32 backend_of(const struct service_key *key, __u32 count, struct backend *chosen)
{
	__u32 rest = key->port | (__u32)key->protocol << 16 | (__u32)key->scope << 24;
	__u32 number = choose_backend(key->address, rest, count);
	struct backend *backend = bpf_map_lookup_elem(&backends, &number);

	if (!number || !backend)
		return 0;
	*chosen = *backend;
	return number;
}

// A packet's tuple as the map `ct` has it. `quoted` is where the IPv4 header is that an ICMP error quotes, else 0: then
// the tuple is that of an answer to the quoted packet. `transport` is where the ports are.
struct flow {
	struct flow_key key;
	__u32 transport;
	__u32 quoted;
	__u8 tcp_flags;
	bool has_header;
};

// Gives 0, or the reason to drop the packet for. A packet that is none of a Service has no protocol in its key.
static __noinline int read_flow(struct __sk_buff *skb, struct flow *flow)
{
	struct iphdr *ip = ipv4_header(skb), quoted;
	struct ports ports = {};
	__u8 icmp_type;
	int reason;

	__builtin_memset(flow, 0, sizeof(*flow));
	if (!ip)
		return DROP_INVALID;
	flow->transport = ETHERNET_BYTES + ip->ihl * 4;
	if (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP) {
		__u8 protocol = ip->protocol;

		flow->key.source = ip->saddr;
		flow->key.destination = ip->daddr;
		reason = transport_ports(skb, ip, &ports, &flow->has_header);
		if (reason)
			return reason;
		if (protocol == IPPROTO_TCP && flow->has_header &&
		    bpf_skb_load_bytes(skb, flow->transport + TCP_FLAGS_OFFSET, &flow->tcp_flags, 1))
			return DROP_INVALID;
		flow->key.source_port = ports.source;
		flow->key.destination_port = ports.destination;
		flow->key.protocol = protocol;
		return 0;
	}
	if (ip->protocol != IPPROTO_ICMP || is_fragment(ip))
		return 0;
	if (ip->ihl * 4 < IPV4_BYTES || bpf_skb_load_bytes(skb, flow->transport, &icmp_type, sizeof(icmp_type)))
		return DROP_INVALID;
	if (icmp_type != ICMP_DEST_UNREACH && icmp_type != ICMP_TIME_EXCEEDED && icmp_type != ICMP_PARAMETERPROB)
		return 0;
	flow->quoted = flow->transport + ICMP_BYTES;
	if (bpf_skb_load_bytes(skb, flow->quoted, &quoted, sizeof(quoted)) || quoted.version != 4 ||
	    quoted.ihl * 4 < IPV4_BYTES || (quoted.protocol != IPPROTO_TCP && quoted.protocol != IPPROTO_UDP) ||
	    !is_first_fragment(&quoted))
		return 0;
	flow->transport = flow->quoted + quoted.ihl * 4;
	if (bpf_skb_load_bytes(skb, flow->transport, &ports, sizeof(ports)))
		return 0;
	flow->key.source = quoted.daddr;
	flow->key.destination = quoted.saddr;
	flow->key.source_port = ports.destination;
	flow->key.destination_port = ports.source;
	flow->key.protocol = quoted.protocol;
	return 0;
}

static __always_inline void key_of_other(const struct flow_entry *entry, __u8 protocol, struct flow_key *other)
{
	__builtin_memset(other, 0, sizeof(*other));
	other->source = entry->destination;
	other->destination = entry->source;
	other->source_port = entry->destination_port;
	other->destination_port = entry->source_port;
	other->protocol = protocol;
}

// Whether the entry that was found in the other direction is of the same connection: when its own was lost (the oldest
// of a full map, or expired), the ports may have become another one's.
static __always_inline bool leads_back(const struct flow_entry *other, const struct flow_key *key)
{
	return other->source == key->destination && other->destination == key->source &&
	       other->source_port == key->destination_port && other->destination_port == key->source_port;
}

// Keeps both entries of a connection as young as its last packet, and in the same state, at most once a second unless
// the state changes. False when the connection has ended, or its backend: the packet then begins another.
static __noinline bool refresh(const struct flow *flow, struct flow_entry *entry)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 state = entry->state & ~FLOW_REPLY, before = state, direction = entry->state & FLOW_REPLY;
	__u8 protocol = flow->key.protocol;
	struct flow_key other_key;
	struct flow_entry *other;
	__u64 expires;
	bool is_over = now >= entry->expires_ns;

	if (!is_over && flow->quoted)
		return true;
	key_of_other(entry, protocol, &other_key);
	if ((flow->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && !direction &&
	    is_closing(protocol, state))
		is_over = true;
	if (direction)
		state |= FLOW_REPLIED;
	if (flow->tcp_flags & TCP_FIN)
		state |= direction ? FLOW_REPLY_FIN : FLOW_REQUEST_FIN;
	if (flow->tcp_flags & TCP_RST)
		state |= FLOW_RESET;
	expires = now + lifetime_of(protocol, state);
	if (likely(!is_over && state == before && expires < entry->expires_ns + REFRESH_NS))
		return true;
	if (!direction && !(state & FLOW_OWN) && (protocol != IPPROTO_TCP || (flow->tcp_flags & TCP_SYN))) {
		__u32 number = entry->backend;
		struct backend *backend = bpf_map_lookup_elem(&backends, &number);

		if (!backend || !is_alive(backend))
			is_over = true;
	}
	other = bpf_map_lookup_elem(&ct, &other_key);
	if (other && !leads_back(other, &flow->key)) {
		bpf_map_delete_elem(&ct, &flow->key);
		return false;
	}
	if (is_over) {
		bpf_map_delete_elem(&ct, &other_key);
		bpf_map_delete_elem(&ct, &flow->key);
		return false;
	}
	// Both ways may be closed on two CPUs at once: each writes its own entry first, and then takes over what the other
	// has, so that neither FIN is lost.
	entry->state |= state;
	entry->expires_ns = expires;
	if (likely(other)) {
		state |= other->state & ~FLOW_REPLY;
		expires = now + lifetime_of(protocol, state);
		other->state |= state;
		other->expires_ns = expires;
		entry->state |= state;
		entry->expires_ns = expires;
	} else { // it was the oldest of a full map
		struct flow_entry again = {
			.expires_ns = expires,
			.source = flow->key.destination,
			.destination = flow->key.source,
			.source_port = flow->key.destination_port,
			.destination_port = flow->key.source_port,
			.backend = entry->backend,
			.state = state | (direction ^ FLOW_REPLY),
		};

		bpf_map_update_elem(&ct, &other_key, &again, BPF_NOEXIST);
	}
	return true;
}

// One end of a packet (or of the packet that an ICMP error quotes) gets another address and port.
struct change {
	__be32 old_address;
	__be32 address;
	__be16 old_port;
	__be16 port;
	bool is_source;
};

static __noinline int change_end(struct __sk_buff *skb, const struct flow *flow, const struct change *change)
{
	if (change->address == change->old_address && change->port == change->old_port)
		return 0;
	return rewrite(skb, flow->key.protocol, flow->transport, flow->has_header, change->is_source,
		       change->old_address, change->address, change->old_port, change->port);
}

// The quoted header's own checksum takes up the change of address, so that the error's sees ports and the quoted UDP
// checksum alone.
static __noinline int change_quoted_end(struct __sk_buff *skb, const struct flow *flow, const struct change *change)
{
	__u32 address_at = flow->quoted + (change->is_source ? IPV4_SOURCE_OFFSET : IPV4_DESTINATION_OFFSET);
	__u32 port_at = flow->transport + (change->is_source ? PORT_OF_SOURCE : PORT_OF_DESTINATION);
	__u32 sum_at = flow->quoted - ICMP_BYTES + ICMP_CHECKSUM_OFFSET, inner_sum_at = flow->transport + 6;
	__be32 old_address = change->old_address, address = change->address;
	__be16 old_port = change->old_port, port = change->port, old_sum = 0, sum = 0;

	if (address == old_address && port == old_port)
		return 0;
	if (flow->key.protocol == IPPROTO_UDP) {
		__u64 flags = BPF_F_MARK_MANGLED_0;

		if (bpf_skb_load_bytes(skb, inner_sum_at, &old_sum, sizeof(old_sum)))
			return DROP_INVALID;
		// Not as a pseudo header's: those of a packet on its way out may not have their final sum yet.
		if (bpf_l4_csum_replace(skb, inner_sum_at, old_address, address, flags | 4) ||
		    bpf_l4_csum_replace(skb, inner_sum_at, old_port, port, flags | 2) ||
		    bpf_skb_load_bytes(skb, inner_sum_at, &sum, sizeof(sum)))
			return DROP_WRITE;
		if (sum != old_sum && bpf_l4_csum_replace(skb, sum_at, old_sum, sum, 2))
			return DROP_WRITE;
	}
	if (bpf_l3_csum_replace(skb, flow->quoted + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, address_at, &address, sizeof(address), 0))
		return DROP_WRITE;
	if (port != old_port && (bpf_l4_csum_replace(skb, sum_at, old_port, port, 2) ||
				 bpf_skb_store_bytes(skb, port_at, &port, sizeof(port), 0)))
		return DROP_WRITE;
	return 0;
}

static __always_inline int change_outer_address(struct __sk_buff *skb, __u32 at, __be32 old_address, __be32 address)
{
	if (address == old_address)
		return 0;
	if (bpf_l3_csum_replace(skb, ETHERNET_BYTES + IPV4_CHECKSUM_OFFSET, old_address, address, 4) ||
	    bpf_skb_store_bytes(skb, ETHERNET_BYTES + at, &address, sizeof(address), 0))
		return DROP_WRITE;
	return 0;
}

// Gives the packet the tuple of its entry. Of an ICMP error the quoted packet gets the tuple that it was sent with, and
// the error goes to who sent it; its own source changes only when it is the translated end itself.
static __noinline int translate(struct __sk_buff *skb, const struct flow *flow, const struct flow_entry *entry)
{
	struct change source = {
		.old_address = flow->key.source,
		.address = entry->source,
		.old_port = flow->key.source_port,
		.port = entry->source_port,
		.is_source = true,
	};
	struct change destination = {
		.old_address = flow->key.destination,
		.address = entry->destination,
		.old_port = flow->key.destination_port,
		.port = entry->destination_port,
		.is_source = false,
	};
	struct iphdr *ip;
	__be32 from;
	int reason;

	if (!flow->quoted) {
		reason = change_end(skb, flow, &source);
		return reason ? reason : change_end(skb, flow, &destination);
	}
	source.is_source = false;
	destination.is_source = true;
	reason = change_quoted_end(skb, flow, &source);
	if (!reason)
		reason = change_quoted_end(skb, flow, &destination);
	if (reason)
		return reason;
	ip = ipv4_header(skb);
	if (!ip)
		return DROP_INVALID;
	from = ip->saddr;
	reason = change_outer_address(skb, IPV4_DESTINATION_OFFSET, destination.old_address, destination.address);
	if (reason || from != source.old_address)
		return reason;
	return change_outer_address(skb, IPV4_SOURCE_OFFSET, source.old_address, source.address);
}

// A new connection's two entries. `entry` comes with the tuple that the packets are to get; where an answer could not be
// told from that of another connection, its source port becomes another one. With `is_masqueraded` only ports from
// NAT_FIRST_PORT up are used. `entry->state` is FLOW_OWN or 0.
static __noinline int begin_flow(const struct flow *flow, struct flow_entry *entry, bool is_masqueraded)
{
	struct flow_entry back = {
		.source = flow->key.destination,
		.destination = flow->key.source,
		.source_port = flow->key.destination_port,
		.destination_port = flow->key.source_port,
		.backend = entry->backend,
		.state = entry->state | FLOW_REPLY,
	};
	__u16 port = bpf_ntohs(flow->key.source_port);
	__u64 now = bpf_ktime_get_ns();
	struct flow_entry *taken;
	struct flow_key back_key;
	int attempt;

	entry->expires_ns = back.expires_ns = now + lifetime_of(flow->key.protocol, 0);
	if (is_masqueraded && port < NAT_FIRST_PORT)
		port = NAT_FIRST_PORT | (bpf_get_prandom_u32() & 0x7fff);
	entry->source_port = bpf_htons(port);
	key_of_other(entry, flow->key.protocol, &back_key);
	taken = bpf_map_lookup_elem(&ct, &back_key);
	if (taken && now >= taken->expires_ns)
		bpf_map_delete_elem(&ct, &back_key);
#pragma clang loop unroll(disable)
	for (attempt = 0; attempt < FLOW_ATTEMPTS; attempt++) {
		if (!bpf_map_update_elem(&ct, &back_key, &back, BPF_NOEXIST))
			return bpf_map_update_elem(&ct, &flow->key, entry, BPF_ANY) ? DROP_NAT_NO_PORT : 0;
		port = NAT_FIRST_PORT | (bpf_get_prandom_u32() & 0x7fff);
		back_key.destination_port = entry->source_port = bpf_htons(port);
	}
	return DROP_NAT_NO_PORT;
}

// The tuple that a new connection to a Service gets. `node_source` is whom a backend of another node is to answer, 0
// where the client keeps its address.
static __always_inline int serve(const struct flow *flow, bool from_inside, __be32 node_source,
				 struct flow_entry *entry)
{
	struct service_key key = {
		.address = flow->key.destination,
		.port = flow->key.destination_port,
		.protocol = flow->key.protocol,
	};
	struct service_entry *service;
	struct backend backend = {};
	bool is_masqueraded;
	__be32 address;

	if (flow->quoted)
		return LB_NONE;
	service = find_service(&key, from_inside);
	if (!service)
		return LB_NONE;
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->backend = backend_of(&key, service->count, &backend);
	if (!entry->backend)
		return DROP_NO_BACKEND;
	address = backend.address;
	is_masqueraded = node_source && !bpf_map_lookup_elem(&endpoints, &address);
	entry->source = is_masqueraded ? node_source : flow->key.source;
	if (entry->source == address)
		entry->source = LOOPBACK;
	entry->destination = address;
	entry->destination_port = backend.port;
	int reason = begin_flow(flow, entry, is_masqueraded);

	return reason ? reason : LB_REQUEST;
}

// How a packet is balanced; the program's number is in the next byte.
enum balance_flag {
	BALANCE_BEGINS = 1,	 // it may begin a connection
	BALANCE_FROM_INSIDE = 2, // it comes from a pod
	BALANCE_FROM_NODE = 4,	 // it comes from the node itself
	BALANCE_OWN = 8,	 // it is recorded even if it is of no Service
};

static __always_inline bool is_pod(__be32 address)
{
	struct ipcache_entry *entry = bpf_map_lookup_elem(&ipcache, &address);

	return entry && entry->identity >= FIRST_POD_IDENTITY;
}

// A new connection between its own ends. Of the node's own it matters from NAT_FIRST_PORT up: what is relayed is given no
// other ports.
static __always_inline int record_own(const struct flow *flow, bool is_pods, struct flow_entry *entry)
{
	int reason;

	if (flow->quoted || !is_pod(flow->key.destination) ||
	    (!is_pods && bpf_ntohs(flow->key.source_port) < NAT_FIRST_PORT))
		return LB_NONE;
	__builtin_memset(entry, 0, sizeof(*entry));
	entry->source = flow->key.source;
	entry->destination = flow->key.destination;
	entry->destination_port = flow->key.destination_port;
	entry->state = FLOW_OWN;
	reason = begin_flow(flow, entry, false);
	return reason ? reason : LB_OWN;
}

static __always_inline bool is_unchanged(const struct flow_key *key, const struct flow_entry *entry)
{
	return key->source_port == entry->source_port && key->destination_port == entry->destination_port;
}

// Translates a packet of a known connection, or one that begins one. Gives an `lb_result`, or the reason to drop it for.
// Not static, as choose_backend. The ports that it came with are left in cb[0], or 0.
__noinline int balance_packet(struct __sk_buff *skb, __u32 how, __be32 node_source)
{
	struct flow flow;
	struct flow_entry *known, entry;
	int reason = read_flow(skb, &flow), result;

	__u8 verdict;

	skb->cb[0] = 0;
	if (reason || !flow.key.protocol)
		return how & BALANCE_FROM_NODE ? LB_NONE : reason;
	known = bpf_map_lookup_elem(&ct, &flow.key);
	if (known && refresh(&flow, known)) {
		entry = *known;
		result = entry.state & FLOW_OWN ? LB_OWN : entry.state & FLOW_REPLY ? LB_REPLY : LB_REQUEST;
	} else {
		result = how & BALANCE_BEGINS ? serve(&flow, how & BALANCE_FROM_INSIDE, node_source, &entry) : LB_NONE;
		if (result == LB_NONE && (how & BALANCE_OWN))
			result = record_own(&flow, how & BALANCE_FROM_INSIDE, &entry);
		if (result != LB_REQUEST && result != LB_OWN)
			return result;
	}
	if (result == LB_OWN) {
		if (likely(is_unchanged(&flow.key, &entry)))
			return result;
		verdict = entry.state & FLOW_REPLY ? VERDICT_UNMASQUERADED : VERDICT_MASQUERADED;
	} else {
		verdict = result == LB_REPLY ? VERDICT_BACKEND_TO_SERVICE : VERDICT_SERVICE_TO_BACKEND;
	}
	reason = translate(skb, &flow, &entry);
	if (reason)
		return reason;
	if (!flow.quoted)
		skb->cb[0] = flow.key.source_port | (__u32)flow.key.destination_port << 16;
	count(skb, (__u8)(how >> 8), verdict);
	return result;
}

static __always_inline int balance(struct __sk_buff *skb, struct outcome *outcome, __u32 how, __be32 node_source)
{
	int result = balance_packet(skb, how | (__u32)outcome->program << 8, node_source);

	outcome->source_port = (__be16)skb->cb[0];
	outcome->destination_port = (__be16)(skb->cb[0] >> 16);
	return result;
}

// Keeps a packet of the node's own to another node's pod apart from what is relayed to there, whose source is `own`, too.
// Gives 0, or the reason to drop it for.
static __noinline int keep_apart(struct __sk_buff *skb, struct outcome *outcome, __be32 own)
{
	__be32 source;
	int balanced;

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + IPV4_SOURCE_OFFSET, &source, sizeof(source)) || source != own)
		return 0;
	if (!is_pod(outcome->destination))
		return 0;
	balanced = balance(skb, outcome, BALANCE_OWN | BALANCE_FROM_NODE, 0);
	return is_drop(balanced) ? balanced : 0;
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

// A Service without backends: ICMP port unreachable, out of the device that the packet came in by. Of TCP the whole header
// is quoted: the kernel cuts no packet before the checksum that is still to be filled in.
static __noinline int refuse_connection(struct __sk_buff *skb, const struct config *config, struct outcome *outcome)
{
	struct iphdr *ip = ipv4_header(skb);
	struct {
		struct iphdr ip;
		__u8 type;
		__u8 code;
		__sum16 sum;
		__u32 rest;
		__u8 quoted[IPV4_BYTES + TCP_BYTES];
	} answer = {};
	__u32 quoted = IPV4_BYTES + UDP_BYTES, added = IPV4_BYTES + ICMP_BYTES;
	struct ethhdr *frame;
	__u8 mac[6];

	if (ip && ip->protocol == IPPROTO_TCP)
		quoted = IPV4_BYTES + TCP_BYTES;
	if (!ip || ip->ihl != 5 || bpf_ntohs(ip->tot_len) < quoted ||
	    bpf_skb_load_bytes(skb, ETHERNET_BYTES, answer.quoted, quoted))
		return drop(skb, config, outcome, DROP_NO_BACKEND);
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(added + quoted);
	answer.ip.ttl = 64;
	answer.ip.protocol = IPPROTO_ICMP;
	answer.ip.saddr = outcome->destination;
	answer.ip.daddr = outcome->source;
	answer.ip.check = folded(bpf_csum_diff(NULL, 0, (void *)&answer.ip, sizeof(answer.ip), 0));
	answer.type = ICMP_DEST_UNREACH;
	answer.code = 3;
	answer.sum = folded(bpf_csum_diff(NULL, 0, (void *)&answer.type, ICMP_BYTES + quoted, 0));
	if (bpf_skb_change_tail(skb, ETHERNET_BYTES + quoted, 0) ||
	    bpf_skb_adjust_room(skb, (__s32)added, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(skb, ETHERNET_BYTES, &answer, added + quoted, 0))
		return drop(skb, config, outcome, DROP_WRITE);
	ip = ipv4_header(skb);
	if (!ip)
		return drop(skb, config, outcome, DROP_INVALID);
	frame = (void *)ip - ETHERNET_BYTES;
	__builtin_memcpy(mac, frame->h_dest, 6);
	__builtin_memcpy(frame->h_dest, frame->h_source, 6);
	__builtin_memcpy(frame->h_source, mac, 6);
	skb->mark = MARK_NO_BACKEND;
	outcome->target_ifindex = skb->ifindex;
	return finish(skb, config, outcome, DROP_NO_BACKEND_ANSWERED, bpf_redirect(skb->ifindex, 0));
}
