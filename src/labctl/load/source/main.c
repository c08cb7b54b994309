// SPDX-License-Identifier: Apache-2.0
/*
 * labctl-load: puts load on a network in slices of some milliseconds, and says what each of them took.
 *
 *   labctl-load              reads commands, a line each, from standard input, and answers on standard output
 *   labctl-load spin CPU …   keeps those CPUs from going to sleep, at the lowest priority there is
 *
 * The commands (NAMESPACE is the path of a network namespace, or - for the program's own; CPU - is any):
 *
 *   nice                                                    ok LEVEL (-20 where that is allowed)
 *   count                                                   ok; each slice has cycles and instructions from now on
 *   watch PID                                               ok; a thread of the kernel, to be looked at in each slice
 *   listen NAMESPACE ADDRESS CONGESTION BUFFER              ok PORT PORT PORT (data, short connections, datagrams)
 *   open SESSION NAMESPACE ADDRESS PORT PORT PORT STREAMS CONGESTION BUFFER SIZE
 *                                                           ok CONGESTION SEND-BUFFER RECEIVE-BUFFER (as in force)
 *   run KIND ARGUMENT WARM-NS LENGTH-NS CPU CPU CYCLE SESSION…
 *                                                           ok BYTES, then so many bytes: the records of the slices
 *   close                                                   ok; every session
 *
 * Whatever fails answers `error WHY`. The program ends when its standard input does.
 */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_WORDS 80
#define ROOM_BYTE (16 << 20)

static char room[ROOM_BYTE];

static int write_all(const char *data, size_t size)
{
	while (size) {
		ssize_t written = write(STDOUT_FILENO, data, size);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return -1;
		data += written;
		size -= written;
	}
	return 0;
}

static int answer(const char *line)
{
	char text[512];
	int size = snprintf(text, sizeof text, "%s\n", line);

	return write_all(text, size);
}

static int is_number(const char *word, long long most, long long *value)
{
	char *end;

	errno = 0;
	*value = strtoll(word, &end, 10);
	return !errno && *word && !*end && *value >= 0 && *value <= most;
}

static int cpu_of(const char *word, uint16_t *cpu)
{
	long long value = NO_CPU;

	if (strcmp(word, "-") && !is_number(word, CPU_SETSIZE - 1, &value))
		return fail_because("cannot read the command", "a CPU is a number or -");
	*cpu = value;
	return 0;
}

static enum kind kind_of(const char *word)
{
	static const char *const names[] = {[TCP] = "tcp", [UDP] = "udp", [CONNECT] = "connect", [STREAM] = "stream",
					    [PACED] = "paced"};

	for (int kind = TCP; kind <= PACED; kind++)
		if (!strcmp(word, names[kind]))
			return kind;
	return 0;
}

static int numbers(char **words, const int *at, const long long *most, int count, long long *values)
{
	for (int i = 0; i < count; i++)
		if (!is_number(words[at[i]], most[i], values + i))
			return fail_because("cannot read the command", words[at[i]]);
	return 0;
}

/* Where the kernel groups the tasks of a session (CONFIG_SCHED_AUTOGROUP), a task's own priority counts only there: the
 * group competes with others by its own. */
static void nice_group(const char *level)
{
	int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, level, strlen(level)) < 0)
		fail("cannot set the priority of the session");
	close(fd);
}

struct sched_attributes { /* sched_setattr(2), which the C library of many systems does not have */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};
#define SHORT_TURN_NS 100000 /* the least that the kernel takes */

/* First whenever it wakes up: by its priority, and (since Linux 6.12) since its turns are shorter than others'. What is
 * not allowed stays as it is. */
static int do_nice(char *out, size_t size)
{
	struct sched_attributes turns = {.size = sizeof turns, .nice = -20, .runtime_ns = SHORT_TURN_NS};

	nice_group("-20");
	if (setpriority(PRIO_PROCESS, 0, -20) || syscall(SYS_sched_setattr, 0, &turns, 0))
		fail("cannot set the priority");
	snprintf(out, size, "ok %d", getpriority(PRIO_PROCESS, 0));
	return 0;
}

static int do_listen(char **words, char *out, size_t size)
{
	struct ports ports;
	long long buffer;

	if (numbers(words, (int[]){4}, (long long[]){1 << 30}, 1, &buffer) ||
	    listen_at(words[1], words[2], words[3], buffer, &ports))
		return -1;
	snprintf(out, size, "ok %u %u %u", ports.data, ports.connect, ports.udp);
	return 0;
}

static int do_open(char **words, char *out, size_t size)
{
	struct opened opened = {0};
	long long value[7];

	if (numbers(words, (int[]){1, 4, 5, 6, 7, 9, 10},
		    (long long[]){MOST_SESSIONS, 65535, 65535, 65535, MOST_STREAMS, 1 << 30, MOST_SIZE}, 7, value))
		return -1;
	struct opening asked = {.session = value[0],
				.namespace = words[2],
				.address = words[3],
				.ports = {.data = value[1], .connect = value[2], .udp = value[3]},
				.streams = value[4],
				.congestion = words[8],
				.buffer_byte = value[5],
				.size = value[6]};
	*failure = 0;
	if (open_session(&asked, &opened))
		return -1;
	snprintf(out, size, "ok %s %d %d", opened.congestion, opened.send_buffer_byte, opened.receive_buffer_byte);
	return 0;
}

