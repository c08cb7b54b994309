// SPDX-License-Identifier: Apache-2.0
/*
 * The end that answers. Between slices it waits for whatever comes first; from START to LAST it serves that one session
 * and nothing else, in calls that block, as a server of one client would.
 */
#define _GNU_SOURCE
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum role { LISTENER, SHORT_LISTENER, DATAGRAMS, CONNECTION };

struct source {
	int fd;
	enum role role;
	struct source *next;
	uint16_t size;
	uint32_t session; /* of a stream's connection, with its index there */
	uint16_t index;
	int is_stream;
	struct message result; /* of datagrams: the last answer, which may be asked for again */
};

int served = -1;
static struct source *sources;
static struct usage begun;
static int64_t begun_ns;

static int add(int fd, enum role role)
{
	struct source *source = calloc(1, sizeof *source);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	if (!source)
		return fail("no memory");
	*source = (struct source){.fd = fd, .role = role, .next = sources};
	sources = source;
	return epoll_ctl(served, EPOLL_CTL_ADD, fd, &event) ? fail("cannot wait for a socket") : 0;
}

static void forget(struct source *gone)
{
	struct source **link = &sources;

	while (*link && *link != gone)
		link = &(*link)->next;
	if (*link)
		*link = gone->next;
	close(gone->fd);
	free(gone);
}

static int bound(int type, const struct sockaddr_in *address, uint16_t *port, const char *congestion, int buffer_byte)
{
	struct sockaddr_in at = *address;
	socklen_t length = sizeof at;
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fail("cannot make a socket");
	if (type == SOCK_STREAM ? shape(fd, congestion, buffer_byte) : be_patient(fd))
		return -1;
	if (bind(fd, (struct sockaddr *)&at, sizeof at))
		return fail("cannot bind to the address");
	if (type == SOCK_STREAM && listen(fd, 1024))
		return fail("cannot listen");
	if (getsockname(fd, (struct sockaddr *)&at, &length))
		return fail("cannot read the port");
	*port = ntohs(at.sin_port);
	return fd;
}

int listen_at(const char *namespace, const char *address, const char *congestion, int buffer_byte, struct ports *ports)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	int data = -1, brief = -1, datagrams = -1;

	if (inet_pton(AF_INET, address, &at.sin_addr) != 1)
		return fail_because("cannot listen", "the address is none of IPv4");
	if (enter_namespace(namespace))
		return -1;
	if ((data = bound(SOCK_STREAM, &at, &ports->data, congestion, buffer_byte)) >= 0 &&
	    (brief = bound(SOCK_STREAM, &at, &ports->connect, congestion, buffer_byte)) >= 0)
		datagrams = bound(SOCK_DGRAM, &at, &ports->udp, congestion, buffer_byte);
	if (datagrams < 0 || add(data, LISTENER) || add(brief, SHORT_LISTENER) || add(datagrams, DATAGRAMS))
		return -1;
	return enter_namespace("-");
}

static void mark(void)
{
	begun = usage_now();
	begun_ns = now_ns();
}

static void report(struct message *answer, uint64_t bytes)
{
	struct usage used = usage_since(begun);

	answer->bytes = bytes;
	answer->duration_ns = now_ns() - begun_ns;
	answer->cpu_ns = used.cpu_ns;
	answer->waited_ns = used.waited_ns;
	answer->yielded = used.yielded;
	answer->preempted = used.preempted;
	answer->cycles = used.cycles > UINT32_MAX ? UINT32_MAX : used.cycles;
	answer->instructions = used.instructions > UINT32_MAX ? UINT32_MAX : used.instructions;
}

/* Answers until LAST; `buffer` has START. Both TCP and UDP: one receive is one message, but for torn TCP. */
static void serve_requests(struct source *source, char *buffer)
{
	struct message *message = (struct message *)buffer;
	int is_datagram = source->role == DATAGRAMS;

	if (take_cpu(message->cpu))
		return;
	for (;;) {
		int is_last = message->verb == LAST;

		if (is_last) {
			report(message, 0);
			source->result = *message;
		} else if (message->verb == MARK) {
			mark();
		}
		if (send(source->fd, buffer, source->size, MSG_NOSIGNAL) < 0 || is_last)
			return;
		ssize_t got = is_datagram ? recv(source->fd, buffer, source->size, 0)
					  : receive_all(source->fd, buffer, source->size);
		if (got < (ssize_t)sizeof *message)
			return;
	}
}

static int accepted(struct source *source)
{
	int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC);

	return fd < 0 || be_patient(fd) ? -1 : fd;
}

/* A connection, a request, its answer, the end, again and again: the server closes first, so that the ports that wait
 * for late segments are not the client's. */
static void serve_short(struct source *source)
{
	char buffer[MOST_SIZE];
	struct message *message = (struct message *)buffer;
	int is_last = 0;

	while (!is_last) {
		int fd = accepted(source);

		if (fd < 0)
			return;
		if (receive_all(fd, buffer, LEAST_SIZE) != LEAST_SIZE || message->size > MOST_SIZE ||
		    message->size < LEAST_SIZE ||
		    (message->size > LEAST_SIZE &&
		     receive_all(fd, buffer + LEAST_SIZE, message->size - LEAST_SIZE) <= 0)) {
			close(fd);
			return;
		}
		if (message->verb == START && take_cpu(message->cpu)) {
			close(fd);
			return;
		}
		if (message->verb == MARK)
			mark();
		is_last = message->verb == LAST;
		if (is_last)
			report(message, 0);
		send_all(fd, buffer, message->size);
		close(fd);
	}
}

