#include "core/evaluation.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"

namespace symmd {

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
void Evaluation<T>::run(const Surroundings& surroundings, int threads, GhostExchange* exchange,
                        const EvaluationOutput& out) {
    constexpr Precision precision = sizeof(T) == 4 ? Precision::float32 : Precision::float64;
    const int last = int(network_.layers.size()) - 1;
    prepare(surroundings, threads, out);
    const auto tiles = [&](Thread& thread, auto&& body) {
        for (int64_t first = thread.first; first < thread.last; first += tile)
            body(first, std::min(tile, thread.last - first));
    };

    in_parallel(threads, [&](int part) { collect_edges(threads_[part]); });
    for (const Thread& thread : threads_)
        if (!thread.problem.empty()) throw Error(thread.problem);

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
void Evaluation<T>::prepare(const Surroundings& surroundings, int threads, const EvaluationOutput& out) {
    around_ = surroundings;
    atom_energy_ = out.atom_energy;
    wants_derivatives_ = out.forces || out.virial || out.atom_virial;
    blocks_ = (around_.atoms + block_atoms - 1) / block_atoms;
    if (int(threads_.size()) != threads) {
        threads_.clear();
        threads_.resize(threads);
    }
    list_start_.resize(around_.owned + 1);
    if (around_.list) {
        std::copy_n(around_.list->row_start, around_.owned + 1, list_start_.data());
    } else {
        list_start_[0] = 0;
        for (int64_t i = 0; i < around_.owned; ++i) list_start_[i + 1] = list_start_[i] + around_.rows->counts[i];
    }
    const int64_t edges = list_start_[around_.owned];
    row_start_.resize(around_.owned + threads);
    sender_.resize(edges);
    sender_species_.resize(edges);
    vectors_.resize(3 * edges);
    species_.resize(around_.owned);
    for (int64_t i = 0; i < around_.owned; ++i) {
        species_[i] = around_.species[i];
        atom_energy_[i] = network_.reference_energies[around_.species[i]];
    }
    divide(threads);

    int64_t workspace = 0;
    for (std::size_t index = 0; index < states_.size(); ++index) {
        const LayerWeights<T>& layer = network_.layers[index];
        LayerState& state = states_[index];
        for (const Pass pass : {Pass::forward, Pass::backward})
            workspace = std::max(workspace, kernels_.edge_workspace(layer.edge, pass));
        const int64_t input = layer.input_components() * channels_, message = layer.message_components() * channels_;
        if (index > 0) {
            state.values.resize(around_.atoms * input);
            if (layer.edge.attends) state.queries.resize(around_.owned * input);
            state.skipped.resize(around_.owned * layer.skip_components() * channels_);
            if (derivatives()) {
                state.value_pull.resize(around_.atoms * input);
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
        thread.problem.clear();
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
        for (int64_t first = thread.first; first < thread.last; first += tile)
            longest = std::max(longest, list_start_[std::min(first + tile, thread.last)] - list_start_[first]);
        thread.edge_pull.resize(3 * longest);
        thread.touched.resize(blocks_);
        thread.forces.resize(3 * blocks_ * block_atoms);
        if (out.atom_virial) {
            thread.atom_virial.resize(9 * blocks_ * block_atoms);
        } else {
            thread.atom_virial.resize(0);
        }
        thread.value_pull.resize(states_.size());
        if (part > 0)
            for (std::size_t index = 1; index < states_.size(); ++index)
                thread.value_pull[index].resize(around_.atoms * network_.layers[index].input_components() * channels_);
    }
}

// Ranges of atoms with about the same work; an atom costs as much as some ten edges.
template <class T>
void Evaluation<T>::divide(int threads) {
    const auto work = [&](int64_t atom) { return list_start_[atom] + 10 * atom; };
    int64_t first = 0;
    for (int part = 0; part < threads; ++part) {
        const int64_t goal = work(around_.owned) * (part + 1) / threads;
        int64_t low = first, high = around_.owned;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (work(middle) < goal) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        threads_[part].first = first;
        threads_[part].last = part == threads - 1 ? around_.owned : low;
        // One number more for each thread: edges of a thread are packed, so its last row ends before the next thread's.
        threads_[part].row_start = row_start_.data() + part;
        first = threads_[part].last;
    }
}

template <class T>
void Evaluation<T>::note_problem(Thread& thread, int64_t receiver, int64_t sender, double square) const {
    const auto name = [&](int64_t atom) { return std::to_string((around_.names ? around_.names[atom] : atom) + 1); };
    const std::string pair = "atoms " + name(receiver) + " and " + name(sender);
    if (std::isfinite(square)) {
        thread.problem = pair + " are in the same place, where the potential has no direction; move one of them";
    } else {
        thread.problem = "coordinates must be finite, found one that is not at " + pair +
                         ": the simulation has most likely blown up; check the time step and the starting structure";
    }
}

// The edges within the cutoff, with their displacements as differences of fp64 coordinates (eq. 1).
template <class T>
void Evaluation<T>::collect_edges(Thread& thread) {
    const double square_of_cutoff = cutoff_ * cutoff_;
    constexpr double closest = coincidence_distance * coincidence_distance;
    const double *positions = around_.positions, *cell = around_.cell;
    if (derivatives()) {
        std::memset(thread.touched.data(), 0, std::size_t(blocks_));
        for (int64_t i = thread.first; i < thread.last; ++i) thread.touched[i / block_atoms] = 1;
    }
    int64_t edge = list_start_[thread.first];
    thread.row_start[thread.first] = edge;
    for (int64_t i = thread.first; i < thread.last; ++i) {
        const double x = positions[3 * i], y = positions[3 * i + 1], z = positions[3 * i + 2];
        const int64_t listed = list_start_[i], count = list_start_[i + 1] - listed;
        const int64_t* senders = around_.list ? around_.list->sender + listed : nullptr;
        const Triple* shifts = around_.list && cell ? around_.list->shift + listed : nullptr;
        const int32_t* row = around_.list ? nullptr : around_.rows->neighbours[i];
        for (int64_t k = 0; k < count; ++k) {
            const int64_t j = senders ? senders[k] : int64_t(row[k] & around_.rows->mask);
            if (row && (j < 0 || j >= around_.atoms)) {
                thread.problem = "neighbours must be indices below " + std::to_string(around_.atoms) + ", found " +
                                 std::to_string(j) + " in the row of atom " + std::to_string(i + 1);
                return;
            }
            double dx = positions[3 * j] - x, dy = positions[3 * j + 1] - y, dz = positions[3 * j + 2] - z;
            if (shifts && (shifts[k][0] | shifts[k][1] | shifts[k][2])) {
                const double a = shifts[k][0], b = shifts[k][1], c = shifts[k][2];
                dx += a * cell[0] + b * cell[3] + c * cell[6];
                dy += a * cell[1] + b * cell[4] + c * cell[7];
                dz += a * cell[2] + b * cell[5] + c * cell[8];
            }
            const double square = dx * dx + dy * dy + dz * dz;
            if (square >= square_of_cutoff) continue;
            if (!(square > closest)) return note_problem(thread, i, j, square);
            sender_[edge] = j;
            sender_species_[edge] = around_.species[j];
            vectors_[3 * edge] = T(dx);
            vectors_[3 * edge + 1] = T(dy);
            vectors_[3 * edge + 2] = T(dz);
            if (derivatives()) thread.touched[j / block_atoms] = 1;
            ++edge;
        }
        thread.row_start[i + 1] = edge;
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
    const int64_t start = thread.row_start[first];
    for (int64_t k = 0; k <= count; ++k) thread.row_from[k] = thread.row_start[first + k] - start;
    EdgePassInput<T> in{};
    in.row_start = thread.row_from.data();
    in.vectors = vectors_.data() + 3 * start;
    in.table = weights.table.data();
    in.sink = weights.sink.data();
    if (layer > 0) {
        in.sender = sender_.data() + start;
        in.values = state.values.data();
        if (weights.edge.attends) in.queries = state.queries.data() + first * weights.input_components() * channels_;
        return in;
    }
    // Values of the first layer are those of the species.
    in.sender = sender_species_.data() + start;
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
    const int64_t start = thread.row_start[first];
    const bool by_atom = thread.atom_virial.size() > 0;
    for (int64_t k = 0; k < count; ++k) {
        double own[3] = {};
        const int64_t i = first + k;
        for (int64_t edge = rows[k]; edge < rows[k + 1]; ++edge) {
            const T* pull = thread.edge_pull.data() + 3 * edge;
            const T* vector = vectors_.data() + 3 * (start + edge);
            const int64_t j = sender_[start + edge];
            double* other = thread.forces.data() + 3 * j;
            for (int a = 0; a < 3; ++a) {
                own[a] += pull[a];
                other[a] -= pull[a];
                for (int b = 0; b < 3; ++b) thread.virial[3 * a + b] -= double(pull[a]) * vector[b];
            }
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
    const std::size_t part = std::size_t(&thread - threads_.data());
    return part == 0 ? states_[layer].value_pull.data() : threads_[part].value_pull[layer].data();
}

// Zeros where this thread is going to add. The sums over edges of forces start with the last layer.
template <class T>
void Evaluation<T>::clear_pulls(int layer, Thread& thread) {
    const int64_t width = network_.layers[layer].input_components() * channels_;
    const bool starts = network_.layers[layer].is_last;
    for (int64_t block = 0; block < blocks_; ++block) {
        if (!thread.touched[block]) continue;
        const int64_t first = block * block_atoms, count = std::min(block_atoms, around_.atoms - first);
        if (layer > 0) std::fill_n(value_pull(layer, thread) + first * width, count * width, T(0));
        if (!starts) continue;
        std::fill_n(thread.forces.data() + 3 * first, 3 * count, 0.0);
        if (thread.atom_virial.size()) std::fill_n(thread.atom_virial.data() + 9 * first, 9 * count, 0.0);
    }
}

// Sums the threads' pulls on values into the first thread's, in the threads' order: the same for each run.
template <class T>
void Evaluation<T>::sum_value_pulls(int layer, int part, int parts) {
    const int64_t width = network_.layers[layer].input_components() * channels_;
    T* sum = states_[layer].value_pull.data();
    for (int64_t block = blocks_ * part / parts; block < blocks_ * (part + 1) / parts; ++block) {
        const int64_t first = block * block_atoms * width;
        const int64_t count = std::min(block_atoms, around_.atoms - block * block_atoms) * width;
        bool filled = threads_[0].touched[block];
        for (int other = 1; other < parts; ++other) {
            if (!threads_[other].touched[block]) continue;
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
void Evaluation<T>::sum_results(int part, int parts, const EvaluationOutput& out) {
    for (int64_t block = blocks_ * part / parts; block < blocks_ * (part + 1) / parts; ++block) {
        const int64_t first = block * block_atoms, last = std::min(first + block_atoms, around_.atoms);
        const auto gather = [&](double* to, int64_t width, Buffer<double> Thread::* from) {
            std::fill(to + width * first, to + width * last, 0.0);
            for (const Thread& thread : threads_) {
                if (!thread.touched[block]) continue;
                const double* numbers = (thread.*from).data();
                for (int64_t k = width * first; k < width * last; ++k) to[k] += numbers[k];
            }
        };
        if (out.forces) gather(out.forces, 3, &Thread::forces);
        if (out.atom_virial) gather(out.atom_virial, 9, &Thread::atom_virial);
    }
}

template <class T>
std::size_t Evaluation<T>::memory_bytes() const {
    std::size_t bytes = list_start_.bytes() + row_start_.bytes() + sender_.bytes() + sender_species_.bytes() +
                        species_.bytes() + vectors_.bytes();
    for (const LayerState& state : states_)
        for (const Buffer<T>* buffer : {&state.values, &state.value_pull, &state.queries, &state.skipped,
                                        &state.feature_pull, &state.aggregated, &state.blended, &state.total})
            bytes += buffer->bytes();
    for (const Thread& thread : threads_) {
        bytes += thread.forces.bytes() + thread.atom_virial.bytes() + thread.touched.bytes();
        for (const Buffer<T>& buffer : thread.value_pull) bytes += buffer.bytes();
    }
    return bytes;
}

template class Evaluation<float>;
template class Evaluation<double>;

}  // namespace symmd
