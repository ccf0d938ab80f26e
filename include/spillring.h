/*
 * spillring.h: the C interface of spillring. C11 and later; from C++, include spillring.hpp instead, which
 * includes this.
 *
 *     #include <spillring.h>
 *
 *     int main(void) {
 *         if (spr_init(NULL) != SPR_OK)           // from the environment (SPILLRING_CHANNEL, ...)
 *             return 1;
 *         SPR_INFO("order %d of %s at %.2f", 7, "water", 1.5);
 *         return spr_shutdown(1000) != SPR_OK;
 *     }
 *
 * Compile and link: cc app.c $(pkg-config --cflags --libs spillring)
 *
 * Rules that hold for every function:
 * - It answers SPR_OK or one of the codes below; a code is never used for anything else again.
 * - It writes what it answers (out, ...) only when it answers SPR_OK, unless it says otherwise.
 * - NULL where it does not say "or NULL" gives SPR_E_NULL. Pointers are looked at, not kept.
 * - It keeps errno if it is async-signal-safe.
 * - A bug of the library (a panic) does not cross it: SPR_E_PANIC.
 * - Structs that begin with a size have it set by the caller, to sizeof; the *_INIT macros do so. A program that
 *   was built with an older header keeps working; one that uses what only a newer library knows gets SPR_E_SIZE.
 *
 * Under each function stands: async-signal-safe? may block? thread-safe? and the codes it gives beside SPR_E_NULL
 * and SPR_E_PANIC.
 *
 * dlopen: the library takes 160 bytes of static thread-local storage (on x86-64), so that a thread's first log call
 * may stand in a signal handler. Should dlopen say "cannot allocate memory in static TLS block", others have taken it
 * all: preload the library (LD_PRELOAD=libspillring.so.0) or link it, or raise
 * GLIBC_TUNABLES=glibc.rtld.optional_static_tls. musl cannot dlopen such a library at all: link it.
 */
#ifndef SPILLRING_H
#define SPILLRING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface; spr_abi answers that of the library. */
#define SPR_ABI 1

/* == spr_strerror: codes and their texts == */

#define SPR_OK 0                  /* done */
#define SPR_E_OS 1                /* a system call failed */
#define SPR_E_NO_CHANNEL 2        /* no such channel, or no journal of it */
#define SPR_E_PERMISSION 3
#define SPR_E_NO_SPACE 4          /* in the shared memory, on the disk, in the buffer */
#define SPR_E_BAD_FILE 5          /* a file is cut short or is not what its name says */
#define SPR_E_VERSION 6           /* a file of another version */
#define SPR_E_ARCH 7              /* a file of another processor */
#define SPR_E_DRAIN_RUNNING 8     /* another drain has this channel */
#define SPR_E_OTHER_JOURNAL 9     /* the channel belongs to another journal */
#define SPR_E_DAMAGED 10          /* a part of the journal is damaged */
#define SPR_E_BAD_VALUE 11        /* a value that is not allowed */
#define SPR_E_TOO_LARGE 12        /* larger than a record may be, or than what was reserved */
#define SPR_E_TIMEOUT 13          /* not done within the given time */
#define SPR_E_FILE_LIMIT 14       /* RLIMIT_FSIZE forbids it */
#define SPR_E_WOULD_BLOCK 15      /* there is no room for it now: log by copy */
#define SPR_E_NOT_ATTACHED 16     /* no ring: spr_init was not called, or failed */
#define SPR_E_NULL 101            /* a pointer that must not be NULL is */
#define SPR_E_ARGUMENT 102        /* an argument that makes no sense */
#define SPR_E_SIZE 103            /* a struct of another version of this header */
#define SPR_E_CLOSED 104          /* the handle is closed, or never was one */
#define SPR_E_BUSY 105            /* another thread is using the handle */
#define SPR_E_LOST 106            /* the record was counted as lost */
#define SPR_E_PANIC 107           /* something in the library panicked, which is a bug of it */
#define SPR_E_END 108             /* there is nothing more to read */
#define SPR_E_LIMIT 109           /* no more handles or sites: SPR_MAX_HANDLES, SPR_MAX_SITES */
#define SPR_E_ALREADY 110         /* done before; what was done then holds */

/*
 * The text of a code. For one that does not exist, "unknown code". Never NULL.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
const char *spr_strerror(int code);

/*
 * What went wrong in the calling thread's last call that failed, in a sentence that says what, where, and what to
 * do; empty where the code says it all. Log calls leave none. At most size bytes, the NUL included, are written;
 * needed (or NULL) gets how many all of it would take.
 *
 * Not async-signal-safe. Does not block. Thread-safe. SPR_E_SIZE: size is 0.
 */
int spr_error_message(char *buffer, size_t size, size_t *needed);

/* == spr_init: begin and end == */

/* Limit: open handles of one kind. */
#define SPR_MAX_HANDLES 256

/*
 * What spr_init shall do otherwise than the environment says. Strings are NULL and numbers 0 where the environment
 * decides; each member takes what the variable takes whose name stands beside it.
 */
