// The model file: docs/model_file.md describes it. Everything in a file is checked before anything is handed out, and
// no pickle is ever read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/model_file_error.h"
#include "core/safetensors.h"

namespace symmd {

// The newest format version that this program reads.
inline constexpr int model_file_version = 1;

// What a network is beside its weights (docs/theory.md §1-5). Layers count from 0.
struct ModelHeader {
    std::vector<std::string> species;   // element symbols, all different; a species is an index into them
    std::vector<int> atomic_numbers;    // of the species
    double cutoff = 0.0;                // Å, the largest of any layer
    std::vector<double> layer_cutoffs;  // Å, one for each layer
    int layers = 0, channels = 0, heads = 0;
    int max_degree = 0, hidden_degree = 0;  // L of the harmonics; of the features between layers
    int body_order = 0;                     // 1 (no node products), 2 or 3
    bool attends = true;                    // sink-softmax attention; else a plain sum (eq. 19)
    int radial_knots = 0;                   // K: intervals of the radial spline on [0, cutoff of the layer]
    int readout_hidden = 0;
    std::vector<double> reference_energies;  // E0 of the species, eV
    double energy_scale = 1.0;               // σ, eV
    double mean_neighbours = 1.0;            // n̄
    // Precisions in which the engine was compared with the network when the file was written.
    std::vector<NumberType> validated_precisions;

    int input_degree(int layer) const { return layer == 0 ? 0 : hidden_degree; }
    int output_degree(int layer) const { return layer == layers - 1 ? 0 : hidden_degree; }
    int message_degree(int layer) const { return body_order > 1 ? max_degree : output_degree(layer); }
};

// A checked model in memory. Copies share the bytes, which are never written again.
class ModelFile {
  public:
    int format_version = 0;
    ModelHeader header;
    std::string header_text;  // the JSON text of the header, with the provenance
    std::string sha256;       // 64 hexadecimal digits
    NumberType number_type = NumberType::float32;
    ByteRange blob;                     // where the safetensors part lies in the file
    std::vector<StoredTensor> tensors;  // in ascending order of names; `bytes` counts from the first byte of `blob`

    // The numbers of a tensor, row-major, as float or double; a name that the header's hyperparameters do not imply is
    // a mistake of the caller (std::logic_error). Throws ModelFileError if an fp64 number does not fit into a float.
    template <class T>
    std::vector<T> values(const std::string& name) const;
    bool has(const std::string& name) const;

    // The whole file that the model was read from.
    std::shared_ptr<const std::vector<std::uint8_t>> content;
};

// Reads `model.pt` (a TorchScript archive with the extra entry symmd.safetensors) or a bare `.safetensors`. Throws
// ModelFileError with one sentence that names the file, and nothing else whatever the file holds.
ModelFile load_model_file(const std::string& path);

// The same from memory, which is copied; messages call it `name`.
ModelFile load_model_file(const void* data, std::size_t size, const std::string& name);

// The steps of reading, for tests that damage a file behind its checksum.
Safetensors read_model_container(const ByteView& blob);                         // with the metadata of this format
std::string model_digest(const ByteView& blob, const Safetensors& container);   // what its SHA-256 must be
ModelFile interpret_model(const ByteView& blob, const Safetensors& container);  // checks all but the SHA-256

}  // namespace symmd
