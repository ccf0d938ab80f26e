#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER spillring_bench
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./lttng.h"
#if !defined(SPILLRING_BENCH_LTTNG_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define SPILLRING_BENCH_LTTNG_H
#include <lttng/tracepoint.h>
/* The arguments of the report's record: (i32, f64, text). */
LTTNG_UST_TRACEPOINT_EVENT(spillring_bench, record,
    LTTNG_UST_TP_ARGS(int, a, double, b, const char *, s),
    LTTNG_UST_TP_FIELDS(
        lttng_ust_field_integer(int, a, a)
        lttng_ust_field_float(double, b, b)
        lttng_ust_field_string(s, s)))
#endif
#include <lttng/tracepoint-event.h>
