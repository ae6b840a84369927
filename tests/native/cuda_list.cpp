// The neighbour list of csrc/cuda on the emulated device beside that of the processor: random cells and motions, bad
// input, growth, graphs, and shuffled threads. Ends with 0 and one line, or with 1 and what went wrong.
//
// Usage: cuda_list [cases] [seed]

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/neighbour_list.h"
#include "cuda/list_kernels.h"
#include "device_check.h"
#include "random_numbers.h"

namespace {

using namespace symmd;
using Periodic = std::array<bool, 3>;
using Edge = std::array<int64_t, 5>;  // receiver, sender, shift in cells

struct Structure {
    std::vector<double> positions;
    std::array<double, 9> cell{};
    Periodic periodic{};
    int64_t atoms() const { return int64_t(positions.size() / 3); }
    bool has_cell() const { return periodic[0] || periodic[1] || periodic[2]; }
};

class Maker : public RandomNumbers {
  public:
    using RandomNumbers::RandomNumbers;

    void shake(Structure& s, double most) {
        for (double& coordinate : s.positions) coordinate += most * uniform(-1, 1);
    }
    void strain(Structure& s, double most) {
        for (double& component : s.cell) component += most * uniform(-1, 1);
    }

    // `spread` cells around the middle of the cell.
    Structure structure(int64_t atoms, double shortest, double longest, double skew, double spread) {
        Structure made;
        double lengths[3], least = longest;
        for (double& length : lengths) least = std::min(least, length = uniform(shortest, longest));
        for (int k = 0; k < 3; ++k) {
            made.periodic[k] = uniform(0, 1) < 0.6;
            for (int x = 0; x < 3; ++x)
                made.cell[3 * k + x] = (k == x ? lengths[k] : 0) + skew * least * uniform(-1, 1);
        }
        for (int64_t atom = 0; atom < atoms; ++atom) {
            double fractions[3];
            for (double& fraction : fractions) fraction = uniform(0.5 - spread, 0.5 + spread);
            for (int x = 0; x < 3; ++x) {
                double sum = 0;
                for (int k = 0; k < 3; ++k) sum += fractions[k] * made.cell[3 * k + x];
                made.positions.push_back(sum);
            }
        }
        // Sometimes given by longer vectors of the same lattice.
        for (int64_t round = integer(0, 3); round > 0; --round) {
            const int64_t first = integer(0, 2), second = (first + integer(1, 2)) % 3, times = integer(-1, 1);
            if (made.periodic[first] && made.periodic[second])
                for (int x = 0; x < 3; ++x) made.cell[3 * first + x] += double(times) * made.cell[3 * second + x];
        }
        return made;
    }
};

// What a step leaves on the device.
template <class T>
struct Found {
    DeviceStatus status;
    std::vector<int32_t> row_start, receiver, sender, reverse;
    std::vector<Vector4<T>> vectors;

    bool operator==(const Found& other) const {
        return std::memcmp(&status, &other.status, sizeof(status)) == 0 && row_start == other.row_start &&
               receiver == other.receiver && sender == other.sender && reverse == other.reverse &&
               vectors.size() == other.vectors.size() &&
               std::memcmp(vectors.data(), other.vectors.data(), vectors.size() * sizeof(Vector4<T>)) == 0;
    }
};

template <class T>
class DeviceList {
  public:
    DeviceList(double cutoff, double skin) : list(cutoff, skin) { cudaStreamCreateWithFlags(&stream, 0); }
    ~DeviceList() { cudaStreamDestroy(stream); }

