// The edge kernels of one number type and one degree of the harmonics: what each of the files edge_<type>_<degree>.cu
// compiles.
#pragma once

#include "cuda/edge_backward.cuh"
#include "cuda/edge_forward.cuh"
#include "cuda/edge_gather.cuh"
#include "cuda/edge_launchers.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// The degrees of values and messages that csrc/cpu/kernels.cpp has kernels for.
template <int L2, class T, int Code = 0>
bool find_launchers(const EdgePassShape& shape, EdgeLaunchers<T>& launchers) {
    if constexpr (Code < 16) {
        constexpr int L1 = Code / 4, L3 = Code % 4;
        if constexpr (L1 <= L2 && (L3 == L2 || (L2 < 3 && L3 < L2))) {
            if (shape.value_degree == L1 && shape.message_degree == L3) {
                launchers = {launch_edge_forward<L1, L2, L3, T>, launch_edge_backward<L1, L2, L3, T>,
                             launch_edge_gather<L1, L2, L3, T>};
                return true;
            }
        }
        return find_launchers<L2, T, Code + 1>(shape, launchers);
    }
    return false;
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
