// eq. 39 of docs/theory.md on the device: one block for each atom that sends, over the edges that leave it.
#pragma once

#include "cuda/edge_pass.cuh"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L1, int L2, int L3, class T>
__global__ void __launch_bounds__(most_threads, edge_blocks<EdgeKernel::gather, L1, L2, T>())
    edge_gather_kernel(const DeviceEdgeInput<T> in, const EdgePlan<T> plan, const DeviceEdgePull<T> from,
                       T* value_pulls) {
    using Block = EdgeBlock<L1, L2, L3, T>;
    using Message = typename Block::Message;
    constexpr int D1 = Block::D1, D3 = Block::D3;
    SYMMD_SHARED_MEMORY(shared);
    const Block block(plan, shared);
    const int atom = int(blockIdx.x), channels = plan.channels;
    const int begin = in.edges.reverse_start[atom], end = in.edges.reverse_start[atom + 1];
    const auto receiver = [&](int edge, int& other, int& source) {
        other = in.edges.receiver[edge];
        source = in.species ? in.species[other] : other;
    };

    for (int slice = 0; slice < channels; slice += plan.slice) {
        const auto channel = block.channel(slice);
        T value_pull[D1];
        for (int c = 0; c < D1; ++c) value_pull[c] = T(0);
        for (int first = begin; first < end; first += Block::batch) {
            const int mine = first + int(threadIdx.x);
            const int edge = int(threadIdx.x) < Block::batch && mine < end ? in.edges.reverse[mine] : -1;
            const int count = block.collect(in.edges, edge, receiver, [](int) {});
            for (int e = block.group; e < count; e += plan.groups) {
                const auto& record = block.records[e];
                const int64_t head = int64_t(record.edge) * plan.heads + channel.head;
                const T weight = from.weights[head];
                T pull[Message::pull_size], query[D1], bend = T(0);
                for (int c = 0; c < D3; ++c)
                    pull[c] = from.pull[(int64_t(record.atom) * D3 + c) * channels + channel.number];
                for (int c = 0; c < D1; ++c) query[c] = T(0);
                if (plan.attends) {
                    bend = from.bends[head];
                    for (int c = 0; c < D1; ++c)
                        query[c] = in.queries[(int64_t(record.source) * D1 + c) * channels + channel.number];
                    Message::prepare_query(query);
                }
                Message::prepare_pull(pull);
                auto rows = block.radial(record, in.table, channel.number);
                Message::pull_value(Block::factors(record), rows, query, pull, weight, bend, value_pull);
            }
        }
        block.template sum_over_groups<D1>(value_pull);
        if (block.group == 0 && channel.counts)
            for (int c = 0; c < D1; ++c)
                value_pulls[(int64_t(atom) * D1 + c) * channels + channel.number] = value_pull[c];
    }
}

template <int L1, int L2, int L3, class T>
void launch_edge_gather(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, T* value_pull,
                        cudaStream_t stream) {
    const EdgePlan<T> plan = make_plan<T>(in.shape);
    using Block = EdgeBlock<L1, L2, L3, T>;
    static_assert(Block::shared_bytes(most_threads, 0, Block::D1) <= most_shared_bytes);
    const std::size_t bytes = Block::shared_bytes(plan.threads(), 0, Block::D1);
    launch(edge_gather_kernel<L1, L2, L3, T>, in.edges.standing, plan.threads(), bytes, stream, in, plan, pull,
           value_pull);
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
