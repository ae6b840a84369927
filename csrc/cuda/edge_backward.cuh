// eq. 33-38 and 42-45 of docs/theory.md on the device: one block for each receiver. The messages are computed again.
#pragma once

#include "cuda/edge_pass.cuh"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// Sums of four numbers over the lanes of a warp: lane 0 gets the first, lane 8 the second, 16 the third, 24 the fourth.
template <class T>
__device__ __forceinline__ T sum_four_over_warp(T first, T second, T third, T fourth) {
    const int lane = int(threadIdx.x) % warp_size;
    const bool upper = lane >= 16, odd = lane & 8;
    // Each half of the warp keeps two of the numbers, then each quarter one.
    T one = upper ? third : first, other = upper ? fourth : second;
    one += __shfl_xor_sync(all_lanes, upper ? first : third, 16);
    other += __shfl_xor_sync(all_lanes, upper ? second : fourth, 16);
    T sum = odd ? other : one;
    sum += __shfl_xor_sync(all_lanes, odd ? one : other, 8);
    sum += __shfl_xor_sync(all_lanes, sum, 4);
    sum += __shfl_xor_sync(all_lanes, sum, 2);
    sum += __shfl_xor_sync(all_lanes, sum, 1);
    return sum;
}

template <int L1, int L2, int L3, class T>
struct EdgeBackward {
    using Block = EdgeBlock<L1, L2, L3, T>;
    using Message = typename Block::Message;
    using Record = typename Block::Record;

    // Numbers of shared memory for each thread: the pulls on direction and distance by warps of a row (four numbers
    // for each edge and warp), and one for sums over heads.
    static constexpr int numbers(int row, int threads) {
        return (Block::batch * (row / warp_size) * 4 + threads - 1) / threads + 1;
    }

    // eq. 45 for the edges of a batch, from the sums of the warps; row by row, so that the order does not change.
    __device__ static void write_pulls(const Block& block, int count, const T* pulls, bool add, T* edge_pull) {
        const int warps = block.plan.row / warp_size, e = int(threadIdx.x);
        if (e >= count) return;
        T sum[4] = {};
        for (int warp = 0; warp < warps; ++warp)
            for (int k = 0; k < 4; ++k) sum[k] += pulls[(e * warps + warp) * 4 + k];
        const Record& record = block.records[e];
        const T along = record.direction[0] * sum[0] + record.direction[1] * sum[1] + record.direction[2] * sum[2];
        for (int axis = 0; axis < 3; ++axis) {
            const T tangential = (sum[axis] - record.direction[axis] * along) * record.inverse_distance;
            T& to = edge_pull[3 * int64_t(record.edge) + axis];
            const T pull = sum[3] * record.direction[axis] + tangential;
            to = add ? to + pull : pull;
        }
    }
};

