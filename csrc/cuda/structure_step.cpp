#include "cuda/structure_step.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/lattice.h"

namespace symmd {

namespace {

constexpr int64_t steps_before_graph = 2;
constexpr int most_attempts = 3;

bool is_capturing(cudaStream_t stream) {
    if (!stream) return false;  // the default stream cannot
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &status), "ask whether the stream captures");
    return status != cudaStreamCaptureStatusNone;
}

void queue_bytes(void* to, int byte, std::size_t bytes, cudaStream_t stream) {
    check_cuda(cudaMemsetAsync(to, byte, bytes, stream), "set memory");
}

template <class T>
void queue_upload(T* to, const T* from, int64_t count, cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(to, from, std::size_t(count) * sizeof(T), cudaMemcpyHostToDevice, stream),
               "copy the structure to the device");
}

std::string name_of(int32_t atom) { return "atom " + std::to_string(int64_t(atom) + 1); }

}  // namespace

template <class T>
StructureStep<T>::State::State(const DeviceNetwork<T>& network, double skin)
    : list(network.cutoff(), skin), step(network), pieces(network) {}

template <class T>
StructureStep<T>::State::~State() {
    forget_graph();
}

template <class T>
void StructureStep<T>::State::forget_graph() {
    if (graph) cudaGraphExecDestroy(graph);
    graph = nullptr;
    steps = 0;
}

template <class T>
std::size_t StructureStep<T>::State::bytes() const {
    return list.memory_bytes() + pieces.memory_bytes() + memory.bytes() + vectors.bytes() + positions.bytes() +
           species.bytes() + unseen.bytes() + outcome.bytes();
}

template <class T>
StructureStep<T>::StructureStep(const DeviceNetwork<T>& network, int device, double skin, cudaStream_t stream)
    : network_(network),
      device_(device),
      skin_(skin),
      stream_(stream),
      state_(std::make_unique<State>(network, skin)) {}

template <class T>
StructureStep<T>::~StructureStep() = default;

template <class T>
typename StructureStep<T>::Key StructureStep<T>::key_of(const System& system) const {
    Key key;
    key.atoms = system.atoms;
    key.periodic = system.periodic;
    for (int axis = 0; axis < 3; ++axis)
        if (system.periodic[axis] && system.cell) std::copy_n(system.cell + 3 * axis, 3, key.cell.begin() + 3 * axis);
    return key;
}

template <class T>
void StructureStep<T>::run(const System& system, Results& results) {
    Key key = key_of(system);
    key.wanted = WantedResults(results);
    key.to_host = !system.on_device;
    if (!state_->ready || !(state_->key == key)) check_cell(system);
    const cudaStream_t stream = system.on_device ? static_cast<cudaStream_t>(system.stream) : stream_;
    if (system.atoms == 0) return run_nothing(system, results);
    if (system.on_device && is_capturing(stream)) {
        if (!state_->ready || !(state_->key == key) || state_->in_pieces)
            throw Error(
                "a step can be captured once the same structure with the same cell and the same results has been "
                "computed in one piece outside of a capture; compute it once before");
        return run_captured(system, results, stream);
    }
    if (system.on_device) check_arrays(system, results);
    try {
        run_until_good(system, key, results, stream);
    } catch (const OutOfDeviceMemory&) {
        state_->ready = false;  // the next step looks again what there is room for
        throw;
    }
    if (system.on_device) return;
    results.energy = state_->outcome.energy();
    state_->outcome.hand_out(results, system.atoms);
}

