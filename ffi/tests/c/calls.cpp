// What the macros of C++ store, read back.
#include <chrono>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include "spillring.hpp"
#include "check.h"

// What this thread makes by new.
static thread_local unsigned long made;
void *operator new(std::size_t n) {
    made++;
    void *p = std::malloc(n);
    CHECK(p);
    return p;
}
void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, std::size_t) noexcept { std::free(p); }

enum class Color : unsigned char { red, green = 7 };
namespace app {
struct Order {
    int id;
    std::string item;
};
inline int spr_capture(const Order &o) { return o.id; }
struct Named {
    std::string name;
};
inline std::string_view spr_capture(const Named &n) { return n.name; }
} // namespace app

static void expect(spr_reader *r, const char *text) {
    spr_record rec = SPR_RECORD_INIT;
    CHECK(next_log(r, &rec));
    if (std::string_view(rec.message, rec.message_len) != text) {
        fprintf(stderr, "\"%s\", not \"%s\"\n", rec.message, text);
        exit(1);
    }
}

template <class T> void generic(const T &v) { SPR_INFO("generic {}", v); }

int main() {
    begin();
    app::Order order{7, "water"};
    app::Named named{"a name"};
    std::string s = "a string";
    std::optional<int> none, some = 5;
    std::optional<double> half = 2.5;
    std::optional<std::string> text = "opt";
    std::optional<std::string_view> empty = std::string_view();
    std::optional<bool> yes = true;
    using namespace std::chrono_literals;
    char buffer[20] = "array";
    const char *null = nullptr;
    s = "a string that is too long to be kept without memory of its own";
    text = s, named.name = s;
#ifndef VALGRIND // which counts for itself
    CHECK(made > 0);
#endif
    const unsigned long before = made;
    SPR_INFO("nothing {{}}");
    SPR_INFO("order {} of {:>8} at {:.2}", order, order.item, 1.5);
    SPR_INFO("{} {:#x} {} {} {} {} {}", Color::green, 255u, true, 'c', U'\u00e9', s, std::string_view("view"));
    SPR_INFO("{} {} {} {} [{}] {} {}", none, some, half, text, empty, yes, named);
    SPR_WARN("{} {} {} {}", 150ms, std::chrono::duration<double>(1.5), 3h, std::chrono::system_clock::time_point(5s));
    SPR_ERROR("{} {} {} {:#x}", buffer, static_cast<const char *>(buffer), null, static_cast<void *>(buffer - buffer + (char *)16));
    SPR_INFO("fields {}", 1, spr::field("user", "ada"), spr::field("n", 42), spr::field("s", s));
    SPR_INFO("{1} {0}", 1.5f, -3LL);
    SPR_INFO("{} {}", spr::detail::I128(-5), static_cast<signed char>(-1));
    generic(1);
    generic("two");
    for (int i = 0; i < 10; i++)
        SPR_LOG_EVERY_N(SPR_LEVEL_INFO, 4, "every {}", i);
    for (int i = 0; i < 10; i++)
        SPR_LOG_FIRST_N(SPR_LEVEL_INFO, 1, "first {}", i);
    auto lambda = [](int i) noexcept { SPR_INFO("in a lambda {}", i); };
    lambda(3);
    CHECK(made == before);

    spr_reader *r = read_back();
    expect(r, "nothing {}");
    expect(r, "order 7 of    water at 1.50");
    expect(r, "7 0xff true c \u00e9 a string that is too long to be kept without memory of its own view");
    expect(r, "none 5 2.5 a string that is too long to be kept without memory of its own [] true a string that is too long to be kept without memory of its own");
    expect(r, "150ms 1.5s 3h 5000000000ns");
    expect(r, "array array (null) 0x10");
    spr_record rec = SPR_RECORD_INIT;
    spr_field f = SPR_FIELD_INIT;
    CHECK(next_log(r, &rec) && !strcmp(rec.message, "fields 1") && rec.n_fields == 3);
    CHECK(spr_reader_field(r, 0, &f) == SPR_OK && !strcmp(f.name, "user") && !strcmp(f.text, "ada"));
    CHECK(spr_reader_field(r, 1, &f) == SPR_OK && !strcmp(f.name, "n") && f.value.i == 42);
    CHECK(spr_reader_field(r, 2, &f) == SPR_OK && !strcmp(f.name, "s") && s == f.text);
    expect(r, "-3 1.5");
    expect(r, "-5 -1");
    expect(r, "generic 1");
    expect(r, "generic two");
    expect(r, "every 0");
    expect(r, "every 4");
    expect(r, "every 8");
    expect(r, "first 0");
    expect(r, "in a lambda 3");
    CHECK(!next_log(r, &rec));
    CHECK(spr_reader_close(r) == SPR_OK);
    return spr_shutdown(10000) != SPR_OK;
}