typedef struct spr_options {
    size_t size;             /* sizeof(spr_options) */
    const char *dir;         /* SPILLRING_DIR: directory of the channels */
    const char *channel;     /* SPILLRING_CHANNEL */
    const char *journal_dir; /* SPILLRING_JOURNAL_DIR: directory of the journals */
    const char *level;       /* SPILLRING_LEVEL: "trace" to "error", "off" */
    const char *overflow;    /* SPILLRING_OVERFLOW: "spill", "drop-newest", "block:20ms" */
    uint64_t lane_bytes;     /* SPILLRING_LANE: shared memory of each thread, a power of two */
    uint32_t lanes;          /* SPILLRING_LANES: threads that may have one */
    uint32_t drain;          /* 1: run a drain as a thread of this process, unless the channel has one */
} spr_options;

/* Its initial value: the environment decides, no drain. */
#define SPR_OPTIONS_INIT {sizeof(spr_options), NULL, NULL, NULL, NULL, NULL, 0, 0, 0}

/*
 * Attaches this process to its channel: as the environment says (options NULL), or as options say where they do.
 * Without it, or when it fails, log calls are counted and go nowhere, and the program runs on. A forked child
 * needs no call of its own: its first log call attaches it. What is wrong with the environment is said on stderr;
 * what is wrong with options is an error. With options->drain, what that drain has to say goes to stderr, and it
 * ends with the process (atexit) or by spr_shutdown.
 *
 * Not async-signal-safe. May block on the directory. Call it once, early; a later call with options->drain starts a
 * drain. SPR_E_ALREADY: it was done, and the first one's options hold. SPR_E_SIZE, SPR_E_ARGUMENT,
 * SPR_E_BAD_VALUE, SPR_E_NO_SPACE, SPR_E_PERMISSION, SPR_E_FILE_LIMIT, SPR_E_VERSION, SPR_E_OS, and those of a
 * drain: SPR_E_OTHER_JOURNAL.
 */
int spr_init(const spr_options *options);

/*
 * Waits until every record whose call had returned, on any thread of this process, is in the journal.
 *
 * Not async-signal-safe. Blocks, at most so long. Thread-safe. SPR_E_TIMEOUT (is a drain running?),
 * SPR_E_NOT_ATTACHED.
 */
int spr_flush(uint32_t timeout_ms);

/*
 * Flushes, if a drain has the channel, and ends the drain of this process, if it has one. Nothing is lost without
 * it: what is in the channel is delivered by its next drain. Log calls that come later are as good as before:
 * they are kept in the channel.
 *
 * Not async-signal-safe. Blocks: for the flush at most so long, for the drain at most SPILLRING_FLUSH_TIMEOUT.
 * Thread-safe. SPR_E_TIMEOUT, SPR_E_NOT_ATTACHED, SPR_E_NO_SPACE (the journal could not be written).
 */
int spr_shutdown(uint32_t timeout_ms);

/*
 * The library's SPR_ABI.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
int spr_abi(int *out);

/*
 * 1 if a drain has taken this process's channel, else 0.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
int spr_drain_present(int *out);

/*
 * Counters of this process.
 */
typedef struct spr_counters {
    size_t size;          /* sizeof(spr_counters) */
    uint64_t unattached;  /* log calls that found no ring */
    uint64_t nested;      /* calls that found another call of their thread open */
    uint64_t lost;        /* records lost */
    uint64_t spilled;     /* calls whose record went to the spill */
    uint64_t nonce;       /* random number of this process's ring, 0 = none */
    int32_t attach_errno; /* errno of the attach that failed, 0 = none did */
    int32_t reserved_;
} spr_counters;

/* Its initial value. */
#define SPR_COUNTERS_INIT {sizeof(spr_counters), 0, 0, 0, 0, 0, 0, 0}

/*
 * Reads them. Async-signal-safe. Does not block. Thread-safe. SPR_E_SIZE.
 */
int spr_counters_get(spr_counters *out);

/* == spr_thread: threads == */

/*
 * Does now what the calling thread's first log call would do: takes a lane of the shared memory and its pages.
 *
 * Async-signal-safe. Does not block. Thread-safe. SPR_E_NOT_ATTACHED; SPR_E_NO_SPACE: the thread has no lane (there
 * are as many as SPILLRING_LANES says) and shares one with others.
 */
int spr_thread_prefault(void);

/*
 * After a log call of this thread was left by longjmp or cancellation: ends the slow path that its calls have taken
 * since. Never needed for correctness. Not where a log call or a reservation of this thread is under way.
 *
 * Async-signal-safe (but see above). Does not block. Thread-safe.
 */
int spr_thread_reset(void);

/*
 * With the policy "block:TIME": lets the calling thread's log calls wait so long for room (1), or not (0, as at the
 * start). Not for threads that drain, or that others wait for.
 *
 * Async-signal-safe. Does not block. Thread-safe. SPR_E_NOT_ATTACHED.
 */
int spr_thread_may_wait(int yes);

/*
 * Reserves n lanes for threads to come, so that their first log call makes no system call: for programs that enter a
 * sandbox. have (or NULL) gets how many there are.
 *
 * Not async-signal-safe. May block in the kernel. Thread-safe. SPR_E_NOT_ATTACHED; SPR_E_NO_SPACE: fewer, and have
 * is written all the same.
 */
int spr_prepare(uint32_t n, uint32_t *have);

/* == spr_level: levels == */

#define SPR_LEVEL_TRACE 1
#define SPR_LEVEL_DEBUG 2
#define SPR_LEVEL_INFO 3
#define SPR_LEVEL_WARN 4
#define SPR_LEVEL_ERROR 5
#define SPR_LEVEL_OFF 6

