// The edge pass on the device (docs/theory.md, eq. 15-19 and 33-45), with the arithmetic of core/message.h.
//
// Edges are as listed: those beyond the cutoff stay in their rows and are passed over. Nothing is added atomically, so
// that the same structure gives the same bits.
#pragma once

#include "core/kernels.h"
#include "cuda/platform.h"

namespace symmd {

template <class T>
struct alignas(4 * sizeof(T)) Vector4 {
    T x, y, z, w;
};

// Edges on the device. `standing`: atoms that have features, the receivers first.
template <class T>
struct DeviceEdges {
    int32_t receivers = 0, standing = 0;
    const int32_t* row_start = nullptr;      // [receivers + 1] edges of receiver i: row_start[i] … row_start[i + 1] - 1
    const int32_t* receiver = nullptr;       // [edges]
    const int32_t* sender = nullptr;         // [edges] atom that stands for the sender
    const int32_t* reverse_start = nullptr;  // [standing + 1]
    const int32_t* reverse = nullptr;        // [edges] edges by sender, ascending for each
    const Vector4<T>* vectors = nullptr;     // [edges] r_sender - r_receiver in Å, and its square
};

// One layer's arrays on the device. Of the first layer `values` and `queries` are those of the species, and `species`
// [standing] says which; else it is null and they belong to the atoms.
template <class T>
struct DeviceEdgeInput {
    EdgePassShape shape;
    DeviceEdges<T> edges;
    const int32_t* species = nullptr;
    const T* values = nullptr;   // [standing or species, D1, C]
    const T* queries = nullptr;  // [receivers or species, D1, C]; unused without attention
    const T* table = nullptr;    // [2 (knots + 1), paths, C], as on the host
    const T* sink = nullptr;     // [heads]
};

// Throws Error where no kernel was compiled for these degrees. All run on `stream`.

bool device_edge_supported(const EdgePassShape& shape);

// eq. 15-19: aggregated [receivers, D3, C], total [receivers, heads] (null without attention).
template <class T>
void device_edge_forward(const DeviceEdgeInput<T>& in, T* aggregated, T* total, cudaStream_t stream);

// eq. 33-45, from the pull on the aggregate [receivers, D3, C] and what the forward pass gave. Written are
//   edge_pull   [edges, 3]            gradient of the energy with respect to the vectors, zero beyond the cutoff;
//                                     added to when `add`
//   query_pull  [receivers, D1, C]    null when nobody asks
//   weights     [edges, heads or 1]   √n̄ f α of eq. 37, for device_edge_gather; null with the next when nobody asks
//   bends       [edges, heads]        f β of eq. 37; null without attention
template <class T>
struct DeviceEdgePull {
    const T *pull, *aggregated, *total;
    T* edge_pull;
    bool add;
    T *query_pull, *weights, *bends;
};
template <class T>
void device_edge_backward(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, cudaStream_t stream);

// eq. 39 summed over the edges by sender: value_pull [standing, D1, C]; zero for atoms that send nothing. `pull`: with
// the weights and bends of device_edge_backward.
template <class T>
void device_edge_gather(const DeviceEdgeInput<T>& in, const DeviceEdgePull<T>& pull, T* value_pull,
                        cudaStream_t stream);

}  // namespace symmd
