/* A network link between two namespaces of one machine: so many bits a second and so late, each way.
 *
 *     link NAMESPACE_A NAMESPACE_B BITS_PER_SECOND MICROSECONDS
 *
 * Each namespace gets the interface wire0, 10.77.0.1 and 10.77.0.2. What one sends is read here, held until a wire of that speed
 * and length would have delivered it, and given to the other. A queue that is full drops, as a switch does. link.py compiles and
 * runs it, as root; for kernels without netem. Says "up" when it is, and ends when it is killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 9000, PLACES = 4096, AT_ONCE = 64 };

typedef struct {
    double due; /* when it arrives, in seconds */
    ssize_t n;
    unsigned char bytes[MTU];
} packet_t;

typedef struct {
    int from, to;
    long first, stop; /* packets on the way, places modulo PLACES */
    double free;      /* when the wire is free for the next one */
    packet_t *queue;
} way_t;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Open an interface in a namespace, in which this process then is. */
static int interface(const char *name_space, int number) {
    char text[256];
    struct ifreq request = {.ifr_name = "wire0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(text, sizeof text, "/run/netns/%s", name_space);
    const int space = open(text, O_RDONLY);
    if (space < 0 || setns(space, CLONE_NEWNET)) die(text);
    close(space);
    const int file = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (file < 0 || ioctl(file, TUNSETIFF, &request)) die("/dev/net/tun");
    snprintf(text, sizeof text, "ip addr add 10.77.0.%d/24 dev wire0 && ip link set wire0 mtu %d up && ip link set lo up", number, MTU);
    if (system(text)) die("ip");
    return file;
}

/* Deliver what has arrived; return the seconds until the next packet does, at most 1. */
static double deliver(way_t *way) {
    while (way->first < way->stop) {
        const packet_t *packet = &way->queue[way->first % PLACES];
        const double left = packet->due - now();
        if (left > 0) return left < 1 ? left : 1;
        if (write(way->to, packet->bytes, (size_t)packet->n) < 0) { /* the interface is full: it is lost */
        }
        way->first++;
    }
    return 1;
}

static void take(way_t *way, double bits_per_second, double delay) {
    static unsigned char lost[MTU];
    for (int i = 0; i < AT_ONCE; i++) {
        const int full = way->stop - way->first >= PLACES;
        packet_t *packet = &way->queue[way->stop % PLACES];
        const ssize_t n = read(way->from, full ? lost : packet->bytes, MTU);
        if (n <= 0) return;
        if (full) continue;
        const double begin = now() > way->free ? now() : way->free;
        way->free = begin + 8 * (double)n / bits_per_second;
        packet->due = way->free + delay;
        packet->n = n;
        way->stop++;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: link NAMESPACE_A NAMESPACE_B BITS_PER_SECOND MICROSECONDS\n");
        return 2;
    }
    const double speed = atof(argv[3]), delay = 1e-6 * atof(argv[4]);
    const int ends[2] = {interface(argv[1], 1), interface(argv[2], 2)};
    way_t ways[2];
    for (int i = 0; i < 2; i++) {
        ways[i] = (way_t){.from = ends[i], .to = ends[1 - i], .queue = malloc(sizeof(packet_t) * PLACES)};
        if (!ways[i].queue) die("malloc");
    }
    printf("up\n");
    fflush(stdout);
    for (;;) {
        const double a = deliver(&ways[0]), b = deliver(&ways[1]), wait = a < b ? a : b;
        const struct timespec most = {(time_t)wait, (long)(1e9 * (wait - (double)(time_t)wait))};
        struct pollfd files[2] = {{.fd = ends[0], .events = POLLIN}, {.fd = ends[1], .events = POLLIN}};
        if (ppoll(files, 2, &most, NULL) > 0)
            for (int i = 0; i < 2; i++)
                if (files[i].revents) take(&ways[i], speed, delay);
    }
}
