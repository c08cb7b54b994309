// SPDX-License-Identifier: GPL-2.0
/*
 * The two ends of a relay that holds back what a device receives: `delay_in` hands each frame to a TAP device, from which
 * a process of labctl's reads it; `delay_out` takes what that process writes back as if the device had received it then.
 *
 * `delay_in` is at the device's own XDP hook, before every tap: a capture sees a frame when it comes out of the relay,
 * as on a long wire, and once. The frame has the time at which it came (CLOCK_MONOTONIC) in eight bytes before it, so
 * that it waits for as long as it should and not for that long after the process got to read it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct delay_config {
	__u32 tap;
	__u32 device;
	__u64 delay_ns;  /* These two are for whoever looks: the process has them itself. */
	__u64 jitter_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct delay_config);
} delay_config SEC(".maps");

SEC("xdp")
int delay_in(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct delay_config *config = bpf_map_lookup_elem(&delay_config, &key);
	__u64 *came;

	if (!config)
		return XDP_PASS;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*came)))
		return XDP_DROP;
	came = (void *)(long)ctx->data;
	if ((void *)(came + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*came = bpf_ktime_get_ns();
	return bpf_redirect(config->tap, 0);
}

SEC("tc")
int delay_out(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct delay_config *config = bpf_map_lookup_elem(&delay_config, &key);

	return config ? bpf_redirect(config->device, BPF_F_INGRESS) : TC_ACT_SHOT;
}

char _license[] SEC("license") = "GPL";