/* Define it before the include: calls below it are not compiled. */
#ifndef SPR_MIN_LEVEL
#define SPR_MIN_LEVEL SPR_LEVEL_TRACE
#endif

/*
 * Records below this level are not logged from now on; SPR_LEVEL_OFF: none is.
 *
 * Async-signal-safe. Does not block. Thread-safe. SPR_E_ARGUMENT: no level.
 */
int spr_set_level(int level);

/*
 * The level as it stands. Async-signal-safe. Does not block. Thread-safe.
 */
int spr_get_level(int *out);

/*
 * Where the level stands: a word that never moves, for spr_enabled. Load it, never store it.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
int spr_gate_word(const uint32_t **out);

/* Where the level stands, once it is known; and how that becomes known. */
static const uint32_t *spr_gate_;
static __attribute__((noinline, cold, unused)) const uint32_t *spr_find_gate_(void) {
    static const uint32_t all = 0; /* all levels pass */
    const uint32_t *gate = &all;
    if (spr_gate_word(&gate) == SPR_OK)
        __atomic_store_n(&spr_gate_, gate, __ATOMIC_RELAXED);
    return gate;
}

/*
 * 1 if a record of this level would be logged: two loads and a compare.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
static inline int spr_enabled(int level) {
    const uint32_t *gate = __atomic_load_n(&spr_gate_, __ATOMIC_RELAXED);
    if (__builtin_expect(!gate, 0))
        gate = spr_find_gate_();
    return (uint32_t)level >= __atomic_load_n(gate, __ATOMIC_RELAXED);
}

/* == spr_log: log calls == */

/* Limits: arguments of a record; bytes of a format string; bytes of a string that ends with a NUL (what is longer is
 * cut, and ends in "[cut]"); sites that spr_site_intern keeps. */
#define SPR_MAX_ARGS 16
#define SPR_MAX_FMT 4096
#define SPR_MAX_STRING 65535
#define SPR_MAX_SITES 65536

/* Version of struct spr_site. */
#define SPR_SITE_ABI 1

/* Grammars of format strings: {} and %d. */
#define SPR_STYLE_BRACE 0
#define SPR_STYLE_PRINTF 1

/* Types of arguments. Each takes one spr_value, unless it says otherwise. */
#define SPR_T_I8 1
#define SPR_T_I16 2
#define SPR_T_I32 3
#define SPR_T_I64 4
#define SPR_T_I128 5 /* two: low, high */
#define SPR_T_U8 6
#define SPR_T_U16 7
#define SPR_T_U32 8
#define SPR_T_U64 9
#define SPR_T_U128 10 /* two: low, high */
#define SPR_T_F32 11  /* its bits, in the low half of u */
#define SPR_T_F64 12
#define SPR_T_BOOL 13
#define SPR_T_CHAR 14         /* a Unicode scalar value */
#define SPR_T_STR 15          /* two: address, length */
#define SPR_T_CSTR 32         /* a string that ends with a NUL */
#define SPR_T_POINTER 33      /* shown, never followed */
#define SPR_T_OPT_I64 40      /* two: is there one, which; stored as text */
#define SPR_T_OPT_U64 41      /* likewise */
#define SPR_T_OPT_F64 42      /* likewise */
#define SPR_T_OPT_BOOL 43     /* likewise */
#define SPR_T_OPT_STR 44      /* two: address (NULL: there is none), length */
#define SPR_T_DURATION_I64 45 /* two: count, and up to 8 letters of its unit in a word; stored as text */
#define SPR_T_DURATION_F64 46 /* likewise */

/* An argument, or half of one. */
typedef union spr_value {
    int64_t i;
    uint64_t u;
    double f;
    const void *p;
} spr_value;

/* Words that the library keeps in a site. */
#define SPR_PLAN_ 9

/*
 * The facts of a call site. The macros make a static one of it; a program that knows them at run time only fills
 * one in and gives it to spr_site_intern. Strings are counted, and need no NUL. Of the arguments, the last ones are
 * fields, as many as fields has names, each with a NUL behind it ("user\0path\0"); those before belong to fmt. A
 * field named "*" is a string that spr_fields_add has built, one named "*spans" one of spr_fields_span.
 */
typedef struct spr_site {
    uint32_t id_; /* the library's: zero */
    uint32_t line;
    uint64_t quick_;           /* the library's: zero */
    uint64_t plan_[SPR_PLAN_]; /* the library's: zeros */
    const char *file;
    const char *target; /* what the record is about: a module, a logger's name */
    const char *fmt;
    const char *fields;
    const unsigned char *types; /* n_args of SPR_T_* */
    uint16_t file_len;          /* of a longer one than 256 bytes the end is kept */
    uint16_t target_len;        /* of a longer one than 256 bytes the beginning is kept */
    uint16_t fmt_len;           /* at most SPR_MAX_FMT */
    uint16_t fields_len;        /* at most 1024 */
    uint8_t level;
    uint8_t style;
    uint8_t n_args; /* at most SPR_MAX_ARGS */
    uint8_t abi;    /* SPR_SITE_ABI */
    uint32_t verdict_; /* the library's: zero */
} spr_site;

