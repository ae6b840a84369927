// The chemical elements, 1 (H) to 118 (Og).
#pragma once

#include <string_view>

namespace symmd {

// Atomic number of an element symbol such as "Cl", or 0 if there is no such element.
int atomic_number(std::string_view symbol);

}  // namespace symmd
