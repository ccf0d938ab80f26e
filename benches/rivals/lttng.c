/* LTTng-UST: `lttng calls - BURSTS CALLS APART CPU CPU`, as `rivals`. The session is the report's. It has no
   text file of its own: its consumer writes the binary trace. */
#define _GNU_SOURCE
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng.h"

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void sleep_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

__attribute__((noinline)) static void call(int a, double b, const char *s) {
    lttng_ust_tracepoint(spillring_bench, record, a, b, s);
}

static int order(const void *a, const void *b) {
    const double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    const int bursts = atoi(argv[3]), n = atoi(argv[4]), apart = atoi(argv[5]);
    pin(atoi(argv[6]));
    const char *volatile text = "a string of thirty-five characters.";
    const double c0 = now_ns();
    const uint64_t t0 = __rdtsc();
    sleep_us(50000);
    const double per_ns = (__rdtsc() - t0) / (now_ns() - c0);
    if (!lttng_ust_tracepoint_enabled(spillring_bench, record)) {
        fprintf(stderr, "error: the tracepoint is not enabled: no session daemon?\n");
        return 1;
    }
    double *means = calloc(bursts, sizeof *means);
    for (int i = -(bursts / 4); i < bursts; i++) {
        sleep_us(apart);
        const uint64_t t = __rdtsc();
        for (int k = 0; k < n; k++) call(k, 0.5, text);
        const double mean = (double)(__rdtsc() - t) / n / per_ns;
        if (i >= 0) means[i] = mean;
    }
    qsort(means, bursts, sizeof *means, order);
    printf("%.2f\n", means[(bursts - 1) / 2]);
    return 0;
}
