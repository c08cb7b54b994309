// SPDX-License-Identifier: GPL-2.0
/*
 * Where the time of a round trip goes: at which device, and when, each packet of one request and its answer was sent and
 * received, from the kernel's own tracepoints; and how long netfilter had it meanwhile. Nothing of the lab is touched.
 *
 * One round trip at a time: a request of a pod that is a client (`ends`) opens a round, and closes the one before. The
 * packet is known by its buffer, which stays the same from the device that sends it to the socket that gets it, through
 * every forwarding step and tunnel on the way. So only the pods' own devices look into packets.
 *
 * A tap has a cost. It is measured in every round, by a second program at one tracepoint and at one hook, which comes at
 * once after the first.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define MOST_ROUNDS 8192
#define MOST_EVENTS 32
#define MOST_ENDS 64
#define FRAGMENT_OFFSET 0x1fff
#define ACCEPT 1 /* NF_ACCEPT */

enum end { CLIENT = 1, SERVER };
enum act { SENT = 1, RECEIVED, ARRIVED, AGAIN };

/* What the kernel's types have of what is read of them. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
	unsigned char *head;
	__be16 protocol;
	__u16 network_header;
} __attribute__((preserve_access_index));

/* src/labctl/load/taps.py reads these. What is alike in most rounds stands together. */
struct place {
	__u32 namespace; /* its inode number; 0 at a socket, which has no device */
	__u32 device;
	__u16 act;
	__u16 passes; /* of netfilter's hooks, until the next event */
};

struct moment {
	__u32 at_ns;        /* since the round began */
	__u32 netfilter_ns; /* what those passes took, a tap included in each */
};

struct round {
	__u64 begun_ns; /* CLOCK_MONOTONIC, at the client's device */
	__u32 count;
	__u32 missed; /* events for which there was no room */
	__u32 hook_tap_ns; /* what a tap at a hook takes, as it was measured last; 0 without one */
	__u32 reserved;
	struct place places[MOST_EVENTS];
	struct moment moments[MOST_EVENTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST_ROUNDS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct round);
} rounds SEC(".maps");

/* Inode numbers of the pods' namespaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_ENDS);
	__type(key, __u32);
	__type(value, __u32);
} ends SEC(".maps");

/* How many rounds have begun. Those that find no room are counted as well. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} begun SEC(".maps");

static struct sk_buff *followed;
static __u64 hook_ns, beside_ns;
static __u32 hook_tap_ns;

static __always_inline __u32 *count_of_rounds(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&begun, &zero);
}

static __always_inline struct round *present(void)
{
	__u32 *count = count_of_rounds(), last;

	if (!count || !*count)
		return NULL;
	last = *count - 1;
	return bpf_map_lookup_elem(&rounds, &last);
}

static __always_inline void note(struct net_device *device, enum act act)
{
	struct round *round = present();
	struct place *place;
	__u32 number;

	if (!round)
		return;
	number = round->count;
	if (number >= MOST_EVENTS) {
		round->missed++;
		return;
	}
	place = &round->places[number];
	place->act = act;
	place->namespace = device ? device->nd_net.net->ns.inum : 0;
	place->device = device ? device->ifindex : 0;
	place->passes = 0;
	round->moments[number].netfilter_ns = 0;
	round->count = number + 1;
	round->moments[number].at_ns = bpf_ktime_get_ns() - round->begun_ns;
}

/* A segment of TCP with data: an acknowledgement alone is none. */
static __always_inline int has_data(struct sk_buff *skb)
{
	unsigned char *at = skb->head + skb->network_header;
	struct iphdr ip;
	struct tcphdr tcp;

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_probe_read_kernel(&ip, sizeof ip, at))
		return 0;
	if (ip.protocol != IPPROTO_TCP || (ip.frag_off & bpf_htons(FRAGMENT_OFFSET)))
		return 0;
	if (bpf_probe_read_kernel(&tcp, sizeof tcp, at + ip.ihl * 4))
		return 0;
	return bpf_ntohs(ip.tot_len) > ip.ihl * 4 + tcp.doff * 4;
}

static __always_inline void begin_round(void)
{
	__u32 *count = count_of_rounds(), number;
	struct round *round;

	if (!count)
		return;
	number = *count;
	*count = number + 1;
	round = bpf_map_lookup_elem(&rounds, &number);
	if (!round)
		return;
	round->count = 0;
	round->missed = 0;
	round->hook_tap_ns = 0;
	round->begun_ns = bpf_ktime_get_ns();
}

SEC("tp_btf/net_dev_start_xmit")
int BPF_PROG(place_sent, struct sk_buff *skb, struct net_device *device)
{
	__u32 namespace, *end;

	if (skb == followed) {
		note(device, SENT);
		return 0;
	}
	namespace = device->nd_net.net->ns.inum;
	end = bpf_map_lookup_elem(&ends, &namespace);
	if (!end || !has_data(skb))
		return 0;
	followed = skb;
	if (*end == CLIENT)
		begin_round();
	note(device, SENT);
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(place_received, struct sk_buff *skb)
{
	if (skb == followed)
		note(skb->dev, RECEIVED);
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(place_arrived, void *socket, struct sk_buff *skb)
{
	if (skb == followed)
		note(NULL, ARRIVED);
	return 0;
}

/* The last that follows a packet: its buffer may be another's next. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(place_arrived_again, void *socket, struct sk_buff *skb)
{
	if (skb == followed) {
		note(NULL, AGAIN);
		followed = NULL;
	}
	return 0;
}

/* At netfilter's hooks, before the first and behind the last of all others. The loader makes them programs of netfilter,
 * of which older libraries know no section. */
SEC("tc")
int place_beside_hook(void *context)
{
	beside_ns = bpf_ktime_get_ns();
	return ACCEPT;
}

SEC("tc")
int place_before_hook(void *context)
{
	__u64 now = bpf_ktime_get_ns();

	if (beside_ns)
		hook_tap_ns = now - beside_ns;
	hook_ns = now;
	return ACCEPT;
}

SEC("tc")
int place_behind_hook(void *context)
{
	__u64 now = bpf_ktime_get_ns();
	struct round *round = present();
	__u32 number;

	if (!round || !followed || !hook_ns)
		return ACCEPT;
	number = round->count - 1;
	if (number < MOST_EVENTS) {
		round->moments[number].netfilter_ns += now - hook_ns;
		round->places[number].passes++;
		round->hook_tap_ns = hook_tap_ns;
	}
	hook_ns = 0;
	return ACCEPT;
}

char _license[] SEC("license") = "GPL";
