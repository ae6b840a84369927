#include "cuda/list_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "core/neighbour_list.h"
#include "cuda/list_search.cuh"

namespace symmd {

namespace {

// --- whether the list still serves

// How the cell has been deformed since the list was built, and how far atoms may have moved besides.
struct Allowance {
    double strain[3][3], allowed;
};

__device__ void find_allowance(const ListState& state, Allowance& allowance) {
    double square = 0;
    for (int x = 0; x < 3; ++x) {
        for (int y = 0; y < 3; ++y) {
            double sum = 0;
            for (int k = 0; k < state.now.rank; ++k)
                sum += state.built_duals[k][x] * (state.now.vectors[k][y] - state.built_vectors[k][y]);
            allowance.strain[x][y] = sum;
            square += sum * sum;
        }
    }
    allowance.allowed = (state.now.skin - (state.now.cutoff + state.now.skin) * sqrt(square)) / 2;
}

// How far an atom has moved from where the deformation of the lattice alone takes it.
__device__ void motion_beside(const Allowance& allowance, const double* before, const double* now, double motion[3]) {
    for (int x = 0; x < 3; ++x)
        motion[x] = now[x] - before[x] - before[0] * allowance.strain[0][x] - before[1] * allowance.strain[1][x] -
                    before[2] * allowance.strain[2][x];
}

__device__ Motion motion_of(const ListArrays& list, const Allowance& allowance, const double* positions, int32_t atom) {
    const ListState& state = *list.state;
    const double* r = positions + 3 * int64_t(atom);
    Motion one = no_motion();
    for (int x = 0; x < 3; ++x)
        if (!(fabs(r[x]) <= largest_length)) one.bad = atom;
    for (int k = state.now.rank; k < 3; ++k) {
        const double* axis = state.now.duals[k];
        one.low[k] = one.high[k] = axis[0] * r[0] + axis[1] * r[1] + axis[2] * r[2];
    }
    if (!state.built) return one;
    motion_beside(allowance, list.reference + 3 * int64_t(atom), r, one.sum);
    one.most = one.sum[0] * one.sum[0] + one.sum[1] * one.sum[1] + one.sum[2] * one.sum[2];
    PlacedAtom placed = {r[0], r[1], r[2], atom, 0};
    for (int k = 0; k < state.now.rank; ++k) {
        const double turn = list.turns[3 * int64_t(atom) + k];
        placed.x -= turn * state.now.vectors[k][0];
        placed.y -= turn * state.now.vectors[k][1];
        placed.z -= turn * state.now.vectors[k][2];
    }
    list.placed[atom] = placed;
    return one;
}

// Whether no atom is further than allowed from where all have drifted together; by one block.
__device__ bool near_beside_drift(const ListArrays& list, const Allowance& allowance, const double* positions,
                                  const Motion& all) {
    const double drift[3] = {all.sum[0] / list.atoms, all.sum[1] / list.atoms, all.sum[2] / list.atoms};
    const double length = sqrt(drift[0] * drift[0] + drift[1] * drift[1] + drift[2] * drift[2]);
    // The atom that moved most is too far then, which no pass over all atoms needs to find.
    if (!(sqrt(all.most) - length <= allowance.allowed * (1 + 1e-9)) || !(length <= largest_length)) return false;
    Motion rest = no_motion();
    for (int64_t atom = threadIdx.x; atom < list.atoms; atom += blockDim.x) {
        double motion[3], square = 0;
        motion_beside(allowance, list.reference + 3 * atom, positions + 3 * atom, motion);
        for (int x = 0; x < 3; ++x) square += (motion[x] - drift[x]) * (motion[x] - drift[x]);
        rest.most = larger(rest.most, square);
    }
    return block_total(rest).most <= allowance.allowed * allowance.allowed;
}

// The last block of all decides, and prepares what is decided.
__device__ void decide(const ListArrays& list, const double* positions, DeviceStatus* status,
                       const Allowance& allowance, const Motion& all) {
    ListState& state = *list.state;
    const bool bad = all.bad < list.atoms;
    bool keep = !bad && state.built && allowance.allowed >= 0;
    if (keep && !(all.most <= allowance.allowed * allowance.allowed))
        keep = near_beside_drift(list, allowance, positions, all);
    __syncthreads();
    if (threadIdx.x == 0) {
        status->rebuilt = status->problem = 0;
        status->edges_wanted = keep ? state.edges : 0;
        status->coinciding_bits = ~0ull;
        status->not_finite = bad ? int32_t(all.bad) : -1;
        status->far_away = -1;
        state.rebuild = !keep;
        if (!keep) {
            state.built = 0;
            for (int k = 0; k < 3; ++k)
                for (int x = 0; x < 3; ++x) {
                    state.built_vectors[k][x] = state.now.vectors[k][x];
                    state.built_duals[k][x] = state.now.duals[k][x];
                }
            if (list.images == 0) choose_bins(list, all.low, all.high);
        }
    }
    __syncthreads();
    if (bad) {
        empty_rows(list);
    } else if (!keep && list.images > 0) {
        for (int64_t atom = threadIdx.x; atom < list.atoms; atom += blockDim.x)
            place_atom(list, positions, int32_t(atom), status);
    }
}

__device__ void compare_positions(const ListArrays& list, const double* positions, DeviceStatus* status) {
    __shared__ Allowance allowance;
    if (threadIdx.x == 0) find_allowance(*list.state, allowance);
    __syncthreads();
    Motion motion = no_motion();
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t atom = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; atom < list.atoms; atom += stride)
        include(motion, motion_of(list, allowance, positions, int32_t(atom)));
    motion = block_total(motion);
    if (gridDim.x > 1) {
        if (threadIdx.x == 0) list.motions[blockIdx.x] = motion;
        if (!ends_last(&list.state->finished[0])) return;
        motion = no_motion();
        for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
            Motion other;
            const double* from = list.motions[block].sum;
            double* to = other.sum;
            for (int k = 0; k < motion_numbers; ++k) to[k] = __ldcg(from + k);
            include(motion, other);
        }
        motion = block_total(motion);
    }
    decide(list, positions, status, allowance, motion);
}

