#include "timed_kernels.h"

#include <chrono>
#include <string>
#include <vector>

// The dispatcher chooses as always, but under another name: the engine is given what is defined below.
#define kernels kernels_of_the_dispatcher
#include "cpu/dispatch.cpp"
#undef kernels

namespace symmd {

template <class T>
const Kernels<T>& kernels();

}  // namespace symmd

namespace symmd_benchmark {

namespace {

using Clock = std::chrono::steady_clock;
using symmd::Kernels;
using symmd::Pass;

Watch watched = Watch::nothing;
// A layer is known by the address of its shape; layers are called in their order first.
std::vector<const void*> edge_layers, product_layers;

int number_of(std::vector<const void*>& layers, const void* layer) {
    for (std::size_t k = 0; k < layers.size(); ++k)
        if (layers[k] == layer) return int(k) + 1;
    layers.push_back(layer);
    return int(layers.size());
}

// Parts are found by number: making a name for each call would take longer than some kernels.
enum Kernel { edges, products, mixing, reading_out };
constexpr int most_layers = 8;

Part& part_of(Kernel kernel, int layer, Pass pass) {
    static int position[4 * most_layers * 2] = {};
    int& at = position[(kernel * most_layers + layer % most_layers) * 2 + (pass == Pass::forward ? 0 : 1)];
    if (at == 0) {
        std::string name = kernel == mixing ? "channel mixing" : "readout";
        if (kernel == edges || kernel == products)
            name = "layer " + std::to_string(layer) + (kernel == edges ? " edges" : " products") +
                   (pass == Pass::forward ? ", forward" : ", backward");
        parts().push_back({});
        parts().back().name = name;
        at = int(parts().size());
    }
    return parts()[at - 1];
}

template <class Call>
void watch_call(Kernel kernel, int layer, Pass pass, int64_t edges, Call&& call) {
    if (watched == Watch::nothing) return call();
    Part& part = part_of(kernel, layer, pass);
    ++part.calls;
    part.edges += edges;
    if (watched == Watch::instructions) {
        count_instructions(part.instructions, call);
        return;
    }
    const auto started = Clock::now();
    call();
    part.seconds += std::chrono::duration<double>(Clock::now() - started).count();
}

template <class T>
struct Watched {
    static const Kernels<T>& own() { return symmd::kernels_of_the_dispatcher<T>(); }

    static void edge(const symmd::EdgePassShape& shape, Pass pass, const symmd::EdgePassInput<T>& in, int64_t first,
                     int64_t last, const symmd::EdgePassOutput<T>& out, char* workspace) {
        watch_call(edges, number_of(edge_layers, &shape), pass, in.row_start[last] - in.row_start[first],
                   [&] { own().edge(shape, pass, in, first, last, out, workspace); });
    }
    static void product(const symmd::ProductShape& shape, Pass pass, const symmd::ProductInput<T>& in, int64_t first,
                        int64_t last, const symmd::ProductOutput<T>& out) {
        watch_call(products, number_of(product_layers, &shape), pass, 0,
                   [&] { own().product(shape, pass, in, first, last, out); });
    }
    static void mix(const symmd::Mixing<T>& in) {
        watch_call(mixing, 0, Pass::forward, 0, [&] { own().mix(in); });
    }
    static void readout(const symmd::Readout<T>& in) {
        watch_call(reading_out, 0, Pass::forward, 0, [&] { own().readout(in); });
    }
    static const Kernels<T>& table() {
        static const Kernels<T> watched_kernels = [] {
            Kernels<T> kernels = own();
            kernels.edge = edge;
            kernels.product = product;
            kernels.mix = mix;
            kernels.readout = readout;
            return kernels;
        }();
        return watched_kernels;
    }
};

}  // namespace

void watch(Watch what) { watched = what; }

std::vector<Part>& parts() {
    static std::vector<Part> all;
    return all;
}

void forget() {
    for (Part& part : parts()) {
        part.calls = part.edges = 0;
        part.seconds = 0;
    }
}

double clock_seconds() {
    constexpr int calls = 100000;
    double charged = 0;
    for (int k = 0; k < calls; ++k) {
        const auto before = Clock::now();
        charged += std::chrono::duration<double>(Clock::now() - before).count();
    }
    return charged / calls;
}

}  // namespace symmd_benchmark

namespace symmd {

template <>
const Kernels<float>& kernels<float>() {
    return symmd_benchmark::Watched<float>::table();
}
template <>
const Kernels<double>& kernels<double>() {
    return symmd_benchmark::Watched<double>::table();
}

}  // namespace symmd
