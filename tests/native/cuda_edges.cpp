// The edge kernels of csrc/cuda on the emulated device against those of the processor: all degrees, heads of several
// widths, channels that do not fill a warp or do not fit a block, with and without attention, values of atoms and of
// species, edges beyond the cutoff, atoms without edges and with very many, senders that receive nothing. In doubles
// and in floats, and again with the threads in another order, which must not change a bit. Ends with 0, or with 1 and
// what went wrong.
//
// Usage: cuda_edges [SEED]

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "cuda/device_memory.h"
#include "cuda/edge_kernels.h"

namespace {

using namespace symmd;

class RandomNumbers {
  public:
    explicit RandomNumbers(uint64_t seed) : engine_(seed) {}
    double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
    int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }

  private:
    std::mt19937_64 engine_;
};

std::string doing = "nothing yet";
double worst[2] = {0, 0};

[[noreturn]] void fail(const std::string& what) {
    std::printf("%s: %s\n", doing.c_str(), what.c_str());
    std::exit(1);
}

int components(int degree) { return (degree + 1) * (degree + 1); }

int paths_of(int l1_most, int l2_most, int l3_most) {
    int count = 0;
    for (int l3 = 0; l3 <= l3_most; ++l3)
        for (int l1 = 0; l1 <= l1_most; ++l1)
            for (int l2 = 0; l2 <= l2_most; ++l2)
                count += l3 <= l1 + l2 && l1 <= l2 + l3 && l2 <= l1 + l3 && (l1 + l2 + l3) % 2 == 0;
    return count;
}

// One random layer, in doubles that are floats too, so that both precisions start from the same numbers.
struct Case {
    EdgePassShape shape;
    int receivers = 0, standing = 0, species_count = 0;  // species_count: 0 for values of the atoms
    std::vector<int64_t> row_start{0}, sender;
    std::vector<double> vectors, values, queries, table, sink, pull;
    std::vector<int32_t> species;
    int d1 = 0, d3 = 0;

    Case(RandomNumbers& random, int l1, int l2, int l3, int channels, int heads, bool attends) {
        shape.value_degree = l1, shape.harmonic_degree = l2, shape.message_degree = l3;
        shape.channels = channels, shape.heads = heads, shape.attends = attends;
        shape.knots = random.integer(5, 20);
        shape.cutoff = random.uniform(3, 5), shape.gain = random.uniform(0.5, 6);
        d1 = components(l1), d3 = components(l3);
        receivers = int(random.integer(1, 4));
        standing = receivers + int(random.integer(0, 3));
        if (random.integer(0, 2) == 0) species_count = int(random.integer(1, 3));
        // One atom in some cases has more edges than a block looks at together.
        const int crowded = random.integer(0, 3) == 0 ? int(random.integer(0, receivers - 1)) : -1;
        for (int atom = 0; atom < receivers; ++atom) {
            const int64_t edges =
                atom == crowded ? random.integer(129, 260) : std::max<int64_t>(0, random.integer(-3, 14));
            for (int64_t edge = 0; edge < edges; ++edge) {
                sender.push_back(random.integer(0, standing - 1));
                double direction[3], norm = 0;
                for (double& x : direction) x = random.uniform(-1, 1), norm += x * x;
                const double length = shape.cutoff * random.uniform(0.2, 1.25) / std::sqrt(norm);
                for (double x : direction) vectors.push_back(float(x * length));
                // As close to the cutoff as floats come, where the last interval of the spline ends.
                if (random.integer(0, 9) == 0) {
                    vectors.end()[-3] = std::nextafter(float(shape.cutoff), 0.0f);
                    vectors.end()[-2] = vectors.end()[-1] = 0;
                }
            }
            row_start.push_back(int64_t(sender.size()));
        }
        for (int atom = 0; atom < standing; ++atom)
            species.push_back(int32_t(random.integer(0, std::max(species_count, 1) - 1)));
        const int rows = species_count ? species_count : standing;
        const auto fill = [&](std::vector<double>& numbers, int64_t count, double scale) {
            for (int64_t k = 0; k < count; ++k) numbers.push_back(float(random.uniform(-scale, scale)));
        };
        fill(values, int64_t(rows) * d1 * channels, 1);
        fill(queries, int64_t(rows) * d1 * channels, 2);
        fill(table, 2 * (shape.knots + 1) * paths_of(l1, l2, l3) * channels, 1);
        fill(sink, heads, 1);
        fill(pull, int64_t(receivers) * d3 * channels, 1);
    }

