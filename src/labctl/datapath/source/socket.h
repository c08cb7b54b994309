// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Services at the socket, on cgroups: connect() and sendmsg() get a backend before there is a packet, and recvmsg() and
// getpeername() give back the Service. The Service's address is never on the wire.
#pragma once

#define LOOPBACK_NET bpf_htonl(0x7f000000)
#define LOOPBACK_MASK bpf_htonl(0xff000000)
#define SOCKET_ALLOW 1
#define SOCKET_REFUSE 0 // the system call ends with EPERM

static __always_inline __be16 port_of(const struct bpf_sock_addr *ctx)
{
	return (__be16)ctx->user_port;
}

static __noinline int tell_socket(const struct config *config, const struct socket_key *to,
				  const struct socket_entry *asked, __u32 kind)
{
	struct event *event;

	count_bytes(0, (__u8)kind, (__u8)(kind >> 8), 0);
	if (likely(!(config->flags & FLAG_TRACE)) ||
	    (!is_traced(config, to->address, to->address) && !is_traced(config, asked->address, asked->address) &&
	     config->trace_destination != to->address && config->trace_source != to->address))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->ktime_ns = bpf_ktime_get_ns();
	event->destination = to->address;
	event->destination_port = to->port;
	event->original_destination = asked->address;
	event->original_destination_port = asked->port;
	event->program = (__u8)kind;
	event->verdict = (__u8)(kind >> 8);
	event->protocol = (__u8)(kind >> 16);
	event->cpu = (__u16)bpf_get_smp_processor_id();
	bpf_ringbuf_submit(event, 0);
	return 0;
}

// Whether an address is one that NodePorts are reached at, seen from a pod or from the node itself.
static __always_inline bool has_nodeports(__be32 address, bool is_node)
{
	struct ipcache_entry *entry;

	if (is_node && (address & LOOPBACK_MASK) == LOOPBACK_NET)
		return true;
	entry = bpf_map_lookup_elem(&ipcache, &address);
	return entry && (entry->identity == IDENTITY_HOST || entry->identity == IDENTITY_REMOTE_NODE ||
			 entry->identity == IDENTITY_KUBE_APISERVER);
}

static __noinline int to_backend(struct bpf_sock_addr *ctx, __u32 program, __u32 is_node)
{
	const struct config *config = read_config();
	struct service_key key = {
		.address = ctx->user_ip4,
		.port = port_of(ctx),
		.protocol = (__u8)ctx->protocol,
	};
	struct socket_entry asked = {.address = ctx->user_ip4, .port = port_of(ctx)};
	struct socket_key to = {};
	struct service_entry *service;
	struct backend backend = {};
	__u32 kind = program | (__u32)key.protocol << 16;

	if (!config || (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP))
		return SOCKET_ALLOW;
	service = find_service(&key, true);
	if (!service && has_nodeports(asked.address, is_node)) {
		key.address = 0;
		service = find_service(&key, true);
	}
	if (!service)
		return SOCKET_ALLOW;
	asked.id = service->id;
	if (!backend_of(&key, service->count, &backend)) {
		tell_socket(config, &to, &asked, kind | DROP_NO_BACKEND << 8);
		return SOCKET_REFUSE;
	}
	to.cookie = bpf_get_socket_cookie(ctx);
	to.address = backend.address;
	to.port = backend.port;
	// Without it the answer to a datagram would come from a stranger.
	if (bpf_map_update_elem(&reverse_sk, &to, &asked, BPF_ANY))
		return SOCKET_REFUSE;
	ctx->user_ip4 = backend.address;
	ctx->user_port = backend.port;
	tell_socket(config, &to, &asked, kind | VERDICT_SERVICE_TO_BACKEND << 8);
	return SOCKET_ALLOW;
}

static __noinline int to_service(struct bpf_sock_addr *ctx, __u32 program)
{
	const struct config *config = read_config();
	struct socket_key from = {
		.cookie = bpf_get_socket_cookie(ctx),
		.address = ctx->user_ip4,
		.port = port_of(ctx),
	};
	struct socket_entry *asked = bpf_map_lookup_elem(&reverse_sk, &from);

	if (!config || !asked)
		return SOCKET_ALLOW;
	ctx->user_ip4 = asked->address;
	ctx->user_port = asked->port;
	tell_socket(config, &from, asked, program | VERDICT_BACKEND_TO_SERVICE << 8 | (ctx->protocol & 0xff) << 16);
	return SOCKET_ALLOW;
}

SEC("cgroup/connect4")
int cil_sock4_connect(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, PROGRAM_SOCKET_CONNECT, 0);
}

SEC("cgroup/sendmsg4")
int cil_sock4_sendmsg(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, PROGRAM_SOCKET_SENDMSG, 0);
}

// The node's own processes reach NodePorts at 127.0.0.1, too.
SEC("cgroup/connect4")
int cil_sock4_connect_node(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, PROGRAM_SOCKET_CONNECT, 1);
}

SEC("cgroup/sendmsg4")
int cil_sock4_sendmsg_node(struct bpf_sock_addr *ctx)
{
	return to_backend(ctx, PROGRAM_SOCKET_SENDMSG, 1);
}

SEC("cgroup/recvmsg4")
int cil_sock4_recvmsg(struct bpf_sock_addr *ctx)
{
	return to_service(ctx, PROGRAM_SOCKET_RECVMSG);
}

SEC("cgroup/getpeername4")
int cil_sock4_getpeername(struct bpf_sock_addr *ctx)
{
	return to_service(ctx, PROGRAM_SOCKET_GETPEERNAME);
}

// A connection's entry goes with its socket. What a socket sent to several Services stays until it is the oldest.
SEC("cgroup/sock_release")
int cil_sock_release(struct bpf_sock *ctx)
{
	struct socket_key to = {
		.cookie = bpf_get_socket_cookie(ctx),
		.address = ctx->dst_ip4,
		.port = (__be16)ctx->dst_port,
	};

	bpf_map_delete_elem(&reverse_sk, &to);
	return SOCKET_ALLOW;
}