// Once, or again when the list had no room.
template <class T>
void StructureStep<T>::run_until_good(const System& system, const Key& key, const Results& results,
                                      cudaStream_t stream) {
    for (int attempt = 0;; ++attempt) {
        // The list that had no room says how much it wants, so that the next attempt has it.
        if (attempt > most_attempts) throw Error("the neighbour list on the device found no room for its pairs");
        try {
            prepare(key, stream);
        } catch (const OutOfDeviceMemory&) {
            // Once more, without what was there for another structure.
            state_ = std::make_unique<State>(network_, skin_);
            prepare(key, stream);
        }
        take(system, stream);
        if (state_->in_pieces) {
            run_in_pieces(system, stream);
        } else {
            queue_or_replay(stream);
        }
        if (system.on_device) {
            queue_hand_out(system, results, false, stream);
            state_->outcome.download_status(stream);
        } else {
            state_->outcome.download(stream);
        }
        if (look(system, stream)) return;
    }
}

template <class T>
void StructureStep<T>::check_cell(const System& system) const {
    if (!system.periodic[0] && !system.periodic[1] && !system.periodic[2]) return;
    try {
        reduced_lattice(system.cell, system.periodic);
    } catch (const std::invalid_argument& error) {
        throw Error(error.what());
    }
}

template <class T>
void StructureStep<T>::run_nothing(const System& system, Results& results) {
    if (!system.on_device) {
        results.energy = 0;
        if (results.virial) std::fill_n(results.virial, 9, 0.0);
        return;
    }
    const cudaStream_t stream = static_cast<cudaStream_t>(system.stream);
    if (results.total_energy) queue_bytes(results.total_energy, 0, sizeof(double), stream);
    if (results.virial) queue_bytes(results.virial, 0, 9 * sizeof(double), stream);
}

// A wrong pointer would end the process, or poison the device for it.
template <class T>
void StructureStep<T>::check_arrays(const System& system, const Results& results) const {
    const auto check = [&](const void* array, const char* name) {
        cudaPointerAttributes attributes{};
        check_cuda(cudaPointerGetAttributes(&attributes, array), "look at an array");
        const bool there = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
        if (!there || attributes.device != device_)
            throw Error("arrays on a device must lie on that of the engine, cuda:" + std::to_string(device_) +
                        ", found " + name + (there ? " on cuda:" + std::to_string(attributes.device) : " on the host"));
    };
    check(system.species, "species");
    check(system.positions, "positions");
    if (results.total_energy) check(results.total_energy, "total_energy");
    if (results.atom_energy) check(results.atom_energy, "atom_energy");
    if (results.forces) check(results.forces, "forces");
    if (results.virial) check(results.virial, "virial");
    if (results.atom_virial) check(results.atom_virial, "atom_virial");
    if (results.sender_virial) check(results.sender_virial, "sender_virial");
}

template <class T>
StepSizes StructureStep<T>::sizes() const {
    StepSizes sizes;
    sizes.receivers.assign(network_.layers().size(), state_->key.atoms);
    sizes.senders = sizes.receivers;
    sizes.edges = state_->list.capacity();
    sizes.derivatives = state_->key.wanted.derivatives();
    return sizes;
}

// Memory that a caller's graph writes to stays, and belongs to that graph alone when anything else is wanted.
template <class T>
void StructureStep<T>::renew_captured() {
    captured_.push_back(std::move(state_));
    state_ = std::make_unique<State>(network_, skin_);
}

// Makes everything ready for steps like this; mostly it is.
template <class T>
void StructureStep<T>::prepare(const Key& key, cudaStream_t stream) {
    if (state_->ready && state_->key == key) return;
    if (state_->captured) renew_captured();
    State& state = *state_;
    const bool same_atoms = state.ready && state.key.atoms == key.atoms;
    const bool same_lattice = same_atoms && state.key.periodic == key.periodic && state.key.cell == key.cell;
    const bool same_results = same_atoms && state.key.wanted == key.wanted && state.key.to_host == key.to_host;
    const int64_t capacity = state.list.capacity();
    state.ready = false;
    if (!same_lattice) prepare_list(key, 0, stream);
    state.key = key;
    if (!same_results) {
        state.forget_graph();
        state.outcome.prepare(key.wanted, key.atoms, key.atoms, key.to_host);
        queue_bytes(state.outcome.status(), 0, sizeof(StepStatus), stream);
        queue_bytes(&state.outcome.status()->bad_species, no_atom & 0xff, sizeof(int32_t), stream);
    }
    if (!same_atoms) {
        state.positions.resize(3 * key.atoms);
        state.species.resize(key.atoms);
        state.species_there = false;
        if (state.unseen.size() == 0) {
            state.unseen.resize(1);
            queue_bytes(state.unseen.data(), 0, sizeof(StepStatus), stream);
        }
        if (key.to_host) {
            state.position_staging.resize(3 * key.atoms);
            state.species_staging.resize(key.atoms);
        }
    }
    if (!same_results || capacity != state.list.capacity()) fit_memory();
    state.ready = true;
}

