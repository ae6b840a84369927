// An order of atoms in which neighbours in space are near in memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace symmd {

// Fills `order` [atoms] with the numbers of the atoms along a curve through boxes of a few Å. Positions [atoms, 3] and
// cell [3, 3] (null where there is none) in Å; any numbers are allowed, as only speed depends on the result.
void order_along_curve(const double* positions, int64_t atoms, const double* cell, const std::array<bool, 3>& periodic,
                       std::vector<int64_t>& order);

}  // namespace symmd
