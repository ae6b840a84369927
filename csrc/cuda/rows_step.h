// Steps over a caller's rows of neighbours, which are on the host (Surroundings): the edges within the cutoff are
// packed there, as for the processor, and go to the device with their vectors.
#pragma once

#include <cstdint>

#include "core/edge_rows.h"
#include "cuda/device_memory.h"
#include "cuda/network_step.h"
#include "cuda/outcome.h"

namespace symmd {

template <class T>
class RowsStep {
  public:
    RowsStep(const DeviceNetwork<T>& network, cudaStream_t stream)
        : network_(network), stream_(stream), step_(network) {}

    // As DeviceEvaluator::run, on the current device. Throws Error.
    void run(const Surroundings& around, GhostExchange* exchange, const Results& out);
    std::size_t memory_bytes() const { return device_.bytes() + memory_.bytes() + outcome_.bytes(); }

  private:
    // What goes to the device, side by side.
    struct Arrays {
        int32_t *row_start = nullptr, *receiver = nullptr, *sender = nullptr, *reverse_start = nullptr,
                *reverse = nullptr, *species = nullptr;
        Vector4<T>* vectors = nullptr;
        int64_t end = 0;
    };
    static Arrays lay_out(int64_t owned, int64_t standing, int64_t edges, char* memory);
    int64_t pack(const Surroundings& around);

    const DeviceNetwork<T>& network_;
    const cudaStream_t stream_;
    NetworkStep<T> step_;
    EdgeRows<T> rows_;
    int64_t room_ = 0;  // for edges, as their number differs from step to step
    PinnedBuffer<char> host_, exchanged_;
    DeviceBuffer<char> device_, memory_;
    Outcome outcome_;
};

extern template class RowsStep<float>;
extern template class RowsStep<double>;

}  // namespace symmd
