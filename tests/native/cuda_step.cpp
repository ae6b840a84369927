// Whole steps on the emulated device beside the processor's: random models and structures, open and periodic, with the
// engine's list and with a caller's rows, ghosts and an exchange; steps that replay a graph, lists that grow, memory
// that holds only pieces, steps that a caller captures, and bad input, after which all works as before. Ends with 0, or
// with 1 and what went wrong.
//
// Usage: cuda_step [SEED]

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/evaluation.h"
#include "core/neighbour_list.h"
#include "cuda/chunks.h"
#include "cuda/device_memory.h"
#include "cuda/evaluation.h"
#include "random_model.h"
#include "step_cases.h"

namespace {

using namespace symmd;

// A model on the processor in doubles, and on the device.
class Both {
  public:
    Both(const ModelShape& shape, uint64_t seed, Precision precision, double skin = 0.5, int device = 0)
        : model_(shape, seed),
          cutoff_(model_.file().header.cutoff),
          exact_(precision == Precision::float64),
          tolerance_(exact_ ? 1e-10 : 1e-3),
          weights_(model_.file()),
          evaluation_(weights_),
          list_(cutoff_, skin) {
        options_.precision = precision;
        options_.skin = skin;
        device_ = make_device_evaluator(model_.file(), options_, device);
    }
    DeviceEvaluator& device() { return *device_; }
    double cutoff() const { return cutoff_; }
    double tolerance() const { return tolerance_; }
    const ModelFile& model() const { return model_.file(); }
    const EngineOptions& options() const { return options_; }

    Found expected(const Structure& structure) {
        Found found(structure.atoms(), structure.atoms());
        const System system = structure.system();
        list_.update(system.positions, system.atoms, system.cell, system.periodic);
        const NeighbourEdges edges = list_.edges();
        Surroundings around;
        around.owned = around.atoms = structure.atoms();
        around.species = structure.species.data();
        around.positions = structure.positions.data();
        around.list = &edges;
        around.cell = structure.cell.data();
        evaluation_.run(around, 1, nullptr, found.results);
        for (const double energy : found.atom_energy) found.results.energy += energy;
        return found;
    }
    Found computed(const Structure& structure) {
        Found found(structure.atoms(), structure.atoms());
        const std::string problem = device_->run(structure.system(), found.results);
        if (!problem.empty()) fail("refused a good structure: " + problem);
        return found;
    }
    void compare(const Structure& structure) { check_same(computed(structure), expected(structure), tolerance_); }

    void compare_rows(const Structure& structure, bool standing) {
        const Found wanted = expected(structure);
        const Rows rows(structure, cutoff_, standing);
        const int64_t own = structure.atoms();
        ImageExchange exchange(rows);
        Found found(own, rows.neighbourhood.atoms);
        const std::string problem = device_->run(rows.around(), standing ? nullptr : &exchange, found.results);
        if (!problem.empty()) fail("refused good rows: " + problem);
        const int times = standing ? 0 : model_.file().header.layers - 1;
        if (exchange.forwards != times || exchange.backwards != times) fail("a wrong number of exchanges");
        for (const double energy : found.atom_energy) found.results.energy += energy;
        for (std::size_t ghost = 0; ghost < rows.owner.size(); ++ghost)
            for (int k = 0; k < 9; ++k) {
                const int64_t from = own + int64_t(ghost), to = rows.owner[ghost];
                if (k < 3) found.forces[3 * to + k] += found.forces[3 * from + k];
                found.atom_virial[9 * to + k] += found.atom_virial[9 * from + k];
                found.sender_virial[9 * to + k] += found.sender_virial[9 * from + k];
            }
        found.forces.resize(3 * own);
        found.atom_virial.resize(9 * own);
        found.sender_virial.resize(9 * own);
        check_same(found, wanted, tolerance_);
    }

