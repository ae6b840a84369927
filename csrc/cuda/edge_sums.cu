// Sums over the edges of each atom at the end of a step (docs/theory.md, eq. 25, 26 and 66) and over all atoms. Each
// number is added up in an order that depends on the counts alone.
#include "cuda/list_kernels.h"

#include <algorithm>

namespace symmd {

namespace {

constexpr int sum_threads = 256;
constexpr int sum_warps = sum_threads / warp_size;
constexpr int most_sum_blocks = 512;
constexpr int virial_numbers = 6;  // xx yy zz xy xz yz
constexpr int64_t numbers_of_a_block = 2048;
constexpr int most_number_blocks = 256;

int blocks_of_atoms(int64_t atoms) {
    return int(std::clamp<int64_t>((atoms + sum_warps - 1) / sum_warps, 1, most_sum_blocks));
}
int blocks_of_numbers(int64_t count) {
    return int(std::clamp<int64_t>((count + numbers_of_a_block - 1) / numbers_of_a_block, 1, most_number_blocks));
}

__device__ double warp_sum(double number) {
    for (int distance = warp_size / 2; distance > 0; distance /= 2)
        number += __shfl_xor_sync(all_lanes, number, distance);
    return number;
}

template <int Count>
__device__ void warp_sums(double (&numbers)[Count]) {
    for (int k = 0; k < Count; ++k) numbers[k] = warp_sum(numbers[k]);
}

// Adds the symmetrised virial of an edge, times `share`.
template <class T>
__device__ void add_virial(double share, const T* pull, const Vector4<T>& r, double (&virial)[virial_numbers]) {
    const double p[3] = {double(pull[0]), double(pull[1]), double(pull[2])};
    const double v[3] = {double(r.x), double(r.y), double(r.z)};
    for (int a = 0; a < 3; ++a) virial[a] -= share * (p[a] * v[a]);
    virial[3] -= 0.5 * share * (p[0] * v[1] + p[1] * v[0]);
    virial[4] -= 0.5 * share * (p[0] * v[2] + p[2] * v[0]);
    virial[5] -= 0.5 * share * (p[1] * v[2] + p[2] * v[1]);
}

__device__ void write_virial(const double (&sum)[virial_numbers], double* virial) {
    virial[0] = sum[0];
    virial[4] = sum[1];
    virial[8] = sum[2];
    virial[1] = virial[3] = sum[3];
    virial[2] = virial[6] = sum[4];
    virial[5] = virial[7] = sum[5];
}

// A warp for each atom; lanes take its edges in turn. ByAtom: with virials of atoms, which take many registers.
template <class T, bool ByAtom>
__global__ void __launch_bounds__(sum_threads)
    sum_edges_kernel(DeviceEdges<T> edges, const T* edge_pull, double* block_virial, DeviceSums sums) {
    __shared__ double parts[sum_warps][virial_numbers];
    const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
    const bool by_atom = ByAtom && sums.atom_virial != nullptr, by_sender = ByAtom && sums.sender_virial != nullptr;
    double total[virial_numbers] = {};
    for (int64_t atom = int64_t(blockIdx.x) * sum_warps + warp; atom < edges.standing;
         atom += int64_t(gridDim.x) * sum_warps) {
        double force[3] = {}, own[virial_numbers] = {}, shared[virial_numbers] = {}, sent[9] = {};
        if (atom < edges.receivers) {
            const int32_t end = edges.row_start[atom + 1];
            for (int32_t edge = edges.row_start[atom] + lane; edge < end; edge += warp_size) {
                const T* pull = edge_pull + 3 * int64_t(edge);
                for (int a = 0; a < 3; ++a) force[a] += double(pull[a]);
                if (block_virial || by_atom) add_virial(1.0, pull, edges.vectors[edge], own);
            }
        }
        const int32_t end = edges.reverse_start[atom + 1];
        for (int32_t place = edges.reverse_start[atom] + lane; place < end; place += warp_size) {
            const int32_t edge = edges.reverse[place];
            const T* pull = edge_pull + 3 * int64_t(edge);
            for (int a = 0; a < 3; ++a) force[a] -= double(pull[a]);
            if (!by_atom && !by_sender) continue;
            const Vector4<T> vector = edges.vectors[edge];
            const double v[3] = {double(vector.x), double(vector.y), double(vector.z)};
            if (by_atom) add_virial(1.0, pull, vector, shared);
            if (by_sender)
                for (int a = 0; a < 3; ++a)
                    for (int b = 0; b < 3; ++b) sent[3 * a + b] -= v[a] * double(pull[b]);
        }
        for (int k = 0; k < virial_numbers; ++k) total[k] += own[k];
        warp_sums(force);
        if (sums.forces && lane == 0)
            for (int a = 0; a < 3; ++a) sums.forces[3 * atom + a] = force[a];
        if (by_atom) {
            double half[virial_numbers];
            for (int k = 0; k < virial_numbers; ++k) half[k] = 0.5 * (own[k] + shared[k]);
            warp_sums(half);
            if (lane == 0) write_virial(half, sums.atom_virial + 9 * atom);
        }
        if (by_sender) {
            warp_sums(sent);
            if (lane == 0)
                for (int k = 0; k < 9; ++k) sums.sender_virial[9 * atom + k] = sent[k];
        }
    }
    if (!block_virial) return;
    warp_sums(total);
    if (lane == 0)
        for (int k = 0; k < virial_numbers; ++k) parts[warp][k] = total[k];
    __syncthreads();
    if (threadIdx.x >= virial_numbers) return;
    double sum = 0;
    for (int part = 0; part < sum_warps; ++part) sum += parts[part][threadIdx.x];
    block_virial[virial_numbers * blockIdx.x + threadIdx.x] = sum;
}

// A warp for each number of the virial.
__global__ void __launch_bounds__(virial_numbers* warp_size)
    sum_virial_kernel(const double* block_virial, int blocks, double* virial) {
    __shared__ double numbers[virial_numbers];
    const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
    double sum = 0;
    for (int block = lane; block < blocks; block += warp_size) sum += block_virial[virial_numbers * block + warp];
    sum = warp_sum(sum);
    if (lane == 0) numbers[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) write_virial(numbers, virial);
}

__global__ void __launch_bounds__(sum_threads) sum_kernel(const double* numbers, int64_t count, double* block_sum) {
    __shared__ double parts[sum_warps];
    const int lane = int(threadIdx.x) % warp_size, warp = int(threadIdx.x) / warp_size;
    double sum = 0;
    for (int64_t k = int64_t(blockIdx.x) * sum_threads + threadIdx.x; k < count; k += int64_t(gridDim.x) * sum_threads)
        sum += numbers[k];
    sum = warp_sum(sum);
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    sum = 0;
    for (int part = 0; part < sum_warps; ++part) sum += parts[part];
    block_sum[blockIdx.x] = sum;
}

}  // namespace

template <class T>
void device_sum_edges(const DeviceEdges<T>& edges, const T* edge_pull, double* scratch, const DeviceSums& sums,
                      cudaStream_t stream) {
    const int blocks = blocks_of_atoms(edges.standing);
    launch(sums.atom_virial || sums.sender_virial ? sum_edges_kernel<T, true> : sum_edges_kernel<T, false>, blocks,
           sum_threads, 0, stream, edges, edge_pull, sums.virial ? scratch : nullptr, sums);
    if (sums.virial) launch(sum_virial_kernel, 1, virial_numbers * warp_size, 0, stream, scratch, blocks, sums.virial);
}

int64_t device_sum_scratch(int64_t standing) {
    return std::max(virial_numbers * blocks_of_atoms(standing), blocks_of_numbers(standing));
}

void device_sum(const double* numbers, int64_t count, double* scratch, double* sum, cudaStream_t stream) {
    const int blocks = blocks_of_numbers(count);
    launch(sum_kernel, blocks, sum_threads, 0, stream, numbers, count, blocks > 1 ? scratch : sum);
    if (blocks > 1) launch(sum_kernel, 1, sum_threads, 0, stream, scratch, blocks, sum);
}

template void device_sum_edges(const DeviceEdges<float>&, const float*, double*, const DeviceSums&, cudaStream_t);
template void device_sum_edges(const DeviceEdges<double>&, const double*, double*, const DeviceSums&, cudaStream_t);

}  // namespace symmd
