/* What the test programs share: a directory of their own, a check that says where, and the records read back. */
#ifndef CHECK_H
#define CHECK_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "spillring.h"

#define CHECK(what)                                                                                                \
    do {                                                                                                           \
        if (!(what)) {                                                                                             \
            char why_[400] = "";                                                                                   \
            (void)spr_error_message(why_, sizeof why_, NULL);                                                      \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #what, why_);              \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

/* Attaches to the channel in the directory that the test has named, with a drain of its own. */
static inline void begin_with(spr_options o) {
    static char journals[500];
    const char *dir = getenv("TEST_DIR");
    CHECK(dir && strlen(dir) < 400);
    snprintf(journals, sizeof journals, "%s/journals", dir);
    o.dir = dir;
    o.journal_dir = journals;
    o.drain = 1;
    CHECK(spr_init(&o) == SPR_OK);
}

static inline void begin(void) {
    spr_options o = SPR_OPTIONS_INIT;
    begin_with(o);
}

static inline spr_reader *read_back(void) {
    spr_reader *r;
    CHECK(spr_flush(60000) == SPR_OK);
    CHECK(spr_reader_open(NULL, &r) == SPR_OK);
    return r;
}

/* The next log record; 0 at the end. */
static inline int next_log(spr_reader *r, spr_record *out) {
    for (;;) {
        int code = spr_reader_next(r, 0, out);
        if (code == SPR_E_TIMEOUT)
            return 0;
        CHECK(code == SPR_OK);
        if (out->kind == SPR_KIND_LOG)
            return 1;
        CHECK(out->kind == SPR_KIND_NOTE);
    }
}
#endif