// --- the kernels

__global__ void set_geometry(ListArrays list, ListGeometry geometry, bool keep) {
    ListState& state = *list.state;
    state.now = geometry;
    if (keep) return;
    state.built = state.rebuild = state.edges = 0;
    for (unsigned& finished : state.finished) finished = 0;
}

__global__ void __launch_bounds__(list_threads)
    compare_kernel(ListArrays list, const double* positions, DeviceStatus* status) {
    compare_positions(list, positions, status);
}

__global__ void __launch_bounds__(list_threads)
    place_kernel(ListArrays list, const double* positions, DeviceStatus* status) {
    if (!list.state->rebuild) return;
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t atom = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; atom < list.atoms; atom += stride) {
        place_atom(list, positions, int32_t(atom), status);
        put_into_bin(list, int32_t(atom));
    }
    if (ends_last(&list.state->finished[1])) start_bins(list);
}

__global__ void __launch_bounds__(list_threads) sort_kernel(ListArrays list) {
    if (!list.state->rebuild) return;
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t atom = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; atom < list.atoms; atom += stride)
        sort_into_bin(list, int32_t(atom));
}

// Rows of this warp are first_row(), first_row() + row_stride(), …
__device__ int64_t first_row() { return int64_t(blockIdx.x) * (blockDim.x / warp_size) + warp_in_block(); }
__device__ int64_t row_stride() { return int64_t(gridDim.x) * (blockDim.x / warp_size); }

__global__ void __launch_bounds__(list_threads) count_kernel(ListArrays list, DeviceStatus* status) {
    if (!list.state->rebuild) return;
    for (int64_t row = first_row(); row < list.atoms; row += row_stride()) count_row(list, int32_t(row));
    if (ends_last(&list.state->finished[2])) start_rows(list, status);
}

