// Times the engine's kernels within real steps, one thread, and prints what was found as JSON.
//
//     engine_breakdown MODEL STRUCTURE REPEATS        seconds of whole steps and of each part, step by step
//     engine_breakdown MODEL STRUCTURE instructions   how often each instruction of each part was executed
//
// STRUCTURE, little-endian: int64 atoms; int64 1 if periodic, else 0; double cell [3, 3]; double positions [atoms, 3]
// Å; int32 species [atoms].
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "peak.h"
#include "symmd/engine.h"
#include "timed_kernels.h"

namespace symmd_benchmark {

namespace {

struct Atoms {
    int64_t count = 0, periodic = 0;
    std::vector<double> cell, positions, forces;
    std::vector<int32_t> species;

    symmd::System system() const {
        symmd::System result;
        result.atoms = count;
        result.species = species.data();
        result.positions = positions.data();
        if (periodic) {
            result.cell = cell.data();
            result.periodic = {true, true, true};
        }
        return result;
    }
};

template <class T>
void read_numbers(std::ifstream& from, T* to, int64_t count) {
    from.read(reinterpret_cast<char*>(to), count * int64_t(sizeof(T)));
}

Atoms read_structure(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    Atoms atoms;
    read_numbers(file, &atoms.count, 1);
    read_numbers(file, &atoms.periodic, 1);
    if (!file || atoms.count < 1) throw symmd::Error("expected a structure in " + path);
    atoms.cell.resize(9);
    atoms.positions.resize(3 * atoms.count);
    atoms.forces.resize(3 * atoms.count);
    atoms.species.resize(atoms.count);
    read_numbers(file, atoms.cell.data(), 9);
    read_numbers(file, atoms.positions.data(), 3 * atoms.count);
    read_numbers(file, atoms.species.data(), atoms.count);
    if (!file) throw symmd::Error(path + " ends before its " + std::to_string(atoms.count) + " atoms");
    return atoms;
}

double seconds_of_step(symmd::Engine& engine, Atoms& atoms) {
    symmd::Results results;
    results.forces = atoms.forces.data();
    const auto started = std::chrono::steady_clock::now();
    engine.compute(atoms.system(), results);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

void print_head(const Atoms& atoms) {
    std::printf("{\"instruction_set\": \"%s\", \"atoms\": %lld", symmd::Engine::instruction_set().c_str(),
                (long long)atoms.count);
}

void print_times(symmd::Engine& engine, Atoms& atoms, int repeats) {
    const std::string instruction_set = symmd::Engine::instruction_set();
    for (int k = 0; k < 2; ++k) seconds_of_step(engine, atoms);
    print_head(atoms);
    std::printf(", \"clock_seconds\": %.9g,\n\"repeats\": [", clock_seconds());
    for (int repeat = 0; repeat < repeats; ++repeat) {
        // In turns, so that a change of the machine's speed meets all of them.
        const double peak = repeat % 8 == 0 ? peak_gflops(instruction_set) : 0;
        const double step = seconds_of_step(engine, atoms);
        forget();
        watch(Watch::time);
        const double timed = seconds_of_step(engine, atoms);
        watch(Watch::nothing);
        std::printf("%s\n{\"step\": %.9g, \"timed\": %.9g, \"peak_gflops\": %.6g, \"parts\": {", repeat ? "," : "",
                    step, timed, peak);
        const char* comma = "";
        for (const Part& part : parts()) {
            std::printf("%s\"%s\": {\"seconds\": %.9g, \"calls\": %lld, \"edges\": %lld}", comma, part.name.c_str(),
                        part.seconds, (long long)part.calls, (long long)part.edges);
            comma = ", ";
        }
        std::printf("}}");
    }
    std::printf("]}\n");
}

void print_instructions(symmd::Engine& engine, Atoms& atoms) {
    seconds_of_step(engine, atoms);
    watch(Watch::instructions);
    if (counts_instructions()) seconds_of_step(engine, atoms);
    watch(Watch::nothing);
    print_head(atoms);
    std::printf(", \"parts\": {");
    const char* comma = "";
    for (const Part& part : parts()) {
        std::printf("%s\n\"%s\": {\"calls\": %lld, \"edges\": %lld, \"total\": %lld, \"addresses\": {", comma,
                    part.name.c_str(), (long long)part.calls, (long long)part.edges,
                    (long long)part.instructions.total);
        comma = "";
        for (const InstructionCounts::Entry& entry : part.instructions.table) {
            if (entry.count == 0) continue;
            std::printf("%s\"%llx\": %lld", comma, (unsigned long long)entry.address, (long long)entry.count);
            comma = ", ";
        }
        std::printf("}}");
        comma = ",";
    }
    std::printf("}}\n");
}

}  // namespace

}  // namespace symmd_benchmark

int main(int count, char** arguments) {
    using namespace symmd_benchmark;
    if (count != 4) {
        std::fprintf(stderr, "usage: engine_breakdown MODEL STRUCTURE REPEATS|instructions\n");
        return 2;
    }
    try {
        symmd::EngineOptions options;
        options.threads = 1;
        symmd::Engine engine = symmd::Engine::load(arguments[1], options);
        Atoms atoms = read_structure(arguments[2]);
        if (std::string(arguments[3]) == "instructions") {
            print_instructions(engine, atoms);
        } else {
            print_times(engine, atoms, std::atoi(arguments[3]));
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "engine_breakdown: %s\n", error.what());
        return 1;
    }
    return 0;
}
