// What the kernels of the neighbour list share: its arrays on the device, the cell and its images, reductions and sums
// of a block, and the block that ends last.
#pragma once

#include "core/bin_grid.h"
#include "cuda/list_kernels.h"

namespace symmd {

// Motion kernels have one block for so many atoms, and at most so many blocks; the last reads what they found.
inline constexpr int list_threads = 256;
inline constexpr int most_motion_blocks = 512;
// Other kernels stride over what there is with at most so many blocks, as launching blocks that find nothing to do
// would cost more.
inline constexpr int most_list_blocks = 4096;
// Bins of half the range, a little wider than needed (core/bin_grid.cpp says why).
inline constexpr double bins_per_range = 2;
inline constexpr double width_slack = 1e-6;

// The lattice as core/lattice.h has it, and which images of it there may be: from -most to most of each of its vectors.
// An image is known by a code: most + repeats of each axis in a field of its own, so that codes are ordered as repeats
// are, and `opposite - code` is the opposite image.
struct ListGeometry {
    int32_t rank;
    int32_t most[3], field[3], mask[3];  // repeats of axis k: (code >> field[k] & mask[k]) - most[k]
    double vectors[3][3], duals[3][3], heights[3], multiples[3][3];
    double cutoff, skin;
};

// A position inside of the reduced cell, and whose it is.
struct alignas(16) PlacedAtom {
    double x, y, z;
    int32_t atom, padding;
};

struct ListBins {
    int32_t counts[3], reach[3];
    double lowest[3], per_length[3];  // bin along k: (duals[k] · r - lowest[k]) per_length[k]
    int32_t lanes;                    // of a warp that share a column of bins
};

// What lies on the device beside arrays.
struct ListState {
    ListGeometry now;
    double built_vectors[3][3], built_duals[3][3];  // when the list was built
    int32_t built;                                  // there is a list
    int32_t rebuild;                                // decided for this step; the kernels that build do nothing without
    int32_t edges;
    unsigned finished[3];  // blocks, of those kernels whose last block goes on; zero between kernels
    ListBins bins;
};

// What a block found out about the motion of its atoms. Doubles, which shuffles and loads take one by one.
struct Motion {
    double sum[3];   // Å, of the motions
    double most;     // Å², the largest
    double low[3];   // along the axes of the lattice
    double high[3];  // along the axes of the lattice
    double bad;      // first atom whose coordinates are refused, or more than any
};
inline constexpr int motion_numbers = sizeof(Motion) / sizeof(double);

struct ListArrays {
    int32_t atoms, capacity, bin_room;
    int32_t images;  // when all pairs of atoms and images are tried, 0 when bins are used
    ListState* state;
    Motion* motions;    // [blocks]
    double* reference;  // [atoms, 3] positions when the list was built
    PlacedAtom* placed;
    int32_t* turns;  // [atoms, 3] cells between positions and placed positions
    int32_t *row_start, *receiver, *sender, *code, *reverse;
    int32_t *bin_of, *bin_count, *bin_start;  // [atoms], [bin_room], [bin_room + 1]; counts are zero between builds
    PlacedAtom* binned;                       // [atoms] by bin
};

__device__ inline int warp_in_block() { return int(threadIdx.x) / warp_size; }
__device__ inline int lane_in_warp() { return int(threadIdx.x) % warp_size; }
__device__ inline double smaller(double a, double b) { return b < a ? b : a; }
__device__ inline double larger(double a, double b) { return b > a ? b : a; }

// Whether this block is the last of the grid to come here; it then sees what the others have written, by __ldcg.
__device__ inline bool ends_last(unsigned* finished) {
    __shared__ int last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(finished, 1u) == gridDim.x - 1;
        if (last) *finished = 0;
    }
    __syncthreads();
    __threadfence();
    return last != 0;
}

__device__ inline void include(Motion& motion, const Motion& other) {
    for (int x = 0; x < 3; ++x) {
        motion.sum[x] += other.sum[x];
        motion.low[x] = smaller(motion.low[x], other.low[x]);
        motion.high[x] = larger(motion.high[x], other.high[x]);
    }
    motion.most = larger(motion.most, other.most);
    motion.bad = smaller(motion.bad, other.bad);
}