    void prepare(const Structure& s, int64_t edges = 0) {
        list.prepare(s.atoms(), s.has_cell() ? s.cell.data() : nullptr, s.periodic, edges, stream);
        vectors.resize(list.capacity());
        status.resize(1);
        positions.resize(std::max<int64_t>(3 * s.atoms(), 1));
    }
    void queue() {
        list.update(positions.data(), status.data(), stream);
        list.measure(vectors.data(), status.data(), stream);
    }
    void place(const Structure& s) {
        if (s.atoms() == 0) return;
        check_cuda(cudaMemcpy(positions.data(), s.positions.data(), s.positions.size() * sizeof(double),
                              cudaMemcpyHostToDevice),
                   "copy");
    }
    Found<T> result(const Structure& s) {
        check_cuda(cudaStreamSynchronize(stream), "wait");
        const DeviceEdges<T> edges = list.edges(vectors.data());
        expect(edges.receivers == s.atoms() && edges.standing == s.atoms(), "wrong number of atoms");
        Found<T> found;
        found.status = download(status.data(), 1)[0];
        found.row_start = download(edges.row_start, s.atoms() + 1);
        const int32_t count = found.row_start.back();
        found.receiver = download(edges.receiver, count);
        found.sender = download(edges.sender, count);
        found.reverse = download(edges.reverse, count);
        found.vectors = download(edges.vectors, count);
        return found;
    }
    // A whole step, with room made as often as it takes.
    Found<T> step(const Structure& s) {
        prepare(s);
        for (int round = 0; round < 3; ++round) {
            place(s);
            queue();
            const Found<T> found = result(s);
            if (found.status.edges_wanted <= list.capacity()) return found;
            expect(found.row_start.back() == 0, "a list without room has edges");
            prepare(s, found.status.edges_wanted);
        }
        fail("there is never room");
    }

    DeviceNeighbourList list;
    cudaStream_t stream = nullptr;
    DeviceBuffer<Vector4<T>> vectors;
    DeviceBuffer<DeviceStatus> status;
    DeviceBuffer<double> positions;
};

// The edges as listed, with the shifts that belong to their vectors, which must be right to `accuracy`.
template <class T>
std::vector<Edge> edges_of(const Found<T>& found, const Structure& s, double accuracy) {
    const Lattice lattice = reduced_lattice(s.has_cell() ? s.cell.data() : nullptr, s.periodic);
    std::vector<Edge> edges;
    std::vector<std::vector<int32_t>> sent(s.atoms());
    for (int64_t i = 0; i < s.atoms(); ++i) {
        for (int32_t e = found.row_start[i]; e < found.row_start[i + 1]; ++e) {
            const int64_t j = found.sender[e];
            expect(found.receiver[e] == i && j >= 0 && j < s.atoms(), "wrong ends of an edge");
            sent[j].push_back(e);
            expect(e == found.row_start[i] || found.sender[e - 1] <= j, "senders not in order");
            const double vector[3] = {double(found.vectors[e].x), double(found.vectors[e].y),
                                      double(found.vectors[e].z)};
            Vector across;
            for (int x = 0; x < 3; ++x) across[x] = vector[x] - (s.positions[3 * j + x] - s.positions[3 * i + x]);
            Edge edge{i, j, 0, 0, 0};
            for (int k = 0; k < lattice.rank; ++k) {
                const int64_t repeats = std::llround(dot(lattice.duals[k], across));
                for (int x = 0; x < 3; ++x) {
                    edge[2 + x] += repeats * lattice.multiples[k][x];
                    across[x] -= double(repeats) * lattice.vectors[k][x];
                }
            }
            expect(std::sqrt(dot(across, across)) < accuracy, "wrong vector");
            const double square = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2];
            expect(std::abs(double(found.vectors[e].w) - square) < accuracy * (1 + square), "wrong square");
            edges.push_back(edge);
        }
    }
    int64_t place = 0;
    for (const std::vector<int32_t>& row : sent)
        for (const int32_t edge : row) expect(found.reverse[place++] == edge, "wrong edges by sender");
    std::sort(edges.begin(), edges.end());
    return edges;
}

std::vector<Edge> edges_of(const NeighbourList& list) {
    const NeighbourEdges edges = list.edges();
    std::vector<Edge> all;
    for (int64_t i = 0; i < edges.atoms; ++i)
        for (int64_t e = edges.row_start[i]; e < edges.row_start[i + 1]; ++e)
            all.push_back({i, edges.sender[e], edges.shift[e][0], edges.shift[e][1], edges.shift[e][2]});
    std::sort(all.begin(), all.end());
    return all;
}

