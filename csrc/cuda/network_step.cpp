#include "cuda/network_step.h"

#include <algorithm>

#include "cuda/memory_layout.h"

namespace symmd {

void RowExchange::forward(void* rows, int64_t width, cudaStream_t stream) {
    const int64_t bytes = width * (precision_ == Precision::float32 ? 4 : 8);
    check_cuda(cudaMemcpyAsync(staging_.data(), rows, std::size_t(owned_ * bytes), cudaMemcpyDeviceToHost, stream),
               "copy features to the host");
    check_cuda(cudaStreamSynchronize(stream), "compute features");
    exchange_.forward(staging_.data(), width, precision_);
    check_cuda(cudaMemcpyAsync(static_cast<char*>(rows) + owned_ * bytes, staging_.data() + owned_ * bytes,
                               std::size_t((atoms_ - owned_) * bytes), cudaMemcpyHostToDevice, stream),
               "copy features to the device");
}

void RowExchange::backward(void* rows, int64_t width, cudaStream_t stream) {
    const int64_t bytes = width * (precision_ == Precision::float32 ? 4 : 8);
    check_cuda(cudaMemcpyAsync(staging_.data(), rows, std::size_t(atoms_ * bytes), cudaMemcpyDeviceToHost, stream),
               "copy pulls to the host");
    check_cuda(cudaStreamSynchronize(stream), "compute pulls on features");
    exchange_.backward(staging_.data(), width, precision_);
    check_cuda(cudaMemcpyAsync(rows, staging_.data(), std::size_t(owned_ * bytes), cudaMemcpyHostToDevice, stream),
               "copy pulls to the device");
}

template <class T>
typename NetworkStep<T>::Arrays NetworkStep<T>::lay_out(const std::vector<DeviceLayer<T>>& layers, int64_t heads,
                                                        const StepSizes& sizes, char* memory) {
    MemoryLayout layout(memory);
    Arrays arrays;
    int64_t message = 0, input = 0, query = 0, output[2] = {0, 0};
    for (std::size_t index = 0; index < layers.size(); ++index) {
        const DeviceLayer<T>& layer = layers[index];
        const int64_t receivers = sizes.receivers[index];
        LayerArrays made;
        if (index > 0) {
            // Written for the receivers of the layer below, which are at least as many as this layer's.
            const int64_t below = sizes.receivers[index - 1];
            made.values = layout.template take<T>(std::max(sizes.senders[index], below) * layer.input());
            if (layer.edge.attends) made.queries = layout.template take<T>(below * layer.input());
            made.skipped = layout.template take<T>(below * layer.skipped());
            input = std::max(input, std::max(sizes.senders[index], below) * layer.input());
            if (layer.edge.attends) query = std::max(query, receivers * layer.input());
            output[index % 2] = std::max(output[index % 2], receivers * layer.output());
        }
        made.aggregated = layout.template take<T>(receivers * layer.message());
        if (layer.node.powers > 0 && !layer.is_last)
            made.blended = layout.template take<T>(receivers * layer.message());
        if (layer.edge.attends) made.total = layout.template take<T>(receivers * heads);
        message = std::max(message, receivers * layer.message());
        arrays.layers.push_back(made);
    }
    if (sizes.derivatives) {
        arrays.edge_pull = layout.template take<T>(3 * sizes.edges);
        arrays.aggregated_pull = layout.template take<T>(message);
        if (layers.size() > 1) {
            arrays.weights = layout.template take<T>(sizes.edges * heads);
            if (layers[0].edge.attends) arrays.bends = layout.template take<T>(sizes.edges * heads);
            arrays.value_pull = layout.template take<T>(input);
            if (query > 0) arrays.query_pull = layout.template take<T>(query);
            for (int parity = 0; parity < 2; ++parity)
                if (output[parity] > 0) arrays.output_pull[parity] = layout.template take<T>(output[parity]);
        }
    }
    arrays.end = layout.bytes();
    return arrays;
}

template <class T>
int64_t NetworkStep<T>::bytes(const std::vector<DeviceLayer<T>>& layers, int64_t heads, const StepSizes& sizes) {
    return lay_out(layers, heads, sizes, nullptr).end;
}

template <class T>
DeviceEdgeInput<T> NetworkStep<T>::edge_input(int index, const StepProblem<T>& problem) const {
    const DeviceLayer<T>& layer = network_.layer(index);
    const LayerArrays& arrays = arrays_.layers[index];
    DeviceEdgeInput<T> in;
    in.shape = layer.edge;
    in.edges = problem.edges[index];
    in.table = layer.table;
    in.sink = layer.sink;
    in.values = index == 0 ? layer.species_values : arrays.values;
    in.queries = index == 0 ? layer.species_queries : arrays.queries;
    if (index == 0) in.species = problem.species;
    return in;
}

template <class T>
NodeForward<T> NetworkStep<T>::node_input(int index, const StepProblem<T>& problem) const {
    NodeForward<T> in;
    in.layer = network_.layer(index).node;
    in.atoms = problem.sizes.receivers[index];
    in.species = problem.species;
    if (index == 0) in.reference_energies = network_.reference_energies();
    in.energy = problem.energy;
    in.aggregated = arrays_.layers[index].aggregated;
    in.skipped = arrays_.layers[index].skipped;
    return in;
}

// Only the skip of a layer that has one below asks for the pull on its output.
template <class T>
NodePull<T> NetworkStep<T>::node_pull(int index) const {
    NodePull<T> pull;
    pull.aggregated = arrays_.aggregated_pull;
    pull.updated = index > 0 ? arrays_.output_pull[index % 2] : nullptr;
    return pull;
}

template <class T>
void NetworkStep<T>::forward(int index, const StepProblem<T>& problem, cudaStream_t stream) const {
    const DeviceLayer<T>& layer = network_.layer(index);
    const LayerArrays& arrays = arrays_.layers[index];
    device_edge_forward(edge_input(index, problem), arrays.aggregated, arrays.total, stream);
    const int tile = network_.tile(index, problem.sizes.receivers[index]);
    if (layer.is_last) {
        NodeLastLayer<T> work;
        work.in = node_input(index, problem);
        work.hidden = network_.hidden();
        work.inner = network_.readout_inner();
        work.outer = network_.readout_outer();
        work.derivatives = problem.sizes.derivatives;
        if (work.derivatives) work.pull = node_pull(index);
        device_node_last(work, tile, stream);
        return;
    }
    const LayerArrays& next = arrays_.layers[index + 1];
    NodeLayerForward<T> work;
    work.in = node_input(index, problem);
    work.next = network_.layer(index + 1).node;
    work.blended = problem.sizes.derivatives ? arrays.blended : nullptr;
    work.values = next.values;
    work.queries = next.queries;
    work.skipped = next.skipped;
    device_node_forward(work, tile, stream);
}

// eq. 33-45 from the pull on the aggregate, and the sums of eq. 39.
template <class T>
void NetworkStep<T>::pull_edges(int index, const StepProblem<T>& problem, cudaStream_t stream) const {
    const DeviceLayer<T>& layer = network_.layer(index);
    const DeviceEdgeInput<T> in = edge_input(index, problem);
    DeviceEdgePull<T> pull{};
    pull.pull = arrays_.aggregated_pull;
    pull.aggregated = arrays_.layers[index].aggregated;
    pull.total = arrays_.layers[index].total;
    pull.edge_pull = arrays_.edge_pull;
    pull.add = !layer.is_last;
    if (index > 0) {
        pull.weights = arrays_.weights;
        if (layer.edge.attends) {
            pull.query_pull = arrays_.query_pull;
            pull.bends = arrays_.bends;
        }
    }
    device_edge_backward(in, pull, stream);
    if (index > 0) device_edge_gather(in, pull, arrays_.value_pull, stream);
}

template <class T>
void NetworkStep<T>::pull_nodes(int index, const StepProblem<T>& problem, cudaStream_t stream) const {
    const DeviceLayer<T>& layer = network_.layer(index);
    NodeLayerBackward<T> work;
    work.layer = layer.node;
    work.above = network_.layer(index + 1).node;
    work.atoms = problem.sizes.receivers[index];
    work.receivers_above = problem.sizes.receivers[index + 1];
    work.energies = problem.sizes.receivers.back();
    work.species = problem.species;
    work.blended = arrays_.layers[index].blended;
    work.value_pull = arrays_.value_pull;
    work.query_pull = work.above.attends ? arrays_.query_pull : nullptr;
    work.output_pull = arrays_.output_pull[(index + 1) % 2];
    work.pull = node_pull(index);
    device_node_backward(work, network_.tile(index, work.atoms), stream);
}

template <class T>
void NetworkStep<T>::run(const StepProblem<T>& problem, char* memory, RowExchange* exchange, cudaStream_t stream) {
    const StepSizes& sizes = problem.sizes;
    arrays_ = lay_out(network_.layers(), network_.heads(), sizes, memory);
    const int last = network_.last();
    // Edges of which the last layer knows nothing start from zero.
    if (sizes.derivatives && sizes.receivers[last] < sizes.receivers[0])
        check_cuda(cudaMemsetAsync(arrays_.edge_pull, 0, std::size_t(3 * sizes.edges) * sizeof(T), stream),
                   "clear memory");
    for (int layer = 0; layer <= last; ++layer) {
        if (exchange && layer > 0)
            exchange->forward(arrays_.layers[layer].values, network_.layer(layer).input(), stream);
        forward(layer, problem, stream);
    }
    if (!sizes.derivatives) return;
    for (int layer = last; layer >= 0; --layer) {
        if (layer < last) pull_nodes(layer, problem, stream);
        pull_edges(layer, problem, stream);
        if (exchange && layer > 0) exchange->backward(arrays_.value_pull, network_.layer(layer).input(), stream);
    }
}

template class NetworkStep<float>;
template class NetworkStep<double>;

}  // namespace symmd
