// The weights of a network on the device, uploaded once, and which tiles of atoms its kernels take.
#pragma once

#include <cstdint>
#include <vector>

#include "core/network.h"
#include "cuda/device_memory.h"
#include "cuda/node_kernels.h"

namespace symmd {

// The kernels that there are on a device.
AvailableKernels device_kernels();

template <class T>
struct DeviceLayer {
    EdgePassShape edge;
    DeviceNodeWeights<T> node;
    const T *table = nullptr, *sink = nullptr;
    const T *species_values = nullptr, *species_queries = nullptr;  // [species, C] of the first layer
    bool is_last = false;

    int input() const { return (node.input_degree + 1) * (node.input_degree + 1) * node.channels; }  // numbers per atom
    int message() const { return (node.message_degree + 1) * (node.message_degree + 1) * node.channels; }
    int output() const { return (node.output_degree + 1) * (node.output_degree + 1) * node.channels; }
    int skipped() const { return (node.skip_degree + 1) * (node.skip_degree + 1) * node.channels; }
};

template <class T>
class DeviceNetwork {
  public:
    // To the current device. Throws Error when the device's blocks have too little shared memory for its channels.
    explicit DeviceNetwork(const NetworkWeights<T>& weights);

    const std::vector<DeviceLayer<T>>& layers() const { return layers_; }
    const DeviceLayer<T>& layer(int index) const { return layers_[index]; }
    int last() const { return int(layers_.size()) - 1; }
    int64_t channels() const { return channels_; }
    int64_t heads() const { return heads_; }
    int64_t species() const { return species_; }
    double cutoff() const { return cutoff_; }  // Å, the largest of the layers
    int hidden() const { return hidden_; }
    const DeviceMatrices<T>& readout_inner() const { return inner_; }
    const T* readout_outer() const { return outer_; }
    const double* reference_energies() const { return reference_energies_.data(); }
    // Atoms that a block takes in this layer, when there are so many altogether.
    int tile(int layer, int64_t atoms) const;
    std::size_t bytes() const { return numbers_.bytes() + reference_energies_.bytes(); }

  private:
    static constexpr int large_tile = 16, small_tile = 4;

    std::vector<DeviceLayer<T>> layers_;
    std::vector<int> largest_tile_;  // of each layer
    DeviceMatrices<T> inner_;
    const T* outer_ = nullptr;
    int64_t channels_, heads_, species_, atoms_for_large_tiles_ = 0;
    double cutoff_ = 0;
    int hidden_ = 0;
    DeviceBuffer<T> numbers_;
    DeviceBuffer<double> reference_energies_;
};

// The layers without their weights, for who only counts bytes.
template <class T>
std::vector<DeviceLayer<T>> describe_layers(const NetworkWeights<T>& weights);

extern template class DeviceNetwork<float>;
extern template class DeviceNetwork<double>;

}  // namespace symmd
