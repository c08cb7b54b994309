// SPDX-License-Identifier: Apache-2.0
/*
 * The end that asks. A slice warms up for a while that nobody looks at, measures until its time is over, and gives one
 * record, whose histogram has every round trip.
 */
#define _GNU_SOURCE
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_OPERATIONS (1 << 20)
#define RESEND_NS 200000000 /* a datagram that was not answered by then is sent again */

struct session {
	int is_open;
	char namespace[128], congestion[16];
	struct sockaddr_in data, brief, udp;
	int streams, buffer_byte, size;
	int requests, datagrams;
	int stream[MOST_STREAMS];
};

static struct session sessions[MOST_SESSIONS];
static int64_t took_ns[MOST_OPERATIONS];
static uint32_t number;

static int connected(const struct session *session, const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fail("cannot make a socket");
	if (!shape(fd, session->congestion, session->buffer_byte) &&
	    !connect(fd, (const struct sockaddr *)to, sizeof *to))
		return fd;
	if (!*failure)
		fail("cannot connect");
	close(fd);
	return -1;
}

/* A connection that the server knows the purpose of. */
static int greeted(struct session *session, unsigned int id, enum kind kind, int index)
{
	char buffer[LEAST_SIZE] = {0};
	struct message hello = {.verb = HELLO, .kind = kind, .session = id, .index = index, .size = session->size};
	int fd = connected(session, &session->data);

	if (fd < 0)
		return -1;
	memcpy(buffer, &hello, sizeof hello);
	if (send_all(fd, buffer, sizeof buffer) < 0 || receive_all(fd, buffer, sizeof buffer) <= 0) {
		close(fd);
		return fail("the server did not answer the first message");
	}
	return fd;
}

int open_session(const struct opening *asked, struct opened *opened)
{
	struct session *session;
	struct timeval patience = {.tv_usec = RESEND_NS / 1000};
	socklen_t length = sizeof opened->congestion, integer = sizeof(int);

	if (asked->session >= MOST_SESSIONS || asked->streams < 1 || asked->streams > MOST_STREAMS ||
	    asked->size < LEAST_SIZE || asked->size > MOST_SIZE)
		return fail_because("cannot open the session", "a number is out of its bounds");
	session = sessions + asked->session;
	if (session->is_open)
		return fail_because("cannot open the session", "it is open");
	*session = (struct session){.streams = asked->streams, .buffer_byte = asked->buffer_byte, .size = asked->size};
	session->requests = session->datagrams = -1;
	strncpy(session->namespace, asked->namespace, sizeof session->namespace - 1);
	strncpy(session->congestion, asked->congestion, sizeof session->congestion - 1);
	session->data.sin_family = AF_INET;
	if (inet_pton(AF_INET, asked->address, &session->data.sin_addr) != 1)
		return fail_because("cannot open the session", "the address is none of IPv4");
	session->brief = session->udp = session->data;
	session->data.sin_port = htons(asked->ports.data);
	session->brief.sin_port = htons(asked->ports.connect);
	session->udp.sin_port = htons(asked->ports.udp);
	session->is_open = 1;
	memset(session->stream, -1, sizeof session->stream);
	if (enter_namespace(session->namespace))
		return -1;
	if ((session->requests = greeted(session, asked->session, TCP, 0)) < 0)
		return -1;
	for (int i = 0; i < session->streams; i++)
		if ((session->stream[i] = greeted(session, asked->session, STREAM, i)) < 0)
			return -1;
	session->datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (session->datagrams < 0 ||
	    connect(session->datagrams, (struct sockaddr *)&session->udp, sizeof session->udp) ||
	    setsockopt(session->datagrams, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience))
		return fail("cannot make the socket for datagrams");
	if (getsockopt(session->requests, IPPROTO_TCP, TCP_CONGESTION, opened->congestion, &length) ||
	    getsockopt(session->requests, SOL_SOCKET, SO_SNDBUF, &opened->send_buffer_byte, &integer) ||
	    getsockopt(session->requests, SOL_SOCKET, SO_RCVBUF, &opened->receive_buffer_byte, &integer))
		return fail("cannot read what the sockets have");
	return enter_namespace("-");
}