// Those that every list must have, whenever it was built.
std::vector<Edge> within(const std::vector<Edge>& edges, const Structure& s, double cutoff) {
    std::vector<Edge> near;
    for (const Edge& edge : edges) {
        double square = 0;
        for (int x = 0; x < 3; ++x) {
            double along = s.positions[3 * edge[1] + x] - s.positions[3 * edge[0] + x];
            for (int k = 0; k < 3; ++k) along += double(edge[2 + k]) * s.cell[3 * k + x];
            square += along * along;
        }
        if (square < cutoff * cutoff) near.push_back(edge);
    }
    return near;
}

// Steps of a structure that moves, shears and drifts: the same pairs as on the processor, built in the same steps.
template <class T>
void follow(Maker& maker, Structure s, double cutoff, double skin, int steps) {
    constexpr double accuracy = sizeof(T) == 4 ? 1e-4 : 1e-9;
    DeviceList<T> device(cutoff, skin);
    NeighbourList list(cutoff, skin);
    double strain = 0;
    bool together = true;  // lists built at the same steps
    for (int step = 0; step < steps; ++step) {
        const bool built = list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
        const Found<T> found = device.step(s);
        const DeviceStatus& status = found.status;
        expect(status.not_finite == -1 && status.far_away == -1 && status.problem == 0 && status.coinciding[0] == -1 &&
                   status.coinciding[1] == -1,
               "a problem where there is none");
        together = together && (status.rebuilt == 1) == built;
        const std::vector<Edge> edges = edges_of(found, s, accuracy), expected = edges_of(list);
        expect(together ? edges == expected : within(edges, s, cutoff) == within(expected, s, cutoff),
               "other pairs than on the processor");
        expect(status.edges_wanted == int64_t(found.sender.size()), "wrong number of edges");
        expect(status.rebuilt == 1 || !built, "the list was kept");
        // A cell that has changed by a tenth is reduced anew, and the list with it.
        expect(status.rebuilt == 0 || built || strain > 0.08, "the list was built for nothing");
        const double drift = maker.uniform(-2, 2) * skin;
        maker.shake(s, 0.25 * skin * maker.uniform(0, 1));
        if (step % 2)
            for (double& coordinate : s.positions) coordinate += drift;
        if (step % 3 == 1) {
            const double most = maker.uniform(0, 0.3) * skin;
            for (const double height : reduced_lattice(s.cell.data(), s.periodic).heights)
                strain = std::max(strain, 3 * most / height);
            maker.strain(s, most);
        }
    }
}

void compare(Maker& maker) {
    const int64_t kind = maker.integer(0, 9);
    const double spread = maker.uniform(0, 1) < 0.5 ? 0.5 : 1.5;
    const double skin = maker.integer(0, 4) ? maker.uniform(0.1, 1) : 0;
    shuffle_threads(int(maker.integer(0, 3)));
    const auto many = [&](int64_t least, int64_t most, double shortest, double longest) {
        return maker.structure(maker.integer(least, most), shortest, longest, 0.2, spread);
    };
    if (kind < 5)  // molecules and tiny cells
        follow<double>(maker, maker.structure(maker.integer(0, 14), 1.5, 12, 0.4, spread), maker.uniform(0.5, 4.5),
                       skin, 5);
    else if (kind < 6)
        follow<float>(maker, many(100, 250, 7, 14), maker.uniform(1, 3), skin, 4);
    else if (kind < 7) {  // several images of many atoms
        Structure s = many(120, 160, 3.5, 5);
        s.periodic = {true, true, true};
        follow<double>(maker, s, maker.uniform(1, 2.5), skin, 4);
    } else if (kind < 9)
        follow<double>(maker, many(200, 700, 8, 20), maker.uniform(1, 3), skin, 5);
    else  // a wire or a sheet
        follow<double>(maker, many(80, 160, 2, 30), maker.uniform(1, 3), skin, 4);
}

