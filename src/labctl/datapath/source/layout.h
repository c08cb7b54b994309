// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// What the maps and the ring buffer hold. src/labctl/datapath/layout.py packs the same bytes; a unit test compares
// both through the BTF of the objects. Addresses and ports are in network order, everything else in host order.
#pragma once

enum program {
	PROGRAM_FROM_CONTAINER = 1,
	PROGRAM_FROM_HOST = 2,
	PROGRAM_TO_HOST = 3,
	PROGRAM_FROM_NETDEV = 4,
	PROGRAM_TO_NETDEV = 5,
	PROGRAM_FROM_OVERLAY = 6,
	PROGRAM_TO_OVERLAY = 7,
};

// What became of a packet. Below 32: where it went. 32 and 33 are counted in addition. From 64: why it was dropped.
enum verdict {
	VERDICT_TO_STACK = 1,
	VERDICT_REDIRECT = 2,
	VERDICT_REDIRECT_PEER = 3,
	VERDICT_REDIRECT_NEIGH = 4,
	VERDICT_TUNNEL = 5,
	VERDICT_ARP_REPLY = 6,
	VERDICT_TO_HOST = 7,
	VERDICT_PASS = 8,
	VERDICT_MASQUERADED = 32,
	VERDICT_UNMASQUERADED = 33,
	DROP_INVALID_SOURCE = 64,
	DROP_UNROUTABLE = 65,
	DROP_TTL_EXCEEDED = 66,
	DROP_UNSUPPORTED_L3 = 67,
	DROP_INVALID = 68,
	DROP_FRAGMENT_NOT_FOUND = 69,
	DROP_NO_FIB = 70,
	DROP_INVALID_IDENTITY = 71,
	DROP_NAT_NO_PORT = 72,
	DROP_NAT_UNSUPPORTED = 73,
	DROP_WRITE = 74,
	DROP_UNKNOWN_PROTOCOL = 75,
};

enum config_flag {
	FLAG_TRACE = 1,
	FLAG_MASQUERADE = 2,
	FLAG_NO_REDIRECT_PEER = 4,
	FLAG_WRONG_VNI = 8,
};

// Identities below 256 are reserved; these have Cilium's numbers.
enum identity {
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_KUBE_APISERVER = 7,
};

struct config {
	__u64 extra_delay_ns;
	__be32 node_address;
	__be32 router_address;
	__be32 pod_cidr;
	__be32 pod_mask;
	__u32 uplink_ifindex;
	__u32 cilium_net_ifindex;
	__u32 cilium_vxlan_ifindex;
	__u32 flags;
	__be32 trace_source;
	__be32 trace_destination;
	__u8 cilium_host_mac[6];
	__u8 unused[2];
};

// A pod of this node. `mac` and `lxc_mac` lie as the first 12 bytes of the frame that is delivered to it.
struct endpoint {
	__u8 mac[6];
	__u8 lxc_mac[6];
	__u32 ifindex;
	__u32 identity;
};

struct tunnel_key {
	__u32 prefix_length;
	__be32 address;
};

struct ipcache_entry {
	__u32 identity;
	__be32 tunnel_endpoint;
};

enum snat_direction {
	SNAT_OUT = 0,
	SNAT_IN = 1,
};

struct snat_key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 direction;
	__u16 unused;
};

struct snat_entry {
	__u64 created_ns;
	__be32 address;
	__be16 port;
	__u16 unused;
};

struct fragment_key {
	__be32 source;
	__be32 destination;
	__be16 id;
	__u8 protocol;
	__u8 unused;
};

struct ports {
	__be16 source;
	__be16 destination;
};

// A flow that kube-proxy's rules have translated, as it goes on to the backend.
struct flow_key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 unused[3];
};

struct metric_key {
	__u32 ifindex;
	__u8 program;
	__u8 verdict;
	__u16 unused;
};

struct metric {
	__u64 packets;
	__u64 bytes;
};

struct event {
	__u64 ktime_ns;
	__u32 ifindex;
	__u32 target_ifindex;
	__be32 source;
	__be32 destination;
	__be32 original_source;
	__be32 original_destination;
	__u32 length;
	__u32 identity;
	__be16 ip_id;
	__be16 source_port;	 // ICMP echo: the id
	__be16 destination_port; // ICMP echo: the sequence number
	__u8 program;
	__u8 verdict;
	__u8 protocol;
	__u8 ttl_in;
	__u8 ttl_out;
	__u8 icmp_type;
	__u8 encapsulated;
	__u8 unused;
	__u16 cpu;
};
