// symmd/symmd.h over symmd/engine.h: no exception leaves.
#include <exception>
#include <string>
#include <utility>

#include "symmd/engine.h"
#include "symmd/symmd.h"

struct symmd_engine {
    symmd::Engine engine;
};

namespace {

thread_local std::string last_error;

template <class Result, class Body>
Result guarded(Result failure, Body&& body) {
    try {
        return body();
    } catch (const std::exception& error) {
        last_error = error.what();
    } catch (...) {
        last_error = "an unknown error";
    }
    return failure;
}

class CExchange : public symmd::GhostExchange {
  public:
    explicit CExchange(const symmd_exchange& by) : by_(by) {}
    void forward(void* rows, int64_t width, symmd::Precision precision) override {
        by_.forward(by_.context, rows, width, bytes(precision));
    }
    void backward(void* rows, int64_t width, symmd::Precision precision) override {
        by_.backward(by_.context, rows, width, bytes(precision));
    }

  private:
    static int bytes(symmd::Precision precision) { return precision == symmd::Precision::float32 ? 4 : 8; }
    const symmd_exchange& by_;
};

void check_pointers(const symmd_engine* engine, const symmd_results* results) {
    if (!engine) throw symmd::Error("an engine is needed, found null: look at what symmd_load returned");
    if (!results) throw symmd::Error("results are needed, found null");
}

symmd::Results wanted(const symmd_results& results) {
    symmd::Results wanted;
    wanted.atom_energy = results.atom_energy;
    wanted.forces = results.forces;
    wanted.virial = results.virial;
    wanted.atom_virial = results.atom_virial;
    return wanted;
}

}  // namespace

symmd_engine* symmd_load(const char* path, int bits, int threads, double skin) {
    return symmd_load_on(path, bits, threads, skin, "cpu");
}

symmd_engine* symmd_load_on(const char* path, int bits, int threads, double skin, const char* device) {
    return guarded<symmd_engine*>(nullptr, [&] {
        if (!device) throw symmd::Error("a device is needed, found null; give \"cpu\" or \"cuda\"");
        if (bits != 32 && bits != 64) throw symmd::Error("bits must be 32 or 64, found " + std::to_string(bits));
        symmd::EngineOptions options;
        options.precision = bits == 32 ? symmd::Precision::float32 : symmd::Precision::float64;
        options.threads = threads;
        options.skin = skin;
        options.device = device;
        return new symmd_engine{symmd::Engine::load(path, options)};
    });
}

void symmd_free(symmd_engine* engine) { delete engine; }

const char* symmd_error(void) { return last_error.c_str(); }

double symmd_cutoff(const symmd_engine* engine) { return engine->engine.model().cutoff; }

int32_t symmd_species_count(const symmd_engine* engine) { return int32_t(engine->engine.model().species.size()); }

int symmd_atomic_number(const symmd_engine* engine, int32_t species) {
    const auto& numbers = engine->engine.model().atomic_numbers;
    return species >= 0 && species < int32_t(numbers.size()) ? numbers[species] : -1;
}

int32_t symmd_species_of(const symmd_engine* engine, int atomic_number) {
    return guarded<int32_t>(-1, [&] { return engine->engine.species_of(atomic_number); });
}

int symmd_compute(symmd_engine* engine, int64_t atoms, const int32_t* species, const double* positions,
                  const double* cell, const int* periodic, const symmd_results* results) {
    return guarded(1, [&] {
        check_pointers(engine, results);
        symmd::System system;
        system.atoms = atoms;
        system.species = species;
        system.positions = positions;
        system.cell = cell;
        for (int axis = 0; axis < 3; ++axis) system.periodic[axis] = periodic && periodic[axis];
        symmd::Results found = wanted(*results);
        engine->engine.compute(system, found);
        if (results->energy) *results->energy = found.energy;
        return 0;
    });
}

int symmd_compute_neighbourhood(symmd_engine* engine, int64_t owned, int64_t atoms, const int32_t* species,
                                const double* positions, const int32_t* counts, const int32_t* const* neighbours,
                                const symmd_exchange* exchange, const symmd_results* results) {
    return guarded(1, [&] {
        check_pointers(engine, results);
        symmd::Neighbourhood neighbourhood;
        neighbourhood.owned = owned;
        neighbourhood.atoms = atoms;
        neighbourhood.species = species;
        neighbourhood.positions = positions;
        neighbourhood.counts = counts;
        neighbourhood.neighbours = neighbours;
        symmd::Results found = wanted(*results);
        if (exchange) {
            CExchange by_caller(*exchange);
            engine->engine.compute(neighbourhood, &by_caller, found);
        } else {
            engine->engine.compute(neighbourhood, nullptr, found);
        }
        if (results->energy) *results->energy = found.energy;
        return 0;
    });
}
