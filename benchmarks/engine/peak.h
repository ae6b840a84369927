#pragma once

#include <string>

namespace symmd_benchmark {

// Fused multiply-adds in registers and nothing else, with the vectors of one of the engine's instruction sets: the most
// that one core computes in fp32 (GFLOP/s, the best of some short runs).
double peak_gflops(const std::string& instruction_set);

}  // namespace symmd_benchmark
