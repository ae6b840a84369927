// What the programs of this folder share: random numbers, hostile ones among them, and a count of allocations. Included
// by one source file of each program, as it replaces operator new.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>

static int64_t allocations = 0;

void* operator new(size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

class RandomNumbers {
  public:
    explicit RandomNumbers(uint64_t seed) : engine_(seed) {}

    double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
    int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }

    // Any double, finite or not.
    double any() {
        switch (integer(0, 7)) {
            case 0:
                return std::numeric_limits<double>::quiet_NaN();
            case 1:
                return std::numeric_limits<double>::infinity();
            case 2:
                return 0;
            case 3:
                return uniform(-1, 1) * std::pow(10.0, uniform(-320, 308));
            case 4:
                return uniform(-1e8, 1e8);
            default:
                return uniform(-10, 10);
        }
    }

  protected:
    std::mt19937_64 engine_;
};
