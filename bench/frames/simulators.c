/* Simulators that step at a fixed rate: observations for a server on this machine in, one JSON line about its answers
 * out, behind a line "started" once all sessions have been.
 *
 *   simulators -p PORT -P PATH -f FILE -n SIMULATORS -z HZ -s SECONDS
 *
 * PATH is that of a policy's sessions. Each simulator has a connection and a session of its own: it starts the session,
 * then sends a step at each of its frame times, and ends the session in the end. FILE has a JSON value a line: the
 * observations, which the simulators send by turns.
 *
 * An open loop: frame k of a simulator is due at its phase + k/HZ, whatever became of those before it, and is sent then,
 * behind those that are not answered yet (at most AHEAD of them; a connection that takes no more bytes makes them wait,
 * too). Its latency counts from when it was due, so a stall is counted in every frame that it delays. Phases are even
 * pseudo-random numbers, the same ones in each run.
 *
 * One thread. A frame is late if its answer took longer than 1/HZ, or never came; all that are due within SECONDS count.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PROGRAM "simulators"
#include "../harness/shared.h"

enum { DRAIN_S = 5, CALL_S = 30, AHEAD = 64, BUFFER = 1 << 15, HEAD = 512, EVENTS = 256 };

typedef struct {
    int fd;
    uint64_t first; /* when frame 0 is due */
    uint64_t sent, answered;
    size_t got;
    char *in; /* BUFFER + 1 bytes */
} Simulator;

static struct {
    int port, count;
    double hz, seconds;
    const char *path;
} args;
static char **observations, *request;
static int observation_count, poller, timer;
static size_t request_room;
static Simulator *all; /* in the order of their phases */
static uint64_t start, end, period, late_to_send, most_late;
static uint64_t *latencies, latency_count, lost;

/* --- requests --- */