__device__ inline Motion no_motion() { return {{0, 0, 0}, 0, {1e300, 1e300, 1e300}, {-1e300, -1e300, -1e300}, 1e300}; }

__device__ inline Motion warp_total(Motion motion) {
    for (int distance = warp_size / 2; distance > 0; distance /= 2) {
        Motion other;
        const double* from = motion.sum;
        double* to = other.sum;
        for (int k = 0; k < motion_numbers; ++k) to[k] = __shfl_xor_sync(all_lanes, from[k], distance);
        include(motion, other);
    }
    return motion;
}

// The same in all threads of the block.
__device__ inline Motion block_total(Motion motion) {
    __shared__ Motion parts[warp_size];
    motion = warp_total(motion);
    __syncthreads();
    if (lane_in_warp() == 0) parts[warp_in_block()] = motion;
    __syncthreads();
    const int warps = int(blockDim.x) / warp_size;
    return warp_total(lane_in_warp() < warps ? parts[lane_in_warp()] : no_motion());
}

// starts[k] = Σ counts before k, for k = 0 … count; by one block. `counts` were written by other blocks and may be
// `starts`. Returns the sum of all, also where it is beyond 32 bits; calls visit(count) for each.
template <class Visit>
__device__ inline int64_t block_scan(const int32_t* counts, int32_t* starts, int32_t count, Visit visit) {
    constexpr int each = 4;
    __shared__ long long sums[warp_size];
    const int warps = int(blockDim.x) / warp_size, lane = lane_in_warp(), warp = warp_in_block();
    long long before = 0;
    for (int64_t first = 0; first < count; first += int64_t(blockDim.x) * each) {
        const int64_t start = first + int64_t(threadIdx.x) * each;
        int32_t own[each];
        long long sum = 0;
        for (int k = 0; k < each; ++k) {
            own[k] = start + k < count ? __ldcg(counts + start + k) : 0;
            sum += own[k];
            visit(own[k]);
        }
        long long through = sum;
        for (int distance = 1; distance < warp_size; distance *= 2) {
            const long long other = __shfl_up_sync(all_lanes, through, distance);
            if (lane >= distance) through += other;
        }
        __syncthreads();
        if (lane == warp_size - 1) sums[warp] = through;
        __syncthreads();
        long long place = before + through - sum;
        for (int other = 0; other < warps; ++other) {
            if (other < warp) place += sums[other];
            before += sums[other];
        }
        for (int k = 0; k < each; ++k) {
            if (start + k < count) starts[start + k] = int32_t(place);
            place += own[k];
        }
    }
    if (threadIdx.x == 0) starts[count] = int32_t(before);
    return before;
}

// Å from an atom to its image. Explicit fma, so that each kernel computes the same bits.
__device__ inline void image_vector(const ListGeometry& cell, const int repeats[3], double image[3]) {
    for (int x = 0; x < 3; ++x)
        image[x] = fma(double(repeats[2]), cell.vectors[2][x],
                       fma(double(repeats[1]), cell.vectors[1][x], double(repeats[0]) * cell.vectors[0][x]));
}

__device__ inline int32_t image_code(const ListGeometry& cell, const int repeats[3]) {
    int32_t code = 0;
    for (int k = 0; k < 3; ++k) code |= (repeats[k] + cell.most[k]) << cell.field[k];
    return code;
}

__device__ inline void image_repeats(const ListGeometry& cell, int32_t code, int repeats[3]) {
    for (int k = 0; k < 3; ++k) repeats[k] = (code >> cell.field[k] & cell.mask[k]) - cell.most[k];
}

// The displacement from one to the image of the other and its square; that of the opposite edge is its exact opposite,
// so that both are listed or none.
__device__ inline double displacement(const PlacedAtom& from, const PlacedAtom& to, const double image[3],
                                      double vector[3]) {
    vector[0] = (to.x - from.x) + image[0];
    vector[1] = (to.y - from.y) + image[1];
    vector[2] = (to.z - from.z) + image[2];
    return fma(vector[2], vector[2], fma(vector[1], vector[1], vector[0] * vector[0]));
}

}  // namespace symmd
