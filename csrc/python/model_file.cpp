#include "model_file.h"

#include <pybind11/numpy.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/model_file.h"

namespace py = pybind11;

namespace {

// symmd_md.errors.ModelFileError, which outlives every call.
PYBIND11_CONSTINIT py::gil_safe_call_once_and_store<py::object> error_type;

// A path in the message need not be UTF-8, so the message is decoded like one.
void raise_in_python(const symmd::ModelFileError& error) {
    const std::string text = error.what();
    const auto message =
        py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefaultAndSize(text.data(), py::ssize_t(text.size())));
    PyErr_SetObject(error_type.get_stored().ptr(), message.ptr());
}

symmd::ModelFile load(const std::filesystem::path& path) {
    const py::gil_scoped_release release;
    return symmd::load_model_file(path.string());
}

py::tuple shape_of(const symmd::StoredTensor& tensor) {
    py::tuple shape(tensor.shape.size());
    for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) shape[axis] = tensor.shape[axis];
    return shape;
}

py::dict summary_of(const symmd::ModelFile& model) {
    py::dict shapes;
    for (const symmd::StoredTensor& tensor : model.tensors) shapes[py::str(tensor.name)] = shape_of(tensor);
    py::dict summary;
    summary["format_version"] = model.format_version;
    summary["header"] = py::module_::import("json").attr("loads")(model.header_text);
    summary["dtype"] = model.number_type == symmd::NumberType::float32 ? "float32" : "float64";
    summary["tensors"] = shapes;
    summary["sha256"] = model.sha256;
    return summary;
}

template <class T>
py::array array_of(const symmd::ModelFile& model, const symmd::StoredTensor& tensor) {
    const std::vector<T> values = model.values<T>(tensor.name);
    py::array_t<T> array(std::vector<py::ssize_t>(tensor.shape.begin(), tensor.shape.end()));
    std::copy(values.begin(), values.end(), array.mutable_data());
    return std::move(array);
}

py::tuple load_model_file(const std::filesystem::path& path) {
    const symmd::ModelFile model = load(path);
    py::dict arrays;
    for (const symmd::StoredTensor& tensor : model.tensors) {
        const bool single = model.number_type == symmd::NumberType::float32;
        arrays[py::str(tensor.name)] = single ? array_of<float>(model, tensor) : array_of<double>(model, tensor);
    }
    return py::make_tuple(summary_of(model), arrays);
}

}  // namespace

void define_model_file(py::module_& module) {
    error_type.call_once_and_store_result(
        [] { return py::object(py::module_::import("symmd_md.errors").attr("ModelFileError")); });
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const symmd::ModelFileError& error) {
            raise_in_python(error);
        }
    });
    module.def(
        "model_file_summary", [](const std::filesystem::path& path) { return summary_of(load(path)); }, py::arg("path"),
        "What a model file holds, after everything in it was checked: format_version, header (docs/model_file.md), "
        "dtype, tensors (name to shape) and sha256. Raises symmd_md.errors.ModelFileError.");
    module.def(
        "model_file_summary",
        [](const py::bytes& content, const std::string& name) {
            const std::string_view bytes = content;
            return summary_of(symmd::load_model_file(bytes.data(), bytes.size(), name));
        },
        py::arg("content"), py::arg("name"), "The same for the content of a file, which messages call `name`.");
    module.def("load_model_file", &load_model_file, py::arg("path"),
               "The summary of a model file, and its tensors by name in the precision that they are stored in.");
}
