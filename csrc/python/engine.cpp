#include "engine.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "symmd/engine.h"

namespace py = pybind11;

namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Indices = py::array_t<int32_t, py::array::c_style>;

std::string shape_of(const py::array& array) {
    std::string text = "[";
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis)
        text += (axis ? ", " : "") + std::to_string(array.shape(axis));
    return text + "]";
}

// Whole numbers of any type as those of the engine: nothing is cut off to make them fit.
Indices indices_of(const py::object& given, const char* name) {
    const py::array array(given);
    const char kind = array.dtype().kind();
    if (array.size() > 0 && kind != 'i' && kind != 'u')
        throw std::invalid_argument(std::string(name) + " must be whole numbers, found an array of type " +
                                    std::string(py::str(array.dtype())));
    const auto numbers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>(array);
    Indices result(std::vector<py::ssize_t>(numbers.shape(), numbers.shape() + numbers.ndim()));
    for (py::ssize_t k = 0; k < numbers.size(); ++k) {
        const int64_t number = numbers.data()[k];
        if (number != int32_t(number))
            throw std::invalid_argument(std::string(name) + " must fit into 32 bits, found " + std::to_string(number));
        result.mutable_data()[k] = int32_t(number);
    }
    return result;
}

void check_shape(const py::array& array, const char* name, const std::vector<py::ssize_t>& expected) {
    bool same = array.ndim() == py::ssize_t(expected.size());
    for (std::size_t axis = 0; same && axis < expected.size(); ++axis) same = array.shape(axis) == expected[axis];
    if (same) return;
    std::string text;
    for (const py::ssize_t size : expected) text += (text.empty() ? "" : ", ") + std::to_string(size);
    throw std::invalid_argument(std::string("expected ") + name + " of shape [" + text + "], found " + shape_of(array));
}

symmd::EngineOptions options_of(const std::string& precision, int threads, double skin, bool deterministic,
                                const std::string& device) {
    symmd::EngineOptions options;
    if (precision != "float32" && precision != "float64")
        throw std::invalid_argument("precision must be float32 or float64, found '" + precision + "'");
    options.precision = precision == "float32" ? symmd::Precision::float32 : symmd::Precision::float64;
    options.threads = threads;
    options.skin = skin;
    options.deterministic = deterministic;
    options.device = device;
    return options;
}

// Python's threads may share an engine: computations wait for each other.
class SharedEngine {
  public:
    explicit SharedEngine(symmd::Engine engine) : engine(std::move(engine)) {}
    symmd::Engine engine;
    std::mutex busy;
};

// Rows of features as numpy arrays that share the engine's memory. The engine runs without Python's lock, so that
// domains in several threads compute at the same time and can wait for each other.
class PythonExchange : public symmd::GhostExchange {
  public:
    PythonExchange(py::ssize_t atoms, py::function forward, py::function backward)
        : atoms_(atoms), forward_(std::move(forward)), backward_(std::move(backward)) {}

    void forward(void* rows, int64_t width, symmd::Precision precision) override {
        call(forward_, rows, width, precision);
    }
    void backward(void* rows, int64_t width, symmd::Precision precision) override {
        call(backward_, rows, width, precision);
    }

  private:
    void call(const py::function& function, void* rows, int64_t width, symmd::Precision precision) const {
        const py::gil_scoped_acquire acquire;
        const py::dtype type =
            precision == symmd::Precision::float32 ? py::dtype::of<float>() : py::dtype::of<double>();
        // A base, whatever it is, keeps numpy from copying.
        function(py::array(type, std::vector<py::ssize_t>{atoms_, py::ssize_t(width)}, rows, py::none()));
    }
    py::ssize_t atoms_;
    py::function forward_, backward_;
};

struct Arrays {
    Doubles atom_energy, forces, virial, atom_virial, sender_virial;
    symmd::Results results;

    Arrays(py::ssize_t owned, py::ssize_t atoms, bool with_forces, bool with_virial, bool with_atom_virial,
           bool with_sender_virial)
        : atom_energy(owned) {
        results.atom_energy = atom_energy.mutable_data();
        if (with_forces) {
            forces = Doubles({atoms, py::ssize_t(3)});
            results.forces = forces.mutable_data();
        }
        if (with_virial) {
            virial = Doubles({3, 3});
            results.virial = virial.mutable_data();
        }
        if (with_atom_virial) {
            atom_virial = Doubles({atoms, py::ssize_t(3), py::ssize_t(3)});
            results.atom_virial = atom_virial.mutable_data();
        }
        if (with_sender_virial) {
            sender_virial = Doubles({atoms, py::ssize_t(3), py::ssize_t(3)});
            results.sender_virial = sender_virial.mutable_data();
        }
    }

