/* 10^6 log calls that fit the ring, for strace: none of them enters the kernel. */
#include "check.h"
int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 1000000;
    spr_options o = SPR_OPTIONS_INIT;
    o.dir = getenv("TEST_DIR");
    o.lane_bytes = 64 << 20;
    CHECK(spr_init(&o) == SPR_OK && spr_thread_prefault() == SPR_OK);
    for (int i = 0; i < n; i++)
        SPR_INFO("%d %s", i, "text");
    spr_counters c = SPR_COUNTERS_INIT;
    CHECK(spr_counters_get(&c) == SPR_OK && c.spilled == 0 && c.lost == 0);
    return 0;
}
