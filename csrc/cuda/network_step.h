// One evaluation of the network on the device: forward through the layers and backward again over atoms and edges that
// are there, with all arrays in one piece of memory whose size is known ahead.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device_network.h"
#include "cuda/edge_kernels.h"
#include "symmd/engine.h"

namespace symmd {

// How many atoms and edges there are for each layer. A layer works on its first `receivers`, and looks at `senders`,
// the receivers first. Ordinarily all are the same; in a piece of a structure (chunks.h) each layer needs fewer than
// the one before. Edges of a layer are those of its receivers, so they are the first of all.
struct StepSizes {
    std::vector<int64_t> receivers, senders;  // [layers]
    int64_t edges = 0;                        // that there is room for
    bool derivatives = true;
};

// What a step works on. `edges` of each layer differ in their numbers of atoms and in the list by sender.
template <class T>
struct StepProblem {
    StepSizes sizes;
    std::vector<DeviceEdges<T>> edges;
    const int32_t* species = nullptr;  // [senders of the first layer]
    double* energy = nullptr;          // [receivers of the first layer] eV; those of the last layer count
};

// Values on their way to ghosts and pulls back, between layers (GhostExchange), by way of the host.
class RowExchange {
  public:
    RowExchange(GhostExchange& exchange, Precision precision, int64_t owned, int64_t atoms, PinnedBuffer<char>& staging)
        : exchange_(exchange), precision_(precision), owned_(owned), atoms_(atoms), staging_(staging) {}
    // `rows` [atoms, width] on the device; `staging` has room for them. Both wait for the stream.
    void forward(void* rows, int64_t width, cudaStream_t stream);
    void backward(void* rows, int64_t width, cudaStream_t stream);

  private:
    GhostExchange& exchange_;
    const Precision precision_;
    const int64_t owned_, atoms_;
    PinnedBuffer<char>& staging_;
};

template <class T>
class NetworkStep {
  public:
    explicit NetworkStep(const DeviceNetwork<T>& network) : network_(network) {}

    // Bytes that `run` needs for these sizes: exactly what it takes of `memory`.
    static int64_t bytes(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const StepSizes& sizes);

    // Queues the whole step: energies, and with derivatives the pulls on the edges (eq. 33-51). Throws Error only where
    // CUDA fails. `memory`: on 256 bytes.
    void run(const StepProblem<T>& problem, char* memory, RowExchange* exchange, cudaStream_t stream);
    // [edges, 3] gradient of the energy with respect to the vectors, after `run` with derivatives.
    const T* edge_pull() const { return arrays_.edge_pull; }

  private:
    struct LayerArrays {
        T *values = nullptr, *queries = nullptr, *skipped = nullptr;  // of its input
        T *aggregated = nullptr, *blended = nullptr, *total = nullptr;
    };
    struct Arrays {
        std::vector<LayerArrays> layers;
        T *edge_pull = nullptr, *weights = nullptr, *bends = nullptr;
        T *aggregated_pull = nullptr, *value_pull = nullptr, *query_pull = nullptr;
        T* output_pull[2] = {nullptr, nullptr};  // of layers with even and odd numbers
        int64_t end = 0;
    };
    // Where each array lies from `memory` on, which may be null.
    static Arrays lay_out(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const StepSizes& sizes,
                          char* memory);

    DeviceEdgeInput<T> edge_input(int layer, const StepProblem<T>& problem) const;
    NodeForward<T> node_input(int layer, const StepProblem<T>& problem) const;
    void forward(int layer, const StepProblem<T>& problem, cudaStream_t stream) const;
    void pull_edges(int layer, const StepProblem<T>& problem, cudaStream_t stream) const;
    void pull_nodes(int layer, const StepProblem<T>& problem, cudaStream_t stream) const;
    NodePull<T> node_pull(int layer) const;

    const DeviceNetwork<T>& network_;
    Arrays arrays_;
};

extern template class NetworkStep<float>;
extern template class NetworkStep<double>;

}  // namespace symmd