// Thousands of atoms, and one that has flown away.
void compare_large(Maker& maker) {
    Structure s = maker.structure(2200, 28, 30, 0.2, 0.5);
    s.periodic = {true, true, true};
    follow<float>(maker, s, 3, 0.5, 2);
    s.periodic = {true, false, true};
    follow<double>(maker, s, 3, 0.5, 2);
    s.periodic = {false, false, false};
    s.positions[3 * 100] = 1e7;
    s.positions[3 * 100 + 1] = -9e7;
    follow<double>(maker, s, 3, 0.5, 2);
}

// The same bits whatever the order of threads, also over a motion that builds the list anew.
void compare_orders(Maker& maker) {
    for (const int64_t atoms : {40, 400}) {
        const Structure start = maker.structure(atoms, 9, 12, 0.2, 0.6);
        std::vector<Found<float>> first;
        for (int seed = 0; seed <= 3; ++seed) {
            shuffle_threads(seed);
            Maker mover(7);
            Structure s = start;
            DeviceList<float> device(2.5, 0.4);
            for (int step = 0; step < 3; ++step) {
                const Found<float> found = device.step(s);
                if (seed == 0)
                    first.push_back(found);
                else
                    expect(found == first[step], "other bits with another order of threads");
                mover.shake(s, 0.2);
            }
        }
    }
    shuffle_threads(0);
}

void refuse_positions(Maker& maker) {
    for (const int64_t atoms : {20, 400}) {
        Structure s = maker.structure(atoms, 10, 12, 0.1, 0.5);
        s.periodic = {true, true, false};
        DeviceList<double> device(3, 0.5);
        device.step(s);
        const double hostile[] = {std::numeric_limits<double>::quiet_NaN(), 2e8,
                                  -std::numeric_limits<double>::infinity()};
        for (const double value : hostile) {
            Structure bad = s;
            bad.positions[3 * 17 + 1] = value;
            bad.positions[3 * 9 + 2] = value;
            const Found<double> found = device.step(bad);
            expect(found.status.not_finite == 9, "not the first atom that is not finite");
            expect(found.row_start.back() == 0 && found.status.rebuilt == 0, "edges of atoms that are not finite");
            const Found<double> again = device.step(s);
            expect(again.status.not_finite == -1 && again.status.rebuilt == 1,
                   "no list after atoms that are not finite");
            expect(!again.sender.empty(), "no edges after atoms that are not finite");
        }
        // In the same place: two pairs of atoms, across the cell, and after the list was built.
        Structure meeting = s;
        for (int x = 0; x < 3; ++x) {
            meeting.positions[3 * 7 + x] = meeting.positions[3 * 12 + x] + meeting.cell[x];
            meeting.positions[3 * 3 + x] = meeting.positions[3 * 15 + x];
        }
        Found<double> found = device.step(meeting);
        expect(found.status.coinciding[0] == 7 && found.status.coinciding[1] == 12, "not the first coinciding atoms");
        DeviceList<double> slow(3, 1);
        meeting = s;
        for (int x = 0; x < 3; ++x) meeting.positions[3 * 5 + x] = meeting.positions[3 * 8 + x] + 0.1;
        expect(slow.step(meeting).status.coinciding[0] == -1, "atoms coincide that do not");
        for (int x = 0; x < 3; ++x) meeting.positions[3 * 5 + x] -= 0.1;
        found = slow.step(meeting);
        expect(found.status.rebuilt == 0 && found.status.coinciding[0] == 5 && found.status.coinciding[1] == 8,
               "atoms meet unseen while the list is kept");
    }
    Structure away;
    away.periodic = {true, true, true};
    away.cell = {0.18, 0, 0, 0, 5, 0, 0, 0, 5};
    away.positions = {0, 0, 0, 1e8, 0, 0};
    DeviceList<double> device(0.3, 0);
    const Found<double> found = device.step(away);
    expect(found.status.far_away == 1 && found.row_start.back() == 0, "an atom is too far away to count cells");
    away.positions[3] = 0.05;
    expect(device.step(away).status.far_away == -1, "an atom has come back");
}

