/* What the macros of C store, read back. */
#include <errno.h>
#include <stdbool.h>
#include "check.h"

enum color { RED, GREEN };
struct bits {
    unsigned a : 3;
    int b : 4;
};
static int evaluated;
static int count(void) { return ++evaluated; }

static void expect(spr_reader *r, int level, const char *text) {
    spr_record rec = SPR_RECORD_INIT;
    CHECK(next_log(r, &rec));
    if (strcmp(rec.message, text) || rec.level != level) {
        fprintf(stderr, "level %d \"%s\", not level %d \"%s\"\n", rec.level, rec.message, level, text);
        exit(1);
    }
    CHECK(rec.message_len == strlen(text) && strstr(rec.file, "calls.c") && rec.line > 0 && rec.pid > 0);
}

int main(void) {
    begin();
    struct bits b = {5, -3};
    unsigned char uc = 200;
    short sh = -4;
    float f = 1.5f;
    bool yes = true;
    size_t z = 77;
    enum color c = GREEN;
    char buffer[40] = "a buffer";
    const char *null = NULL;
    char *longest = malloc(100001);
    CHECK(longest);
    memset(longest, 'x', 100000);
    longest[100000] = 0;

    errno = ENOENT;
    SPR_INFO("nothing 100%%");
    SPR_INFO("order %d of %s at %.2f", 7, "water", 1.5);
    SPR_WARN("%u %d %hhu %hd %f %d %zu %d %m %p|%*d|%.*s|%c", b.a, b.b, uc, sh, f, yes, z, (int)c, (void *)0, 6, 42, 3,
             "abcdef", 'x');
    SPR_ERROR("%s %s %5.1s", buffer, null, buffer);
    CHECK(errno == ENOENT);
    SPR_INFO("%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d", 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7);
    SPR_INFO("%s|%s|%s|%s|%s|%s|%s|%s|%s|%hhd", "a", "b", "c", "d", "e", "f", "g", "h", "i", 300);
    SPR_INFO("%s", longest);
    SPR_INFO("%.100000s", longest);
    SPR_INFO("%.3s|%.9s|%.2s", longest, null, null);
    /* With no byte of memory behind them. */
    for (int i = 0; i < 50; i++) {
        char *exact = malloc(i % 7 + i + 1);
        CHECK(exact);
        memset(exact, '#', i % 7), memset(exact + i % 7, 'y', i);
        exact[i % 7 + i] = 0;
        SPR_INFO("%d %s|", i, exact + i % 7);
        free(exact);
    }
    for (int i = 0; i < 10; i++)
        SPR_LOG_EVERY_N(SPR_LEVEL_INFO, 4, "every %d", i);
    for (int i = 0; i < 10; i++)
        SPR_LOG_FIRST_N(SPR_LEVEL_INFO, 2, "first %d", i);
    /* Below the level nothing is evaluated; above it, once. */
    SPR_DEBUG("%d", count());
    CHECK(evaluated == 0 && !spr_enabled(SPR_LEVEL_DEBUG) && spr_enabled(SPR_LEVEL_INFO));
    CHECK(spr_set_level(SPR_LEVEL_TRACE) == SPR_OK);
    SPR_DEBUG("%d", count());
    CHECK(evaluated == 1);
    CHECK(spr_set_level(SPR_LEVEL_OFF) == SPR_OK);
    SPR_ERROR("%d", count());
    int level;
    CHECK(evaluated == 1 && spr_get_level(&level) == SPR_OK && level == SPR_LEVEL_OFF);
    CHECK(spr_set_level(SPR_LEVEL_INFO) == SPR_OK);

    /* In place. */
    SPR_SITE(site, SPR_LEVEL_INFO, "[%s]");
    spr_reservation in_place;
    CHECK(spr_reserve(&site, 100, &in_place) == SPR_OK && in_place.size == 100);
    SPR_INFO("while a place is reserved");
    memcpy(in_place.data, "in place", 8);
    CHECK(spr_commit(&in_place, 8) == SPR_OK);
    CHECK(spr_commit(&in_place, 8) == SPR_E_CLOSED);
    CHECK(spr_reserve(&site, 100, &in_place) == SPR_OK);
    CHECK(spr_abort(&in_place) == SPR_OK && spr_abort(&in_place) == SPR_E_CLOSED);
    CHECK(spr_reserve(&site, 1 << 20, &in_place) == SPR_E_WOULD_BLOCK);
    CHECK(spr_reserve(&site, 8, &in_place) == SPR_OK && spr_commit(&in_place, 9) == SPR_E_TOO_LARGE);
    SPR_INFO("after all that");

    /* At a time of one's own. */
    uint64_t now;
    CHECK(spr_now(&now) == SPR_OK);
    SPR_LOG_AT(SPR_LEVEL_INFO, now, "at %d", 1);
    for (int i = 0; i < 3; i++)
        SPR_LOG_AT(SPR_LEVEL_INFO, i ? now : 0, "at %s", i ? "one" : "0, which is now");

    /* A site that is known at run time, with fields of the site and of the call. */
    static const unsigned char types[] = {SPR_T_STR, SPR_T_I32, SPR_T_STR};
    spr_site facts = {0};
    const spr_site *interned, *again;
    facts.abi = SPR_SITE_ABI, facts.level = SPR_LEVEL_WARN, facts.style = SPR_STYLE_BRACE, facts.line = 42;
    facts.file = "calls.c.py", facts.file_len = 10, facts.target = "a.logger", facts.target_len = 8;
    facts.fmt = "{}", facts.fmt_len = 2, facts.fields = "n\0*", facts.fields_len = 4;
    facts.types = types, facts.n_args = 3;
    CHECK(spr_site_intern(&facts, &interned) == SPR_OK && spr_site_intern(&facts, &again) == SPR_OK && again == interned);
    facts.line = 43;
    CHECK(spr_site_intern(&facts, &again) == SPR_OK && again != interned);
    unsigned char room[200];
    spr_fields fields;
    spr_value v[2];
    CHECK(spr_fields_init(&fields, room, sizeof room) == SPR_OK);
    v[0].p = "ada", v[1].u = 3;
    CHECK(spr_fields_add(&fields, "user", 4, SPR_T_STR, v) == SPR_OK);
    v[0].f = 0.5;
    CHECK(spr_fields_add(&fields, "load", 4, SPR_T_F64, v) == SPR_OK);
    v[0].p = longest, v[1].u = 300;
    CHECK(spr_fields_add(&fields, "big", 3, SPR_T_STR, v) == SPR_E_NO_SPACE && fields.left_out == 1);
    CHECK(spr_fields_add(&fields, "bad", 3, 99, v) == SPR_E_ARGUMENT);
    spr_value values[5];
    values[0].p = "a message", values[1].u = 9, values[2].i = -5, values[3].p = fields.data, values[4].u = fields.used;
    CHECK(spr_log(interned, values) == SPR_OK);

    spr_reader *r = read_back();
    expect(r, SPR_LEVEL_INFO, "nothing 100%");
    expect(r, SPR_LEVEL_INFO, "order 7 of water at 1.50");
    expect(r, SPR_LEVEL_WARN, "5 -3 200 -4 1.500000 1 77 1 No such file or directory (nil)|    42|abc|x");
    expect(r, SPR_LEVEL_ERROR, "a buffer (null)     a");
    expect(r, SPR_LEVEL_INFO, "1234567891234567");
    expect(r, SPR_LEVEL_INFO, "a|b|c|d|e|f|g|h|i|44");
    for (int i = 0; i < 2; i++) {
        spr_record rec = SPR_RECORD_INIT;
        CHECK(next_log(r, &rec) && rec.message_len == SPR_MAX_STRING + 5);
        CHECK(!strcmp(rec.message + SPR_MAX_STRING - 3, "xxx[cut]"));
    }
    expect(r, SPR_LEVEL_INFO, "xxx|(null)|");
    for (int i = 0; i < 50; i++) {
        char text[70], *end = text + sprintf(text, "%d ", i);
        memset(end, 'y', i), strcpy(end + i, "|");
        expect(r, SPR_LEVEL_INFO, text);
    }
    expect(r, SPR_LEVEL_INFO, "every 0");
    expect(r, SPR_LEVEL_INFO, "every 4");
    expect(r, SPR_LEVEL_INFO, "every 8");
    expect(r, SPR_LEVEL_INFO, "first 0");
    expect(r, SPR_LEVEL_INFO, "first 1");
    expect(r, SPR_LEVEL_DEBUG, "1");
    expect(r, SPR_LEVEL_INFO, "while a place is reserved");
    expect(r, SPR_LEVEL_INFO, "[in place]");
    expect(r, SPR_LEVEL_INFO, "after all that");
    expect(r, SPR_LEVEL_INFO, "at 1");
    expect(r, SPR_LEVEL_INFO, "at 0, which is now");
    expect(r, SPR_LEVEL_INFO, "at one");
    expect(r, SPR_LEVEL_INFO, "at one");
    spr_record rec = SPR_RECORD_INIT;
    spr_field field = SPR_FIELD_INIT;
    CHECK(next_log(r, &rec) && !strcmp(rec.message, "a message") && rec.line == 42 && rec.n_fields == 3);
    CHECK(!strcmp(rec.target, "a.logger") && !strcmp(rec.file, "calls.c.py"));
    CHECK(spr_reader_field(r, 0, &field) == SPR_OK && !strcmp(field.name, "n") && field.value.i == -5);
    CHECK(spr_reader_field(r, 1, &field) == SPR_OK && !strcmp(field.name, "user") && !strcmp(field.text, "ada"));
    CHECK(field.type == SPR_T_STR && field.text_len == 3);
    CHECK(spr_reader_field(r, 2, &field) == SPR_OK && field.type == SPR_T_F64 && field.value.f == 0.5);
    CHECK(spr_reader_field(r, 3, &field) == SPR_E_ARGUMENT);
    CHECK(!next_log(r, &rec));
    CHECK(spr_reader_close(r) == SPR_OK && spr_reader_close(r) == SPR_E_CLOSED);
    free(longest);
    return spr_shutdown(10000) != SPR_OK;
}
