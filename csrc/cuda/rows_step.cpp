#include "cuda/rows_step.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "core/parallel.h"
#include "cuda/chunks.h"
#include "cuda/memory_layout.h"

namespace symmd {

namespace {

constexpr int64_t atoms_of_a_thread = 512;

}  // namespace

template <class T>
typename RowsStep<T>::Arrays RowsStep<T>::lay_out(int64_t owned, int64_t standing, int64_t edges, char* memory) {
    MemoryLayout layout(memory);
    Arrays arrays;
    arrays.species = layout.take<int32_t>(standing);
    arrays.row_start = layout.take<int32_t>(owned + 1);
    arrays.reverse_start = layout.take<int32_t>(standing + 1);
    for (int32_t** array : {&arrays.receiver, &arrays.sender, &arrays.reverse}) *array = layout.take<int32_t>(edges);
    arrays.vectors = layout.take<Vector4<T>>(edges);
    arrays.end = layout.bytes();
    return arrays;
}

// Fills the staging memory; returns the number of edges.
template <class T>
int64_t RowsStep<T>::pack(const Surroundings& around) {
    const int64_t owned = around.owned;
    const int threads = int(std::max<int64_t>(1, std::min<int64_t>(available_threads(), owned / atoms_of_a_thread)));
    rows_.prepare(around, threads, network_.cutoff());
    in_parallel(threads, [&](int part) { rows_.collect(part); });
    std::vector<int64_t> first(std::size_t(threads) + 1, 0);
    for (int part = 0; part < threads; ++part) {
        const auto& work = rows_.part(part);
        if (!work.problem.empty()) throw Error(work.problem);
        first[part + 1] = first[part] + work.row_start[work.last] - work.row_start[work.first];
    }
    const int64_t edges = first[threads], standing = rows_.standing();
    if (edges > std::numeric_limits<int32_t>::max())
        throw Error("expected at most 2147483647 pairs of neighbours on one device, found " + std::to_string(edges) +
                    "; divide the system among processes");
    if (edges > room_) room_ = std::min<int64_t>(edges + edges / 16, std::numeric_limits<int32_t>::max());
    host_.resize(lay_out(owned, standing, room_, nullptr).end);
    const Arrays to = lay_out(owned, standing, room_, host_.data());
    std::copy_n(around.species, standing, to.species);
    in_parallel(threads, [&](int part) {
        const auto& work = rows_.part(part);
        const int64_t start = work.row_start[work.first], shift = first[part] - start;
        for (int64_t i = work.first; i < work.last; ++i) {
            to.row_start[i] = int32_t(work.row_start[i] + shift);
            for (int64_t edge = work.row_start[i]; edge < work.row_start[i + 1]; ++edge) {
                const T* vector = rows_.vectors() + 3 * edge;
                const T x = vector[0], y = vector[1], z = vector[2];
                to.receiver[edge + shift] = int32_t(i);
                to.sender[edge + shift] = int32_t(rows_.sender()[edge]);
                to.vectors[edge + shift] = {x, y, z, x * x + y * y + z * z};
            }
        }
    });
    to.row_start[owned] = int32_t(edges);
    sort_by_sender(to.sender, edges, standing, to.reverse_start, to.reverse);
    return edges;
}

template <class T>
void RowsStep<T>::run(const Surroundings& around, GhostExchange* exchange, const Results& out) {
    pack(around);
    const int64_t owned = around.owned, standing = rows_.standing();
    const WantedResults wanted(out);
    const Arrays on_host = lay_out(owned, standing, room_, host_.data());
    device_.resize(on_host.end);
    const Arrays arrays = lay_out(owned, standing, room_, device_.data());
    check_cuda(cudaMemcpyAsync(device_.data(), host_.data(), std::size_t(on_host.end), cudaMemcpyHostToDevice, stream_),
               "copy the structure to the device");

    StepProblem<T> problem;
    problem.sizes.receivers.assign(network_.layers().size(), owned);
    problem.sizes.senders.assign(network_.layers().size(), standing);
    problem.sizes.edges = room_;
    problem.sizes.derivatives = wanted.derivatives();
    DeviceEdges<T> edges;
    edges.receivers = int32_t(owned);
    edges.standing = int32_t(standing);
    edges.row_start = arrays.row_start;
    edges.receiver = arrays.receiver;
    edges.sender = arrays.sender;
    edges.reverse_start = arrays.reverse_start;
    edges.reverse = arrays.reverse;
    edges.vectors = arrays.vectors;
    problem.edges.assign(network_.layers().size(), edges);
    problem.species = arrays.species;
    outcome_.prepare(wanted, owned, standing, true);
    problem.energy = outcome_.results().atom_energy;
    memory_.resize(NetworkStep<T>::bytes(network_.layers(), network_.heads(), problem.sizes));

    std::unique_ptr<RowExchange> between;
    if (exchange) {
        int64_t widest = 0;
        for (const DeviceLayer<T>& layer : network_.layers()) widest = std::max<int64_t>(widest, layer.input());
        exchanged_.resize(standing * widest * int64_t(sizeof(T)));
        between = std::make_unique<RowExchange>(*exchange, sizeof(T) == 4 ? Precision::float32 : Precision::float64,
                                                owned, standing, exchanged_);
    }
    step_.run(problem, memory_.data(), between.get(), stream_);
    if (problem.sizes.derivatives)
        device_sum_edges(edges, step_.edge_pull(), outcome_.scratch(), outcome_.sums(), stream_);
    outcome_.download(stream_);
    check_cuda(cudaStreamSynchronize(stream_), "compute a step");
    outcome_.hand_out(out, around.atoms);
}

template class RowsStep<float>;
template class RowsStep<double>;

}  // namespace symmd
