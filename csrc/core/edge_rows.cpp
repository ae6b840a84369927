#include "core/edge_rows.h"

#include <algorithm>
#include <cmath>

namespace symmd {

template <class T>
void EdgeRows<T>::prepare(const Surroundings& around, int parts, double cutoff) {
    around_ = around;
    cutoff_ = cutoff;
    parts_.resize(parts);
    standing_ = around_.atoms;
    if (around_.rows && around_.rows->stands_for) {
        standing_ = around_.owned;
        for (int64_t k = around_.owned; k < around_.atoms; ++k)
            standing_ = std::max<int64_t>(standing_, around_.rows->stands_for[k] + 1);
    }
    list_start_.resize(around_.owned + 1);
    if (around_.list) {
        std::copy_n(around_.list->row_start, around_.owned + 1, list_start_.data());
    } else {
        list_start_[0] = 0;
        for (int64_t i = 0; i < around_.owned; ++i) list_start_[i + 1] = list_start_[i] + around_.rows->counts[i];
    }
    const int64_t edges = list_start_[around_.owned];
    row_start_.resize(around_.owned + parts);
    sender_.resize(edges);
    species_.resize(edges);
    vectors_.resize(3 * edges);
    for (Part& part : parts_) {
        part.problem.clear();
        part.touched.assign(std::size_t(blocks()), 0);
    }
    divide();
}

// Ranges of atoms with about the same work; an atom costs as much as some ten edges.
template <class T>
void EdgeRows<T>::divide() {
    const auto work = [&](int64_t atom) { return (around_.evenly ? 0 : list_start_[atom]) + 10 * atom; };
    const int parts = int(parts_.size());
    int64_t first = 0;
    for (int part = 0; part < parts; ++part) {
        const int64_t goal = work(around_.owned) * (part + 1) / parts;
        int64_t low = first, high = around_.owned;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (work(middle) < goal) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        parts_[part].first = first;
        parts_[part].last = part == parts - 1 ? around_.owned : low;
        // One number more for each part: edges of a part are packed, so its last row ends before the next part's.
        parts_[part].row_start = row_start_.data() + part;
        first = parts_[part].last;
    }
}

template <class T>
void EdgeRows<T>::note_problem(Part& part, int64_t receiver, int64_t sender, double square) const {
    const auto name = [&](int64_t atom) { return std::to_string((around_.names ? around_.names[atom] : atom) + 1); };
    const std::string pair = "atoms " + name(receiver) + " and " + name(sender);
    if (std::isfinite(square)) {
        part.problem = pair + " are in the same place, where the potential has no direction; move one of them";
    } else {
        part.problem = "coordinates must be finite, found one that is not at " + pair +
                       ": the simulation has most likely blown up; check the time step and the starting structure";
    }
}

// The edges within the cutoff, with their displacements as differences of fp64 coordinates (eq. 1).
template <class T>
void EdgeRows<T>::collect(int index) {
    Part& part = parts_[index];
    const double square_of_cutoff = cutoff_ * cutoff_;
    constexpr double closest = coincidence_distance * coincidence_distance;
    const double *positions = around_.positions, *cell = around_.cell;
    for (int64_t i = part.first; i < part.last; ++i) part.touched[i / block_atoms] = 1;
    int64_t edge = list_start_[part.first];
    part.row_start[part.first] = edge;
    for (int64_t i = part.first; i < part.last; ++i) {
        const double x = positions[3 * i], y = positions[3 * i + 1], z = positions[3 * i + 2];
        const int64_t listed = list_start_[i], count = list_start_[i + 1] - listed;
        const int64_t* senders = around_.list ? around_.list->sender + listed : nullptr;
        const Triple* shifts = around_.list && cell ? around_.list->shift + listed : nullptr;
        const int32_t* row = around_.list ? nullptr : around_.rows->neighbours[i];
        const int32_t* stands_for = around_.list ? nullptr : around_.rows->stands_for;
        for (int64_t k = 0; k < count; ++k) {
            const int64_t j = senders ? senders[k] : int64_t(row[k] & around_.rows->mask);
            if (row && (j < 0 || j >= around_.atoms)) {
                part.problem = "neighbours must be indices below " + std::to_string(around_.atoms) + ", found " +
                               std::to_string(j) + " in the row of atom " + std::to_string(i + 1);
                return;
            }
            double dx = positions[3 * j] - x, dy = positions[3 * j + 1] - y, dz = positions[3 * j + 2] - z;
            if (shifts && (shifts[k][0] | shifts[k][1] | shifts[k][2])) {
                const double a = shifts[k][0], b = shifts[k][1], c = shifts[k][2];
                dx += a * cell[0] + b * cell[3] + c * cell[6];
                dy += a * cell[1] + b * cell[4] + c * cell[7];
                dz += a * cell[2] + b * cell[5] + c * cell[8];
            }
            const double square = dx * dx + dy * dy + dz * dz;
            if (square >= square_of_cutoff) continue;
            if (!(square > closest)) return note_problem(part, i, j, square);
            const int64_t standing = stands_for ? stands_for[j] : j;
            sender_[edge] = standing;
            species_[edge] = around_.species[j];
            vectors_[3 * edge] = T(dx);
            vectors_[3 * edge + 1] = T(dy);
            vectors_[3 * edge + 2] = T(dz);
            part.touched[standing / block_atoms] = 1;
            ++edge;
        }
        part.row_start[i + 1] = edge;
    }
}

template <class T>
std::size_t EdgeRows<T>::bytes() const {
    std::size_t bytes =
        list_start_.bytes() + row_start_.bytes() + sender_.bytes() + species_.bytes() + vectors_.bytes();
    for (const Part& part : parts_) bytes += part.touched.capacity();
    return bytes;
}

template class EdgeRows<float>;
template class EdgeRows<double>;

}  // namespace symmd
