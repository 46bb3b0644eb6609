/* What the programs that put load on a server share: the clock, memory, and what they note of its answers. PROGRAM is
 * the name under which one of them complains. All times are in nanoseconds, of the monotonic clock. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAME = 64 };
#define SECOND 1000000000ULL

static uint64_t statuses[600];
static char (*versions)[NAME];
static int version_count, version_room;

static void die(const char *what) {
    fprintf(stderr, PROGRAM ": %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *grown(void *old, size_t bytes) {
    void *more = realloc(old, bytes);
    if (!more) die("memory");
    return more;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Keeps a "version" that has not been seen before: a swap that has reached the callers. */
static void note_version(const char *body) {
    static const char key[] = "\"version\":\"";
    const char *from = strstr(body, key);
    size_t length = from ? strcspn(from += sizeof key - 1, "\"") : NAME;
    if (length >= NAME) return;
    for (int i = version_count - 1; i >= 0; i--)
        if (!strncmp(versions[i], from, length) && !versions[i][length]) return;
    if (version_count == version_room) versions = grown(versions, (version_room = 2 * version_room + 64) * NAME);
    memcpy(versions[version_count], from, length);
    versions[version_count++][length] = 0;
}

/* Print members of a JSON object. */
static void print_statuses(void) {
    const char *comma = "";
    printf("\"statuses\": {");
    for (int i = 0; i < 600; i++) {
        if (!statuses[i]) continue;
        printf("%s\"%d\": %lu", comma, i, statuses[i]);
        comma = ", ";
    }
    printf("}");
}

static void print_versions(void) {
    printf("\"versions\": [");
    for (int i = 0; i < version_count; i++) printf("%s\"%s\"", i ? ", " : "", versions[i]);
    printf("]");
}
