// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// How a program ends: every packet is counted once by device, program and verdict, and told to the ring buffer
// when it belongs to the pair that is being traced.
#pragma once

struct outcome {
	__u32 target_ifindex;
	__u32 identity;
	__be32 source; // as the packet came
	__be32 destination;
	__u8 program;
	__u8 verdict;
	__u8 ttl; // as the packet came; 0 when it is not IPv4
#ifdef SERVICES
	__be16 source_port; // as the packet came, where a Service translated it
	__be16 destination_port;
#endif
};

static __always_inline void count_bytes(__u32 ifindex, __u8 program, __u8 verdict, __u32 bytes)
{
	struct metric_key key = {.ifindex = ifindex, .program = program, .verdict = verdict};
	struct metric first = {.packets = 1, .bytes = bytes};
	struct metric *metric = bpf_map_lookup_elem(&metrics, &key);

	if (likely(metric)) {
		metric->packets++;
		metric->bytes += bytes;
	} else {
		bpf_map_update_elem(&metrics, &key, &first, BPF_ANY);
	}
}

static __always_inline void count(struct __sk_buff *skb, __u8 program, __u8 verdict)
{
	count_bytes(skb->ifindex, program, verdict, skb->len);
}

static __always_inline bool is_traced(const struct config *config, __be32 source, __be32 destination)
{
	__be32 one = config->trace_source, other = config->trace_destination;

	if (!one && !other)
		return true;
	if (!one || !other)
		return source == (one | other) || destination == (one | other);
	return (source == one && destination == other) || (source == other && destination == one);
}

// What is told of a packet, besides the outcome.
struct sighting {
	struct iphdr ip;
	struct {
		__be16 source;
		__be16 destination;
		__be32 rest;
	} transport;
	__be32 original_source;
	__be32 original_destination;
	__u32 identity;
	__u8 ttl_in;
	__u8 encapsulated;
};

static __noinline int tell(struct event *event, struct __sk_buff *skb, const struct outcome *outcome,
			   const struct sighting *seen)
{
	event->ktime_ns = bpf_ktime_get_ns();
	event->ifindex = skb->ifindex;
	event->target_ifindex = outcome->target_ifindex;
	event->source = seen->ip.saddr;
	event->destination = seen->ip.daddr;
	event->original_source = seen->original_source;
	event->original_destination = seen->original_destination;
	event->length = bpf_ntohs(seen->ip.tot_len);
	event->identity = seen->identity;
	event->ip_id = seen->ip.id;
	event->program = outcome->program;
	event->verdict = outcome->verdict;
	event->protocol = seen->ip.protocol;
	event->ttl_in = seen->ttl_in;
	event->ttl_out = seen->ip.ttl;
	event->icmp_type = 0;
	event->encapsulated = seen->encapsulated;
	event->unused = 0;
	event->unused_too = 0;
	event->original_source_port = 0;
	event->original_destination_port = 0;
	event->cpu = (__u16)bpf_get_smp_processor_id();
	event->source_port = 0;
	event->destination_port = 0;
	if (!is_first_fragment(&seen->ip))
		return 0;
	if (seen->ip.protocol == IPPROTO_ICMP) {
		event->icmp_type = bpf_ntohs(seen->transport.source) >> 8;
		event->source_port = (__be16)seen->transport.rest;
		event->destination_port = (__be16)(seen->transport.rest >> 16);
	} else {
		event->source_port = seen->transport.source;
		event->destination_port = seen->transport.destination;
	}
#ifdef SERVICES
	if (!seen->encapsulated) {
		event->original_source_port = outcome->source_port;
		event->original_destination_port = outcome->destination_port;
	}
#endif
	return 0;
}

// Of a tunnelled packet on the uplink, the packet inside is what is told.
static __noinline int trace(struct __sk_buff *skb, const struct config *config, const struct outcome *outcome)
{
	struct sighting seen = {};
	struct event *event;
	__u32 offset = ETHERNET_BYTES;
	__be32 vni = 0;

	seen.identity = outcome->identity;
	seen.original_source = outcome->source;
	seen.original_destination = outcome->destination;
	seen.ttl_in = outcome->ttl;
	if (bpf_skb_load_bytes(skb, offset, &seen.ip, sizeof(seen.ip)) || seen.ip.version != 4)
		return 0;
	bpf_skb_load_bytes(skb, offset + seen.ip.ihl * 4, &seen.transport, sizeof(seen.transport));
	if (seen.ip.protocol == IPPROTO_UDP && is_tunnel_port(seen.transport.destination)) {
		offset += seen.ip.ihl * 4 + sizeof(struct udphdr);
		if (bpf_skb_load_bytes(skb, offset + 4, &vni, sizeof(vni)))
			return 0;
		offset += TUNNEL_BYTES + ETHERNET_BYTES;
		if (bpf_skb_load_bytes(skb, offset, &seen.ip, sizeof(seen.ip)) || seen.ip.version != 4)
			return 0;
		bpf_skb_load_bytes(skb, offset + seen.ip.ihl * 4, &seen.transport, sizeof(seen.transport));
		seen.identity = bpf_ntohl(vni) >> 8;
		seen.original_source = seen.ip.saddr;
		seen.original_destination = seen.ip.daddr;
		seen.ttl_in = seen.ip.ttl;
		seen.encapsulated = 1;
	}
	if (!is_traced(config, seen.ip.saddr, seen.ip.daddr) &&
	    !is_traced(config, seen.original_source, seen.original_destination))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	tell(event, skb, outcome, &seen);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline int finish(struct __sk_buff *skb, const struct config *config, struct outcome *outcome,
				  __u8 verdict, int action)
{
	outcome->verdict = verdict;
	count(skb, outcome->program, verdict);
	if (unlikely(config->flags & FLAG_TRACE) && outcome->ttl)
		trace(skb, config, outcome);
	return action;
}

// Once in an object, not at each of its many callers: few packets come here.
static __noinline int drop(struct __sk_buff *skb, const struct config *config, struct outcome *outcome, __u32 reason)
{
	return finish(skb, config, outcome, (__u8)reason, TC_ACT_SHOT);
}
