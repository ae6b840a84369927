// What a kernel takes and gives, and the table of kernels of one instruction set. Plain data: no instruction set is
// implied.
#pragma once

#include <cstdint>

namespace symmd {

// Sizes and constants of one edge pass. Lengths in the unit of the vectors.
struct EdgePassShape {
    int64_t channels = 0, heads = 1, knots = 0;
    int value_degree = 0, harmonic_degree = 0, message_degree = 0;  // L1, L2, L3
    double cutoff = 0, gain = 1;
    bool attends = true;
};

// Arrays are dense and row-major. D1, D3: components of values and messages. Edges of atom i: row_start[i] …
// row_start[i+1]-1.
template <class T>
struct EdgePassInput {
    const int64_t* row_start;          // [atoms + 1]
    const int64_t* sender;             // [edges]
    const T* vectors;                  // [edges, 3] r_sender - r_receiver
    const T* values;                   // [atoms, D1, C]
    const T* queries;                  // [atoms, D1, C]; unused without attention
    const T* table;                    // [2 (knots + 1), paths, C] value and slope x spacing at each knot
    const T* sink;                     // [heads]; unused without attention
    const T* vectors_slope = nullptr;  // directions of the dual numbers, shaped like what they belong to
    const T* values_slope = nullptr;
    const T* queries_slope = nullptr;
    const T* pull = nullptr;  // [atoms, D3, C] gradient of the energy with respect to the aggregate
    // What the forward pass gave, for a backward pass that shall not compute it again; both or none.
    const T* aggregated = nullptr;  // [atoms, D3, C]
    const T* total = nullptr;       // [atoms, heads]; unused without attention
};

// Where results go; a null pointer is a result that nobody asked for. `values`, `table` and `sink` are added to and
// belong to one thread; the others are written at the atoms and edges of the range.
template <class T>
struct EdgePassOutput {
    T* aggregated = nullptr;  // [atoms, D3, C]
    T* total = nullptr;       // [atoms, heads] Z of eq. 17, from the forward pass
    T* vectors = nullptr;     // [edges, 3]
    T* values = nullptr;      // [atoms, D1, C]
    T* queries = nullptr;     // [atoms, D1, C]
    T* table = nullptr;       // [2 (knots + 1), paths, C]
    T* sink = nullptr;        // [heads]
};

// Node products Q = A (x) A and X = Q (x) A of every atom, channel by channel (docs/theory.md, eq. 20-21).
struct ProductShape {
    int64_t channels = 0;
    int degree = 0, output_degree = 0;
    bool cube = true;  // with X; without it Q has only the components that leave the layer
};

template <class T>
struct ProductInput {
    const int64_t* species;  // [atoms]
    const T* aggregated;     // [atoms, D, C]
    const T* square_weight;  // [species, paths of the square, C]
    const T* cube_weight;    // [species, paths of the cube, C]
    const T* aggregated_slope = nullptr;
    const T* pull = nullptr;  // [atoms, powers, D_out, C], powers = 2 with the cube, else 1
};

template <class T>
struct ProductOutput {
    T* products = nullptr;       // [atoms, powers, D_out, C]
    T* aggregated = nullptr;     // [atoms, D, C]
    T* square_weight = nullptr;  // added to; belongs to one thread
    T* cube_weight = nullptr;
};

// Channel mixing of any set of rows: y[y_row[r] + n] = Σ_k x[x_row[r] + k] weight[k, n], or added to it
// (docs/theory.md, eq. 14, 22, 49). No row of y may occur twice.
template <class T>
struct Mixing {
    int64_t rows = 0, inputs = 0, outputs = 0;  // outputs: a multiple of 16
    const T* x = nullptr;
    const int64_t* x_row = nullptr;  // [rows] where a row of x starts
    const T* weight = nullptr;       // [inputs, outputs]
    T* y = nullptr;
    const int64_t* y_row = nullptr;  // [rows]
    bool add = false;
};

// The hidden layer of the readout: Σ_μ γ silu(a_μ) w_μ of each row, and its gradient in place of `a` (eq. 23, 51).
template <class T>
struct Readout {
    int64_t rows = 0, width = 0;  // width: a multiple of 16
    T* hidden = nullptr;          // [rows, width] a; becomes scale γ silu'(a_μ) w_μ
    const T* outer = nullptr;     // [width]
    double scale = 1;             // of the gradient
    double* energy = nullptr;     // [rows] added to
};

// Which derivative of a kernel is meant.
enum class Pass { forward, backward, backward_slope };

template <class T>
struct Kernels {
    // Bytes of 64-byte aligned workspace that a thread needs; -1 where no kernel was compiled for these degrees.
    int64_t (*edge_workspace)(const EdgePassShape&, Pass);
    void (*edge)(const EdgePassShape&, Pass, const EdgePassInput<T>&, int64_t first, int64_t last,
                 const EdgePassOutput<T>&, char* workspace);
    bool (*product_supported)(const ProductShape&);
    void (*product)(const ProductShape&, Pass, const ProductInput<T>&, int64_t first, int64_t last,
                    const ProductOutput<T>&);
    void (*mix)(const Mixing<T>&);
    void (*readout)(const Readout<T>&);
};

struct InstructionSet {
    const char* name;
    Kernels<float> single;
    Kernels<double> twofold;
};

// The best set that this processor runs; the environment variable SYMMD_INSTRUCTION_SET (baseline, avx2, avx512) forces
// one. Throws std::runtime_error when the forced one is unknown, or is not supported by the processor.
const InstructionSet& instruction_set();

template <class T>
const Kernels<T>& kernels();

}  // namespace symmd
