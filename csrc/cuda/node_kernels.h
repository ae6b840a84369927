// The work at the atoms on the device, between the edge passes: blend, node products, update, readout, and what the
// next layer takes of the features (docs/theory.md, eq. 14, 20-23), and the way back (eq. 46-51). One kernel for each
// layer and direction; the last layer goes both ways in one.
#pragma once

#include "core/kernels.h"
#include "cuda/platform.h"

namespace symmd {

// Matrices of one kind on the device, in both directions; null when the layer has none.
template <class T>
struct DeviceMatrices {
    const T* ahead = nullptr;  // [degree (, species), inputs, outputs]
    const T* back = nullptr;   // [degree (, species), outputs, inputs]
};

// A layer's weights at the atoms, as LayerWeights (core/network.h) has them, on the device.
template <class T>
struct DeviceNodeWeights {
    int channels = 0, species = 0;
    int input_degree = 0, message_degree = 0, output_degree = 0, skip_degree = 0;
    bool attends = true;
    int powers = 0;  // products of the aggregate: 2 with the cube, 1 with the square alone, 0 without
    DeviceMatrices<T> values, queries, blend, mix[3], skip;
    const T *square = nullptr, *cube = nullptr;  // [species, paths, C]
    const T* readout = nullptr;                  // [C] σ ω; null for the last layer
    const T* species_skip = nullptr;             // [species, C] of the first layer
};

// eq. 20-23 of atoms 0 … atoms-1. Features are [atoms, D, C].
template <class T>
struct NodeForward {
    DeviceNodeWeights<T> layer;
    int64_t atoms = 0;
    const int32_t* species = nullptr;            // [atoms]
    const double* reference_energies = nullptr;  // [species] eV; the first layer starts the energy with them, else null
    double* energy = nullptr;                    // [atoms] eV
    const T* aggregated = nullptr;               // [atoms, D3, C]
    const T* skipped = nullptr;                  // [atoms, Dskip, C] features that the skip takes; null in layer 1
};

// A layer that is not the last: keeps `blended` [atoms, D3, C] for the way back (null: nobody wants it), and gives the
// next layer its values and queries [atoms, D1, C] and what its skip takes.
template <class T>
struct NodeLayerForward {
    NodeForward<T> in;
    DeviceNodeWeights<T> next;
    T *blended = nullptr, *values = nullptr, *queries = nullptr, *skipped = nullptr;
};

// What the way back gives of a layer's atoms.
template <class T>
struct NodePull {
    T* aggregated = nullptr;  // [atoms, D3, C]
    T* updated = nullptr;     // [atoms, Dout, C], for the skip of the layer below it; null when nobody asks
};

// The last layer with its readout (eq. 23), and with `derivatives` all the way back to the aggregate.
template <class T>
struct NodeLastLayer {
    NodeForward<T> in;
    int hidden = 0;            // width of the readout, a multiple of 16
    DeviceMatrices<T> inner;   // [C, hidden]
    const T* outer = nullptr;  // [hidden]
    bool derivatives = true;
    NodePull<T> pull;
};

// eq. 46-51 of a layer that is not the last. Of the layer above come the pulls on its values [atoms, D1, C], and on
// its queries and its output for its receivers only, which may be fewer.
template <class T>
struct NodeLayerBackward {
    DeviceNodeWeights<T> layer, above;
    int64_t atoms = 0, receivers_above = 0;
    int64_t energies = 0;              // atoms whose energy counts: the first
    const int32_t* species = nullptr;  // [atoms]
    const T* blended = nullptr;        // [atoms, D3, C]; null without products
    const T *value_pull = nullptr, *query_pull = nullptr, *output_pull = nullptr;
    NodePull<T> pull;
};

// What there is a kernel for, and whether it fits into `shared_bytes` of shared memory for each block.
bool device_product_supported(const ProductShape& shape);
template <class T>
std::size_t node_shared_bytes(const DeviceNodeWeights<T>& layer, int hidden, int tile);
// Allows the kernels to take that much shared memory; on the current device, once before the first launch.
template <class T>
void prepare_node_kernels(std::size_t shared_bytes);

// All run on `stream`, in tiles of so many atoms.
template <class T>
void device_node_forward(const NodeLayerForward<T>& work, int tile, cudaStream_t stream);
template <class T>
void device_node_last(const NodeLastLayer<T>& work, int tile, cudaStream_t stream);
template <class T>
void device_node_backward(const NodeLayerBackward<T>& work, int tile, cudaStream_t stream);

}  // namespace symmd
