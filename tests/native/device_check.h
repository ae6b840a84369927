// What programs that test csrc/cuda on the emulated device share: how they fail, the order of threads, and copies.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/platform.h"

inline int64_t case_number = 0;

[[noreturn]] inline void fail(const std::string& what) {
    std::printf("case %lld: %s\n", static_cast<long long>(case_number), what.c_str());
    std::exit(1);
}

inline void expect(bool right, const char* what) {
    if (!right) fail(what);
}

// In which order the threads of a block run; 0: as they are numbered.
inline void shuffle_threads(int seed) {
    setenv("SYMMD_EMULATOR_SEED", seed > 0 ? std::to_string(seed).c_str() : "", 1);
}

template <class T>
std::vector<T> download(const T* from, int64_t count) {
    std::vector<T> to(count);
    if (count > 0)
        symmd::check_cuda(cudaMemcpy(to.data(), from, std::size_t(count) * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    return to;
}
