// The yardstick for building: a loop over raw rtnetlink that makes the namespaces, links, addresses and routes of a
// labctl lab, and nothing else (no eBPF, no netfilter, no sysctls). Written to be quick: one process, one socket a
// namespace, every message that can share a send shares it.
//
//   build_netlink PREFIX NODES PODS_PER_NODE     builds, prints the seconds, removes it again
//
// Layout as in src/labctl/networks/cilium with vxlan, on src/labctl/fabrics/bridge.py: an underlay bridge; per node an
// uplink, cilium_net and cilium_host, cilium_vxlan, routes to every other node; per pod a veth pair, a /32 and two routes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int home;
static char batch[64 * 1024];
static unsigned int used, last;

struct place {
	char path[64];
	int fd, socket;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void *add(const void *data, unsigned int size)
{
	void *at = batch + used;

	memcpy(at, data, size);
	memset((char *)at + size, 0, -size & 3);
	used += (size + 3) & ~3u;
	return at;
}

static unsigned int attribute(int type, const void *data, unsigned int size)
{
	struct rtattr head = {.rta_len = RTA_LENGTH(size), .rta_type = type};
	unsigned int start = used;

	add(&head, sizeof(head));
	if (size)
		add(data, size);
	return start;
}

static void close_attribute(unsigned int start)
{
	((struct rtattr *)(batch + start))->rta_len = used - start;
}

static void number(int type, unsigned int value)
{
	attribute(type, &value, 4);
}

static void begin(int type, int flags, const void *body, unsigned int size)
{
	struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags};

	last = used;
	add(&head, sizeof(head));
	add(body, size);
}

static void end(void)
{
	((struct nlmsghdr *)(batch + last))->nlmsg_len = used - last;
}

static void send_batch(int socket)
{
	char answer[4096];
	struct nlmsghdr *head = (struct nlmsghdr *)answer;
	ssize_t size;

	((struct nlmsghdr *)(batch + last))->nlmsg_flags |= NLM_F_ACK;
	if (send(socket, batch, used, 0) < 0)
		die("send");
	size = recv(socket, answer, sizeof(answer), 0);
	if (size < 0)
		die("recv");
	if (head->nlmsg_type == NLMSG_ERROR && ((struct nlmsgerr *)NLMSG_DATA(head))->error) {
		errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
		die("netlink");
	}
	used = 0;
}

static void link_up(int index)
{
	struct ifinfomsg info = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

	begin(RTM_NEWLINK, 0, &info, sizeof(info));
	end();
}

static void device(const char *name, int salt, int index)
{
	unsigned char mac[6] = {2, salt >> 24, salt >> 16, salt >> 8, salt, index};

	attribute(IFLA_IFNAME, name, strlen(name) + 1);
	attribute(IFLA_ADDRESS, mac, 6);
	number(IFLA_MTU, 1500);
}

static void veth(const char *name, int index, const char *peer, int peer_index, int flags, int peer_fd, int master,
		 int salt)
{
	struct ifinfomsg info = {.ifi_index = index, .ifi_flags = flags | IFF_UP, .ifi_change = flags | IFF_UP};
	struct ifinfomsg other = {.ifi_index = peer_index, .ifi_flags = flags, .ifi_change = flags};
	unsigned int outer, data, inner;

	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	device(name, salt, 1);
	outer = attribute(IFLA_LINKINFO, NULL, 0);
	attribute(IFLA_INFO_KIND, "veth", 5);
	data = attribute(IFLA_INFO_DATA, NULL, 0);
	inner = attribute(VETH_INFO_PEER, NULL, 0);
	add(&other, sizeof(other));
	device(peer, salt, 2);
	if (peer_fd >= 0)
		number(IFLA_NET_NS_FD, peer_fd);
	close_attribute(inner);
	close_attribute(data);
	close_attribute(outer);
	if (master)
		number(IFLA_MASTER, master);
	end();
}

static void plain(const char *kind, const char *name, int index, int salt)
{
	struct ifinfomsg info = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	unsigned int outer, data;
	unsigned short port = htons(8472);

	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	device(name, salt, 3);
	outer = attribute(IFLA_LINKINFO, NULL, 0);
	attribute(IFLA_INFO_KIND, kind, strlen(kind) + 1);
	if (!strcmp(kind, "vxlan")) {
		data = attribute(IFLA_INFO_DATA, NULL, 0);
		attribute(IFLA_VXLAN_COLLECT_METADATA, "\1", 1);
		attribute(IFLA_VXLAN_PORT, &port, 2);
		attribute(IFLA_VXLAN_LEARNING, "\0", 1);
		close_attribute(data);
	}
	close_attribute(outer);
	end();
}

static void address(int index, unsigned int ip, int bits)
{
	struct ifaddrmsg info = {.ifa_family = AF_INET, .ifa_prefixlen = bits, .ifa_index = index};

	ip = htonl(ip);
	begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	attribute(IFA_LOCAL, &ip, 4);
	attribute(IFA_ADDRESS, &ip, 4);
	end();
}

