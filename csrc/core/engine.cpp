#include "symmd/engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <numeric>
#include <utility>

#include "core/atom_order.h"
#include "core/device.h"
#include "core/elements.h"
#include "core/evaluation.h"
#include "core/model_file.h"
#include "core/neighbour_list.h"
#include "core/network.h"
#include "core/parallel.h"

namespace symmd {

namespace {

constexpr int64_t unordered_atoms = 512;  // so few fit into the cache in any order
constexpr int most_threads = 1024;
constexpr int64_t builds_of_an_order = 10;
constexpr int64_t atoms_of_a_thread = 8;  // fewer are done before the threads have met

// What computes, in one precision.
class Evaluator {
  public:
    virtual ~Evaluator() = default;
    virtual void run(const Surroundings& surroundings, int threads, GhostExchange* exchange, const Results& out) = 0;
    virtual std::size_t memory_bytes() const = 0;
};

template <class T>
class EvaluatorOf : public Evaluator {
  public:
    explicit EvaluatorOf(const ModelFile& model) : network_(model), evaluation_(network_) {}
    void run(const Surroundings& surroundings, int threads, GhostExchange* exchange, const Results& out) override {
        evaluation_.run(surroundings, threads, exchange, out);
    }
    std::size_t memory_bytes() const override { return evaluation_.memory_bytes(); }

  private:
    const NetworkWeights<T> network_;
    Evaluation<T> evaluation_;
};

ModelInfo describe(const ModelFile& model) {
    const ModelHeader& header = model.header;
    ModelInfo info;
    info.species = header.species;
    info.atomic_numbers = header.atomic_numbers;
    info.cutoff = header.cutoff;
    info.layer_cutoffs = header.layer_cutoffs;
    info.layers = header.layers;
    info.channels = header.channels;
    info.heads = header.heads;
    info.max_degree = header.max_degree;
    info.hidden_degree = header.hidden_degree;
    info.body_order = header.body_order;
    info.reference_energies = header.reference_energies;
    info.header = model.header_text;
    info.sha256 = model.sha256;
    return info;
}

void check_options(const EngineOptions& options) {
    if (options.threads < 0 || options.threads > most_threads)
        throw Error("threads must lie between 0 (all) and " + std::to_string(most_threads) + ", found " +
                    std::to_string(options.threads));
    if (!(options.skin >= 0 && options.skin <= 100))
        throw Error("skin must lie between 0 and 100 Å, found " + std::to_string(options.skin));
    device_number(options.device);
}

std::unique_ptr<DeviceEvaluator> evaluator_on_device(const ModelFile& model, const std::string& name,
                                                     const EngineOptions& options) {
    const int number = device_number(options.device);
    const DeviceLibrary& library = device_library(options.device);
    std::string problem;
    std::unique_ptr<DeviceEvaluator> evaluator(
        library.create(model.content->data(), model.content->size(), name, options, number, problem));
    if (!evaluator) throw Error(problem);
    return evaluator;
}

// No exception may pass through the library of devices: the first one waits here until it has returned, and the
// exchange is not asked again.
class WaitingExchange : public GhostExchange {
  public:
    explicit WaitingExchange(GhostExchange& by) : by_(by) {}
    void forward(void* rows, int64_t width, Precision precision) override {
        guarded([&] { by_.forward(rows, width, precision); });
    }
    void backward(void* rows, int64_t width, Precision precision) override {
        guarded([&] { by_.backward(rows, width, precision); });
    }
    void rethrow() const {
        if (thrown_) std::rethrow_exception(thrown_);
    }

  private:
    template <class Call>
    void guarded(Call&& call) {
        if (thrown_) return;
        try {
            call();
        } catch (...) {
            thrown_ = std::current_exception();
        }
    }
    GhostExchange& by_;
    std::exception_ptr thrown_;
};

// Weights that are too large for fp32 pass every other check.
void check_results(const Results& results, int64_t atoms) {
    bool finite = std::isfinite(results.energy);
    for (int64_t k = 0; results.forces && k < 3 * atoms; ++k) finite = finite && std::isfinite(results.forces[k]);
    for (int64_t k = 0; results.virial && k < 9; ++k) finite = finite && std::isfinite(results.virial[k]);
    if (!finite)
        throw Error(
            "energy, forces and virial must be finite, found some that are not: the model's numbers are too large for "
            "this precision; compute with float64, or train the model again");
}

}  // namespace

GhostExchange::~GhostExchange() = default;

struct __attribute__((visibility("hidden"))) Engine::State {
    EngineOptions options;
    ModelInfo info;
    double list_cutoff;
    // One of the two; with `device` the list below stays empty.
    std::unique_ptr<Evaluator> evaluator;
    std::unique_ptr<DeviceEvaluator> device;
    NeighbourList list;
    std::vector<double> atom_energy;

