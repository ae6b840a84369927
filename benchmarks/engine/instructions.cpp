#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // names of the registers in a signal's context
#endif
#include "instructions.h"

#include <csignal>

#if defined(__linux__) && defined(__x86_64__)

#include <ucontext.h>

extern "C" char __executable_start;

namespace symmd_benchmark {

namespace {

constexpr std::size_t table_size = 1 << 17;
constexpr uint64_t trap_flag = 0x100;

InstructionCounts* counting = nullptr;
volatile bool ends = false;

// After each instruction; only memory that is already there may be touched.
void on_trap(int, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (ends) {
        registers[REG_EFL] &= ~greg_t(trap_flag);
        return;
    }
    const uint64_t address = uint64_t(registers[REG_RIP]) - uint64_t(&__executable_start);
    ++counting->total;
    for (std::size_t at = (address * 0x9E3779B97F4A7C15u) >> 47;; at = (at + 1) % table_size) {
        InstructionCounts::Entry& entry = counting->table[at];
        if (entry.count == 0) entry.address = address;
        if (entry.address != address) continue;
        ++entry.count;
        return;
    }
}

}  // namespace

bool counts_instructions() { return true; }

__attribute__((noinline)) void start_counting(InstructionCounts& counts) {
    counts.table.resize(table_size);
    counting = &counts;
    ends = false;
    struct sigaction action = {};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, nullptr);
    // The compiler may keep variables below the stack pointer.
    asm volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq %0, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
                 :
                 : "i"(int(trap_flag))
                 : "memory", "cc");
}

__attribute__((noinline)) void stop_counting() { ends = true; }

}  // namespace symmd_benchmark

#else

namespace symmd_benchmark {

bool counts_instructions() { return false; }
void start_counting(InstructionCounts&) {}
void stop_counting() {}

}  // namespace symmd_benchmark

#endif