/*
 * Logs one record, whatever spr_enabled says: values are as many as the types of the site take, and may be NULL where
 * there are none. Strings are copied. Where SPILLRING_LEVEL has levels of its own for some targets, a site whose target's
 * level is higher logs nothing, and that is SPR_OK.
 *
 * Async-signal-safe, also as a thread's first call and inside another log call of the thread. Never blocks (unless
 * the policy is block and the thread said spr_thread_may_wait), takes no lock, allocates nothing; enters the
 * kernel only where the shared memory has no room. Thread-safe. SPR_E_NOT_ATTACHED, SPR_E_LOST (both are
 * counted), SPR_E_ARGUMENT: the site makes no sense, SPR_E_TOO_LARGE: a string of 4 GiB.
 */
int spr_log(const spr_site *site, const spr_value *values);

/*
 * The same of something that happened at ticks, as spr_now answered it then; 0 = now. Of one thread, a record with an
 * earlier time than the one before it is shown with that one's. All else as spr_log.
 */
int spr_log_at(const spr_site *site, uint64_t ticks, const spr_value *values);

/* A string of a packed call. */
typedef struct spr_text {
    const void *p;
    uint64_t at; /* bytes of the numbers up to it, its length among them */
} spr_text;

/* Instead of a string's length: the library is to find out. */
#define SPR_UNMEASURED 0xffffffffu

/*
 * What the macros call, after spr_enabled: spr_log (ticks 0) or spr_log_at with arguments as they are stored. Numbers
 * stand in words, little-endian and without gaps: SPR_T_I8, _U8 and _BOOL 1 byte, _I16 and _U16 2, _I32, _U32, _F32 and
 * _CHAR (a scalar value) 4, _I64, _U64, _F64 and _POINTER 8, _I128 and _U128 16. A string, SPR_T_STR or _CSTR, is there
 * with its length, 4 bytes, and behind that the next number begins a new word; its address stands in texts. Types that
 * are not named here cannot be packed: SPR_E_ARGUMENT. A _CSTR that was not measured, or is longer than SPR_MAX_STRING,
 * is measured by the library. All else as spr_log.
 */
int spr_log_packed(const spr_site *site, uint64_t ticks, const uint64_t *numbers, const spr_text *texts);

/*
 * spr_log_packed, now, of a site whose types have one string, an SPR_T_CSTR, which need not be measured: its length is
 * found while it is copied, and the 4 bytes of it among the numbers may be any. All else as spr_log.
 */
int spr_log_text(const spr_site *site, const uint64_t *numbers, const char *text);

/*
 * The time that a record would get now, in ticks of this process's clock.
 *
 * Async-signal-safe. Does not block. Thread-safe.
 */
int spr_now(uint64_t *ticks);

/*
 * A site with these facts, which are copied; the same one each time, for ever. The library's members need not be set.
 * A call of it by spr_log takes some ns longer than one of the macros, whose arguments are packed.
 *
 * Async-signal-safe. Does not block. Thread-safe. SPR_E_ARGUMENT: it makes no sense; SPR_E_LIMIT: SPR_MAX_SITES
 * are there; SPR_E_NO_SPACE.
 */
int spr_site_intern(const spr_site *facts, const spr_site **out);

/* == spr_fields: fields that only the call knows == */

/* Builds them in memory of the caller. What is built is used bytes at data: one SPR_T_STR argument of a field named
 * "*" (or "*spans"). */
typedef struct spr_fields {
    unsigned char *data;
    size_t size;
    size_t used;
    size_t left_out; /* fields that did not fit */
} spr_fields;

/*
 * Nothing yet. Async-signal-safe. Does not block. Not for two threads at a time.
 */
int spr_fields_init(spr_fields *fields, void *buffer, size_t size);

/*
 * Adds a field: type is one of SPR_T_I8 to SPR_T_STR, without the 128-bit ones and SPR_T_F32. A name has at most
 * 65 535 bytes.
 *
 * Async-signal-safe. Does not block. Not for two threads at a time. SPR_E_NO_SPACE: it did not fit and is left out
 * whole, and counted; SPR_E_ARGUMENT.
 */
int spr_fields_add(spr_fields *fields, const char *name, size_t name_len, int type, const spr_value *value);

/*
 * Adds a span that is open, outermost first, with its fields (or NULL). All else as spr_fields_add.
 */
int spr_fields_span(spr_fields *spans, const char *name, size_t name_len, uint64_t id, const spr_fields *fields);

/* == spr_reserve: records that are filled in place == */

/* A place for the text of one record, in the shared memory. */
typedef struct spr_reservation {
    void *data; /* write here, ... */
    size_t size; /* ... at most so much */
    uint64_t private_[8];
} spr_reservation;

/*
 * Reserves a place for a record of a site whose one argument is SPR_T_STR. What is written there is the string; no
 * copy is made. Until it is committed or aborted, other log calls of this thread (and of its signal handlers) take
 * the slow path. SPR_SITE makes a site for it.
 *
 * Async-signal-safe. Does not block. Thread-safe. SPR_E_WOULD_BLOCK: there is no room in this thread's lane, or
 * another call of it is open: log by copy. SPR_E_NOT_ATTACHED. SPR_E_ARGUMENT: not such a site.
 */
int spr_reserve(const spr_site *site, size_t size, spr_reservation *out);

/*
 * Makes the record exist, with the first size bytes. On the thread that reserved.
 *
 * Async-signal-safe. Does not block. SPR_E_TOO_LARGE: more than was reserved, and then, as after any error but the
 * next, the reservation is over. SPR_E_ARGUMENT: reserved by another thread, or before a fork. SPR_E_CLOSED:
 * committed or aborted before.
 */