void close_sessions(void)
{
	for (struct session *session = sessions; session < sessions + MOST_SESSIONS; session++) {
		if (!session->is_open)
			continue;
		for (int i = 0; i < session->streams; i++)
			if (session->stream[i] >= 0)
				close(session->stream[i]);
		if (session->requests >= 0)
			close(session->requests);
		if (session->datagrams >= 0)
			close(session->datagrams);
		session->is_open = 0;
	}
}

/* One request of an open connection and its answer, which takes the request's place. */
static int ask_tcp(int fd, char *buffer, size_t size)
{
	if (send_all(fd, buffer, size) < 0)
		return fail("a request could not be sent");
	ssize_t got = receive_all(fd, buffer, size);
	if (got <= 0)
		return got ? fail("no answer to a request") : fail_because("no answer to a request", "the server closed");
	return 0;
}

static int ask_udp(int fd, char *buffer, size_t size, uint32_t *resent)
{
	char answer[MOST_SIZE];
	uint32_t asked = ((struct message *)buffer)->number;

	for (int tries = 0; tries * (int64_t)RESEND_NS < PATIENCE_S * 1000000000LL; tries++) {
		ssize_t got;

		*resent += tries > 0;
		if (send(fd, buffer, size, MSG_NOSIGNAL) < 0)
			return fail("a datagram could not be sent");
		/* A late answer to a datagram before this one is none to this. */
		while ((got = recv(fd, answer, size, 0)) == (ssize_t)size)
			if (((struct message *)answer)->number == asked) {
				memcpy(buffer, answer, size);
				return 0;
			}
		if (got >= 0 || (errno != EAGAIN && errno != EINTR))
			return fail("no answer to a datagram");
	}
	return fail_because("no answer to a datagram", "it was sent again and again for 5 s");
}

/* A connection for one request: until the server has closed it. */
static int ask_short(const struct session *session, char *buffer, size_t size)
{
	int fd = connected(session, &session->brief), status;
	char end;

	if (fd < 0)
		return -1;
	status = ask_tcp(fd, buffer, size);
	if (!status && recv(fd, &end, 1, 0) != 0)
		status = fail_because("a connection did not end", "the server sent more than its answer, or nothing for 5 s");
	close(fd);
	return status;
}

static int ask(const struct session *session, const struct slice *slice, enum verb verb, char *buffer, uint32_t *resent)
{
	struct message request = {.verb = verb,
				  .kind = slice->kind,
				  .cpu = slice->server_cpu,
				  .number = ++number,
				  .session = slice->session,
				  .size = session->size};

	memcpy(buffer, &request, sizeof request);
	switch (slice->kind) {
	case UDP:
		return ask_udp(session->datagrams, buffer, session->size, resent);
	case CONNECT:
		return ask_short(session, buffer, session->size);
	default:
		return ask_tcp(session->requests, buffer, session->size);
	}
}