  private:
    RandomModel model_;
    const double cutoff_;
    const bool exact_;
    const double tolerance_;
    NetworkWeights<double> weights_;
    Evaluation<double> evaluation_;
    NeighbourList list_;
    EngineOptions options_;
    std::unique_ptr<DeviceEvaluator> device_;
};

void move(Structure& structure, Random& random, double most) {
    for (double& coordinate : structure.positions) coordinate += random.uniform(-most, most);
}

void compare_models(Random& random) {
    const ModelShape shapes[] = {{"default"},
                                 {"wide", 48, 3, 2, 2, 1, 3, true, 20},
                                 {"scalars", 32, 32, 2, 0, 0, 3},
                                 {"degree-3", 16, 2, 3, 3, 3, 3},
                                 {"convolution", 16, 1, 2, 3, 1, 2, false},
                                 {"four layers", 16, 4, 4, 2, 2, 1, true, 8, {2.0, 3.5, 2.5, 3.0}},
                                 {"one layer", 80, 5, 1, 2, 1, 3}};
    for (const ModelShape& shape : shapes) {
        for (const Precision precision : {Precision::float64, Precision::float32}) {
            Both both(shape, uint64_t(random.integer(1, 1000)), precision);
            for (const int64_t atoms : {0, 1, 2, 9, 26}) {
                doing = std::string(shape.name) + (precision == Precision::float64 ? " in doubles, " : " in floats, ") +
                        std::to_string(atoms) + " atoms";
                const Periodic periodic = {random.chance(0.5), random.chance(0.5), random.chance(0.5)};
                const Structure structure = make_structure(random, atoms, periodic, random.uniform(1.9, 2.8));
                both.compare(structure);
                if (atoms == 2 || atoms == 9) {
                    both.compare_rows(structure, false);
                    both.compare_rows(structure, true);
                }
            }
        }
    }
}

// The same structure again and again, which replays a graph; with motion within the skin and beyond, another cell,
// fewer results, and so dense that the list must grow.
void compare_trajectory(Random& random) {
    doing = "trajectory";
    Both both({"default"}, 3, Precision::float64);
    Structure structure = make_structure(random, 20, {true, true, false}, 2.6);
    for (int step = 0; step < 6; ++step, move(structure, random, 0.02)) both.compare(structure);
    const int64_t kept = both.device().list_builds();
    if (kept != 1) fail("the list was built " + std::to_string(kept) + " times within the skin");
    for (int step = 0; step < 3; ++step, move(structure, random, 0.5)) both.compare(structure);
    if (both.device().list_builds() < 3) fail("the list was kept beyond the skin");
    for (int step = 0; step < 4; ++step) {
        for (double& component : structure.cell) component *= 1.001;
        both.compare(structure);
    }
    doing = "trajectory, some results";
    const Found expected = both.expected(structure);
    for (int round = 0; round < 5; ++round) {
        Found found(structure.atoms(), structure.atoms());
        found.results.atom_virial = found.results.sender_virial = found.results.virial = nullptr;
        if (round > 3) found.results.forces = nullptr;
        if (round > 2) found.results.atom_energy = nullptr;
        const std::string problem = both.device().run(structure.system(), found.results);
        if (!problem.empty()) fail(problem);
        check_same("energy", {found.results.energy}, {expected.results.energy}, 1e-10);
        if (round <= 3) check_same("force", found.forces, expected.forces, 1e-10);
        if (round <= 2) check_same("energy of atoms", found.atom_energy, expected.atom_energy, 1e-10);
    }
    doing = "trajectory, growth";
    Structure open = make_structure(random, 40, {false, false, false}, 4.0);
    for (int step = 0; step < 4; ++step) {
        both.compare(open);
        for (double& coordinate : open.positions) coordinate *= 0.8;
        for (double& component : open.cell) component *= 0.8;
    }
    for (int step = 0; step < 3; ++step) both.compare(open);
    doing = "trajectories in turns";
    both.compare(structure);
    const std::size_t settled = both.device().memory_bytes();
    for (int turn = 0; turn < 2; ++turn) {
        both.compare(open);
        both.compare(structure);
        if (both.device().memory_bytes() != settled) fail("allocates in every step");
    }
}

// Threads and blocks in another order give the same bits, in one piece and with a caller's rows.
void compare_orders(Random& random) {
    doing = "threads in another order";
    for (const Precision precision : {Precision::float32, Precision::float64}) {
        Both both({"default"}, 19, precision);
        const Structure structure = make_structure(random, 21, {true, false, true}, 2.3);
        const Rows rows(structure, both.cutoff(), true);
        const char* const before = std::getenv("SYMMD_EMULATOR_SEED");
        const std::string chosen = before ? before : "";
        std::vector<double> bits[3];
        for (int order = 0; order < 3; ++order) {
            setenv("SYMMD_EMULATOR_SEED", std::to_string(order).c_str(), 1);
            const Found one = both.computed(structure);
            Found other(structure.atoms(), rows.neighbourhood.atoms);
            if (!both.device().run(rows.around(), nullptr, other.results).empty()) fail("refused good rows");
            for (const Found* found : {&one, static_cast<const Found*>(&other)})
                for (const std::vector<double>* numbers :
                     {&found->atom_energy, &found->forces, &found->virial, &found->atom_virial, &found->sender_virial})
                    bits[order].insert(bits[order].end(), numbers->begin(), numbers->end());
            bits[order].push_back(one.results.energy);
            if (bits[order] != bits[0]) fail("another order gives other bits");
        }
        setenv("SYMMD_EMULATOR_SEED", chosen.c_str(), 1);
    }
}

std::size_t used_memory() {
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return total - free;
}

// The device has so many bytes left while this lives.
class LittleMemory {
  public:
    explicit LittleMemory(std::size_t bytes) {
        setenv("SYMMD_EMULATOR_MEGABYTES", std::to_string(((used_memory() + bytes) >> 20) + 1).c_str(), 1);
        std::size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        cudaMalloc(&rest_, free - bytes);
    }
    ~LittleMemory() {
        cudaFree(rest_);
        unsetenv("SYMMD_EMULATOR_MEGABYTES");
    }

