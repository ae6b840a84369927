// Chooses the kernels of the best instruction set at load time.
#include <cstdlib>
#include <string>

#include "../core/kernels.h"
#include "symmd/error.h"

namespace symmd {

#ifdef SYMMD_HAS_AVX2
namespace avx2 {
void fill(Kernels<float>& table);
void fill(Kernels<double>& table);
}  // namespace avx2
#endif
#ifdef SYMMD_HAS_AVX512
namespace avx512 {
void fill(Kernels<float>& table);
void fill(Kernels<double>& table);
}  // namespace avx512
#endif
namespace baseline {
void fill(Kernels<float>& table);
void fill(Kernels<double>& table);
}  // namespace baseline

namespace {

bool runs_here(const std::string& name) {
#ifdef SYMMD_HAS_AVX512
    if (name == "avx512") {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
    }
#endif
#ifdef SYMMD_HAS_AVX2
    if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return name == "baseline";
}

InstructionSet choose() {
    std::string name = runs_here("avx512") ? "avx512" : runs_here("avx2") ? "avx2" : "baseline";
    const char* forced = std::getenv("SYMMD_INSTRUCTION_SET");
    if (forced && *forced) {
        const std::string wanted = forced;
        if (wanted != "avx512" && wanted != "avx2" && wanted != "baseline") {
            throw Error("SYMMD_INSTRUCTION_SET must be baseline, avx2 or avx512; found '" + wanted + "'");
        }
        if (!runs_here(wanted)) {
            throw Error("SYMMD_INSTRUCTION_SET asks for " + wanted +
                        ", which this processor or this build does not have; unset it or use " + name);
        }
        name = wanted;
    }
    InstructionSet set{};
#ifdef SYMMD_HAS_AVX512
    if (name == "avx512") {
        set.name = "avx512";
        avx512::fill(set.single);
        avx512::fill(set.twofold);
        return set;
    }
#endif
#ifdef SYMMD_HAS_AVX2
    if (name == "avx2") {
        set.name = "avx2";
        avx2::fill(set.single);
        avx2::fill(set.twofold);
        return set;
    }
#endif
    set.name = "baseline";
    baseline::fill(set.single);
    baseline::fill(set.twofold);
    return set;
}

}  // namespace

const InstructionSet& instruction_set() {
    static const InstructionSet set = choose();
    return set;
}

template <>
const Kernels<float>& kernels<float>() {
    return instruction_set().single;
}
template <>
const Kernels<double>& kernels<double>() {
    return instruction_set().twofold;
}

}  // namespace symmd
