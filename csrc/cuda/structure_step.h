// Steps of a structure of which the device finds the neighbours (System): list, network and sums, queued as one, and
// replayed as a CUDA graph once nothing changes but the positions.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/chunked_step.h"
#include "cuda/device_memory.h"
#include "cuda/list_kernels.h"
#include "cuda/network_step.h"
#include "cuda/outcome.h"
#include "symmd/engine.h"

namespace symmd {

template <class T>
class StructureStep {
  public:
    StructureStep(const DeviceNetwork<T>& network, int device, double skin, cudaStream_t stream);
    ~StructureStep();

    // As DeviceEvaluator::run, on the current device. Throws Error.
    void run(const System& system, Results& results);
    // As DeviceEvaluator::check.
    void check();
    bool captured() const { return state_->captured || !captured_.empty(); }
    int64_t list_builds() const;
    std::size_t memory_bytes() const;

  private:
    // What a step depends on besides positions and species.
    struct Key {
        int64_t atoms = -1;
        std::array<bool, 3> periodic{};
        std::array<double, 9> cell{};  // rows of open axes are zero
        WantedResults wanted;
        bool to_host = false;
        bool operator==(const Key& other) const {
            return atoms == other.atoms && periodic == other.periodic && cell == other.cell && wanted == other.wanted &&
                   to_host == other.to_host;
        }
        const double* cell_or_null() const { return periodic[0] || periodic[1] || periodic[2] ? cell.data() : nullptr; }
    };

    // All memory of a structure. Captured steps keep theirs for as long as they may be replayed.
    struct State {
        State(const DeviceNetwork<T>& network, double skin);
        ~State();
        void forget_graph();
        std::size_t bytes() const;

        Key key;
        bool ready = false;     // everything is there for `key`
        bool captured = false;  // a caller's graph works on this
        DeviceNeighbourList list;
        NetworkStep<T> step;
        ChunkedStep<T> pieces;
        bool in_pieces = false;
        DeviceBuffer<char> memory;
        DeviceBuffer<Vector4<T>> vectors;
        DeviceBuffer<double> positions;
        DeviceBuffer<int32_t> species;
        DeviceBuffer<StepStatus> unseen;
        Outcome outcome;
        PinnedBuffer<double> position_staging;
        PinnedBuffer<int32_t> species_staging;
        bool species_there = false;  // what the device has is what is staged

        // Steps since what is queued has changed, and the graph of it.
        int64_t steps = 0, layout = -1;
        cudaGraphExec_t graph = nullptr;
        bool refuses_graphs = false;
    };

    Key key_of(const System& system) const;
    void check_cell(const System& system) const;
    void check_arrays(const System& system, const Results& results) const;
    void run_until_good(const System& system, const Key& key, const Results& results, cudaStream_t stream);
    void run_nothing(const System& system, Results& results);
    void prepare(const Key& key, cudaStream_t stream);
    void prepare_list(const Key& key, int64_t edges, cudaStream_t stream);
    void fit_memory();
    void renew_captured();
    void take(const System& system, cudaStream_t stream);
    void queue(cudaStream_t stream);
    void queue_or_replay(cudaStream_t stream);
    bool make_graph();
    void run_in_pieces(const System& system, cudaStream_t stream);
    void queue_hand_out(const System& system, const Results& results, bool unseen, cudaStream_t stream);
    void run_captured(const System& system, const Results& results, cudaStream_t stream);
    bool look(const System& system, cudaStream_t stream);
    [[noreturn]] void throw_problem(const StepStatus& status, const double* positions, bool on_device);
    StepSizes sizes() const;

    const DeviceNetwork<T>& network_;
    const int device_;
    const double skin_;
    const cudaStream_t stream_;  // own
    std::unique_ptr<State> state_;
    std::vector<std::unique_ptr<State>> captured_;
};

extern template class StructureStep<float>;
extern template class StructureStep<double>;

}  // namespace symmd
