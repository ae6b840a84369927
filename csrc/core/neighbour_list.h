// The engine's own neighbour list: all pairs of atoms, images included, that are closer than a range, in time and
// memory linear in the number of atoms. A skin lets one list serve many steps.
//
// Lengths in Å; arrays dense and row-major; rows of a cell are its vectors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bin_grid.h"
#include "lattice.h"

namespace symmd {

// Atoms closer than this, in Å, have no direction from one to the other and are refused.
inline constexpr double coincidence_distance = 1e-6;

// Directed edges by receiver; valid until the list that gave them is updated or destroyed. The edge e of receiver i has
// the displacement  positions[sender[e]] - positions[i] + shift[e] · cell.
// Edges of a receiver are ordered by sender, then by shift, whatever the order in space. Each edge is there in both
// directions, with opposite shifts. Shifts belong to the positions as given, inside of the cell or outside of it, and
// are 0 along open axes. An atom that sees its own image has edges to itself; one without neighbours has none.
struct NeighbourEdges {
    int64_t atoms = 0, edges = 0;
    const int64_t* row_start = nullptr;  // [atoms + 1] edges of receiver i: row_start[i] … row_start[i + 1] - 1
    const int64_t* sender = nullptr;     // [edges]
    const Triple* shift = nullptr;       // [edges, 3] numbers of cells along its three vectors
    const int64_t* reverse = nullptr;    // [edges] where the same pair stands in the other direction
};

class NeighbourList {
  public:
    // Pairs closer than `cutoff` Å are always listed; those closer than cutoff + skin when the list is built. Throws
    // std::invalid_argument unless coincidence_distance < cutoff ≤ largest_length and 0 ≤ skin ≤ largest_length.
    NeighbourList(double cutoff, double skin);

    // Makes the list right for these positions [atoms, 3] Å and this cell [3, 3] Å (may be null when no axis is
    // periodic; rows of open axes are not looked at). Returns whether it was built anew.
    //
    // The list is kept while no pair can have come within the cutoff unlisted: the number of atoms and the periodicity
    // are the same, and either no atom moved by more than skin/2, or none did relative to the mean of all. Where the
    // cell has changed, motion is counted from where the deformation of the cell alone would have taken the atom, and
    // the skin is reduced by the strain of the range; a barostat thus keeps its list, and a cell that changes around
    // atoms at rest loses it. Keeping costs one pass over the atoms; neither way allocates once sizes have settled.
    //
    // Throws std::invalid_argument (its text counts atoms from 1), after which there are no edges until the next update
    // succeeds: a coordinate that is not finite or beyond `largest_length`, a cell as in reduced_lattice() or with
    // 100000 images within the range, an atom 2^29 cells away, and atoms or images closer than `coincidence_distance`.
    // The last is only seen when the list is built: atoms within `skin` of each other can meet later, and what divides
    // by distances must look again.
    bool update(const double* positions, int64_t atoms, const double* cell, const std::array<bool, 3>& periodic);

    NeighbourEdges edges() const;
    double cutoff() const { return cutoff_; }
    double skin() const { return skin_; }
    int64_t build_count() const { return build_count_; }
    // Bytes in all arrays, those that are only used to build included.
    size_t memory_bytes() const;

  private:
    struct Pair {
        int32_t receiver, sender, image;
    };
    struct Half {
        int32_t sender, image;
    };

    bool still_complete(const double* positions, int64_t atoms, const double* cell,
                        const std::array<bool, 3>& periodic) const;
    void build(const double* positions, int64_t atoms, const double* cell, const std::array<bool, 3>& periodic);
    void choose_images();
    void choose_offsets();
    void find_pairs();
    void search(const BinGrid::Bin& receivers, const BinGrid::Bin& senders, const Triple& repeats, bool same_bin);
    [[noreturn]] void throw_coinciding(int32_t slot, const BinGrid::Bin& senders, const Vector& offset,
                                       bool same_bin) const;
    int32_t image_index(const Triple& repeats) const;
    void collect_rows(int64_t atoms);
    void order_rows(int64_t atoms);
    void pair_directions(int64_t atoms);

    double cutoff_, skin_;
    int64_t build_count_ = 0;

    // What the list was built for.
    bool built_ = false;
    int64_t atoms_ = 0;
    std::array<bool, 3> periodic_{};
    Lattice lattice_;
    std::vector<double> positions_;

    BinGrid grid_;
    Triple most_repeats_{};  // images go from -most_repeats_ to most_repeats_ along the axes of the lattice
    int32_t image_count_ = 1;
    std::vector<Triple> images_;   // the same in numbers of cells; an image and its opposite are mirrored in the table
    std::vector<Triple> offsets_;  // from a bin to those bins around it of which each pair of bins is visited once
    std::vector<Pair> pairs_;
    int64_t pair_count_ = 0;
    std::vector<Half> halves_;  // edges by receiver, not yet in order
    std::vector<int64_t> cursor_;

    std::vector<int64_t> row_start_, sender_, reverse_;
    std::vector<Triple> shift_;
};

}  // namespace symmd
