// Python's view of the engine's neighbour list.
#pragma once

#include <pybind11/pybind11.h>

void bind_neighbour_list(pybind11::module_& module);
