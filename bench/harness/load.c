/* Load on an HTTP/1.1 server on this machine: the bytes of requests in, one JSON line about the answers out.
 *
 *   load -p PORT -f FILE [-f FILE …] -s SECONDS [-c CONNECTIONS] [-r RATE [-m MOST_CONNECTIONS]]
 *        [-w HANDSHAKE | -g PREFACE]
 *
 * Each FILE is a whole request; several take turns. With -w each is a frame of a WebSocket, which begins with the
 * request in HANDSHAKE and a frame of the server's; an answer is one frame, a text counts as status 500. With -g each is
 * a gRPC call: its frames of HTTP/2, whose stream is set here, on a connection that begins with PREFACE. One that ends
 * with a message counts as status 200, any other as 500.
 *
 * Without -r a closed loop: each of CONNECTIONS sends again as soon as it is answered, and latency counts from the
 * sending. With -r an open loop: request k is due k/RATE seconds after the start, whatever became of those before it,
 * and its latency counts from then. A due request that finds no free connection opens another one, up to
 * MOST_CONNECTIONS; after that it waits, and its latency grows. Free connections take turns, the one that has been free
 * longest first, so that every process behind the port gets its share.
 *
 * One thread. Requests are due for SECONDS; what is unanswered then is waited for, DRAIN_S at most. Answers must have a
 * Content-Length. Failures are: an answer other than 2xx, a broken one, a connection lost or refused, no answer. Latency
 * is that of good answers; that of answers 429, which turn a request away, is told apart.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PROGRAM "load"
#include "shared.h"

enum { DRAIN_S = 15, BUFFER = 1 << 16, EVENTS = 256 };
#define IDLE (4 * SECOND) /* uvicorn closes what has been idle for 5 s; a request must not run into that */

typedef struct {
    char *bytes;
    size_t length;
} Request;
typedef struct {
    uint64_t *of, count, room;
} Latencies;
typedef enum { CLOSED, CONNECTING, GREETING, FREE, BUSY } State;
typedef struct {
    int fd, blocked;
    State state;
    uint64_t due, free_since;
    const Request *request;
    size_t sent, got;
    uint32_t stream; /* of the gRPC call under way, or the next one */
    int has_message; /* whether that call has an answer, which its end has to follow */
    char in[BUFFER + 1];
} Connection;

static struct {
    int port, connections, most;
    double seconds, rate;
} args = {.connections = 32, .most = 512};
static Request *kinds;
static Request handshake;
static int kind_count, is_grpc;
static int poller, timer;
static Connection *pool;
static int *ring, ring_first, free_count, open_count, most_open; /* the ring: free connections, in their order */
static uint64_t start, end, sent, in_flight, late, most_late;    /* sent: of an open loop, how many of its schedule */
static uint64_t requests, in_time, lost, refused, broken;
static Latencies good, turned_away; /* turned away: by a 429 */

static uint64_t due_at(uint64_t k) { return start + (uint64_t)(k * 1e9 / args.rate); }

/* --- connections --- */

static void watch(Connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) die("epoll_ctl");
}

static void close_connection(Connection *c) {
    close(c->fd);
    c->state = CLOSED;
    open_count--;
}

static void put_free(Connection *c) {
    c->state = FREE;
    c->free_since = now();
    ring[(ring_first + free_count++) % args.most] = c - pool;
}

/* Uses a connection on which no request is under way no more: a free one is closed by `take_free`. */
static void leave(Connection *c) {
    if (c->state == FREE) {
        c->free_since = 0;
        return watch(c, EPOLL_CTL_DEL, 0);
    }
    refused++;
    close_connection(c);
}

/* The connection that has been free longest; NULL where there is none. */
static Connection *take_free(void) {
    while (free_count) {
        Connection *c = &pool[ring[ring_first]];
        ring_first = (ring_first + 1) % args.most;
        free_count--;
        if (now() - c->free_since < IDLE) return c;
        close_connection(c);
    }
    return NULL;
}

