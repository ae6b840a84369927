// One evaluation of the network: forward through the layers and backward again, in tiles of atoms and in threads.
//
// Forward, each layer is an edge pass (eq. 15-19) and work at the atoms (eq. 20-23); what the way back needs of a layer
// is kept for each atom. The last layer is different: its forward and backward are done tile by tile while everything
// is in the cache, and nothing of it is kept. Then the layers are walked back to the first (eq. 33-51).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/edge_rows.h"
#include "core/network.h"
#include "symmd/engine.h"

namespace symmd {

template <class T>
class Evaluation {
  public:
    explicit Evaluation(const NetworkWeights<T>& network);

    // Fills the arrays of `out`, of which atom_energy must be there; the sum is the caller's. Throws Error for
    // coinciding atoms and for coordinates that are not finite.
    void run(const Surroundings& surroundings, int threads, GhostExchange* exchange, const Results& out);

    std::size_t memory_bytes() const;

  private:
    static constexpr int64_t tile = 12;  // atoms; multiples of the rows that a channel mixing takes at once
    static constexpr int64_t block_atoms = EdgeRows<T>::block_atoms;

    // What is kept of a layer, by atom.
    struct LayerState {
        Buffer<T> values, value_pull;          // [atoms, D1, C]; not of the first layer, whose values are the species'
        Buffer<T> queries;                     // [owned, D1, C]
        Buffer<T> skipped;                     // [owned, Dskip, C] features that the skip takes
        Buffer<T> feature_pull;                // [owned, D1, C] of the layer's input, but for what comes by `values`
        Buffer<T> aggregated, blended, total;  // [owned, D3, C], [owned, D3, C], [owned, heads]; not of the last layer
    };

    struct Thread {
        int number = 0;  // of its part of the edges
        Buffer<T> aggregated, blended, total, queries, products, updated, hidden;
        Buffer<T> updated_pull, product_pull, blended_pull, aggregated_pull, query_pull, edge_pull;
        Buffer<char> workspace;
        Buffer<int64_t> row_from, row_to;
        std::vector<Buffer<T>> value_pull;  // by layer; the first thread uses the layer's own
        Buffer<double> forces, atom_virial, sender_virial;
        std::array<double, 9> virial{};
    };

    void prepare(const Surroundings& surroundings, int threads, const Results& out);
    void forward_tile(int layer, Thread& thread, int64_t first, int64_t count);
    void project(int layer, Thread& thread, int64_t first, int64_t count);
    void read_out_last(Thread& thread, int64_t first, int64_t count);
    void backward_tile(int layer, Thread& thread, int64_t first, int64_t count);
    void pull_edges(int layer, Thread& thread, int64_t first, int64_t count, const T* aggregated, const T* total);
    void pull_features(int layer, Thread& thread, int64_t first, int64_t count);
    void skip(int layer, Thread& thread, int64_t first, int64_t count, bool back);
    void tally(Thread& thread, int64_t first, int64_t count, const int64_t* rows);
    void clear_pulls(int layer, Thread& thread);
    void sum_value_pulls(int layer, int part, int parts);
    void sum_results(int part, int parts, const Results& out);

    EdgePassInput<T> edge_input(int layer, Thread& thread, int64_t first, int64_t count);
    void mix(const Matrices<T>& weights, bool back, int degree, int64_t count, const T* x, int64_t x_stride, T* y,
             int64_t y_stride, bool add) const;
    const int64_t* rows_of(int64_t stride, int degree) const;
    bool derivatives() const { return wants_derivatives_; }
    T* value_pull(int layer, const Thread& thread);

    const NetworkWeights<T>& network_;
    const Kernels<T>& kernels_;
    const int64_t channels_;
    double cutoff_ = 0;  // the largest of the layers
    std::vector<LayerState> states_;
    std::vector<Thread> threads_;
    // [stride / C][degree] where the rows of a degree start in features with that many numbers between atoms.
    std::vector<std::array<std::vector<int64_t>, 4>> rows_;
    std::vector<int64_t> readout_from_, readout_to_;

    Surroundings around_;
    bool wants_derivatives_ = false;
    double* atom_energy_ = nullptr;
    EdgeRows<T> edges_;
    Buffer<int64_t> species_;
};

extern template class Evaluation<float>;
extern template class Evaluation<double>;

}  // namespace symmd
