// The engine of SymMD: energies and forces of an exported network, without torch and without Python.
//
//     symmd::Engine engine = symmd::Engine::load("model.pt", {});
//     symmd::System water{atoms, species, positions, cell, {true, true, true}};
//     symmd::Results results;
//     results.forces = forces;            // [atoms, 3]
//     engine.compute(water, results);     // results.energy in eV
//
// Units: eV, Å, eV/Å. Arrays are dense and row-major, coordinates are double at every precision. A species is an index
// into Engine::model().species; Engine::species_of() gives it for an atomic number.
//
// Whatever is wrong with a model file or with the atoms (a coordinate that is not finite, atoms in the same place, an
// unknown species, a cell without volume) is a symmd::Error whose text is one sentence, with atoms counted from 1.
// After an error the engine can be used as before, and what was in the arrays of the results is undefined.
//
// An engine is used by one thread at a time and runs its own OpenMP threads; several engines do not see each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "symmd/error.h"

namespace symmd {

enum class Precision {
    float32,  // arithmetic on differences of fp64 coordinates; energies are summed in fp64
    float64   // throughout, for checking
};

struct EngineOptions {
    Precision precision = Precision::float32;
    // OpenMP threads; 0 takes as many as OpenMP would, fewer for a few atoms. At most 1024. Results differ by
    // rounding between numbers of threads.
    int threads = 0;
    // Å by which the engine's own neighbour list is longer than the cutoff, so that it serves many steps.
    double skin = 1.0;
    // The same structure gives the same bits whatever was computed before. Without, the engine may visit atoms in
    // another order after its list was built anew, which is faster for thousands of atoms. Whoever gives the arrays on
    // a device (System::on_device) chooses the order there, and every run is deterministic.
    bool deterministic = false;
    // "cpu", "cuda" (which is cuda:0) or "cuda:K": where the engine computes. On a device `threads` is not looked at.
    // Needs the library symmd_cuda of a build with CUDA, beside the one with the engine or where the environment
    // variable SYMMD_CUDA_LIBRARY says (docs/cuda.md).
    std::string device = "cpu";
};

// What a model file says about its network.
struct ModelInfo {
    std::vector<std::string> species;  // element symbols
    std::vector<int> atomic_numbers;   // of the species
    double cutoff = 0;                 // Å, the largest of any layer
    std::vector<double> layer_cutoffs;
    int layers = 0, channels = 0, heads = 0, max_degree = 0, hidden_degree = 0, body_order = 0;
    std::vector<double> reference_energies;  // eV, E0 of the species
    std::string header;                      // JSON text with everything, provenance included
    std::string sha256;                      // of the weights and the header
};

// A structure for which the engine finds the neighbours itself.
struct System {
    int64_t atoms = 0;
    const int32_t* species = nullptr;   // [atoms]
    const double* positions = nullptr;  // [atoms, 3] Å, inside the cell or outside of it
    const double* cell = nullptr;       // [3, 3] Å, rows are the cell's vectors; null when no axis is periodic
    std::array<bool, 3> periodic{{false, false, false}};
    // With an engine on a device: species, positions and all arrays of the results are there, not on the host (the cell
    // always is), and the work is queued on `stream` (a cudaStream_t; null is the default stream), to which the caller
    // leaves the waiting but for one look at the outcome. While the stream captures a graph there is no look:
    // Engine::check() looks later.
    bool on_device = false;
    void* stream = nullptr;
};

// Atoms with a caller's neighbour list. Atoms 0 … owned-1 are the caller's own, the rest are ghosts: images, or atoms
// of other domains. Rows hold every neighbour within the cutoff, in both directions, and may hold others farther away.
struct Neighbourhood {
    int64_t owned = 0, atoms = 0;
    const int32_t* species = nullptr;            // [atoms]
    const double* positions = nullptr;           // [atoms, 3] Å
    const int32_t* counts = nullptr;             // [owned] neighbours of atom i
    const int32_t* const* neighbours = nullptr;  // [owned][counts[i]] indices below `atoms`, after masking
    int32_t mask = -1;                           // bits of a neighbour that are its index
    // [atoms] which atom stands for each, itself or one that it is an image of: images then need no features of their
    // own, and what acts on them counts for the atom that stands for them. An owned atom stands for itself, and an atom
    // that stands for others does too. null: every atom stands for itself.
    const int32_t* stands_for = nullptr;
    const int64_t* names = nullptr;  // [atoms] what messages call the atoms, less 1; null: as they are
};

// How features of the caller's atoms reach their ghosts, and pulls on ghosts their owners: called between layers, so
// once each way for every layer but the first. `rows`: [n, width] numbers of 4 or 8 bytes, by precision; n is
// `atoms`, or with `stands_for` one more than the largest index that stands for any: atoms for which others stand are
// no ghosts here, and there are no rows behind n.
class SYMMD_API GhostExchange {
  public:
    virtual ~GhostExchange();
    // Copies the rows of owned atoms to the rows of their ghosts.
    virtual void forward(void* rows, int64_t width, Precision precision) = 0;
    // Adds the rows of ghosts to those of their owners.
    virtual void backward(void* rows, int64_t width, Precision precision) = 0;
};

// What shall be computed: null is not wanted. Written, not added to.
struct Results {
    double energy = 0;              // eV, E0 included; of the owned atoms
    double* atom_energy = nullptr;  // [owned] eV
    double* forces = nullptr;       // [atoms, 3] eV/Å; ghosts have theirs, which belong to their owners
    double* virial = nullptr;       // [3, 3] eV: Σ r ⊗ F = -dE/dε, symmetric (docs/theory.md, eq. 26)
    double* atom_virial = nullptr;  // [atoms, 3, 3] eV: half of each edge to either atom; sums to the virial
    // [atoms, 3, 3] eV: Σ r ⊗ F of each edge to its sender, first index r, not symmetric: Σ W·v of these is the virial
    // part of the heat flux (docs/theory.md, eq. 66).
    double* sender_virial = nullptr;
    double* total_energy = nullptr;  // [1] eV, with System::on_device in place of `energy`
};

class SYMMD_API Engine {
  public:
    // Reads `model.pt` or a bare `.safetensors`.
    static Engine load(const std::string& path, const EngineOptions& options = {});
    // The same from memory, which is copied; messages call it `name`.
    static Engine load(const void* data, std::size_t size, const std::string& name, const EngineOptions& options = {});

