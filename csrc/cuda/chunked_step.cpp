#include "cuda/chunked_step.h"

#include <algorithm>

#include "core/atom_order.h"
#include "cuda/memory_layout.h"

namespace symmd {

namespace {

template <class T>
std::vector<T> downloaded(const T* from, int64_t count, cudaStream_t stream) {
    std::vector<T> to(static_cast<std::size_t>(count));
    if (count == 0) return to;
    check_cuda(cudaMemcpyAsync(to.data(), from, std::size_t(count) * sizeof(T), cudaMemcpyDeviceToHost, stream),
               "copy the neighbour list to the host");
    check_cuda(cudaStreamSynchronize(stream), "copy the neighbour list to the host");
    return to;
}

// `from` belongs to a piece and stays as it is until the step is over.
void queue_upload(int32_t* to, const std::vector<int32_t>& from, cudaStream_t stream) {
    if (from.empty()) return;
    check_cuda(cudaMemcpyAsync(to, from.data(), from.size() * sizeof(int32_t), cudaMemcpyHostToDevice, stream),
               "copy a piece to the device");
}

}  // namespace

template <class T>
StepSizes ChunkedStep<T>::sizes_of(const Chunk& chunk, const WantedResults& wanted) {
    StepSizes sizes;
    for (int layer = 0; layer + 1 < int(chunk.reach.size()); ++layer) {
        sizes.receivers.push_back(chunk.receivers(layer));
        sizes.senders.push_back(chunk.senders(layer));
    }
    sizes.edges = chunk.edges();
    sizes.derivatives = wanted.derivatives();
    return sizes;
}

template <class T>
typename ChunkedStep<T>::Arrays ChunkedStep<T>::lay_out(const std::vector<DeviceLayer<T>>& layers, int64_t heads,
                                                        const Chunk& chunk, const WantedResults& wanted, char* memory) {
    MemoryLayout layout(memory);
    Arrays arrays;
    const int64_t edges = chunk.edges(), receivers = chunk.receivers(0), senders = chunk.senders(0);
    arrays.atoms = layout.take<int32_t>(senders);
    arrays.species = layout.take<int32_t>(senders);
    arrays.row_start = layout.take<int32_t>(receivers + 1);
    for (int32_t** array : {&arrays.receiver, &arrays.sender, &arrays.edge}) *array = layout.take<int32_t>(edges);
    for (int layer = 0; layer < int(layers.size()); ++layer) {
        arrays.reverse_start.push_back(layout.take<int32_t>(chunk.senders(layer) + 1));
        // The edges of a layer are the first of all.
        arrays.reverse.push_back(layout.take<int32_t>(edges));
    }
    arrays.vectors = layout.take<Vector4<T>>(edges);
    arrays.energy = layout.take<double>(receivers);
    if (wanted.forces) arrays.forces = layout.take<double>(3 * senders);
    if (wanted.virial) arrays.virial = layout.take<double>(9);
    if (wanted.atom_virial) arrays.atom_virial = layout.take<double>(9 * senders);
    if (wanted.sender_virial) arrays.sender_virial = layout.take<double>(9 * senders);
    arrays.scratch = layout.take<double>(device_sum_scratch(senders));
    arrays.network = layout.take<char>(NetworkStep<T>::bytes(layers, heads, sizes_of(chunk, wanted)));
    arrays.end = layout.bytes();
    return arrays;
}

template <class T>
int64_t ChunkedStep<T>::bytes(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const Chunk& chunk,
                              const WantedResults& wanted) {
    return lay_out(layers, heads, chunk, wanted, nullptr).end;
}

template <class T>
void ChunkedStep<T>::clear() {
    chunks_.clear();
    memory_.free();
}

template <class T>
void ChunkedStep<T>::cut(const DeviceEdges<T>& edges, const double* positions, const double* cell,
                         const std::array<bool, 3>& periodic, const WantedResults& wanted, cudaStream_t stream) {
    clear();
    wanted_ = wanted;
    const int64_t atoms = edges.receivers;
    const std::vector<int32_t> row_start = downloaded(edges.row_start, atoms + 1, stream);
    const std::vector<int32_t> sender = downloaded(edges.sender, row_start.back(), stream);
    const ListedStructure structure{atoms, row_start.data(), sender.data()};
    std::vector<int64_t> order;
    order_along_curve(positions, atoms, cell, periodic, order);
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "ask for its free memory");
    // Others may want some of it, and arrays are made a little larger than they need to be.
    const int64_t limit = int64_t(free / 8 * 7);
    // In proportion to the memory of the whole at first, which leaves out what lies around a piece.
    StepSizes whole;
    whole.receivers.assign(network_.layers().size(), atoms);
    whole.senders = whole.receivers;
    whole.edges = row_start.back();
    whole.derivatives = wanted.derivatives();
    const double share = double(limit) / double(NetworkStep<T>::bytes(network_.layers(), network_.heads(), whole));
    int64_t members = std::clamp<int64_t>(int64_t(share * double(atoms)), 1, (atoms + 1) / 2);
    while (!cut_into(structure, order, members, limit)) {
        chunks_.clear();
        if (members == 1) throw OutOfDeviceMemory(free);
        members = std::max<int64_t>(1, members * 2 / 3);
    }
    int64_t most = 0;
    for (const Chunk& chunk : chunks_) most = std::max(most, bytes(network_.layers(), network_.heads(), chunk, wanted));
    memory_.resize(most);
}

