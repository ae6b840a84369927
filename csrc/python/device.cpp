#include "device.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <string>

#include "core/device.h"
#include "core/model_file.h"
#include "symmd/engine.h"

namespace py = pybind11;

namespace {

py::dict memory_plan(const std::filesystem::path& path, int64_t atoms, double neighbours, const std::string& precision,
                     double skin, const std::string& device) {
    const symmd::ModelFile model = symmd::load_model_file(path.string());
    symmd::EngineOptions options;
    options.precision = precision == "float64" ? symmd::Precision::float64 : symmd::Precision::float32;
    options.skin = skin;
    const bool looks = !device.empty();
    const symmd::DeviceLibrary& library = looks ? symmd::device_library(device) : symmd::device_library();
    std::string problem;
    const symmd::DeviceMemoryPlan plan =
        library.plan(model.content->data(), model.content->size(), path.string(), options, atoms, neighbours,
                     looks ? symmd::device_number(device) : -1, problem);
    if (!problem.empty()) throw symmd::Error(problem);
    py::dict result;
    result["whole_bytes"] = plan.whole_bytes;
    result["chunk_bytes"] = plan.chunk_bytes;
    result["free_bytes"] = plan.free_bytes;
    result["total_bytes"] = plan.total_bytes;
    result["device"] = plan.device;
    return result;
}

}  // namespace

void define_device(py::module_& module) {
    module.def("device_count", &symmd::Engine::device_count,
               "Number of GPUs that device=\"cuda:K\" can name. EngineError says why there are none.");
    module.def("device_memory_plan", &memory_plan, py::arg("path"), py::arg("atoms"), py::arg("neighbours"),
               py::kw_only(), py::arg("precision") = "float32", py::arg("skin") = 1.0, py::arg("device") = "",
               "Bytes that a step of so many atoms needs on a GPU, whole and in the smallest chunks, with so many "
               "listed neighbours (cutoff and skin) each; with a device also what it has: dictionary with "
               "whole_bytes, chunk_bytes, free_bytes, total_bytes and device, its name.");
}
