// SymmdForce as XML: with it, a System is saved, copied and sent to other processes.
#pragma once

namespace symmd {

// OpenMM knows the XML of a SymmdForce from here on.
void register_symmd_force_proxy();

}  // namespace symmd
