/*
 * spillring.hpp: log calls for C++17 and later, over the C interface (spillring.h, which this includes; the functions
 * of life, threads, levels and reading are used from there).
 *
 *     #include <spillring.hpp>
 *
 *     struct Order { int id; std::string_view item; };
 *     inline int spr_capture(const Order &o) { return o.id; }       // a type of one's own: what is stored of it
 *
 *     int main() {
 *         if (spr_init(nullptr) != SPR_OK) return 1;
 *         Order order{7, "water"};
 *         SPR_INFO("order {} of {:>8} at {:.2f}", order, order.item, 1.5, spr::field("user", "ada"));
 *         return spr_shutdown(1000) != SPR_OK;
 *     }
 *
 * The format string is a literal: {}, {0}, {:>10}, {:+08.3}, {:#x}, {{ and }}, as in std::format with these types: < > ^
 * with a fill, + - # 0, width, precision, and x X o b e E d s f ?. It is checked against the arguments when the
 * program is compiled. No text is made: arguments are stored, at most 16 with the fields, and become text where the
 * record is read. They are evaluated only if the level is let through, and then once. Nothing is allocated, nothing
 * throws; it works with -fno-exceptions -fno-rtti.
 *
 * Arguments: integers (128 bits too), bool, char, char32_t, float, double, enums (as integers), C strings (up to
 * SPR_MAX_STRING bytes; nullptr shows as (null)), std::string, std::string_view and whatever has data() and size() of
 * char, std::optional of a number, bool or string ("none" where it is empty), std::chrono durations (with their unit)
 * and time points (since their epoch), pointers to void (with x), and types with a function spr_capture that
 * argument-dependent lookup finds, which answers one of these. long double and wide strings are compile errors.
 */
#ifndef SPILLRING_HPP
#define SPILLRING_HPP

#include <type_traits>

#include "spillring.h"

/* What the records of a source file are about. Define it before the include, as a string literal; else it is the name of
 * the function. */
#ifndef SPR_TARGET
#define SPR_TARGET __func__
#endif