int spr_commit(spr_reservation *reservation, size_t size);

/*
 * Gives the place back; there is no record. As spr_commit.
 */
int spr_abort(spr_reservation *reservation);

/* == spr_reader: records read back == */

/* A reader: a handle, no address. */
typedef struct spr_reader spr_reader;

#define SPR_FROM_OLDEST 0
#define SPR_FROM_NOW 1  /* behind what is there */
#define SPR_FROM_LAST 2 /* with last records */
#define SPR_READER_WAIT 1 /* where there is no journal yet, wait for it */

/* Strings are NULL where spr_init's options, or else the environment, decide. */
typedef struct spr_reader_options {
    size_t size;             /* sizeof(spr_reader_options) */
    const char *journal;     /* directory of one journal; goes before the next three */
    const char *dir;         /* as in spr_options */
    const char *channel;     /* as in spr_options */
    const char *journal_dir; /* as in spr_options */
    uint64_t last;           /* records, with SPR_FROM_LAST */
    uint32_t from;           /* SPR_FROM_* */
    uint32_t flags;          /* SPR_READER_WAIT, or 0 */
} spr_reader_options;

/* Its initial value: the program's own channel, from the oldest record on. */
#define SPR_READER_OPTIONS_INIT {sizeof(spr_reader_options), NULL, NULL, NULL, NULL, 0, SPR_FROM_OLDEST, 0}

#define SPR_KIND_LOG 1    /* of a log call */
#define SPR_KIND_OUTPUT 2 /* captured output */
#define SPR_KIND_LOSS 16  /* lost records stand for it: see lost */
#define SPR_KIND_NOTE 17  /* what the drain has to say */
#define SPR_KIND_GAP 100  /* no record: lost records were deleted before they were read, or are damaged */

/* A record. Its strings are counted, and have a NUL behind them as well; they are the reader's, and stay until its next
 * call of spr_reader_next or spr_reader_close. */
typedef struct spr_record {
    size_t size;     /* sizeof(spr_record) */
    uint64_t number; /* in the journal */
    int64_t utc_ns;  /* ns since 1970 */
    uint64_t ticks;  /* raw time, by the producer's clock */
    uint64_t lost;   /* records that SPR_KIND_LOSS and SPR_KIND_GAP stand for */
    const char *message;
    size_t message_len;
    const char *file;
    size_t file_len;
    const char *target;
    size_t target_len;
    const char *thread; /* its name */
    size_t thread_len;
    uint32_t line;
    uint32_t pid; /* in the producer's own namespace, like tid */
    uint32_t tid;
    uint32_t n_fields;
    int32_t kind;  /* SPR_KIND_* */
    int32_t level; /* SPR_LEVEL_*, 0 = none */
} spr_record;

/* Its initial value. */
#define SPR_RECORD_INIT {sizeof(spr_record), 0, 0, 0, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, 0, 0, 0, 0, 0}

/* A field of a record; strings as those of the record. */
typedef struct spr_field {
    size_t size; /* sizeof(spr_field) */
    const char *name;
    size_t name_len;
    const char *text; /* its value, whatever its type */
    size_t text_len;
    spr_value value; /* its value, if type is not SPR_T_STR */
    int32_t type;    /* SPR_T_I64, SPR_T_U64, SPR_T_F64, SPR_T_BOOL, SPR_T_CHAR or SPR_T_STR */
    int32_t reserved_;
} spr_field;

/* Its initial value. */
#define SPR_FIELD_INIT {sizeof(spr_field), NULL, 0, NULL, 0, {0}, 0, 0}

/*
 * Opens a reader of a channel's journal (options NULL: of this program's). Readers disturb nobody, and follow the journal
 * while a drain writes it.
 *
 * Not async-signal-safe. May block on the disk. Thread-safe. SPR_E_NO_CHANNEL: there is no journal;
 * SPR_E_PERMISSION, SPR_E_VERSION, SPR_E_BAD_VALUE, SPR_E_SIZE, SPR_E_ARGUMENT, SPR_E_LIMIT, SPR_E_OS.
 */
int spr_reader_open(const spr_reader_options *options, spr_reader **out);

/*
 * The next record. Waits for one at most so long.
 *
 * Not async-signal-safe. Blocks, at most so long (and on the disk). One thread at a time: SPR_E_BUSY.
 * SPR_E_TIMEOUT: nothing new. SPR_E_CLOSED, SPR_E_SIZE, SPR_E_OTHER_JOURNAL, SPR_E_VERSION, SPR_E_OS.
 */
int spr_reader_next(spr_reader *reader, uint32_t timeout_ms, spr_record *out);

/*
 * Field i of the record that spr_reader_next gave last, the first one being 0.
 *
 * Not async-signal-safe. Does not block. One thread at a time: SPR_E_BUSY. SPR_E_ARGUMENT: it has no such field.
 * SPR_E_CLOSED, SPR_E_SIZE.
 */
int spr_reader_field(spr_reader *reader, uint32_t i, spr_field *out);

/*
 * Closes it. Its handle is none from then on: SPR_E_CLOSED.
 *
 * Not async-signal-safe. Does not block. One thread at a time: SPR_E_BUSY.
 */
int spr_reader_close(spr_reader *reader);

