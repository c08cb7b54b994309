// SPDX-License-Identifier: GPL-2.0
/*
 * Impairs what a device receives: loses, duplicates, corrupts and reorders packets, each with a probability.
 *
 * Attached before every other program at the tc ingress of the far end of a wire: what is lost there was sent, and its
 * sender is not told, as it would be at its own egress. Packet number n draws its numbers from the seed and n alone, so
 * that the same packets in the same order meet the same fate again.
 *
 * A packet that is sent through the device again (a duplicate, one that waits behind its burst) carries a mark, and is
 * not impaired a second time.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define ETH_HEADER 14
#define AGAIN 0x1ab0c711 /* the mark */

/* Shares of 2^32. */
struct impair_config {
	__u32 loss;
	__u32 duplicate;
	__u32 corrupt;
	__u32 reorder;
	__u64 seed;
};

struct impair_counts {
	__u64 seen;
	__u64 lost;
	__u64 duplicated;
	__u64 corrupted;
	__u64 reordered;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct impair_config);
} impair_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct impair_counts);
} impair_counts SEC(".maps");

/* SplitMix64: the draw of that number. */
static __always_inline __u64 draw(__u64 seed, __u64 number)
{
	__u64 x = seed + number * 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static __always_inline int falls_to(__u32 share, __u64 drawn)
{
	return share == 0xffffffff || (__u32)drawn < share;
}

/* Flips one bit behind the Ethernet header. */
static __always_inline int flip(struct __sk_buff *skb, __u64 drawn)
{
	__u32 length = skb->len, offset;
	__u8 byte;

	if (length <= ETH_HEADER)
		return 0;
	offset = ETH_HEADER + (__u32)(drawn >> 8) % (length - ETH_HEADER);
	if (bpf_skb_load_bytes(skb, offset, &byte, 1))
		return 0;
	byte ^= 1 << (drawn & 7);
	return bpf_skb_store_bytes(skb, offset, &byte, 1, 0) == 0;
}

SEC("tc")
int impair(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct impair_config *config = bpf_map_lookup_elem(&impair_config, &key);
	struct impair_counts *counts = bpf_map_lookup_elem(&impair_counts, &key);
	__u64 number, seed;

	if (!config || !counts)
		return TC_ACT_UNSPEC;
	if (skb->mark == AGAIN) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	/* Two CPUs at once may count one packet for two, and give both one draw. */
	number = counts->seen * 8;
	counts->seen++;
	seed = config->seed;
	if (config->duplicate && falls_to(config->duplicate, draw(seed, number + 1))) {
		__u32 mark = skb->mark;

		skb->mark = AGAIN;
		if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) == 0)
			counts->duplicated++;
		skb->mark = mark;
	}
	if (config->loss && falls_to(config->loss, draw(seed, number + 2))) {
		counts->lost++;
		return TC_ACT_SHOT;
	}
	if (config->corrupt && falls_to(config->corrupt, draw(seed, number + 3)))
		counts->corrupted += flip(skb, draw(seed, number + 4));
	if (config->reorder && falls_to(config->reorder, draw(seed, number + 5))) {
		/* To the end of what the device has received and the kernel has not yet looked at: its burst. */
		counts->reordered++;
		skb->mark = AGAIN;
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	}
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "GPL";