template <class T>
void StructureStep<T>::prepare_list(const Key& key, int64_t edges, cudaStream_t stream) {
    State& state = *state_;
    if (edges > 0) {
        // They are made anew with the list, and may leave it no room.
        state.forget_graph();
        state.memory.free();
        state.vectors.free();
        state.pieces.clear();
    }
    state.list.prepare(key.atoms, key.cell_or_null(), key.periodic, edges, stream);
}

// In one piece where that has room, which is looked at again whenever something has changed.
template <class T>
void StructureStep<T>::fit_memory() {
    State& state = *state_;
    state.forget_graph();
    state.pieces.clear();
    state.in_pieces = false;
    state.vectors.resize(state.list.capacity());
    try {
        state.memory.resize(NetworkStep<T>::bytes(network_.layers(), network_.heads(), sizes()));
    } catch (const OutOfDeviceMemory&) {
        state.in_pieces = true;
    }
}

// The structure to where the step finds it.
template <class T>
void StructureStep<T>::take(const System& system, cudaStream_t stream) {
    State& state = *state_;
    if (system.on_device) {
        queue_bytes(&state.outcome.status()->bad_species, no_atom & 0xff, sizeof(int32_t), stream);
        queue_bytes(&state.outcome.status()->bad_results, 0, sizeof(int32_t), stream);
        TakenStructure work;
        work.atoms = system.atoms;
        work.known_species = int32_t(network_.species());
        work.positions = system.positions;
        work.species = system.species;
        work.own_positions = state.positions.data();
        work.own_species = state.species.data();
        work.status = state.outcome.status();
        device_take_structure(work, stream);
        state.species_there = false;
        return;
    }
    state.position_staging.resize(3 * system.atoms);
    state.species_staging.resize(system.atoms);
    std::copy_n(system.positions, 3 * system.atoms, state.position_staging.data());
    queue_upload(state.positions.data(), state.position_staging.data(), 3 * system.atoms, stream);
    int32_t* const staged = state.species_staging.data();
    if (state.species_there && std::equal(staged, staged + system.atoms, system.species)) return;
    std::copy_n(system.species, system.atoms, staged);
    queue_upload(state.species.data(), staged, system.atoms, stream);
    state.species_there = true;
}

template <class T>
void StructureStep<T>::queue(cudaStream_t stream) {
    State& state = *state_;
    state.list.update(state.positions.data(), &state.outcome.status()->list, stream);
    state.list.measure(state.vectors.data(), &state.outcome.status()->list, stream);
    StepProblem<T> problem;
    problem.sizes = sizes();
    problem.edges.assign(network_.layers().size(), state.list.edges(state.vectors.data()));
    problem.species = state.species.data();
    problem.energy = state.outcome.results().atom_energy;
    state.step.run(problem, state.memory.data(), nullptr, stream);
    if (problem.sizes.derivatives)
        device_sum_edges(problem.edges[0], state.step.edge_pull(), state.outcome.scratch(), state.outcome.sums(),
                         stream);
    device_sum(problem.energy, state.key.atoms, state.outcome.scratch(), state.outcome.results().energy, stream);
}

