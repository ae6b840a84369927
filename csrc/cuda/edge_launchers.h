// Where edge_kernels.cu finds the kernels of each precision and degree, which are compiled in files of their own.
#pragma once

#include "cuda/edge_kernels.h"

namespace symmd {

template <class T>
struct EdgeLaunchers {
    void (*forward)(const DeviceEdgeInput<T>&, T* aggregated, T* total, cudaStream_t) = nullptr;
    void (*backward)(const DeviceEdgeInput<T>&, const DeviceEdgePull<T>&, cudaStream_t) = nullptr;
    void (*gather)(const DeviceEdgeInput<T>&, const DeviceEdgePull<T>&, T* value_pull, cudaStream_t) = nullptr;
};

// False where no kernel was compiled for the degrees of values and messages. By degree of the harmonics.
bool find_edge_low(const EdgePassShape& shape, EdgeLaunchers<float>& launchers);  // 0 and 1
bool find_edge_low(const EdgePassShape& shape, EdgeLaunchers<double>& launchers);
bool find_edge_2(const EdgePassShape& shape, EdgeLaunchers<float>& launchers);
bool find_edge_2(const EdgePassShape& shape, EdgeLaunchers<double>& launchers);
bool find_edge_3(const EdgePassShape& shape, EdgeLaunchers<float>& launchers);
bool find_edge_3(const EdgePassShape& shape, EdgeLaunchers<double>& launchers);

}  // namespace symmd