  private:
    void* rest_ = nullptr;
};

// With enough memory, with too little for one piece, and with too little for the smallest.
void compare_pieces(Random& random) {
    for (const int layers : {2, 3}) {
        const std::string name = "pieces, " + std::to_string(layers) + " layers";
        doing = name;
        ModelShape shape{"", 16, 4, layers};
        shape.layer_cutoffs.assign(std::size_t(layers), 2.8);
        const Structure structure = make_structure(random, layers == 2 ? 120 : 70, {true, true, true}, 2.6);
        const std::size_t before = used_memory();
        Both both(shape, 5, Precision::float64, 0.3);
        const std::size_t network = used_memory();
        both.compare(structure);
        const Found whole = both.computed(structure);
        const std::size_t needed = used_memory() - network, said = both.device().memory_bytes();
        if (said != used_memory() - before)
            fail("said to use " + std::to_string(said) + " bytes, found " + std::to_string(used_memory() - before));
        for (const double share : {1.0, 0.8, 0.1}) {
            doing = name + " in " + std::to_string(share) + " of what they need";
            Both again(shape, 5, Precision::float64, 0.3);
            {
                const LittleMemory little(std::size_t(share * double(needed)));
                if (share < 0.5) {
                    Found found(structure.atoms(), structure.atoms());
                    const std::string problem = again.device().run(structure.system(), found.results);
                    if (problem.find("too little memory for " + std::to_string(structure.atoms()) + " atoms") ==
                        std::string::npos)
                        fail("expected too little memory, found '" + problem + "'");
                } else {
                    check_same(again.computed(structure), whole, 1e-10);
                    if ((again.device().memory_bytes() < said) != (share < 1)) fail("in pieces where that is wrong");
                }
                // Steps in pieces follow each other, with the same list and with another, and in a cell that changes.
                Structure moved = structure;
                for (int step = 0; step < 3 && share == 0.8 && layers == 2; ++step) {
                    move(moved, random, step == 2 ? 0.3 : 0.01);
                    again.compare(moved);
                    for (double& component : moved.cell) component *= 1.0005;
                }
            }
            if (share < 0.5) again.compare(structure);  // and now there is room
        }
    }
}

// Pieces by themselves: which atoms and edges there are.
void check_chunks(Random& random) {
    doing = "chunks";
    const Structure structure = make_structure(random, 60, {true, false, true}, 2.4);
    NeighbourList list(3.0, 0);
    list.update(structure.positions.data(), 60, structure.cell.data(), structure.periodic);
    const NeighbourEdges edges = list.edges();
    std::vector<int32_t> row_start(edges.row_start, edges.row_start + 61),
        sender(edges.sender, edges.sender + edges.edges);
    const int layers = 3;
    ChunkMaker maker({60, row_start.data(), sender.data()}, layers);
    for (int round = 0; round < 2; ++round) {
        std::vector<int64_t> members;
        for (int64_t atom = round; atom < 60; atom += 17) members.push_back(atom);
        const Chunk chunk = maker.make(members.data(), int64_t(members.size()));
        std::vector<int> distance(60, 99);
        for (const int64_t atom : members) distance[atom] = 0;
        for (int hop = 1; hop <= layers; ++hop)
            for (int64_t i = 0; i < 60; ++i)
                for (int32_t e = row_start[i]; e < row_start[i + 1]; ++e)
                    if (distance[i] == hop - 1) distance[sender[e]] = std::min(distance[sender[e]], hop);
        for (int hop = 0; hop <= layers; ++hop) {
            int64_t within = 0;
            for (const int each : distance) within += each <= hop;
            if (within != chunk.reach[hop]) fail("a wrong number of atoms within reach");
            for (int64_t k = 0; k < within; ++k)
                if (distance[chunk.atoms[k]] > hop) fail("an atom beyond reach");
        }
        for (int64_t k = 0; k < chunk.receivers(0); ++k) {
            const int32_t atom = chunk.atoms[k];
            if (chunk.row_start[k + 1] - chunk.row_start[k] != row_start[atom + 1] - row_start[atom])
                fail("a short row");
            for (int32_t e = chunk.row_start[k]; e < chunk.row_start[k + 1]; ++e)
                if (chunk.receiver[e] != k || chunk.atoms[chunk.sender[e]] != sender[chunk.edge[e]])
                    fail("a wrong edge");
        }
        for (int layer = 0; layer < layers; ++layer) {
            int64_t seen = 0;
            for (int64_t atom = 0; atom < chunk.senders(layer); ++atom)
                for (int32_t k = chunk.reverse_start[layer][atom]; k < chunk.reverse_start[layer][atom + 1];
                     ++k, ++seen)
                    if (chunk.sender[chunk.reverse[layer][k]] != atom) fail("a wrong edge by sender");
            if (seen != chunk.row_start[chunk.receivers(layer)]) fail("a wrong number of edges by sender");
        }
    }
}

template <class T>
DeviceBuffer<T> on_device(const std::vector<T>& from) {
    DeviceBuffer<T> to;
    upload(to, from.data(), int64_t(from.size()));
    return to;
}
std::vector<double> on_host(const DeviceBuffer<double>& from) {
    std::vector<double> to(from.size());
    cudaMemcpy(to.data(), from.data(), to.size() * sizeof(double), cudaMemcpyDeviceToHost);
    return to;
}

// Arrays on the device, uncaptured and captured by the caller, and what is wrong there.
void compare_on_device(Random& random) {
    doing = "arrays on the device";
    Both both({"default"}, 7, Precision::float64);
    Structure structure = make_structure(random, 12, {true, true, true}, 2.5);
    const int64_t atoms = structure.atoms();
    DeviceBuffer<int32_t> species = on_device(structure.species);
    DeviceBuffer<double> positions = on_device(structure.positions), energy, forces, virial;
    energy.resize(1), forces.resize(3 * atoms), virial.resize(9);
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    System system = structure.system();
    system.species = species.data();
    system.positions = positions.data();
    system.on_device = true;
    system.stream = stream;
    Results results;
    results.total_energy = energy.data();
    results.forces = forces.data();
    results.virial = virial.data();
    const auto check_found = [&] {
        const Found expected = both.expected(structure);
        check_same("energy", on_host(energy), {expected.results.energy}, 1e-10);
        check_same("force", on_host(forces), expected.forces, 1e-10);
        check_same("virial", on_host(virial), expected.virial, 1e-10);
    };
    const auto place = [&] {
        cudaMemcpy(positions.data(), structure.positions.data(), sizeof(double) * std::size_t(3 * atoms),
                   cudaMemcpyHostToDevice);
    };
    const auto run = [&] {
        const std::string problem = both.device().run(system, results);
        if (!problem.empty()) fail(problem);
    };
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (both.device().run(system, results).find("compute it once before") == std::string::npos)
        fail("captured what was not ready");
    cudaStreamEndCapture(stream, &graph);
    cudaGraphDestroy(graph);
    for (int step = 0; step < 5; ++step) {
        run();
        check_found();
        move(structure, random, 0.05);
        place();
    }
    run();
    doing = "a captured step";
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    run();
    cudaStreamEndCapture(stream, &graph);
    cudaGraphExec_t replayed = nullptr;
    cudaGraphInstantiate(&replayed, graph, 0);
    const auto replay = [&] {
        cudaGraphLaunch(replayed, stream);
        cudaStreamSynchronize(stream);
    };
    const int64_t builds = both.device().list_builds();
    for (int step = 0; step < 3; ++step) {
        move(structure, random, 0.4);
        place();
        replay();
        check_found();
    }
    if (!both.device().check().empty()) fail("found fault with good steps");
    if (both.device().list_builds() < builds + 2) fail("captured builds are not counted");
    const Structure good = structure;
    structure.positions[3] = structure.positions[0];
    structure.positions[4] = structure.positions[1];
    structure.positions[5] = structure.positions[2];
    place();
    replay();
    for (const double force : on_host(forces))
        if (!std::isnan(force)) fail("handed out forces of a void step");
    if (!std::isnan(on_host(energy)[0])) fail("handed out the energy of a void step");
    if (both.device().check().find("atoms 1 and 2 coinciding") == std::string::npos) fail("did not find the pair");
    if (!both.device().check().empty()) fail("said the same twice");
    structure = good;
    place();
    replay();
    check_found();
    doing = "another structure beside a captured one";
    both.compare(make_structure(random, 30, {true, true, true}, 2.2));
    replay();
    check_found();

    doing = "a bad species on the device";
    const int32_t unknown = 9;
    cudaMemcpy(species.data() + 4, &unknown, sizeof(unknown), cudaMemcpyHostToDevice);
    if (both.device().run(system, results).find("species of atom 5") == std::string::npos) fail("took a bad species");
    cudaMemcpy(species.data() + 4, &structure.species[4], sizeof(unknown), cudaMemcpyHostToDevice);
    run();
    check_found();
    system.positions = structure.positions.data();
    if (both.device().run(system, results).find("positions on the host") == std::string::npos)
        fail("took an array of the host");
    system.positions = positions.data();
    system.stream = nullptr;
    run();
    check_found();
    cudaGraphExecDestroy(replayed);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

void check_refusals(Random& random) {
    doing = "refusals";
    Both both({"default"}, 11, Precision::float32, 0.5, 1);
    const Structure good = make_structure(random, 10, {true, false, true}, 2.5);
    const auto refuse = [&](const char* text, const std::function<void(Structure&)>& spoil) {
        Structure bad = good;
        spoil(bad);
        Found found(bad.atoms(), bad.atoms());
        const std::string problem = both.device().run(bad.system(), found.results);
        if (problem.find(text) == std::string::npos)
            fail("expected '" + std::string(text) + "', found '" + problem + "'");
        both.compare(good);
    };
    for (int round = 0; round < 4; ++round) {
        refuse("found atom 3 at (nan", [](Structure& bad) { bad.positions[6] = NAN; });
        refuse("atoms 1 and 4 coinciding",
               [](Structure& bad) { std::copy_n(bad.positions.begin(), 3, bad.positions.begin() + 9); });
        refuse("linearly independent", [](Structure& bad) { std::copy_n(bad.cell.begin(), 3, bad.cell.begin() + 6); });
    }
    refuse("found atom 2 at (1e+12", [](Structure& bad) { bad.positions[3] = 1e12; });
    int device = 7;
    cudaGetDevice(&device);
    if (device != 0) fail("left another device than it found");
}

// What a plan says is what a step takes.
void check_plan(Random& random) {
    doing = "plan";
    Both both({"default"}, 13, Precision::float32, 0.2);
    const std::size_t network = both.device().memory_bytes();
    const Structure structure = make_structure(random, 200, {true, true, true}, 2.7);
    Found found(200, 200);
    found.results.atom_virial = found.results.sender_virial = nullptr;
    const std::string problem = both.device().run(structure.system(), found.results);
    if (!problem.empty()) fail(problem);
    const double taken = double(both.device().memory_bytes() - network);
    // The list is made for a guess of its pairs, four for each atom more than the mean density has within its range.
    double volume = 0;
    for (int k = 0; k < 3; ++k) {
        const double *a = structure.cell.data(), *b = a + 3, *c = a + 6;
        volume += a[k] * (b[(k + 1) % 3] * c[(k + 2) % 3] - b[(k + 2) % 3] * c[(k + 1) % 3]);
    }
    const double pairs = 200 / std::abs(volume) * 4.18879 * std::pow(both.cutoff() + 0.2, 3);
    const DeviceMemoryPlan plan = plan_memory(both.model(), both.options(), 200, pairs + 4);
    // Few atoms need no bins, which are planned for all.
    if (double(plan.whole_bytes) < 0.99 * taken || double(plan.whole_bytes) > 1.1 * taken)
        fail("planned " + std::to_string(plan.whole_bytes) + " bytes, found " + std::to_string(taken));
    if (plan.chunk_bytes > plan.whole_bytes || plan.chunk_bytes < plan.whole_bytes / 20)
        fail("planned " + std::to_string(plan.chunk_bytes) + " bytes for a piece");
}

}  // namespace

int main(int count, char** arguments) {
    try {
        Random random(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1);
        check_chunks(random);
        compare_models(random);
        compare_trajectory(random);
        compare_orders(random);
        compare_on_device(random);
        check_refusals(random);
        check_plan(random);
        compare_pieces(random);
    } catch (const std::exception& error) {
        fail(error.what());
    }
    std::printf("steps on the device agree with those of the processor\n");
    return 0;
}