    // Atoms in the order that the engine's list has them, when that is not the caller's.
    std::vector<int64_t> order;
    std::vector<int32_t> species;
    std::vector<double> positions, forces, atom_virial, sender_virial;
    int64_t builds_at_order = 0;

    State(const ModelFile& model, const std::string& name, const EngineOptions& chosen)
        : options(chosen),
          info(describe(model)),
          list_cutoff(*std::max_element(info.layer_cutoffs.begin(), info.layer_cutoffs.end())),
          list(list_cutoff, chosen.skin) {
        if (device_number(options.device) >= 0) {
            device = evaluator_on_device(model, name, options);
        } else if (options.precision == Precision::float32) {
            evaluator = std::make_unique<EvaluatorOf<float>>(model);
        } else {
            evaluator = std::make_unique<EvaluatorOf<double>>(model);
        }
    }

    int threads_for(int64_t atoms) const {
        const int64_t most = options.threads > 0 ? std::min<int64_t>(options.threads, atoms)
                                                 : std::min<int64_t>(available_threads(), atoms / atoms_of_a_thread);
        return int(std::max<int64_t>(1, most));
    }

    void check_species(const int32_t* found, int64_t atoms) const {
        const int32_t known = int32_t(info.species.size());
        for (int64_t i = 0; i < atoms; ++i)
            if (found[i] < 0 || found[i] >= known)
                throw Error("the species of atom " + std::to_string(i + 1) + " must be an index from 0 to " +
                            std::to_string(known - 1) + ", found " + std::to_string(found[i]));
    }

