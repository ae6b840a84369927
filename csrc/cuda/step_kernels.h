// The small kernels around a step on the device: what comes in, what goes out, and pieces of a structure.
#pragma once

#include <cstdint>

#include "cuda/edge_kernels.h"
#include "cuda/list_kernels.h"

namespace symmd {

// What a step found out. In memory of the device; the host reads a copy.
struct StepStatus {
    DeviceStatus list;
    int32_t bad_species;  // the first atom with a species that the model does not know, or `no_atom`
    int32_t bad_results;  // whether energy, forces or virial are not finite
    int32_t builds;       // of captured steps since the last look: how often the list was built
    int32_t void_steps;   // of captured steps since the last look
};
inline constexpr int32_t no_atom = 0x7f7f7f7f;  // of four bytes alike, so that they can be set as such

// Whether a step gave no results, for a list with room for `capacity` edges.
__host__ __device__ inline bool is_void(const StepStatus& status, int64_t capacity) {
    return status.list.problem != 0 || status.list.edges_wanted > capacity || status.list.coinciding[0] >= 0 ||
           status.list.not_finite >= 0 || status.list.far_away >= 0 || status.bad_species != no_atom ||
           status.bad_results != 0;
}

// Copies a caller's structure on the device: positions [atoms, 3] and species, of which unknown ones become 0 and are
// noted.
struct TakenStructure {
    int64_t atoms = 0;
    int32_t known_species = 0;
    const double* positions = nullptr;
    const int32_t* species = nullptr;
    double* own_positions = nullptr;
    int32_t* own_species = nullptr;
    StepStatus* status = nullptr;
};
void device_take_structure(const TakenStructure& work, cudaStream_t stream);

// What a step computed, in memory of its own; null is not there.
struct StepResults {
    double *energy = nullptr, *virial = nullptr;  // [1], [9]
    double *forces = nullptr, *atom_energy = nullptr, *atom_virial = nullptr, *sender_virial = nullptr;
};
// Notes in the status whether energy, forces and virial are finite.
void device_check_results(const StepResults& results, int64_t atoms, StepStatus* status, cudaStream_t stream);
// Copies results to a caller's arrays on the device, or fills these with NaN when the step is void. `unseen`, unless
// null, collects what steps found out that nobody looks at; it belongs to the caller's steps on one stream.
void device_hand_out(const StepResults& from, const StepResults& to, int64_t atoms, int64_t capacity,
                     const StepStatus* status, StepStatus* unseen, cudaStream_t stream);

// Of a piece of a structure (chunks.h): to[k] = from[index[k]], and to[index[k]] += from[k] for rows of `width`
// numbers; without an index, index[k] = k.
template <class T>
void device_gather_vectors(const Vector4<T>* from, const int32_t* index, int64_t count, Vector4<T>* to,
                           cudaStream_t stream);
void device_gather_species(const int32_t* from, const int32_t* index, int64_t count, int32_t* to, cudaStream_t stream);
void device_add_rows(const double* from, const int32_t* index, int64_t count, int width, double* to,
                     cudaStream_t stream);

}  // namespace symmd
