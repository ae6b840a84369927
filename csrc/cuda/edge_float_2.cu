#include "cuda/edge_instances.cuh"

namespace symmd {

bool find_edge_2(const EdgePassShape& shape, EdgeLaunchers<float>& launchers) {
    return find_launchers<2>(shape, launchers);
}

}  // namespace symmd
