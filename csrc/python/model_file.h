// What symmd_md._engine offers of model files.
#pragma once

#include <pybind11/pybind11.h>

void define_model_file(pybind11::module_& module);
