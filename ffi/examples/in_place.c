/* Fills a record where it lies, without a copy; where there is no room, logs by copy. */
#include <spillring.h>
#include <string.h>

static void log_bytes(const char *bytes, size_t n) {
    SPR_SITE(site, SPR_LEVEL_INFO, "packet %s");
    spr_reservation place;
    if (spr_reserve(&site, n, &place) == SPR_OK) {
        memcpy(place.data, bytes, n); /* a read(2) or a serialiser would write here */
        spr_commit(&place, n);
    } else {
        SPR_INFO("packet %.*s", (int)n, bytes);
    }
}

int main(void) {
    spr_options options = SPR_OPTIONS_INIT;
    options.drain = 1;
    if (spr_init(&options) != SPR_OK)
        return 1;
    static char large[200000];
    memset(large, 'x', sizeof large);
    log_bytes("hello", 5);
    log_bytes(large, sizeof large);
    return spr_shutdown(5000) != SPR_OK;
}
