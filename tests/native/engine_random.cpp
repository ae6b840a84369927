// Random structures through the engine, for a build with -fsanitize=address,undefined: open and periodic, tiny cells,
// 0, 1, 2 and many atoms, its own list and a caller's with ghosts and an exchange, both precisions, 1 and 2 threads.
// What they say is compared with each other; hostile inputs must end in a symmd::Error, after which the engine works as
// before; an engine that has settled must not allocate. Ends with 0 and one line for each model, or with 1 and what
// went wrong.
//
// Usage: engine_random CASES SEED MODEL...

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "core/neighbour_list.h"
#include "random_numbers.h"
#include "symmd/engine.h"

namespace {

using symmd::Engine;
using Periodic = std::array<bool, 3>;

std::string doing = "nothing yet";

[[noreturn]] void fail(const std::string& what) {
    std::printf("%s: %s\n", doing.c_str(), what.c_str());
    std::exit(1);
}

struct Structure {
    std::vector<int32_t> species;
    std::vector<double> positions, cell;
    Periodic periodic{};
    int64_t atoms() const { return int64_t(species.size()); }
    bool has_images() const { return periodic[0] || periodic[1] || periodic[2]; }

    symmd::System system() const {
        symmd::System system;
        system.atoms = atoms();
        system.species = species.data();
        system.positions = positions.data();
        system.cell = cell.empty() ? nullptr : cell.data();
        system.periodic = periodic;
        return system;
    }
};

// Arrays of exactly the size that the engine may write to.
struct Found {
    std::vector<double> atom_energy, forces, virial, atom_virial, sender_virial;
    symmd::Results results;

    Found(int64_t owned, int64_t atoms)
        : atom_energy(owned), forces(3 * atoms), virial(9), atom_virial(9 * atoms), sender_virial(9 * atoms) {
        results.atom_energy = atom_energy.data();
        results.forces = forces.data();
        results.virial = virial.data();
        results.atom_virial = atom_virial.data();
        results.sender_virial = sender_virial.data();
    }
};

class Maker : public RandomNumbers {
  public:
    using RandomNumbers::RandomNumbers;
    bool chance(double share) { return uniform(0, 1) < share; }

    // Atoms near the sites of a lattice, in random order.
    Structure structure(int64_t atoms, int32_t species, const Periodic& periodic) {
        Structure made;
        made.periodic = periodic;
        const int64_t side = std::max<int64_t>(1, int64_t(std::ceil(std::cbrt(double(atoms)))));
        const double spacing = uniform(1.9, 2.9);
        std::vector<int64_t> sites(side * side * side);
        for (size_t site = 0; site < sites.size(); ++site) sites[site] = int64_t(site);
        std::shuffle(sites.begin(), sites.end(), engine_);
        double vectors[9];
        for (int k = 0; k < 3; ++k)
            for (int x = 0; x < 3; ++x) vectors[3 * k + x] = spacing * ((k == x ? 1 : 0) + uniform(-0.15, 0.15));
        made.positions.assign(3 * atoms, 0.0);
        for (int64_t atom = 0; atom < atoms; ++atom) {
            const int64_t site = sites[atom];
            const double place[3] = {double(site % side), double(site / side % side), double(site / side / side)};
            for (int k = 0; k < 3; ++k) {
                // Some atoms lie cells away from the others.
                const double away = periodic[k] && chance(0.2) ? double(side * integer(-3, 3)) : 0.0;
                const double along = place[k] + away + uniform(-0.15, 0.15);
                for (int x = 0; x < 3; ++x) made.positions[3 * atom + x] += along * vectors[3 * k + x];
            }
            made.species.push_back(int32_t(integer(0, species - 1)));
        }
        made.species.shrink_to_fit();
        if (made.has_images() || chance(0.5))
            for (const double component : vectors) made.cell.push_back(double(side) * component);
        made.cell.shrink_to_fit();
        return made;
    }

    Structure structure(int32_t species) {
        static constexpr int64_t sizes[] = {0, 1, 1, 2, 2, 3, 4, 8, 13, 14, 27};
        const Periodic periodic = {chance(0.5), chance(0.5), chance(0.5)};
        return structure(sizes[integer(0, 10)], species, periodic);
    }