/* Answers itself: the records follow the line. */
static int do_run(char **words, int count)
{
	struct slice slice = {.kind = kind_of(words[1])};
	long long value[4], session;
	size_t used = 0, more;
	char line[64];

	if (!slice.kind)
		return fail_because("cannot read the command", "a kind is tcp, udp, connect, stream or paced");
	if (numbers(words, (int[]){2, 3, 4, 7}, (long long[]){1000000, 60000000000, 60000000000, UINT32_MAX}, 4, value) ||
	    cpu_of(words[5], &slice.client_cpu) || cpu_of(words[6], &slice.server_cpu))
		return -1;
	slice.argument = value[0];
	slice.warm_ns = value[1];
	slice.length_ns = value[2];
	slice.cycle = value[3];
	for (int i = 8; i < count; i++, slice.position++) {
		if (numbers(words, (int[]){i}, (long long[]){MOST_SESSIONS}, 1, &session))
			return -1;
		slice.session = session;
		if (measure_slice(&slice, room + used, sizeof room - used, &more)) {
			char why[sizeof failure];

			memcpy(why, failure, sizeof why);
			snprintf(failure, sizeof failure, "session %lld: %.220s", session, why);
			return -1;
		}
		used += more;
	}
	snprintf(line, sizeof line, "ok %zu", used);
	return answer(line) || write_all(room, used) ? 1 : 0;
}

/* Carries out one line. 1 when nobody reads the answers any more. */
static int obey(char *line)
{
	char *words[MOST_WORDS + 1], *rest = line, out[256] = "ok";
	int count = 0, status = -1;

	while (count < MOST_WORDS && (words[count] = strtok_r(rest, " ", &rest)))
		count++;
	fail_because("cannot read the command", count ? words[0] : "an empty line");
	if (count == 1 && !strcmp(words[0], "nice"))
		status = do_nice(out, sizeof out);
	else if (count == 1 && !strcmp(words[0], "count"))
		status = count_instructions();
	else if (count == 2 && !strcmp(words[0], "watch"))
		status = watch_thread(words[1]);
	else if (count == 5 && !strcmp(words[0], "listen"))
		status = do_listen(words, out, sizeof out);
	else if (count == 11 && !strcmp(words[0], "open"))
		status = do_open(words, out, sizeof out);
	else if (count == 1 && !strcmp(words[0], "close"))
		close_sessions(), status = 0;
	else if (count > 8 && !strcmp(words[0], "run") && (status = do_run(words, count)) >= 0)
		return status;
	if (status)
		snprintf(out, sizeof out, "error %.240s", failure);
	enter_namespace("-");
	return answer(out) ? 1 : 0;
}

/* Lines from standard input as they come; requests of the other end in between. */
static int listen_to_commands(void)
{
	static char line[8192];
	size_t had = 0;

	for (;;) {
		struct pollfd waiting[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = served, .events = POLLIN}};
		char *end;

		if (poll(waiting, 2, -1) < 0 && errno != EINTR)
			return 1;
		if (waiting[1].revents && serve_pending())
			return 1;
		if (!waiting[0].revents)
			continue;
		ssize_t got = read(STDIN_FILENO, line + had, sizeof line - 1 - had);
		if (got <= 0)
			return got ? 1 : 0;
		had += got;
		line[had] = 0;
		while ((end = strchr(line, '\n'))) {
			*end = 0;
			if (obey(line))
				return 1;
			had -= end + 1 - line;
			memmove(line, end + 1, had + 1);
		}
		if (had == sizeof line - 1)
			return 1;
	}
}

static void spin_on(const char *word, int ready)
{
	const struct sched_param none = {0};
	uint16_t cpu;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	nice_group("19");
	if (cpu_of(word, &cpu) || take_cpu(cpu) || sched_setscheduler(0, SCHED_IDLE, &none))
		_exit(1);
	if (write(ready, "r", 1) != 1)
		_exit(1);
	close(ready);
	for (;;)
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#elif defined(__aarch64__)
		__asm__ volatile("yield");
#else
		__asm__ volatile("");
#endif
}

static int spin(int count, char **words)
{
	int ready[2];
	char one;

	if (pipe(ready))
		return 1;
	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			return 1;
		if (!child)
			spin_on(words[i], ready[1]);
	}
	close(ready[1]);
	/* One that ended could not take its CPU, or its priority. */
	for (int i = 0; i < count; i++)
		if (read(ready[0], &one, 1) != 1)
			return 1;
	answer("spinning");
	wait(NULL);
	return 1;
}

int main(int count, char **words)
{
	signal(SIGPIPE, SIG_IGN);
	if (count > 2 && !strcmp(words[1], "spin"))
		return spin(count - 2, words + 2);
	if (count > 1) {
		static const char usage[] = "usage: labctl-load | labctl-load spin CPU...\n";

		return write(STDERR_FILENO, usage, sizeof usage - 1) < 0 ? 3 : 2;
	}
	prctl(PR_SET_TIMERSLACK, 1);
	memset(room, 0, sizeof room); /* no page of it is missing while slices are measured */
	if (enter_namespace("-") || (served = epoll_create1(EPOLL_CLOEXEC)) < 0)
		return 1;
	return listen_to_commands();
}
