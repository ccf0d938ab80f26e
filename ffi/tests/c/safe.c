/* A thread's first log call stands in a signal handler, and no log call allocates or locks, in the ring or past it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include "check.h"

extern __thread int inside_log_call;
extern unsigned long interposed_calls;
static int from_handlers, from_threads;

#define INSIDE(call)                                                                                               \
    do {                                                                                                           \
        inside_log_call = 1;                                                                                       \
        call;                                                                                                      \
        inside_log_call = 0;                                                                                       \
    } while (0)

static void handler(int sig) {
    INSIDE(SPR_INFO("in a handler, signal %d of %s", sig, "a thread"));
    __atomic_fetch_add(&from_handlers, 1, __ATOMIC_RELAXED);
}
static void *thread(void *unused) {
    (void)unused;
    pthread_kill(pthread_self(), SIGUSR1);
    INSIDE(SPR_INFO("after it %d", 1));
    __atomic_fetch_add(&from_threads, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Of the program that loads this: begun before. */
int older_thread(void) {
    int before = from_handlers;
    thread(NULL);
    CHECK(from_handlers == before + 1);
    spr_counters c = SPR_COUNTERS_INIT;
    CHECK(spr_counters_get(&c) == SPR_OK && c.lost == 0);
    return spr_shutdown(60000);
}

int test_main(int argc, char **argv) {
    (void)argc, (void)argv;
    spr_options o = SPR_OPTIONS_INIT;
    o.lane_bytes = 16384;
    begin_with(o);
    signal(SIGUSR1, handler);
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        CHECK(!pthread_create(&t, NULL, thread, NULL) && !pthread_join(t, NULL));
    }
    CHECK(from_handlers == 20 && from_threads == 20);
    /* Past the ring: into the spill. */
    for (int i = 0; i < 20000; i++)
        INSIDE(SPR_INFO("%d %s %f", i, "and a text that makes it longer", 0.5));
    spr_counters c = SPR_COUNTERS_INIT;
    CHECK(spr_counters_get(&c) == SPR_OK && c.lost == 0 && c.unattached == 0);
    CHECK(interposed_calls > 0);
    spr_reader *r = read_back();
    spr_record rec = SPR_RECORD_INIT;
    int handlers = 0, afters = 0, numbers = 0;
    while (next_log(r, &rec)) {
        handlers += !strcmp(rec.message, "in a handler, signal 10 of a thread");
        afters += !strcmp(rec.message, "after it 1");
        if (rec.message[0] >= '0' && rec.message[0] <= '9')
            CHECK(atoi(rec.message) == numbers++);
    }
    CHECK(handlers == 20 && afters == 20 && numbers == 20000);
    printf("%d in handlers, %d spilled, %lu calls of interposed functions elsewhere\n", handlers, (int)c.spilled,
           interposed_calls);
    return 0;
}
