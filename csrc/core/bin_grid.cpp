#include "bin_grid.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>

namespace symmd {

namespace {

// Bins of half the range: pairs are then looked for in 125 small bins, which hold fewer atoms than 27 large ones.
constexpr double bins_per_range = 2;
// Bins are wider than needed by this share, so that rounding, which may leave an atom that was far from the cell a
// little outside of it, moves no pair out of reach.
constexpr double width_slack = 1e-6;
constexpr double most_bins = 1 << 30;
constexpr double most_images = 1e5;

size_t hash(const Triple& place) {
    uint64_t mixed = uint64_t(uint32_t(place[0])) * 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ (mixed >> 32) ^ uint32_t(place[1])) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 32) ^ uint32_t(place[2])) * 0x94D049BB133111EBu;
    return size_t(mixed ^ (mixed >> 32));
}

}  // namespace

void BinGrid::choose_bins(const double* positions, int64_t atoms, const Lattice& lattice, double range) {
    double images = 1;
    for (int k = 0; k < 3; ++k) {
        const double width = range * (1 + width_slack) / bins_per_range;
        if (k < lattice.rank) {
            const double height = lattice.heights[k];
            const double count = std::clamp(std::floor(height / width), 1.0, most_bins);
            const double reach = std::ceil(range * (1 + width_slack) * count / height);
            images *= 2 * std::ceil(reach / count) + 1;
            if (!(images <= most_images)) {
                char found[160];
                std::snprintf(found, sizeof found, "found heights of only %.3g Å with a range of %.3g Å", height,
                              range);
                throw std::invalid_argument(
                    "expected a cell with fewer than 100000 images within the range of the neighbour list, " +
                    std::string(found) + "; correct or repeat the cell, or shorten the cutoff");
            }
            bin_counts_[k] = int32_t(count);
            reach_[k] = int32_t(reach);
            widths_[k] = 1 / count;
            origin_[k] = 0;
        } else {
            double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
            for (int64_t atom = 0; atom < atoms; ++atom) {
                const double* r = positions + 3 * atom;
                const double along = dot(lattice.duals[k], {r[0], r[1], r[2]});
                lowest = std::min(lowest, along);
                highest = std::max(highest, along);
            }
            bin_counts_[k] = 1;
            origin_[k] = atoms > 0 ? lowest : 0;
            widths_[k] = std::max(width, atoms > 0 ? (highest - lowest) / most_bins : 0);
            reach_[k] = int32_t(std::ceil(range * (1 + width_slack) / widths_[k]));
        }
    }
}

Triple BinGrid::wrap(const double* position, int64_t atom, const Lattice& lattice, Vector& inside) {
    inside = {position[0], position[1], position[2]};
    std::array<double, 3> turns{};
    for (int k = 0; k < lattice.rank; ++k) turns[k] = std::floor(dot(lattice.duals[k], inside));
    for (int k = 0; k < lattice.rank; ++k)
        for (int x = 0; x < 3; ++x) inside[x] -= turns[k] * lattice.vectors[k][x];
    Triple wraps{};
    for (int l = 0; l < 3; ++l) {
        double cells = 0;
        for (int k = 0; k < lattice.rank; ++k) cells += turns[k] * double(lattice.multiples[k][l]);
        if (!(std::abs(cells) <= double(most_cells_away))) {
            char message[256];
            std::snprintf(message, sizeof message,
                          "expected atoms near the cell, found atom %lld %.3g cells away along axis %c; wrap the atoms "
                          "into the cell or correct the cell",
                          static_cast<long long>(atom + 1), cells, "abc"[l]);
            throw std::invalid_argument(message);
        }
        wraps[l] = int32_t(cells);
    }
    return wraps;
}

int32_t BinGrid::bin_index(const Triple& place) {
    size_t entry = hash(place) & mask_;
    for (; table_[entry] >= 0; entry = (entry + 1) & mask_)
        if (bins_[table_[entry]].place == place) return table_[entry];
    table_[entry] = int32_t(bins_.size());
    bins_.push_back({place, 0, 0});
    return table_[entry];
}

const BinGrid::Bin* BinGrid::find(const Triple& place) const {
    for (size_t entry = hash(place) & mask_; table_[entry] >= 0; entry = (entry + 1) & mask_)
        if (bins_[table_[entry]].place == place) return &bins_[table_[entry]];
    return nullptr;
}

void BinGrid::sort(const double* positions, int64_t atoms, const Lattice& lattice, double range) {
    choose_bins(positions, atoms, lattice, range);
    size_t table_size = 2;
    while (table_size < 2 * size_t(atoms)) table_size *= 2;
    make_room(table_, int64_t(table_size));
    std::fill_n(table_.begin(), table_size, -1);
    mask_ = table_size - 1;
    bins_.clear();
    make_room(bin_of_, atoms);
    make_room(inside_, atoms);
    make_room(atom_at_, atoms);
    make_room(wraps_, atoms);
    for (auto& component : wrapped_) make_room(component, atoms);

    for (int64_t atom = 0; atom < atoms; ++atom) {
        wraps_[atom] = wrap(positions + 3 * atom, atom, lattice, inside_[atom]);
        Triple place;
        for (int k = 0; k < 3; ++k) {
            const double last = k < lattice.rank ? bin_counts_[k] - 1 : most_bins;
            const double along = (dot(lattice.duals[k], inside_[atom]) - origin_[k]) / widths_[k];
            place[k] = int32_t(std::clamp(std::floor(along), 0.0, last));
        }
        bin_of_[atom] = bin_index(place);
        ++bins_[bin_of_[atom]].count;
    }
    int32_t first = 0;
    for (Bin& bin : bins_) {
        bin.first = first;
        first += bin.count;
        bin.count = 0;
    }
    for (int64_t atom = 0; atom < atoms; ++atom) {
        Bin& bin = bins_[bin_of_[atom]];
        const int32_t slot = bin.first + bin.count++;
        atom_at_[slot] = int32_t(atom);
        for (int x = 0; x < 3; ++x) wrapped_[x][slot] = inside_[atom][x];
    }
}

size_t BinGrid::memory_bytes() const {
    size_t bytes = bins_.capacity() * sizeof(Bin) + table_.capacity() * sizeof(int32_t) +
                   bin_of_.capacity() * sizeof(int32_t) + inside_.capacity() * sizeof(Vector) +
                   atom_at_.capacity() * sizeof(int32_t) + wraps_.capacity() * sizeof(Triple);
    for (const auto& component : wrapped_) bytes += component.capacity() * sizeof(double);
    return bytes;
}

}  // namespace symmd
