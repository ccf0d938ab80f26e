/* Runs test_main: linked to it (-DLINKED), or found in the shared object that is named, which is loaded beside a
 * thread that is older than it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef LINKED
int test_main(int argc, char **argv);
int main(int argc, char **argv) { return test_main(argc, argv); }
#else
static sem_t loaded;
static int (*older_thread)(void);
static void *older(void *unused) {
    (void)unused;
    sem_wait(&loaded);
    return (void *)(long)(older_thread ? older_thread() : 0);
}
int main(int argc, char **argv) {
    pthread_t t;
    void *result;
    sem_init(&loaded, 0, 0);
    if (argc < 2 || pthread_create(&t, NULL, older, NULL))
        return 2;
    void *h = dlopen(argv[1], RTLD_NOW);
    if (!h) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    int (*run)(int, char **);
    *(void **)&run = dlsym(h, "test_main");
    *(void **)&older_thread = dlsym(h, "older_thread");
    if (!run)
        return 4;
    int code = run(argc - 1, argv + 1);
    sem_post(&loaded);
    pthread_join(t, &result);
    return code ? code : result ? 5 : 0;
}
#endif
