#include "cuda/edge_instances.cuh"

namespace symmd {

bool find_edge_3(const EdgePassShape& shape, EdgeLaunchers<double>& launchers) {
    return find_launchers<3>(shape, launchers);
}

}  // namespace symmd