    py::dict found() const {
        py::dict result;
        result["energy"] = results.energy;
        result["atom_energy"] = atom_energy;
        if (results.forces) result["forces"] = forces;
        if (results.virial) result["virial"] = virial;
        if (results.atom_virial) result["atom_virial"] = atom_virial;
        if (results.sender_virial) result["sender_virial"] = sender_virial;
        return result;
    }
};

py::dict compute(SharedEngine& shared, const py::object& given_species, const Doubles& positions,
                 const std::optional<Doubles>& cell, const std::array<bool, 3>& pbc, bool forces, bool virial,
                 bool atom_virial, bool sender_virial) {
    const Indices species = indices_of(given_species, "species");
    const py::ssize_t atoms = species.size();
    check_shape(species, "species", {atoms});
    check_shape(positions, "positions", {atoms, 3});
    if (cell) check_shape(*cell, "a cell", {3, 3});
    Arrays arrays(atoms, atoms, forces, virial, atom_virial, sender_virial);
    symmd::System system;
    system.atoms = atoms;
    system.species = species.data();
    system.positions = positions.data();
    system.cell = cell ? cell->data() : nullptr;
    system.periodic = pbc;
    {
        const py::gil_scoped_release release;
        const std::lock_guard<std::mutex> guard(shared.busy);
        shared.engine.compute(system, arrays.results);
    }
    return arrays.found();
}

py::dict compute_neighbourhood(SharedEngine& shared, int64_t owned, const py::object& given_species,
                               const Doubles& positions, const std::vector<py::object>& given_neighbours,
                               const std::optional<std::pair<py::function, py::function>>& exchange,
                               const std::optional<py::object>& given_stands_for, bool forces, bool virial,
                               bool atom_virial, bool sender_virial) {
    const Indices species = indices_of(given_species, "species");
    std::vector<Indices> neighbours;
    for (const py::object& row : given_neighbours) neighbours.push_back(indices_of(row, "neighbours"));
    const py::ssize_t atoms = species.size();
    check_shape(species, "species", {atoms});
    check_shape(positions, "positions", {atoms, 3});
    if (int64_t(neighbours.size()) != owned)
        throw std::invalid_argument("expected one row of neighbours for each of " + std::to_string(owned) +
                                    " owned atoms, found " + std::to_string(neighbours.size()));
    std::vector<int32_t> counts;
    std::vector<const int32_t*> rows;
    for (const Indices& row : neighbours) {
        counts.push_back(int32_t(row.size()));
        rows.push_back(row.data());
    }
    Arrays arrays(owned, atoms, forces, virial, atom_virial, sender_virial);
    symmd::Neighbourhood neighbourhood;
    neighbourhood.owned = owned;
    neighbourhood.atoms = atoms;
    neighbourhood.species = species.data();
    neighbourhood.positions = positions.data();
    neighbourhood.counts = counts.data();
    neighbourhood.neighbours = rows.data();
    py::ssize_t rows_of_features = atoms;
    std::optional<Indices> stands_for;
    if (given_stands_for) {
        stands_for = indices_of(*given_stands_for, "stands_for");
        check_shape(*stands_for, "stands_for", {atoms});
        neighbourhood.stands_for = stands_for->data();
        rows_of_features = owned;
        for (py::ssize_t k = owned; k < atoms; ++k)
            rows_of_features = std::max<py::ssize_t>(rows_of_features, stands_for->data()[k] + 1);
    }
    std::optional<PythonExchange> by_python;
    if (exchange) by_python.emplace(rows_of_features, exchange->first, exchange->second);
    {
        const py::gil_scoped_release release;
        const std::lock_guard<std::mutex> guard(shared.busy);
        shared.engine.compute(neighbourhood, by_python ? &*by_python : nullptr, arrays.results);
    }
    return arrays.found();
}

py::dict model_of(const SharedEngine& shared) {
    const symmd::ModelInfo& info = shared.engine.model();
    py::dict result;
    result["species"] = info.species;
    result["atomic_numbers"] = info.atomic_numbers;
    result["cutoff"] = info.cutoff;
    result["header"] = py::module_::import("json").attr("loads")(info.header);
    result["sha256"] = info.sha256;
    return result;
}

