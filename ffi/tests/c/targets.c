/* SPILLRING_LEVEL with levels for targets: of static sites and of interned ones. */
#include "check.h"

/* A site's target is its function's name. */
static void loud(int i) { SPR_TRACE("heard %d", i); }
static void quiet(int i) {
    SPR_INFO("not heard %d", i);
    SPR_ERROR("heard %d", i);
}

static void interned(const char *target, int level) {
    static const unsigned char type[] = {SPR_T_I32};
    spr_site facts = {0};
    const spr_site *site;
    spr_value v;
    facts.target = target, facts.target_len = (uint16_t)strlen(target);
    facts.file = "", facts.fmt = "interned %d", facts.fmt_len = 11, facts.fields = "";
    facts.types = type, facts.n_args = 1, facts.level = (uint8_t)level;
    facts.style = SPR_STYLE_PRINTF, facts.abi = SPR_SITE_ABI;
    CHECK(spr_site_intern(&facts, &site) == SPR_OK);
    v.i = level;
    CHECK(spr_log(site, &v) == SPR_OK);
}

static void expect(spr_reader *r, const char *target, const char *text) {
    spr_record rec = SPR_RECORD_INIT;
    CHECK(next_log(r, &rec));
    if (strcmp(rec.message, text) || strcmp(rec.target, target)) {
        fprintf(stderr, "%s \"%s\", not %s \"%s\"\n", rec.target, rec.message, target, text);
        exit(1);
    }
}

int main(void) {
    CHECK(setenv("SPILLRING_LEVEL", "error,loud=trace,quiet=warn", 1) == 0);
    begin();
    for (int i = 0; i < 2; i++) {
        loud(i);
        quiet(i);
    }
    interned("loud", SPR_LEVEL_DEBUG);
    interned("quiet", SPR_LEVEL_INFO);
    interned("another", SPR_LEVEL_WARN);
    interned("another", SPR_LEVEL_ERROR);
    /* One level for all: what the sites have found out before holds no more. */
    CHECK(spr_set_level(SPR_LEVEL_INFO) == SPR_OK);
    loud(2);
    quiet(2);

    spr_reader *r = read_back();
    expect(r, "loud", "heard 0");
    expect(r, "quiet", "heard 0");
    expect(r, "loud", "heard 1");
    expect(r, "quiet", "heard 1");
    expect(r, "loud", "interned 2");
    expect(r, "another", "interned 5");
    expect(r, "quiet", "not heard 2");
    expect(r, "quiet", "heard 2");
    spr_record rec = SPR_RECORD_INIT;
    CHECK(!next_log(r, &rec));
    CHECK(spr_reader_close(r) == SPR_OK);
    return 0;
}
