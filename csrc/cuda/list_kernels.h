// Positions, neighbours and forces on the device: which pairs are listed, their vectors, and the sums over edges at the
// end. Lengths in Å; positions are doubles at every precision.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/lattice.h"
#include "cuda/device_memory.h"
#include "cuda/edge_kernels.h"

namespace symmd {

// What the kernels of a step found out, read by the host when the step is over; written anew by every update().
struct DeviceStatus {
    int32_t rebuilt;       // the list was built in this step
    int32_t edges_wanted;  // edges of the list; more than there is room for: the step is void
    // Two atoms in the same place, the first below or equal to the second (an image of itself), or -1; of several such
    // pairs that with the lowest second atom. `coinciding_bits` are the same two numbers.
    union {
        int32_t coinciding[2];
        unsigned long long coinciding_bits;
    };
    int32_t not_finite;  // the first atom with a coordinate that is not finite or beyond largest_length, or -1
    int32_t far_away;    // the first atom more than most_cells_away cells from the cell, or -1
    int32_t problem;     // 0: none of the above
};

// The list of a structure that the engine finds itself, on the device: the pairs of core/neighbour_list.h, kept as long
// as they are kept there. A step asks `update` and `measure`, both of which only queue work: whether the list must be
// built anew is decided on the device. Edges of a receiver are ordered by sender, then by image.
class DeviceNeighbourList {
  public:
    // Throws Error for what the NeighbourList of the processor refuses.
    DeviceNeighbourList(double cutoff, double skin);
    ~DeviceNeighbourList();
    DeviceNeighbourList(const DeviceNeighbourList&) = delete;
    DeviceNeighbourList& operator=(const DeviceNeighbourList&) = delete;

    // Makes room for so many atoms in this cell, and for the edges that the list had last time or is guessed to have;
    // may allocate and wait. Called when the number of atoms, the periodicity or the cell has changed, and with `edges`
    // (else 0) when there was no room. `cell` [3, 3] on the host, null when no axis is periodic. Throws Error for what
    // reduced_lattice() refuses, for a cell with 100000 images within the range and for more than 2^31 edges. A changed
    // cell means a new list, but for small strains, which shorten the skin.
    void prepare(int64_t atoms, const double* cell, const std::array<bool, 3>& periodic, int64_t edges,
                 cudaStream_t stream);

    // Queues: compares positions [atoms, 3] on the device with those of the list, and builds it where an atom has moved
    // by more than half of the skin (from where the cell took it, or from where all went together). `status` is on the
    // device. Where the list cannot be right (atoms not finite or far away, too many edges) all of its rows are empty,
    // so that what is queued behind does no harm, and the next update builds it.
    void update(const double* positions, DeviceStatus* status, cudaStream_t stream);

    // Queues: vectors of all listed edges (eq. 1) at the positions of the last update(); notes coinciding atoms.
    template <class T>
    void measure(Vector4<T>* vectors, DeviceStatus* status, cudaStream_t stream) const;

    // Valid until the next prepare(); vectors are the caller's.
    template <class T>
    DeviceEdges<T> edges(const Vector4<T>* vectors) const;
    int64_t capacity() const;  // edges that there is room for
    // Another number after each prepare() that has changed what update() and measure() queue, as opposed to what the
    // device finds in its memory: a captured graph of them is out of date then.
    int64_t layout() const;
    int64_t build_count() const;
    void count_builds(int64_t builds);  // the host has read that it was rebuilt
    std::size_t memory_bytes() const;
    // Bytes on the device of a list of so many atoms that was asked for room for so many edges; a few less are needed
    // for atoms so few that they have no bins.
    static int64_t memory_for(int64_t atoms, int64_t edges);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// Sums at the end of a step, from edge_pull [edges, 3] (eq. 25, 26, 66); null is not wanted. Each atom gathers its own
// edges and those that it sends, in order. The virials of atoms are shared half and half by the ends of an edge.
struct DeviceSums {
    double* forces = nullptr;         // [standing, 3]
    double* atom_virial = nullptr;    // [standing, 3, 3]
    double* sender_virial = nullptr;  // [standing, 3, 3]
    double* virial = nullptr;         // [3, 3]
};
template <class T>
void device_sum_edges(const DeviceEdges<T>& edges, const T* edge_pull, double* scratch, const DeviceSums& sums,
                      cudaStream_t stream);
// Doubles of scratch memory that it needs.
int64_t device_sum_scratch(int64_t standing);
// Σ of numbers [count] into sum [1], in a fixed order; `scratch` as above.
void device_sum(const double* numbers, int64_t count, double* scratch, double* sum, cudaStream_t stream);

}  // namespace symmd
