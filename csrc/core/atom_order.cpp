#include "core/atom_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace symmd {

namespace {

constexpr double box_length = 4.0;  // Å
constexpr int most_boxes = 1 << 20;

// Every third bit.
uint64_t spread(uint64_t number) {
    uint64_t result = 0;
    for (int bit = 0; bit < 20; ++bit) result |= (number >> bit & 1) << (3 * bit);
    return result;
}

// Columns of the inverse of `cell`, times the number of boxes along each vector; false for a cell without volume.
bool boxes_of_cell(const double* cell, double* to_box, double* boxes) {
    const auto cross = [](const double* a, const double* b, double* result) {
        for (int k = 0; k < 3; ++k) result[k] = a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3];
    };
    double dual[3][3];
    for (int axis = 0; axis < 3; ++axis) cross(cell + 3 * ((axis + 1) % 3), cell + 3 * ((axis + 2) % 3), dual[axis]);
    const double volume = cell[0] * dual[0][0] + cell[1] * dual[0][1] + cell[2] * dual[0][2];
    if (!std::isfinite(volume) || volume == 0) return false;
    for (int axis = 0; axis < 3; ++axis) {
        const double* row = cell + 3 * axis;
        boxes[axis] = std::min(std::ceil(std::hypot(row[0], row[1], row[2]) / box_length), double(most_boxes));
        for (int k = 0; k < 3; ++k) to_box[3 * axis + k] = dual[axis][k] / volume * boxes[axis];
    }
    return true;
}

}  // namespace

void order_along_curve(const double* positions, int64_t atoms, const double* cell, const std::array<bool, 3>& periodic,
                       std::vector<int64_t>& order) {
    double to_box[9] = {1 / box_length, 0, 0, 0, 1 / box_length, 0, 0, 0, 1 / box_length};
    double boxes[3] = {};
    const bool wraps = cell && periodic[0] && periodic[1] && periodic[2] && boxes_of_cell(cell, to_box, boxes);
    double lowest[3];
    std::fill_n(lowest, 3, std::numeric_limits<double>::infinity());
    for (int64_t atom = 0; atom < atoms; ++atom)
        for (int axis = 0; axis < 3; ++axis) lowest[axis] = std::min(lowest[axis], positions[3 * atom + axis]);

    std::vector<std::pair<uint64_t, int64_t>> keys(atoms);
    for (int64_t atom = 0; atom < atoms; ++atom) {
        uint64_t key = 0;
        for (int axis = 0; axis < 3; ++axis) {
            double box = 0;
            for (int k = 0; k < 3; ++k)
                box += to_box[3 * axis + k] * (positions[3 * atom + k] - (wraps ? 0.0 : lowest[k]));
            if (wraps) box -= std::floor(box / boxes[axis]) * boxes[axis];
            // Written so that NaN and infinity have a place too.
            const double bounded = box > 0 ? std::min(box, double(most_boxes - 1)) : 0.0;
            key |= spread(uint64_t(bounded)) << axis;
        }
        keys[atom] = {key, atom};
    }
    std::sort(keys.begin(), keys.end());
    order.resize(atoms);
    for (int64_t k = 0; k < atoms; ++k) order[k] = keys[k].second;
}

}  // namespace symmd
