#include "cuda/step_kernels.h"

namespace symmd {

namespace {

constexpr int threads = 256;

int64_t blocks_for(int64_t count) { return (count + threads - 1) / threads; }

__device__ int64_t this_item() { return int64_t(blockIdx.x) * threads + threadIdx.x; }

__device__ bool is_finite(double number) { return number - number == 0; }

__global__ void take_structure(TakenStructure work) {
    const int64_t item = this_item();
    if (item < 3 * work.atoms) work.own_positions[item] = work.positions[item];
    if (item >= work.atoms) return;
    const int32_t species = work.species[item];
    const bool known = species >= 0 && species < work.known_species;
    work.own_species[item] = known ? species : 0;
    if (!known) atomicMin(&work.status->bad_species, int32_t(item));
}

__global__ void check_results(StepResults results, int64_t atoms, StepStatus* status) {
    const int64_t item = this_item();
    bool finite = item > 0 || is_finite(*results.energy);
    if (results.forces && item < 3 * atoms) finite = finite && is_finite(results.forces[item]);
    if (results.virial && item < 9) finite = finite && is_finite(results.virial[item]);
    if (!finite) status->bad_results = 1;  // whoever writes writes the same
}

__global__ void hand_out(StepResults from, StepResults to, int64_t atoms, int64_t capacity, const StepStatus* status,
                         StepStatus* unseen) {
    const int64_t item = this_item();
    const StepStatus found = *status;
    const bool nothing = is_void(found, capacity);
    const double none = double(NAN);
    const auto copy = [&](const double* numbers, double* place, int64_t count) {
        if (place && item < count) place[item] = nothing ? none : numbers[item];
    };
    copy(from.energy, to.energy, 1);
    copy(from.virial, to.virial, 9);
    copy(from.atom_energy, to.atom_energy, atoms);
    copy(from.forces, to.forces, 3 * atoms);
    copy(from.atom_virial, to.atom_virial, 9 * atoms);
    copy(from.sender_virial, to.sender_virial, 9 * atoms);
    if (item > 0 || !unseen) return;
    unseen->builds += found.list.rebuilt;
    if (!nothing) return;
    // The first of several says what went wrong.
    if (unseen->void_steps == 0) {
        unseen->list = found.list;
        unseen->bad_species = found.bad_species;
        unseen->bad_results = found.bad_results;
    }
    ++unseen->void_steps;
}

template <class T>
__global__ void gather_items(const T* from, const int32_t* index, int64_t count, T* to) {
    const int64_t item = this_item();
    if (item < count) to[item] = from[index[item]];
}

// No two rows have the same index.
__global__ void add_rows(const double* from, const int32_t* index, int64_t count, int width, double* to) {
    const int64_t item = this_item();
    if (item < count * width)
        to[(index ? index[item / width] : item / width) * int64_t(width) + item % width] += from[item];
}

}  // namespace

void device_take_structure(const TakenStructure& work, cudaStream_t stream) {
    launch(take_structure, blocks_for(3 * work.atoms), threads, 0, stream, work);
}

void device_check_results(const StepResults& results, int64_t atoms, StepStatus* status, cudaStream_t stream) {
    const int64_t items = results.forces ? 3 * atoms : 1;
    launch(check_results, blocks_for(items > 9 ? items : 9), threads, 0, stream, results, atoms, status);
}

void device_hand_out(const StepResults& from, const StepResults& to, int64_t atoms, int64_t capacity,
                     const StepStatus* status, StepStatus* unseen, cudaStream_t stream) {
    const int64_t width = to.atom_virial || to.sender_virial ? 9 : 3, items = width * atoms;
    launch(hand_out, blocks_for(items > 9 ? items : 9), threads, 0, stream, from, to, atoms, capacity, status, unseen);
}

template <class T>
void device_gather_vectors(const Vector4<T>* from, const int32_t* index, int64_t count, Vector4<T>* to,
                           cudaStream_t stream) {
    launch(gather_items<Vector4<T>>, blocks_for(count), threads, 0, stream, from, index, count, to);
}
template void device_gather_vectors(const Vector4<float>*, const int32_t*, int64_t, Vector4<float>*, cudaStream_t);
template void device_gather_vectors(const Vector4<double>*, const int32_t*, int64_t, Vector4<double>*, cudaStream_t);

void device_gather_species(const int32_t* from, const int32_t* index, int64_t count, int32_t* to, cudaStream_t stream) {
    launch(gather_items<int32_t>, blocks_for(count), threads, 0, stream, from, index, count, to);
}

void device_add_rows(const double* from, const int32_t* index, int64_t count, int width, double* to,
                     cudaStream_t stream) {
    launch(add_rows, blocks_for(count * width), threads, 0, stream, from, index, count, width, to);
}

}  // namespace symmd
