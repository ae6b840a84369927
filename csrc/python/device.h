#pragma once

#include <pybind11/pybind11.h>

void define_device(pybind11::module_& module);
