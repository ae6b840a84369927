// What OpenMM must know of this library; loading it is enough.
#include "plumed_force_proxy.h"
#include "symmd_force_proxy.h"

namespace {

__attribute__((constructor)) void register_proxies() {
    symmd::register_symmd_force_proxy();
    symmd::register_plumed_force_proxy();
}

}  // namespace