namespace spr {

/* A named value: spr::field("user", name). Stands behind the arguments of the format string. */
template <unsigned N, class T> struct Field {
    const char (&name)[N];
    const T &value;
};
template <unsigned N, class T> constexpr Field<N, T> field(const char (&name)[N], const T &value) noexcept {
    static_assert(N > 1, "spillring: a field has a name");
    return {name, value};
}

namespace detail {

/* What kind of format specification a type takes. */
enum class Kind { integer, real, text, pointer, plain };

template <class T> struct always_false : std::false_type {};

template <class T> using remove_cvref = std::remove_cv_t<std::remove_reference_t<T>>;

template <class T, class = void> struct is_text : std::false_type {};
template <class T>
struct is_text<T, std::enable_if_t<std::is_convertible<decltype(std::declval<const T &>().data()), const char *>::value &&
                                   std::is_convertible<decltype(std::declval<const T &>().size()), size_t>::value>>
    : std::true_type {};

template <class T, class = void> struct is_optional : std::false_type {};
template <class T>
struct is_optional<T, std::enable_if_t<std::is_same<decltype(std::declval<const T &>().has_value()), bool>::value &&
                                       !std::is_void<typename T::value_type>::value>> : std::true_type {};

template <class T, class = void> struct is_duration : std::false_type {};
template <class T>
struct is_duration<T, std::enable_if_t<std::is_arithmetic<typename T::rep>::value && (T::period::num > 0) &&
                                       std::is_same<decltype(std::declval<const T &>().count()), typename T::rep>::value>>
    : std::true_type {};

template <class T, class = void> struct is_time_point : std::false_type {};
template <class T>
struct is_time_point<T, std::enable_if_t<is_duration<decltype(std::declval<const T &>().time_since_epoch())>::value>>
    : std::true_type {};

/* Found for types of the program by argument-dependent lookup; this one is for nobody. */
struct Nobody {};
void spr_capture(Nobody);
template <class T, class = void> struct has_capture : std::false_type {};
template <class T>
struct has_capture<T, std::enable_if_t<!std::is_void<decltype(spr_capture(std::declval<const T &>()))>::value>>
    : std::true_type {};

/* Capture<T>: type code, values it takes, and how they are made. */
template <class T, class = void> struct Capture {
    static_assert(always_false<T>::value,
                  "spillring: this type cannot be logged (long double: cast it to double; wide strings: convert them; a type "
                  "of one's own: write spr_capture for it, in its namespace)");
    static constexpr unsigned char type = 0;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::plain;
    static void put(spr_value *, const T &) noexcept {}
};

template <class T>
struct Capture<T, std::enable_if_t<std::is_integral<T>::value && !std::is_same<T, bool>::value &&
                                   !std::is_same<T, char>::value && !std::is_same<T, char32_t>::value &&
                                   !std::is_same<T, wchar_t>::value && !std::is_same<T, char16_t>::value &&
                                   sizeof(T) <= 8>> {
    static constexpr unsigned char type =
        (std::is_signed<T>::value ? SPR_T_I8 : SPR_T_U8) +
        (sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3);
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::integer;
    static void put(spr_value *to, T v) noexcept { to->i = static_cast<int64_t>(v); }
};

template <class T> struct CaptureWide {
    static constexpr unsigned values = 2;
    static constexpr Kind kind = Kind::integer;
    static void put(spr_value *to, T v) noexcept {
        to[0].u = static_cast<uint64_t>(v);
        to[1].u = static_cast<uint64_t>(v >> 64);
    }
};
__extension__ typedef __int128 I128;
__extension__ typedef unsigned __int128 U128;
template <> struct Capture<I128, void> : CaptureWide<I128> { static constexpr unsigned char type = SPR_T_I128; };
template <> struct Capture<U128, void> : CaptureWide<U128> { static constexpr unsigned char type = SPR_T_U128; };

template <> struct Capture<bool, void> {
    static constexpr unsigned char type = SPR_T_BOOL;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::plain;
    static void put(spr_value *to, bool v) noexcept { to->u = v; }
};

template <class T>
struct Capture<T, std::enable_if_t<std::is_same<T, char>::value || std::is_same<T, char32_t>::value>> {
    static constexpr unsigned char type = SPR_T_CHAR;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::plain;
    static void put(spr_value *to, T v) noexcept {
        to->u = sizeof(T) == 1 ? static_cast<unsigned char>(v) : static_cast<uint64_t>(v);
    }
};

template <> struct Capture<float, void> {
    static constexpr unsigned char type = SPR_T_F32;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::real;
    static void put(spr_value *to, float v) noexcept {
        uint32_t bits;
        __builtin_memcpy(&bits, &v, sizeof bits);
        to->u = bits;
    }
};
template <> struct Capture<double, void> {
    static constexpr unsigned char type = SPR_T_F64;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::real;
    static void put(spr_value *to, double v) noexcept { to->f = v; }
};

template <class T> struct Capture<T, std::enable_if_t<std::is_enum<T>::value && !has_capture<T>::value>> {
    using U = std::underlying_type_t<T>;
    /* An enum of char is a number all the same. */
    using I = std::conditional_t<std::is_same<U, char>::value || std::is_same<U, bool>::value, int, U>;
    static constexpr unsigned char type = Capture<I>::type;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::integer;
    static void put(spr_value *to, T v) noexcept { Capture<I>::put(to, static_cast<I>(v)); }
};

template <> struct Capture<const char *, void> {
    static constexpr unsigned char type = SPR_T_CSTR;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::text;
    static void put(spr_value *to, const char *v) noexcept { to->p = v; }
};
template <> struct Capture<char *, void> : Capture<const char *> {};
/* An array ends with a NUL, or where it ends. */
template <size_t N> struct Capture<char[N], void> {
    static constexpr unsigned char type = SPR_T_STR;
    static constexpr unsigned values = 2;
    static constexpr Kind kind = Kind::text;
    static void put(spr_value *to, const char (&v)[N]) noexcept {
        to[0].p = v;
        const void *end = __builtin_memchr(v, 0, N);
        to[1].u = end ? static_cast<uint64_t>(static_cast<const char *>(end) - v) : N;
    }
};

template <class T> struct Capture<T, std::enable_if_t<is_text<T>::value && !has_capture<T>::value>> {
    static constexpr unsigned char type = SPR_T_STR;
    static constexpr unsigned values = 2;
    static constexpr Kind kind = Kind::text;
    static void put(spr_value *to, const T &v) noexcept {
        to[0].p = v.data();
        to[1].u = v.size();
    }
};

template <> struct Capture<void *, void> {
    static constexpr unsigned char type = SPR_T_POINTER;
    static constexpr unsigned values = 1;
    static constexpr Kind kind = Kind::pointer;
    static void put(spr_value *to, const void *v) noexcept { to->p = v; }
};
template <> struct Capture<const void *, void> : Capture<void *> {};
template <> struct Capture<decltype(nullptr), void> : Capture<void *> {
    static void put(spr_value *to, decltype(nullptr)) noexcept { to->p = nullptr; }
};

template <class T> struct Capture<T, std::enable_if_t<is_optional<T>::value && !has_capture<T>::value>> {
    using V = remove_cvref<decltype(*std::declval<const T &>())>;
    static constexpr bool text = Capture<V>::kind == Kind::text && Capture<V>::values == 2;
    static constexpr bool number = Capture<V>::kind == Kind::integer && Capture<V>::values == 1;
    static_assert(text || number || std::is_same<V, bool>::value || std::is_floating_point<V>::value,
                  "spillring: of std::optional, those of numbers up to 64 bits, bool and strings can be logged");
    static constexpr unsigned char type = text                           ? SPR_T_OPT_STR
                                          : std::is_same<V, bool>::value ? SPR_T_OPT_BOOL
                                          : !number                      ? SPR_T_OPT_F64
                                          : Capture<V>::type <= SPR_T_I64 ? SPR_T_OPT_I64
                                                                         : SPR_T_OPT_U64;
    static constexpr unsigned values = 2;
    static constexpr Kind kind = Kind::plain;
    static void put(spr_value *to, const T &v) noexcept {
        to[0].u = to[1].u = 0;
        if (!v.has_value())
            return;
        if constexpr (text) {
            Capture<V>::put(to, *v);
            if (!to[0].p) // an empty view is not none
                to[0].p = "";
        } else {
            to[0].u = 1;
            if constexpr (std::is_floating_point<V>::value)
                to[1].f = *v;
            else
                Capture<V>::put(to + 1, *v);
        }
    }
};

/* Up to 8 letters in a word, the first one lowest. */
constexpr uint64_t unit(const char *s) noexcept {
    uint64_t word = 0;
    for (unsigned i = 0; s[i] && i < 8; i++)
        word |= static_cast<uint64_t>(static_cast<unsigned char>(s[i])) << (8 * i);
    return word;
}
template <class P> constexpr uint64_t unit_of() noexcept {
    return P::den == 1000000000 && P::num == 1 ? unit("ns")
           : P::den == 1000000 && P::num == 1  ? unit("us")
           : P::den == 1000 && P::num == 1     ? unit("ms")
           : P::den == 1 && P::num == 1        ? unit("s")
           : P::den == 1 && P::num == 60       ? unit("min")
           : P::den == 1 && P::num == 3600     ? unit("h")
           : P::den == 1 && P::num == 86400    ? unit("d")
                                               : 0;
}
template <class T> struct Capture<T, std::enable_if_t<is_duration<T>::value && !has_capture<T>::value>> {
    static constexpr uint64_t word = unit_of<typename T::period>();
    static_assert(word != 0, "spillring: a duration of ns, us, ms, s, min, h or d can be logged: cast it to one of these");
    static constexpr bool real = std::is_floating_point<typename T::rep>::value;
    static constexpr unsigned char type = real ? SPR_T_DURATION_F64 : SPR_T_DURATION_I64;
    static constexpr unsigned values = 2;
    static constexpr Kind kind = Kind::plain;
    static void put(spr_value *to, const T &v) noexcept {
        if constexpr (real)
            to[0].f = static_cast<double>(v.count());
        else
            to[0].i = static_cast<int64_t>(v.count());
        to[1].u = word;
    }
};
template <class T> struct Capture<T, std::enable_if_t<is_time_point<T>::value && !has_capture<T>::value>>
    : Capture<decltype(std::declval<const T &>().time_since_epoch())> {
    using D = decltype(std::declval<const T &>().time_since_epoch());
    static void put(spr_value *to, const T &v) noexcept { Capture<D>::put(to, v.time_since_epoch()); }
};

template <class T> struct Capture<T, std::enable_if_t<has_capture<T>::value>> {
    using R = remove_cvref<decltype(spr_capture(std::declval<const T &>()))>;
    static constexpr unsigned char type = Capture<R>::type;
    static constexpr unsigned values = Capture<R>::values;
    static constexpr Kind kind = Capture<R>::kind;
    static_assert(kind != Kind::text || Capture<R>::values == 1 || std::is_trivially_destructible<R>::value ||
                      std::is_reference<decltype(spr_capture(std::declval<const T &>()))>::value,
                  "spillring: spr_capture answers a string that dies at once: answer a view of what the object holds");
    static void put(spr_value *to, const T &v) noexcept { Capture<R>::put(to, spr_capture(v)); }
};

/* Arguments and fields alike. */
template <class T> struct Arg : Capture<std::remove_cv_t<T>> {
    static constexpr bool named = false;
    static constexpr unsigned name = 0;
    template <class U> static void put_arg(spr_value *to, const U &v) noexcept {
        Capture<std::remove_cv_t<T>>::put(to, v);
    }
    template <class U> static char *put_name(char *to, const U &) noexcept { return to; }
};
template <unsigned N, class T> struct Arg<Field<N, T>> : Capture<std::remove_cv_t<T>> {
    static constexpr bool named = true;
    static constexpr unsigned name = N;
    static void put_arg(spr_value *to, const Field<N, T> &f) noexcept {
        Capture<std::remove_cv_t<T>>::put(to, f.value);
    }
    static char *put_name(char *to, const Field<N, T> &f) noexcept {
        for (unsigned i = 0; i < N; i++)
            *to++ = f.name[i];
        return to;
    }
};

/* Bytes that a type takes among the numbers of a packed call (see spr_log_packed), and whether it is a text there. */
constexpr bool is_packed(unsigned char type) noexcept { return type <= SPR_T_POINTER; }
constexpr bool is_packed_text(unsigned char type) noexcept { return type == SPR_T_STR || type == SPR_T_CSTR; }
constexpr unsigned packed_bytes(unsigned char type) noexcept {
    switch (type) {
    case SPR_T_I8:
    case SPR_T_U8:
    case SPR_T_BOOL:
        return 1;
    case SPR_T_I16:
    case SPR_T_U16:
        return 2;
    case SPR_T_I64:
    case SPR_T_U64:
    case SPR_T_F64:
    case SPR_T_POINTER:
        return 8;
    case SPR_T_I128:
    case SPR_T_U128:
        return 16;
    default:
        return 4;
    }
}

template <unsigned char Type> inline __attribute__((always_inline)) void pack(spr_call_ &c, const spr_value *v) noexcept {
    if constexpr (Type == SPR_T_CSTR) {
        spr_put_text_(&c, v->p);
    } else if constexpr (Type == SPR_T_STR) {
        spr_put_string_(&c, v->p, v[1].u < SPR_UNMEASURED ? static_cast<uint32_t>(v[1].u) : SPR_UNMEASURED);
    } else if constexpr (packed_bytes(Type) == 16) {
        spr_put_(&c, v[0].u, 8);
        spr_put_(&c, v[1].u, 8);
    } else if constexpr (Type == SPR_T_CHAR) {
        const uint64_t u = v->u;
        spr_put_(&c, u > 0x10ffff || (u & ~UINT64_C(0x7ff)) == 0xd800 ? 0xfffd : u, 4); // or no character
    } else {
        constexpr unsigned n = packed_bytes(Type);
        spr_put_(&c, v->u & (~UINT64_C(0) >> (64 - 8 * n)), n);
    }
}

template <class... A> struct Args {
    static constexpr unsigned n = sizeof...(A);
    static constexpr bool packed = (true && ... && is_packed(Arg<A>::type));
    /* At most: behind a text a new word begins. */
    static constexpr unsigned bytes = (0u + ... + (is_packed_text(Arg<A>::type) ? 11 : packed_bytes(Arg<A>::type)));
    static constexpr unsigned texts = (0u + ... + (is_packed_text(Arg<A>::type) ? 1u : 0u));
    static constexpr unsigned strings = (0u + ... + (Arg<A>::type == SPR_T_CSTR ? 1u : 0u));
    static constexpr unsigned named = (0u + ... + (Arg<A>::named ? 1u : 0u));
    static constexpr unsigned values = (0u + ... + Arg<A>::values);
    static constexpr unsigned names = (0u + ... + Arg<A>::name);
    static constexpr unsigned char types[n + 1] = {Arg<A>::type..., 0};
    static constexpr Kind kinds[n + 1] = {Arg<A>::kind..., Kind::plain};
    static constexpr bool is_named[n + 1] = {Arg<A>::named..., true};
    /* Fields stand behind all others. */
    static constexpr bool ordered() noexcept {
        for (unsigned i = 0; i < n; i++)
            if (is_named[i] && !is_named[i + 1])
                return false;
        return true;
    }
};
template <size_t N, class... A> Args<A...> args_of(const char (&)[N], const A &...) noexcept;

enum class Wrong { no, brace, count, spec, unused, named };

constexpr bool digit(char c) noexcept { return c >= '0' && c <= '9'; }

/* The grammar that the reader knows, against the kinds of the arguments. */
constexpr Wrong check(const char *f, size_t len, const Kind *kinds, unsigned n) noexcept {
    unsigned next = 0;
    bool used[SPR_MAX_ARGS + 1] = {};
    for (size_t i = 0; i < len;) {
        if (f[i] == '}') {
            if (i + 1 >= len || f[i + 1] != '}')
                return Wrong::brace;
            i += 2;
            continue;
        }
        if (f[i] != '{') {
            i++;
            continue;
        }
        if (++i >= len)
            return Wrong::brace;
        if (f[i] == '{') {
            i++;
            continue;
        }
        unsigned which = 0;
        if (digit(f[i])) {
            while (i < len && digit(f[i]) && which <= SPR_MAX_ARGS)
                which = which * 10 + static_cast<unsigned>(f[i++] - '0');
        } else if (f[i] == ':' || f[i] == '}') {
            which = next++;
        } else {
            return Wrong::named;
        }
        if (which >= n)
            return Wrong::count;
        used[which] = true;
        char conv = 0;
        bool precision = false, other = false;
        if (i < len && f[i] == ':') {
            i++;
            size_t fill = 1;
            if (i < len && (f[i] & 0x80)) // one character of UTF-8
                while (i + fill < len && (f[i + fill] & 0xc0) == 0x80)
                    fill++;
            if (i + fill < len && (f[i + fill] == '<' || f[i + fill] == '>' || f[i + fill] == '^'))
                i += fill + 1, other = true;
            else if (i < len && (f[i] == '<' || f[i] == '>' || f[i] == '^'))
                i++, other = true;
            if (i < len && (f[i] == '+' || f[i] == '-'))
                i++, other = true;
            if (i < len && f[i] == '#')
                i++, other = true;
            unsigned long width = 0;
            while (i < len && digit(f[i])) {
                width = width * 10 + static_cast<unsigned long>(f[i++] - '0');
                other = true;
                if (width > 65535)
                    return Wrong::spec;
            }
            if (i < len && f[i] == '.') {
                precision = true;
                if (++i >= len || !digit(f[i]))
                    return Wrong::spec;
                width = 0;
                while (i < len && digit(f[i])) {
                    width = width * 10 + static_cast<unsigned long>(f[i++] - '0');
                    if (width > 65535)
                        return Wrong::spec;
                }
            }
            if (i < len && f[i] != '}')
                conv = f[i++];
        }
        if (i >= len || f[i] != '}')
            return Wrong::spec;
        i++;
        const Kind k = kinds[which];
        const bool hex = conv == 'x' || conv == 'X' || conv == 'o' || conv == 'b';
        const bool good = conv == 0 || conv == '?'
                              ? (k != Kind::pointer)
                              : (hex && (k == Kind::integer || k == Kind::pointer)) ||
                                    ((conv == 'e' || conv == 'E') && (k == Kind::integer || k == Kind::real));
        if (!good || (precision && k == Kind::integer && conv != 'e' && conv != 'E') || (precision && k == Kind::pointer))
            return Wrong::spec;
        (void)other;
    }
    for (unsigned i = 0; i < n; i++)
        if (!used[i])
            return Wrong::unused;
    return Wrong::no;
}

/* Writes the names of the fields, once: into memory of the site, before its first record. Every thread that comes here
 * writes the same. */
template <unsigned N, class... A> __attribute__((cold, noinline)) void put_names(char *names, const A &...a) noexcept {
    char all[N];
    char *to = all;
    ((to = Arg<A>::put_name(to, a)), ...);
    (void)to;
    /* The first letter last: whoever sees it sees all. */
    for (unsigned i = N - 1; i > 0; i--)
        __atomic_store_n(names + i, all[i], __ATOMIC_RELAXED);
    __atomic_store_n(names, all[0], __ATOMIC_RELEASE);
}

template <class T, class U>
inline __attribute__((always_inline)) void pack_arg(spr_call_ &c, const U &v) noexcept {
    spr_value values[2];
    Arg<T>::put_arg(values, v);
    pack<Arg<T>::type>(c, values);
}

template <size_t N, class... A>
inline __attribute__((always_inline)) int log(const spr_site *site, char *names, uint64_t ticks, const char (&)[N],
                                              const A &...a) noexcept {
    using All = Args<A...>;
    if constexpr (All::names != 0) {
        if (__builtin_expect(__atomic_load_n(names, __ATOMIC_ACQUIRE) == 0, 0))
            put_names<All::names>(names, a...);
    }
    (void)names;
    if constexpr (All::packed) {
        uint64_t words[All::bytes / 8 + 1];
        spr_text texts[All::texts + !All::texts];
        const bool measured = All::strings != 1 || All::texts != 1 || ticks;
        spr_call_ c{words, texts, 0, measured, 0, 0, UINT32_MAX, measured ? SPR_UNMEASURED : 0};
        (pack_arg<A>(c, a), ...);
        spr_put_end_(&c);
        if (!measured)
            return spr_log_text(site, words, static_cast<const char *>(texts[0].p));
        return spr_log_packed(site, ticks, words, All::texts ? texts : nullptr);
    } else {
        spr_value values[All::values];
        spr_value *to = values;
        ((Arg<A>::put_arg(to, a), to += Arg<A>::values), ...);
        (void)to;
        return ticks ? spr_log_at(site, ticks, values) : spr_log(site, values);
    }
}

} // namespace detail
} // namespace spr

