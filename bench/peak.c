/* What a core of this machine can do at best: multiply-adds, memory traffic, a word to the other core and back.
 *
 * machine.py compiles it for the machine it runs on and calls it through ctypes; nothing of it ships. It knows no MADE. Vectors
 * are those of GCC and Clang, as wide as the machine has them; products and sums contract to fused multiply-adds where there are
 * such. Every figure is the best of several short runs: what disturbs only ever makes slower.
 */
#define _POSIX_C_SOURCE 200112L
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float vec __attribute__((vector_size(sizeof(float) * WIDTH)));

/* Twelve chains: two units with a latency of four or five cycles need eight to ten, and AVX2 has sixteen registers. */
enum { CHAINS = 12, RUNS = 9 };
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Floating-point operations of one turn of fma_turns; a multiply-add is two. */
int flops_per_turn(void) { return 2 * CHAINS * WIDTH; }

float fma_turns(long n) {
    vec x, y;
    for (int i = 0; i < WIDTH; i++) {
        x[i] = 0.999f;
        y[i] = 0.001f * (float)(i + 1);
    }
#define START(i) vec a##i = y * (float)(i);
    EACH(START)
    for (long k = 0; k < n; k++) {
#define TURN(i) a##i = a##i * x + y;
        EACH(TURN)
    }
    float sum = 0;
#define ADD(i) sum += a##i[i % WIDTH];
    EACH(ADD)
    return sum;
}

/* A measurement of one thread: `work` returns a rate; all threads begin together. */
typedef struct task {
    double (*work)(const struct task *);
    int *waiting;
    char *memory;
    size_t bytes;
    int write;
    double rate;
} task;

static double fma_rate(const task *t) {
    enum { TURNS = 400000 };
    (void)t;
    double begin = now();
    volatile float sink = fma_turns(TURNS);
    (void)sink;
    return TURNS * (double)flops_per_turn() / (now() - begin);
}

static double traffic(const task *t) {
    vec *x = (vec *)t->memory, sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};
    size_t n = t->bytes / sizeof(vec);
    long rounds = (long)(50e6 / (double)t->bytes) + 1;
    double begin = now();
    for (long k = 0; k < rounds; k++) {
        if (t->write)
            for (size_t i = 0; i < n; i += 4) {
                x[i] += 1.0f;
                x[i + 1] += 1.0f;
                x[i + 2] += 1.0f;
                x[i + 3] += 1.0f;
            }
        else
            for (size_t i = 0; i < n; i += 4) {
                sum0 += x[i];
                sum1 += x[i + 1];
                sum2 += x[i + 2];
                sum3 += x[i + 3];
            }
        __asm__ volatile("" ::: "memory"); /* the rounds are not to be made one */
    }
    volatile float sink = sum0[0] + sum1[0] + sum2[0] + sum3[0];
    (void)sink;
    return (1 + t->write) * (double)rounds * (double)t->bytes / (now() - begin);
}

static void *at_the_same_time(void *argument) {
    task *t = argument;
    __atomic_sub_fetch(t->waiting, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(t->waiting, __ATOMIC_SEQ_CST) > 0)
        ;
    t->rate = t->work(t);
    return NULL;
}

/* The rate of one thread or the sum of two; 0 where threads or memory are not to be had. */
static double best(double (*work)(const task *), int n_threads, size_t bytes, int write) {
    double found = 0;
    char *memory[2] = {NULL, NULL};
    bytes -= bytes % (4 * sizeof(vec));
    for (int i = 0; i < n_threads && bytes; i++) {
        if (posix_memalign((void **)&memory[i], 4096, bytes))
            goto done;
        memset(memory[i], 0, bytes);
    }
    for (int run = 0; run < RUNS; run++) {
        int waiting = n_threads;
        task tasks[2] = {{work, &waiting, memory[0], bytes, write, 0}, {work, &waiting, memory[1], bytes, write, 0}};
        pthread_t other;
        if (n_threads > 1 && pthread_create(&other, NULL, at_the_same_time, &tasks[1]))
            goto done;
        at_the_same_time(&tasks[0]);
        if (n_threads > 1)
            pthread_join(other, NULL);
        double rate = tasks[0].rate + tasks[1].rate;
        found = rate > found ? rate : found;
    }
done:
    free(memory[0]);
    free(memory[1]);
    return found;
}

/* Operations a second. */
double fma_peak(int n_threads) { return best(fma_rate, n_threads, 0, 0); }

/* Bytes a second through `bytes` of memory for each thread; with `write` each is read and written, and counts twice. */
double bandwidth(int n_threads, size_t bytes, int write) { return best(traffic, n_threads, bytes, write); }

static void *answer(void *ball) {
    for (int64_t seen = 0;;) {
        int64_t now_there = __atomic_load_n((int64_t *)ball, __ATOMIC_ACQUIRE);
        if (now_there < 0)
            return NULL;
        if (now_there > seen) {
            seen = now_there + 1;
            __atomic_store_n((int64_t *)ball, seen, __ATOMIC_RELEASE);
        }
    }
}

/* Seconds that a cache line takes to the other thread and back, the median of many batches; 0 without a second thread. */
static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double round_trip(void) {
    enum { BATCHES = 101, TRIPS = 100 };
    static int64_t line[32] __attribute__((aligned(128)));
    int64_t *ball = line;
    double seconds[BATCHES];
    pthread_t other;
    __atomic_store_n(ball, 0, __ATOMIC_RELEASE);
    if (pthread_create(&other, NULL, answer, ball))
        return 0;
    int64_t count = 1;
    for (int i = 0; i < BATCHES; i++) {
        double begin = now();
        for (int k = 0; k < TRIPS; k++, count += 2) {
            __atomic_store_n(ball, count, __ATOMIC_RELEASE);
            while (__atomic_load_n(ball, __ATOMIC_ACQUIRE) == count)
                ;
        }
        seconds[i] = (now() - begin) / TRIPS;
    }
    __atomic_store_n(ball, -1, __ATOMIC_RELEASE);
    pthread_join(other, NULL);
    qsort(seconds, BATCHES, sizeof *seconds, ascending);
    return seconds[BATCHES / 2];
}