Indices species_of(const SharedEngine& shared, const py::object& atomic_numbers) {
    const Indices numbers = indices_of(atomic_numbers, "atomic_numbers");
    Indices species(numbers.size());
    for (py::ssize_t k = 0; k < numbers.size(); ++k)
        species.mutable_data()[k] = shared.engine.species_of(numbers.data()[k]);
    return species;
}

}  // namespace

void define_engine(py::module_& module) {
    py::register_local_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const symmd::Error& error) {
            py::set_error(py::module_::import("symmd_md.errors").attr("EngineError"), error.what());
        }
    });

    const auto from_bytes = [](const py::bytes& data, const std::string& name, const std::string& precision,
                               int threads, double skin, bool deterministic, const std::string& device) {
        const std::string_view content = data;
        const symmd::EngineOptions options = options_of(precision, threads, skin, deterministic, device);
        return std::make_unique<SharedEngine>(symmd::Engine::load(content.data(), content.size(), name, options));
    };
    py::class_<SharedEngine>(
        module, "Engine",
        "The compiled engine on a model file, on device cpu, cuda or cuda:K. Units eV, Å. Errors are "
        "symmd_md.errors.EngineError and ModelFileError.")
        .def(py::init([](const std::filesystem::path& path, const std::string& precision, int threads, double skin,
                         bool deterministic, const std::string& device) {
                 const symmd::EngineOptions options = options_of(precision, threads, skin, deterministic, device);
                 return std::make_unique<SharedEngine>(symmd::Engine::load(path.string(), options));
             }),
             py::arg("path"), py::arg("precision") = "float32", py::arg("threads") = 0, py::arg("skin") = 1.0,
             py::arg("deterministic") = false, py::arg("device") = "cpu")
        .def_static("from_bytes", from_bytes, py::arg("data"), py::arg("name") = "model",
                    py::arg("precision") = "float32", py::arg("threads") = 0, py::arg("skin") = 1.0,
                    py::arg("deterministic") = false, py::arg("device") = "cpu",
                    "The same from the content of a model file.")
        .def("compute", &compute, py::arg("species"), py::arg("positions"), py::arg("cell") = py::none(),
             py::arg("pbc") = std::array<bool, 3>{}, py::kw_only(), py::arg("forces") = true, py::arg("virial") = false,
             py::arg("atom_virial") = false, py::arg("sender_virial") = false,
             "Dictionary with energy (eV) and atom_energy [N]; if asked forces [N, 3] (eV/Å), virial [3, 3] (eV), and "
             "atom_virial and sender_virial [N, 3, 3] (eV). species [N] are indices into model['species'], positions "
             "[N, 3] and cell [3, 3] in Å.")
        .def(
            "compute_neighbourhood", &compute_neighbourhood, py::arg("owned"), py::arg("species"), py::arg("positions"),
            py::arg("neighbours"), py::arg("exchange") = py::none(), py::arg("stands_for") = py::none(), py::kw_only(),
            py::arg("forces") = true, py::arg("virial") = false, py::arg("atom_virial") = false,
            py::arg("sender_virial") = false,
            "The same with a caller's list: atoms from `owned` on are ghosts, neighbours has the senders of each owned "
            "atom, exchange is (forward, backward), each called with rows [N, width] to be changed in place; they "
            "are valid during the call. stands_for [N]: the atom that each one is an image of, or itself.")
        .def("species_of", &species_of, py::arg("atomic_numbers"), "Indices of the species of atomic numbers [N].")
        .def_property_readonly("model", &model_of, "species, atomic_numbers, cutoff (Å), header, sha256.")
        .def_property(
            "threads", [](const SharedEngine& shared) { return shared.engine.options().threads; },
            [](SharedEngine& shared, int threads) { shared.engine.set_threads(threads); })
        .def_property_readonly("device", [](const SharedEngine& shared) { return shared.engine.options().device; })
        .def_property_readonly("list_builds", [](const SharedEngine& shared) { return shared.engine.list_builds(); })
        .def_property_readonly("memory_bytes", [](const SharedEngine& shared) { return shared.engine.memory_bytes(); })
        .def_property_readonly_static("instruction_set",
                                      [](const py::object&) { return symmd::Engine::instruction_set(); });
}
