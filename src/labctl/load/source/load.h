// SPDX-License-Identifier: Apache-2.0
/*
 * What the parts of the load program share: the messages that its two ends send each other inside the traffic that is
 * measured, the record of a slice, and how an end fails.
 *
 * An end is one process with one thread. It is told what to do by lines on its standard input (main.c), and listens,
 * measures, or both. The ends need no other channel than the traffic itself: a request says that a slice begins, which
 * CPU the server has to take for it, where measuring begins and where it ends; the last answer has what the server
 * measured. So the same program serves two namespaces of one host and two pods of a cluster.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NO_CPU 0xffff /* wherever the scheduler likes */
#define MOST_STREAMS 64
#define MOST_SESSIONS 64
#define BLOCK_BYTE (64 * 1024) /* of a stream: what one write has */
#define MOST_WATCHED 2
/*
 * A slice of requests in whose time those who do the work (both ends, and the kernel's threads for packets) stood in a
 * run queue for more than this share measured who kept the CPU: it is disturbed, and measured again at once.
 */
#define DISTURBED_SHARE 10 /* a tenth */
#define MOST_ATTEMPTS 4
#define PATIENCE_S 5 /* without a byte from the other end, before a slice has failed */

enum kind { TCP = 1, UDP, CONNECT, STREAM, PACED };

enum verb {
	HELLO = 'H', /* first on a connection: which kind it is for, and to which session's streams it belongs */
	START = 'S', /* a slice begins: take this CPU, and answer at once from now on */
	PASS = 'P',  /* a request, or a block of a stream, of no other meaning */
	MARK = 'M',  /* as PASS; measuring begins here */
	LAST = 'L',  /* measuring ended before this; the slice ends here */
};

/* A request or its answer; on the wire it is `size` bytes long (at least this), the rest is zero. Little-endian. */
struct message {
	uint8_t verb;
	uint8_t kind;
	uint16_t cpu;
	uint32_t number;
	uint32_t session;
	uint16_t index; /* of a stream of its session; in START: how many of them take part */
	uint16_t size;
	uint64_t bytes; /* from here on: what the server measured, in the answer to LAST */
	uint64_t cpu_ns;
	uint64_t duration_ns;
	uint64_t waited_ns; /* able to run, and without a CPU */
	uint32_t yielded;   /* voluntary switches of context */
	uint32_t preempted; /* involuntary ones */
	uint32_t cycles;    /* 0 where they are not counted; no more than fits */
	uint32_t instructions;
};
#define LEAST_SIZE 64
#define MOST_SIZE 1400
_Static_assert(sizeof(struct message) <= LEAST_SIZE, "a message has room for its fields");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "messages and records are little-endian");

/*
 * A slice as it is reported and stored; then `histogram_byte` bytes of histogram: for each round trip's time that
 * occurred, in ascending order, the difference in nanoseconds from the one before and how often it occurred, both as
 * unsigned LEB128. Nothing is rounded. src/labctl/load/slices.py reads it.
 */
struct record {
	uint32_t size; /* of all of it */
	uint8_t kind;
	uint8_t reserved;
	uint16_t session;
	uint32_t cycle;
	uint16_t position; /* in its cycle */
	uint16_t client_cpu;
	uint16_t server_cpu;
	uint16_t attempt; /* from 0; all but the last were disturbed */
	uint32_t argument; /* streams, or requests a second */
	uint64_t begun_ns; /* CLOCK_MONOTONIC of the client */
	uint64_t duration_ns;
	uint64_t bytes; /* payload, one way */
	uint64_t client_cpu_ns;
	uint64_t server_cpu_ns;
	uint64_t client_waited_ns; /* able to run, and without a CPU; 0 where the kernel does not say */
	uint64_t server_waited_ns;
	uint64_t packets_cpu_ns; /* of the threads of `watch`: what they ran, and waited */
	uint64_t packets_waited_ns;
	uint32_t operations;
	uint32_t resent; /* datagrams that were not answered in time */
	uint32_t client_yielded, client_preempted, server_yielded, server_preempted;
	uint32_t distinct;
	uint32_t histogram_byte;
	uint64_t client_cycles, server_cycles; /* by the CPU's own counters; 0 where they are not counted */
	uint64_t client_instructions, server_instructions;
};
_Static_assert(sizeof(struct record) == 160, "the record has no holes");

/* CPU time, waiting for a CPU, switches, and what the CPU's counters count, of this thread since a moment. */
struct usage {
	int64_t cpu_ns, waited_ns;
	long yielded, preempted;
	uint64_t cycles, instructions;
};

extern char failure[256]; /* why the last thing failed; set by fail() */

int fail(const char *what);                  /* with errno; gives -1 */
int fail_because(const char *what, const char *why);
int64_t now_ns(void);                        /* CLOCK_MONOTONIC */
int count_instructions(void);                /* from now on, cycles too; fails where the kernel or the CPU cannot */
struct usage usage_now(void);
struct usage usage_since(struct usage before);
int watch_thread(const char *pid);           /* one of the kernel's threads for packets */
struct usage watched_now(void);              /* of all of them; switches are not counted */
int take_cpu(unsigned int cpu);              /* pins this thread; nothing for NO_CPU and for the CPU that it has */
int enter_namespace(const char *path);       /* "-" is the namespace that the program was started in */
int be_patient(int fd);                      /* receiving fails after PATIENCE_S */
int shape(int fd, const char *congestion, int buffer_byte); /* a TCP socket, before it connects or listens */
ssize_t receive_all(int fd, void *buffer, size_t size);
ssize_t send_all(int fd, const void *buffer, size_t size);
extern char block[BLOCK_BYTE];

/* server.c */
struct ports {
	uint16_t data, connect, udp;
};
int listen_at(const char *namespace, const char *address, const char *congestion, int buffer_byte, struct ports *ports);
int serve_pending(void); /* one descriptor of `served` is readable */
extern int served;       /* an epoll descriptor: what the server waits for */

/* client.c */
struct opening {
	unsigned int session;
	const char *namespace, *address, *congestion;
	struct ports ports;
	int streams, buffer_byte, size;
};
struct opened {
	char congestion[16];
	int send_buffer_byte, receive_buffer_byte;
};
struct slice {
	enum kind kind;
	uint32_t argument;
	int64_t warm_ns, length_ns;
	uint16_t client_cpu, server_cpu;
	uint32_t cycle;
	uint16_t position;
	unsigned int session;
};
int open_session(const struct opening *asked, struct opened *opened);
void close_sessions(void);
/* Writes records: one, or one for each attempt until one was not disturbed. */
int measure_slice(const struct slice *slice, char *out, size_t room, size_t *used);

#endif
