#include "core/network.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/coupling.h"

namespace symmd {

namespace {

template <class T>
Buffer<T> packed(const std::vector<T>& numbers) {
    Buffer<T> buffer(int64_t(numbers.size()));
    std::copy(numbers.begin(), numbers.end(), buffer.data());
    return buffer;
}

// `numbers` [count, inputs, outputs]; columns are filled up with zeros to `padded`.
template <class T>
Matrices<T> matrices(const std::vector<T>& numbers, int64_t inputs, int64_t outputs, int64_t padded) {
    const int64_t count = int64_t(numbers.size()) / (inputs * outputs);
    Matrices<T> result;
    result.inputs = inputs;
    result.outputs = padded;
    result.forward.resize(count * inputs * padded);
    result.backward.resize(count * inputs * padded);
    std::fill_n(result.forward.data(), result.forward.size(), T(0));
    std::fill_n(result.backward.data(), result.backward.size(), T(0));
    for (int64_t index = 0; index < count; ++index)
        for (int64_t k = 0; k < inputs; ++k)
            for (int64_t n = 0; n < outputs; ++n) {
                const T number = numbers[(index * inputs + k) * outputs + n];
                result.forward[(index * inputs + k) * padded + n] = number;
                result.backward[(index * padded + n) * inputs + k] = number;
            }
    return result;
}

// Rows of the species' features times their matrices; `per_species` has one matrix for each of them.
template <class T>
Buffer<T> species_rows(const std::vector<double>& embedding, const std::vector<double>& weight, int64_t species,
                       int64_t channels, bool per_species) {
    Buffer<T> rows(species * channels);
    for (int64_t z = 0; z < species; ++z) {
        const double* matrix = weight.data() + (per_species ? z * channels * channels : 0);
        for (int64_t n = 0; n < channels; ++n) {
            double sum = 0;
            for (int64_t k = 0; k < channels; ++k) sum += embedding[z * channels + k] * matrix[k * channels + n];
            rows[z * channels + n] = T(sum);
        }
    }
    return rows;
}

int64_t paths_in(const StoredTensor& tensor) { return int64_t(tensor.shape[1]); }

const StoredTensor& stored(const ModelFile& model, const std::string& name) {
    return *std::find_if(model.tensors.begin(), model.tensors.end(),
                         [&](const StoredTensor& tensor) { return tensor.name == name; });
}

// The table of the layer. Paths are ordered by the degree that they lead to: messages of a higher degree than the
// network has are there with radial functions of zero.
template <class T>
Buffer<T> radial_table(const ModelFile& model, const std::string& name, const EdgePassShape& shape) {
    const std::vector<T> numbers = model.values<T>(name);
    const int64_t paths = paths_in(stored(model, name)), channels = shape.channels;
    const int64_t wanted = count_paths(shape.value_degree, shape.harmonic_degree, shape.message_degree);
    Buffer<T> table(2 * (shape.knots + 1) * wanted * channels);
    std::fill_n(table.data(), table.size(), T(0));
    for (int64_t row = 0; row < 2 * (shape.knots + 1); ++row)
        std::copy_n(numbers.data() + row * paths * channels, paths * channels, table.data() + row * wanted * channels);
    return table;
}

template <class T>
LayerWeights<T> layer_weights(const ModelFile& model, int index, const std::vector<double>& embedding,
                              const AvailableKernels& available) {
    const ModelHeader& header = model.header;
    const std::string prefix = "layers." + std::to_string(index) + ".";
    const int64_t channels = header.channels, species = int64_t(header.species.size());
    LayerWeights<T> layer;
    layer.input_degree = header.input_degree(index);
    layer.output_degree = header.output_degree(index);
    layer.skip_degree = std::min(layer.input_degree, layer.output_degree);
    layer.multiplies = header.body_order > 1;
    layer.is_last = index == header.layers - 1;

    EdgePassShape& edge = layer.edge;
    edge.channels = channels;
    edge.heads = header.attends ? header.heads : 1;
    edge.knots = header.radial_knots;
    edge.value_degree = layer.input_degree;
    edge.harmonic_degree = header.max_degree;
    edge.message_degree = header.message_degree(index);
    edge.cutoff = header.layer_cutoffs[index];
    edge.gain = header.attends ? std::sqrt(header.mean_neighbours) : 1.0 / std::sqrt(header.mean_neighbours);
    edge.attends = header.attends;
    if (!available.edge(edge)) edge.message_degree = edge.harmonic_degree;

    layer.product.channels = channels;
    layer.product.degree = edge.message_degree;
    layer.product.output_degree = layer.output_degree;
    layer.product.cube = header.body_order > 2;
    if (!available.edge(edge) || (layer.multiplies && !available.product(layer.product)))
        throw ModelFileError("the engine has no kernel for layer " + std::to_string(index + 1) +
                             " of this model (degrees " + std::to_string(edge.value_degree) + ", " +
                             std::to_string(edge.harmonic_degree) + " to " + std::to_string(edge.message_degree) +
                             "); run it with the plain network");

    const auto square = [&](const std::string& name) {
        return matrices(model.values<T>(prefix + name), channels, channels, channels);
    };
    layer.table = radial_table<T>(model, prefix + "radial_table", edge);
    if (header.attends) layer.sink = packed(model.values<T>(prefix + "sink"));
    if (index == 0) {
        const std::vector<double> values = model.values<double>(prefix + "values");
        layer.species_values = species_rows<T>(embedding, values, species, channels, false);
        if (header.attends) {
            const std::vector<double> queries = model.values<double>(prefix + "queries");
            layer.species_queries = species_rows<T>(embedding, queries, species, channels, false);
        }
        const std::vector<double> skip = model.values<double>(prefix + "skip");
        layer.species_skip = species_rows<T>(embedding, skip, species, channels, true);
    } else {
        layer.values = square("values");
        if (header.attends) layer.queries = square("queries");
        layer.skip = square("skip");
    }
    if (layer.multiplies) {
        layer.blend = square("blend");
        layer.square = packed(model.values<T>(prefix + "square"));
    }
    if (layer.product.cube) layer.cube = packed(model.values<T>(prefix + "cube"));
    for (int power = 0; power < header.body_order; ++power)
        layer.mix[power] = square("mix." + std::to_string(power + 1));
    if (!layer.is_last) {
        layer.readout = packed(model.values<T>("readouts." + std::to_string(index)));
        for (int64_t c = 0; c < channels; ++c) layer.readout[c] = T(layer.readout[c] * header.energy_scale);
    }
    return layer;
}

}  // namespace

template <class T>
NetworkWeights<T>::NetworkWeights(const ModelFile& model, const AvailableKernels& available)
    : channels(model.header.channels),
      heads(model.header.attends ? model.header.heads : 1),
      species(int64_t(model.header.species.size())),
      energy_scale(model.header.energy_scale),
      reference_energies(model.header.reference_energies) {
    const std::vector<double> embedding = model.values<double>("embedding");
    for (int index = 0; index < model.header.layers; ++index)
        layers.push_back(layer_weights<T>(model, index, embedding, available));
    const int64_t hidden = model.header.readout_hidden, padded = (hidden + 15) / 16 * 16;
    readout_inner = matrices(model.values<T>("readout_inner"), channels, hidden, padded);
    readout_outer.resize(padded);
    std::fill_n(readout_outer.data(), padded, T(0));
    const std::vector<T> outer = model.values<T>("readout_outer");
    for (int64_t k = 0; k < hidden; ++k) readout_outer[k] = T(outer[k] * energy_scale);
}

template struct NetworkWeights<float>;
template struct NetworkWeights<double>;

}  // namespace symmd
