// The torch operators TORCH_LIBRARY(symmd). Those that begin with _ are derivatives of others. Python's wrappers are in
// symmd_md.kernels and symmd_md.export.torchscript.
#include "operators.h"

#include <torch/library.h>
#include <torch/version.h>

#include <string>

#include "symmd/engine.h"

namespace {

// Read out of the file before it is loaded (symmd_md.operators): in another torch, a library that finds all of its
// symbols may still be wrong about what they mean.
__attribute__((used)) const char built_for[] = "symmd_torch is built for torch " TORCH_VERSION ";";

}  // namespace

// N atoms, E edges sorted by receiver, S species, C channels, D components, lengths in Å and energies in eV. An empty
// tensor is a result that was not wanted.
TORCH_LIBRARY(symmd, library) {
    // The edge pass (eq. 15-18; eq. 19 without queries and sink): row_start [N + 1], sender [E], vectors [E, 3],
    // values and queries [N, D1, C], table [2 (knots + 1), paths × C], sink [heads] -> [N, D3, C].
    library.def(
        "attention(Tensor row_start, Tensor sender, Tensor vectors, Tensor values, Tensor? queries, Tensor table, "
        "Tensor? sink, float cutoff, float gain, int harmonic_degree, int message_degree) -> Tensor");
    library.def(
        "_attention_backward(Tensor pull, Tensor row_start, Tensor sender, Tensor vectors, Tensor values, Tensor? "
        "queries, Tensor table, Tensor? sink, float cutoff, float gain, int harmonic_degree, int message_degree, "
        "bool[5] wanted) -> (Tensor vectors, Tensor values, Tensor queries, Tensor table, Tensor sink)");
    library.def(
        "_attention_backward_slope(Tensor pull, Tensor row_start, Tensor sender, Tensor vectors, Tensor values, "
        "Tensor? queries, Tensor table, Tensor? sink, float cutoff, float gain, int harmonic_degree, int "
        "message_degree, Tensor vectors_slope, Tensor values_slope, Tensor? queries_slope, bool vectors_wanted) -> "
        "(Tensor pull, Tensor vectors, Tensor values, Tensor queries, Tensor table, Tensor sink)");

    // Q and, with cube_weight, X (eq. 20-21): species [N], aggregated [N, D, C], weights [S, paths, C] ->
    // [N, 1 or 2, D_out, C].
    library.def(
        "node_products(Tensor species, Tensor aggregated, Tensor square_weight, Tensor? cube_weight, int "
        "output_degree) -> Tensor");
    library.def(
        "_node_products_backward(Tensor pull, Tensor species, Tensor aggregated, Tensor square_weight, Tensor? "
        "cube_weight, int output_degree, bool weights_wanted) -> (Tensor aggregated, Tensor square_weight, Tensor "
        "cube_weight)");
    library.def(
        "_node_products_backward_slope(Tensor pull, Tensor species, Tensor aggregated, Tensor square_weight, Tensor? "
        "cube_weight, int output_degree, Tensor slope) -> (Tensor pull, Tensor aggregated, Tensor square_weight, "
        "Tensor cube_weight)");

    // The whole network: model [bytes] holds a model file, atomic_numbers [N], positions [N, 3], cell [3, 3] with the
    // cell's vectors as rows, precision float32 or float64, threads 0 for as many as torch uses. The energy has a first
    // derivative with respect to positions and cell. The engine of a model is kept until its tensor is freed or changed
    // by torch; changes that torch does not count (through numpy or `.data`) are not noticed.
    library.def(
        "potential(Tensor model, Tensor atomic_numbers, Tensor positions, Tensor? cell=None, bool[3] pbc=[False, "
        "False, False], str precision='float32', int threads=0) -> Tensor");
    // The same with all that follows from it, each as a result without derivatives: energy [], atom_energy [N], forces
    // [N, 3], virial [3, 3] (eq. 26).
    library.def(
        "potential_derivatives(Tensor model, Tensor atomic_numbers, Tensor positions, Tensor? cell=None, bool[3] "
        "pbc=[False, False, False], str precision='float32', int threads=0) -> (Tensor energy, Tensor atom_energy, "
        "Tensor forces, Tensor virial)");

    // Whether `attention` has a kernel for these degrees.
    library.def("attention_supported(int value_degree, int harmonic_degree, int message_degree) -> bool",
                symmd_torch::attention_supported);
    // baseline, avx2 or avx512.
    library.def("instruction_set() -> str", +[]() -> std::string { return symmd::Engine::instruction_set(); });
}