template <class T>
void StructureStep<T>::queue_or_replay(cudaStream_t stream) {
    State& state = *state_;
    if (state.layout != state.list.layout()) state.forget_graph();
    state.layout = state.list.layout();
    if (state.graph || (state.steps >= steps_before_graph && !state.refuses_graphs && make_graph())) {
        check_cuda(cudaGraphLaunch(state.graph, stream), "start a step");
        return;
    }
    queue(stream);
    ++state.steps;
}

// Without a graph, each step is queued kernel by kernel.
template <class T>
bool StructureStep<T>::make_graph() {
    State& state = *state_;
    cudaGraph_t recorded = nullptr;
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin to record a step");
    bool good = true;
    try {
        queue(stream_);
    } catch (...) {
        good = false;
    }
    good = cudaStreamEndCapture(stream_, &recorded) == cudaSuccess && good;
    good = good && cudaGraphInstantiate(&state.graph, recorded, 0) == cudaSuccess;
    if (recorded) cudaGraphDestroy(recorded);
    if (!good) {
        cudaGetLastError();  // forgets the error
        state.graph = nullptr;
        state.refuses_graphs = true;
    }
    return good;
}

template <class T>
void StructureStep<T>::run_in_pieces(const System& system, cudaStream_t stream) {
    State& state = *state_;
    state.list.update(state.positions.data(), &state.outcome.status()->list, stream);
    state.list.measure(state.vectors.data(), &state.outcome.status()->list, stream);
    state.outcome.download_status(stream);
    check_cuda(cudaStreamSynchronize(stream), "build the neighbour list");
    const StepStatus status = state.outcome.found();
    if (is_void(status, state.list.capacity())) return;
    const DeviceEdges<T> edges = state.list.template edges<T>(state.vectors.data());
    if (status.list.rebuilt || !state.pieces.is_cut()) {
        std::vector<double> positions;
        if (system.on_device) {
            positions.resize(std::size_t(3 * system.atoms));
            check_cuda(cudaMemcpyAsync(positions.data(), state.positions.data(), positions.size() * sizeof(double),
                                       cudaMemcpyDeviceToHost, stream),
                       "copy positions to the host");
            check_cuda(cudaStreamSynchronize(stream), "copy positions to the host");
        }
        state.pieces.cut(edges, system.on_device ? positions.data() : system.positions, state.key.cell_or_null(),
                         state.key.periodic, state.key.wanted, stream);
    }
    state.pieces.run(state.species.data(), state.vectors.data(), state.outcome, stream);
    const StepResults& results = state.outcome.results();
    device_sum(results.atom_energy, state.key.atoms, state.outcome.scratch(), results.energy, stream);
}

template <class T>
void StructureStep<T>::queue_hand_out(const System& system, const Results& results, bool unseen, cudaStream_t stream) {
    State& state = *state_;
    StepResults to;
    to.energy = results.total_energy;
    to.virial = results.virial;
    to.forces = results.forces;
    to.atom_energy = results.atom_energy;
    to.atom_virial = results.atom_virial;
    to.sender_virial = results.sender_virial;
    device_check_results(state.outcome.results(), system.atoms, state.outcome.status(), stream);
    device_hand_out(state.outcome.results(), to, system.atoms, state.list.capacity(), state.outcome.status(),
                    unseen ? state.unseen.data() : nullptr, stream);
}

template <class T>
void StructureStep<T>::run_captured(const System& system, const Results& results, cudaStream_t stream) {
    state_->captured = true;
    take(system, stream);
    queue(stream);
    queue_hand_out(system, results, true, stream);
}

// Waits, and says whether the step is good; otherwise there is room now for what it wanted.
template <class T>
bool StructureStep<T>::look(const System& system, cudaStream_t stream) {
    check_cuda(cudaStreamSynchronize(stream), "compute a step");
    const StepStatus status = state_->outcome.found();
    if (status.list.rebuilt) state_->list.count_builds(1);
    if (status.list.edges_wanted > state_->list.capacity()) {
        if (state_->captured) {
            const Key key = state_->key;
            renew_captured();
            prepare_list(key, status.list.edges_wanted, stream);
            return false;
        }
        state_->ready = false;
        prepare_list(state_->key, status.list.edges_wanted, stream);
        fit_memory();
        state_->ready = true;
        return false;
    }
    if (is_void(status, state_->list.capacity())) throw_problem(status, system.positions, system.on_device);
    return true;
}

