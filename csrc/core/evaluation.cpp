#include "core/evaluation.h"

#include <algorithm>

#include "core/parallel.h"

namespace symmd {

template <class T>
AvailableKernels processor_kernels() {
    return {[](const EdgePassShape& shape) { return kernels<T>().edge_workspace(shape, Pass::forward) >= 0; },
            [](const ProductShape& shape) { return kernels<T>().product_supported(shape); }};
}
template AvailableKernels processor_kernels<float>();
template AvailableKernels processor_kernels<double>();

template <class T>
Evaluation<T>::Evaluation(const NetworkWeights<T>& network)
    : network_(network), kernels_(kernels<T>()), channels_(network.channels), states_(network.layers.size()) {
    for (const LayerWeights<T>& layer : network.layers) cutoff_ = std::max(cutoff_, layer.edge.cutoff);
    rows_.resize(33);
    for (int64_t stride = 1; stride <= 32; ++stride)
        for (int degree = 0; degree < 4; ++degree)
            for (int64_t atom = 0; atom < tile; ++atom)
                for (int64_t m = degree * degree; m < (degree + 1) * (degree + 1); ++m)
                    rows_[stride][degree].push_back((atom * stride + m) * channels_);
    for (int64_t atom = 0; atom < tile; ++atom) {
        readout_from_.push_back(atom * channels_);
        readout_to_.push_back(atom * network.readout_inner.outputs);
    }
}

template <class T>
void Evaluation<T>::run(const Surroundings& surroundings, int threads, GhostExchange* exchange, const Results& out) {
    constexpr Precision precision = sizeof(T) == 4 ? Precision::float32 : Precision::float64;
    const int last = int(network_.layers.size()) - 1;
    prepare(surroundings, threads, out);
    const auto tiles = [&](Thread& thread, auto&& body) {
        const int64_t last_atom = edges_.part(thread.number).last;
        for (int64_t first = edges_.part(thread.number).first; first < last_atom; first += tile)
            body(first, std::min(tile, last_atom - first));
    };

    in_parallel(threads, [&](int part) { edges_.collect(part); });
    for (const auto& part : edges_.parts())
        if (!part.problem.empty()) throw Error(part.problem);

    for (int layer = 0; layer <= last; ++layer) {
        if (exchange && layer > 0)
            exchange->forward(states_[layer].values.data(), network_.layers[layer].input_components() * channels_,
                              precision);
        in_parallel(threads, [&](int part) {
            Thread& thread = threads_[part];
            if (layer == last && derivatives()) clear_pulls(last, thread);
            tiles(thread, [&](int64_t first, int64_t count) {
                forward_tile(layer, thread, first, count);
                if (layer < last) {
                    project(layer + 1, thread, first, count);
                } else {
                    read_out_last(thread, first, count);
                    if (derivatives()) backward_tile(last, thread, first, count);
                }
            });
        });
    }
    if (!derivatives()) return;

    for (int layer = last - 1; layer >= 0; --layer) {
        const int above = layer + 1;
        in_parallel(threads, [&](int part) { sum_value_pulls(above, part, threads); });
        if (exchange)
            exchange->backward(states_[above].value_pull.data(), network_.layers[above].input_components() * channels_,
                               precision);
        in_parallel(threads, [&](int part) {
            Thread& thread = threads_[part];
            if (layer > 0) clear_pulls(layer, thread);
            tiles(thread, [&](int64_t first, int64_t count) {
                pull_features(above, thread, first, count);
                backward_tile(layer, thread, first, count);
            });
        });
    }
    in_parallel(threads, [&](int part) { sum_results(part, threads, out); });
    if (out.virial) {
        std::array<double, 9> sum{};
        for (const Thread& thread : threads_)
            for (int k = 0; k < 9; ++k) sum[k] += thread.virial[k];
        for (int a = 0; a < 3; ++a)
            for (int b = 0; b < 3; ++b) out.virial[3 * a + b] = 0.5 * (sum[3 * a + b] + sum[3 * b + a]);
    }
}

template <class T>
void Evaluation<T>::prepare(const Surroundings& surroundings, int threads, const Results& out) {
    around_ = surroundings;
    atom_energy_ = out.atom_energy;
    wants_derivatives_ = out.forces || out.virial || out.atom_virial || out.sender_virial;
    if (int(threads_.size()) != threads) {
        threads_.clear();
        threads_.resize(threads);
    }
    edges_.prepare(around_, threads, cutoff_);
    species_.resize(around_.owned);
    for (int64_t i = 0; i < around_.owned; ++i) {
        species_[i] = around_.species[i];
        atom_energy_[i] = network_.reference_energies[around_.species[i]];
    }
    const int64_t standing = edges_.standing(), blocks = edges_.blocks();
    int64_t workspace = 0;
    for (std::size_t index = 0; index < states_.size(); ++index) {
        const LayerWeights<T>& layer = network_.layers[index];
        LayerState& state = states_[index];
        for (const Pass pass : {Pass::forward, Pass::backward})
            workspace = std::max(workspace, kernels_.edge_workspace(layer.edge, pass));
        const int64_t input = layer.input_components() * channels_, message = layer.message_components() * channels_;
        if (index > 0) {
            state.values.resize(standing * input);
            if (layer.edge.attends) state.queries.resize(around_.owned * input);
            state.skipped.resize(around_.owned * layer.skip_components() * channels_);
            if (derivatives()) {
                state.value_pull.resize(standing * input);
                state.feature_pull.resize(around_.owned * input);
            }
        }
        if (!layer.is_last) {
            state.aggregated.resize(around_.owned * message);
            if (layer.multiplies) state.blended.resize(around_.owned * message);
            if (layer.edge.attends) state.total.resize(around_.owned * network_.heads);
        }
    }
    int64_t message = 0, input = 0, output = 0, products = 0;
    for (const LayerWeights<T>& layer : network_.layers) {
        message = std::max<int64_t>(message, layer.message_components());
        input = std::max<int64_t>(input, layer.input_components());
        output = std::max<int64_t>(output, layer.output_components());
        products = std::max<int64_t>(products, layer.powers() * layer.output_components());
    }
    for (int part = 0; part < threads; ++part) {
        Thread& thread = threads_[part];
        thread.number = part;
        thread.virial.fill(0);
        thread.workspace.resize(workspace);
        thread.row_from.resize(tile * 16);
        thread.row_to.resize(tile * 16);
        for (Buffer<T>* buffer : {&thread.aggregated, &thread.blended, &thread.blended_pull, &thread.aggregated_pull})
            buffer->resize(tile * message * channels_);
        thread.total.resize(tile * network_.heads);
        for (Buffer<T>* buffer : {&thread.queries, &thread.query_pull}) buffer->resize(tile * input * channels_);
        for (Buffer<T>* buffer : {&thread.products, &thread.product_pull}) buffer->resize(tile * products * channels_);
        for (Buffer<T>* buffer : {&thread.updated, &thread.updated_pull}) buffer->resize(tile * output * channels_);
        thread.hidden.resize(tile * network_.readout_inner.outputs);
        if (!derivatives()) continue;
        int64_t longest = 0;
        const int64_t last_atom = edges_.part(part).last;
        for (int64_t first = edges_.part(part).first; first < last_atom; first += tile)
            longest = std::max(longest, edges_.listed(first, std::min(first + tile, last_atom)));
        thread.edge_pull.resize(3 * longest);
        thread.forces.resize(3 * blocks * block_atoms);
        thread.atom_virial.resize(out.atom_virial ? 9 * blocks * block_atoms : 0);
        thread.sender_virial.resize(out.sender_virial ? 9 * blocks * block_atoms : 0);
        thread.value_pull.resize(states_.size());
        if (part > 0)
            for (std::size_t index = 1; index < states_.size(); ++index)
                thread.value_pull[index].resize(standing * network_.layers[index].input_components() * channels_);
    }
}

template <class T>
const int64_t* Evaluation<T>::rows_of(int64_t stride, int degree) const {
    return rows_[stride / channels_][degree].data();
}

// One matrix for each degree up to `degree`; strides are numbers from one atom to the next.
template <class T>
void Evaluation<T>::mix(const Matrices<T>& weights, bool back, int degree, int64_t count, const T* x, int64_t x_stride,
                        T* y, int64_t y_stride, bool add) const {
    for (int l = 0; l <= degree; ++l) {
        Mixing<T> mixing;
        mixing.rows = count * (2 * l + 1);
        mixing.inputs = mixing.outputs = channels_;
        mixing.x = x;
        mixing.x_row = rows_of(x_stride, l);
        mixing.weight = back ? weights.back(l) : weights.ahead(l);
        mixing.y = y;
        mixing.y_row = rows_of(y_stride, l);
        mixing.add = add;
        kernels_.mix(mixing);
    }
}

// Input of the edge pass of `count` atoms that counts atoms and edges from the tile's first.
template <class T>
EdgePassInput<T> Evaluation<T>::edge_input(int layer, Thread& thread, int64_t first, int64_t count) {
    const LayerWeights<T>& weights = network_.layers[layer];
    const LayerState& state = states_[layer];
    const int64_t* row_start = edges_.part(thread.number).row_start;
    const int64_t start = row_start[first];
    for (int64_t k = 0; k <= count; ++k) thread.row_from[k] = row_start[first + k] - start;
    EdgePassInput<T> in{};
    in.row_start = thread.row_from.data();
    in.vectors = edges_.vectors() + 3 * start;
    in.table = weights.table.data();
    in.sink = weights.sink.data();
    if (layer > 0) {
        in.sender = edges_.sender() + start;
        in.values = state.values.data();
        if (weights.edge.attends) in.queries = state.queries.data() + first * weights.input_components() * channels_;
        return in;
    }
    // Values of the first layer are those of the species.
    in.sender = edges_.sender_species() + start;
    in.values = weights.species_values.data();
    if (weights.edge.attends) {
        for (int64_t k = 0; k < count; ++k)
            std::copy_n(weights.species_queries.data() + species_[first + k] * channels_, channels_,
                        thread.queries.data() + k * channels_);
        in.queries = thread.queries.data();
    }
    return in;
}

// eq. 15-22: leaves the features after the layer in `thread.updated`.
template <class T>
void Evaluation<T>::forward_tile(int layer, Thread& thread, int64_t first, int64_t count) {
    const LayerWeights<T>& weights = network_.layers[layer];
    LayerState& state = states_[layer];
    const int64_t message = weights.message_components() * channels_, output = weights.output_components() * channels_;
    const bool kept = !weights.is_last;
    T* aggregated = kept ? state.aggregated.data() + first * message : thread.aggregated.data();
    EdgePassOutput<T> out;
    out.aggregated = aggregated;
    if (weights.edge.attends) out.total = kept ? state.total.data() + first * network_.heads : thread.total.data();
    kernels_.edge(weights.edge, Pass::forward, edge_input(layer, thread, first, count), 0, count, out,
                  thread.workspace.data());

    T* updated = thread.updated.data();
    const T* blended = aggregated;
    if (weights.multiplies) {
        T* mixed = kept ? state.blended.data() + first * message : thread.blended.data();
        mix(weights.blend, false, weights.edge.message_degree, count, aggregated, message, mixed, message, false);
        blended = mixed;
    }
    mix(weights.mix[0], false, weights.output_degree, count, blended, message, updated, output, false);
    if (weights.multiplies) {
        ProductInput<T> in{};
        in.species = species_.data() + first;
        in.aggregated = blended;
        in.square_weight = weights.square.data();
        in.cube_weight = weights.cube.data();
        ProductOutput<T> products;
        products.products = thread.products.data();
        kernels_.product(weights.product, Pass::forward, in, 0, count, products);
        for (int power = 0; power < weights.powers(); ++power)
            mix(weights.mix[1 + power], false, weights.output_degree, count, thread.products.data() + power * output,
                weights.powers() * output, updated, output, true);
    }
    skip(layer, thread, first, count, false);
    if (weights.is_last) return;
    for (int64_t k = 0; k < count; ++k) {
        const T* scalars = updated + k * output;
        T sum[16] = {};
        for (int64_t c = 0; c < channels_; c += 16)
            for (int lane = 0; lane < 16; ++lane) sum[lane] += scalars[c + lane] * weights.readout[c + lane];
        for (const T part : sum) atom_energy_[first + k] += double(part);
    }
}

// Forward: adds W_skip h to `thread.updated`. Back: puts the skip's pull on h into the layer's feature pull.
template <class T>
void Evaluation<T>::skip(int layer, Thread& thread, int64_t first, int64_t count, bool back) {
    const LayerWeights<T>& weights = network_.layers[layer];
    LayerState& state = states_[layer];
    const int64_t output = weights.output_components() * channels_;
    if (layer == 0) {
        if (back) return;
        for (int64_t k = 0; k < count; ++k) {
            const T* row = weights.species_skip.data() + species_[first + k] * channels_;
            for (int64_t c = 0; c < channels_; ++c) thread.updated[k * output + c] += row[c];
        }
        return;
    }
    const int64_t input = weights.input_components() * channels_, skipped = weights.skip_components() * channels_;
    const int64_t own = back ? input : skipped;  // between atoms, on the side of the layer's input
    for (int degree = 0; degree <= weights.skip_degree; ++degree) {
        for (int64_t species = 0; species < network_.species; ++species) {
            int64_t rows = 0;
            for (int64_t k = 0; k < count; ++k) {
                if (species_[first + k] != species) continue;
                for (int64_t m = degree * degree; m < (degree + 1) * (degree + 1); ++m, ++rows) {
                    thread.row_from[rows] = k * own + m * channels_;
                    thread.row_to[rows] = k * output + m * channels_;
                }
            }
            if (rows == 0) continue;
            const int64_t matrix = degree * network_.species + species;
            Mixing<T> mixing;
            mixing.rows = rows;
            mixing.inputs = mixing.outputs = channels_;
            mixing.add = true;
            if (back) {
                mixing.x = thread.updated_pull.data();
                mixing.x_row = thread.row_to.data();
                mixing.weight = weights.skip.back(matrix);
                mixing.y = state.feature_pull.data() + first * input;
                mixing.y_row = thread.row_from.data();
            } else {
                mixing.x = state.skipped.data() + first * skipped;
                mixing.x_row = thread.row_from.data();
                mixing.weight = weights.skip.ahead(matrix);
                mixing.y = thread.updated.data();
                mixing.y_row = thread.row_to.data();
            }
            kernels_.mix(mixing);
        }
    }
}

// eq. 14: what the next layer needs of the features in `thread.updated`.
template <class T>
void Evaluation<T>::project(int layer, Thread& thread, int64_t first, int64_t count) {
    const LayerWeights<T>& weights = network_.layers[layer];
    LayerState& state = states_[layer];
    const int64_t input = weights.input_components() * channels_, skipped = weights.skip_components() * channels_;
    const T* features = thread.updated.data();
    mix(weights.values, false, weights.input_degree, count, features, input, state.values.data() + first * input, input,
        false);
    if (weights.edge.attends)
        mix(weights.queries, false, weights.input_degree, count, features, input, state.queries.data() + first * input,
            input, false);
    for (int64_t k = 0; k < count; ++k)
        std::copy_n(features + k * input, skipped, state.skipped.data() + (first + k) * skipped);
}

// eq. 23 and 51 after the last layer: the energy, and the pull on `thread.updated` in `thread.updated_pull`.
template <class T>
void Evaluation<T>::read_out_last(Thread& thread, int64_t first, int64_t count) {
    const Matrices<T>& inner = network_.readout_inner;
    Mixing<T> mixing;
    mixing.rows = count;
    mixing.inputs = channels_;
    mixing.outputs = inner.outputs;
    mixing.x = thread.updated.data();
    mixing.x_row = readout_from_.data();
    mixing.weight = inner.ahead(0);
    mixing.y = thread.hidden.data();
    mixing.y_row = readout_to_.data();
    kernels_.mix(mixing);

    Readout<T> readout;
    readout.rows = count;
    readout.width = inner.outputs;
    readout.hidden = thread.hidden.data();
    readout.outer = network_.readout_outer.data();
    readout.energy = atom_energy_ + first;
    kernels_.readout(readout);
    if (!derivatives()) return;
    std::swap(mixing.inputs, mixing.outputs);
    mixing.x = thread.hidden.data();
    mixing.x_row = readout_to_.data();
    mixing.weight = inner.back(0);
    mixing.y = thread.updated_pull.data();
    mixing.y_row = readout_from_.data();
    kernels_.mix(mixing);
}

// eq. 33-50 of one layer, from the pull in `thread.updated_pull`: forces, and the pull on the layer's input.
template <class T>
void Evaluation<T>::backward_tile(int layer, Thread& thread, int64_t first, int64_t count) {
    const LayerWeights<T>& weights = network_.layers[layer];
    const LayerState& state = states_[layer];
    const int64_t message = weights.message_components() * channels_, output = weights.output_components() * channels_;
    const bool kept = !weights.is_last;
    const T* aggregated = kept ? state.aggregated.data() + first * message : thread.aggregated.data();
    const T* total = kept ? state.total.data() + first * network_.heads : thread.total.data();
    const T* pull = thread.updated_pull.data();
    T* aggregated_pull = thread.aggregated_pull.data();
    if (weights.multiplies) {
        const int64_t powers = weights.powers();
        for (int64_t power = 0; power < powers; ++power)
            mix(weights.mix[1 + power], true, weights.output_degree, count, pull, output,
                thread.product_pull.data() + power * output, powers * output, false);
        ProductInput<T> in{};
        in.species = species_.data() + first;
        in.aggregated = kept ? state.blended.data() + first * message : thread.blended.data();
        in.square_weight = weights.square.data();
        in.cube_weight = weights.cube.data();
        in.pull = thread.product_pull.data();
        ProductOutput<T> out;
        out.aggregated = thread.blended_pull.data();
        kernels_.product(weights.product, Pass::backward, in, 0, count, out);
        mix(weights.mix[0], true, weights.output_degree, count, pull, output, thread.blended_pull.data(), message,
            true);
        mix(weights.blend, true, weights.edge.message_degree, count, thread.blended_pull.data(), message,
            aggregated_pull, message, false);
    } else {
        if (message > output) std::fill_n(aggregated_pull, count * message, T(0));
        mix(weights.mix[0], true, weights.output_degree, count, pull, output, aggregated_pull, message, false);
    }
    pull_edges(layer, thread, first, count, aggregated, total);
    if (layer == 0) return;

    T* feature_pull = states_[layer].feature_pull.data() + first * weights.input_components() * channels_;
    const int64_t input = weights.input_components() * channels_;
    if (weights.edge.attends) {
        mix(weights.queries, true, weights.input_degree, count, thread.query_pull.data(), input, feature_pull, input,
            false);
    } else {
        std::fill_n(feature_pull, count * input, T(0));
    }
    const T* readout = network_.layers[layer - 1].readout.data();
    for (int64_t k = 0; k < count; ++k)
        for (int64_t c = 0; c < channels_; ++c) feature_pull[k * input + c] += readout[c];
    skip(layer, thread, first, count, true);
}

// eq. 33-45 of a tile.
template <class T>
void Evaluation<T>::pull_edges(int layer, Thread& thread, int64_t first, int64_t count, const T* aggregated,
                               const T* total) {
    const LayerWeights<T>& weights = network_.layers[layer];
    EdgePassInput<T> in = edge_input(layer, thread, first, count);
    in.pull = thread.aggregated_pull.data();
    in.aggregated = aggregated;
    in.total = total;
    EdgePassOutput<T> out;
    out.vectors = thread.edge_pull.data();
    if (layer > 0) {
        out.values = value_pull(layer, thread);
        if (weights.edge.attends) out.queries = thread.query_pull.data();
    }
    kernels_.edge(weights.edge, Pass::backward, in, 0, count, out, thread.workspace.data());
    tally(thread, first, count, in.row_start);
}

// Forces and virials from the pulls on the edges (eq. 25, 26). `rows` counts edges from the tile's first.
template <class T>
void Evaluation<T>::tally(Thread& thread, int64_t first, int64_t count, const int64_t* rows) {
    const int64_t start = edges_.part(thread.number).row_start[first];
    const bool by_atom = thread.atom_virial.size() > 0, by_sender = thread.sender_virial.size() > 0;
    for (int64_t k = 0; k < count; ++k) {
        double own[3] = {};
        const int64_t i = first + k;
        for (int64_t edge = rows[k]; edge < rows[k + 1]; ++edge) {
            const T* pull = thread.edge_pull.data() + 3 * edge;
            const T* vector = edges_.vectors() + 3 * (start + edge);
            const int64_t j = edges_.sender()[start + edge];
            double* other = thread.forces.data() + 3 * j;
            for (int a = 0; a < 3; ++a) {
                own[a] += pull[a];
                other[a] -= pull[a];
                for (int b = 0; b < 3; ++b) thread.virial[3 * a + b] -= double(pull[a]) * vector[b];
            }
            if (by_sender)
                for (int a = 0; a < 3; ++a)
                    for (int b = 0; b < 3; ++b) thread.sender_virial[9 * j + 3 * a + b] -= double(vector[a]) * pull[b];
            if (!by_atom) continue;
            for (int a = 0; a < 3; ++a)
                for (int b = 0; b < 3; ++b) {
                    const double quarter = -0.25 * (double(pull[a]) * vector[b] + double(pull[b]) * vector[a]);
                    thread.atom_virial[9 * i + 3 * a + b] += quarter;
                    thread.atom_virial[9 * j + 3 * a + b] += quarter;
                }
        }
        for (int a = 0; a < 3; ++a) thread.forces[3 * i + a] += own[a];
    }
}

// eq. 50: adds what comes by the values, and hands the pull on the layer's input to the layer below.
template <class T>
void Evaluation<T>::pull_features(int layer, Thread& thread, int64_t first, int64_t count) {
    const LayerWeights<T>& weights = network_.layers[layer];
    LayerState& state = states_[layer];
    const int64_t input = weights.input_components() * channels_;
    T* pull = thread.updated_pull.data();
    std::copy_n(state.feature_pull.data() + first * input, count * input, pull);
    mix(weights.values, true, weights.input_degree, count, state.value_pull.data() + first * input, input, pull, input,
        true);
}

template <class T>
T* Evaluation<T>::value_pull(int layer, const Thread& thread) {
    return thread.number == 0 ? states_[layer].value_pull.data() : threads_[thread.number].value_pull[layer].data();
}

// Zeros where this thread is going to add. The sums over edges of forces start with the last layer.
template <class T>
void Evaluation<T>::clear_pulls(int layer, Thread& thread) {
    const int64_t width = network_.layers[layer].input_components() * channels_;
    const bool starts = network_.layers[layer].is_last;
    const int64_t standing = edges_.standing(), blocks = edges_.blocks();
    for (int64_t block = 0; block < blocks; ++block) {
        if (!edges_.part(thread.number).touched[block]) continue;
        const int64_t first = block * block_atoms, count = std::min(block_atoms, standing - first);
        if (layer > 0) std::fill_n(value_pull(layer, thread) + first * width, count * width, T(0));
        if (!starts) continue;
        std::fill_n(thread.forces.data() + 3 * first, 3 * count, 0.0);
        for (Buffer<double>* virial : {&thread.atom_virial, &thread.sender_virial})
            if (virial->size()) std::fill_n(virial->data() + 9 * first, 9 * count, 0.0);
    }
}

// Sums the threads' pulls on values into the first thread's, in the threads' order: the same for each run.
template <class T>
void Evaluation<T>::sum_value_pulls(int layer, int part, int parts) {
    const int64_t width = network_.layers[layer].input_components() * channels_;
    T* sum = states_[layer].value_pull.data();
    const int64_t standing = edges_.standing(), blocks = edges_.blocks();
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        const int64_t first = block * block_atoms * width;
        const int64_t count = std::min(block_atoms, standing - block * block_atoms) * width;
        bool filled = edges_.part(0).touched[block];
        for (int other = 1; other < parts; ++other) {
            if (!edges_.part(other).touched[block]) continue;
            const T* from = threads_[other].value_pull[layer].data();
            if (filled) {
                for (int64_t k = first; k < first + count; ++k) sum[k] += from[k];
            } else {
                std::copy_n(from + first, count, sum + first);
            }
            filled = true;
        }
        if (!filled) std::fill_n(sum + first, count, T(0));
    }
}

