// The kernels of node_kernels.h, for one number type: included by one source file for each.
//
// A block takes a tile of atoms through everything between two edge passes: features in shared memory, weights through
// the caches. Regions of the shared memory hold, for each atom of the tile,
//   work      the aggregate, then its products, then the hidden layer of the readout; on the way back the pulls on them
//   blended   Ã, then the pull on it
//   updated   the features that leave the layer, then the pull on them
//   direct    the features that the skip takes, then the pull that goes past the products
#pragma once

#include "cuda/arithmetic.h"
#include "cuda/node_kernels.h"
#include "cuda/tile_products.cuh"

namespace symmd {

namespace {

__host__ __device__ constexpr int components(int degree) { return (degree + 1) * (degree + 1); }
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

// Where the regions start, in numbers of shared memory, and the numbers of an atom in each.
template <class T>
struct TileRegions {
    int work_size, blended_size, updated_size;
    int work, blended, updated, direct, end;

    __host__ __device__ TileRegions(const DeviceNodeWeights<T>& layer, int hidden, int tile) {
        const int channels = layer.channels;
        updated_size = components(layer.output_degree) * channels;
        blended_size = components(layer.message_degree) * channels;
        work_size = larger(larger(blended_size, layer.powers * updated_size), hidden);
        work = mixings_bytes<T> / int(sizeof(T));
        blended = work + tile * work_size;
        updated = blended + tile * blended_size;
        direct = updated + tile * updated_size;
        end = direct + tile * updated_size;
    }
};

// A tile's rows between global and shared memory; `count` is a multiple of four numbers.
template <class T>
__device__ __forceinline__ void copy_numbers(T* to, const T* from, int count) {
    for (int k = 4 * int(threadIdx.x); k < count; k += 4 * node_threads)
        *reinterpret_cast<Quad<T>*>(to + k) = *reinterpret_cast<const Quad<T>*>(from + k);
}
template <class T>
__device__ __forceinline__ void clear_numbers(T* to, int count) {
    for (int k = int(threadIdx.x); k < count; k += node_threads) to[k] = T(0);
}

// Items of several atoms where tiles are large: otherwise they would leave threads without work.
__device__ __forceinline__ bool takes_together(int count) { return count >= 16; }

template <class T>
__device__ __forceinline__ T sum_of_warp(T number) {
#pragma unroll
    for (int distance = warp_size / 2; distance > 0; distance /= 2)
        number += __shfl_xor_sync(all_lanes, number, distance);
    return number;
}

enum Mixings { blend_mixing, update_mixing, project_mixing, hidden_mixing, unhide_mixing, pull_mixing };

// The tile of this block.
template <class T>
struct Tile {
    const DeviceNodeWeights<T>& layer;
    const TileRegions<T> at;
    const int64_t first;
    const int count;
    const int32_t* const species;

    __device__ Tile(const DeviceNodeWeights<T>& layer, int hidden, int tile, int64_t atoms, const int32_t* all_species)
        : layer(layer),
          at(layer, hidden, tile),
          first(int64_t(blockIdx.x) * tile),
          count(int(atoms - first < tile ? atoms - first : tile)),
          species(all_species + first) {}