    int64_t edges() const { return int64_t(sender.size()); }
    // Rows of the species, written out for each atom.
    std::vector<double> by_atom(const std::vector<double>& rows) const {
        if (!species_count) return rows;
        const int64_t size = int64_t(d1) * shape.channels;
        std::vector<double> result;
        for (int32_t z : species) result.insert(result.end(), rows.begin() + z * size, rows.begin() + (z + 1) * size);
        return result;
    }
};

struct Outcome {
    std::vector<double> aggregated, total, edge_pull, query_pull, value_pull;
};

// What the processor says.
template <class T>
Outcome on_processor(const Case& it) {
    const Kernels<T>& cpu = kernels<T>();
    const auto converted = [](const std::vector<double>& numbers) {
        return std::vector<T>(numbers.begin(), numbers.end());
    };
    const std::vector<T> values = converted(it.by_atom(it.values)), queries = converted(it.by_atom(it.queries));
    const std::vector<T> vectors = converted(it.vectors), table = converted(it.table), sink = converted(it.sink);
    const std::vector<T> pull = converted(it.pull);
    EdgePassInput<T> in{};
    in.row_start = it.row_start.data(), in.sender = it.sender.data(), in.vectors = vectors.data();
    in.values = values.data(), in.queries = queries.data(), in.table = table.data(), in.sink = sink.data();
    in.pull = pull.data();
    const int64_t row = it.d1 * it.shape.channels;
    std::vector<T> aggregated(it.pull.size()), total(it.receivers * it.shape.heads), edge_pull(3 * it.edges());
    std::vector<T> query_pull(it.receivers * row), value_pull(it.standing * row);
    std::vector<char> memory(cpu.edge_workspace(it.shape, Pass::backward) + 64);
    char* workspace = memory.data() + 64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    EdgePassOutput<T> out, back;
    out.aggregated = aggregated.data(), out.total = total.data();
    cpu.edge(it.shape, Pass::forward, in, 0, it.receivers, out, workspace);
    back.vectors = edge_pull.data(), back.queries = query_pull.data(), back.values = value_pull.data();
    cpu.edge(it.shape, Pass::backward, in, 0, it.receivers, back, workspace);
    const auto widened = [](const std::vector<T>& numbers) {
        return std::vector<double>(numbers.begin(), numbers.end());
    };
    return {widened(aggregated), widened(total), widened(edge_pull), widened(query_pull), widened(value_pull)};
}

template <class T, class Source>
DeviceBuffer<T> on_device(const std::vector<Source>& numbers) {
    const std::vector<T> converted(numbers.begin(), numbers.end());
    DeviceBuffer<T> buffer;
    upload(buffer, converted.data(), int64_t(converted.size()));
    return buffer;
}

template <class T>
std::vector<double> on_host(const DeviceBuffer<T>& buffer) {
    std::vector<T> numbers(buffer.size());
    check_cuda(cudaMemcpy(numbers.data(), buffer.data(), numbers.size() * sizeof(T), cudaMemcpyDeviceToHost), "read");
    return std::vector<double>(numbers.begin(), numbers.end());
}

