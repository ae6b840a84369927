// Atoms sorted into bins, so that what is near an atom is found without looking at all atoms.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lattice.h"

namespace symmd {

// Place of a bin along the three axes of the lattice, or a number of repeats of the cell along its three vectors.
using Triple = std::array<int32_t, 3>;

// Cells between an atom and the cell, or its neighbour, beyond which it is refused: sums of three such counts fit into
// 32 bits.
inline constexpr int64_t most_cells_away = int64_t(1) << 29;

// Makes room for `count` elements whose old contents nobody needs; a little more than asked for, so that counts that
// fluctuate around a mean soon stop allocating.
template <class T>
void make_room(std::vector<T>& elements, int64_t count) {
    if (elements.size() >= static_cast<size_t>(count)) return;
    std::vector<T>().swap(elements);
    elements.resize(static_cast<size_t>(count + count / 8));
}

// A grid of bins along the axes of a lattice. Only bins with atoms exist, in a hash table, so that memory is linear in
// the number of atoms wherever the atoms are: vacuum and an atom that has flown away cost nothing.
class BinGrid {
  public:
    struct Bin {
        Triple place;
        int32_t first, count;  // its atoms are at slots first … first + count - 1
    };

    // Sorts `positions` [atoms, 3] Å, all finite and within `largest_length`, so that pairs of atoms closer than
    // `range` Å are in bins at most `reach()` apart along each axis. Throws std::invalid_argument when an atom is too
    // many cells away to count them, or so many images of the cell are within `range` that the cell cannot be meant.
    void sort(const double* positions, int64_t atoms, const Lattice& lattice, double range);

    // The bin at `place`, periodic axes counted from 0 to bin_counts() - 1; null when it has no atoms.
    const Bin* find(const Triple& place) const;

    const std::vector<Bin>& bins() const { return bins_; }
    const Triple& bin_counts() const { return bin_counts_; }  // of periodic axes
    const Triple& reach() const { return reach_; }
    const int32_t* atom_at() const { return atom_at_.data(); }         // [slots] index of the atom
    const double* wrapped(int x) const { return wrapped_[x].data(); }  // [slots] Å, component x inside the reduced cell
    const Triple* wraps() const { return wraps_.data(); }  // [atoms] cells between an atom and its wrapped position
    size_t memory_bytes() const;

  private:
    void choose_bins(const double* positions, int64_t atoms, const Lattice& lattice, double range);
    Triple wrap(const double* position, int64_t atom, const Lattice& lattice, Vector& inside);
    int32_t bin_index(const Triple& place);

    std::vector<Bin> bins_;
    std::vector<int32_t> table_;  // bin or -1; a power of two with at least half of it free
    size_t mask_ = 0;
    Triple bin_counts_{}, reach_{};
    Vector widths_{}, origin_{};   // of bins: fractions of periodic axes, Å of open ones
    std::vector<int32_t> bin_of_;  // [atoms]
    std::vector<Vector> inside_;   // [atoms] wrapped positions
    std::vector<int32_t> atom_at_;
    std::array<std::vector<double>, 3> wrapped_;
    std::vector<Triple> wraps_;
};

}  // namespace symmd
