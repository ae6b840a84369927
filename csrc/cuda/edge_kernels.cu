#include "cuda/edge_kernels.h"

#include "cuda/edge_launchers.h"
#include "cuda/edge_pass.cuh"

namespace symmd {
namespace {

template <class T>
bool find(const EdgePassShape& shape, EdgeLaunchers<T>& launchers) {
    if (!plan_possible(shape)) return false;
    switch (shape.harmonic_degree) {
        case 0:
        case 1:
            return find_edge_low(shape, launchers);
        case 2:
            return find_edge_2(shape, launchers);
        case 3:
            return find_edge_3(shape, launchers);
        default:
            return false;
    }
}

template <class T>
EdgeLaunchers<T> launchers_of(const EdgePassShape& shape) {
    EdgeLaunchers<T> launchers;
    if (!find(shape, launchers)) {
        throw Error("no kernel of the device for values of degree " + std::to_string(shape.value_degree) +
                    ", harmonics of degree " + std::to_string(shape.harmonic_degree) + " and messages of degree " +
                    std::to_string(shape.message_degree) + " with " + std::to_string(shape.channels) +
                    " channels and " + std::to_string(shape.heads) + " heads; run this model on the processor");
    }
    return launchers;
}

}  // namespace

bool device_edge_supported(const EdgePassShape& shape) {
    EdgeLaunchers<float> launchers;
    return find(shape, launchers);
}

template <class T>
void device_edge_forward(const DeviceEdgeInput<T>& in, T* aggregated, T* total, cudaStream_t stream) {
    launchers_of<T>(in.shape).forward(in, aggregated, total, stream);
}
template <class T>
void device_edge_backward(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, cudaStream_t stream) {
    launchers_of<T>(in.shape).backward(in, pull, stream);
}
template <class T>
void device_edge_gather(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, T* value_pull,
                        cudaStream_t stream) {
    launchers_of<T>(in.shape).gather(in, pull, value_pull, stream);
}

template void device_edge_forward(const DeviceEdgeInput<float>&, float*, float*, cudaStream_t);
template void device_edge_forward(const DeviceEdgeInput<double>&, double*, double*, cudaStream_t);
template void device_edge_backward(const DeviceEdgeInput<float>&, const DeviceEdgePull<float>&, cudaStream_t);
template void device_edge_backward(const DeviceEdgeInput<double>&, const DeviceEdgePull<double>&, cudaStream_t);
template void device_edge_gather(const DeviceEdgeInput<float>&, const DeviceEdgePull<float>&, float*, cudaStream_t);
template void device_edge_gather(const DeviceEdgeInput<double>&, const DeviceEdgePull<double>&, double*, cudaStream_t);

}  // namespace symmd