// What the device says. `sparing`: nobody asks for the pulls on queries and values, as in the first layer, and the
// pulls on the vectors are added to 1.
template <class T>
Outcome found(const Case& it, bool sparing) {
    DeviceEdgeInput<T> in;
    in.shape = it.shape;
    in.edges.receivers = it.receivers, in.edges.standing = it.standing;
    std::vector<int32_t> receiver, reverse, reverse_start{0};
    for (int atom = 0; atom < it.receivers; ++atom) receiver.resize(it.row_start[atom + 1], atom);
    for (int atom = 0; atom < it.standing; ++atom) {
        for (int64_t edge = 0; edge < it.edges(); ++edge)
            if (it.sender[edge] == atom) reverse.push_back(int32_t(edge));
        reverse_start.push_back(int32_t(reverse.size()));
    }
    std::vector<Vector4<T>> lengthened;
    for (int64_t edge = 0; edge < it.edges(); ++edge) {
        const T x = T(it.vectors[3 * edge]), y = T(it.vectors[3 * edge + 1]), z = T(it.vectors[3 * edge + 2]);
        lengthened.push_back({x, y, z, x * x + y * y + z * z});
    }
    const auto row_start = on_device<int32_t>(it.row_start), sender = on_device<int32_t>(it.sender);
    const auto receivers = on_device<int32_t>(receiver), reversed = on_device<int32_t>(reverse);
    const auto reversed_start = on_device<int32_t>(reverse_start), species = on_device<int32_t>(it.species);
    const auto vectors = on_device<Vector4<T>>(lengthened);
    const auto values = on_device<T>(it.values), queries = on_device<T>(it.queries), table = on_device<T>(it.table);
    const auto sink = on_device<T>(it.sink), pull_in = on_device<T>(it.pull);
    in.edges.row_start = row_start.data(), in.edges.sender = sender.data(), in.edges.receiver = receivers.data();
    in.edges.reverse_start = reversed_start.data(), in.edges.reverse = reversed.data();
    in.edges.vectors = vectors.data();
    in.species = it.species_count ? species.data() : nullptr;
    in.values = values.data(), in.queries = queries.data(), in.table = table.data(), in.sink = sink.data();

    const int64_t row = it.d1 * it.shape.channels;
    DeviceBuffer<T> aggregated, total, query_pull, weights, bends, value_pull;
    DeviceBuffer<T> edge_pull = on_device<T>(std::vector<double>(3 * it.edges(), sparing ? 1 : NAN));
    aggregated.resize(int64_t(it.pull.size())), total.resize(it.receivers * it.shape.heads);
    query_pull.resize(it.receivers * row), value_pull.resize(it.standing * row);
    weights.resize(it.edges() * it.shape.heads), bends.resize(it.edges() * it.shape.heads);
    device_edge_forward(in, aggregated.data(), it.shape.attends ? total.data() : nullptr, nullptr);
    DeviceEdgePull<T> pull{};
    pull.pull = pull_in.data(), pull.aggregated = aggregated.data();
    pull.total = it.shape.attends ? total.data() : nullptr;
    pull.edge_pull = edge_pull.data(), pull.add = sparing;
    if (!sparing) {
        pull.query_pull = it.shape.attends ? query_pull.data() : nullptr;
        pull.weights = weights.data(), pull.bends = it.shape.attends ? bends.data() : nullptr;
    }
    device_edge_backward(in, pull, nullptr);
    if (!sparing) device_edge_gather(in, pull, value_pull.data(), nullptr);
    check_cuda(cudaDeviceSynchronize(), "finish");

    Outcome result;
    result.aggregated = on_host(aggregated), result.edge_pull = on_host(edge_pull);
    if (it.shape.attends) result.total = on_host(total);
    if (!sparing) result.value_pull = on_host(value_pull);
    if (!sparing && it.shape.attends) result.query_pull = on_host(query_pull);
    return result;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b, double shift) {
    double largest = 0;
    for (std::size_t k = 0; k < b.size(); ++k) {
        const double difference = std::abs(a[k] - shift - b[k]);
        largest = difference <= largest ? largest : difference;  // NaN stays
    }
    return largest;
}

