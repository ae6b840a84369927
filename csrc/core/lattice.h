// The vectors by which a structure repeats, reduced to the shortest ones that span the same lattice.
#pragma once

#include <array>
#include <cstdint>

namespace symmd {

using Vector = std::array<double, 3>;

// Coordinates and cell vectors beyond this, in Å, are refused: no simulated structure is a centimetre wide, and doubles
// no longer resolve distances there.
inline constexpr double largest_length = 1e8;

// Axes 0 … rank-1 repeat; the axes after them are orthonormal directions, normal to those that repeat.
struct Lattice {
    int rank = 0;
    std::array<Vector, 3> vectors{};                    // Å, of the axes
    std::array<Vector, 3> duals{};                      // 1/Å; duals[k] · vectors[l] = 1 if k = l, else 0
    Vector heights{};                                   // Å between opposite faces of the cell of `vectors`
    std::array<std::array<int64_t, 3>, 3> multiples{};  // vectors[k] = Σ_l multiples[k][l] x row l of the cell

    // Σ_l multiples[axis][l] x row l of another `cell` [3, 3] Å: where the repeating vector `axis` has moved to.
    Vector combine(int axis, const double* cell) const;
    // The lattice of another `cell` [3, 3] Å by the same multiples, reduced or not.
    Lattice of_cell(const double* cell) const;
};

inline double dot(const Vector& a, const Vector& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// The lattice of the rows of `cell` [3, 3] Å that are `periodic`; `cell` may be null when none is, and rows of open
// axes are not looked at. The cell may have either handedness, and any skew: reduced vectors are Minkowski-reduced, so
// that heights are not much smaller than lengths. Throws std::invalid_argument when the periodic vectors are not
// finite, longer than `largest_length`, of zero length, or span no length, area or volume.
Lattice reduced_lattice(const double* cell, const std::array<bool, 3>& periodic);

}  // namespace symmd