__global__ void __launch_bounds__(list_threads) write_kernel(ListArrays list) {
    __shared__ uint64_t keys[list_threads / warp_size][keys_at_once];
    if (!list.state->rebuild) return;
    for (int64_t row = first_row(); row < list.atoms; row += row_stride())
        write_row(list, int32_t(row), keys[warp_in_block()]);
}

__global__ void __launch_bounds__(list_threads) pair_kernel(ListArrays list) {
    if (!list.state->rebuild) return;
    for (int64_t row = first_row(); row < list.atoms; row += row_stride()) pair_row(list, int32_t(row));
}

// All of the above for a molecule, by one block.
inline constexpr int few_threads = 512;
inline constexpr int most_few = 128;

__global__ void __launch_bounds__(few_threads)
    few_atoms_kernel(ListArrays list, const double* positions, DeviceStatus* status) {
    compare_positions(list, positions, status);
    __syncthreads();
    if (!list.state->rebuild) return;
    for (int64_t row = first_row(); row < list.atoms; row += row_stride()) count_row(list, int32_t(row));
    __syncthreads();
    start_rows(list, status);
    __syncthreads();
    if (!list.state->rebuild) return;
    for (int64_t row = first_row(); row < list.atoms; row += row_stride()) write_row(list, int32_t(row), nullptr);
    __syncthreads();
    for (int64_t row = first_row(); row < list.atoms; row += row_stride()) pair_row(list, int32_t(row));
}

template <class T>
__global__ void __launch_bounds__(list_threads)
    measure_kernel(ListArrays list, Vector4<T>* vectors, DeviceStatus* status) {
    const ListGeometry& cell = list.state->now;
    const int32_t edges = list.row_start[list.atoms];
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t edge = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; edge < edges; edge += stride) {
        const PlacedAtom own = list.placed[list.receiver[edge]], other = list.placed[list.sender[edge]];
        int repeats[3];
        double image[3], vector[3];
        image_repeats(cell, list.code[edge], repeats);
        image_vector(cell, repeats, image);
        const double square = displacement(own, other, image, vector);
        vectors[edge] = {T(vector[0]), T(vector[1]), T(vector[2]), T(square)};
        if (square <= coincidence_distance * coincidence_distance) {
            const int32_t first = own.atom < other.atom ? own.atom : other.atom;
            const int32_t second = own.atom < other.atom ? other.atom : own.atom;
            atomicMin(&status->coinciding_bits,
                      static_cast<unsigned long long>(uint64_t(second) << 32 | uint64_t(first)));
        }
    }
}

// --- the host

constexpr int64_t largest_index = 0x7fffffff;
constexpr double most_images = 1e5;
// Candidates for each atom up to which trying all costs less than bins and their kernels.
constexpr int64_t most_candidates = 2048;
// A cell that has been strained by more than this is reduced anew.
constexpr double strain_of_a_basis = 0.1;
// Atoms in a cubic Ångström where no cell says how many: a molecular liquid. Too few cost one repeated step.
constexpr double usual_density = 0.11;

std::string number(double value) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.6g", value);
    return buffer;
}

int64_t bin_room_for(int64_t atoms) { return std::min(2 * atoms + 64, largest_index); }

// Å per Å between two cells with the same multiples.
double strain_between(const Lattice& before, const Lattice& now) {
    double square = 0;
    for (int x = 0; x < 3; ++x) {
        for (int y = 0; y < 3; ++y) {
            double sum = 0;
            for (int k = 0; k < before.rank; ++k)
                sum += before.duals[k][x] * (now.vectors[k][y] - before.vectors[k][y]);
            square += sum * sum;
        }
    }
    return std::sqrt(square);
}

int blocks_for(int64_t work, int64_t per_block, int most) {
    return int(std::clamp<int64_t>((work + per_block - 1) / per_block, 1, most));
}

}  // namespace

struct DeviceNeighbourList::State {
    double cutoff, skin;
    bool prepared = false;
    int64_t atoms = 0, capacity = 0, images = 0, layout = 0, builds = 0;
    std::array<bool, 3> periodic{};
    Lattice basis;  // when it was reduced
    ListGeometry geometry{};
    DeviceBuffer<ListState> state;
    DeviceBuffer<Motion> motions;
    DeviceBuffer<double> reference;
    DeviceBuffer<PlacedAtom> placed, binned;
    DeviceBuffer<int32_t> turns, row_start, receiver, sender, code, reverse, bin_of, bin_count, bin_start;

