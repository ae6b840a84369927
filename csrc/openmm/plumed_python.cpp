#include "plumed_python.h"

#include <cstdint>
#include <string>

#include "openmm/Force.h"
#include "openmm/OpenMMException.h"
#include "plumed_force.h"

namespace symmd {

namespace {

PlumedForce* cast(std::uintptr_t address) {
    return dynamic_cast<PlumedForce*>(reinterpret_cast<OpenMM::Force*>(address));
}

PlumedForce& force(std::uintptr_t address) {
    if (PlumedForce* found = cast(address)) return *found;
    throw OpenMM::OpenMMException("expected a PlumedForce, found another force");
}

}  // namespace

void add_plumed_functions(pybind11::module_& module) {
    using Address = std::uintptr_t;
    module.def("is_plumed", [](Address address) { return cast(address) != nullptr; });
    module.def("plumed_set_script", [](Address address, const std::string& text) { force(address).setScript(text); });
    module.def("plumed_get_script", [](Address address) { return force(address).getScript(); });
    module.def("plumed_set_kernel", [](Address address, const std::string& path) { force(address).setKernel(path); });
    module.def("plumed_get_kernel", [](Address address) { return force(address).getKernel(); });
    module.def("plumed_set_temperature", [](Address address, double kelvin) { force(address).setTemperature(kelvin); });
    module.def("plumed_get_temperature", [](Address address) { return force(address).getTemperature(); });
    module.def("plumed_set_log_file",
               [](Address address, const std::string& path) { force(address).setLogFile(path); });
    module.def("plumed_get_log_file", [](Address address) { return force(address).getLogFile(); });
    module.def("plumed_set_restart", [](Address address, bool restart) { force(address).setRestart(restart); });
    module.def("plumed_get_restart", [](Address address) { return force(address).getRestart(); });
    module.def("plumed_close", [](Address address) { force(address).close(); });
    module.def("plumed_close_all", [] { PlumedForce::closeAll(); });
}

}  // namespace symmd