    __device__ int channels() const { return layer.channels; }
    __device__ T* numbers(int region) const { return shared_numbers<T>() + region; }
    // A mixing of C channels with C others.
    __device__ TileMixing<T>& start(Mixings which, int degree) const {
        TileMixing<T>& mixing = mixing_at<T>(which);
        mixing.start(count, channels(), channels(), degree);
        mixing.together = takes_together(count);
        mixing.species = species;
        mixing.species_count = layer.species;
        return mixing;
    }
    __device__ TileProducts<T> products() const {
        TileProducts<T> work;
        work.count = count;
        work.channels = channels();
        work.species = species;
        work.square = layer.square;
        work.cube = layer.cube;
        work.products = numbers(at.work);
        work.direct = numbers(at.direct);
        return work;
    }
};

// Mixings of eq. 20 and 22, by one thread each.
template <class T>
__device__ void plan_forward(const Tile<T>& tile, const NodeForward<T>& in) {
    const DeviceNodeWeights<T>& layer = tile.layer;
    const TileRegions<T>& at = tile.at;
    if (threadIdx.x == 0 && layer.powers > 0) {
        TileMixing<T>& blend = tile.start(blend_mixing, layer.message_degree);
        typename TileMixing<T>::Part& part =
            blend.next(at.work, at.blended_size, layer.blend.ahead, layer.message_degree);
        part.y = tile.numbers(at.blended);
        part.y_stride = at.blended_size;
    }
    if (threadIdx.x == warp_size) {
        TileMixing<T>& update = tile.start(update_mixing, layer.output_degree);
        typename TileMixing<T>::Part& part = update.next(layer.powers > 0 ? at.blended : at.work, at.blended_size,
                                                         layer.mix[0].ahead, layer.output_degree);
        part.y = tile.numbers(at.updated);
        part.y_stride = at.updated_size;
        for (int power = 0; power < layer.powers; ++power)
            update.next(at.work + power * at.updated_size, layer.powers * at.updated_size, layer.mix[1 + power].ahead,
                        layer.output_degree);
        if (in.skipped) {
            update.next(at.direct, components(layer.skip_degree) * tile.channels(), layer.skip.ahead, layer.skip_degree)
                .by_species = true;
            update.together = false;
        }
    }
}

// eq. 20-22: leaves h' in `updated`, Ã in `blended`, and starts the energy. All threads have passed a barrier behind
// the plan before.
template <class T>
__device__ void update_tile(const Tile<T>& tile, const NodeForward<T>& in, T* blended) {
    const DeviceNodeWeights<T>& layer = tile.layer;
    const TileRegions<T>& at = tile.at;
    const int channels = tile.channels(), aggregate = tile.count * at.blended_size;
    copy_numbers(tile.numbers(at.work), in.aggregated + tile.first * at.blended_size, aggregate);
    if (in.skipped) {
        const int skip = components(layer.skip_degree) * channels;
        copy_numbers(tile.numbers(at.direct), in.skipped + tile.first * skip, tile.count * skip);
    }
    if (in.reference_energies)
        for (int atom = int(threadIdx.x); atom < tile.count; atom += node_threads)
            in.energy[tile.first + atom] = in.reference_energies[tile.species[atom]];
    __syncthreads();
    if (layer.powers > 0) {
        mix_tile<T>(blend_mixing);
        __syncthreads();
        if (blended) copy_numbers(blended + tile.first * at.blended_size, tile.numbers(at.blended), aggregate);
        TileProducts<T> products = tile.products();
        products.blended = tile.numbers(at.blended);
        with_products(layer.message_degree, layer.output_degree, layer.powers > 1,
                      [&](auto degree, auto out, auto cube) {
                          multiply_tile<decltype(degree)::value, decltype(out)::value, decltype(cube)::value>(products);
                      });
        __syncthreads();
    }
    mix_tile<T>(update_mixing);
    __syncthreads();
    if (layer.species_skip) {
        T* const updated = tile.numbers(at.updated);
        for (int item = int(threadIdx.x); item < tile.count * channels; item += node_threads) {
            const int atom = item / channels, channel = item % channels;
            updated[atom * at.updated_size + channel] +=
                layer.species_skip[int64_t(tile.species[atom]) * channels + channel];
        }
        __syncthreads();
    }
}

// Mixings of eq. 49 from the pull in `updated` to that on the aggregate.
template <class T>
__device__ void plan_pull(const Tile<T>& tile, const NodePull<T>& pull) {
    const DeviceNodeWeights<T>& layer = tile.layer;
    const TileRegions<T>& at = tile.at;
    T* const aggregated = pull.aggregated + tile.first * at.blended_size;
    if (threadIdx.x == 4 * warp_size) {
        TileMixing<T>& pulls = tile.start(pull_mixing, layer.output_degree);
        pulls.targets = layer.powers > 0;
        typename TileMixing<T>::Part& part =
            pulls.next(at.updated, at.updated_size, layer.mix[0].back, layer.output_degree);
        part.y = layer.powers > 0 ? tile.numbers(at.direct) : aggregated;
        part.y_stride = layer.powers > 0 ? at.updated_size : at.blended_size;
        for (int power = 0; power < layer.powers; ++power) {
            typename TileMixing<T>::Part& product =
                pulls.next(at.updated, at.updated_size, layer.mix[1 + power].back, layer.output_degree);
            product.y = tile.numbers(at.work + power * at.updated_size);
            product.y_stride = layer.powers * at.updated_size;
        }
    }
}
// The blend's way back has its plan where the blend had it, which must be over.
template <class T>
__device__ void plan_unblend(const Tile<T>& tile, const NodePull<T>& pull) {
    if (threadIdx.x != 0 || tile.layer.powers == 0) return;
    const TileRegions<T>& at = tile.at;
    TileMixing<T>& unblend = tile.start(blend_mixing, tile.layer.message_degree);
    typename TileMixing<T>::Part& part =
        unblend.next(at.blended, at.blended_size, tile.layer.blend.back, tile.layer.message_degree);
    part.y = pull.aggregated + tile.first * at.blended_size;
    part.y_stride = at.blended_size;
}

// eq. 46, 47 and 49: from the pull in `updated` to that on the aggregate. `blended`: Ã of the tile.
template <class T>
__device__ void pull_tile(const Tile<T>& tile, const T* blended, const NodePull<T>& pull) {
    const DeviceNodeWeights<T>& layer = tile.layer;
    const TileRegions<T>& at = tile.at;
    if (pull.updated)
        copy_numbers(pull.updated + tile.first * at.updated_size, tile.numbers(at.updated),
                     tile.count * at.updated_size);
    mix_tile<T>(pull_mixing);
    if (layer.powers == 0) {
        const int beyond = at.blended_size - at.updated_size;  // components that nothing takes
        T* const aggregated = pull.aggregated + tile.first * at.blended_size;
        for (int item = int(threadIdx.x); item < tile.count * beyond; item += node_threads)
            aggregated[item / beyond * at.blended_size + at.updated_size + item % beyond] = T(0);
        return;
    }
    __syncthreads();
    TileProducts<T> products = tile.products();
    products.blended = blended;
    products.blended_pull = tile.numbers(at.blended);
    with_products(layer.message_degree, layer.output_degree, layer.powers > 1, [&](auto degree, auto out, auto cube) {
        pull_products<decltype(degree)::value, decltype(out)::value, decltype(cube)::value>(products);
    });
    __syncthreads();
    mix_tile<T>(blend_mixing);
}

template <class T>
__global__ void __launch_bounds__(node_threads, 2) node_forward_kernel(NodeLayerForward<T> work, int size) {
    const Tile<T> tile(work.in.layer, 0, size, work.in.atoms, work.in.species);
    const TileRegions<T>& at = tile.at;
    const int channels = tile.channels(), input = components(work.next.input_degree) * channels;
    plan_forward(tile, work.in);
    if (threadIdx.x == 2 * warp_size) {
        TileMixing<T>& project = tile.start(project_mixing, work.next.input_degree);
        project.targets = true;
        for (int number = 0; number < (work.next.attends ? 2 : 1); ++number) {
            const DeviceMatrices<T>& matrices = number == 0 ? work.next.values : work.next.queries;
            typename TileMixing<T>::Part& part =
                project.next(at.updated, at.updated_size, matrices.ahead, work.next.input_degree);
            part.y = (number == 0 ? work.values : work.queries) + tile.first * input;
            part.y_stride = input;
        }
    }
    update_tile(tile, work.in, work.blended);

    mix_tile<T>(project_mixing);
    const T* const updated = tile.numbers(at.updated);
    const int skipped = components(work.next.skip_degree) * channels;
    for (int item = 4 * int(threadIdx.x); item < tile.count * skipped; item += 4 * node_threads)
        *reinterpret_cast<Quad<T>*>(work.skipped + tile.first * skipped + item) =
            *reinterpret_cast<const Quad<T>*>(updated + item / skipped * at.updated_size + item % skipped);
    const int lane = int(threadIdx.x) % warp_size;
    for (int atom = int(threadIdx.x) / warp_size; atom < tile.count; atom += node_threads / warp_size) {
        T part = T(0);
        for (int channel = lane; channel < channels; channel += warp_size)
            part += updated[atom * at.updated_size + channel] * work.in.layer.readout[channel];
        const double sum = sum_of_warp(double(part));
        if (lane == 0) work.in.energy[tile.first + atom] += sum;
    }
}

// The hidden layer of the readout (eq. 23, 51): its inputs in `work` become their pulls.
template <class T>
__device__ void read_out_tile(const Tile<T>& tile, const NodeLastLayer<T>& work) {
    const T gain = T(1.6768);
    T* const all = tile.numbers(tile.at.work);
    const int lane = int(threadIdx.x) % warp_size;
    for (int atom = int(threadIdx.x) / warp_size; atom < tile.count; atom += node_threads / warp_size) {
        T* const hidden = all + atom * work.hidden;
        double energy = 0;
        for (int k = lane; k < work.hidden; k += warp_size) {
            const T a = hidden[k], outer = work.outer[k];
            const T bounded = a > T(-60) ? (a < T(60) ? a : T(60)) : T(-60);
            const T gate = T(1) / (T(1) + exponential_of(-bounded));
            energy += double(gain * outer * a * gate);
            hidden[k] = gain * outer * gate * (T(1) + a * (T(1) - gate));
        }
        energy = sum_of_warp(energy);
        if (lane == 0) work.in.energy[tile.first + atom] += energy;
    }
}

template <class T>
__global__ void __launch_bounds__(node_threads, 2) node_last_kernel(NodeLastLayer<T> work, int size) {
    const Tile<T> tile(work.in.layer, work.hidden, size, work.in.atoms, work.in.species);
    const TileRegions<T>& at = tile.at;
    plan_forward(tile, work.in);
    if (threadIdx.x == 2 * warp_size) {
        TileMixing<T>& hide = tile.start(hidden_mixing, 0);
        hide.outputs = work.hidden;
        typename TileMixing<T>::Part& part = hide.next(at.updated, at.updated_size, work.inner.ahead, 0);
        part.y = tile.numbers(at.work);
        part.y_stride = work.hidden;
    }
    if (threadIdx.x == 3 * warp_size && work.derivatives) {
        TileMixing<T>& unhide = tile.start(unhide_mixing, 0);
        unhide.inputs = work.hidden;
        typename TileMixing<T>::Part& part = unhide.next(at.work, work.hidden, work.inner.back, 0);
        part.y = tile.numbers(at.updated);
        part.y_stride = at.updated_size;
    }
    if (work.derivatives) plan_pull(tile, work.pull);
    update_tile(tile, work.in, static_cast<T*>(nullptr));

    mix_tile<T>(hidden_mixing);
    __syncthreads();
    if (work.derivatives) plan_unblend(tile, work.pull);
    read_out_tile(tile, work);
    if (!work.derivatives) return;
    __syncthreads();
    mix_tile<T>(unhide_mixing);
    __syncthreads();
    pull_tile(tile, tile.numbers(at.blended), work.pull);
}

template <class T>
__global__ void __launch_bounds__(node_threads, 2) node_backward_kernel(NodeLayerBackward<T> work, int size) {
    const Tile<T> tile(work.layer, 0, size, work.atoms, work.species);
    const TileRegions<T>& at = tile.at;
    const DeviceNodeWeights<T>& above = work.above;
    const int channels = tile.channels(), skip = components(above.skip_degree) * channels;
    // eq. 50: of those three pulls on the features, the second is in `blended` and the third in `direct`.
    if (threadIdx.x == 0) {
        TileMixing<T>& gather = tile.start(update_mixing, above.input_degree);
        gather.add = true;
        gather.together = false;
        typename TileMixing<T>::Part& part =
            gather.next(at.work, at.updated_size, above.values.back, above.input_degree);
        part.y = tile.numbers(at.updated);
        part.y_stride = at.updated_size;
        if (work.query_pull) gather.next(at.blended, at.updated_size, above.queries.back, above.input_degree);
        gather.next(at.direct, skip, above.skip.back, above.skip_degree).by_species = true;
    }
    plan_pull(tile, work.pull);

    const int size_of_pull = tile.count * at.updated_size;
    copy_numbers(tile.numbers(at.work), work.value_pull + tile.first * at.updated_size, size_of_pull);
    const int64_t left = work.receivers_above - tile.first;
    const int receivers = int(left < 0 ? 0 : left < tile.count ? left : tile.count);
    if (work.query_pull) {
        copy_numbers(tile.numbers(at.blended), work.query_pull + tile.first * at.updated_size,
                     receivers * at.updated_size);
        clear_numbers(tile.numbers(at.blended) + receivers * at.updated_size,
                      size_of_pull - receivers * at.updated_size);
    }
    // The skip's components come first in the output of the layer above.
    const int output = components(above.output_degree) * channels;
    T* const direct = tile.numbers(at.direct);
    for (int item = int(threadIdx.x); item < tile.count * skip; item += node_threads) {
        const int atom = item / skip;
        direct[item] = atom < receivers ? work.output_pull[(tile.first + atom) * output + item % skip] : T(0);
    }
    T* const updated = tile.numbers(at.updated);
    for (int item = int(threadIdx.x); item < size_of_pull; item += node_threads) {
        const int atom = item / at.updated_size, place = item % at.updated_size;
        const bool read_out = place < channels && tile.first + atom < work.energies;
        updated[item] = read_out ? work.layer.readout[place] : T(0);
    }
    __syncthreads();
    mix_tile<T>(update_mixing);
    __syncthreads();
    plan_unblend(tile, work.pull);
    pull_tile(tile, work.blended ? work.blended + tile.first * at.blended_size : nullptr, work.pull);
}

int64_t tiles_of(int64_t atoms, int tile) { return (atoms + tile - 1) / tile; }

}  // namespace

template <class T>
std::size_t node_shared_bytes(const DeviceNodeWeights<T>& layer, int hidden, int tile) {
    return std::size_t(TileRegions<T>(layer, hidden, tile).end) * sizeof(T);
}

template <class T>
void prepare_node_kernels(std::size_t shared_bytes) {
    const auto allow = [&](auto kernel) {
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
                   "set the shared memory of a kernel");
    };
    allow(node_forward_kernel<T>);
    allow(node_last_kernel<T>);
    allow(node_backward_kernel<T>);
}

template <class T>
void device_node_forward(const NodeLayerForward<T>& work, int tile, cudaStream_t stream) {
    launch(node_forward_kernel<T>, tiles_of(work.in.atoms, tile), node_threads,
           node_shared_bytes(work.in.layer, 0, tile), stream, work, tile);
}
template <class T>
void device_node_last(const NodeLastLayer<T>& work, int tile, cudaStream_t stream) {
    launch(node_last_kernel<T>, tiles_of(work.in.atoms, tile), node_threads,
           node_shared_bytes(work.in.layer, work.hidden, tile), stream, work, tile);
}
template <class T>
void device_node_backward(const NodeLayerBackward<T>& work, int tile, cudaStream_t stream) {
    launch(node_backward_kernel<T>, tiles_of(work.atoms, tile), node_threads, node_shared_bytes(work.layer, 0, tile),
           stream, work, tile);
}

}  // namespace symmd
