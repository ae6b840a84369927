// What OpenMM must know of this library; loading it is enough.
#include "symmd_force_proxy.h"

namespace {

__attribute__((constructor)) void register_proxies() { symmd::register_symmd_force_proxy(); }

}  // namespace
