// The Python module symmd_md._engine: a thin layer over csrc/core, without torch.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/harmonics.h"
#include "device.h"
#include "engine.h"
#include "model_file.h"
#include "neighbour_list.h"

namespace py = pybind11;

namespace {

std::string compiler_name() {
#if defined(__clang__)
    return "clang " + std::string(__clang_version__);
#elif defined(__GNUC__)
    return "g++ " + std::string(__VERSION__);
#else
    return "unknown";
#endif
}

std::vector<std::string> compiled_instruction_sets() {
    std::vector<std::string> names;
#ifdef __SSE2__
    names.emplace_back("sse2");
#endif
#ifdef __AVX__
    names.emplace_back("avx");
#endif
#ifdef __AVX2__
    names.emplace_back("avx2");
#endif
#ifdef __FMA__
    names.emplace_back("fma");
#endif
#ifdef __AVX512F__
    names.emplace_back("avx512f");
#endif
#ifdef __ARM_NEON
    names.emplace_back("neon");
#endif
    return names;
}

py::dict build_information() {
    py::dict information;
    information["compiler"] = compiler_name();
    information["cxx_standard"] = static_cast<long>(__cplusplus);
    information["instruction_sets"] = compiled_instruction_sets();
#ifdef _OPENMP
    information["openmp"] = true;
#else
    information["openmp"] = false;
#endif
    return information;
}

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

template <int L>
void fill_harmonics(const double* vectors, py::ssize_t count, double* values) {
    constexpr py::ssize_t components = (L + 1) * (L + 1);
    for (py::ssize_t row = 0; row < count; ++row) {
        const double* vector = vectors + 3 * row;
        const double length = std::hypot(vector[0], vector[1], vector[2]);
        if (!(length > 0.0) || !std::isfinite(length))
            throw std::invalid_argument("spherical_harmonics expects finite vectors with a direction; row " +
                                        std::to_string(row) + " has length " + std::to_string(length));
        symmd::harmonics<L, double>(vector[0] / length, vector[1] / length, vector[2] / length,
                                    values + components * row);
    }
}

Doubles spherical_harmonics(const Doubles& vectors, int max_degree) {
    if (vectors.ndim() != 2 || vectors.shape(1) != 3)
        throw std::invalid_argument("spherical_harmonics expects vectors of shape [n, 3]");
    const py::ssize_t count = vectors.shape(0);
    const py::ssize_t components = static_cast<py::ssize_t>(max_degree + 1) * (max_degree + 1);
    using Fill = void (*)(const double*, py::ssize_t, double*);
    constexpr Fill fill[] = {fill_harmonics<0>, fill_harmonics<1>, fill_harmonics<2>, fill_harmonics<3>};
    if (max_degree < 0 || max_degree > 3)
        throw std::invalid_argument("spherical_harmonics knows max_degree 0 to 3; found " + std::to_string(max_degree));
    Doubles values({count, components});
    fill[max_degree](vectors.data(), count, values.mutable_data());
    return values;
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
    module.doc() = "SymMD's compiled core.";
    module.def("build_information", &build_information,
               "How this module was compiled: compiler, cxx_standard (value of __cplusplus), instruction_sets "
               "(of the portable parts) and openmp.");
    module.def("spherical_harmonics", &spherical_harmonics, py::arg("vectors"), py::arg("max_degree"),
               "Real harmonics of the directions of vectors [n, 3], for all degrees up to max_degree (0 to 3), as "
               "[n, (max_degree + 1)^2]; e3nn's order and its 'component' normalisation.");
    // Errors are tried in the opposite order: that of model files is one of the engine's.
    define_engine(module);
    define_device(module);
    define_model_file(module);
    bind_neighbour_list(module);
}
