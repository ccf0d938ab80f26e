/* printf as this library renders it against snprintf: generated cases, byte for byte. */
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>
#include "check.h"

#define CASES 14000
#define MOST 400
#define EDGES 1100 /* more bytes of a string than the library copies unmeasured */

static struct {
    char *fmt, *text;
    int len;
} cases[CASES];
static int n_cases, n_quick;

static uint64_t seed = 0x5eed;
static uint64_t rnd(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1du;
}
static int below(int n) { return (int)(rnd() >> 33) % n; }

static uint64_t integer(void) {
    static const uint64_t edges[] = {0, 1, 2, 7, 8, 9, 10, 255, 256, 65535, INT_MAX, 0x80000000u, UINT_MAX,
                                     LLONG_MAX, 0x8000000000000000u, ULLONG_MAX, 42, (uint64_t)-42, (uint64_t)-1};
    return below(3) ? edges[below(sizeof edges / sizeof *edges)] : rnd() >> below(64);
}
static double real(void) {
    static const double edges[] = {0.0,     -0.0,    1.0,   -1.0,     0.5,     1.5,      2.5,    0.125,  1e-5,
                                   1e-4,    9.9999e-5, 99999.95, 999999.5, 1e5,  1e6,    1e15,   1e16,   1e17,
                                   1e100,   1e-100,  DBL_MAX, DBL_MIN, 5e-324, INFINITY, -INFINITY, NAN, 123456.789,
                                   0.1,     0.3,     100.0, 9.5,      0.95,    3.14159265358979, 1e22, 1e23, -2.5e-7};
    if (below(3))
        return edges[below(sizeof edges / sizeof *edges)];
    uint64_t bits = rnd();
    double d;
    memcpy(&d, &bits, sizeof d);
    return below(2) ? d : (double)(int64_t)rnd() / (double)(1 + below(100000));
}

/* Logs one case, and keeps what snprintf makes of it. */
#define CASE(value, type_code, spr)                                                                                \
    do {                                                                                                           \
        char text[8192];                                                                                           \
        int len = ws ? (ps ? snprintf(text, sizeof text, fmt, w, p, value) : snprintf(text, sizeof text, fmt, w, value)) \
                     : (ps ? snprintf(text, sizeof text, fmt, p, value) : snprintf(text, sizeof text, fmt, value)); \
        CHECK(len >= 0 && len < (int)sizeof text);                                                                 \
        unsigned char types[3];                                                                                    \
        spr_value values[4];                                                                                       \
        uint8_t n = 0;                                                                                             \
        if (ws)                                                                                                    \
            types[n] = SPR_T_I32, values[n++].i = w;                                                               \
        if (ps)                                                                                                    \
            types[n] = SPR_T_I32, values[n++].i = p;                                                               \
        if (type_code)                                                                                             \
            types[n] = type_code, values[n++] = spr;                                                               \
        keep(fmt, types, n, values, text, len);                                                                    \
    } while (0)