#define SPR_FIRST_(format, ...) format

#define SPR_CALL_(lvl, ticks, ...)                                                                                     \
    do {                                                                                                           \
        if ((lvl) >= SPR_MIN_LEVEL && spr_enabled(lvl)) {                                                          \
            using SprArgs_ = decltype(::spr::detail::args_of(__VA_ARGS__));                                        \
            static_assert(sizeof(SPR_FIRST_(__VA_ARGS__, 0)) <= SPR_MAX_FMT + 1,                                   \
                          "spillring: the format string is too long");                                             \
            static_assert(SprArgs_::n <= SPR_MAX_ARGS, "spillring: a log call takes at most 16 arguments");        \
            static_assert(SprArgs_::names <= 1024, "spillring: the names of the fields are too long");             \
            static_assert(SprArgs_::ordered(), "spillring: fields stand behind all other arguments");              \
            constexpr ::spr::detail::Wrong spr_wrong_ =                                                            \
                ::spr::detail::check(SPR_FIRST_(__VA_ARGS__, 0), sizeof(SPR_FIRST_(__VA_ARGS__, 0)) - 1,           \
                                     SprArgs_::kinds, SprArgs_::n - SprArgs_::named);                              \
            static_assert(spr_wrong_ != ::spr::detail::Wrong::brace,                                               \
                          "spillring: a brace of the format string has no other (a brace itself is {{ or }})");    \
            static_assert(spr_wrong_ != ::spr::detail::Wrong::count,                                               \
                          "spillring: the format string asks for more arguments than there are");                  \
            static_assert(spr_wrong_ != ::spr::detail::Wrong::spec,                                                \
                          "spillring: a format specification that does not exist or that the argument's type does " \
                          "not have");                                                                             \
            static_assert(spr_wrong_ != ::spr::detail::Wrong::unused,                                              \
                          "spillring: an argument that the format string does not use");                           \
            static_assert(spr_wrong_ != ::spr::detail::Wrong::named,                                               \
                          "spillring: names in the format string are not supported: pass the value and use {}");   \
            static char spr_names_[SprArgs_::names + 1];                                                           \
            static spr_site spr_site_ = {0u,                                                                       \
                                         __LINE__,                                                                 \
                                         0,                                                                        \
                                         {0},                                                                      \
                                         __FILE__,                                                                 \
                                         SPR_TARGET,                                                               \
                                         SPR_FIRST_(__VA_ARGS__, 0),                                               \
                                         spr_names_,                                                               \
                                         SprArgs_::types,                                                          \
                                         static_cast<uint16_t>(sizeof(__FILE__) - 1),                              \
                                         static_cast<uint16_t>(sizeof(SPR_TARGET) - 1),                            \
                                         static_cast<uint16_t>(sizeof(SPR_FIRST_(__VA_ARGS__, 0)) - 1),            \
                                         static_cast<uint16_t>(SprArgs_::names),                                   \
                                         static_cast<uint8_t>(lvl),                                                \
                                         SPR_STYLE_BRACE,                                                          \
                                         static_cast<uint8_t>(SprArgs_::n),                                        \
                                         SPR_SITE_ABI,                                                             \
                                         0};                                                                       \
            (void)::spr::detail::log(&spr_site_, spr_names_, ticks, __VA_ARGS__);                             \
        }                                                                                                          \
    } while (0)

