#include "lattice.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace symmd {

namespace {

// Periodic vectors with less than this share of the volume of a brick of the same lengths are dependent up to rounding.
constexpr double least_volume_share = 1e-12;
// A shorter vector by rounding alone must not count, or the reduction would never end.
constexpr double least_gain = 1e-9;
constexpr int64_t largest_multiple = int64_t(1) << 30;

Vector cross(const Vector& a, const Vector& b) {
    return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

Vector scaled(const Vector& a, double factor) { return {factor * a[0], factor * a[1], factor * a[2]}; }

double length(const Vector& a) { return std::sqrt(dot(a, a)); }

std::string text(const Vector& a) {
    char buffer[96];
    std::snprintf(buffer, sizeof buffer, "(%.6g, %.6g, %.6g)", a[0], a[1], a[2]);
    return buffer;
}

// Rows after the first `rank` become orthonormal directions, normal to those.
void add_open_directions(std::array<Vector, 3>& rows, int rank) {
    if (rank == 0) rows[0] = {1, 0, 0};
    if (rank <= 1) {
        const Vector& a = rows[0];
        Vector helper{0, 0, 0};
        int smallest = 0;
        for (int x = 1; x < 3; ++x)
            if (std::abs(a[x]) < std::abs(a[smallest])) smallest = x;
        helper[smallest] = 1;
        const Vector normal = cross(a, helper);
        rows[1] = scaled(normal, 1 / length(normal));
    }
    if (rank <= 2) {
        const Vector normal = cross(rows[0], rows[1]);
        rows[2] = scaled(normal, 1 / length(normal));
    }
}

double volume(const std::array<Vector, 3>& rows) { return std::abs(dot(rows[0], cross(rows[1], rows[2]))); }

void add_duals(Lattice& lattice) {
    const double handed_volume = dot(lattice.vectors[0], cross(lattice.vectors[1], lattice.vectors[2]));
    for (int k = 0; k < 3; ++k) {
        const Vector normal = cross(lattice.vectors[(k + 1) % 3], lattice.vectors[(k + 2) % 3]);
        lattice.duals[k] = scaled(normal, 1 / handed_volume);
        lattice.heights[k] = 1 / length(lattice.duals[k]);
    }
}

class Reduction {
    Lattice& lattice;
    const double* cell;

    // Replaces vector k by vector k + Σ factor_l vector l if that is shorter.
    bool try_add(int k, const std::array<int64_t, 3>& factors) {
        std::array<int64_t, 3> multiples = lattice.multiples[k];
        for (int l = 0; l < lattice.rank; ++l)
            for (int x = 0; x < 3; ++x) multiples[x] += factors[l] * lattice.multiples[l][x];
        const std::array<int64_t, 3> before = lattice.multiples[k];
        lattice.multiples[k] = multiples;
        const Vector shorter = lattice.combine(k, cell);
        if (!(dot(shorter, shorter) < (1 - least_gain) * dot(lattice.vectors[k], lattice.vectors[k]))) {
            lattice.multiples[k] = before;
            return false;
        }
        for (int64_t multiple : multiples)
            if (std::abs(multiple) > largest_multiple) throw_dependent();
        lattice.vectors[k] = shorter;
        return true;
    }

    bool reduce_pair(int k, int l) {
        const double quotient =
            std::nearbyint(dot(lattice.vectors[k], lattice.vectors[l]) / dot(lattice.vectors[l], lattice.vectors[l]));
        if (quotient == 0) return false;
        if (!(std::abs(quotient) <= double(largest_multiple))) throw_dependent();
        std::array<int64_t, 3> factors{};
        factors[l] = -int64_t(quotient);
        return try_add(k, factors);
    }

    // Three vectors of which each pair is reduced may still be flat; then one of the sums is shorter.
    bool reduce_by_sums() {
        for (int k = 0; k < 3; ++k) {
            for (int64_t first : {-1, 1}) {
                for (int64_t second : {-1, 1}) {
                    std::array<int64_t, 3> factors{};
                    factors[(k + 1) % 3] = first;
                    factors[(k + 2) % 3] = second;
                    if (try_add(k, factors)) return true;
                }
            }
        }
        return false;
    }

  public:
    Reduction(Lattice& lattice, const double* cell) : lattice(lattice), cell(cell) {}

    [[noreturn]] void throw_dependent() const {
        std::string found;
        for (int k = 0; k < lattice.rank; ++k) found += (k ? ", " : "") + text(lattice.vectors[k]);
        throw std::invalid_argument("expected periodic cell vectors that are linearly independent, found " + found +
                                    " Å, between which the cell has no height; correct the cell or make an axis open");
    }

    void run() {
        for (bool shorter = true; shorter;) {
            shorter = false;
            for (int k = 0; k < lattice.rank; ++k)
                for (int l = 0; l < lattice.rank; ++l)
                    if (k != l && reduce_pair(k, l)) shorter = true;
            if (!shorter && lattice.rank == 3) shorter = reduce_by_sums();
        }
    }
};

}  // namespace

Vector Lattice::combine(int axis, const double* cell) const {
    Vector sum{};
    for (int l = 0; l < 3; ++l)
        if (multiples[axis][l] != 0)
            for (int x = 0; x < 3; ++x) sum[x] += double(multiples[axis][l]) * cell[3 * l + x];
    return sum;
}

Lattice Lattice::of_cell(const double* cell) const {
    Lattice lattice = *this;
    for (int k = 0; k < rank; ++k) lattice.vectors[k] = combine(k, cell);
    add_open_directions(lattice.vectors, rank);
    add_duals(lattice);
    return lattice;
}

Lattice reduced_lattice(const double* cell, const std::array<bool, 3>& periodic) {
    Lattice lattice;
    double lengths = 1;
    for (int l = 0; l < 3; ++l) {
        if (!periodic[l]) continue;
        const std::string axis(1, "abc"[l]);
        if (cell == nullptr)
            throw std::invalid_argument("expected a cell because axis " + axis +
                                        " is periodic, found none; give the cell or make the axis open");
        const Vector row{cell[3 * l], cell[3 * l + 1], cell[3 * l + 2]};
        for (double component : row)
            if (!(std::abs(component) <= largest_length))
                throw std::invalid_argument("expected finite cell vectors within 1e8 Å, found " + text(row) +
                                            " Å for the periodic axis " + axis + "; correct the cell");
        if (!(length(row) > 0))
            throw std::invalid_argument("expected a length above zero for the periodic axis " + axis + ", found " +
                                        text(row) + " Å; correct the cell or make the axis open");
        lattice.vectors[lattice.rank] = row;
        lattice.multiples[lattice.rank][l] = 1;
        lengths *= length(row);
        ++lattice.rank;
    }
    add_open_directions(lattice.vectors, lattice.rank);
    Reduction reduction(lattice, cell);
    if (!(volume(lattice.vectors) > least_volume_share * lengths)) reduction.throw_dependent();
    reduction.run();
    // Only the periodic vectors have changed, and not the line or plane that they span.
    add_duals(lattice);
    return lattice;
}

}  // namespace symmd
