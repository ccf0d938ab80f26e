// As bench_call.c, in C++.
#include "spillring.hpp"
struct View {
    const char *p;
    size_t n;
    const char *data() const { return p; }
    size_t size() const { return n; }
};
extern "C" __attribute__((noinline)) void cpp_call_string(int a, double b, const char *s, size_t n) {
    SPR_INFO("{} {} {}", a, b, View{s, n});
}
extern "C" __attribute__((noinline)) void cpp_call_numbers(int a, double b, long c) { SPR_INFO("{} {} {}", a, b, c); }