template <class T>
void StructureStep<T>::throw_problem(const StepStatus& status, const double* positions, bool on_device) {
    const DeviceStatus& list = status.list;
    const auto place_of = [&](int32_t atom) -> std::string {
        if (!positions) return "";
        double place[3];
        if (on_device) {
            check_cuda(cudaMemcpy(place, positions + 3 * int64_t(atom), sizeof(place), cudaMemcpyDeviceToHost),
                       "copy a position to the host");
        } else {
            std::copy_n(positions + 3 * int64_t(atom), 3, place);
        }
        char text[128];
        std::snprintf(text, sizeof text, " at (%.6g, %.6g, %.6g) Å", place[0], place[1], place[2]);
        return text;
    };
    if (status.bad_species != no_atom)
        throw Error("the species of " + name_of(status.bad_species) + " must be an index from 0 to " +
                    std::to_string(network_.species() - 1) + ", found another");
    if (list.not_finite >= 0)
        throw Error("expected finite coordinates within 1e8 Å, found " + name_of(list.not_finite) +
                    place_of(list.not_finite) + "; check the structure, or a dynamics that has diverged");
    if (list.far_away >= 0)
        throw Error("expected atoms near the cell, found " + name_of(list.far_away) + place_of(list.far_away) +
                    ", more than 2^29 cells away; wrap the atoms into the cell or correct the cell");
    if (list.coinciding[0] >= 0) {
        const std::string names = list.coinciding[0] == list.coinciding[1]
                                      ? name_of(list.coinciding[0]) + " and an image of itself"
                                      : "atoms " + std::to_string(int64_t(list.coinciding[0]) + 1) + " and " +
                                            std::to_string(int64_t(list.coinciding[1]) + 1);
        throw Error("expected atoms and images at least 1e-6 Å apart, found " + names +
                    " coinciding; remove one of them or correct the cell");
    }
    if (status.bad_results)
        throw Error(
            "energy, forces and virial must be finite, found some that are not: the model's numbers are too large for "
            "this precision; compute with float64, or train the model again");
    throw Error("the neighbour list had no room for " + std::to_string(list.edges_wanted) +
                " pairs in a captured step; compute such a structure once outside of the capture, and capture again");
}

template <class T>
void StructureStep<T>::check() {
    std::vector<State*> states;
    for (const std::unique_ptr<State>& state : captured_) states.push_back(state.get());
    if (state_->captured) states.push_back(state_.get());
    if (states.empty()) return;
    check_cuda(cudaDeviceSynchronize(), "compute captured steps");
    StepStatus first{};
    bool failed = false;
    for (State* state : states) {
        StepStatus status;
        check_cuda(cudaMemcpy(&status, state->unseen.data(), sizeof(status), cudaMemcpyDeviceToHost),
                   "copy the outcome to the host");
        check_cuda(cudaMemsetAsync(state->unseen.data(), 0, sizeof(status), stream_), "set memory");
        check_cuda(cudaStreamSynchronize(stream_), "set memory");
        state->list.count_builds(status.builds);
        if (status.void_steps > 0 && !failed) {
            first = status;
            failed = true;
        }
    }
    if (failed) throw_problem(first, nullptr, true);
}

template <class T>
int64_t StructureStep<T>::list_builds() const {
    int64_t builds = state_->list.build_count();
    for (const std::unique_ptr<State>& state : captured_) builds += state->list.build_count();
    return builds;
}

template <class T>
std::size_t StructureStep<T>::memory_bytes() const {
    std::size_t bytes = state_->bytes();
    for (const std::unique_ptr<State>& state : captured_) bytes += state->bytes();
    return bytes;
}

template class StructureStep<float>;
template class StructureStep<double>;

}  // namespace symmd