/* The C library's strnlen, which strict C11 does not declare. */
size_t spr_strnlen_(const char *s, size_t most) __asm__("strnlen");

#ifdef __cplusplus
}
#endif

/* A call whose arguments the macros are packing: what they do here is done when they are compiled, but for the stores.
 * Words are stored whole, so that whoever loads them need not wait for the stores. */
struct spr_call_ {
    uint64_t *words;
    spr_text *texts;
    uint64_t word;       /* the one that is being filled */
    uint64_t quick;      /* the site's quick_, or what says that texts may be measured */
    unsigned used;       /* bytes */
    unsigned count;      /* of texts */
    uint32_t last;       /* put: an int; bounds a text behind it that has a bound, if not below 0 */
    uint32_t unmeasured; /* a text's length, where it is not measured */
};

/* From this bit of quick_ on, for each text: an int before it bounds its length. The lower half of quick_ is 0 where it is
 * not known that every char* is a string. */
#define SPR_BOUNDED_ 40

#define SPR_INLINE_ static inline __attribute__((always_inline))

/* v is 0 above its n bytes. */
SPR_INLINE_ void spr_put_(struct spr_call_ *c, uint64_t v, unsigned n) {
    unsigned at = c->used % 8;
    c->word |= v << (8 * at);
    if (at + n >= 8) {
        c->words[c->used / 8] = c->word;
        c->word = at ? v >> (64 - 8 * at) : 0;
    }
    c->used += n;
    c->last = UINT32_MAX;
}
SPR_INLINE_ void spr_put_end_(struct spr_call_ *c) {
    if (c->used % 8 || !c->used)
        c->words[c->used / 8] = c->word;
    c->word = 0;
}
SPR_INLINE_ void spr_put_string_(struct spr_call_ *c, const void *p, uint32_t len) {
    spr_put_(c, len, 4);
    c->texts[c->count].p = p;
    c->texts[c->count].at = c->used;
    c->count++;
    spr_put_end_(c);
    c->used = (c->used + 7) / 8 * 8;
}
SPR_INLINE_ void spr_put_text_(struct spr_call_ *c, const void *text) {
    uint32_t len = c->unmeasured, most = SPR_MAX_STRING + 1;
    if (text && (uint32_t)c->quick) {
        if (c->last < most && (c->quick >> (SPR_BOUNDED_ + c->count) & 1))
            most = c->last;
        len = (uint32_t)spr_strnlen_((const char *)text, most);
    }
    spr_put_string_(c, text, len);
}

/* == spr_macros: the log calls of C == */

#ifndef __cplusplus

/* What the records of a source file are about. Define it before the include, as a string literal; else it is the name of
 * the function. */
#ifndef SPR_TARGET
#define SPR_TARGET __func__
#endif

/*
 * SPR_INFO("order %d of %s at %.2f", id, name, px): a log call. The format string is a literal, of printf's grammar and
 * checked like printf's: flags -+ #0', width and precision (also *), hh h l ll j z t, d i u o x X b B c s p f F e E g
 * G a A m and %%. No text is made: the arguments are stored, at most 16 of them, and become text where the record is
 * read. They are evaluated only if the level is let through, and then once. A string is copied up to its precision, or
 * its NUL, or SPR_MAX_STRING bytes; NULL shows as (null). What cannot be logged is a compile error: long double, wide
 * strings, %n, pointers to integers (cast those to void * for %p).
 *
 * Async-signal-safe, never blocks, and all else as spr_log, whose code is dropped.
 */
#define SPR_TRACE(...) SPR_LOG(SPR_LEVEL_TRACE, __VA_ARGS__)
#define SPR_DEBUG(...) SPR_LOG(SPR_LEVEL_DEBUG, __VA_ARGS__)
#define SPR_INFO(...) SPR_LOG(SPR_LEVEL_INFO, __VA_ARGS__)
#define SPR_WARN(...) SPR_LOG(SPR_LEVEL_WARN, __VA_ARGS__)
#define SPR_ERROR(...) SPR_LOG(SPR_LEVEL_ERROR, __VA_ARGS__)

/*
 * The same at a level that is a constant.
 */
#define SPR_LOG(level, ...) SPR_CALL_(level, 0, __VA_ARGS__)

/*
 * The same of something that happened at ticks (spr_now).
 */
#define SPR_LOG_AT(level, ticks, ...) SPR_CALL_(level, ticks, __VA_ARGS__)

/*
 * The first of every n calls that come by here while the level is let through.
 */
#define SPR_LOG_EVERY_N(level, n, ...)                                                                             \
    do {                                                                                                           \
        static uint64_t spr_count_;                                                                                \
        if ((level) >= SPR_MIN_LEVEL && spr_enabled(level) &&                                                      \
            __atomic_fetch_add(&spr_count_, 1, __ATOMIC_RELAXED) % ((n) ? (uint64_t)(n) : 1) == 0)                 \
            SPR_LOG(level, __VA_ARGS__);                                                                           \
    } while (0)

/*
 * The first n calls that come by here while the level is let through.
 */
