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
	PROGRAM_SOCKET_CONNECT = 8,
	PROGRAM_SOCKET_SENDMSG = 9,
	PROGRAM_SOCKET_RECVMSG = 10,
	PROGRAM_SOCKET_GETPEERNAME = 11,
	PROGRAM_SOCKET_RELEASE = 12,
};

// What became of a packet. Below 32: where it went. From 32: counted in addition. From 64: why it was dropped.
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
	VERDICT_SERVICE_TO_BACKEND = 34,
	VERDICT_BACKEND_TO_SERVICE = 35,
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
	DROP_NAT_FULL = 76,
	DROP_NO_BACKEND = 80,
	DROP_NO_BACKEND_ANSWERED = 81,
	DROP_UNKNOWN_ICMP_CODE = 82,
};

enum config_flag {
	FLAG_TRACE = 1,
	FLAG_MASQUERADE = 2,
	FLAG_NO_REDIRECT_PEER = 4,
	FLAG_WRONG_VNI = 8,
	FLAG_PACKET_LB = 512,
	FLAG_NODEPORT = 1024,
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
	__u64 expires_ns; // CLOCK_MONOTONIC
	__be32 address;
	__be16 port;
	__u16 state; // enum flow_state
};

// Of a Service whose traffic policy is Local there are two lists of backends: what comes from outside gets this node's
// own ones, what comes from inside gets all.
enum service_scope {
	SCOPE_EXTERNAL = 0,
	SCOPE_INTERNAL = 1,
};

enum service_flag {
	SERVICE_TWO_SCOPES = 1,
	SERVICE_NODEPORT = 2,
};

// Slot 0 says how many backends there are; the slots 1 to that number say which. `address` 0: any node's.
struct service_key {
	__be32 address;
	__be16 port;
	__u16 slot;
	__u8 protocol;
	__u8 scope;
	__u16 unused;
};

struct service_entry {
	__u32 backend;
	__u16 count;
	__u16 id;
	__u32 flags;
};

enum backend_flag {
	BACKEND_WATCHED = 1, // only while the map `alive` has its address
};

struct backend {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 flags;
};

// What a socket was connected to, or sent to, in place of a Service.
struct socket_key {
	__u64 cookie;
	__be32 address;
	__be16 port;
	__u16 unused;
};

struct socket_entry {
	__be32 address;
	__be16 port;
	__u16 id;
};

struct flow_key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 unused[3];
};

enum flow_state {
	FLOW_REPLY = 1, // this entry is of the packets that come back
	FLOW_REPLIED = 2,
	FLOW_REQUEST_FIN = 4,
	FLOW_REPLY_FIN = 8,
	FLOW_RESET = 16,
	FLOW_OWN = 32, // of no Service: recorded so that no other connection gets its answers
};

// What a packet of the flow becomes. Each translated connection has two entries, one for each direction.
struct flow_entry {
	__u64 expires_ns;
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 backend;
	__u32 state;
	__u32 unused;
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
	__be16 original_source_port; // 0: as it left
	__be16 original_destination_port;
	__u32 unused_too;
};
