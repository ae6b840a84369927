// The Python module symmd_md.openmm._forces: getters and setters of this library's forces, for the classes in
// symmd_md/openmm. A force comes as the address that OpenMM's own Python objects hold, `int(force.this)`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "openmm/Context.h"
#include "openmm/Force.h"
#include "openmm/OpenMMException.h"
#include "plumed_python.h"
#include "symmd_force.h"

namespace py = pybind11;
using symmd::SymmdForce;

namespace {

SymmdForce* cast(std::uintptr_t address) {
    return dynamic_cast<SymmdForce*>(reinterpret_cast<OpenMM::Force*>(address));
}

SymmdForce& force(std::uintptr_t address) {
    if (SymmdForce* found = cast(address)) return *found;
    throw OpenMM::OpenMMException("expected a SymmdForce, found another force");
}

// A getter or setter of SymmdForce as a function of its address.
template <class Result, class... Arguments>
auto of(Result (SymmdForce::*method)(Arguments...)) {
    return [method](std::uintptr_t address, Arguments... arguments) { return (force(address).*method)(arguments...); };
}
template <class Result, class... Arguments>
auto of(Result (SymmdForce::*method)(Arguments...) const) {
    return [method](std::uintptr_t address, Arguments... arguments) { return (force(address).*method)(arguments...); };
}

}  // namespace

PYBIND11_MODULE(_forces, module) {
    module.doc() = "Forces of SymMD for OpenMM, by their addresses.";
    py::register_local_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const OpenMM::OpenMMException& error) {
            py::set_error(py::module_::import("openmm").attr("OpenMMException"), error.what());
        }
    });
    symmd::add_plumed_functions(module);
    module.def("is_symmd", [](std::uintptr_t address) { return cast(address) != nullptr; });
    module.def("set_model", [](std::uintptr_t address, const py::bytes& content, const std::string& name) {
        force(address).setModel(std::string(content), name);
    });
    module.def("get_model", [](std::uintptr_t address) { return py::bytes(force(address).getModel()); });
    module.def("get_model_name", of(&SymmdForce::getModelName));
    module.def("set_atoms", of(&SymmdForce::setAtoms));
    module.def("get_atomic_numbers", of(&SymmdForce::getAtomicNumbers));
    module.def("get_particles", of(&SymmdForce::getParticles));
    module.def("set_topology",
               [](std::uintptr_t address, int particles, const std::vector<std::array<double, 3>>& box) {
                   std::vector<OpenMM::Vec3> vectors;
                   for (const auto& vector : box) vectors.emplace_back(vector[0], vector[1], vector[2]);
                   force(address).setTopology(particles, std::move(vectors));
               });
    module.def("set_bonds", of(&SymmdForce::setBonds));
    module.def("get_bonds", of(&SymmdForce::getBonds));
    module.def("set_precision", of(&SymmdForce::setPrecision));
    module.def("get_precision", of(&SymmdForce::getPrecision));
    module.def("set_device", of(&SymmdForce::setDevice));
    module.def("get_device", of(&SymmdForce::getDevice));
    module.def("set_threads", of(&SymmdForce::setThreads));
    module.def("get_threads", of(&SymmdForce::getThreads));
    module.def("set_deterministic", of(&SymmdForce::setDeterministic));
    module.def("get_deterministic", of(&SymmdForce::getDeterministic));
    module.def("set_periodic", of(&SymmdForce::setUsesPeriodicBoundaryConditions));
    module.def("set_scale_parameter", of(&SymmdForce::setScaleParameterName));
    module.def("get_scale_parameter", of(&SymmdForce::getScaleParameterName));
    module.def("add_derivative", of(&SymmdForce::addEnergyParameterDerivative));
    module.def("get_derivatives", of(&SymmdForce::getNumEnergyParameterDerivatives));
    module.def("get_derivative_name", of(&SymmdForce::getEnergyParameterDerivativeName));
    module.def("update_parameters", [](std::uintptr_t address, std::uintptr_t context) {
        force(address).updateParametersInContext(*reinterpret_cast<OpenMM::Context*>(context));
    });
}