/*
 * The log calls. Async-signal-safe, never block, and all else as spr_log, whose code is dropped.
 */
#define SPR_TRACE(...) SPR_LOG(SPR_LEVEL_TRACE, __VA_ARGS__)
#define SPR_DEBUG(...) SPR_LOG(SPR_LEVEL_DEBUG, __VA_ARGS__)
#define SPR_INFO(...) SPR_LOG(SPR_LEVEL_INFO, __VA_ARGS__)
#define SPR_WARN(...) SPR_LOG(SPR_LEVEL_WARN, __VA_ARGS__)
#define SPR_ERROR(...) SPR_LOG(SPR_LEVEL_ERROR, __VA_ARGS__)

/* At a level that is a constant; of something that happened at ticks (spr_now); the first of every n calls that come by here
 * while the level is let through; the first n of them. */
#define SPR_LOG(level, ...) SPR_CALL_(level, 0, __VA_ARGS__)
#define SPR_LOG_AT(level, ticks, ...) SPR_CALL_(level, ticks, __VA_ARGS__)
#define SPR_LOG_EVERY_N(level, n, ...)                                                                             \
    do {                                                                                                           \
        static uint64_t spr_count_;                                                                                \
        if ((level) >= SPR_MIN_LEVEL && spr_enabled(level) &&                                                      \
            __atomic_fetch_add(&spr_count_, 1, __ATOMIC_RELAXED) % ((n) ? static_cast<uint64_t>(n) : 1) == 0)      \
            SPR_LOG(level, __VA_ARGS__);                                                                           \
    } while (0)
#define SPR_LOG_FIRST_N(level, n, ...)                                                                             \
    do {                                                                                                           \
        static uint64_t spr_count_;                                                                                \
        if ((level) >= SPR_MIN_LEVEL && spr_enabled(level) &&                                                      \
            __atomic_load_n(&spr_count_, __ATOMIC_RELAXED) < static_cast<uint64_t>(n) &&                           \
            __atomic_fetch_add(&spr_count_, 1, __ATOMIC_RELAXED) < static_cast<uint64_t>(n))                       \
            SPR_LOG(level, __VA_ARGS__);                                                                           \
    } while (0)

#endif