    bool few() const { return images > 0 && atoms <= most_few; }
    // Atoms by an all-pairs search need no bins.
    template <class Do>
    void for_atom_buffers(int64_t count, bool with_bins, Do do_with) {
        do_with(state, int64_t(1));
        do_with(motions, int64_t(most_motion_blocks));
        do_with(reference, 3 * count);
        do_with(placed, count);
        do_with(turns, 3 * count);
        do_with(row_start, count + 1);
        if (!with_bins) return;
        do_with(binned, count);
        do_with(bin_of, count);
        do_with(bin_count, bin_room_for(count));
        do_with(bin_start, bin_room_for(count) + 1);
    }
    template <class Do>
    void for_edge_buffers(int64_t count, Do do_with) {
        for (DeviceBuffer<int32_t>* buffer : {&receiver, &sender, &code, &reverse}) do_with(*buffer, count);
    }

    void choose_geometry(const Lattice& lattice);
    int64_t guessed_edges(const Lattice& lattice) const;
    ListArrays arrays();
};

DeviceNeighbourList::DeviceNeighbourList(double cutoff, double skin) : state_(std::make_unique<State>()) {
    if (!(cutoff > coincidence_distance && cutoff <= largest_length))
        throw Error("expected a cutoff above 1e-6 and up to 1e8 Å, found " + number(cutoff) +
                    " Å; give the cutoff of the model");
    if (!(skin >= 0 && skin <= largest_length))
        throw Error("expected a skin from 0 to 1e8 Å, found " + number(skin) + " Å; 0.5 to 2 Å are usual");
    state_->cutoff = cutoff;
    state_->skin = skin;
}

DeviceNeighbourList::~DeviceNeighbourList() = default;

// Images never become fewer while the basis stays, so that a cell that fluctuates does not change the codes each time.
void DeviceNeighbourList::State::choose_geometry(const Lattice& lattice) {
    const double range = (cutoff + skin) * (1 + width_slack);
    double count = 1;
    std::array<int64_t, 3> most{};
    for (int k = 0; k < lattice.rank; ++k) {
        const double needed = std::ceil(range / lattice.heights[k]);
        count *= 2 * needed + 1;
        if (!(count <= most_images))
            throw Error("expected a cell with fewer than 100000 images within the range of the neighbour list, found " +
                        std::string("heights of only ") + number(lattice.heights[k]) + " Å with a range of " +
                        number(cutoff + skin) + " Å; correct or repeat the cell, or shorten the cutoff");
        most[k] = std::max<int64_t>(int64_t(needed), geometry.rank == lattice.rank ? geometry.most[k] : 0);
    }
    for (int l = 0; l < 3; ++l) {
        double cells = 0;
        for (int k = 0; k < lattice.rank; ++k) cells += double(most[k]) * std::abs(double(lattice.multiples[k][l]));
        if (cells > double(most_cells_away))
            throw Error("expected neighbours within 2^29 cells along each axis, found one " + number(cells) +
                        " cells away along axis " + "abc"[l] + "; give a less skewed cell");
    }
    geometry.rank = lattice.rank;
    geometry.cutoff = cutoff;
    geometry.skin = skin;
    int field = 0;
    for (int k = 2; k >= 0; --k) {
        int bits = 0;
        while ((int64_t(1) << bits) <= 2 * most[k]) ++bits;
        geometry.most[k] = int32_t(most[k]);
        geometry.field[k] = field;
        geometry.mask[k] = int32_t((int64_t(1) << bits) - 1);
        field += bits;
        geometry.heights[k] = lattice.heights[k];
        for (int x = 0; x < 3; ++x) {
            geometry.vectors[k][x] = lattice.vectors[k][x];
            geometry.duals[k][x] = lattice.duals[k][x];
            geometry.multiples[k][x] = double(lattice.multiples[k][x]);
        }
    }
}