#define SPR_LOG_FIRST_N(level, n, ...)                                                                             \
    do {                                                                                                           \
        static uint64_t spr_count_;                                                                                \
        if ((level) >= SPR_MIN_LEVEL && spr_enabled(level) &&                                                      \
            __atomic_load_n(&spr_count_, __ATOMIC_RELAXED) < (uint64_t)(n) &&                                      \
            __atomic_fetch_add(&spr_count_, 1, __ATOMIC_RELAXED) < (uint64_t)(n))                                  \
            SPR_LOG(level, __VA_ARGS__);                                                                           \
    } while (0)

/*
 * SPR_SITE(site, SPR_LEVEL_INFO, "%s"): defines a static spr_site of that name with one string argument, for
 * spr_reserve.
 */
#define SPR_SITE(name, level, format)                                                                              \
    static const unsigned char name##_types_[] = {SPR_T_STR};                                                      \
    static spr_site name = SPR_SITE_INIT_(level, format, name##_types_, 1, SPR_STYLE_PRINTF)

/* What follows is the macros' own. */

#define SPR_SITE_INIT_(level, format, types, n, style)                                                             \
    {0u, __LINE__, 0, {0}, __FILE__, SPR_TARGET, "" format "", "", types, (uint16_t)(sizeof(__FILE__) - 1),           \
     (uint16_t)(sizeof(SPR_TARGET) - 1), (uint16_t)(sizeof(format) - 1), 0, (uint8_t)(level), style, n,            \
     SPR_SITE_ABI, 0}

#define SPR_CALL_(lvl, ticks, ...)                                                                                 \
    do {                                                                                                           \
        if (0)                                                                                                     \
            spr_check_(__VA_ARGS__);                                                                               \
        if ((lvl) >= SPR_MIN_LEVEL && spr_enabled(lvl)) {                                                          \
            _Static_assert(sizeof(SPR_FIRST_(__VA_ARGS__, 0)) <= SPR_MAX_FMT + 1, "spillring: the format string "  \
                                                                                  "is too long");                  \
            SPR_EACH_(SPR_MAY_, __VA_ARGS__)                                                                       \
            static const unsigned char spr_types_[] = {SPR_EACH_(SPR_TYPE_, __VA_ARGS__)};                         \
            static spr_site spr_site_ = SPR_SITE_INIT_(lvl, SPR_FIRST_(__VA_ARGS__, 0), spr_types_,                \
                                                       SPR_COUNT_(__VA_ARGS__), SPR_STYLE_PRINTF);                 \
            enum {                                                                                                 \
                spr_bytes_ = 0 SPR_EACH_(SPR_BYTES_, __VA_ARGS__),                                                 \
                spr_count_of_texts_ = 0 SPR_EACH_(SPR_IS_TEXT_, __VA_ARGS__)                                       \
            };                                                                                                     \
            uint64_t spr_words_[spr_bytes_ / 8 + 1];                                                               \
            spr_text spr_texts_[spr_count_of_texts_ + !spr_count_of_texts_];                                       \
            struct spr_call_ spr_call_ = {spr_words_, spr_texts_, 0, 0, 0, 0, UINT32_MAX, SPR_UNMEASURED};         \
            const uint64_t spr_ticks_ = (ticks);                                                                   \
            if (spr_count_of_texts_ == 1 && !spr_ticks_)                                                           \
                spr_call_.unmeasured = 0;                                                                          \
            else if (spr_count_of_texts_)                                                                          \
                spr_call_.quick = __atomic_load_n(&spr_site_.quick_, __ATOMIC_RELAXED);                            \
            SPR_EACH_(SPR_PUT_, __VA_ARGS__)                                                                       \
            spr_put_end_(&spr_call_);                                                                              \
            if (spr_count_of_texts_ == 1 && !spr_ticks_)                                                           \
                (void)spr_log_text(&spr_site_, spr_words_, (const char *)spr_texts_[0].p);                         \
            else                                                                                                   \
                (void)spr_log_packed(&spr_site_, spr_ticks_, spr_words_, spr_count_of_texts_ ? spr_texts_ : NULL); \
        }                                                                                                          \
    } while (0)

__attribute__((format(printf, 1, 2))) static inline void spr_check_(const char *format, ...) { (void)format; }

SPR_INLINE_ void spr_put_int_(struct spr_call_ *c, int v) {
    spr_put_(c, (unsigned)v, 4);
    c->last = (unsigned)v;
}
SPR_INLINE_ void spr_put_unsigned_(struct spr_call_ *c, unsigned v) { spr_put_(c, v, 4); }
SPR_INLINE_ void spr_put_long_(struct spr_call_ *c, unsigned long long v) { spr_put_(c, v, 8); }
SPR_INLINE_ void spr_put_pointer_(struct spr_call_ *c, const volatile void *v) { spr_put_(c, (uintptr_t)v, 8); }
SPR_INLINE_ void spr_put_double_(struct spr_call_ *c, double v) {
    uint64_t word;
    __builtin_memcpy(&word, &v, 8);
    spr_put_(c, word, 8);
}

/* The type that an argument has after the promotions of a call (but float stays one). Not evaluated. */
#define SPR_PROMOTED_(x) (1 ? (x) : (x))

#define SPR_TYPE_(x)                                                                                               \
    _Generic(SPR_PROMOTED_(x),                                                                                     \
        int: SPR_T_I32,                                                                                            \
        unsigned: SPR_T_U32,                                                                                       \
        long: SPR_T_I64,                                                                                           \
        unsigned long: SPR_T_U64,                                                                                  \
        long long: SPR_T_I64,                                                                                      \
        unsigned long long: SPR_T_U64,                                                                             \
        float: SPR_T_F64,                                                                                          \
        double: SPR_T_F64,                                                                                         \
        char *: SPR_T_CSTR,                                                                                        \
        const char *: SPR_T_CSTR,                                                                                  \
        unsigned char *: SPR_T_CSTR,                                                                               \
        const unsigned char *: SPR_T_CSTR,                                                                         \
        default: SPR_T_POINTER),
#define SPR_TYPE_0_ 0

#define SPR_PUT_(x)                                                                                                \
    _Generic(SPR_PROMOTED_(x),                                                                                     \
        int: spr_put_int_,                                                                                         \
        unsigned: spr_put_unsigned_,                                                                               \
        long: spr_put_long_,                                                                                       \
        unsigned long: spr_put_long_,                                                                              \
        long long: spr_put_long_,                                                                                  \
        unsigned long long: spr_put_long_,                                                                         \
        float: spr_put_double_,                                                                                    \
        double: spr_put_double_,                                                                                   \
        char *: spr_put_text_,                                                                                     \
        const char *: spr_put_text_,                                                                               \
        unsigned char *: spr_put_text_,                                                                            \
        const unsigned char *: spr_put_text_,                                                                      \
        default: spr_put_pointer_)(&spr_call_, x);
#define SPR_PUT_0_

/* What those write at most (behind a text a new word begins), and which of them are texts. */
#define SPR_BYTES_(x) +_Generic(SPR_PROMOTED_(x), int: 4, unsigned: 4, default: 8)
#define SPR_BYTES_0_
#define SPR_IS_TEXT_(x)                                                                                            \
    +_Generic(SPR_PROMOTED_(x), char *: 1, const char *: 1, unsigned char *: 1, const unsigned char *: 1, default: 0)
#define SPR_IS_TEXT_0_

#define SPR_MAY_(x)                                                                                                \
    _Static_assert(_Generic(SPR_PROMOTED_(x),                                                                      \
                       long double: 0,                                                                             \
                       int *: 0,                                                                                   \
                       const int *: 0,                                                                             \
                       unsigned *: 0,                                                                              \
                       const unsigned *: 0,                                                                        \
                       short *: 0,                                                                                 \
                       unsigned short *: 0,                                                                        \
                       long *: 0,                                                                                  \
                       unsigned long *: 0,                                                                         \
                       long long *: 0,                                                                             \
                       unsigned long long *: 0,                                                                    \
                       signed char *: 0,                                                                           \
                       default: 1),                                                                                \
                   "spillring: this argument cannot be logged: long double (cast it to double), a wide string, or a " \
                   "pointer to an integer (%n; for %p cast it to void *)");
#define SPR_MAY_0_

#define SPR_FIRST_(format, ...) format
/* How many arguments stand behind the format string. */
#define SPR_COUNT_(...) SPR_COUNT2_(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0)
#define SPR_COUNT2_(format, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, count, ...) count
#define SPR_JOIN_(a, b, c) SPR_JOIN2_(a, b, c)
#define SPR_JOIN2_(a, b, c) a##b##c
#define SPR_EACH_(M, ...) SPR_JOIN_(SPR_EACH_, SPR_COUNT_(__VA_ARGS__), _)(M, __VA_ARGS__)
#define SPR_EACH_0_(M, fmt) M##0_
#define SPR_EACH_1_(M, fmt, a) M(a)
#define SPR_EACH_2_(M, fmt, a,b) M(a) M(b)
#define SPR_EACH_3_(M, fmt, a,b,c) M(a) M(b) M(c)
#define SPR_EACH_4_(M, fmt, a,b,c,d) M(a) M(b) M(c) M(d)
#define SPR_EACH_5_(M, fmt, a,b,c,d,e) M(a) M(b) M(c) M(d) M(e)
#define SPR_EACH_6_(M, fmt, a,b,c,d,e,f) M(a) M(b) M(c) M(d) M(e) M(f)
#define SPR_EACH_7_(M, fmt, a,b,c,d,e,f,g) M(a) M(b) M(c) M(d) M(e) M(f) M(g)
#define SPR_EACH_8_(M, fmt, a,b,c,d,e,f,g,h) M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h)
#define SPR_EACH_9_(M, fmt, a,b,c,d,e,f,g,h,i) M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i)
#define SPR_EACH_10_(M, fmt, a,b,c,d,e,f,g,h,i,j) M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j)
#define SPR_EACH_11_(M, fmt, a,b,c,d,e,f,g,h,i,j,k) M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k)
#define SPR_EACH_12_(M, fmt, a,b,c,d,e,f,g,h,i,j,k,l) \
    M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k) M(l)
#define SPR_EACH_13_(M, fmt, a,b,c,d,e,f,g,h,i,j,k,l,m) \
    M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k) M(l) M(m)
#define SPR_EACH_14_(M, fmt, a,b,c,d,e,f,g,h,i,j,k,l,m,n) \
    M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k) M(l) M(m) M(n)
#define SPR_EACH_15_(M, fmt, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o) \
    M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k) M(l) M(m) M(n) M(o)
#define SPR_EACH_16_(M, fmt, a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p) \
    M(a) M(b) M(c) M(d) M(e) M(f) M(g) M(h) M(i) M(j) M(k) M(l) M(m) M(n) M(o) M(p)

#endif /* !__cplusplus */

#endif
