// The engine's kernels with a clock or a counter of instructions around each call. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "instructions.h"

namespace symmd_benchmark {

enum class Watch { nothing, time, instructions };

// One kind of kernel call, of one layer.
struct Part {
    std::string name;
    int64_t calls = 0, edges = 0;
    double seconds = 0;
    InstructionCounts instructions;
};

// What the kernels do from now on beside their work.
void watch(Watch what);
// Parts in the order of their first call; `forget` sets their times and calls to zero.
std::vector<Part>& parts();
void forget();
// Seconds that a part without any work would be charged for each call.
double clock_seconds();

}  // namespace symmd_benchmark
