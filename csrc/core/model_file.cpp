#include "core/model_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include "core/coupling.h"
#include "core/elements.h"
#include "core/model_header.h"
#include "core/sha256.h"
#include "core/zip_archive.h"

namespace symmd {

namespace {

constexpr std::string_view entry_suffix = "/extra/symmd.safetensors";
constexpr std::string_view checkpoint_magic = "SYMMD CHECKPOINT\n";
constexpr std::uint64_t largest_file = std::uint64_t(1) << 32;

std::string listed(const std::vector<std::uint64_t>& shape) {
    std::string text = "[";
    for (const std::uint64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

struct ExpectedTensor {
    std::string name;
    std::vector<std::uint64_t> shape;
};

// Names and shapes that follow from the hyperparameters (docs/model_file.md), in ascending order of names.
std::vector<ExpectedTensor> expected_tensors(const ModelHeader& header) {
    const auto size = [](auto number) { return std::uint64_t(number); };
    const std::uint64_t species = header.species.size(), channels = size(header.channels);
    std::vector<ExpectedTensor> expected;
    expected.push_back({"embedding", {species, channels}});
    for (int layer = 0; layer < header.layers; ++layer) {
        const std::string prefix = "layers." + std::to_string(layer) + ".";
        const int input = header.input_degree(layer), output = header.output_degree(layer),
                  message = header.message_degree(layer), degree = header.max_degree;
        const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape) {
            expected.push_back({prefix + name, std::move(shape)});
        };
        add("values", {size(input + 1), channels, channels});
        if (header.attends) {
            add("queries", {size(input + 1), channels, channels});
            add("sink", {size(header.heads)});
        }
        add("radial_table", {2 * (size(header.radial_knots) + 1), size(count_paths(input, degree, message)), channels});
        if (header.body_order > 1) {
            const int middle = header.body_order > 2 ? message : output;
            add("blend", {size(message + 1), channels, channels});
            add("square", {species, size(count_paths(message, message, middle, true)), channels});
        }
        if (header.body_order > 2) add("cube", {species, size(count_paths(message, message, output)), channels});
        for (int power = 1; power <= header.body_order; ++power)
            add("mix." + std::to_string(power), {size(output + 1), channels, channels});
        add("skip", {size(std::min(input, output) + 1), species, channels, channels});
        if (layer < header.layers - 1) expected.push_back({"readouts." + std::to_string(layer), {channels}});
    }
    expected.push_back({"readout_inner", {channels, size(header.readout_hidden)}});
    expected.push_back({"readout_outer", {size(header.readout_hidden)}});
    std::sort(expected.begin(), expected.end(),
              [](const ExpectedTensor& first, const ExpectedTensor& second) { return first.name < second.name; });
    return expected;
}

// Both lists are sorted by name, so the first difference tells which tensor is too many or too few.
void check_tensors(const std::vector<StoredTensor>& found, const std::vector<ExpectedTensor>& expected) {
    const auto wrong = [](const std::string& reason) { throw ModelFileError(reason + "; export the model again"); };
    for (std::size_t k = 0; k < std::max(found.size(), expected.size()); ++k) {
        if (k == found.size() || (k < expected.size() && expected[k].name < found[k].name))
            wrong("tensor " + in_quotes(expected[k].name) + " is missing, which its hyperparameters require");
        if (k == expected.size() || found[k].name != expected[k].name)
            wrong("tensor " + in_quotes(found[k].name) + " has no place in a network with its hyperparameters");
        if (found[k].shape != expected[k].shape)
            wrong("tensor " + in_quotes(found[k].name) + " must have the shape " + listed(expected[k].shape) +
                  " by its hyperparameters, found " + listed(found[k].shape));
        if (found[k].type != found[0].type)
            wrong("its tensors must all have one dtype, found " + std::string(name_of(found[0].type)) + " in " +
                  in_quotes(found[0].name) + " and " + name_of(found[k].type) + " in " + in_quotes(found[k].name));
    }
}

template <class T>
void check_finite(const ByteView& blob, const StoredTensor& tensor) {
    for (std::uint64_t index = 0; index < tensor.count; ++index)
        if (!std::isfinite(blob.real<T>(tensor.bytes.start + index * sizeof(T))))
            throw ModelFileError("tensor " + in_quotes(tensor.name) + " holds NaN or infinity at number " +
                                 std::to_string(index) + ": the training diverged; export an earlier checkpoint");
}

std::vector<std::uint8_t> read_whole(const std::string& path) {
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(path, error);
    if (status.type() == std::filesystem::file_type::not_found)
        throw ModelFileError("it does not exist; name a file that symmd export wrote");
    if (status.type() != std::filesystem::file_type::regular)
        throw ModelFileError("it is not a regular file; name a file that symmd export wrote");
    std::ifstream stream(path, std::ios::binary | std::ios::ate);
    const std::streamoff size = stream ? std::streamoff(stream.tellg()) : -1;
    if (size < 0) throw ModelFileError("it cannot be opened; check that it may be read");
    if (std::uint64_t(size) > largest_file)
        throw ModelFileError("it has " + std::to_string(size) + " bytes, more than the 4 GiB of the largest model; " +
                             "name a file that symmd export wrote");
    std::vector<std::uint8_t> content(static_cast<std::size_t>(size));
    stream.seekg(0);
    if (!stream.read(reinterpret_cast<char*>(content.data()), size))
        throw ModelFileError("reading it failed halfway; check the disk, or copy or export it again");
    return content;
}

ModelFile model_of(std::vector<std::uint8_t> bytes) {
    auto content = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
    const ByteView file(content->data(), content->size());
    if (file.size() >= checkpoint_magic.size() && file.text(0, checkpoint_magic.size()) == checkpoint_magic)
        throw ModelFileError("it is a training checkpoint; make a model of it with symmd export");
    ByteRange blob = {0, file.size()};
    if (is_zip_archive(file)) blob = find_stored_entry(file, entry_suffix);
    const ByteView view = file.part(blob.start, blob.count);
    const Safetensors container = read_model_container(view);
    if (model_digest(view, container) != container.metadata.find("sha256")->text)
        throw ModelFileError(
            "it is damaged: the SHA-256 of its content is not the one that it was written with; copy or export it "
            "again");
    ModelFile model = interpret_model(view, container);
    model.blob = blob;
    model.content = std::move(content);
    return model;
}

// Runs a step of reading and lets out nothing but a sentence that names the file.
template <class Read>
ModelFile read_named(const std::string& name, const Read& read) {
    const std::string start = "cannot use model file " + name + ": ";
    try {
        return model_of(read());
    } catch (const ModelFileError& error) {
        throw ModelFileError(start + error.what());
    } catch (const std::bad_alloc&) {
        throw ModelFileError(start + "there is not enough memory to hold it; free some or use a smaller model");
    }
}

}  // namespace

Safetensors read_model_container(const ByteView& blob) {
    Safetensors container = read_safetensors(blob);
    const json::Value& metadata = container.metadata;
    const json::Value* format = metadata.find("format");
    if (!format || format->text != "symmd")
        throw ModelFileError(
            "it is a safetensors file without the format 'symmd' in its __metadata__, so not a SymMD "
            "model; name a file that symmd export wrote");
    read_format_version(metadata);
    check_keys(metadata, "its __metadata__", {"format", "format_version", "header", "sha256"});
    return container;
}

std::string model_digest(const ByteView& blob, const Safetensors& container) {
    Sha256 hash;
    const std::string& header = container.metadata.find("header")->text;
    hash.add("symmd " + container.metadata.find("format_version")->text + "\n");
    hash.add("header " + std::to_string(header.size()) + "\n" + header);
    for (const StoredTensor& tensor : container.tensors) {
        std::string sizes;
        for (const std::uint64_t size : tensor.shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
        hash.add("\n" + tensor.name + " " + name_of(tensor.type) + " " + sizes + "\n");
        hash.add(blob.data() + tensor.bytes.start, tensor.bytes.count);
    }
    return hash.finish();
}

ModelFile interpret_model(const ByteView& blob, const Safetensors& container) {
    ModelFile model;
    model.format_version = read_format_version(container.metadata);
    model.header_text = container.metadata.find("header")->text;
    model.sha256 = container.metadata.find("sha256")->text;
    model.header = read_model_header(model.header_text);
    check_tensors(container.tensors, expected_tensors(model.header));
    model.number_type = container.tensors.front().type;
    for (const StoredTensor& tensor : container.tensors) {
        if (tensor.type == NumberType::float32) {
            check_finite<float>(blob, tensor);
        } else {
            check_finite<double>(blob, tensor);
        }
    }
    model.tensors = container.tensors;
    return model;
}

ModelFile load_model_file(const std::string& path) {
    return read_named(path, [&] { return read_whole(path); });
}

ModelFile load_model_file(const void* data, std::size_t size, const std::string& name) {
    return read_named(name, [&] {
        const std::uint8_t* bytes = static_cast<const std::uint8_t*>(data);
        return std::vector<std::uint8_t>(bytes, bytes + size);
    });
}

namespace {

const StoredTensor* find_tensor(const ModelFile& model, const std::string& name) {
    const auto found =
        std::lower_bound(model.tensors.begin(), model.tensors.end(), name,
                         [](const StoredTensor& tensor, const std::string& sought) { return tensor.name < sought; });
    return found != model.tensors.end() && found->name == name ? &*found : nullptr;
}

}  // namespace

bool ModelFile::has(const std::string& name) const { return find_tensor(*this, name) != nullptr; }

template <class T>
std::vector<T> ModelFile::values(const std::string& name) const {
    const StoredTensor* tensor = find_tensor(*this, name);
    if (!tensor) throw std::logic_error("this model has no tensor " + name);
    const ByteView bytes =
        ByteView(content->data(), content->size()).part(blob.start + tensor->bytes.start, tensor->bytes.count);
    std::vector<T> result(tensor->count);
    for (std::uint64_t index = 0; index < tensor->count; ++index) {
        if (number_type == NumberType::float32) {
            result[index] = T(bytes.real<float>(4 * index));
            continue;
        }
        const double value = bytes.real<double>(8 * index);
        if (std::abs(value) > double(std::numeric_limits<T>::max()))
            throw ModelFileError("tensor " + in_quotes(name) + " of the model holds " + std::to_string(value) +
                                 ", too large for single precision; use double precision");
        result[index] = T(value);
    }
    return result;
}

template std::vector<float> ModelFile::values<float>(const std::string&) const;
template std::vector<double> ModelFile::values<double>(const std::string&) const;

}  // namespace symmd
