// spdlog asynchronous, overflow policy block, one background thread: as `rivals`, with its arguments.
#include <sched.h>
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

static const char TEXT[] = "a string of thirty-five characters.";

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static spdlog::logger *logger;

__attribute__((noinline)) static void call(int a, double b, const char *s) { logger->info("{} {} {}", a, b, s); }

int main(int argc, char **argv) {
    if (argc < 6) {
        std::fprintf(stderr, "spdlog calls FILE BURSTS CALLS APART CPU CPU | text FILE N CPU CPU\n");
        return 2;
    }
    using clock = std::chrono::steady_clock;
    const bool calls = !std::strcmp(argv[1], "calls");
    pin(std::atoi(argv[argc - 1]));
    spdlog::init_thread_pool(8192, 1);
    auto made = spdlog::create_async<spdlog::sinks::basic_file_sink_mt>("bench", argv[2], true);
    logger = made.get();
    pin(std::atoi(argv[argc - 2]));
    const char *volatile text = TEXT;
    if (calls) {
        const int bursts = std::atoi(argv[3]), n = std::atoi(argv[4]), apart = std::atoi(argv[5]);
        const auto c0 = clock::now();
        const uint64_t t0 = __rdtsc();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        const double per_ns = double(__rdtsc() - t0) / std::chrono::duration<double, std::nano>(clock::now() - c0).count();
        std::vector<double> means;
        for (int i = 0; i < bursts + bursts / 4; i++) {
            std::this_thread::sleep_for(std::chrono::microseconds(apart));
            const uint64_t t = __rdtsc();
            for (int k = 0; k < n; k++) call(k, 0.5, text);
            const double mean = double(__rdtsc() - t) / n / per_ns;
            if (i >= bursts / 4) means.push_back(mean);
        }
        std::sort(means.begin(), means.end());
        std::printf("%.2f\n", means[(means.size() - 1) / 2]);
        std::fflush(stdout);
        spdlog::shutdown();
        return 0;
    }
    const long n = std::atol(argv[3]);
    const auto begun = clock::now();
    for (long i = 0; i < n; i++) call(int(i), double(i % 1000) * 0.5 + 0.25, text);
    // Waits for the background thread, and flushes the file.
    made.reset();
    spdlog::shutdown();
    std::printf("%lld\n", (long long)std::chrono::duration_cast<std::chrono::nanoseconds>(clock::now() - begun).count());
    return 0;
}