static void keep(const char *fmt, const unsigned char *types, uint8_t n, const spr_value *values, const char *text,
                 int len) {
    int before = errno;
    spr_site facts = {0};
    const spr_site *site;
    facts.abi = SPR_SITE_ABI;
    facts.level = SPR_LEVEL_INFO;
    facts.style = SPR_STYLE_PRINTF;
    facts.fmt = fmt;
    facts.fmt_len = (uint16_t)strlen(fmt);
    facts.types = types;
    facts.n_args = n;
    CHECK(n_cases < CASES);
    CHECK(spr_site_intern(&facts, &site) == SPR_OK);
    errno = before;
    CHECK(spr_log(site, values) == SPR_OK);
    CHECK(errno == before);
    /* Packed, as the macros do: once before it is known how the site takes its arguments, and after that with its strings
     * measured and, of a single one, not. */
    for (int turn = 0; turn < 3; turn++) {
        uint64_t words[4];
        spr_text texts[3];
        struct spr_call_ c = {words, texts, 0, 0, 0, 0, UINT32_MAX, turn < 2 ? SPR_UNMEASURED : 77};
        c.quick = turn < 2 ? site->quick_ : 0;
        for (int i = 0; i < n; i++)
            if (types[i] == SPR_T_CSTR)
                spr_put_text_(&c, values[i].p);
            else if (types[i] == SPR_T_I32)
                spr_put_int_(&c, (int)values[i].i);
            else if (types[i] == SPR_T_U32)
                spr_put_unsigned_(&c, (unsigned)values[i].u);
            else
                spr_put_long_(&c, values[i].u);
        spr_put_end_(&c);
        n_quick += (uint32_t)c.quick != 0;
        if (turn < 2)
            CHECK(spr_log_packed(site, 0, words, texts) == SPR_OK);
        else if (c.count == 1)
            CHECK(spr_log_text(site, words, texts[0].p) == SPR_OK);
        else
            CHECK(spr_log(site, values) == SPR_OK);
        CHECK(errno == before);
    }
    cases[n_cases].fmt = strdup(fmt);
    cases[n_cases].text = malloc((size_t)len + 1);
    memcpy(cases[n_cases].text, text, (size_t)len + 1);
    cases[n_cases++].len = len;
}

static spr_value of_int(long long v) { return (spr_value){.i = v}; }
static spr_value of_unsigned(unsigned long long v) { return (spr_value){.u = v}; }
static spr_value of_double(double v) { return (spr_value){.f = v}; }
static spr_value of_pointer(const void *v) { return (spr_value){.p = v}; }

/* Whether rounding to so many digits makes the number a digit longer. glibc then forgets the zeros of %#g: it prints
 * "1.e+06" for 999999.5 where C asks for "1.00000e+06". */
static int skipped;
static int carries(double v, int precision) {
    char rounded[64], whole[64];
    snprintf(rounded, sizeof rounded, "%.*e", precision < 0 ? 5 : precision ? precision - 1 : 0, v);
    snprintf(whole, sizeof whole, "%.40e", v);
    const char *a = strchr(rounded, 'e'), *b = strchr(whole, 'e');
    return a && b && strcmp(a, b) != 0;
}

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
static void one(char conv, int flags) {
    static const char *const widths[] = {"", "", "1", "5", "12", "40", "*"};
    static const char *const precisions[] = {"", "", ".", ".0", ".1", ".3", ".6", ".17", ".30", ".*"};
    static const char *const lengths[] = {"", "", "hh", "h", "l", "ll", "z", "j", "t", "q"};
    static const char *const strings[] = {"", "a", "water", "a longer string of text, with 1234 letters", "\303\251t\303\251", NULL};
    static const int errnos[] = {ENOENT, EAGAIN, EINVAL, ENOSPC, 0};
    char fmt[64], *f = fmt;
    const char *wd = widths[below(7)], *pr = precisions[below(10)], *ln = lengths[below(10)];
    int ws = *wd == '*', ps = *pr && pr[1] == '*';
    int w = below(2) ? below(30) : -below(30), p = below(3) ? below(20) : -1;
    if (below(2))
        *f++ = '<';
    *f++ = '%';
    for (int i = 0; i < 6; i++)
        if (flags >> i & 1)
            *f++ = "-+ #0'"[i];
    f += sprintf(f, "%s%s", wd, pr);
    int integer_conv = strchr("diuoxXbB", conv) != NULL;
    if (integer_conv)
        f += sprintf(f, "%s", ln);
    else
        ln = "";
    *f++ = conv;
    strcpy(f, below(2) ? ">%%" : "");
    if (integer_conv) {
        uint64_t v = integer();
        if (*ln == 'l' || *ln == 'z' || *ln == 'j' || *ln == 't' || *ln == 'q') {
            if (conv == 'd' || conv == 'i')
                CASE((long)v, SPR_T_I64, of_int((long)v));
            else
                CASE((unsigned long)v, SPR_T_U64, of_unsigned(v));
        } else if (conv == 'd' || conv == 'i')
            CASE((int)v, SPR_T_I32, of_int((int)v));
        else
            CASE((unsigned)v, SPR_T_U32, of_unsigned((unsigned)v));
    } else if (strchr("fFeEgGaA", conv)) {
        double v = real();
        if ((conv == 'g' || conv == 'G') && flags & 8 && carries(v, ps ? p : *pr ? atoi(pr + 1) : -1)) {
            skipped++;
            return;
        }
        CASE(v, SPR_T_F64, of_double(v));
    } else if (conv == 's') {
        const char *v = strings[below(6)];
        CASE(v, SPR_T_CSTR, of_pointer(v));
    } else if (conv == 'c') {
        int v = 32 + below(200);
        CASE(v, SPR_T_I32, of_int(v));
    } else if (conv == 'p') {
        void *v = below(3) ? (void *)(uintptr_t)integer() : NULL;
        CASE(v, SPR_T_POINTER, of_pointer(v));
    } else {
        errno = errnos[below(5)];
        CASE(0, 0, of_int(0));
    }
}