    int32_t any_index(int64_t atoms) {
        switch (integer(0, 4)) {
            case 0:
                return std::numeric_limits<int32_t>::max();
            case 1:
                return std::numeric_limits<int32_t>::min();
            case 2:
                return -1;
            case 3:
                return int32_t(atoms);
            default:
                return int32_t(integer(0, std::max<int64_t>(1, atoms) - 1));
        }
    }
};

// A caller's list: the structure's own atoms and, as ghosts, the images that they see; or these as images for which the
// own atoms stand, so that nothing has to be exchanged.
struct WithGhosts {
    std::vector<int32_t> species, counts, entries, stands_for;
    std::vector<const int32_t*> rows;
    std::vector<double> positions;
    std::vector<int64_t> owner;  // of ghosts
    symmd::Neighbourhood neighbourhood;

    WithGhosts(const Structure& structure, double cutoff, Maker& maker) {
        symmd::NeighbourList list(cutoff, maker.uniform(0, 1));
        const symmd::System system = structure.system();
        list.update(system.positions, system.atoms, system.cell, system.periodic);
        const symmd::NeighbourEdges edges = list.edges();
        // As LAMMPS does, which keeps the kind of a bond in the upper bits.
        const int32_t mask = maker.chance(0.5) ? 0x1FFFFFFF : -1;
        species = structure.species;
        positions = structure.positions;
        std::map<std::array<int64_t, 4>, int32_t> ghosts;
        std::vector<size_t> starts;
        for (int64_t i = 0; i < edges.atoms; ++i) {
            starts.push_back(entries.size());
            for (int64_t e = edges.row_start[i]; e < edges.row_start[i + 1]; ++e) {
                const auto& shift = edges.shift[e];
                int32_t index = int32_t(edges.sender[e]);
                if (shift[0] || shift[1] || shift[2]) {
                    const auto added =
                        ghosts.insert({{edges.sender[e], shift[0], shift[1], shift[2]}, int32_t(species.size())});
                    index = added.first->second;
                    if (added.second) add_ghost(structure, edges.sender[e], shift);
                }
                entries.push_back(mask < 0 ? index : int32_t(uint32_t(index) | uint32_t(maker.integer(0, 3)) << 30));
            }
            counts.push_back(int32_t(entries.size() - starts.back()));
        }
        entries.shrink_to_fit();
        species.shrink_to_fit();
        positions.shrink_to_fit();
        for (const size_t start : starts) rows.push_back(entries.data() + start);
        neighbourhood.owned = structure.atoms();
        neighbourhood.atoms = int64_t(species.size());
        neighbourhood.species = species.data();
        neighbourhood.positions = positions.data();
        neighbourhood.counts = counts.data();
        neighbourhood.neighbours = rows.data();
        neighbourhood.mask = mask;
        if (!maker.chance(0.5)) return;
        for (int64_t i = 0; i < structure.atoms(); ++i) stands_for.push_back(int32_t(i));
        for (const int64_t each : owner) stands_for.push_back(int32_t(each));
        stands_for.shrink_to_fit();
        neighbourhood.stands_for = stands_for.data();
    }

    void add_ghost(const Structure& structure, int64_t sender, const symmd::Triple& shift) {
        owner.push_back(sender);
        species.push_back(structure.species[sender]);
        for (int x = 0; x < 3; ++x) {
            double along = structure.positions[3 * sender + x];
            for (int k = 0; k < 3; ++k)
                if (shift[k] != 0) along += shift[k] * structure.cell[3 * k + x];
            positions.push_back(along);
        }
    }
};

class ImageExchange : public symmd::GhostExchange {
  public:
    explicit ImageExchange(const WithGhosts& atoms) : atoms_(atoms) {}
    int64_t forwards = 0, backwards = 0;

    void forward(void* rows, int64_t width, symmd::Precision precision) override {
        ++forwards;
        if (precision == symmd::Precision::float32) copy(static_cast<float*>(rows), width);
        if (precision == symmd::Precision::float64) copy(static_cast<double*>(rows), width);
    }
    void backward(void* rows, int64_t width, symmd::Precision precision) override {
        ++backwards;
        if (precision == symmd::Precision::float32) add(static_cast<float*>(rows), width);
        if (precision == symmd::Precision::float64) add(static_cast<double*>(rows), width);
    }

