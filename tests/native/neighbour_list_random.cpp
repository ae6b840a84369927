// Random structures through the neighbour list, for a build with -fsanitize=address,undefined (the sources of
// csrc/core besides this file). Each list is compared with a sum over images, hostile inputs must end in an exception,
// and a list that has settled must not allocate. Ends with 0 and one line, or with 1 and what went wrong.
//
// Usage: neighbour_list_random [cases] [seed]

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/neighbour_list.h"
#include "random_numbers.h"

namespace {

using symmd::NeighbourEdges;
using symmd::NeighbourList;
using Edge = std::array<int64_t, 5>;
using Periodic = std::array<bool, 3>;

struct Structure {
    std::vector<double> positions;
    std::array<double, 9> cell;
    Periodic periodic;
    int64_t atoms() const { return static_cast<int64_t>(positions.size() / 3); }
};

[[noreturn]] void fail(const std::string& what, int64_t number) {
    std::printf("case %lld: %s\n", static_cast<long long>(number), what.c_str());
    std::exit(1);
}

class Maker : public RandomNumbers {
  public:
    using RandomNumbers::RandomNumbers;

    Structure structure() {
        Structure made;
        const double longest = uniform(0, 1) < 0.3 ? 3.0 : 12.0, spread = uniform(0, 1) < 0.5 ? 1.0 : 3.0;
        double shortest = longest;
        double lengths[3];
        for (double& length : lengths) shortest = std::min(shortest, length = uniform(1.5, longest));
        for (int k = 0; k < 3; ++k) {
            made.periodic[k] = uniform(0, 1) < 0.6;
            for (int x = 0; x < 3; ++x)
                made.cell[3 * k + x] = (k == x ? lengths[k] : 0) + 0.4 * shortest * uniform(-1, 1);
        }
        const int64_t atoms = integer(0, 14);
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

double square_of(const Structure& s, const Edge& edge) {
    double square = 0;
    for (int x = 0; x < 3; ++x) {
        double along = s.positions[3 * edge[1] + x] - s.positions[3 * edge[0] + x];
        for (int k = 0; k < 3; ++k)
            if (edge[2 + k] != 0) along += double(edge[2 + k]) * s.cell[3 * k + x];
        square += along * along;
    }
    return square;
}

std::vector<Edge> image_sum(const Structure& s, double cutoff) {
    // Images needed along an axis: by the duals of the periodic vectors, and how far the atoms are apart.
    const symmd::Lattice lattice = symmd::reduced_lattice(s.cell.data(), s.periodic);
    double apart = 0;
    for (int64_t i = 0; i < s.atoms(); ++i)
        for (int64_t j = 0; j < i; ++j) apart = std::max(apart, std::sqrt(square_of(s, {i, j, 0, 0, 0})));
    int64_t most[3] = {0, 0, 0};
    for (int k = 0; k < lattice.rank; ++k)
        most[k] = static_cast<int64_t>(std::ceil((cutoff + apart) / lattice.heights[k]));
    std::vector<Edge> edges;
    for (int64_t a = -most[0]; a <= most[0]; ++a)
        for (int64_t b = -most[1]; b <= most[1]; ++b)
            for (int64_t c = -most[2]; c <= most[2]; ++c) {
                Edge edge{};
                const int64_t repeats[3] = {a, b, c};
                for (int l = 0; l < 3; ++l)
                    for (int k = 0; k < lattice.rank; ++k) edge[2 + l] += repeats[k] * lattice.multiples[k][l];
                for (edge[0] = 0; edge[0] < s.atoms(); ++edge[0])
                    for (edge[1] = 0; edge[1] < s.atoms(); ++edge[1])
                        if ((edge[0] != edge[1] || a || b || c) && square_of(s, edge) < cutoff * cutoff)
                            edges.push_back(edge);
            }
    std::sort(edges.begin(), edges.end());
    return edges;
}

std::vector<Edge> listed(const NeighbourList& list, const Structure& s, double cutoff, int64_t number) {
    const NeighbourEdges edges = list.edges();
    std::vector<Edge> all, near;
    for (int64_t i = 0; i < edges.atoms; ++i)
        for (int64_t e = edges.row_start[i]; e < edges.row_start[i + 1]; ++e)
            all.push_back({i, edges.sender[e], edges.shift[e][0], edges.shift[e][1], edges.shift[e][2]});
    if (static_cast<int64_t>(all.size()) != edges.edges) fail("rows do not cover the edges", number);
    for (int64_t e = 0; e < edges.edges; ++e) {
        const Edge &edge = all[e], &back = all[edges.reverse[e]];
        if (back != Edge{edge[1], edge[0], -edge[2], -edge[3], -edge[4]}) fail("wrong reverse edge", number);
        if (e > 0 && !(all[e - 1] < edge)) fail("wrong order", number);
        if (square_of(s, edge) < cutoff * cutoff) near.push_back(edge);
    }
    return near;
}

void compare(Maker& maker, int64_t number) {
    Structure s = maker.structure();
    const double cutoff = maker.uniform(0.5, 4.5);
    NeighbourList list(cutoff, maker.uniform(0, 1));
    for (int step = 0; step < 4; ++step) {
        list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
        if (listed(list, s, cutoff, number) != image_sum(s, cutoff)) fail("not the sum over images", number);
        for (double& coordinate : s.positions) coordinate += 0.1 * maker.uniform(-1, 1);
        for (double& component : s.cell) component += (step % 2) * 0.02 * maker.uniform(-1, 1);
    }
}

void attack(Maker& maker, int64_t number) {
    Structure s = maker.structure();
    const double* cell = maker.uniform(0, 1) < 0.1 ? nullptr : s.cell.data();
    for (int64_t round = maker.integer(1, 4); round > 0; --round) {
        if (s.atoms() > 0 && maker.uniform(0, 1) < 0.5)
            s.positions[maker.integer(0, 3 * s.atoms() - 1)] = maker.any();
        else
            s.cell[maker.integer(0, 8)] = maker.any();
    }
    try {
        // A long cutoff is for open systems: in a small cell it would list too many images for a quick run.
        const bool open = s.periodic == Periodic{false, false, false};
        const double longest = open ? std::numeric_limits<double>::infinity() : 3.0;
        NeighbourList list(maker.integer(0, 3) ? maker.uniform(0.1, 3) : std::min(maker.any(), longest), 0.5);
        for (int step = 0; step < 2; ++step) {
            list.update(s.positions.data(), s.atoms(), cell, s.periodic);
            listed(list, s, 1.0, number);
            if (s.atoms() > 0) s.positions[0] = maker.any();
        }
    } catch (const std::invalid_argument& error) {
        if (std::string(error.what()).rfind("expected ", 0) != 0) fail(error.what(), number);
    }
}

void settle(Maker& maker) {
    Structure s;
    s.periodic = {true, true, true};
    s.cell = {12, 0, 0, 3, 12, 0, -2, 1, 12};
    for (int k = 0; k < 3 * 216; ++k) s.positions.push_back(maker.uniform(0, 12));
    NeighbourList list(3.0, 0.4);
    const auto step = [&] {
        for (double& coordinate : s.positions) coordinate += 0.1 * maker.uniform(-1, 1);
        list.update(s.positions.data(), s.atoms(), s.cell.data(), s.periodic);
    };
    for (int k = 0; k < 50; ++k) step();
    const int64_t before = allocations, builds = list.build_count();
    for (int k = 0; k < 200; ++k) step();
    if (allocations != before) fail("a settled list has allocated", allocations - before);
    if (list.build_count() < builds + 20) fail("too few builds to tell", list.build_count());
}

}  // namespace

int main(int count, char** arguments) {
    const int64_t cases = count > 1 ? std::atoll(arguments[1]) : 1000;
    Maker maker(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
    settle(maker);
    for (int64_t number = 0; number < cases; ++number) {
        compare(maker, number);
        attack(maker, number);
    }
    std::printf("%lld random structures and as many hostile ones\n", static_cast<long long>(cases));
    return 0;
}
