#include "cuda/device_network.h"

#include <algorithm>
#include <string>

#include "cuda/edge_kernels.h"

namespace symmd {

namespace {

// Collects arrays into one on the host, and hands out where each lies on the device.
template <class T>
class Packer {
  public:
    // To be called in the same order twice: first without memory on the device, then with it.
    explicit Packer(T* device) : device_(device) {}

    const T* add(const Buffer<T>& buffer) {
        if (buffer.size() == 0) return nullptr;
        const int64_t start = size_;
        size_ += (buffer.size() + 63) / 64 * 64;
        if (!device_) return nullptr;
        host_.resize(std::size_t(size_));
        std::copy_n(buffer.data(), buffer.size(), host_.begin() + start);
        return device_ + start;
    }
    DeviceMatrices<T> add(const Matrices<T>& matrices) { return {add(matrices.forward), add(matrices.backward)}; }
    int64_t size() const { return size_; }
    const std::vector<T>& host() const { return host_; }

  private:
    T* device_;
    int64_t size_ = 0;
    std::vector<T> host_;
};

template <class T>
DeviceNodeWeights<T> node_shape(const LayerWeights<T>& weights, int64_t species) {
    DeviceNodeWeights<T> node;
    node.channels = int(weights.edge.channels);
    node.species = int(species);
    node.input_degree = weights.input_degree;
    node.message_degree = weights.edge.message_degree;
    node.output_degree = weights.output_degree;
    node.skip_degree = weights.skip_degree;
    node.attends = weights.edge.attends;
    node.powers = weights.powers();
    return node;
}

template <class T>
DeviceLayer<T> pack(Packer<T>& packer, const LayerWeights<T>& weights, int64_t species) {
    DeviceLayer<T> layer;
    layer.edge = weights.edge;
    layer.is_last = weights.is_last;
    layer.table = packer.add(weights.table);
    layer.sink = packer.add(weights.sink);
    layer.species_values = packer.add(weights.species_values);
    layer.species_queries = packer.add(weights.species_queries);
    layer.node = node_shape(weights, species);
    layer.node.values = packer.add(weights.values);
    layer.node.queries = packer.add(weights.queries);
    layer.node.blend = packer.add(weights.blend);
    for (int power = 0; power < 3; ++power) layer.node.mix[power] = packer.add(weights.mix[power]);
    layer.node.skip = packer.add(weights.skip);
    layer.node.square = packer.add(weights.square);
    layer.node.cube = packer.add(weights.cube);
    layer.node.readout = packer.add(weights.readout);
    layer.node.species_skip = packer.add(weights.species_skip);
    return layer;
}

int attribute(cudaDeviceAttr which) {
    int device = 0, value = 0;
    check_cuda(cudaGetDevice(&device), "name the device");
    check_cuda(cudaDeviceGetAttribute(&value, which, device), "describe the device");
    return value;
}

}  // namespace

AvailableKernels device_kernels() { return {device_edge_supported, device_product_supported}; }

template <class T>
std::vector<DeviceLayer<T>> describe_layers(const NetworkWeights<T>& weights) {
    Packer<T> nowhere(nullptr);
    std::vector<DeviceLayer<T>> layers;
    for (const LayerWeights<T>& layer : weights.layers) layers.push_back(pack(nowhere, layer, weights.species));
    return layers;
}

template <class T>
DeviceNetwork<T>::DeviceNetwork(const NetworkWeights<T>& weights)
    : channels_(weights.channels),
      heads_(weights.heads),
      species_(weights.species),
      hidden_(int(weights.readout_inner.outputs)) {
    const auto pack_all = [&](Packer<T>& packer) {
        layers_.clear();
        for (const LayerWeights<T>& layer : weights.layers) layers_.push_back(pack(packer, layer, species_));
        inner_ = packer.add(weights.readout_inner);
        outer_ = packer.add(weights.readout_outer);
    };
    Packer<T> count(nullptr);
    pack_all(count);
    numbers_.resize(count.size());
    Packer<T> packer(numbers_.data());
    pack_all(packer);
    upload(numbers_, packer.host().data(), packer.size());
    upload(reference_energies_, weights.reference_energies.data(), int64_t(weights.reference_energies.size()));
    // Streams of their own do not wait for the copies, which may return before they have arrived.
    check_cuda(cudaStreamSynchronize(nullptr), "copy the network to the device");

    const std::size_t shared = std::size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    // Two blocks on a multiprocessor, each of which takes a kilobyte for itself; one where it must be.
    const std::size_t half = shared / 2 - 1024;
    for (const DeviceLayer<T>& layer : layers_) {
        cutoff_ = std::max(cutoff_, layer.edge.cutoff);
        const auto bytes = [&](int tile) { return node_shared_bytes(layer.node, layer.is_last ? hidden_ : 0, tile); };
        int tile = large_tile;
        while (tile > small_tile && bytes(tile) > half) tile /= 2;
        while (tile > 1 && bytes(tile) > shared) tile /= 2;
        if (bytes(tile) > shared)
            throw Error("the device has " + std::to_string(shared / 1024) +
                        " KiB of shared memory for a block, found " + "a model whose " + std::to_string(channels_) +
                        " channels need " + std::to_string((bytes(tile) + 1023) / 1024) +
                        "; use precision float32 or the processor (device cpu)");
        largest_tile_.push_back(tile);
    }
    prepare_node_kernels<T>(shared);
    atoms_for_large_tiles_ = int64_t(2 * large_tile) * attribute(cudaDevAttrMultiProcessorCount);
}

// A few atoms shall use many multiprocessors; many atoms shall share the weights that a block loads.
template <class T>
int DeviceNetwork<T>::tile(int layer, int64_t atoms) const {
    return atoms >= atoms_for_large_tiles_ ? largest_tile_[layer] : std::min(largest_tile_[layer], small_tile);
}

template std::vector<DeviceLayer<float>> describe_layers(const NetworkWeights<float>&);
template std::vector<DeviceLayer<double>> describe_layers(const NetworkWeights<double>&);
template class DeviceNetwork<float>;
template class DeviceNetwork<double>;

}  // namespace symmd
