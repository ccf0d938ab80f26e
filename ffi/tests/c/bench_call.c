/* Call sites for ffi_speed: a shared object that is loaded beside the Rust ones. */
#include "spillring.h"
__attribute__((noinline)) void c_call(int a, double b, const char *s, int len) { SPR_INFO("%d %f %.*s", a, b, len, s); }
__attribute__((noinline)) void c_call_string(int a, double b, const char *s) { SPR_INFO("%d %f %s", a, b, s); }
__attribute__((noinline)) void c_call_numbers(int a, double b, long c) { SPR_INFO("%d %f %ld", a, b, c); }
