// Products of a tile of atoms with the matrices of the channel mixing (docs/theory.md, eq. 14, 22, 49), by one block:
// features in shared memory, weights through the caches, sums in registers.
//
// A thread takes four columns of one item: the rows of one degree of one atom, or of a few atoms where a degree has few
// rows, so that each weight that is loaded serves 4 to 7 rows.
#pragma once

#include "cuda/platform.h"

namespace symmd {

inline constexpr int node_threads = 256;

// Four numbers, loaded at once.
template <class T>
struct alignas(16) Quad {
    T at[4];
};

// Four weights, which nobody writes while the kernel runs.
__device__ __forceinline__ Quad<float> load_weights(const float* from) {
    const float4 numbers = __ldg(reinterpret_cast<const float4*>(from));
    return {{numbers.x, numbers.y, numbers.z, numbers.w}};
}
__device__ __forceinline__ Quad<double> load_weights(const double* from) {
    const double2* const halves = reinterpret_cast<const double2*>(from);
    const double2 first = __ldg(halves), last = __ldg(halves + 1);
    return {{first.x, first.y, last.x, last.y}};
}

// y[atom, row] = Σ_part x_part[atom, row] · weight_part[degree], or, with `targets`, a y for each part.
template <class T>
struct TileMixing {
    static constexpr int most = 4;
    struct Part {
        int x, x_stride;  // in shared memory, and from one atom to the next; numbers
        int degree;       // this part goes so far
        bool by_species;
        const T* weight;  // [degree (, species), inputs, outputs]
        T* y;             // of the first part, or with `targets` of each; in shared or global memory
        int64_t y_stride;
    };
    Part part[most];
    int parts, count, inputs, outputs, degree, species_count;  // count: of atoms
    bool targets, add;
    bool together;           // items of several atoms; not with matrices by species
    const int32_t* species;  // [count]

