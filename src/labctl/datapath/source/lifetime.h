// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// How long a translated connection is remembered after its last packet: the times of Cilium's connection tracking.
#pragma once

#define NANOSECONDS 1000000000ULL
#define SYN_LIFETIME_NS (60 * NANOSECONDS)
#define TCP_LIFETIME_NS (8000 * NANOSECONDS)
#define CLOSING_LIFETIME_NS (10 * NANOSECONDS)
#define OTHER_LIFETIME_NS (60 * NANOSECONDS)
#define REFRESH_NS NANOSECONDS

#define TCP_FLAGS_OFFSET 13
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

// `state` is of `enum flow_state`: both sides have closed, or one has reset.
static __always_inline bool is_closing(__u8 protocol, __u32 state)
{
	__u32 both = FLOW_REQUEST_FIN | FLOW_REPLY_FIN;

	return protocol == IPPROTO_TCP && ((state & FLOW_RESET) || (state & both) == both);
}

static __always_inline __u64 lifetime_of(__u8 protocol, __u32 state)
{
	if (protocol != IPPROTO_TCP)
		return OTHER_LIFETIME_NS;
	if (is_closing(protocol, state))
		return CLOSING_LIFETIME_NS;
	return state & FLOW_REPLIED ? TCP_LIFETIME_NS : SYN_LIFETIME_NS;
}