  private:
    template <class T>
    void copy(T* rows, int64_t width) const {
        const int64_t owned = atoms_.neighbourhood.owned;
        for (size_t ghost = 0; ghost < atoms_.owner.size(); ++ghost)
            std::copy_n(rows + atoms_.owner[ghost] * width, width, rows + (owned + int64_t(ghost)) * width);
    }
    template <class T>
    void add(T* rows, int64_t width) const {
        const int64_t owned = atoms_.neighbourhood.owned;
        for (size_t ghost = 0; ghost < atoms_.owner.size(); ++ghost)
            for (int64_t k = 0; k < width; ++k)
                rows[atoms_.owner[ghost] * width + k] += rows[(owned + int64_t(ghost)) * width + k];
    }
    const WithGhosts& atoms_;
};

void check_same(const char* name, const std::vector<double>& found, const std::vector<double>& expected,
                double tolerance) {
    double scale = 1;
    for (const double value : expected) scale = std::max(scale, std::abs(value));
    for (size_t k = 0; k < expected.size(); ++k)
        if (!(std::abs(found[k] - expected[k]) <= tolerance * scale))
            fail(std::string(name) + " " + std::to_string(k) + " is " + std::to_string(found[k]) + ", expected " +
                 std::to_string(expected[k]));
}

void check_same(const Found& found, const Found& expected, double tolerance) {
    check_same("energy", {found.results.energy}, {expected.results.energy}, tolerance);
    check_same("atom energy", found.atom_energy, expected.atom_energy, tolerance);
    check_same("force", found.forces, expected.forces, tolerance);
    check_same("virial", found.virial, expected.virial, tolerance);
    check_same("atom virial", found.atom_virial, expected.atom_virial, tolerance);
    check_same("sender virial", found.sender_virial, expected.sender_virial, tolerance);
}

// Engines of one model: fp64 in one thread, to which the others are compared, then all other ways.
class Engines {
  public:
    explicit Engines(const std::string& path) {
        for (const symmd::Precision precision : {symmd::Precision::float64, symmd::Precision::float32})
            for (const int threads : {1, 2})
                for (const bool deterministic : {false, true}) {
                    symmd::EngineOptions options;
                    options.precision = precision;
                    options.threads = threads;
                    options.deterministic = deterministic;
                    options.skin = deterministic ? 0.3 : 1.0;
                    engines_.push_back(Engine::load(path, options));
                }
    }

    Engine& exact() { return engines_[0]; }
    Engine& any(Maker& maker) { return engines_[maker.integer(0, int64_t(engines_.size()) - 1)]; }
    int32_t species() const { return int32_t(engines_[0].model().species.size()); }
    double cutoff() const { return engines_[0].model().cutoff; }

    void compare(const Structure& structure, Maker& maker) {
        Found expected(structure.atoms(), structure.atoms());
        exact().compute(structure.system(), expected.results);
        Engine& engine = any(maker);
        const double tolerance = engine.options().precision == symmd::Precision::float64 ? 1e-10 : 1e-3;
        Found found(structure.atoms(), structure.atoms());
        engine.compute(structure.system(), found.results);
        check_same(found, expected, tolerance);
        compare_with_ghosts(structure, any(maker), expected, maker);
        ask_for_some(structure, expected, maker);
    }

    // Whatever comes in, the engine computes finite numbers or throws an Error of one line, and nothing is lost.
    void attack(const Structure& good, Maker& maker) {
        Engine& engine = any(maker);
        Found expected(good.atoms(), good.atoms());
        engine.compute(good.system(), expected.results);
        for (int round = 0; round < 3; ++round) {
            const bool rows = maker.chance(0.4);
            try {
                rows ? attack_rows(good, engine, maker) : attack_system(good, engine, maker);
            } catch (const symmd::Error& error) {
                const std::string text = error.what();
                if (text.size() < 10 || text.find('\n') != std::string::npos) fail("said '" + text + "'");
            }
        }
        Found found(good.atoms(), good.atoms());
        engine.compute(good.system(), found.results);
        check_same(found, expected, 1e-4);
    }