template <int L1, int L2, int L3, class T>
__global__ void __launch_bounds__(most_threads, edge_blocks<EdgeKernel::backward, L1, L2, T>())
    edge_backward_kernel(const DeviceEdgeInput<T> in, const EdgePlan<T> plan, const DeviceEdgePull<T> out) {
    using Backward = EdgeBackward<L1, L2, L3, T>;
    using Block = typename Backward::Block;
    using Message = typename Block::Message;
    constexpr int D1 = Block::D1, D3 = Block::D3;
    SYMMD_SHARED_MEMORY(shared);
    const Block block(plan, shared);
    const int atom = int(blockIdx.x), channels = plan.channels;
    const int begin = in.edges.row_start[atom], end = in.edges.row_start[atom + 1];
    const bool to_queries = plan.attends && out.query_pull;
    const auto sender = [&](int edge, int& other, int& source) {
        other = in.edges.sender[edge];
        source = in.species ? in.species[other] : other;
    };
    T* const pulls = block.numbers;                                                // [batch, warps of a row, 4]
    T* const scratch = block.numbers + Block::batch * (plan.row / warp_size) * 4;  // [threads]

    for (int slice = 0; slice < channels; slice += plan.slice) {
        const auto channel = block.channel(slice);
        const bool add = out.add || slice > 0;
        T query[D1], query_pull[D1], pull[Message::pull_size], pull_of_aggregate = T(0), inverse_total = T(0);
        for (int c = 0; c < D1; ++c) query[c] = query_pull[c] = T(0);
        for (int c = 0; c < D3; ++c) pull[c] = out.pull[(int64_t(atom) * D3 + c) * channels + channel.number];
        if (plan.attends) {
            // G of eq. 33.
            for (int c = 0; c < D3; ++c)
                pull_of_aggregate += pull[c] * out.aggregated[(int64_t(atom) * D3 + c) * channels + channel.number];
            pull_of_aggregate = block.sum_over_head(pull_of_aggregate, slice, channel, scratch);
            inverse_total = T(1) / out.total[int64_t(atom) * plan.heads + channel.head];
            const int row = in.species ? in.species[atom] : atom;
            for (int c = 0; c < D1; ++c) query[c] = in.queries[(int64_t(row) * D1 + c) * channels + channel.number];
            Message::prepare_query(query);
        }
        Message::prepare_pull(pull);

        for (int first = begin; first < end; first += Block::batch) {
            const int mine = first + int(threadIdx.x);
            const int count = block.collect(in.edges, int(threadIdx.x) < Block::batch && mine < end ? mine : -1, sender,
                                            [&](int edge) {
                                                for (int axis = 0; axis < 3 && !add; ++axis)
                                                    out.edge_pull[3 * int64_t(edge) + axis] = T(0);
                                            });
            for (int start = 0; start < count; start += plan.groups) {
                const bool active = start + block.group < count;
                if (!active && plan.heads_in_warps) break;
                const int e = active ? start + block.group : 0;
                const auto& record = block.records[e];
                T sent[D1], value_pull[D1], overlap, pulled;
                for (int c = 0; c < D1; ++c)
                    sent[c] = in.values[(int64_t(record.source) * D1 + c) * channels + channel.number];
                auto rows = block.radial(record, in.table, channel.number);
                const auto factor = Block::factors(record);
                typename Message::Kept kept;
                Message::measure(factor, rows, sent, query, pull, to_queries, kept, overlap, pulled);

                // eq. 34, 36: f √n̄ α and f β, and the part of λ (eq. 43) that goes through the envelope.
                T weight = plan.gain * record.fade, bend = T(0), fade_pull = plan.gain * pulled;
                if (plan.attends) {
                    overlap = block.sum_over_head(overlap, slice, channel, scratch);
                    pulled = block.sum_over_head(pulled, slice, channel, scratch);
                    const T bent = hyperbolic_tangent(overlap * (plan.score_scale / T(5)) * record.fade);
                    const T raised = exponential_of(T(5) * bent), faded = record.fade * raised;
                    const T message = plan.gain * pulled;
                    const T weight_pull = (record.fade * message - pull_of_aggregate) * inverse_total;
                    const T share = faded * inverse_total;
                    const T bare_bend = weight_pull * faded * (plan.score_scale * (T(1) - bent * bent));
                    // Every channel of the head knows it: the first one counts.
                    fade_pull =
                        channel.opens_head ? weight_pull * raised + share * message + bare_bend * overlap : T(0);
                    weight = plan.gain * record.fade * share;
                    bend = record.fade * bare_bend;
                }
                if (!active) continue;
                if (out.weights && channel.opens_head) {
                    const int64_t at = int64_t(record.edge) * plan.heads + channel.head;
                    out.weights[at] = weight;
                    if (plan.attends) out.bends[at] = bend;
                }

                T direction_pull[Message::direction_pulls + 1], gradient[3],
                    distance_pull = record.fade_slope * fade_pull;
                for (int k = 0; k < Message::direction_pulls + 1; ++k) direction_pull[k] = T(0);
                Message::pull(factor, kept, sent, query, pull, weight, bend, to_queries, direction_pull, distance_pull,
                              query_pull, value_pull);
                Message::gradient(record.direction, direction_pull, gradient);
                const T sum =
                    sum_four_over_warp(channel.counts ? gradient[0] : T(0), channel.counts ? gradient[1] : T(0),
                                       channel.counts ? gradient[2] : T(0), channel.counts ? distance_pull : T(0));
                const int lane = block.place % warp_size, warp = block.place / warp_size;
                if (lane % 8 == 0) pulls[(e * (plan.row / warp_size) + warp) * 4 + lane / 8] = sum;
            }
            __syncthreads();
            Backward::write_pulls(block, count, pulls, add, out.edge_pull);
        }

        if (to_queries) {
            block.template sum_over_groups<D1>(query_pull);
            if (block.group == 0 && channel.counts) {
                Message::finish_query(query_pull);
                for (int c = 0; c < D1; ++c)
                    out.query_pull[(int64_t(atom) * D1 + c) * channels + channel.number] = query_pull[c];
            }
        }
    }
}

template <int L1, int L2, int L3, class T>
void launch_edge_backward(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, cudaStream_t stream) {
    const EdgePlan<T> plan = make_plan<T>(in.shape);
    using Block = EdgeBlock<L1, L2, L3, T>;
    using Backward = EdgeBackward<L1, L2, L3, T>;
    static_assert(Block::shared_bytes(most_threads, Backward::numbers(most_threads, most_threads), Block::D1) <=
                  most_shared_bytes);
    const std::size_t bytes =
        Block::shared_bytes(plan.threads(), Backward::numbers(plan.row, plan.threads()), Block::D1);
    launch(edge_backward_kernel<L1, L2, L3, T>, in.edges.receivers, plan.threads(), bytes, stream, in, plan, pull);
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
