// eq. 15-19 of docs/theory.md on the device: one block for each receiver.
#pragma once

#include "cuda/edge_pass.cuh"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L1, int L2, int L3, class T>
__global__ void __launch_bounds__(most_threads, edge_blocks<EdgeKernel::forward, L1, L2, T>())
    edge_forward_kernel(const DeviceEdgeInput<T> in, const EdgePlan<T> plan, T* aggregated, T* total) {
    using Block = EdgeBlock<L1, L2, L3, T>;
    using Message = typename Block::Message;
    constexpr int D1 = Block::D1, D3 = Block::D3, paths = Block::paths, sum_size = Message::sum_size;
    SYMMD_SHARED_MEMORY(shared);
    const Block block(plan, shared);
    const int atom = int(blockIdx.x), channels = plan.channels;
    const int begin = in.edges.row_start[atom], end = in.edges.row_start[atom + 1];
    const auto sender = [&](int edge, int& other, int& source) {
        other = in.edges.sender[edge];
        source = in.species ? in.species[other] : other;
    };

    for (int slice = 0; slice < channels; slice += plan.slice) {
        const auto channel = block.channel(slice);
        T query[D1], sums[sum_size + 1];  // the last one: Z of eq. 17 without the sink
        for (int c = 0; c < D1; ++c) query[c] = T(0);
        for (int c = 0; c <= sum_size; ++c) sums[c] = T(0);
        if (plan.attends) {
            const int row = in.species ? in.species[atom] : atom;
            for (int c = 0; c < D1; ++c) query[c] = in.queries[(int64_t(row) * D1 + c) * channels + channel.number];
            Message::prepare_query(query);
        }

        for (int first = begin; first < end; first += Block::batch) {
            const int mine = first + int(threadIdx.x);
            const int count =
                block.collect(in.edges, int(threadIdx.x) < Block::batch && mine < end ? mine : -1, sender, [](int) {});
            for (int start = 0; start < count; start += plan.groups) {
                // Rows without an edge only help to sum over heads that do not lie in warps.
                const bool active = start + block.group < count;
                if (!active && plan.heads_in_warps) break;
                const auto& record = block.records[active ? start + block.group : 0];
                T sent[D1], rho[paths], formed[Message::record_size];
                for (int c = 0; c < D1; ++c)
                    sent[c] = in.values[(int64_t(record.source) * D1 + c) * channels + channel.number];
                auto rows = block.radial(record, in.table, channel.number);
                for (int p = 0; p < paths; ++p) rho[p] = rows();
                int path = 0;
                auto radial = [&]() { return rho[path++]; };
                const auto factor = Block::factors(record);
                T overlap = Message::form(factor, radial, sent, query, formed), weight = plan.gain * record.fade;
                if (plan.attends) {
                    overlap = block.sum_over_head(overlap, slice, channel, block.numbers);
                    const T score = T(5) * hyperbolic_tangent(overlap * (plan.score_scale / T(5)) * record.fade);
                    const T raised = record.fade * exponential_of(score);
                    if (active) sums[sum_size] += raised;
                    weight = record.fade * raised;
                }
                path = Message::scored_paths;
                Message::add(factor, radial, sent, active ? weight : T(0), formed, sums);
            }
        }

        block.template sum_over_groups<sum_size + 1>(sums);
        if (block.group == 0 && channel.counts) {
            T result[D3], weight = T(1);
            Message::finish_sum(sums, result);
            if (plan.attends) {
                const T all = exponential_of(in.sink[channel.head]) + sums[sum_size];
                if (channel.opens_head) total[int64_t(atom) * plan.heads + channel.head] = all;
                weight = plan.gain / all;
            }
            for (int c = 0; c < D3; ++c)
                aggregated[(int64_t(atom) * D3 + c) * channels + channel.number] = weight * result[c];
        }
    }
}

template <int L1, int L2, int L3, class T>
void launch_edge_forward(const DeviceEdgeInput<T>& in, T* aggregated, T* total, cudaStream_t stream) {
    const EdgePlan<T> plan = make_plan<T>(in.shape);
    using Block = EdgeBlock<L1, L2, L3, T>;
    constexpr int summed = Block::Message::sum_size + 1;
    static_assert(Block::shared_bytes(most_threads, 1, summed) <= most_shared_bytes);
    const std::size_t bytes = Block::shared_bytes(plan.threads(), 1, summed);
    launch(edge_forward_kernel<L1, L2, L3, T>, in.edges.receivers, plan.threads(), bytes, stream, in, plan, aggregated,
           total);
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