int64_t DeviceNeighbourList::State::guessed_edges(const Lattice& lattice) const {
    const double range = cutoff + skin;
    double density = usual_density, images = 1;
    if (lattice.rank == 3) {
        const Vector &a = lattice.vectors[0], &b = lattice.vectors[1], &c = lattice.vectors[2];
        density = double(atoms) / std::abs(a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) +
                                           a[2] * (b[0] * c[1] - b[1] * c[0]));
    }
    for (int k = 0; k < 3; ++k) images *= 2 * geometry.most[k] + 1;
    const double most = std::max(double(atoms) * images - 1, 0.0), sphere = 4.18879 * range * range * range;
    return int64_t(std::min(double(atoms) * std::min(most, density * sphere + 4), double(largest_index)));
}

ListArrays DeviceNeighbourList::State::arrays() {
    ListArrays list{};
    list.atoms = int32_t(atoms);
    list.capacity = int32_t(capacity);
    list.bin_room = int32_t(bin_room_for(atoms));
    list.images = int32_t(images);
    list.state = state.data();
    list.motions = motions.data();
    list.reference = reference.data();
    list.placed = placed.data();
    list.turns = turns.data();
    list.row_start = row_start.data();
    list.receiver = receiver.data();
    list.sender = sender.data();
    list.code = code.data();
    list.reverse = reverse.data();
    list.bin_of = bin_of.data();
    list.bin_count = bin_count.data();
    list.bin_start = bin_start.data();
    list.binned = binned.data();
    return list;
}

void DeviceNeighbourList::prepare(int64_t atoms, const double* cell, const std::array<bool, 3>& periodic, int64_t edges,
                                  cudaStream_t stream) {
    State& own = *state_;
    if (atoms < 0 || atoms > largest_index)
        throw Error("expected 0 to 2147483647 atoms, found " + std::to_string(atoms) +
                    "; divide the system among processes");
    if (edges > largest_index - largest_index / 16)
        throw Error("expected at most 2000000000 pairs of neighbours on one device, found " + std::to_string(edges) +
                    "; divide the system among processes");
    Lattice lattice;
    try {
        lattice = reduced_lattice(cell, periodic);
    } catch (const std::invalid_argument& error) {
        throw Error(error.what());
    }
    const bool same_structure = own.prepared && own.atoms == atoms && own.periodic == periodic;
    own.prepared = false;
    bool keep = same_structure;
    if (keep && lattice.rank > 0) {
        const Lattice now = own.basis.of_cell(cell);
        keep = strain_between(own.basis, now) <= strain_of_a_basis;
        if (keep) lattice = now;
    }
    if (!keep) {
        own.geometry = {};
        own.basis = lattice;
    }
    const ListGeometry before = own.geometry;
    own.choose_geometry(lattice);
    if (!std::equal(before.most, before.most + 3, own.geometry.most)) keep = false;
    own.atoms = atoms;
    own.periodic = periodic;
    double images = 1;
    for (int most : own.geometry.most) images *= 2 * most + 1;
    const int64_t all = images * double(atoms) <= double(most_candidates) ? int64_t(images) : 0;

    bool changed = !same_structure || all != own.images;
    own.images = all;
    const auto resize = [&](auto& buffer, int64_t count) {
        const void* memory = buffer.data();
        const std::size_t bytes = buffer.bytes();
        buffer.resize(count);
        if (buffer.data() != memory || buffer.bytes() != bytes) changed = true;
    };
    own.for_atom_buffers(atoms, all == 0, resize);
    int64_t wanted = std::max(edges, own.capacity);
    if (!keep) wanted = std::max(wanted, std::min(own.guessed_edges(lattice), largest_index - largest_index / 16));
    if (wanted > own.capacity || own.capacity == 0) {
        changed = true;  // kernels know the capacity, and larger arrays may lie where the smaller ones did
        own.capacity = 0;
        own.for_edge_buffers(std::max<int64_t>(wanted, 1), resize);
        own.capacity = largest_index;
        own.for_edge_buffers(0, [&](DeviceBuffer<int32_t>& buffer, int64_t) {
            own.capacity = std::min(own.capacity, int64_t(buffer.bytes() / sizeof(int32_t)));
        });
    }
    if (changed) {
        keep = false;
        ++own.layout;
        if (all == 0)
            check_cuda(
                cudaMemsetAsync(own.bin_count.data(), 0, sizeof(int32_t) * std::size_t(bin_room_for(atoms)), stream),
                "clear memory");
    }
    launch(set_geometry, 1, 1, 0, stream, own.arrays(), own.geometry, keep);
    own.prepared = true;
}

