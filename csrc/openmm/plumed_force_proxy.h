// PlumedForce as XML: with it, a System is saved, copied and sent to other processes. A copy is a calculation of its
// own.
#pragma once

namespace symmd {

// OpenMM knows the XML of a PlumedForce from here on.
void register_plumed_force_proxy();

}  // namespace symmd