    void settle(Maker& maker) {
        Structure structure = maker.structure(27, species(), Periodic{true, true, false});
        const WithGhosts ghosts(structure, cutoff(), maker);
        ImageExchange exchange(ghosts);
        Found found(structure.atoms(), ghosts.neighbourhood.atoms);
        for (Engine* engine : {&engines_.front(), &engines_.back()}) {
            const auto step = [&] {
                for (double& coordinate : structure.positions) coordinate += 0.2 * maker.uniform(-1, 1);
                engine->compute(structure.system(), found.results);
                engine->compute(ghosts.neighbourhood, ghosts.stands_for.empty() ? &exchange : nullptr, found.results);
            };
            for (int k = 0; k < 15; ++k) step();
            const int64_t before = allocations, builds = engine->list_builds();
            for (int k = 0; k < 10; ++k) step();
            if (allocations != before) fail(std::to_string(allocations - before) + " allocations after settling");
            if (engine->list_builds() == builds) fail("the list was never built, so this shows nothing");
        }
    }

  private:
    void compare_with_ghosts(const Structure& structure, Engine& engine, const Found& expected, Maker& maker) {
        const WithGhosts ghosts(structure, cutoff(), maker);
        const int64_t atoms = ghosts.neighbourhood.atoms;
        ImageExchange exchange(ghosts);
        const bool exchanges = ghosts.stands_for.empty();
        Found found(structure.atoms(), atoms);
        engine.compute(ghosts.neighbourhood, exchanges ? &exchange : nullptr, found.results);
        const int64_t times = exchanges ? engine.model().layers - 1 : 0;
        if (exchange.forwards != times || exchange.backwards != times) fail("a wrong number of exchanges");
        for (size_t ghost = 0; ghost < ghosts.owner.size(); ++ghost) {
            const int64_t from = structure.atoms() + int64_t(ghost), to = ghosts.owner[ghost];
            for (int k = 0; k < 3; ++k) {
                if (!exchanges && found.forces[3 * from + k] != 0) fail("a force on an image");
                found.forces[3 * to + k] += found.forces[3 * from + k];
            }
            for (int k = 0; k < 9; ++k) {
                found.atom_virial[9 * to + k] += found.atom_virial[9 * from + k];
                found.sender_virial[9 * to + k] += found.sender_virial[9 * from + k];
            }
        }
        found.forces.resize(3 * structure.atoms());
        found.atom_virial.resize(9 * structure.atoms());
        found.sender_virial.resize(9 * structure.atoms());
        check_same(found, expected, engine.options().precision == symmd::Precision::float64 ? 1e-10 : 1e-3);
    }

    void ask_for_some(const Structure& structure, const Found& expected, Maker& maker) {
        Found found(structure.atoms(), structure.atoms());
        if (maker.chance(0.5)) found.results.atom_energy = nullptr;
        if (maker.chance(0.5)) found.results.forces = nullptr;
        if (maker.chance(0.5)) found.results.virial = nullptr;
        if (maker.chance(0.5)) found.results.atom_virial = nullptr;
        if (maker.chance(0.5)) found.results.sender_virial = nullptr;
        exact().compute(structure.system(), found.results);
        check_same("energy", {found.results.energy}, {expected.results.energy}, 1e-12);
        if (found.results.forces) check_same("force", found.forces, expected.forces, 1e-12);
        if (found.results.virial) check_same("virial", found.virial, expected.virial, 1e-12);
    }

    static void check_finite(const Found& found) {
        for (const std::vector<double>* values :
             {&found.atom_energy, &found.forces, &found.virial, &found.atom_virial, &found.sender_virial})
            for (const double value : *values)
                if (!std::isfinite(value)) fail("handed on a number that is not finite");
        if (!std::isfinite(found.results.energy)) fail("handed on an energy that is not finite");
    }