static void sleep_until(int64_t at_ns)
{
	struct timespec at = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

static void add_used(struct record *record, struct usage used, const struct message *server)
{
	record->client_cpu_ns = used.cpu_ns;
	record->client_waited_ns = used.waited_ns;
	record->server_waited_ns = server->waited_ns;
	record->client_yielded = used.yielded;
	record->client_preempted = used.preempted;
	record->server_cpu_ns = server->cpu_ns;
	record->server_yielded = server->yielded;
	record->server_preempted = server->preempted;
	record->client_cycles = used.cycles;
	record->server_cycles = server->cycles;
	record->client_instructions = used.instructions;
	record->server_instructions = server->instructions;
}

/*
 * Requests one at a time. With a pace each has the time at which it is due, and its latency counts from there: a
 * request that had to wait for the answer to the one before has waited (coordinated omission).
 */
static int measure_requests(const struct session *session, const struct slice *slice, struct record *record)
{
	char buffer[MOST_SIZE] = {0};
	int64_t pace_ns = slice->kind == PACED ? 1000000000LL / slice->argument : 0;
	int64_t begun_ns, now, due_ns, end_ns;
	struct usage begun;
	uint32_t count = 0, before = 0;

	if (slice->kind == CONNECT && enter_namespace(session->namespace))
		return -1;
	if (ask(session, slice, START, buffer, &before))
		return -1;
	for (now = begun_ns = now_ns(); now < begun_ns + slice->warm_ns; now = now_ns())
		if (ask(session, slice, PASS, buffer, &before))
			return -1;
	begun = usage_now();
	now = due_ns = begun_ns = now_ns();
	end_ns = begun_ns + slice->length_ns;
	while (now < end_ns && count < MOST_OPERATIONS) {
		if (pace_ns) {
			if (due_ns >= end_ns)
				break;
			if (now < due_ns)
				sleep_until(due_ns);
		}
		if (ask(session, slice, count ? PASS : MARK, buffer, &record->resent))
			return -1;
		int64_t after = now_ns();

		took_ns[count++] = after - due_ns;
		now = after;
		due_ns = pace_ns ? due_ns + pace_ns : now;
	}
	record->begun_ns = begun_ns;
	record->duration_ns = now - begun_ns;
	struct usage used = usage_since(begun);
	if (ask(session, slice, LAST, buffer, &before))
		return -1;
	record->operations = count;
	record->bytes = (uint64_t)count * session->size;
	add_used(record, used, (struct message *)buffer);
	return slice->kind == CONNECT ? enter_namespace("-") : 0;
}

/* How much of its present block a stream has sent. */
struct outflow {
	size_t into_block;
};

/* Whole blocks of one verb, one on each stream. */
static int send_each(struct session *session, struct outflow *flows, int count, char verb)
{
	for (int i = 0; i < count; i++) {
		size_t left = (BLOCK_BYTE - flows[i].into_block) % BLOCK_BYTE;

		/* Its block must end before another verb begins. */
		if (send_all(session->stream[i], block + BLOCK_BYTE - left, left) < 0)
			return fail("a stream could not be sent");
		flows[i].into_block = 0;
		block[0] = verb;
		if (send_all(session->stream[i], block, BLOCK_BYTE) < 0)
			return fail("a stream could not be sent");
		block[0] = PASS;
	}
	return 0;
}

static int send_some(struct session *session, struct outflow *flows, struct pollfd *waiting, int count)
{
	if (count > 1 && poll(waiting, count, PATIENCE_S * 1000) <= 0)
		return fail_because("a stream could not be sent", "nothing was taken for 5 s");
	for (int i = 0; i < count; i++) {
		if (count > 1 && !waiting[i].revents)
			continue;
		size_t at = flows[i].into_block;
		ssize_t sent = send(session->stream[i], block + at, BLOCK_BYTE - at,
				    MSG_NOSIGNAL | (count > 1 ? MSG_DONTWAIT : 0));

		if (sent < 0 && !(count > 1 && (errno == EAGAIN || errno == EINTR)))
			return fail("a stream could not be sent");
		if (sent > 0)
			flows[i].into_block = (at + sent) % BLOCK_BYTE;
	}
	return 0;
}

static int measure_streams(struct session *session, const struct slice *slice, struct record *record)
{
	int count = slice->argument;
	char buffer[LEAST_SIZE] = {0};
	struct message start = {.verb = START,
				.kind = STREAM,
				.cpu = slice->server_cpu,
				.number = ++number,
				.session = slice->session,
				.index = count,
				.size = session->size};
	struct outflow flows[MOST_STREAMS] = {0};
	struct pollfd waiting[MOST_STREAMS];
	int64_t begun_ns;
	struct usage begun;

	if (count < 1 || count > session->streams)
		return fail_because("cannot measure streams", "the session has not so many");
	for (int i = 0; i < count; i++)
		waiting[i] = (struct pollfd){.fd = session->stream[i], .events = POLLOUT};
	memcpy(buffer, &start, sizeof start);
	block[0] = PASS;
	if (ask_tcp(session->stream[0], buffer, sizeof buffer))
		return -1;
	for (begun_ns = now_ns(); now_ns() < begun_ns + slice->warm_ns;)
		if (send_some(session, flows, waiting, count))
			return -1;
	begun = usage_now();
	begun_ns = now_ns();
	if (send_each(session, flows, count, MARK))
		return -1;
	while (now_ns() < begun_ns + slice->length_ns)
		if (send_some(session, flows, waiting, count))
			return -1;
	struct usage used = usage_since(begun);
	if (send_each(session, flows, count, LAST))
		return -1;
	if (receive_all(session->stream[0], buffer, sizeof buffer) <= 0)
		return fail("the server did not say what it received");
	const struct message *server = (struct message *)buffer;

	record->begun_ns = begun_ns;
	record->duration_ns = server->duration_ns;
	record->bytes = server->bytes;
	record->operations = server->bytes / BLOCK_BYTE;
	add_used(record, used, server);
	return 0;
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static size_t put_number(char *out, uint64_t value)
{
	size_t used = 0;

	do {
		out[used++] = (value & 0x7f) | (value > 0x7f ? 0x80 : 0);
		value >>= 7;
	} while (value);
	return used;
}

#define MOST_NUMBER_BYTE 10

/* The record of one attempt, with its histogram. */
static int put_record(struct record *record, char *out, size_t room, size_t *used)
{
	uint32_t count = record->kind == STREAM ? 0 : record->operations;
	size_t at = sizeof *record;
	int64_t last = 0;

	if (room < at + 2 * MOST_NUMBER_BYTE * (size_t)count)
		return fail_because("cannot report", "the slices are too many or too long for one command");
	qsort(took_ns, count, sizeof *took_ns, by_size);
	for (uint32_t i = 0, same; i < count; i += same) {
		for (same = 1; i + same < count && took_ns[i + same] == took_ns[i];)
			same++;
		at += put_number(out + at, took_ns[i] - last);
		at += put_number(out + at, same);
		last = took_ns[i];
		record->distinct++;
	}
	record->size = at;
	record->histogram_byte = at - sizeof *record;
	memcpy(out, record, sizeof *record);
	*used += at;
	return 0;
}

static int is_disturbed(const struct record *record)
{
	uint64_t waited_ns = record->client_waited_ns + record->server_waited_ns + record->packets_waited_ns;

	/* The ends of a stream may share a CPU, and then wait for each other. */
	return record->kind != STREAM && waited_ns > record->duration_ns / DISTURBED_SHARE;
}

int measure_slice(const struct slice *slice, char *out, size_t room, size_t *used)
{
	struct session *session = sessions + slice->session;

	*failure = 0;
	*used = 0;
	if (slice->session >= MOST_SESSIONS || !session->is_open)
		return fail_because("cannot measure", "there is no such session");
	if (slice->kind == PACED && (!slice->argument || slice->argument > 1000000))
		return fail_because("cannot measure", "a pace is 1 to 1000000 requests a second");
	if (take_cpu(slice->client_cpu))
		return -1;
	for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
		struct record record = {.kind = slice->kind,
					.session = slice->session,
					.cycle = slice->cycle,
					.position = slice->position,
					.client_cpu = slice->client_cpu,
					.server_cpu = slice->server_cpu,
					.attempt = attempt,
					.argument = slice->argument};
		struct usage packets = watched_now();

		if (slice->kind == STREAM ? measure_streams(session, slice, &record)
					  : measure_requests(session, slice, &record))
			return -1;
		struct usage after = watched_now();

		record.packets_cpu_ns = after.cpu_ns - packets.cpu_ns;
		record.packets_waited_ns = after.waited_ns - packets.waited_ns;
		if (put_record(&record, out + *used, room - *used, used))
			return -1;
		if (!is_disturbed(&record))
			break;
	}
	return 0;
}