template <class Do>
std::string message_of(Do something) {
    try {
        something();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

// What the processor refuses, with the same words.
void refuse_cells() {
    const double largest = std::numeric_limits<double>::infinity();
    const std::array<double, 9> cells[] = {{0, 0, 0, 0, 5, 0, 0, 0, 5},       {1, 2, 3, 2, 4, 6, 0, 0, 5},
                                           {largest, 0, 0, 0, 5, 0, 0, 0, 5}, {1e-3, 0, 0, 0, 1e-3, 0, 0, 0, 1},
                                           {1e9, 0, 0, 0, 5, 0, 0, 0, 5},     {5, 0, 0, 0, 5, 0, 0, 0, 5}};
    for (const std::array<double, 9>& cell : cells) {
        Structure s;
        s.periodic = {true, true, true};
        s.cell = cell;
        s.positions = {0, 0, 0, 1, 1, 1};
        NeighbourList list(3, 0.5);
        DeviceList<double> device(3, 0.5);
        const std::string expected =
            message_of([&] { list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic); });
        expect(message_of([&] { device.prepare(s); }) == expected, "another message than on the processor");
        expect(expected.empty() == (&cell == &cells[5]), "the processor does not refuse it");
        s.cell = {6, 0, 0, 0, 5, 0, 0, 0, 5};
        expect(!device.step(s).sender.empty(), "no list after a refused cell");
    }
    DeviceNeighbourList list(3, 0.5);
    expect(message_of([&] {
               list.prepare(2, nullptr, {true, false, false}, 0, nullptr);
           }).rfind("expected a cell", 0) == 0,
           "a missing cell");
    expect(!message_of([&] { list.prepare(-1, nullptr, {}, 0, nullptr); }).empty(), "a negative number of atoms");
    for (const std::array<double, 2>& ranges : {std::array<double, 2>{0, 1}, {largest, 1}, {3, -1}, {3, 1e9}}) {
        const std::string expected = message_of([&] { NeighbourList(ranges[0], ranges[1]); });
        expect(!expected.empty(), "the processor does not refuse it");
        expect(message_of([&] { DeviceNeighbourList(ranges[0], ranges[1]); }) == expected,
               "another message of a range");
    }
}

// Far more neighbours than a liquid has: rows longer than what a warp holds, and room that grows once.
void grow(Maker& maker) {
    for (const int64_t atoms : {150, 400}) {
        Structure s;
        const bool crowd = atoms == 400;  // in the corner of a cell
        s.periodic = {crowd, crowd, crowd};
        s.cell = {20, 0, 0, 0, 20, 0, 0, 0, 20};
        for (int64_t k = 0; k < 3 * atoms; ++k) s.positions.push_back(maker.uniform(0, crowd ? 5 : 3));
        DeviceList<double> device(3, 0.5);
        NeighbourList list(3, 0.5);
        list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
        device.prepare(s);
        const int64_t before = device.list.capacity(), layout = device.list.layout();
        const Found<double> found = device.step(s);
        expect(edges_of(found, s, 1e-9) == edges_of(list), "other pairs than on the processor");
        if (crowd) {
            int32_t most = 0;
            for (int64_t i = 0; i < atoms; ++i) most = std::max(most, found.row_start[i + 1] - found.row_start[i]);
            expect(most > 200, "rows too short to tell");
            expect(before < int64_t(found.sender.size()), "no need to grow");
            expect(device.list.layout() != layout, "a graph would keep the arrays that were too small");
        }
        const int64_t bytes = int64_t(device.list.memory_bytes());
        expect(bytes <= DeviceNeighbourList::memory_for(atoms, device.list.capacity()), "more memory than predicted");
        expect(bytes > DeviceNeighbourList::memory_for(0, device.list.capacity()) * 9 / 10,
               "less memory than predicted");
        expect(device.step(s).status.rebuilt == 0, "built twice");
    }
    // A liquid has the room that it needs at once, and not much more.
    Structure liquid = maker.structure(500, 18, 18, 0.1, 0.5);
    liquid.periodic = {true, true, true};
    DeviceList<float> device(4, 1);
    device.prepare(liquid);
    const int64_t before = device.list.capacity(), edges = int64_t(device.step(liquid).sender.size());
    expect(device.list.capacity() == before && before < edges + edges / 4, "a bad guess of the number of edges");
}

// A captured step, over motion and a changed cell.
void replay(Maker& maker) {
    for (const int64_t atoms : {60, 500}) {
        Structure s = maker.structure(atoms, 9, 11, 0.1, 0.5);
        s.periodic = {true, true, true};
        DeviceList<double> device(2.5, 0.5);
        NeighbourList list(2.5, 0.5);
        list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
        device.step(s);
        const int64_t layout = device.list.layout();
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        check_cuda(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeRelaxed), "capture");
        device.queue();
        check_cuda(cudaStreamEndCapture(device.stream, &graph), "capture");
        check_cuda(cudaGraphInstantiate(&executable, graph), "capture");
        int builds = 0;
        for (int step = 0; step < 6; ++step) {
            maker.shake(s, 0.1);
            if (step == 3) {
                maker.strain(s, 0.004);
                device.prepare(s);
                expect(device.list.layout() == layout, "a small strain makes a graph useless");
            }
            device.place(s);
            check_cuda(cudaGraphLaunch(executable, device.stream), "launch");
            const bool built = list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
            const Found<double> found = device.result(s);
            expect(found.status.rebuilt == built, "a graph decides otherwise");
            expect(edges_of(found, s, 1e-9) == edges_of(list), "a graph finds other pairs");
            builds += built;
        }
        expect(builds > 0 && builds < 6, "motion that tells nothing");
        cudaGraphExecDestroy(executable);
        cudaGraphDestroy(graph);
    }
}

