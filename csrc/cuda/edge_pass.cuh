// How the edges of an atom are shared out over a block of threads: what the three edge kernels have in common.
//
// Threads of a block stand in rows. A row of threads takes an edge, one channel each; the rows (`groups`) take the
// edges of the atom in turns. What an edge is apart from its channels is computed once, by one thread, and put into
// shared memory; edges beyond the cutoff are dropped there. Sums over edges end with a sum over the rows, in order.
//
// Channels that do not fit a row of 256 threads are done one slice after the other. A slice holds whole heads.
#pragma once

#include "cuda/arithmetic.h"
#include "cuda/edge_kernels.h"

// Before loops that are rare or short, whose code shall not be repeated.
#ifdef __CUDACC__
#define SYMMD_ROLLED _Pragma("unroll 1")
#else
#define SYMMD_ROLLED
#endif

namespace symmd {
inline namespace SYMMD_NAMESPACE {

inline constexpr int most_threads = 256;

// Edges that are looked at together.
template <class T>
inline constexpr int edge_batch = sizeof(T) == 4 ? 128 : 64;

// Constants of one launch.
template <class T>
struct EdgePlan {
    int channels = 0, slice = 0;  // slice: channels of a row, at most
    int row = 0, groups = 0;      // threads of a row, a multiple of 32; rows of a block
    int heads = 0, width = 0;     // width: channels of a head
    bool attends = true;
    bool heads_in_warps = true;  // no head is spread over two warps, and its channels are a power of two
    int last_interval = 0;
    T square_cutoff = 0, inverse_cutoff = 0, rate = 0, gain = 0, score_scale = 0;

    int threads() const { return row * groups; }
};

// Blocks that a multiprocessor shall run at once, which is what the registers are shared out by: as many as go without
// spilling (ptxas for sm_90).
enum class EdgeKernel { forward, backward, gather };
template <EdgeKernel Kernel, int L1, int L2, class T>
constexpr int edge_blocks() {
    constexpr bool backward = Kernel == EdgeKernel::backward;
    if (sizeof(T) > 4) return L2 == 3 || (backward && L1 > 0) ? 1 : 2;
    if (L2 == 3) return backward && L1 > 1 ? 1 : 2;
    if (L1 == 2) return Kernel == EdgeKernel::gather ? 4 : backward ? 2 : 3;
    return backward && L1 == 1 ? 3 : 4;
}
// What every device gives without being asked.
inline constexpr std::size_t most_shared_bytes = 48 * 1024;

// Whether a slice can hold a head.
inline bool plan_possible(const EdgePassShape& shape) {
    return shape.channels > 0 && shape.heads > 0 && shape.channels % shape.heads == 0 &&
           (!shape.attends || shape.channels / shape.heads <= most_threads);
}

template <class T>
EdgePlan<T> make_plan(const EdgePassShape& shape) {
    EdgePlan<T> plan;
    plan.channels = int(shape.channels);
    plan.attends = shape.attends;
    plan.heads = shape.attends ? int(shape.heads) : 1;
    plan.width = plan.channels / plan.heads;
    const int slices = (plan.channels + most_threads - 1) / most_threads;
    if (shape.attends) {
        // As many heads in each slice; one more slice where they would be too wide.
        int heads = (plan.heads + slices - 1) / slices;
        if (heads * plan.width > most_threads) heads = most_threads / plan.width;
        plan.slice = heads * plan.width;
    } else {
        plan.slice = (plan.channels + slices - 1) / slices;
    }
    plan.row = (plan.slice + warp_size - 1) / warp_size * warp_size;
    plan.groups = most_threads / plan.row;
    plan.heads_in_warps = !plan.attends || (plan.width <= warp_size && (plan.width & (plan.width - 1)) == 0);
    plan.last_interval = int(shape.knots) - 1;
    // As on the processor (core/edge_geometry.h), whose cutoff is rounded to T first.
    plan.square_cutoff = T(shape.cutoff) * T(shape.cutoff);
    plan.inverse_cutoff = T(1 / shape.cutoff);
    plan.rate = T(shape.knots / shape.cutoff);
    plan.gain = T(shape.gain);
    plan.score_scale = T(1 / sqrt(double(plan.width)));
    return plan;
}

// An edge within the cutoff, as all channels see it.
template <class T, int Size>
struct alignas(16) EdgeRecord {
    T shape[Size];
    T coefficient[3], fade;
    T coefficient_slope[3], fade_slope;
    T direction[3], inverse_distance;
    int table_row;  // of the spline table, in rows of `channels` numbers
    int edge;       // its number in the list
    int atom;       // the other atom
    int source;     // row of `values` (of the gather: of `queries`)
};
// Room for the direction's numbers, so that all that follows lies on 16 bytes.
constexpr int padded_shape(int size) { return size < 4 ? 4 : (size + 3) / 4 * 4; }

template <int L1, int L2, int L3, class T>
class EdgeBlock {
  public:
    using Message = symmd::Message<L1, L2, L3, T>;
    using Record = EdgeRecord<T, padded_shape(Message::shape_size)>;
    static constexpr int D1 = Message::D1, D3 = Message::D3, paths = Message::paths;
    static constexpr int batch = edge_batch<T>;
    static constexpr std::size_t numbers_start = batch * sizeof(Record) + most_threads / warp_size * sizeof(int);

    // Shared memory: records | counts of the warps | `numbers` for each thread. Sums over the rows take it all, from
    // the start, for `summed` numbers of each thread.
    static constexpr std::size_t shared_bytes(int threads, int numbers, int summed) {
        const std::size_t walk = numbers_start + std::size_t(numbers) * std::size_t(threads) * sizeof(T);
        const std::size_t sums = std::size_t(summed) * std::size_t(threads) * sizeof(T);
        return walk > sums ? walk : sums;
    }

    const EdgePlan<T>& plan;
    T* const all_shared;
    Record* const records;
    int* const counts;  // [warps]
    T* const numbers;   // [numbers, threads]
    const int group, place;

    __device__ EdgeBlock(const EdgePlan<T>& plan, char* shared)
        : plan(plan),
          all_shared(reinterpret_cast<T*>(shared)),
          records(reinterpret_cast<Record*>(shared)),
          counts(reinterpret_cast<int*>(shared + batch * sizeof(Record))),
          numbers(reinterpret_cast<T*>(shared + numbers_start)),
          group(int(threadIdx.x) / plan.row),
          place(int(threadIdx.x) % plan.row) {}

    // Channels of the slice that this thread belongs to. Threads behind the last one compute with its numbers, and
    // must not be counted.
    struct Channel {
        int number, head;
        bool counts, opens_head;
    };
    __device__ Channel channel(int slice_start) const {
        const int left = plan.channels - slice_start, size = left < plan.slice ? left : plan.slice;
        Channel channel;
        channel.counts = place < size;
        channel.number = slice_start + (channel.counts ? place : size - 1);
        channel.head = channel.number / plan.width;
        channel.opens_head = channel.counts && channel.number % plan.width == 0;
        return channel;
    }

    // Puts the edges within the cutoff among those that the threads bring into `records`, in order, and returns how
    // many there are. `edge`: of this thread, -1 for none; `outside(edge)` is called for those beyond the cutoff.
    // `other`: gives the atom of an edge and the row of its numbers. All threads of the block take part.
    template <class Other, class Outside>
    __device__ int collect(const DeviceEdges<T>& edges, int edge, const Other& other, const Outside& outside) const {
        const int warp = int(threadIdx.x) / warp_size, lane = int(threadIdx.x) % warp_size;
        Vector4<T> vector{};
        bool inside = false;
        if (edge >= 0) {
            vector = edges.vectors[edge];
            inside = vector.w < plan.square_cutoff;
            if (!inside) outside(edge);
        }
        const unsigned found = __ballot_sync(all_lanes, inside);
        // Also: nobody reads the records of the batch before any more.
        if (lane == 0) counts[warp] = __popc(found);
        __syncthreads();
        int slot = __popc(found & ((1u << lane) - 1)), count = 0;
        for (int k = 0; k < (batch + warp_size - 1) / warp_size; ++k) {
            if (k < warp) slot += counts[k];
            count += counts[k];
        }
        if (inside) {
            Record& record = records[slot];
            measure(vector, record);
            record.edge = edge;
            other(edge, record.atom, record.source);
        }
        __syncthreads();
        return count;
    }

    // The sum over the channels of the thread's head. Where heads do not lie in warps, all threads of the block must
    // come, and `scratch` [threads] is used.
    __device__ T sum_over_head(T number, int slice_start, const Channel& channel, T* scratch) const {
        if (plan.heads_in_warps) {
            if (plan.width > 1) number += __shfl_xor_sync(all_lanes, number, 1);
            if (plan.width > 2) number += __shfl_xor_sync(all_lanes, number, 2);
            if (plan.width > 4) number += __shfl_xor_sync(all_lanes, number, 4);
            if (plan.width > 8) number += __shfl_xor_sync(all_lanes, number, 8);
            if (plan.width > 16) number += __shfl_xor_sync(all_lanes, number, 16);
            return number;
        }
        scratch[threadIdx.x] = number;
        __syncthreads();
        const T* first = scratch + group * plan.row + channel.head * plan.width - slice_start;
        T sum = first[0];
        SYMMD_ROLLED
        for (int c = 1; c < plan.width; ++c) sum += first[c];
        __syncthreads();
        return sum;
    }

    // Sums of `Count` numbers over the rows, in order, left in those of row 0. All threads of the block take part. The
    // last thing of a kernel: where there are several slices, there is one row only, and nothing to do.
    template <int Count>
    __device__ void sum_over_groups(T* values) const {
        if (plan.groups == 1) return;
        const int threads = plan.row * plan.groups;
        __syncthreads();
        for (int c = 0; c < Count; ++c) all_shared[c * threads + int(threadIdx.x)] = values[c];
        __syncthreads();
        if (group > 0) return;
        for (int c = 0; c < Count; ++c) {
            SYMMD_ROLLED
            for (int other = 1; other < plan.groups; ++other)
                values[c] += all_shared[c * threads + other * plan.row + place];
        }
    }

    __device__ static auto factors(const Record& record) {
        return [&record](auto k) { return Message::factor_of(record.shape, k); };
    }

    __device__ Radial<paths, T> radial(const Record& record, const T* table, int channel) const {
        return {record.coefficient, record.coefficient_slope,
                table + (int64_t(record.table_row) * plan.channels + channel), plan.channels};
    }

  private:
    __device__ void measure(const Vector4<T>& vector, Record& record) const {
        const T distance = square_root(vector.w), inverse_distance = T(1) / distance;
        const T direction[3] = {vector.x * inverse_distance, vector.y * inverse_distance, vector.z * inverse_distance};
        for (int axis = 0; axis < 3; ++axis) record.direction[axis] = direction[axis];
        record.inverse_distance = inverse_distance;
        if constexpr (Message::shape_size > 0) Message::make_shape(direction, record.shape);
        envelope<T, T>(distance * plan.inverse_cutoff, plan.inverse_cutoff, record.fade, record.fade_slope);
        const T position = distance * plan.rate;
        int interval = int(position);
        interval = interval < plan.last_interval ? interval : plan.last_interval;
        record.table_row = 2 * interval * paths;
        spline_coefficients<T, T>(position - T(interval), plan.rate, record.coefficient, record.coefficient_slope);
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