int main(void) {
    static const char convs[] = "diuoxXbcspmfFeEgGaA";
    begin();
    /* Every conversion with every set of flags, several times with random widths, precisions, lengths and values. */
    for (int c = 0; convs[c]; c++)
        for (int flags = 0; flags < 64; flags++)
            for (int i = 0; i < 10; i++)
                one(convs[c], flags);
    /* A string that is bounded by its precision need not end. */
    char open[4] = {'o', 'p', 'e', 'n'};
    for (int i = 0; i < 3; i++) {
        SPR_INFO("%.*s|%.3s", 4, open, open);
        SPR_INFO("%d %.*s|%.*s", i, 4, open, 1, open);
    }
    /* Where a string ends with the last byte that can be read, or begins with the first one. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && !mprotect(pages, page, PROT_NONE) && !mprotect(pages + 3 * page, page, PROT_NONE));
    char *readable = pages + page;
    for (size_t len = 0; len < EDGES; len += len < 80 || len > 1000 ? 1 : 40)
        for (size_t at = 0; at < 3; at++) {
            memset(readable, '#', 2 * page);
            char *s = readable + (at == 0 ? 0 : at == 1 ? len % 23 : 2 * page - len - 1);
            for (size_t i = 0; i < len; i++)
                s[i] = (char)('a' + i % 26);
            s[len] = 0;
            SPR_INFO("%d %s", (int)len, s);
        }
    spr_reader *r = read_back();
    spr_record rec = SPR_RECORD_INIT;
    int wrong = 0;
    for (int turn = 0; turn < 4 * n_cases; turn++) {
        int i = turn / 4;
        CHECK(next_log(r, &rec));
        if ((int)rec.message_len != cases[i].len || memcmp(rec.message, cases[i].text, rec.message_len)) {
            if (wrong++ < 20)
                fprintf(stderr, "%s: \"%s\", not \"%s\"\n", cases[i].fmt, rec.message, cases[i].text);
        }
    }
    for (int i = 0; i < 3; i++) {
        CHECK(next_log(r, &rec) && !strcmp(rec.message, "open|ope"));
        CHECK(next_log(r, &rec) && !strcmp(rec.message + 1, " open|o"));
    }
    for (size_t len = 0; len < EDGES; len += len < 80 || len > 1000 ? 1 : 40)
        for (size_t at = 0; at < 3; at++) {
            char expected[EDGES + 16];
            size_t n = (size_t)sprintf(expected, "%d ", (int)len);
            for (size_t i = 0; i < len; i++)
                expected[n++] = (char)('a' + i % 26);
            CHECK(next_log(r, &rec) && rec.message_len == n && !memcmp(rec.message, expected, n));
        }
    CHECK(!next_log(r, &rec));
    printf("%d cases, each as values and packed (%d of the usual kind), %d wrong, %d left out (glibc's %%#g)\n", n_cases,
           n_quick, wrong, skipped);
    return wrong != 0 || n_cases < 10000 || n_quick < 1000;
}
