#include "peak.h"

#include <algorithm>
#include <chrono>

namespace symmd_benchmark {

namespace {

constexpr int chains = 12;  // enough to fill the pipes of today's processors, and few enough for 16 registers
constexpr long rounds = 2000000;
volatile float seed = 1, sink;  // volatile, so that nothing is worked out beforehand, or left out

// The same loop for each width; always_inline takes over the instruction set of the caller.
template <class Vector>
inline __attribute__((always_inline)) double timed() {
    Vector sum[chains];
    for (Vector& chain : sum) chain = Vector{} + seed;
    const Vector factor = Vector{} + 0.5f, term = Vector{} + 1.0f;
    const auto started = std::chrono::steady_clock::now();
    for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 12
        for (int k = 0; k < chains; ++k) sum[k] = sum[k] * factor + term;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    for (int k = 0; k < chains; ++k) sink = sum[k][0];
    return 2e-9 * rounds * chains * double(sizeof(Vector) / sizeof(float)) / seconds;
}

typedef float Four __attribute__((vector_size(16)));
double baseline() { return timed<Four>(); }

#ifdef __x86_64__
typedef float Eight __attribute__((vector_size(32)));
typedef float Sixteen __attribute__((vector_size(64)));
__attribute__((target("avx2,fma"))) double avx2() { return timed<Eight>(); }
__attribute__((target("avx512f"))) double avx512() { return timed<Sixteen>(); }
#endif

}  // namespace

double peak_gflops(const std::string& instruction_set) {
    double (*run)() = baseline;
#ifdef __x86_64__
    if (instruction_set == "avx2") run = avx2;
    if (instruction_set == "avx512") run = avx512;
#endif
    double best = 0;
    for (int k = 0; k < 5; ++k) best = std::max(best, run());
    return best;
}

}  // namespace symmd_benchmark
