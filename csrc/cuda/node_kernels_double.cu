// Work at the atoms in double numbers.
#include "cuda/node_kernels.cuh"

namespace symmd {

template std::size_t node_shared_bytes(const DeviceNodeWeights<double>&, int, int);
template void prepare_node_kernels<double>(std::size_t);
template void device_node_forward(const NodeLayerForward<double>&, int, cudaStream_t);
template void device_node_last(const NodeLastLayer<double>&, int, cudaStream_t);
template void device_node_backward(const NodeLayerBackward<double>&, int, cudaStream_t);

}  // namespace symmd