template <class T>
bool ChunkedStep<T>::cut_into(const ListedStructure& structure, const std::vector<int64_t>& order, int64_t members,
                              int64_t limit) {
    ChunkMaker maker(structure, int(network_.layers().size()));
    for (int64_t first = 0; first < structure.atoms; first += members) {
        chunks_.push_back(maker.make(order.data() + first, std::min(members, structure.atoms - first)));
        if (bytes(network_.layers(), network_.heads(), chunks_.back(), wanted_) > limit) return false;
    }
    return true;
}

template <class T>
void ChunkedStep<T>::run(const int32_t* species, const Vector4<T>* vectors, Outcome& outcome, cudaStream_t stream) {
    outcome.clear_results(stream);
    for (const Chunk& chunk : chunks_) run_chunk(chunk, species, vectors, outcome, stream);
}

template <class T>
void ChunkedStep<T>::run_chunk(const Chunk& chunk, const int32_t* species, const Vector4<T>* vectors, Outcome& outcome,
                               cudaStream_t stream) {
    const Arrays arrays = lay_out(network_.layers(), network_.heads(), chunk, wanted_, memory_.data());
    queue_upload(arrays.atoms, chunk.atoms, stream);
    queue_upload(arrays.row_start, chunk.row_start, stream);
    queue_upload(arrays.receiver, chunk.receiver, stream);
    queue_upload(arrays.sender, chunk.sender, stream);
    queue_upload(arrays.edge, chunk.edge, stream);
    device_gather_species(species, arrays.atoms, chunk.senders(0), arrays.species, stream);
    device_gather_vectors(vectors, arrays.edge, chunk.edges(), arrays.vectors, stream);

    StepProblem<T> problem;
    problem.sizes = sizes_of(chunk, wanted_);
    problem.species = arrays.species;
    problem.energy = arrays.energy;
    for (int layer = 0; layer <= network_.last(); ++layer) {
        queue_upload(arrays.reverse_start[layer], chunk.reverse_start[layer], stream);
        queue_upload(arrays.reverse[layer], chunk.reverse[layer], stream);
        DeviceEdges<T> edges;
        edges.receivers = int32_t(chunk.receivers(layer));
        edges.standing = int32_t(chunk.senders(layer));
        edges.row_start = arrays.row_start;
        edges.receiver = arrays.receiver;
        edges.sender = arrays.sender;
        edges.reverse_start = arrays.reverse_start[layer];
        edges.reverse = arrays.reverse[layer];
        edges.vectors = arrays.vectors;
        problem.edges.push_back(edges);
    }
    step_.run(problem, arrays.network, nullptr, stream);
    const StepResults& results = outcome.results();
    device_add_rows(arrays.energy, arrays.atoms, chunk.reach[0], 1, results.atom_energy, stream);
    if (!wanted_.derivatives()) return;
    DeviceSums sums;
    sums.forces = arrays.forces;
    sums.virial = arrays.virial;
    sums.atom_virial = arrays.atom_virial;
    sums.sender_virial = arrays.sender_virial;
    device_sum_edges(problem.edges[0], step_.edge_pull(), arrays.scratch, sums, stream);
    const int64_t senders = chunk.senders(0);
    if (results.forces) device_add_rows(arrays.forces, arrays.atoms, senders, 3, results.forces, stream);
    if (results.virial) device_add_rows(arrays.virial, nullptr, 1, 9, results.virial, stream);
    if (results.atom_virial) device_add_rows(arrays.atom_virial, arrays.atoms, senders, 9, results.atom_virial, stream);
    if (results.sender_virial)
        device_add_rows(arrays.sender_virial, arrays.atoms, senders, 9, results.sender_virial, stream);
}

template class ChunkedStep<float>;
template class ChunkedStep<double>;

}  // namespace symmd
