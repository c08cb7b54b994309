// SPDX-License-Identifier: Apache-2.0
/* Clocks, CPU time, CPUs, namespaces and sockets: what both ends of the load program do alike. */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

char failure[256];
char block[BLOCK_BYTE];

int fail_because(const char *what, const char *why)
{
	snprintf(failure, sizeof failure, "%s: %s", what, why);
	return -1;
}

int fail(const char *what)
{
	return fail_because(what, strerror(errno));
}

static int64_t clock_ns(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static int watched[MOST_WATCHED], watched_count;

/* /proc/PID/schedstat (CONFIG_SCHED_INFO): what a thread ran, and how long it stood in a run queue. */
static struct usage scheduled(int fd)
{
	char text[96] = {0}, *rest;
	struct usage usage = {0};

	if (fd < 0 || pread(fd, text, sizeof text - 1, 0) <= 0)
		return usage;
	usage.cpu_ns = strtoll(text, &rest, 10);
	usage.waited_ns = strtoll(rest, NULL, 10);
	return usage;
}

int watch_thread(const char *pid)
{
	char path[64];

	if (watched_count == MOST_WATCHED)
		return fail_because("cannot watch a thread", "there are two already");
	snprintf(path, sizeof path, "/proc/%.16s/schedstat", pid);
	if ((watched[watched_count] = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return fail("cannot watch a thread");
	watched_count++;
	return 0;
}

struct usage watched_now(void)
{
	struct usage sum = {0};

	for (int i = 0; i < watched_count; i++) {
		struct usage one = scheduled(watched[i]);

		sum.cpu_ns += one.cpu_ns;
		sum.waited_ns += one.waited_ns;
	}
	return sum;
}

static int64_t waited_ns(void)
{
	static int fd = -2;

	if (fd == -2)
		fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
	return scheduled(fd).waited_ns;
}

static int cycles = -1, instructions = -1;

/* Pinned: it counts all the time or, where others have the CPU's counters, reads as nothing. */
static int counter(uint64_t what)
{
	struct perf_event_attr asked = {
	    .type = PERF_TYPE_HARDWARE, .size = sizeof asked, .config = what, .exclude_hv = 1, .pinned = 1};

	return syscall(SYS_perf_event_open, &asked, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

int count_instructions(void)
{
	if (cycles < 0)
		cycles = counter(PERF_COUNT_HW_CPU_CYCLES);
	if (cycles >= 0 && instructions < 0)
		instructions = counter(PERF_COUNT_HW_INSTRUCTIONS);
	if (instructions >= 0)
		return 0;
	fail("cannot count cycles and instructions");
	if (cycles >= 0)
		close(cycles);
	cycles = -1;
	return -1;
}

static uint64_t counted(int fd)
{
	uint64_t value = 0;

	return fd < 0 || read(fd, &value, sizeof value) != sizeof value ? 0 : value;
}

struct usage usage_now(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return (struct usage){.waited_ns = waited_ns(),
			      .cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID),
			      .yielded = usage.ru_nvcsw,
			      .preempted = usage.ru_nivcsw,
			      .cycles = counted(cycles),
			      .instructions = counted(instructions)};
}

struct usage usage_since(struct usage before)
{
	struct usage now = usage_now();

	now.cpu_ns -= before.cpu_ns;
	now.waited_ns -= before.waited_ns;
	now.yielded -= before.yielded;
	now.preempted -= before.preempted;
	now.cycles -= before.cycles;
	now.instructions -= before.instructions;
	return now;
}

int take_cpu(unsigned int cpu)
{
	static unsigned int taken = NO_CPU;
	cpu_set_t only;

	if (cpu == taken || cpu == NO_CPU)
		return 0;
	CPU_ZERO(&only);
	CPU_SET(cpu, &only);
	if (sched_setaffinity(0, sizeof only, &only))
		return fail("cannot run on the CPU that was asked for");
	taken = cpu;
	return 0;
}

int enter_namespace(const char *path)
{
	static int home = -1;
	int entrance, status;

	if (home < 0 && (home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
		return fail("cannot open its own network namespace");
	if (!strcmp(path, "-"))
		return setns(home, CLONE_NEWNET) && errno != EPERM ? fail("cannot return to its own namespace") : 0;
	if ((entrance = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return fail("cannot open a network namespace");
	status = setns(entrance, CLONE_NEWNET) ? fail("cannot enter a network namespace") : 0;
	close(entrance);
	return status;
}

int be_patient(int fd)
{
	struct timeval patience = {.tv_sec = PATIENCE_S};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience))
		return fail("cannot set how long to wait");
	return 0;
}

int shape(int fd, const char *congestion, int buffer_byte)
{
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
		return fail("cannot set TCP_NODELAY");
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion)))
		return fail("cannot set the congestion control");
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_byte, sizeof buffer_byte) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_byte, sizeof buffer_byte))
		return fail("cannot set the buffers");
	return be_patient(fd);
}

/* All of it; 0 when the other end closed, -1 with errno. */
ssize_t receive_all(int fd, void *buffer, size_t size)
{
	size_t had = 0;

	while (had < size) {
		ssize_t more = recv(fd, (char *)buffer + had, size - had, 0);

		if (more < 0 && errno == EINTR)
			continue;
		if (more <= 0)
			return more;
		had += more;
	}
	return had;
}

ssize_t send_all(int fd, const void *buffer, size_t size)
{
	size_t sent = 0;

	while (sent < size) {
		ssize_t more = send(fd, (const char *)buffer + sent, size - sent, MSG_NOSIGNAL);

		if (more < 0 && errno == EINTR)
			continue;
		if (more < 0)
			return -1;
		sent += more;
	}
	return sent;
}
