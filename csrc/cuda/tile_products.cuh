// Node products of a tile of atoms, one thread for each atom and channel (docs/theory.md, eq. 20-21, 46-47).
#pragma once

#include <type_traits>

#include "core/node_products.h"
#include "cuda/tile_mixing.cuh"

namespace symmd {

// Calls body(integral constants degree, output degree, cube) for output degree <= degree <= 3.
template <int Code = 0, class Body>
__device__ __forceinline__ void with_products(int degree, int output_degree, bool cube, Body&& body) {
    if constexpr (Code < 32) {
        constexpr int in = Code / 8, out = Code / 2 % 4;
        constexpr bool with_cube = Code % 2;
        if constexpr (out <= in) {
            if (degree == in && output_degree == out && cube == with_cube) {
                body(std::integral_constant<int, in>{}, std::integral_constant<int, out>{},
                     std::integral_constant<bool, with_cube>{});
                return;
            }
        }
        with_products<Code + 1>(degree, output_degree, cube, body);
    }
}

// What the products of a tile work on; x and y in shared memory or elsewhere.
template <class T>
struct TileProducts {
    int count, channels;
    const int32_t* species;  // [count]
    const T *square, *cube;  // [species, paths, C]
    const T* blended;        // [count, D, C]
    T* products;             // [count, powers, Dout, C]; on the way back the pulls on them
    const T* direct;         // [count, Dout, C] pull on the blended aggregate that comes by eq. 49
    T* blended_pull;         // [count, D, C]; may be `blended`
};

template <class T, int Paths>
struct ProductWeights {
    T at[Paths];
    __device__ __forceinline__ ProductWeights(const T* weights, int species, int channels, int channel) {
#pragma unroll
        for (int path = 0; path < Paths; ++path)
            at[path] = weights[(int64_t(species) * Paths + path) * channels + channel];
    }
    __device__ __forceinline__ T operator()(int path) const { return at[path]; }
};

template <int L, int LOut, bool Cube, class T>
__device__ __attribute__((noinline)) void multiply_tile(const TileProducts<T> work) {
    using Arithmetic = ProductArithmetic<L, LOut, Cube, T>;
    constexpr int D = Arithmetic::D, DOut = Arithmetic::DOut, powers = Cube ? 2 : 1;
    const int channels = work.channels;
    for (int item = int(threadIdx.x); item < work.count * channels; item += node_threads) {
        const int atom = item / channels, channel = item % channels, species = work.species[atom];
        const ProductWeights<T, Arithmetic::Square::path_count> square_weight(work.square, species, channels, channel);
        T a[D], square[Arithmetic::DMiddle], third[DOut];
        const T* const from = work.blended + int64_t(atom) * D * channels + channel;
#pragma unroll
        for (int c = 0; c < D; ++c) a[c] = from[c * channels];
        if constexpr (Cube) {
            const ProductWeights<T, Arithmetic::Third::path_count> cube_weight(work.cube, species, channels, channel);
            Arithmetic::evaluate(a, square_weight, cube_weight, square, third);
        } else {
            Arithmetic::evaluate(a, square_weight, square_weight, square, third);
        }
        T* const to = work.products + int64_t(atom) * powers * DOut * channels + channel;
#pragma unroll
        for (int c = 0; c < DOut; ++c) {
            to[c * channels] = square[c];
            if constexpr (Cube) to[(DOut + c) * channels] = third[c];
        }
    }
}

template <int L, int LOut, bool Cube, class T>
__device__ __attribute__((noinline)) void pull_products(const TileProducts<T> work) {
    using Arithmetic = ProductArithmetic<L, LOut, Cube, T>;
    constexpr int D = Arithmetic::D, DMiddle = Arithmetic::DMiddle, DOut = Arithmetic::DOut, powers = Cube ? 2 : 1;
    const int channels = work.channels;
    for (int item = int(threadIdx.x); item < work.count * channels; item += node_threads) {
        const int atom = item / channels, channel = item % channels, species = work.species[atom];
        const ProductWeights<T, Arithmetic::Square::path_count> square_weight(work.square, species, channels, channel);
        T a[D], a_pull[D], square_pull[DMiddle];
        const T* const from = work.blended + int64_t(atom) * D * channels + channel;
        const T* const pulls = work.products + int64_t(atom) * powers * DOut * channels + channel;
        const T* const direct = work.direct + int64_t(atom) * DOut * channels + channel;
#pragma unroll
        for (int c = 0; c < D; ++c) {
            a[c] = from[c * channels];
            a_pull[c] = c < DOut ? direct[c * channels] : T(0);
        }
#pragma unroll
        for (int c = 0; c < DMiddle; ++c) square_pull[c] = c < DOut ? pulls[c * channels] : T(0);
        if constexpr (Cube) {
            const ProductWeights<T, Arithmetic::Third::path_count> cube_weight(work.cube, species, channels, channel);
            T square[DMiddle], third[DOut], third_pull[DOut];
#pragma unroll
            for (int c = 0; c < DOut; ++c) third_pull[c] = pulls[(DOut + c) * channels];
            // What `third` would be is not looked at, and not computed.
            Arithmetic::evaluate(a, square_weight, cube_weight, square, third);
            Arithmetic::template pull_cube<false>(
                a, square, [&](int c) { return third_pull[c]; }, cube_weight, square_pull, a_pull, (T*)nullptr);
        }
        Arithmetic::template pull_square<false>(a, square_pull, square_weight, a_pull, (T*)nullptr);
        T* const to = work.blended_pull + int64_t(atom) * D * channels + channel;
#pragma unroll
        for (int c = 0; c < D; ++c) to[c * channels] = a_pull[c];
    }
}

}  // namespace symmd
