// Counting instructions one by one with the processor's trap flag: exact, and possible where the counters of the
// processor are not lent to the machine and for instruction sets that emulators do not know. Linux on x86-64; elsewhere
// nothing is counted.
#pragma once

#include <cstdint>
#include <vector>

namespace symmd_benchmark {

// How often each instruction was executed, by its address within the program's file.
struct InstructionCounts {
    struct Entry {
        uint64_t address = 0;
        int64_t count = 0;
    };
    int64_t total = 0;
    std::vector<Entry> table;  // hashed by address; entries with count 0 are free
};

bool counts_instructions();
void start_counting(InstructionCounts& counts);
void stop_counting();

template <class Call>
void count_instructions(InstructionCounts& counts, Call&& call) {
    start_counting(counts);
    call();
    stop_counting();
}

}  // namespace symmd_benchmark