void DeviceNeighbourList::update(const double* positions, DeviceStatus* status, cudaStream_t stream) {
    State& own = *state_;
    const ListArrays list = own.arrays();
    if (own.few()) {
        launch(few_atoms_kernel, 1, few_threads, 0, stream, list, positions, status);
        return;
    }
    const int atom_blocks = blocks_for(own.atoms, list_threads, most_list_blocks);
    const int row_blocks = blocks_for(own.atoms, list_threads / warp_size, most_list_blocks);
    launch(compare_kernel, std::min(atom_blocks, most_motion_blocks), list_threads, 0, stream, list, positions, status);
    if (own.images == 0) {
        launch(place_kernel, atom_blocks, list_threads, 0, stream, list, positions, status);
        launch(sort_kernel, atom_blocks, list_threads, 0, stream, list);
    }
    launch(count_kernel, row_blocks, list_threads, 0, stream, list, status);
    launch(write_kernel, row_blocks, list_threads, 0, stream, list);
    launch(pair_kernel, row_blocks, list_threads, 0, stream, list);
}

template <class T>
void DeviceNeighbourList::measure(Vector4<T>* vectors, DeviceStatus* status, cudaStream_t stream) const {
    launch(measure_kernel<T>, blocks_for(state_->capacity, list_threads, most_list_blocks), list_threads, 0, stream,
           state_->arrays(), vectors, status);
}

template <class T>
DeviceEdges<T> DeviceNeighbourList::edges(const Vector4<T>* vectors) const {
    const State& own = *state_;
    DeviceEdges<T> edges;
    edges.receivers = edges.standing = int32_t(own.atoms);
    edges.row_start = edges.reverse_start = own.row_start.data();
    edges.receiver = own.receiver.data();
    edges.sender = own.sender.data();
    edges.reverse = own.reverse.data();
    edges.vectors = vectors;
    return edges;
}

int64_t DeviceNeighbourList::capacity() const { return state_->capacity; }
int64_t DeviceNeighbourList::layout() const { return state_->layout; }
int64_t DeviceNeighbourList::build_count() const { return state_->builds; }
void DeviceNeighbourList::count_builds(int64_t builds) { state_->builds += builds; }

std::size_t DeviceNeighbourList::memory_bytes() const {
    std::size_t bytes = 0;
    const auto add = [&](const auto& buffer, int64_t) { bytes += buffer.bytes(); };
    state_->for_atom_buffers(0, true, add);
    state_->for_edge_buffers(0, add);
    return bytes;
}

int64_t DeviceNeighbourList::memory_for(int64_t atoms, int64_t edges) {
    State none;
    int64_t bytes = 0;
    const auto add = [&](const auto& buffer, int64_t count) {
        bytes += (count + count / 16) * int64_t(sizeof(*buffer.data()));
    };
    none.for_atom_buffers(atoms, true, add);
    none.for_edge_buffers(edges, add);
    return bytes;
}

template void DeviceNeighbourList::measure(Vector4<float>*, DeviceStatus*, cudaStream_t) const;
template void DeviceNeighbourList::measure(Vector4<double>*, DeviceStatus*, cudaStream_t) const;
template DeviceEdges<float> DeviceNeighbourList::edges(const Vector4<float>*) const;
template DeviceEdges<double> DeviceNeighbourList::edges(const Vector4<double>*) const;

}  // namespace symmd