    void update_order(const System& system);
    const double* arrange(const System& system);
    void update_list(const System& system, const double* arranged);
    int64_t list_builds() const { return device ? device->list_builds() : list.build_count(); }
    Results arranged_results(int64_t atoms, const Results& wanted);
    void rearrange(int64_t atoms, Results& results) const;
    void compute(const System& system, Results& results);
    void run_on_device(const System& system, Results& results);
    void compute_on_device(const System& system, Results& results);
    void compute(const Surroundings& around, GhostExchange* exchange, const Results& out);
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::load(const std::string& path, const EngineOptions& options) {
    check_options(options);
    return Engine(std::make_unique<State>(load_model_file(path), path, options));
}

Engine Engine::load(const void* data, std::size_t size, const std::string& name, const EngineOptions& options) {
    check_options(options);
    return Engine(std::make_unique<State>(load_model_file(data, size, name), name, options));
}

// An order serves for several lists: atoms diffuse slowly compared with the boxes of the curve.
void Engine::State::update_order(const System& system) {
    if (system.atoms <= unordered_atoms || options.deterministic) {
        order.clear();
        return;
    }
    const bool fits = int64_t(order.size()) == system.atoms;
    if (fits && list_builds() - builds_at_order < builds_of_an_order) return;
    order_along_curve(system.positions, system.atoms, system.cell, system.periodic, order);
    builds_at_order = list_builds();
}

const double* Engine::State::arrange(const System& system) {
    if (order.empty()) return system.positions;
    species.resize(system.atoms);
    positions.resize(3 * system.atoms);
    for (int64_t k = 0; k < system.atoms; ++k) {
        species[k] = system.species[order[k]];
        std::copy_n(system.positions + 3 * order[k], 3, positions.data() + 3 * k);
    }
    return positions.data();
}

void Engine::State::update_list(const System& system, const double* arranged) {
    try {
        try {
            list.update(arranged, system.atoms, system.cell, system.periodic);
        } catch (const std::invalid_argument&) {
            if (order.empty()) throw;
            // The same again in the caller's order, so that the message names the caller's atoms.
            order.clear();
            list.update(system.positions, system.atoms, system.cell, system.periodic);
            throw;
        }
    } catch (const std::invalid_argument& error) {
        order.clear();
        throw Error(error.what());
    }
}

// Where results go that follow the engine's order of the atoms, from which rearrange() takes them.
Results Engine::State::arranged_results(int64_t atoms, const Results& wanted) {
    Results out = wanted;
    atom_energy.resize(atoms);
    out.atom_energy = atom_energy.data();
    if (order.empty()) return out;
    forces.resize(wanted.forces ? 3 * atoms : 0);
    atom_virial.resize(wanted.atom_virial ? 9 * atoms : 0);
    sender_virial.resize(wanted.sender_virial ? 9 * atoms : 0);
    if (out.forces) out.forces = forces.data();
    if (out.atom_virial) out.atom_virial = atom_virial.data();
    if (out.sender_virial) out.sender_virial = sender_virial.data();
    return out;
}

void Engine::State::rearrange(int64_t atoms, Results& results) const {
    for (int64_t k = 0; k < atoms; ++k) {
        const int64_t i = order.empty() ? k : order[k];
        if (results.atom_energy) results.atom_energy[i] = atom_energy[k];
        if (order.empty()) continue;
        if (results.forces) std::copy_n(forces.data() + 3 * k, 3, results.forces + 3 * i);
        if (results.atom_virial) std::copy_n(atom_virial.data() + 9 * k, 9, results.atom_virial + 9 * i);
        if (results.sender_virial) std::copy_n(sender_virial.data() + 9 * k, 9, results.sender_virial + 9 * i);
    }
}

void Engine::State::compute(const System& system, Results& results) {
    if (system.atoms < 0)
        throw Error("the number of atoms must not be negative, found " + std::to_string(system.atoms));
    if (device) return compute_on_device(system, results);
    if (system.on_device)
        throw Error("arrays on a device need an engine there, found one on the device cpu; load it with device cuda");
    check_species(system.species, system.atoms);
    update_order(system);
    const double* arranged = arrange(system);
    update_list(system, arranged);
    const NeighbourEdges edges = list.edges();

    Surroundings around;
    around.owned = around.atoms = system.atoms;
    around.species = order.empty() ? system.species : species.data();
    around.positions = arranged;
    around.list = &edges;
    // Shifts are 0 along open axes, whose vectors may be anything: 0 times NaN would not be 0.
    std::array<double, 9> cell{};
    for (int axis = 0; axis < 3; ++axis)
        if (system.periodic[axis]) std::copy_n(system.cell + 3 * axis, 3, cell.begin() + 3 * axis);
    around.cell = system.periodic[0] || system.periodic[1] || system.periodic[2] ? cell.data() : nullptr;
    around.names = order.empty() ? nullptr : order.data();
    around.evenly = options.deterministic;

    const Results out = arranged_results(system.atoms, results);
    evaluator->run(around, threads_for(system.atoms), nullptr, out);
    results.energy = std::accumulate(atom_energy.begin(), atom_energy.end(), 0.0);
    rearrange(system.atoms, results);
    check_results(results, system.atoms);
}

void Engine::State::run_on_device(const System& system, Results& results) {
    System arranged = system;
    arranged.positions = arrange(system);
    if (!order.empty()) arranged.species = species.data();
    Results out = arranged_results(system.atoms, results);
    const std::string problem = device->run(arranged, out);
    if (!problem.empty()) throw Error(problem);
    results.energy = out.energy;
    rearrange(system.atoms, results);
}

void Engine::State::compute_on_device(const System& system, Results& results) {
    if (system.on_device) {
        const std::string problem = device->run(system, results);
        if (!problem.empty()) throw Error(problem);
        return;
    }
    check_species(system.species, system.atoms);
    update_order(system);
    try {
        run_on_device(system, results);
    } catch (const Error&) {
        if (order.empty()) throw;
        // The same again in the caller's order, so that the message names the caller's atoms.
        order.clear();
        run_on_device(system, results);
    }
    check_results(results, system.atoms);
}

void Engine::State::compute(const Surroundings& around, GhostExchange* exchange, const Results& out) {
    if (!device) return evaluator->run(around, threads_for(around.owned), exchange, out);
    if (!exchange) {
        const std::string problem = device->run(around, nullptr, out);
        if (!problem.empty()) throw Error(problem);
        return;
    }
    WaitingExchange waiting(*exchange);
    const std::string problem = device->run(around, &waiting, out);
    waiting.rethrow();
    if (!problem.empty()) throw Error(problem);
}

void Engine::compute(const System& system, Results& results) { state_->compute(system, results); }

void Engine::compute(const Neighbourhood& neighbourhood, GhostExchange* exchange, Results& results) {
    const int64_t owned = neighbourhood.owned, atoms = neighbourhood.atoms;
    if (owned < 0 || atoms < owned)
        throw Error("a neighbourhood must have at least its owned atoms, found " + std::to_string(owned) + " of " +
                    std::to_string(atoms));
    bool ghosts = false;
    for (int64_t k = 0; k < atoms; ++k) {
        const int64_t standing = neighbourhood.stands_for ? neighbourhood.stands_for[k] : k;
        if (standing < 0 || standing >= atoms || (k < owned && standing != k) ||
            (standing != k && neighbourhood.stands_for[standing] != standing))
            throw Error("the atom that stands for atom " + std::to_string(k + 1) + " must be " +
                        (k < owned ? "itself" : "one below " + std::to_string(atoms) + " that stands for itself") +
                        ", found " + std::to_string(standing));
        ghosts = ghosts || standing >= owned;
    }
    for (int64_t i = 0; i < owned; ++i)
        if (neighbourhood.counts[i] < 0)
            throw Error("the number of neighbours of atom " + std::to_string(i + 1) + " must not be negative, found " +
                        std::to_string(neighbourhood.counts[i]));
    if (!exchange && ghosts && state_->info.layers > 1)
        throw Error("a network of " + std::to_string(state_->info.layers) +
                    " layers needs the features of its ghosts: give a GhostExchange");
    state_->check_species(neighbourhood.species, atoms);
    for (int64_t k = 0; k < 3 * atoms; ++k)
        if (!std::isfinite(neighbourhood.positions[k]))
            throw Error("coordinates must be finite, found " + std::to_string(neighbourhood.positions[k]) +
                        " at atom " + std::to_string((neighbourhood.names ? neighbourhood.names[k / 3] : k / 3) + 1) +
                        ": the simulation has most likely blown up");
    Surroundings around;
    around.owned = owned;
    around.atoms = atoms;
    around.species = neighbourhood.species;
    around.positions = neighbourhood.positions;
    around.rows = &neighbourhood;
    around.names = neighbourhood.names;
    around.evenly = state_->options.deterministic;
    state_->atom_energy.resize(owned);
    Results out = results;
    out.atom_energy = state_->atom_energy.data();
    state_->compute(around, exchange, out);
    results.energy = std::accumulate(state_->atom_energy.begin(), state_->atom_energy.end(), 0.0);
    if (results.atom_energy) std::copy(state_->atom_energy.begin(), state_->atom_energy.end(), results.atom_energy);
    check_results(results, atoms);
}

bool Engine::captured() const { return state_->device && state_->device->captured(); }

void Engine::check() {
    const std::string problem = state_->device ? state_->device->check() : "";
    if (!problem.empty()) throw Error(problem);
}

const ModelInfo& Engine::model() const { return state_->info; }

int32_t Engine::species_of(int atomic_number) const {
    const std::vector<int>& known = state_->info.atomic_numbers;
    const auto found = std::find(known.begin(), known.end(), atomic_number);
    if (found != known.end()) return int32_t(found - known.begin());
    std::string names;
    for (const std::string& name : state_->info.species) names += (names.empty() ? "" : ", ") + name;
    throw Error("the model knows " + names + ", found an atom with atomic number " + std::to_string(atomic_number) +
                "; use a model that was trained with this element");
}

const EngineOptions& Engine::options() const { return state_->options; }

void Engine::set_threads(int threads) {
    EngineOptions changed = state_->options;
    changed.threads = threads;
    check_options(changed);
    state_->options = changed;
}

int64_t Engine::list_builds() const { return state_->list_builds(); }

std::size_t Engine::memory_bytes() const {
    return (state_->device ? state_->device->memory_bytes() : state_->evaluator->memory_bytes()) +
           state_->list.memory_bytes() + state_->positions.capacity() * sizeof(double) +
           state_->species.capacity() * sizeof(int32_t) + state_->order.capacity() * sizeof(int64_t) +
           state_->forces.capacity() * sizeof(double) +
           (state_->atom_virial.capacity() + state_->sender_virial.capacity()) * sizeof(double) +
           state_->atom_energy.capacity() * sizeof(double);
}

std::string Engine::instruction_set() { return symmd::instruction_set().name; }

int Engine::device_count() { return symmd::device_count(device_library()); }

}  // namespace symmd
