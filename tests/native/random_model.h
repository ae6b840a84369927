// A model with random weights in memory, of any shape that a model file may have, for programs that no Python has
// written a file for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/coupling.h"
#include "core/model_file.h"

struct ModelShape {
    const char* name;
    int channels = 16, heads = 4, layers = 2, max_degree = 2, hidden_degree = 1, body_order = 3;
    bool attends = true;
    int readout_hidden = 8;
    std::vector<double> layer_cutoffs = {};  // empty: 3.5 Å for all
};

class RandomModel {
  public:
    RandomModel(const ModelShape& shape, uint64_t seed) : random_(seed) {
        symmd::ModelHeader& header = model_.header;
        header.species = {"H", "C", "O"};
        header.atomic_numbers = {1, 6, 8};
        header.layers = shape.layers;
        header.channels = shape.channels;
        header.heads = shape.heads;
        header.max_degree = shape.max_degree;
        header.hidden_degree = shape.hidden_degree;
        header.body_order = shape.body_order;
        header.attends = shape.attends;
        header.radial_knots = 24;
        header.readout_hidden = shape.readout_hidden;
        header.layer_cutoffs =
            shape.layer_cutoffs.empty() ? std::vector<double>(std::size_t(shape.layers), 3.5) : shape.layer_cutoffs;
        header.cutoff = *std::max_element(header.layer_cutoffs.begin(), header.layer_cutoffs.end());
        header.reference_energies = {-0.7, 1.1, 0.4};
        header.energy_scale = 1.3;
        header.mean_neighbours = 9;
        add_tensors();
    }
    const symmd::ModelFile& file() const { return model_; }

  private:
    // Normal numbers, such that what they mix `inputs` of keeps its size.
    void add(const std::string& name, const std::vector<int64_t>& sizes, double size) {
        symmd::StoredTensor tensor;
        tensor.name = name;
        tensor.type = symmd::NumberType::float64;
        tensor.count = 1;
        for (const int64_t each : sizes) {
            tensor.shape.push_back(uint64_t(each));
            tensor.count *= uint64_t(each);
        }
        tensor.bytes = {bytes_.size(), 8 * std::size_t(tensor.count)};
        for (uint64_t k = 0; k < tensor.count; ++k) {
            // Numbers that a float holds exactly, so that both precisions have the same model.
            const double number = float(size * std::normal_distribution<double>()(random_));
            const auto* bytes = reinterpret_cast<const uint8_t*>(&number);
            bytes_.insert(bytes_.end(), bytes, bytes + 8);
        }
        model_.tensors.push_back(tensor);
    }

    void add_tensors() {
        const symmd::ModelHeader& header = model_.header;
        const int64_t channels = header.channels, species = int64_t(header.species.size());
        const double mixed = 1 / std::sqrt(double(channels));
        add("embedding", {species, channels}, 1);
        for (int index = 0; index < header.layers; ++index) {
            const std::string layer = "layers." + std::to_string(index) + ".";
            const int in = header.input_degree(index), message = header.message_degree(index);
            const int out = header.output_degree(index), skip = std::min(in, out);
            add(layer + "radial_table",
                {2 * (header.radial_knots + 1), symmd::count_paths(in, header.max_degree, message), channels}, 0.7);
            add(layer + "values", {in + 1, channels, channels}, mixed);
            if (header.attends) {
                add(layer + "queries", {in + 1, channels, channels}, mixed);
                add(layer + "sink", {header.heads}, 1);
            }
            add(layer + "skip", {skip + 1, species, channels, channels}, mixed);
            for (int power = 0; power < header.body_order; ++power)
                add(layer + "mix." + std::to_string(power + 1), {out + 1, channels, channels}, mixed);
            if (header.body_order > 1) {
                const int middle = header.body_order > 2 ? message : out;
                add(layer + "blend", {message + 1, channels, channels}, mixed);
                add(layer + "square", {species, symmd::count_paths(message, message, middle, true), channels}, 0.5);
                if (header.body_order > 2)
                    add(layer + "cube", {species, symmd::count_paths(message, message, out), channels}, 0.3);
            }
            if (index + 1 < header.layers) add("readouts." + std::to_string(index), {channels}, 1.0 / double(channels));
        }
        add("readout_inner", {channels, header.readout_hidden}, mixed);
        add("readout_outer", {header.readout_hidden}, 1.0 / header.readout_hidden);
        std::sort(model_.tensors.begin(), model_.tensors.end(),
                  [](const symmd::StoredTensor& a, const symmd::StoredTensor& b) { return a.name < b.name; });
        model_.number_type = symmd::NumberType::float64;
        model_.content = std::make_shared<const std::vector<uint8_t>>(bytes_);
    }

    std::mt19937_64 random_;
    std::vector<uint8_t> bytes_;
    symmd::ModelFile model_;
};
