// Structures, a caller's rows with ghosts and their exchange, and how results are compared, for cuda_step.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/edge_rows.h"
#include "core/neighbour_list.h"
#include "symmd/engine.h"

namespace {

using namespace symmd;
using Periodic = std::array<bool, 3>;

std::string doing = "nothing yet";

[[noreturn]] void fail(const std::string& what) {
    std::printf("%s: %s\n", doing.c_str(), what.c_str());
    std::exit(1);
}

class Random {
  public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
    int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
    bool chance(double share) { return uniform(0, 1) < share; }

  private:
    std::mt19937_64 engine_;
};

struct Structure {
    std::vector<int32_t> species;
    std::vector<double> positions, cell;
    Periodic periodic{};
    int64_t atoms() const { return int64_t(species.size()); }

    System system() const {
        System system;
        system.atoms = atoms();
        system.species = species.data();
        system.positions = positions.data();
        system.cell = cell.data();
        system.periodic = periodic;
        return system;
    }
};

// Atoms near the sites of a skewed lattice.
Structure make_structure(Random& random, int64_t atoms, const Periodic& periodic, double spacing) {
    Structure made;
    made.periodic = periodic;
    const int64_t side = std::max<int64_t>(1, int64_t(std::ceil(std::cbrt(double(atoms)))));
    double vectors[9];
    for (int k = 0; k < 9; ++k) vectors[k] = spacing * ((k % 4 == 0 ? 1 : 0) + random.uniform(-0.12, 0.12));
    for (int64_t atom = 0; atom < atoms; ++atom) {
        const int64_t place[3] = {atom % side, atom / side % side, atom / side / side};
        double at[3] = {0, 0, 0};
        for (int k = 0; k < 3; ++k) {
            // Some atoms lie cells away from the others.
            const double away = periodic[k] && random.chance(0.2) ? double(side * random.integer(-2, 2)) : 0;
            for (int x = 0; x < 3; ++x)
                at[x] += (double(place[k]) + away + random.uniform(-0.12, 0.12)) * vectors[3 * k + x];
        }
        made.positions.insert(made.positions.end(), at, at + 3);
        made.species.push_back(int32_t(random.integer(0, 2)));
    }
    for (const double component : vectors) made.cell.push_back(double(side) * component);
    return made;
}

// Arrays for everything that an engine gives; `atoms` have forces, `owned` an energy.
struct Found {
    std::vector<double> atom_energy, forces, virial, atom_virial, sender_virial;
    Results results;
    Found(int64_t owned, int64_t atoms)
        : atom_energy(owned, NAN),
          forces(3 * atoms, NAN),
          virial(9, NAN),
          atom_virial(9 * atoms, NAN),
          sender_virial(9 * atoms, NAN) {
        results.atom_energy = atom_energy.data();
        results.forces = forces.data();
        results.virial = virial.data();
        results.atom_virial = atom_virial.data();
        results.sender_virial = sender_virial.data();
    }
};

void check_same(const char* what, const std::vector<double>& found, const std::vector<double>& expected,
                double tolerance) {
    double size = 0.1, difference = 0;
    for (const double number : expected) size = std::max(size, std::abs(number));
    for (std::size_t k = 0; k < expected.size(); ++k) {
        if (!std::isfinite(found[k])) fail(std::string(what) + " has a number that is not finite");
        difference = std::max(difference, std::abs(found[k] - expected[k]));
    }
    if (!(difference <= tolerance * size))
        fail(std::string(what) + " differs by " + std::to_string(difference) + " of " + std::to_string(size));
}

void check_same(const Found& found, const Found& expected, double tolerance) {
    check_same("energy", {found.results.energy}, {expected.results.energy}, tolerance);
    check_same("energy of atoms", found.atom_energy, expected.atom_energy, tolerance);
    check_same("force", found.forces, expected.forces, tolerance);
    check_same("virial", found.virial, expected.virial, tolerance);
    check_same("virial of atoms", found.atom_virial, expected.atom_virial, tolerance);
    check_same("virial of senders", found.sender_virial, expected.sender_virial, tolerance);
}

// A caller's rows: the structure's own atoms and the images that they see, as ghosts or as atoms for which the own ones
// stand.
struct Rows {
    std::vector<int32_t> species, entries, counts, stands_for;
    std::vector<const int32_t*> rows;
    std::vector<double> positions;
    std::vector<int64_t> owner;
    Neighbourhood neighbourhood;

    Rows(const Structure& structure, double cutoff, bool standing) {
        NeighbourList list(cutoff, 0.3);
        const System system = structure.system();
        list.update(system.positions, system.atoms, system.cell, system.periodic);
        const NeighbourEdges edges = list.edges();
        species = structure.species;
        positions = structure.positions;
        std::map<std::array<int64_t, 4>, int32_t> ghosts;
        std::vector<std::size_t> starts;
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
                entries.push_back(index);
            }
            counts.push_back(int32_t(entries.size() - starts.back()));
        }
        for (const std::size_t start : starts) rows.push_back(entries.data() + start);
        neighbourhood.owned = structure.atoms();
        neighbourhood.atoms = int64_t(species.size());
        neighbourhood.species = species.data();
        neighbourhood.positions = positions.data();
        neighbourhood.counts = counts.data();
        neighbourhood.neighbours = rows.data();
        if (!standing) return;
        for (int64_t i = 0; i < structure.atoms(); ++i) stands_for.push_back(int32_t(i));
        for (const int64_t each : owner) stands_for.push_back(int32_t(each));
        neighbourhood.stands_for = stands_for.data();
    }
    void add_ghost(const Structure& structure, int64_t sender, const Triple& shift) {
        owner.push_back(sender);
        species.push_back(structure.species[sender]);
        for (int x = 0; x < 3; ++x) {
            double along = structure.positions[3 * sender + x];
            for (int k = 0; k < 3; ++k) along += shift[k] * structure.cell[3 * k + x];
            positions.push_back(along);
        }
    }
    Surroundings around() const {
        Surroundings around;
        around.owned = neighbourhood.owned;
        around.atoms = neighbourhood.atoms;
        around.species = neighbourhood.species;
        around.positions = neighbourhood.positions;
        around.rows = &neighbourhood;
        return around;
    }
};

class ImageExchange : public GhostExchange {
  public:
    explicit ImageExchange(const Rows& rows) : rows_(rows) {}
    int forwards = 0, backwards = 0;

    void forward(void* rows, int64_t width, Precision precision) override {
        ++forwards;
        each(rows, width, precision, [](auto* ghost, auto* own, int64_t count) { std::copy_n(own, count, ghost); });
    }
    void backward(void* rows, int64_t width, Precision precision) override {
        ++backwards;
        each(rows, width, precision, [](auto* ghost, auto* own, int64_t count) {
            for (int64_t k = 0; k < count; ++k) own[k] += ghost[k];
        });
    }

  private:
    template <class Body>
    void each(void* rows, int64_t width, Precision precision, Body&& body) {
        const int64_t owned = rows_.neighbourhood.owned;
        for (std::size_t ghost = 0; ghost < rows_.owner.size(); ++ghost) {
            const int64_t from = (owned + int64_t(ghost)) * width, to = rows_.owner[ghost] * width;
            if (precision == Precision::float32) {
                body(static_cast<float*>(rows) + from, static_cast<float*>(rows) + to, width);
            } else {
                body(static_cast<double*>(rows) + from, static_cast<double*>(rows) + to, width);
            }
        }
    }
    const Rows& rows_;
};

}  // namespace