    // Empties it. Fields are set one by one, as shared memory holds anything.
    __device__ void start(int count_of_atoms, int inputs_of_a_row, int outputs_of_a_row, int highest_degree) {
        parts = 0;
        targets = add = together = false;
        count = count_of_atoms;
        inputs = inputs_of_a_row;
        outputs = outputs_of_a_row;
        degree = highest_degree;
    }
    __device__ Part& next(int x, int x_stride, const T* weight, int highest_degree) {
        Part& made = part[parts++];
        made.x = x;
        made.x_stride = x_stride;
        made.weight = weight;
        made.degree = highest_degree;
        made.by_species = false;
        return made;
    }
};

// The mixings that a kernel is going to do lie at the start of its shared memory, where all threads read them.
inline constexpr int most_mixings = 6;
template <class T>
inline constexpr int mixings_bytes = (most_mixings * int(sizeof(TileMixing<T>)) + 127) / 128 * 128;
template <class T>
__device__ __forceinline__ TileMixing<T>& mixing_at(int which) {
    SYMMD_SHARED_MEMORY(memory);
    return reinterpret_cast<TileMixing<T>*>(memory)[which];
}
// Shared memory as numbers.
template <class T>
__device__ __forceinline__ T* shared_numbers() {
    SYMMD_SHARED_MEMORY(memory);
    return reinterpret_cast<T*>(memory);
}

// Rows of `Atoms` atoms from `first` on, in degree `Degree`.
template <int Degree, int Atoms, class T>
__device__ __forceinline__ void mix_item(const TileMixing<T>& mixing, int from, int to, int first, int column) {
    constexpr int width = 2 * Degree + 1, rows = width * Atoms;
    // Rows of weights that are loaded at once: as many as there are registers for beside the sums.
    constexpr int steps = (rows > 5 ? 32 : 64) / int(sizeof(T));
    const T* const shared = shared_numbers<T>();
    const int inputs = mixing.inputs, outputs = mixing.outputs, last = mixing.count - 1;
    T sum[rows][4];
    for (int row = 0; row < rows; ++row)
        for (int n = 0; n < 4; ++n) sum[row][n] = T(0);
    for (int number = from; number < to; ++number) {
        const typename TileMixing<T>::Part& part = mixing.part[number];
        if (Degree > part.degree) continue;
        int64_t matrix = Degree;
        if (part.by_species) matrix = matrix * mixing.species_count + mixing.species[first];
        const T* weight = part.weight + matrix * inputs * outputs + column;
        int start[Atoms];  // behind the last atom the last one is computed again
        for (int atom = 0; atom < Atoms; ++atom)
            start[atom] =
                part.x + (first + atom < last ? first + atom : last) * part.x_stride + Degree * Degree * inputs;
        for (int k = 0; k < inputs; k += steps) {
            Quad<T> loaded[steps];
#pragma unroll
            for (int step = 0; step < steps; ++step) loaded[step] = load_weights(weight + int64_t(k + step) * outputs);
#pragma unroll
            for (int row = 0; row < rows; ++row) {
                const T* const x = shared + start[row / width] + row % width * inputs + k;
#pragma unroll
                for (int four = 0; four < steps; four += 4) {
                    const Quad<T> numbers = *reinterpret_cast<const Quad<T>*>(x + four);
#pragma unroll
                    for (int step = 0; step < 4; ++step)
#pragma unroll
                        for (int n = 0; n < 4; ++n) sum[row][n] += numbers.at[step] * loaded[four + step].at[n];
                }
            }
        }
    }
    const typename TileMixing<T>::Part& part = mixing.part[from];
#pragma unroll
    for (int row = 0; row < rows; ++row) {
        const int atom = first + row / width;
        if (atom > last) continue;
        Quad<T>* const y = reinterpret_cast<Quad<T>*>(part.y + atom * part.y_stride +
                                                      (Degree * Degree + row % width) * outputs + column);
        Quad<T> result;
        if (mixing.add) {
            result = *y;
            for (int n = 0; n < 4; ++n) result.at[n] += sum[row][n];
        } else {
            for (int n = 0; n < 4; ++n) result.at[n] = sum[row][n];
        }
        *y = result;
    }
}

// By all threads of the block; the caller's barriers are before and behind it. One copy of the code for all mixings:
// `which` they lie at.
template <class T>
__device__ __attribute__((noinline)) void mix_tile(int which) {
    const TileMixing<T>& mixing = mixing_at<T>(which);
    const int columns = mixing.outputs / 4, count = mixing.count;
    const auto atoms_of = [&](int degree) { return !mixing.together || degree > 1 ? 1 : degree == 1 ? 2 : 4; };
    const auto items_of = [&](int degree) { return (count + atoms_of(degree) - 1) / atoms_of(degree); };
    int items = 0;
    for (int degree = 0; degree <= mixing.degree; ++degree) items += items_of(degree);
    const int targets = mixing.targets ? mixing.parts : 1;
    for (int work = int(threadIdx.x); work < targets * items * columns; work += node_threads) {
        const int column = work % columns * 4, target = work / columns / items;
        int item = work / columns % items, degree = mixing.degree;  // those of most rows first
        for (; item >= items_of(degree); --degree) item -= items_of(degree);
        const int first = item * atoms_of(degree);
        const int from = target, to = mixing.targets ? target + 1 : mixing.parts;
        if (degree == 0) {
            if (mixing.together) {
                mix_item<0, 4>(mixing, from, to, first, column);
            } else {
                mix_item<0, 1>(mixing, from, to, first, column);
            }
        } else if (degree == 1) {
            if (mixing.together) {
                mix_item<1, 2>(mixing, from, to, first, column);
            } else {
                mix_item<1, 1>(mixing, from, to, first, column);
            }
        } else if (degree == 2) {
            mix_item<2, 1>(mixing, from, to, first, column);
        } else {
            mix_item<3, 1>(mixing, from, to, first, column);
        }
    }
}

}  // namespace symmd
