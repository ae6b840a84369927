// PlumedForce in the Python module symmd_md.openmm._forces.
#pragma once

#include <pybind11/pybind11.h>

namespace symmd {

void add_plumed_functions(pybind11::module_& module);

}  // namespace symmd