    Engine(Engine&&) noexcept;
    Engine& operator=(Engine&&) noexcept;
    ~Engine();

    // With the engine's own list. Neither way allocates in a step once the number of
    // atoms has settled; the order in space, found anew with every tenth list, takes some memory for a moment.
    void compute(const System& system, Results& results);
    // With a caller's list; without `exchange` there must be no ghosts, unless the network has one layer.
    void compute(const Neighbourhood& neighbourhood, GhostExchange* exchange, Results& results);

    // Throws what a captured step (System::on_device) found out since the last look; waits for it.
    void check();
    // Whether a step of this engine was captured: a graph that may be replayed works on its memory, and the engine must
    // be kept as long.
    bool captured() const;

    const ModelInfo& model() const;
    // Index of a species; refuses an element that the model was not trained for.
    int32_t species_of(int atomic_number) const;
    const EngineOptions& options() const;
    void set_threads(int threads);

    // How often the engine's own list was built, and bytes in all arrays that grow with the atoms, those on the device
    // included.
    int64_t list_builds() const;
    std::size_t memory_bytes() const;
    // baseline, avx2 or avx512.
    static std::string instruction_set();
    // GPUs that EngineOptions::device can name, at least one; an Error says why there is none.
    static int device_count();

  private:
    struct State;
    explicit Engine(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace symmd