template <class T>
void Evaluation<T>::sum_results(int part, int parts, const Results& out) {
    const int64_t standing = edges_.standing(), blocks = edges_.blocks();
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        const int64_t first = block * block_atoms, last = std::min(first + block_atoms, standing);
        const auto gather = [&](double* to, int64_t width, Buffer<double> Thread::* from) {
            std::fill(to + width * first, to + width * last, 0.0);
            for (const Thread& thread : threads_) {
                if (!edges_.part(thread.number).touched[block]) continue;
                const double* numbers = (thread.*from).data();
                for (int64_t k = width * first; k < width * last; ++k) to[k] += numbers[k];
            }
        };
        if (out.forces) gather(out.forces, 3, &Thread::forces);
        if (out.atom_virial) gather(out.atom_virial, 9, &Thread::atom_virial);
        if (out.sender_virial) gather(out.sender_virial, 9, &Thread::sender_virial);
    }
    if (part > 0) return;
    // Nothing is left at atoms for which others stand.
    if (out.forces) std::fill(out.forces + 3 * standing, out.forces + 3 * around_.atoms, 0.0);
    for (double* virial : {out.atom_virial, out.sender_virial})
        if (virial) std::fill(virial + 9 * standing, virial + 9 * around_.atoms, 0.0);
}

template <class T>
std::size_t Evaluation<T>::memory_bytes() const {
    std::size_t bytes = edges_.bytes() + species_.bytes();
    for (const LayerState& state : states_)
        for (const Buffer<T>* buffer : {&state.values, &state.value_pull, &state.queries, &state.skipped,
                                        &state.feature_pull, &state.aggregated, &state.blended, &state.total})
            bytes += buffer->bytes();
    for (const Thread& thread : threads_) {
        bytes += thread.forces.bytes() + thread.atom_virial.bytes() + thread.sender_virial.bytes();
        for (const Buffer<T>& buffer : thread.value_pull) bytes += buffer.bytes();
    }
    return bytes;
}

template class Evaluation<float>;
template class Evaluation<double>;

}  // namespace symmd