/* Begins a connection, which is free once it stands. */
static void open_connection(void) {
    Connection *c = pool;
    while (c->state != CLOSED) c++;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(args.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    if (++open_count > most_open) most_open = open_count;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        refused++;
        return close_connection(c);
    }
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void connected(Connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        refused++;
        return close_connection(c);
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (!handshake.length) return put_free(c);
    if (send(c->fd, handshake.bytes, handshake.length, MSG_NOSIGNAL) != (ssize_t)handshake.length) die("handshake");
    c->state = GREETING;
    c->got = 0;
    c->stream = 1;
}

/* The length of the frame that these bytes begin with, 0 where they do not say it yet. */
static size_t frame_length(const unsigned char *bytes, size_t got) {
    size_t length = got < 2 ? 0 : bytes[1] & 127, head = length == 127 ? 10 : length == 126 ? 4 : 2;
    if (got < head) return 0;
    if (head > 2) length = 0;
    for (size_t i = 2; i < head; i++) length = length << 8 | bytes[i];
    return head + length;
}

/* --- one request and its answer --- */

static void lose(Connection *c) {
    lost++;
    in_flight--;
    close_connection(c);
}

static void go_on_sending(Connection *c) {
    while (c->sent < c->request->length) {
        ssize_t n = send(c->fd, c->request->bytes + c->sent, c->request->length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            c->blocked = 1;
            return watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        }
        if (n < 0) return lose(c);
        c->sent += n;
    }
    if (c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = 0;
}

enum { FRAME_HEAD = 9, DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, END_OR_ACK = 1 };

static size_t http2_length(const unsigned char *frame) { return frame[0] << 16 | frame[1] << 8 | frame[2]; }

/* Sends a few bytes, for which a socket that waits for nothing has room. */
static int sends_all(Connection *c, const char *bytes, size_t length) {
    return send(c->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* Sends the frames of a call, which all connections share. */
static void call(Connection *c) {
    char *bytes = c->request->bytes;
    uint32_t stream = htonl(c->stream);
    for (size_t at = 0; at < c->request->length; at += FRAME_HEAD + http2_length((unsigned char *)bytes + at))
        memcpy(bytes + at + 5, &stream, sizeof stream);
    c->has_message = 0;
    if (!sends_all(c, bytes, c->request->length)) lose(c);
}

static void begin(Connection *c, uint64_t due) {
    c->state = BUSY;
    c->due = due;
    c->request = &kinds[requests++ % kind_count];
    in_flight++;
    if (is_grpc) return call(c);
    c->sent = c->got = 0;
    go_on_sending(c);
}

static void note_latency(Latencies *l, uint64_t latency) {
    if (l->count == l->room) l->of = grown(l->of, (l->room = 2 * l->room + 4096) * sizeof *l->of);
    l->of[l->count++] = latency;
}

static void finish(Connection *c, int status, const char *body) {
    uint64_t at = now();
    in_flight--;
    statuses[status]++;
    if (status == 429) note_latency(&turned_away, at - c->due);
    if (status / 100 == 2) {
        note_latency(&good, at - c->due);
        in_time += at <= end;
        note_version(body);
    }
    if (!is_grpc && strcasestr(c->in, "\r\nconnection: close\r\n")) close_connection(c);
    else if (args.rate == 0 && at < end) begin(c, at);
    else put_free(c);
}

/* Takes what has come as the answer, if it is whole: a frame. */
static void look_at_frame(Connection *c) {
    size_t whole = frame_length((unsigned char *)c->in, c->got);
    int opcode = c->in[0] & 15;
    if (whole > BUFFER || (whole && c->got > whole) || opcode > 2) {
        broken++;
        return lose(c);
    }
    if (whole && c->got == whole) finish(c, opcode == 2 ? 200 : 500, "");
}

/* Waits for the end of the handshake, and for the frame behind it. */
static void look_at_greeting(Connection *c) {
    c->in[c->got] = 0;
    char *frame = strstr(c->in, "\r\n\r\n");
    size_t got = frame ? c->got - (frame + 4 - c->in) : 0;
    size_t whole = frame ? frame_length((unsigned char *)frame + 4, got) : 0;
    if (whole && got == whole) put_free(c);
}

/* Takes a frame of HTTP/2; returns the status of the call that it ends, 0 where it ends none, -1 if it breaks all. */
static int take_frame(Connection *c, unsigned char *frame) {
    static const char acknowledged[] = {0, 0, 0, SETTINGS, END_OR_ACK, 0, 0, 0, 0};
    int type = frame[3], flags = frame[4];
    uint32_t stream;
    memcpy(&stream, frame + 5, sizeof stream);
    int is_ours = ntohl(stream) == c->stream;
    if (type == SETTINGS && !(flags & END_OR_ACK)) {
        if (!sends_all(c, acknowledged, sizeof acknowledged)) return -1;
        if (c->state == GREETING) put_free(c);
    } else if (type == PING && !(flags & END_OR_ACK)) {
        frame[4] = END_OR_ACK;
        if (!sends_all(c, (char *)frame, FRAME_HEAD + http2_length(frame))) return -1;
    } else if (type == GOAWAY) return -1;
    else if (type == RST_STREAM && is_ours) return 500;
    else if (type == DATA && is_ours) c->has_message = 1;
    else if (type == HEADERS && is_ours && flags & END_OR_ACK) return c->has_message ? 200 : 500;
    return 0;
}

/* Takes the whole frames of HTTP/2 that have come. A call is alone on its connection, so at most one ends. */
static void look_at_frames(Connection *c) {
    size_t at = 0;
    int status = 0, found = 0;
    while (found >= 0 && c->got - at >= FRAME_HEAD) {
        unsigned char *frame = (unsigned char *)c->in + at;
        if (c->got - at < FRAME_HEAD + http2_length(frame)) break;
        at += FRAME_HEAD + http2_length(frame);
        if ((found = take_frame(c, frame)) > 0) status = found;
    }
    if (found < 0 || c->got - at == BUFFER) {
        broken++;
        return c->state == BUSY ? lose(c) : leave(c);
    }
    memmove(c->in, c->in + at, c->got -= at);
    if (!status) return;
    c->stream += 2;
    finish(c, status, "");
}

/* Takes what has come as the answer, if it is whole. */
static void look_at_answer(Connection *c) {
    if (is_grpc) return look_at_frames(c);
    if (c->state == GREETING) return look_at_greeting(c);
    if (handshake.length) return look_at_frame(c);
    c->in[c->got] = 0;
    char *body = strstr(c->in, "\r\n\r\n"), *length = strcasestr(c->in, "\r\ncontent-length:");
    if (!body && c->got < BUFFER) return;
    int status = 0;
    size_t whole = 0;
    sscanf(c->in, "HTTP/1.1 %3d", &status);
    if (body && length && length < body) whole = (body + 4 - c->in) + strtoul(length + 17, NULL, 10);
    if (whole == 0 || whole > BUFFER || c->got > whole || status < 200 || status > 599) {
        broken++;
        return lose(c);
    }
    if (c->got == whole) finish(c, status, body + 4);
}

static void readable(Connection *c) {
    if (c->state == FREE && !is_grpc) return leave(c); /* the server has closed it */
    ssize_t n = recv(c->fd, c->in + c->got, BUFFER - c->got, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return c->state == BUSY ? lose(c) : leave(c);
    c->got += n;
    look_at_answer(c);
}

/* --- the loop --- */

static int all_sent(void) { return args.rate == 0 || due_at(sent) >= end; }

/* Sends what is due by now; returns when to come again at the latest. */
static uint64_t send_due(uint64_t last) {
    while (!all_sent()) {
        uint64_t at = now(), due = due_at(sent);
        if (at < due) return due;
        Connection *c = take_free();
        if (!c) {
            if (open_count < args.most) open_connection();
            return at + SECOND / 1000; /* what becomes free before then wakes us */
        }
        if (at - due > most_late) most_late = at - due;
        late += at - due > SECOND / 1000;
        sent++;
        begin(c, due);
    }
    return last;
}

static void wait_until(uint64_t when) {
    struct epoll_event events[EVENTS];
    struct itimerspec at = {.it_value = {.tv_sec = when / SECOND, .tv_nsec = when % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    int n = epoll_wait(poller, events, EVENTS, 1000);
    for (int i = 0; i < n; i++) {
        Connection *c = events[i].data.ptr;
        uint64_t expired;
        if (!c && read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) die("timer");
        if (!c) continue;
        if (c->state == CONNECTING) connected(c);
        else if (c->state == BUSY && events[i].events & EPOLLOUT) go_on_sending(c);
        if (c->state >= GREETING && events[i].events & ~EPOLLOUT) readable(c);
    }
}

static void open_all(void) {
    for (int i = 0; i < args.connections; i++) open_connection();
    for (uint64_t until = now() + 5 * SECOND; free_count < args.connections && !refused && now() < until;)
        wait_until(now() + SECOND / 100);
    errno = ECONNREFUSED;
    if (free_count < args.connections) die("connect");
}

static void run(void) {
    start = now();
    end = start + (uint64_t)(args.seconds * 1e9);
    uint64_t last = end + DRAIN_S * SECOND;
    if (args.rate == 0)
        for (Connection *c; (c = take_free());) begin(c, now());
    for (uint64_t at = start; at < last && (at < end || in_flight || !all_sent()); at = now())
        wait_until(send_due(at < end ? end : last));
}

/* --- what is told --- */

static void sort(Latencies *l) {
    if (l->count) qsort(l->of, l->count, sizeof *l->of, ascending);
}

/* The smallest latency that the share `p` of them did not pass, in milliseconds; -1 where there are none. */
static double percentile(const Latencies *l, double p) {
    uint64_t rank = (uint64_t)(p * l->count + 0.999999);
    return l->count ? l->of[rank - 1] / 1e6 : -1;
}

static void tell(void) {
    uint64_t unsent = 0;
    while (args.rate > 0 && due_at(sent + unsent) < end) unsent++;
    uint64_t unanswered = in_flight + unsent, failures = lost + refused + unanswered;
    double rate = in_time / args.seconds;
    sort(&good);
    sort(&turned_away);
    for (int i = 0; i < 600; i++) failures += i / 100 == 2 ? 0 : statuses[i];
    printf("{\"requests\": %lu, ", requests + unsent);
    print_statuses();
    printf(", \"failures\": %lu, \"lost\": %lu, \"broken\": %lu, \"refused\": %lu, \"unanswered\": %lu", failures, lost,
           broken, refused, unanswered);
    printf(", \"seconds\": %.3f, \"rate_asked\": %.1f, \"rate\": %.1f, \"reached\": %s", args.seconds, args.rate, rate,
           rate >= 0.98 * args.rate ? "true" : "false");
    printf(", \"sent_late\": %lu, \"most_late_ms\": %.3f, \"connections\": %d", late, most_late / 1e6, most_open);
    printf(", \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"p99_9_ms\": %.3f, \"max_ms\": %.3f",
           percentile(&good, 0.5), percentile(&good, 0.9), percentile(&good, 0.99), percentile(&good, 0.999),
           percentile(&good, 1));
    printf(", \"refused_p50_ms\": %.3f, \"refused_p99_ms\": %.3f, ", percentile(&turned_away, 0.5),
           percentile(&turned_away, 0.99));
    print_versions();
    printf("}\n");
}

static Request read_request(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(name);
    Request request = {.length = ftell(file)};
    rewind(file);
    request.bytes = grown(NULL, request.length + 1);
    if (fread(request.bytes, 1, request.length, file) != request.length) die(name);
    fclose(file);
    return request;
}

static void add_kind(Request request) {
    kinds = grown(kinds, (kind_count + 1) * sizeof *kinds);
    kinds[kind_count++] = request;
}

int main(int count, char **words) {
    for (int option; (option = getopt(count, words, "p:f:s:c:r:m:w:g:")) != -1;) {
        if (option == 'p') args.port = atoi(optarg);
        else if (option == 'f') add_kind(read_request(optarg));
        else if (option == 'w' || option == 'g') {
            handshake = read_request(optarg);
            is_grpc = option == 'g';
        }
        else if (option == 's') args.seconds = atof(optarg);
        else if (option == 'c') args.connections = atoi(optarg);
        else if (option == 'r') args.rate = atof(optarg);
        else if (option == 'm') args.most = atoi(optarg);
    }
    if (!kind_count || args.port < 1 || args.seconds <= 0 || args.seconds > 600 || args.connections < 1 || args.rate < 0)
        return fprintf(stderr, "load -p PORT -f FILE [-f FILE …] -s SECONDS [-c CONNECTIONS] [-r RATE [-m MOST]] [-w FILE | -g FILE]\n"),
               2;
    if (args.rate == 0 || args.most < args.connections) args.most = args.connections;
    pool = calloc(args.most, sizeof *pool);
    ring = calloc(args.most, sizeof *ring);
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event tick = {.events = EPOLLIN};
    if (!pool || !ring || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick)) die("setup");
    open_all();
    run();
    tell();
}