static void route(int index, unsigned int to, int bits, unsigned int via, unsigned int from, unsigned int mtu)
{
	struct rtmsg info = {.rtm_family = AF_INET,
			     .rtm_dst_len = bits,
			     .rtm_table = RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_BOOT,
			     .rtm_scope = via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
			     .rtm_type = RTN_UNICAST};
	unsigned int metrics;

	to = htonl(to);
	via = htonl(via);
	from = htonl(from);
	begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	if (bits)
		attribute(RTA_DST, &to, 4);
	if (via)
		attribute(RTA_GATEWAY, &via, 4);
	if (from)
		attribute(RTA_PREFSRC, &from, 4);
	if (mtu) {
		metrics = attribute(RTA_METRICS, NULL, 0);
		number(RTAX_MTU, mtu);
		close_attribute(metrics);
	}
	number(RTA_OIF, index);
	end();
}

static void neighbour(int index, unsigned int ip, int salt)
{
	struct ndmsg info = {.ndm_family = AF_INET, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT};
	unsigned char mac[6] = {2, salt >> 24, salt >> 16, salt >> 8, salt, 2};

	ip = htonl(ip);
	begin(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	attribute(NDA_DST, &ip, 4);
	attribute(NDA_LLADDR, mac, 6);
	end();
}

static void make(struct place *place, const char *prefix, const char *part, int number)
{
	struct ifinfomsg info = {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	char own[64];
	int file;

	snprintf(place->path, sizeof(place->path), "/run/netns/%s.%s%d", prefix, part, number);
	if (unshare(CLONE_NEWNET))
		die("unshare");
	place->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	place->socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	file = open(place->path, O_CREAT | O_EXCL | O_WRONLY, 0444);
	if (place->fd < 0 || place->socket < 0 || file < 0)
		die(place->path);
	close(file);
	begin(RTM_NEWLINK, 0, &info, sizeof(info));
	attribute(IFLA_IFALIAS, "yardstick", 9);
	end();
	send_batch(place->socket);
	snprintf(own, sizeof(own), "/proc/self/fd/%d", place->fd);
	if (mount(own, place->path, "none", MS_BIND, NULL))
		die("mount");
	if (setns(home, CLONE_NEWNET))
		die("setns");
}

static void drop(struct place *place)
{
	umount2(place->path, MNT_DETACH);
	unlink(place->path);
}

int main(int argc, char **argv)
{
	int nodes = argc == 4 ? atoi(argv[2]) : 0, pods = argc == 4 ? atoi(argv[3]) : 0;
	unsigned int underlay = 0xac1e0002, cluster = 0x0af40000;
	struct place bridge, *node = calloc(nodes, sizeof(*node)), *pod = calloc((size_t)nodes * pods, sizeof(*pod));
	char name[16];
	double begun, built;

	if (!nodes || nodes > 250) {
		fprintf(stderr, "usage: %s PREFIX NODES PODS_PER_NODE\n", argv[0]);
		return 2;
	}
	home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	begun = now();
	make(&bridge, argv[1], "underlay", 0);
	plain("bridge", "underlay", 2, 1);
	send_batch(bridge.socket);
	for (int i = 0; i < nodes; i++) {
		unsigned int router = cluster + i * 1024 + 1;

		make(&node[i], argv[1], "node", i);
		snprintf(name, sizeof(name), "port%d", i + 1);
		veth(name, 10 + i, "eth0", 4, 0, node[i].fd, 2, 1000 + i);
		send_batch(bridge.socket);
		veth("cilium_net", 2, "cilium_host", 3, IFF_NOARP, -1, 0, 2000 + i);
		plain("vxlan", "cilium_vxlan", 5, 3000 + i);
		link_up(3);
		link_up(4);
		address(4, underlay + i, 24);
		address(3, router, 32);
		route(3, router, 32, 0, 0, 0);
		route(3, router - 1, 22, router, router, 0);
		for (int other = 0; other < nodes; other++)
			if (other != i)
				route(3, cluster + other * 1024, 22, router, router, 1450);
		for (int other = 0; other < nodes; other++)
			if (other != i)
				neighbour(4, underlay + other, 1000 + other);
		send_batch(node[i].socket);
	}
	for (int i = 0; i < nodes; i++)
		for (int j = 0; j < pods; j++) {
			struct place *this = &pod[i * pods + j];
			unsigned int router = cluster + i * 1024 + 1;

			make(this, argv[1], "pod", i * pods + j);
			snprintf(name, sizeof(name), "lxc%012d", i * pods + j);
			veth(name, 10 + j, "eth0", 2, 0, this->fd, 0, 100000 + i * pods + j);
			send_batch(node[i].socket);
			link_up(2);
			address(2, router + 1 + j, 32);
			route(2, router, 32, 0, 0, 0);
			route(2, 0, 0, router, 0, 1450);
			send_batch(this->socket);
			close(this->socket);
			close(this->fd);
		}
	built = now();
	printf("%.6f\n", built - begun);
	for (int i = 0; i < nodes * pods; i++)
		drop(&pod[i]);
	for (int i = 0; i < nodes; i++)
		drop(&node[i]);
	drop(&bridge);
	return 0;
}