/* Writes a request of simulator `i` into `request`; returns its length. Step 0 is the start of its session. */
static size_t step_request(int i, uint64_t step) {
    char id[NAME], number[NAME];
    const char *observation = observations[(i + step) % observation_count];
    int named = snprintf(id, sizeof id, "%s%d", step ? "/" : "\"id\":\"", i);
    int numbered = step ? snprintf(number, sizeof number, "\"step\":%lu", step)
                        : snprintf(number, sizeof number, "%s\"", id);
    size_t length = numbered + strlen(observation) + sizeof "{,\"observation\":}" - 1;
    if (named + numbered >= NAME) die("name");
    return snprintf(request, request_room,
                    "POST %s%s%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    "Content-Length: %zu\r\n\r\n{%s,\"observation\":%s}",
                    args.path, step ? id : "", step ? "/action" : "", length, number, observation);
}

static size_t end_request(int i) {
    return snprintf(request, request_room, "DELETE %s/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", args.path, i);
}

/* The length of the answer that these bytes begin with, 0 where it is not whole; -1: it is none. */
static long answer_length(char *bytes, size_t got, int *status, char **body) {
    bytes[got] = 0;
    char *head_end = strstr(bytes, "\r\n\r\n");
    if (!head_end) return got < BUFFER ? 0 : -1;
    char *length = strcasestr(bytes, "\r\ncontent-length:");
    *status = strncmp(bytes, "HTTP/1.1 ", 9) ? 0 : atoi(bytes + 9);
    if (*status < 200 || *status > 599) return -1;
    *body = head_end + 4;
    size_t whole = *body - bytes;
    if (length && length < head_end) whole += strtoul(length + 17, NULL, 10);
    else if (*status != 204) return -1;
    if (whole > BUFFER) return -1;
    return whole <= got ? (long)whole : 0;
}

/* --- the start and the end of sessions, one after the other --- */

/* Sends `request` and returns the status of its answer. */
static int call(Simulator *s, size_t length) {
    int status = 0;
    char *body;
    if (send(s->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) die("send");
    for (s->got = 0;;) {
        ssize_t n = recv(s->fd, s->in + s->got, BUFFER - s->got, 0);
        if (n <= 0) die("no answer");
        long whole = answer_length(s->in, s->got += n, &status, &body);
        if (whole < 0) die("no HTTP");
        if (whole) return s->got = 0, status;
    }
}

static void open_simulator(Simulator *s) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(args.port)};
    struct timeval patience = {.tv_sec = CALL_S};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->in = grown(NULL, BUFFER + 1);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (s->fd < 0) die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(s->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    int status = call(s, step_request(s - all, 0));
    if (status == 201) return;
    fprintf(stderr, "simulators: the start of session %ld was answered %d: %.300s\n", (long)(s - all), status, s->in);
    exit(1);
}

static void end_session(Simulator *s) {
    if (s->fd >= 0 && s->sent == s->answered) call(s, end_request(s - all));
    if (s->fd >= 0) close(s->fd);
}

/* --- frames --- */

static uint64_t due_at(const Simulator *s, uint64_t frame) { return s->first + (uint64_t)(frame * 1e9 / args.hz); }

static void lose(Simulator *s) {
    lost++;
    close(s->fd);
    s->fd = -1;
}

/* Sends the next frame of a simulator, unless too many are on their way. */
static void send_frame(Simulator *s) {
    uint64_t after = now() - due_at(s, s->sent);
    size_t length = step_request(s - all, s->sent + 1);
    ssize_t n = send(s->fd, request, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return; /* it is sent with its next one */
    if (n != (ssize_t)length) return lose(s); /* a part of a small request: the connection has been full for long */
    if (after > most_late) most_late = after;
    late_to_send += after > SECOND / 1000;
    s->sent++;
}

/* Sends what is due of a simulator by now. */
static void send_frames(Simulator *s, uint64_t at) {
    for (uint64_t due; s->fd >= 0 && s->sent - s->answered < AHEAD; ) {
        if ((due = due_at(s, s->sent)) > at || due >= end) return;
        uint64_t before = s->sent;
        send_frame(s);
        if (s->sent == before) return;
    }
}

static void readable(Simulator *s) {
    ssize_t n = recv(s->fd, s->in + s->got, BUFFER - s->got, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return lose(s);
    s->got += n;
    uint64_t at = now();
    size_t taken = 0;
    while (s->got > taken) {
        int status = 0;
        char *body;
        long whole = answer_length(s->in + taken, s->got - taken, &status, &body);
        if (whole < 0 || (whole && s->answered == s->sent)) return lose(s);
        if (!whole) break;
        statuses[status]++;
        if (status == 200) {
            latencies[latency_count++] = at - due_at(s, s->answered);
            note_version(body);
        }
        s->answered++;
        taken += whole;
    }
    memmove(s->in, s->in + taken, s->got -= taken);
}

static void wait_until(uint64_t when) {
    struct epoll_event events[EVENTS];
    struct itimerspec at = {.it_value = {.tv_sec = when / SECOND, .tv_nsec = when % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    int n = epoll_wait(poller, events, EVENTS, 1000);
    for (int i = 0; i < n; i++)
        if (events[i].data.ptr) readable(events[i].data.ptr);
}

static int all_answered(void) {
    for (int i = 0; i < args.count; i++)
        if (all[i].fd >= 0 && (all[i].sent != all[i].answered || due_at(&all[i], all[i].sent) < end)) return 0;
    return 1;
}

/* The simulators' turns follow each other in the order of their phases, frame after frame. */
static void run(void) {
    start = now() + SECOND / 10;
    end = start + (uint64_t)(args.seconds * 1e9);
    srand48(1);
    uint64_t *phases = grown(NULL, args.count * sizeof *phases);
    for (int i = 0; i < args.count; i++) phases[i] = (uint64_t)(drand48() * period);
    qsort(phases, args.count, sizeof *phases, ascending);
    for (int i = 0; i < args.count; i++) all[i].first = start + phases[i];
    for (uint64_t turn = 0, due = all[0].first; due < end;) {
        wait_until(due);
        for (uint64_t at = now(); due <= at && due < end; due = due_at(&all[turn % args.count], turn / args.count)) {
            send_frames(&all[turn % args.count], at);
            turn++;
        }
    }
    for (uint64_t at; (at = now()) < end + DRAIN_S * SECOND && !all_answered();) {
        for (int i = 0; i < args.count; i++) send_frames(&all[i], at);
        wait_until(at + SECOND / 100);
    }
}

/* --- what is told --- */

/* The smallest latency that the share `p` of the frames did not pass, in milliseconds; -1: it never came. */
static double percentile(double p, uint64_t frames) {
    uint64_t rank = (uint64_t)(p * frames + 0.999999);
    return rank && rank <= latency_count ? latencies[rank - 1] / 1e6 : -1;
}

/* How many frames of a simulator were due. */
static uint64_t due_of(const Simulator *s) {
    uint64_t frames = (uint64_t)((end - s->first) * args.hz / 1e9);
    while (frames && due_at(s, frames - 1) >= end) frames--;
    while (due_at(s, frames) < end) frames++;
    return frames;
}

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void tell(double cpu) {
    uint64_t frames = 0, good = latency_count, in_time = 0;
    for (int i = 0; i < args.count; i++) frames += due_of(&all[i]);
    if (latency_count) qsort(latencies, latency_count, sizeof *latencies, ascending);
    while (in_time < latency_count && latencies[in_time] <= period) in_time++;
    printf("{\"simulators\": %d, \"hz\": %g, \"seconds\": %.3f, \"frames\": %lu, \"late\": %lu, \"failures\": %lu",
           args.count, args.hz, args.seconds, frames, frames - in_time, frames - good);
    printf(", \"lost\": %lu, ", lost);
    print_statuses();
    printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p99_9_ms\": %.3f, \"max_ms\": %.3f", percentile(0.5, frames),
           percentile(0.99, frames), percentile(0.999, frames), percentile(1, frames));
    printf(", \"sent_late\": %lu, \"most_late_ms\": %.3f", late_to_send, most_late / 1e6);
    printf(", \"cpu_s\": %.3f, ", cpu);
    print_versions();
    printf("}\n");
}

static void read_observations(const char *name) {
    FILE *file = fopen(name, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    if (!file) die(name);
    while ((length = getline(&line, &room, file)) > 0) {
        if (line[length - 1] == '\n') line[--length] = 0;
        if ((size_t)length + HEAD + strlen(args.path) > request_room) request_room = length + HEAD + strlen(args.path);
        observations = grown(observations, (observation_count + 1) * sizeof *observations);
        observations[observation_count++] = strdup(line);
    }
    fclose(file);
    request = grown(NULL, request_room);
}

int main(int count, char **words) {
    const char *file = NULL;
    for (int option; (option = getopt(count, words, "p:P:f:n:z:s:")) != -1;) {
        if (option == 'p') args.port = atoi(optarg);
        else if (option == 'P') args.path = optarg;
        else if (option == 'f') file = optarg;
        else if (option == 'n') args.count = atoi(optarg);
        else if (option == 'z') args.hz = atof(optarg);
        else if (option == 's') args.seconds = atof(optarg);
    }
    if (!file || !args.path || args.port < 1 || args.count < 1 || args.hz <= 0 || args.seconds <= 0)
        return fprintf(stderr, "simulators -p PORT -P PATH -f FILE -n SIMULATORS -z HZ -s SECONDS\n"), 2;
    read_observations(file);
    if (!observation_count) return fprintf(stderr, "simulators: %s is empty\n", file), 1;
    period = (uint64_t)(1e9 / args.hz);
    all = calloc(args.count, sizeof *all);
    latencies = grown(NULL, args.count * (uint64_t)(args.hz * args.seconds + 2) * sizeof *latencies);
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* so that frames are not sent some 50 us after they were due */
    struct epoll_event tick = {.events = EPOLLIN | EPOLLET};
    if (!all || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &tick)) die("setup");
    for (int i = 0; i < args.count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        open_simulator(&all[i]);
        if (epoll_ctl(poller, EPOLL_CTL_ADD, all[i].fd, &event)) die("epoll_ctl");
    }
    printf("started\n"); /* for whoever does something meanwhile */
    fflush(stdout);
    double before = cpu_s();
    run();
    double used = cpu_s() - before;
    for (int i = 0; i < args.count; i++) end_session(&all[i]);
    tell(used);
    return 0;
}
