// Work at the atoms in float numbers.
#include "cuda/node_kernels.cuh"

namespace symmd {

bool device_product_supported(const ProductShape& shape) {
    return shape.degree <= 3 && shape.output_degree <= shape.degree;
}

template std::size_t node_shared_bytes(const DeviceNodeWeights<float>&, int, int);
template void prepare_node_kernels<float>(std::size_t);
template void device_node_forward(const NodeLayerForward<float>&, int, cudaStream_t);
template void device_node_last(const NodeLastLayer<float>&, int, cudaStream_t);
template void device_node_backward(const NodeLayerBackward<float>&, int, cudaStream_t);

}  // namespace symmd