    void attack_system(const Structure& good, Engine& engine, Maker& maker) {
        Structure bad = good;
        for (int64_t change = maker.integer(1, 3); change > 0; --change) {
            const int64_t atoms = bad.atoms();
            switch (maker.integer(0, 5)) {
                case 0:
                    if (atoms > 0) bad.positions[maker.integer(0, 3 * atoms - 1)] = maker.any();
                    break;
                case 1:
                    if (atoms > 0) bad.species[maker.integer(0, atoms - 1)] = maker.any_index(species());
                    break;
                case 2:
                    if (!bad.cell.empty()) bad.cell[maker.integer(0, 8)] = maker.any();
                    break;
                case 3:
                    bad.periodic[maker.integer(0, 2)] = true;
                    break;
                case 4:
                    if (atoms > 1)
                        std::copy_n(bad.positions.begin() + 3 * maker.integer(0, atoms - 1), 3,
                                    bad.positions.begin() + 3 * maker.integer(0, atoms - 1));
                    break;
                default:
                    if (atoms > 0) {
                        bad.species.resize(atoms - 1);
                        bad.positions.resize(3 * (atoms - 1));
                    }
            }
        }
        // A huge cell is no error, but a tiny one with many images would take too long here.
        if (bad.has_images() && !bad.cell.empty()) {
            double smallest = std::numeric_limits<double>::infinity();
            for (int k = 0; k < 3; ++k)
                if (bad.periodic[k])
                    smallest =
                        std::min(smallest, std::hypot(bad.cell[3 * k], bad.cell[3 * k + 1], bad.cell[3 * k + 2]));
            if (smallest > 1e-5 && smallest < 1) return;
        }
        symmd::System system = bad.system();
        if (maker.chance(0.02)) system.atoms = -maker.integer(1, 1000);
        Found found(bad.atoms(), bad.atoms());
        engine.compute(system, found.results);
        check_finite(found);
    }

    void attack_rows(const Structure& good, Engine& engine, Maker& maker) {
        WithGhosts ghosts(good, cutoff(), maker);
        symmd::Neighbourhood& bad = ghosts.neighbourhood;
        ImageExchange images(ghosts);
        symmd::GhostExchange* exchange = ghosts.stands_for.empty() ? &images : nullptr;
        std::vector<int64_t> names(ghosts.species.size(), 41);
        if (maker.chance(0.5)) bad.names = names.data();
        for (int64_t change = maker.integer(1, 2); change > 0; --change) {
            switch (maker.integer(0, 7)) {
                case 0:
                    if (!ghosts.positions.empty())
                        ghosts.positions[maker.integer(0, int64_t(ghosts.positions.size()) - 1)] = maker.any();
                    break;
                case 1:
                    if (!ghosts.species.empty())
                        ghosts.species[maker.integer(0, int64_t(ghosts.species.size()) - 1)] =
                            maker.any_index(species());
                    break;
                case 2:
                    if (!ghosts.entries.empty())
                        ghosts.entries[maker.integer(0, int64_t(ghosts.entries.size()) - 1)] =
                            maker.any_index(bad.atoms);
                    break;
                case 3:
                    exchange = nullptr;
                    break;
                case 4:
                    bad.owned = maker.chance(0.5) ? -1 : bad.atoms + 1;
                    break;
                case 5:
                    if (!ghosts.counts.empty())
                        ghosts.counts[maker.integer(0, int64_t(ghosts.counts.size()) - 1)] =
                            maker.chance(0.5) ? -1 : std::numeric_limits<int32_t>::min();
                    break;
                case 6:
                    if (!ghosts.stands_for.empty())
                        ghosts.stands_for[maker.integer(0, int64_t(ghosts.stands_for.size()) - 1)] =
                            maker.any_index(bad.atoms);
                    break;
                default:
                    bad.mask = 3;
            }
        }
        Found found(good.atoms(), int64_t(ghosts.species.size()));
        engine.compute(bad, exchange, found.results);
        check_finite(found);
    }

    std::vector<Engine> engines_;
};

void run(const std::string& path, int64_t cases, uint64_t seed) {
    doing = path;
    Maker maker(seed);
    Engines engines(path);
    for (int64_t number = 0; number < cases; ++number) {
        doing = path + ", case " + std::to_string(number);
        const Structure structure = maker.structure(engines.species());
        engines.compare(structure, maker);
        engines.attack(structure, maker);
    }
    doing = path + ", many atoms";
    const Structure many = maker.structure(maker.integer(513, 530), engines.species(), {true, true, true});
    engines.compare(many, maker);
    engines.attack(many, maker);
    doing = path + ", settling";
    engines.settle(maker);
    std::printf("%s: %lld random structures and as many hostile ones\n", path.c_str(), static_cast<long long>(cases));
    std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) {
        std::fprintf(stderr, "usage: %s CASES SEED MODEL...\n", arguments[0]);
        return 2;
    }
    try {
        for (int model = 3; model < count; ++model)
            run(arguments[model], std::atoll(arguments[1]), std::strtoull(arguments[2], nullptr, 10));
    } catch (const std::exception& error) {
        fail(error.what());
    }
    return 0;
}
