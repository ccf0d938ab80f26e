/* Everything wrong that a program can do: a code or a counted drop each time. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"

static void *commit_elsewhere(void *r) { return (void *)(intptr_t)spr_commit((spr_reservation *)r, 1); }
static spr_reader *shared;
static void *read_elsewhere(void *unused) {
    spr_record rec = SPR_RECORD_INIT;
    (void)unused;
    return (void *)(intptr_t)spr_reader_next(shared, 2000, &rec);
}

int main(int argc, char **argv) {
    spr_counters c = SPR_COUNTERS_INIT;
    spr_record rec = SPR_RECORD_INIT;
    spr_reader *reader;
    char text[200];

    /* Before init. */
    SPR_INFO("nobody hears this %d", 1);
    CHECK(spr_counters_get(&c) == SPR_OK && c.unattached == 1);
    CHECK(spr_flush(10) == SPR_E_NOT_ATTACHED && spr_shutdown(10) == SPR_E_NOT_ATTACHED);
    CHECK(spr_thread_prefault() == SPR_E_NOT_ATTACHED && spr_thread_may_wait(1) == SPR_E_NOT_ATTACHED);
    CHECK(spr_prepare(1, NULL) == SPR_E_NOT_ATTACHED && spr_thread_reset() == SPR_OK);

    /* Options. */
    spr_options o = SPR_OPTIONS_INIT;
    o.size = 3;
    CHECK(spr_init(&o) == SPR_E_SIZE);
    o.size = (size_t)-1;
    CHECK(spr_init(&o) == SPR_E_SIZE);
    struct {
        spr_options o;
        uint64_t newer[3];
    } newer = {SPR_OPTIONS_INIT, {0, 0, 1}};
    newer.o.size = sizeof newer;
    CHECK(spr_init(&newer.o) == SPR_E_SIZE);
    CHECK(spr_error_message(text, sizeof text, NULL) == SPR_OK && strstr(text, "older"));
    o = (spr_options)SPR_OPTIONS_INIT;
    o.level = "loud";
    CHECK(spr_init(&o) == SPR_E_BAD_VALUE && spr_error_message(text, sizeof text, NULL) == SPR_OK);
    CHECK(strstr(text, "SPILLRING_LEVEL") && strstr(text, "loud") && strstr(text, "warn"));
    o = (spr_options)SPR_OPTIONS_INIT;
    o.drain = 7;
    CHECK(spr_init(&o) == SPR_E_ARGUMENT);
    o = (spr_options)SPR_OPTIONS_INIT;
    o.dir = "/proc/nowhere";
    CHECK(spr_init(&o) != SPR_OK);
    /* One of an older header ends earlier; one of a newer header is good as long as it asks for nothing new. */
    newer.newer[2] = 0;
    newer.o.dir = getenv("TEST_DIR");
    newer.o.journal_dir = getenv("TEST_DIR");
    newer.o.lane_bytes = 65536;
    CHECK(spr_init(&newer.o) == SPR_OK);
    o = (spr_options)SPR_OPTIONS_INIT;
    o.size = offsetof(spr_options, channel);
    CHECK(spr_init(&o) == SPR_E_ALREADY && spr_init(NULL) == SPR_E_ALREADY);

    /* NULL everywhere. */
    CHECK(spr_log(NULL, NULL) == SPR_E_NULL && spr_log_at(NULL, 1, NULL) == SPR_E_NULL && spr_now(NULL) == SPR_E_NULL);
    CHECK(spr_abi(NULL) == SPR_E_NULL && spr_get_level(NULL) == SPR_E_NULL && spr_gate_word(NULL) == SPR_E_NULL);
    CHECK(spr_counters_get(NULL) == SPR_E_NULL && spr_drain_present(NULL) == SPR_E_NULL);
    CHECK(spr_site_intern(NULL, NULL) == SPR_E_NULL && spr_reserve(NULL, 1, NULL) == SPR_E_NULL);
    CHECK(spr_commit(NULL, 1) == SPR_E_NULL && spr_abort(NULL) == SPR_E_NULL);
    CHECK(spr_fields_init(NULL, NULL, 0) == SPR_E_NULL && spr_fields_add(NULL, "a", 1, SPR_T_I32, NULL) == SPR_E_NULL);
    CHECK(spr_fields_span(NULL, "a", 1, 1, NULL) == SPR_E_NULL && spr_error_message(NULL, 1, NULL) == SPR_E_NULL);
    CHECK(spr_reader_open(NULL, NULL) == SPR_E_NULL && spr_reader_next(NULL, 0, &rec) == SPR_E_NULL);
    CHECK(spr_reader_close(NULL) == SPR_E_NULL && spr_reader_field(NULL, 0, NULL) == SPR_E_NULL);
    CHECK(spr_error_message(text, 0, NULL) == SPR_E_SIZE && !strcmp(spr_strerror(-77), "unknown code"));
    CHECK(spr_set_level(0) == SPR_E_ARGUMENT && spr_set_level(7) == SPR_E_ARGUMENT && spr_set_level(-1) == SPR_E_ARGUMENT);
    c.size = 3;
    CHECK(spr_counters_get(&c) == SPR_E_SIZE);

    /* Sites that make no sense. */
    static const unsigned char types[] = {SPR_T_I32, 200, SPR_T_CSTR};
    spr_value v[4] = {{1}, {2}, {3}, {4}};
    spr_site s = {0};
    const spr_site *interned;
    CHECK(spr_log(&s, v) == SPR_E_ARGUMENT && spr_site_intern(&s, &interned) == SPR_E_ARGUMENT);
    s.abi = SPR_SITE_ABI, s.level = SPR_LEVEL_INFO, s.types = types, s.n_args = 2, s.fmt = "{} {}", s.fmt_len = 5;
    CHECK(spr_log(&s, v) == SPR_E_ARGUMENT);
    s.n_args = 17;
    CHECK(spr_log(&s, v) == SPR_E_ARGUMENT);
    s.n_args = 1, s.fields = "a\0b", s.fields_len = 4;
    CHECK(spr_log(&s, v) == SPR_E_ARGUMENT);
    s.fields = NULL;
    CHECK(spr_log(&s, v) == SPR_E_ARGUMENT);
    s.fields_len = 0;
    CHECK(spr_log(&s, NULL) == SPR_E_NULL && spr_log(&s, v) == SPR_OK);
    /* The same packed: each as the site's first packed call, and when its arguments are known to come as they are stored. */
    static const unsigned char text_types[] = {SPR_T_CSTR, SPR_T_STR, SPR_T_OPT_I64};
    const uint64_t words[] = {3, 4, SPR_UNMEASURED};
    spr_text texts[] = {{"abc", 4}, {"abcd", 12}};
    unsigned packed = 0; /* records of it */
    spr_site q = s, p = {0};
    q.target = p.target = "packed", q.target_len = p.target_len = 6, q.id_ = 0, memset(q.plan_, 0, sizeof q.plan_);
    p.abi = SPR_SITE_ABI, p.level = SPR_LEVEL_INFO, p.types = text_types, p.n_args = 2, p.fmt = "{} {}", p.fmt_len = 5;
    CHECK(spr_log_packed(&p, 0, words, texts) == SPR_OK && p.quick_ != 0);
    p.id_ = 0, p.quick_ = 0, memset(p.plan_, 0, sizeof p.plan_);
    for (int i = 0; i < 3; i++) {
        CHECK(spr_log_packed(NULL, 0, words, texts) == SPR_E_NULL);
        CHECK(spr_log_packed(&q, 0, NULL, NULL) == SPR_E_NULL && spr_log_packed(&q, 0, words, NULL) == SPR_OK);
        CHECK(spr_log_packed(&p, 0, words, NULL) == SPR_E_NULL && spr_log_packed(&p, 0, NULL, texts) == SPR_E_NULL);
        spr_text null[] = {{NULL, 4}, {NULL, 12}};
        CHECK(spr_log_packed(&p, 0, words, null) == SPR_E_NULL && spr_log_packed(&p, 1, words, texts) == SPR_OK);
        CHECK(spr_log_packed(&p, 0, (uint64_t[]){3, SPR_UNMEASURED}, texts) == SPR_E_TOO_LARGE);
        CHECK(spr_log_packed(&p, 0, (uint64_t[]){SPR_UNMEASURED, 4}, texts) == SPR_OK);
        CHECK(spr_log_packed(&p, 0, words, texts) == SPR_OK);
    }
    spr_site single = p;
    single.n_args = 1, single.id_ = 0, single.quick_ = 0, memset(single.plan_, 0, sizeof single.plan_), single.fmt_len = 2;
    for (int i = 0; i < 3; i++) {
        CHECK(spr_log_text(NULL, words, "abc") == SPR_E_NULL && spr_log_text(&single, NULL, "abc") == SPR_E_NULL);
        CHECK(spr_log_text(&single, words, NULL) == SPR_OK && spr_log_text(&single, words, "abc") == SPR_OK);
    }
    packed = 1 + 3 * 4 + 3 * 2;
    CHECK(p.quick_ != 0 && q.quick_ != 0 && single.quick_ != 0);
    p.id_ = 0, p.quick_ = 0, memset(p.plan_, 0, sizeof p.plan_), p.n_args = 3;
    CHECK(spr_log_packed(&p, 0, words, texts) == SPR_E_ARGUMENT);
    memset(p.plan_, 0, sizeof p.plan_), p.abi = 9;
    CHECK(spr_log_packed(&p, 0, words, texts) == SPR_E_ARGUMENT);
    /* Reserve wants one string. */
    spr_reservation r;
    CHECK(spr_reserve(&s, 8, &r) == SPR_E_ARGUMENT);
    memset(&r, 0, sizeof r);
    CHECK(spr_commit(&r, 1) == SPR_E_CLOSED);
    SPR_SITE(place, SPR_LEVEL_INFO, "%s");
    CHECK(spr_reserve(&place, 8, &r) == SPR_OK);
    pthread_t t;
    void *code;
    CHECK(!pthread_create(&t, NULL, commit_elsewhere, &r) && !pthread_join(t, &code) && (intptr_t)code == SPR_E_ARGUMENT);
    CHECK(spr_reserve(&place, 8, &(spr_reservation){0}) == SPR_E_WOULD_BLOCK);
    CHECK(spr_commit(&r, 0) == SPR_OK);

    /* A format that does not match: no char* is followed, nothing of a number is taken for one. */
    static const unsigned char wrong[] = {SPR_T_I32, SPR_T_CSTR};
    spr_site m = {0};
    m.abi = SPR_SITE_ABI, m.level = SPR_LEVEL_INFO, m.style = SPR_STYLE_PRINTF, m.types = wrong, m.n_args = 2;
    m.fmt = "%s %d", m.fmt_len = 5;
    v[0].i = 5, v[1].p = (void *)8;
    CHECK(spr_log(&m, v) == SPR_OK);
    static const unsigned char one[] = {SPR_T_I32};
    spr_site n = m;
    n.id_ = 0, memset(n.plan_, 0, sizeof n.plan_), n.types = one, n.n_args = 1, n.fmt = "%n%d", n.fmt_len = 4;
    CHECK(spr_log(&n, v) == SPR_OK);

    /* Readers. */
    spr_reader_options ro = SPR_READER_OPTIONS_INIT;
    CHECK(spr_reader_open(NULL, &reader) == SPR_E_NO_CHANNEL);
    ro.from = 9;
    CHECK(spr_reader_open(&ro, &reader) == SPR_E_ARGUMENT);
    ro.from = 0, ro.size = 1;
    CHECK(spr_reader_open(&ro, &reader) == SPR_E_SIZE);
    ro.size = sizeof ro, ro.flags = SPR_READER_WAIT;
    CHECK(spr_reader_open(&ro, &shared) == SPR_OK && spr_reader_next(shared, 20, &rec) == SPR_E_TIMEOUT);
    o = (spr_options)SPR_OPTIONS_INIT;
    o.drain = 1;
    CHECK(spr_init(&o) == SPR_E_ALREADY);
    CHECK(spr_flush(60000) == SPR_OK);
    rec.size = 1;
    CHECK(spr_reader_next(shared, 5000, &rec) == SPR_E_SIZE);
    rec.size = sizeof rec;
    int seen = 0, losses = 0;
    while (spr_reader_next(shared, losses ? 100 : 5000, &rec) == SPR_OK) {
        /* What was logged before init. */
        if (rec.kind == SPR_KIND_LOSS && ++losses)
            CHECK(rec.lost == 1);
        else if (rec.kind == SPR_KIND_LOG && !strcmp(rec.target, "packed")) {
            CHECK(!strcmp(rec.message, "abc abcd") || !strcmp(rec.message, "{} {} (3)") ||
                  !strcmp(rec.message, "abc") || !strcmp(rec.message, "(null)"));
            packed--;
        }
        else if (rec.kind == SPR_KIND_LOG && ++seen == 3)
            CHECK(!strcmp(rec.message, "%s %d (5, 8)"));
        else if (seen == 4)
            CHECK(!strcmp(rec.message, "%n%d (5)"));
    }
    CHECK(seen == 4 && losses == 1 && packed == 0);
    CHECK(!pthread_create(&t, NULL, read_elsewhere, NULL));
    int busy = 0;
    for (int i = 0; i < 1500 && !busy; i++, usleep(1000))
        busy = spr_reader_next(shared, 0, &rec) == SPR_E_BUSY;
    CHECK(busy && !pthread_join(t, &code) && (intptr_t)code == SPR_E_TIMEOUT);
    CHECK(spr_reader_close((spr_reader *)(void *)&o) == SPR_E_CLOSED);
    spr_reader *all[SPR_MAX_HANDLES];
    int opened = 0;
    while (opened < SPR_MAX_HANDLES && spr_reader_open(NULL, &all[opened]) == SPR_OK)
        opened++;
    CHECK(opened == SPR_MAX_HANDLES - 1 && spr_reader_open(NULL, &reader) == SPR_E_LIMIT);
    while (opened)
        CHECK(spr_reader_close(all[--opened]) == SPR_OK);
    CHECK(spr_reader_close(shared) == SPR_OK && spr_reader_next(shared, 0, &rec) == SPR_E_CLOSED);

    /* vfork and exec in mid-use, a forked child that logs, and one that ends at once. */
    SPR_SITE(mid, SPR_LEVEL_INFO, "%s");
    CHECK(spr_reserve(&mid, 64, &r) == SPR_OK);
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(9);
    }
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    pid = fork();
    if (pid == 0) {
        /* The parent alone delivers what was begun. */
        int code_of_child = spr_commit(&r, 3);
        SPR_INFO("of the child");
        _exit(code_of_child == SPR_E_ARGUMENT || code_of_child == SPR_OK ? 0 : 1);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    memcpy(r.data, "mid", 3);
    CHECK(spr_commit(&r, 3) == SPR_OK);
    /* After shutdown: kept. */
    CHECK(spr_shutdown(60000) == SPR_OK && spr_shutdown(1) == SPR_OK);
    SPR_INFO("after shutdown");
    CHECK(spr_init(&o) == SPR_E_ALREADY && spr_flush(60000) == SPR_OK);
    CHECK(spr_reader_open(NULL, &reader) == SPR_OK);
    int mids = 0, children = 0, after = 0;
    for (int i = 0; i < 200 && !children; i++, usleep(10000)) /* the child's ring is another one */
        while (spr_reader_next(reader, 0, &rec) == SPR_OK) {
            mids += !strcmp(rec.message, "mid");
            children += !strcmp(rec.message, "of the child");
            after += !strcmp(rec.message, "after shutdown");
        }
    CHECK(mids == 1 && children == 1 && after == 1);

    /* All descriptors closed behind the library's back: what fits goes on, what does not is counted. */
    CHECK(spr_shutdown(60000) == SPR_OK);
    for (int fd = 3; fd < 4096; fd++)
        close(fd);
    int opened_by_program = open("/dev/null", O_RDWR);
    CHECK(opened_by_program >= 0);
    c.size = sizeof c;
    CHECK(spr_counters_get(&c) == SPR_OK);
    uint64_t lost = c.lost, said = 0;
    for (int i = 0; i < 20000; i++) {
        static const unsigned char number[] = {SPR_T_I32};
        static spr_site flood = {0, 0, 0, {0}, "", "", "%d", "", number, 0, 0, 2, 0, SPR_LEVEL_INFO, SPR_STYLE_PRINTF, 1, SPR_SITE_ABI, 0};
        v[0].i = i;
        int log_code = spr_log(&flood, v);
        CHECK(log_code == SPR_OK || log_code == SPR_E_LOST);
        said += log_code == SPR_E_LOST;
    }
    /* Descriptors above 4095 may have survived: then it spilled. */
    CHECK(spr_counters_get(&c) == SPR_OK && c.lost - lost == said && (said > 0 || c.spilled > 0));
    CHECK(write(opened_by_program, "x", 1) == 1);
    (void)argc, (void)argv;
    puts("all codes as promised");
    return 0;
}
