// The weights of a network as the kernels take them: matrices in both directions, everything that depends on the
// species alone worked out, on cache lines. Layers count from 0.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/kernels.h"
#include "core/model_file.h"

namespace symmd {

// One matrix for each degree (or each degree and species), and their transposes for the way back.
template <class T>
struct Matrices {
    int64_t inputs = 0, outputs = 0;
    Buffer<T> forward, backward;  // [count, inputs, outputs] and [count, outputs, inputs]

    bool present() const { return inputs > 0; }
    const T* ahead(int64_t index) const { return forward.data() + index * inputs * outputs; }
    const T* back(int64_t index) const { return backward.data() + index * inputs * outputs; }
};

template <class T>
struct LayerWeights {
    EdgePassShape edge;
    ProductShape product;
    int input_degree = 0, output_degree = 0, skip_degree = 0;
    bool multiplies = false, is_last = false;
    Matrices<T> values, queries, blend, mix[3];
    Matrices<T> skip;  // [degree, species]
    Buffer<T> table, sink, square, cube;
    Buffer<T> readout;  // [C] σ ω; not of the last layer
    // Of the first layer, whose features are those of the species: eq. 14 and the skip of eq. 22, [species, C].
    Buffer<T> species_values, species_queries, species_skip;

    int input_components() const { return (input_degree + 1) * (input_degree + 1); }
    int message_components() const { return (edge.message_degree + 1) * (edge.message_degree + 1); }
    int output_components() const { return (output_degree + 1) * (output_degree + 1); }
    int skip_components() const { return (skip_degree + 1) * (skip_degree + 1); }
    int powers() const { return multiplies ? (product.cube ? 2 : 1) : 0; }
};

// Which kernels whoever is going to compute has.
struct AvailableKernels {
    bool (*edge)(const EdgePassShape&);
    bool (*product)(const ProductShape&);
};
// Those of the processor; where they are not linked, nobody may ask.
template <class T>
AvailableKernels processor_kernels();

template <class T>
struct NetworkWeights {
    int64_t channels = 0, heads = 1, species = 0;
    double energy_scale = 1;
    std::vector<double> reference_energies;  // eV
    std::vector<LayerWeights<T>> layers;
    Matrices<T> readout_inner;  // [C, hidden], hidden filled up to a multiple of 16 with zeros
    Buffer<T> readout_outer;

    // Throws ModelFileError when there is no kernel for its degrees, or a weight does not fit into T.
    explicit NetworkWeights(const ModelFile& model, const AvailableKernels& available = processor_kernels<T>());
};

extern template struct NetworkWeights<float>;
extern template struct NetworkWeights<double>;

}  // namespace symmd