// Floats may be as far from the doubles of the processor as a few times what its floats are.
void compare(const char* what, const std::vector<double>& found, const std::vector<double>& exact,
             const std::vector<double>& rounded, double shift, double gain, bool single) {
    if (found.empty()) return;             // nobody asked
    double scale = std::max(shift, gain);  // numbers going in are of order one
    for (const double number : exact) scale = std::max(scale, std::abs(number));
    const double error = largest_difference(found, exact, shift);
    const double allowed = single ? 1e-5 * scale + 4 * largest_difference(rounded, exact, 0) : 1e-12 * scale;
    if (!(error <= allowed)) {
        fail(std::string(what) + " differs by " + std::to_string(error / scale * 1e9) + "e-9 of " +
             std::to_string(scale));
    }
    if (scale > 0) worst[single] = std::max(worst[single], error / scale);
}

template <class T>
void check(const Case& it) {
    const bool single = sizeof(T) == 4;
    const char* seed = std::getenv("SYMMD_EMULATOR_SEED");
    const std::string old_seed = seed ? seed : "";
    const Outcome exact = on_processor<double>(it), rounded = on_processor<T>(it);
    const double gain = it.shape.gain;
    Outcome first;
    for (const bool sparing : {true, false}) {
        first = found<T>(it, sparing);
        compare("the aggregate", first.aggregated, exact.aggregated, rounded.aggregated, 0, gain, single);
        compare("the sum of the weights", first.total, exact.total, rounded.total, 0, gain, single);
        compare("the pull on the queries", first.query_pull, exact.query_pull, rounded.query_pull, 0, gain, single);
        compare("the pull on the values", first.value_pull, exact.value_pull, rounded.value_pull, 0, gain, single);
        compare("the pull on the vectors", first.edge_pull, exact.edge_pull, rounded.edge_pull, sparing ? 1 : 0, gain,
                single);
    }
    setenv("SYMMD_EMULATOR_SEED", "7", 1);
    const Outcome again = found<T>(it, false);
    if (seed) {
        setenv("SYMMD_EMULATOR_SEED", old_seed.c_str(), 1);
    } else {
        unsetenv("SYMMD_EMULATOR_SEED");
    }
    if (again.aggregated != first.aggregated || again.total != first.total || again.edge_pull != first.edge_pull ||
        again.query_pull != first.query_pull || again.value_pull != first.value_pull)
        fail("another order of the threads gives other numbers");
}

}  // namespace

int main(int count, char** arguments) {
    RandomNumbers random(count > 1 ? std::atoll(arguments[1]) : 1);
    // Channels and heads: heads in a warp, over several warps, of odd widths; half a warp; more than a block.
    const int sizes[][2] = {{64, 8}, {16, 1},  {48, 8},  {32, 4}, {64, 1},
                            {48, 3}, {320, 5}, {16, 16}, {96, 6}, {128, 2}};
    int cases = 0, which = 0;
    for (int l1 = 0; l1 <= 3; ++l1)
        for (int l2 = 0; l2 <= 3; ++l2)
            for (int l3 = 0; l3 <= 3; ++l3) {
                EdgePassShape shape;
                shape.value_degree = l1, shape.harmonic_degree = l2, shape.message_degree = l3, shape.channels = 16;
                if (device_edge_supported(shape) != (kernels<double>().edge_workspace(shape, Pass::forward) >= 0))
                    fail("processor and device have kernels for different degrees");
                if (!device_edge_supported(shape)) continue;
                for (const bool attends : {true, false, true}) {
                    const int* size = sizes[which++ % 10];
                    doing = "degrees " + std::to_string(l1) + " " + std::to_string(l2) + " " + std::to_string(l3) +
                            ", " + std::to_string(size[0]) + " channels, " + std::to_string(attends ? size[1] : 0) +
                            " heads";
                    const Case it(random, l1, l2, l3, size[0], attends ? size[1] : 1, attends);
                    doing += ", doubles";
                    check<double>(it);
                    doing += ", floats";
                    check<float>(it);
                    ++cases;
                }
            }
    std::printf("%d layers on the emulated device: as the processor to %.1e (fp64) and %.1e (fp32)\n", cases, worst[0],
                worst[1]);
}
