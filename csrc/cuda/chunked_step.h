// A step in pieces (chunks.h) over a list on the device, where the memory does not hold the whole.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cuda/chunks.h"
#include "cuda/network_step.h"
#include "cuda/outcome.h"

namespace symmd {

template <class T>
class ChunkedStep {
  public:
    explicit ChunkedStep(const DeviceNetwork<T>& network) : network_(network), step_(network) {}

    // Cuts the listed structure into pieces that fit into the free memory of the device. `edges`: of the list.
    // `positions` [atoms, 3] on the host and the cell decide which atoms go together. Waits for the stream. Throws
    // OutOfDeviceMemory when not even pieces of one atom fit.
    void cut(const DeviceEdges<T>& edges, const double* positions, const double* cell,
             const std::array<bool, 3>& periodic, const WantedResults& wanted, cudaStream_t stream);
    // Forgets the pieces and their memory.
    void clear();
    bool is_cut() const { return !chunks_.empty(); }
    std::size_t pieces() const { return chunks_.size(); }

    // Queues all pieces, which add to the results in `outcome`. `species` and `vectors` are those of the structure.
    void run(const int32_t* species, const Vector4<T>* vectors, Outcome& outcome, cudaStream_t stream);

    // Bytes that a piece needs.
    static int64_t bytes(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const Chunk& sizes,
                         const WantedResults& wanted);
    std::size_t memory_bytes() const { return memory_.bytes(); }

  private:
    struct Arrays {
        int32_t *atoms = nullptr, *row_start = nullptr, *receiver = nullptr, *sender = nullptr, *edge = nullptr;
        int32_t* species = nullptr;
        std::vector<int32_t*> reverse_start, reverse;
        Vector4<T>* vectors = nullptr;
        double *energy = nullptr, *forces = nullptr, *virial = nullptr, *atom_virial = nullptr,
               *sender_virial = nullptr, *scratch = nullptr;
        char* network = nullptr;
        int64_t end = 0;
    };
    static StepSizes sizes_of(const Chunk& chunk, const WantedResults& wanted);
    static Arrays lay_out(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const Chunk& chunk,
                          const WantedResults& wanted, char* memory);
    bool cut_into(const ListedStructure& structure, const std::vector<int64_t>& order, int64_t members, int64_t limit);
    void run_chunk(const Chunk& chunk, const int32_t* species, const Vector4<T>* vectors, Outcome& outcome,
                   cudaStream_t stream);

    const DeviceNetwork<T>& network_;
    NetworkStep<T> step_;
    WantedResults wanted_;
    std::vector<Chunk> chunks_;
    DeviceBuffer<char> memory_;
};

extern template class ChunkedStep<float>;
extern template class ChunkedStep<double>;

}  // namespace symmd
