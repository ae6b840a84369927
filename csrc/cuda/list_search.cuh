// How the list is built: atoms are placed inside of the cell and into bins, each warp looks for the neighbours of an
// atom twice, to count and to write them, rows are put into order, and each edge learns where its sender's edges are.
#pragma once

#include "cuda/list_state.cuh"

namespace symmd {

// Puts an atom into the reduced cell, where the search and the vectors find it.
__device__ inline void place_atom(const ListArrays& list, const double* positions, int32_t atom, DeviceStatus* status) {
    const ListGeometry& cell = list.state->now;
    const double* r = positions + 3 * int64_t(atom);
    double turns[3] = {};
    bool far = false;
    for (int k = 0; k < cell.rank; ++k) {
        turns[k] = floor(cell.duals[k][0] * r[0] + cell.duals[k][1] * r[1] + cell.duals[k][2] * r[2]);
        far = far || !(fabs(turns[k]) <= double(most_cells_away));
    }
    for (int l = 0; l < 3; ++l) {
        double cells = 0;
        for (int k = 0; k < cell.rank; ++k) cells += turns[k] * cell.multiples[k][l];
        far = far || !(fabs(cells) <= double(most_cells_away));
    }
    if (far) atomicMin(reinterpret_cast<unsigned*>(&status->far_away), unsigned(atom));
    PlacedAtom placed = {r[0], r[1], r[2], atom, 0};
    for (int k = 0; k < 3; ++k) {
        const double turn = far ? 0 : turns[k];
        placed.x -= turn * cell.vectors[k][0];
        placed.y -= turn * cell.vectors[k][1];
        placed.z -= turn * cell.vectors[k][2];
        list.turns[3 * int64_t(atom) + k] = int32_t(turn);
        list.reference[3 * int64_t(atom) + k] = r[k];
    }
    list.placed[atom] = placed;
}

// Bins of half the range along each axis, or so many fewer that there is room; open axes as far as there are atoms.
__device__ inline void choose_bins(const ListArrays& list, const double low[3], const double high[3]) {
    const ListGeometry& cell = list.state->now;
    ListBins& bins = list.state->bins;
    const double range = (cell.cutoff + cell.skin) * (1 + width_slack), width = range / bins_per_range;
    double counts[3], lengths[3];
    for (int k = 0; k < 3; ++k) {
        lengths[k] = k < cell.rank ? cell.heights[k] : larger(high[k] - low[k], width);
        counts[k] = smaller(larger(floor(lengths[k] / width), 1), list.bin_room);
    }
    while (counts[0] * counts[1] * counts[2] > double(list.bin_room)) {
        int most = 0;
        for (int k = 1; k < 3; ++k)
            if (counts[k] > counts[most]) most = k;
        counts[most] = ceil(counts[most] / 2);
    }
    for (int k = 0; k < 3; ++k) {
        bins.counts[k] = int32_t(counts[k]);
        bins.reach[k] = int32_t(ceil(range * counts[k] / lengths[k]));
        bins.lowest[k] = k < cell.rank ? 0 : low[k];
        bins.per_length[k] = k < cell.rank ? counts[k] : counts[k] / lengths[k];
    }
}

__device__ inline void put_into_bin(const ListArrays& list, int32_t atom) {
    const ListState& state = *list.state;
    const PlacedAtom placed = list.placed[atom];
    int32_t bin = 0;
    for (int k = 0; k < 3; ++k) {
        const double* dual = state.now.duals[k];
        const double along = dual[0] * placed.x + dual[1] * placed.y + dual[2] * placed.z;
        const double place = floor((along - state.bins.lowest[k]) * state.bins.per_length[k]);
        const double last = double(state.bins.counts[k] - 1);
        bin = bin * state.bins.counts[k] + int32_t(smaller(larger(place, 0), last));
    }
    list.bin_of[atom] = bin;
    atomicAdd(list.bin_count + bin, 1);
}

// Where bins start, when all atoms are counted, and how many lanes a column of bins is worth; by one block.
__device__ inline void start_bins(const ListArrays& list) {
    __shared__ unsigned long long squares;
    ListBins& bins = list.state->bins;
    if (threadIdx.x == 0) squares = 0;
    unsigned long long own = 0;
    block_scan(list.bin_count, list.bin_start, bins.counts[0] * bins.counts[1] * bins.counts[2],
               [&](int32_t count) { own += static_cast<unsigned long long>(int64_t(count) * count); });
    if (own > 0) atomicAdd(&squares, own);
    __syncthreads();
    if (threadIdx.x > 0) return;
    // Atoms of a column as an atom sees it, which wherever atoms crowd is more than the mean.
    const int together = 2 * bins.reach[2] + 1 < bins.counts[2] ? 2 * bins.reach[2] + 1 : bins.counts[2];
    const double column = double(squares) / list.atoms * together;
    bins.lanes = 4;
    while (bins.lanes < warp_size && 4 * bins.lanes < column) bins.lanes *= 2;
}

// Which atoms of a bin come first is left to chance: rows are put into order afterwards.
__device__ inline void sort_into_bin(const ListArrays& list, int32_t atom) {
    const int32_t bin = list.bin_of[atom];
    const int32_t slot = list.bin_start[bin] + atomicAdd(list.bin_count + bin, -1) - 1;
    list.binned[slot] = list.placed[atom];
}

// Calls visit(is a neighbour, its index, image) for candidates one per lane; by all lanes of a warp together where
// Together, even by those that have no candidate left.

// All atoms and images, neighbours in the order of rows.
template <class Visit>
__device__ inline void search_all(const ListArrays& list, const PlacedAtom& own, Visit visit) {
    const ListGeometry& cell = list.state->now;
    const double range = cell.cutoff + cell.skin;
    const int32_t candidates = list.atoms * list.images;
    for (int32_t first = 0; first < candidates; first += warp_size) {
        const int32_t candidate = first + lane_in_warp();
        bool near = candidate < candidates;
        int32_t sender = 0, code = 0;
        if (near) {
            sender = candidate / list.images;
            int32_t rest = candidate % list.images;
            int repeats[3];
            double image[3], vector[3];
            for (int k = 2; k >= 0; --k) {
                repeats[k] = rest % (2 * cell.most[k] + 1) - cell.most[k];
                rest /= 2 * cell.most[k] + 1;
            }
            image_vector(cell, repeats, image);
            code = image_code(cell, repeats);
            const bool itself = sender == own.atom && !repeats[0] && !repeats[1] && !repeats[2];
            near = !itself && displacement(own, list.placed[sender], image, vector) < range * range;
        }
        visit(near, sender, code);
    }
}

// Repeats of the cell before `place`, which becomes one inside of it; false outside of an open axis.
__device__ inline bool fold(const ListState& state, int axis, int& place, int& repeats) {
    const int count = state.bins.counts[axis];
    repeats = 0;
    if (axis >= state.now.rank) return place >= 0 && place < count;
    repeats = place / count;
    if (place % count < 0) --repeats;
    place -= repeats * count;
    return true;
}

// Some lanes share a column of bins along the last axis, whose atoms lie one after the other.
template <bool Together, class Visit>
__device__ inline void search_bins(const ListArrays& list, const PlacedAtom& own, Visit visit) {
    const ListState& state = *list.state;
    const ListGeometry& cell = state.now;
    const ListBins& bins = state.bins;
    const double range = cell.cutoff + cell.skin;
    const int32_t bin = list.bin_of[own.atom];
    const int own_place[3] = {bin / bins.counts[2] / bins.counts[1], bin / bins.counts[2] % bins.counts[1],
                              bin % bins.counts[2]};
    const int lanes = bins.lanes, columns_at_once = warp_size / lanes;
    // About as many as images, which fit into 32 bits.
    const int32_t wide = 2 * bins.reach[1] + 1, columns = (2 * bins.reach[0] + 1) * wide;
    for (int last = -cell.most[2]; last <= cell.most[2]; ++last) {
        const int64_t low = own_place[2] - int64_t(bins.reach[2]) - int64_t(last) * bins.counts[2];
        const int64_t high = own_place[2] + int64_t(bins.reach[2]) - int64_t(last) * bins.counts[2];
        if (high < 0 || low >= bins.counts[2]) continue;
        const int32_t lowest = low < 0 ? 0 : int32_t(low);
        const int32_t highest = high >= bins.counts[2] ? bins.counts[2] - 1 : int32_t(high);
        for (int32_t first = 0; first < columns; first += columns_at_once) {
            const int32_t column = first + lane_in_warp() / lanes;
            int32_t slot = 0, end = 0, code = 0;
            double image[3] = {};
            if (column < columns) {
                int place[2] = {own_place[0] + column / wide - bins.reach[0],
                                own_place[1] + column % wide - bins.reach[1]};
                int repeats[3] = {0, 0, last};
                if (fold(state, 0, place[0], repeats[0]) && fold(state, 1, place[1], repeats[1])) {
                    const int32_t start = (place[0] * bins.counts[1] + place[1]) * bins.counts[2];
                    slot = list.bin_start[start + lowest] + lane_in_warp() % lanes;
                    end = list.bin_start[start + highest + 1];
                    image_vector(cell, repeats, image);
                    code = image_code(cell, repeats);
                }
            }
            while (Together ? __any_sync(all_lanes, slot < end) : slot < end) {
                bool near = slot < end;
                int32_t sender = 0;
                if (near) {
                    const PlacedAtom other = list.binned[slot];
                    double vector[3];
                    sender = other.atom;
                    // Atoms in the same place are neighbours, an atom is none of itself.
                    const bool itself = sender == own.atom && image[0] == 0 && image[1] == 0 && image[2] == 0;
                    near = !itself && displacement(own, other, image, vector) < range * range;
                    slot += lanes;
                }
                visit(near, sender, code);
            }
        }
    }
}

template <bool Together, class Visit>
__device__ inline void search(const ListArrays& list, const PlacedAtom& own, Visit visit) {
    if (list.images > 0)
        search_all(list, own, visit);
    else
        search_bins<Together>(list, own, visit);
}

__device__ inline PlacedAtom own_atom(const ListArrays& list, int32_t row) {
    return list.images > 0 ? list.placed[row] : list.binned[row];
}

// By a warp: leaves the number of neighbours of its atom where the row's start will be.
__device__ inline void count_row(const ListArrays& list, int32_t row) {
    const PlacedAtom own = own_atom(list, row);
    int32_t found = 0;
    search<false>(list, own, [&](bool near, int32_t, int32_t) { found += near; });
    for (int distance = warp_size / 2; distance > 0; distance /= 2)
        found += __shfl_xor_sync(all_lanes, found, distance);
    if (lane_in_warp() == 0) list.row_start[own.atom] = found;
}

// No edges: what is queued behind finds nothing to do. By one block.
__device__ inline void empty_rows(const ListArrays& list) {
    for (int64_t k = threadIdx.x; k <= list.atoms; k += blockDim.x) list.row_start[k] = 0;
    if (threadIdx.x == 0) list.state->built = list.state->rebuild = list.state->edges = 0;
}

// Where rows start, when all of them are counted; by one block.
__device__ inline void start_rows(const ListArrays& list, DeviceStatus* status) {
    const int64_t edges = block_scan(list.row_start, list.row_start, list.atoms, [](int32_t) {});
    __syncthreads();
    const bool far = __ldcg(&status->far_away) >= 0;
    if (far || edges > list.capacity) empty_rows(list);
    if (threadIdx.x == 0) {
        constexpr int64_t most = 0x7fffffff;
        status->edges_wanted = far ? 0 : int32_t(edges < most ? edges : most);
        if (!far && edges <= list.capacity) {
            list.state->edges = int32_t(edges);
            list.state->built = 1;
            status->rebuilt = 1;
        }
    }
}

// Keys of a row that a warp compares with its own at a time.
inline constexpr int keys_at_once = 64;

// By a warp: the row that it has written to `receiver` (codes) and `reverse` (senders) in order, by counting for each
// edge those before it.
__device__ inline void order_row(const ListArrays& list, int32_t start, int32_t count, uint64_t* keys) {
    constexpr int held = 4;
    const int lane = lane_in_warp();
    const auto key_at = [&](int32_t k) {
        return k < count ? uint64_t(list.reverse[start + k]) << 32 | uint32_t(list.receiver[start + k]) : ~uint64_t(0);
    };
    for (int32_t first = 0; first < count; first += held * warp_size) {
        uint64_t own[held];
        int32_t before[held] = {};
        for (int k = 0; k < held; ++k) own[k] = key_at(first + k * warp_size + lane);
        for (int32_t other = 0; other < count; other += keys_at_once) {
            __syncwarp();
            for (int k = lane; k < keys_at_once; k += warp_size) keys[k] = key_at(other + k);
            __syncwarp();
            for (int n = 0; n < keys_at_once; ++n) {
                const uint64_t key = keys[n];
                for (int k = 0; k < held; ++k) before[k] += key < own[k];
            }
        }
        for (int k = 0; k < held; ++k) {
            if (first + k * warp_size + lane >= count) continue;
            list.sender[start + before[k]] = int32_t(own[k] >> 32);
            list.code[start + before[k]] = int32_t(uint32_t(own[k]));
        }
    }
}

// By a warp: writes the neighbours of its atom, in order. `keys` [keys_at_once] are in shared memory.
__device__ inline void write_row(const ListArrays& list, int32_t row, uint64_t* keys) {
    const PlacedAtom own = own_atom(list, row);
    const int32_t start = list.row_start[own.atom];
    int32_t* const senders = list.images > 0 ? list.sender : list.reverse;
    int32_t* const codes = list.images > 0 ? list.code : list.receiver;
    int32_t place = start;
    search<true>(list, own, [&](bool near, int32_t sender, int32_t code) {
        const unsigned found = __ballot_sync(all_lanes, near);
        if (near) {
            const int32_t to = place + __popc(found & ((1u << lane_in_warp()) - 1));
            senders[to] = sender;
            codes[to] = code;
        }
        place += __popc(found);
    });
    __syncwarp();
    if (list.images == 0) order_row(list, start, place - start, keys);
}

// First edge of a row that has this sender or a later one.
__device__ inline int32_t first_with(const int32_t* sender, int32_t first, int32_t last, int32_t wanted) {
    while (first < last) {
        const int32_t middle = first + (last - first) / 2;
        if (sender[middle] < wanted)
            first = middle + 1;
        else
            last = middle;
    }
    return first;
}

// By a warp, when all rows are in order. The senders of an atom are also its receivers, with as many images, so that
// the edges that it sends to one of them take the places in `reverse` that this one's edges have in the row.
__device__ inline void pair_row(const ListArrays& list, int32_t atom) {
    const int32_t start = list.row_start[atom], end = list.row_start[atom + 1];
    for (int32_t edge = start + lane_in_warp(); edge < end; edge += warp_size) {
        const int32_t other = list.sender[edge];
        const bool one_of_several = edge > start && list.sender[edge - 1] == other;
        const int32_t first = one_of_several ? first_with(list.sender, start, edge, other) : edge;
        const int32_t there = first_with(list.sender, list.row_start[other], list.row_start[other + 1], atom);
        list.receiver[edge] = atom;
        list.reverse[edge] = there + (edge - first);
    }
}

}  // namespace symmd