static struct source *stream(uint32_t session, uint16_t index)
{
	for (struct source *one = sources; one; one = one->next)
		if (one->is_stream && one->session == session && one->index == index)
			return one;
	return NULL;
}

/* What a stream brings: how much of its present block has come, and that block's verb. */
struct inflow {
	size_t into_block;
	char verb;
	int is_marked, is_ended;
};

/* Takes what is there of one block. -1 when the connection failed or ended. */
static int take(int fd, struct inflow *flow, int flags, uint64_t *bytes)
{
	ssize_t got = recv(fd, block, BLOCK_BYTE - flow->into_block, flags);

	if (got < 0 && (flags & MSG_DONTWAIT) && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0)
		return -1;
	if (!flow->into_block) {
		flow->verb = block[0];
		flow->is_marked |= flow->verb == MARK;
		flow->is_ended |= flow->verb == LAST;
	}
	/* What came from MARK up to LAST. */
	if (flow->is_marked && !flow->is_ended)
		*bytes += got;
	flow->into_block = (flow->into_block + got) % BLOCK_BYTE;
	return 0;
}

static void serve_streams(struct source *first, struct message *start)
{
	struct message answer = *start;
	struct pollfd waiting[MOST_STREAMS];
	struct inflow flows[MOST_STREAMS] = {0};
	unsigned int count = start->index, left = count;
	int is_marked = 0;
	uint64_t bytes = 0;
	char reply[LEAST_SIZE] = {0};

	if (!count || count > MOST_STREAMS || take_cpu(start->cpu))
		return;
	for (unsigned int i = 0; i < count; i++) {
		struct source *one = stream(first->session, i);

		if (!one)
			return;
		waiting[i] = (struct pollfd){.fd = one->fd, .events = POLLIN};
	}
	memcpy(reply, start, sizeof *start);
	if (send_all(first->fd, reply, sizeof reply) < 0)
		return;
	while (left) {
		if (count > 1 && poll(waiting, count, PATIENCE_S * 1000) <= 0)
			return;
		for (unsigned int i = 0; i < count; i++) {
			if (waiting[i].fd < 0 || (count > 1 && !waiting[i].revents))
				continue;
			if (take(waiting[i].fd, flows + i, count > 1 ? MSG_DONTWAIT : 0, &bytes))
				return;
			if (!is_marked && flows[i].is_marked) {
				is_marked = 1;
				mark();
			}
			if (flows[i].is_ended && !flows[i].into_block) {
				waiting[i].fd = -1;
				left--;
			}
		}
	}
	report(&answer, bytes);
	memcpy(reply, &answer, sizeof answer);
	send_all(first->fd, reply, sizeof reply);
}

/* A message of a connection between slices. */
static void serve_connection(struct source *source)
{
	char buffer[MOST_SIZE] = {0};
	struct message *message = (struct message *)buffer;
	size_t size = source->size ? source->size : LEAST_SIZE;

	if (receive_all(source->fd, buffer, size) != (ssize_t)size) {
		forget(source);
		return;
	}
	if (message->verb == HELLO) {
		source->is_stream = message->kind == STREAM;
		source->session = message->session;
		source->index = message->index;
		send_all(source->fd, buffer, LEAST_SIZE);
		source->size = source->is_stream ? LEAST_SIZE : message->size;
		if (source->size < LEAST_SIZE || source->size > MOST_SIZE)
			forget(source);
	} else if (source->is_stream) {
		serve_streams(source, message);
	} else {
		serve_requests(source, buffer);
	}
}

static void serve_datagram(struct source *source)
{
	char buffer[MOST_SIZE] = {0};
	struct message *message = (struct message *)buffer;
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	ssize_t got = recvfrom(source->fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);

	if (got < LEAST_SIZE || connect(source->fd, (struct sockaddr *)&from, length))
		return;
	source->size = got;
	if (message->verb == START) {
		serve_requests(source, buffer);
	} else if (message->verb == LAST && source->result.verb == LAST) {
		/* The answer was lost. */
		source->result.number = message->number;
		memcpy(buffer, &source->result, sizeof source->result);
		send(source->fd, buffer, source->size, MSG_NOSIGNAL);
	}
}

int serve_pending(void)
{
	struct epoll_event event;
	struct source *source;
	int fd;

	if (epoll_wait(served, &event, 1, 0) != 1)
		return 0;
	source = event.data.ptr;
	switch (source->role) {
	case LISTENER:
		return (fd = accepted(source)) < 0 ? 0 : add(fd, CONNECTION);
	case SHORT_LISTENER:
		serve_short(source);
		return 0;
	case DATAGRAMS:
		serve_datagram(source);
		return 0;
	case CONNECTION:
		serve_connection(source);
		return 0;
	}
	return 0;
}