// A cell that fluctuates over the angle at which another vector becomes its shortest, or the height at which it has
// more images within the range: the list stays.
void fluctuate(Maker& maker) {
    using Cell = std::array<double, 9>;
    const Cell cells[][2] = {{{10, 0, 0, 4.99, 8.66, 0, 0, 0, 9}, {10, 0, 0, 5.01, 8.66, 0, 0, 0, 9}},
                             {{9, 0, 0, 0, 9, 0, 0, 0, 3.55}, {9, 0, 0, 0, 9, 0, 0, 0, 3.45}}};
    for (const int64_t atoms : {30, 300}) {
        for (const auto& pair : cells) {
            Structure s = maker.structure(atoms, 9, 9, 0, 0.5);
            s.periodic = {true, true, true};
            DeviceList<double> device(3, 0.5);
            NeighbourList list(3, 0.5);
            int builds = 0;
            for (int step = 0; step < 6; ++step) {
                s.cell = pair[step % 2];
                list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
                const Found<double> found = device.step(s);
                expect(within(edges_of(found, s, 1e-9), s, 3) == within(edges_of(list), s, 3),
                       "other pairs in a cell that fluctuates");
                builds += found.status.rebuilt;
            }
            expect(list.build_count() == 1 && builds <= 2, "a list is not kept in a cell that fluctuates");
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    const int64_t cases = count > 1 ? std::atoll(arguments[1]) : 20;
    // Run with another order of threads, it also takes other structures.
    const char* order = std::getenv("SYMMD_EMULATOR_SEED");
    Maker maker(count > 2 ? std::strtoull(arguments[2], nullptr, 10)
                          : 1 + std::strtoull(order ? order : "0", nullptr, 10));
    refuse_cells();
    refuse_positions(maker);
    grow(maker);
    replay(maker);
    fluctuate(maker);
    compare_orders(maker);
    compare_large(maker);
    for (case_number = 1; case_number <= cases; ++case_number) compare(maker);
    std::printf("%lld random structures\n", static_cast<long long>(cases));
    return 0;
}
