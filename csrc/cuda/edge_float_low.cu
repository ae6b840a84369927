#include "cuda/edge_instances.cuh"

namespace symmd {

bool find_edge_low(const EdgePassShape& shape, EdgeLaunchers<float>& launchers) {
    return shape.harmonic_degree == 0 ? find_launchers<0>(shape, launchers) : find_launchers<1>(shape, launchers);
}

}  // namespace symmd
