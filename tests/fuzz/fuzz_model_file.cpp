// Feeds damaged model files to the reader. With clang this is a libFuzzer target; with any compiler it can be a program
// of its own (SYMMD_FUZZ_STANDALONE) that mutates the seeds it is given. Whatever comes in, the reader either gives a
// model whose every number is finite or throws a ModelFileError of one line; sanitizers watch the rest.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/model_file.h"
#include "core/zip_archive.h"

namespace {

using Bytes = std::vector<std::uint8_t>;

[[noreturn]] void violated(const char* rule) {
    std::fprintf(stderr, "the reader broke a rule: %s\n", rule);
    std::abort();
}

void require(bool holds, const char* rule) {
    if (!holds) violated(rule);
}

void check_message(const symmd::ModelFileError& error) {
    const std::string_view text = error.what();
    require(text.size() > 10 && text.size() < 1000, "a message is a sentence");
    require(text.find('\n') == text.npos && text.find('\0') == text.npos, "a message has one line");
}

// Whether the file is read as a model; everything that a caller can ask for is asked for.
bool accepted(const Bytes& file) {
    try {
        const symmd::ModelFile model = symmd::load_model_file(file.data(), file.size(), "input");
        require(model.header.layer_cutoffs.size() == std::size_t(model.header.layers), "a cutoff for each layer");
        require(model.header.reference_energies.size() == model.header.species.size(), "an E0 for each species");
        for (const double energy : model.header.reference_energies) require(std::isfinite(energy), "E0 is finite");
        for (const symmd::StoredTensor& tensor : model.tensors) {
            require(model.has(tensor.name), "a tensor is found by its name");
            for (const double value : model.values<double>(tensor.name))
                require(std::isfinite(value), "finite weights");
            try {
                for (const float value : model.values<float>(tensor.name))
                    require(std::isfinite(value), "finite floats");
            } catch (const symmd::ModelFileError& error) {
                check_message(error);
            }
        }
        return true;
    } catch (const symmd::ModelFileError& error) {
        check_message(error);
        return false;
    }
}

// Writes the right SHA-256 into a damaged file, so that what comes after that check is reached too. Whether it could.
bool sign(Bytes& file, bool& sound) {
    try {
        const symmd::ByteView view(file.data(), file.size());
        symmd::ByteRange blob = {0, file.size()};
        if (symmd::is_zip_archive(view)) blob = symmd::find_stored_entry(view, "/extra/symmd.safetensors");
        const symmd::ByteView part = view.part(blob.start, blob.count);
        const symmd::Safetensors container = symmd::read_model_container(part);
        const std::string digest = symmd::model_digest(part, container);
        const std::string old = container.metadata.find("sha256")->text;
        const auto begin = file.begin() + std::ptrdiff_t(blob.start), end = begin + std::ptrdiff_t(blob.count);
        const auto place = std::search(begin, end, old.begin(), old.end());
        if (old.size() != digest.size() || place == end) return false;
        try {
            symmd::interpret_model(part, container);
            sound = true;
        } catch (const symmd::ModelFileError& error) {
            check_message(error);
            sound = false;
        }
        std::copy(digest.begin(), digest.end(), place);
        return true;
    } catch (const symmd::ModelFileError& error) {
        check_message(error);
        return false;
    }
}

constexpr std::string_view tokens[] = {"{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       ":",
                                       "\"",
                                       "\\\"",
                                       "\\",
                                       "\\u0000",
                                       "\\ud800",
                                       "\\\\u0041",
                                       "null",
                                       "true",
                                       "false",
                                       "0",
                                       "-0",
                                       "-1",
                                       "1e999",
                                       "1e-999",
                                       "9007199254740993",
                                       "18446744073709551616",
                                       "4294967295",
                                       "281474976710657",
                                       "1.5",
                                       "NaN",
                                       "Infinity",
                                       "F16",
                                       "F32",
                                       "F64",
                                       "I64",
                                       "dtype",
                                       "shape",
                                       "data_offsets",
                                       "__metadata__",
                                       "format",
                                       "format_version",
                                       "header",
                                       "sha256",
                                       "symmd",
                                       "species",
                                       "cutoff",
                                       "layer_cutoffs",
                                       "hyperparameters",
                                       "layers",
                                       "channels",
                                       "heads",
                                       "max_degree",
                                       "hidden_degree",
                                       "body_order",
                                       "aggregation",
                                       "attention",
                                       "convolution",
                                       "radial_knots",
                                       "readout_hidden",
                                       "provenance",
                                       "units",
                                       "angstrom",
                                       "reference_energies",
                                       "validated_precisions",
                                       "float32",
                                       "embedding",
                                       "layers.0.skip",
                                       "layers.0.mix.1",
                                       "readout_outer",
                                       "Og",
                                       "H",
                                       "\xff",
                                       "\xc3",
                                       "\xf4\x90\x80\x80",
                                       "PK\x01\x02",
                                       "PK\x03\x04",
                                       "PK\x05\x06",
                                       "PK\x06\x06",
                                       "PK\x06\x07",
                                       "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
constexpr std::uint64_t extremes[] = {0,
                                      1,
                                      2,
                                      7,
                                      8,
                                      0x7F,
                                      0xFF,
                                      0xFFFF,
                                      0x7FFFFFFF,
                                      0x80000000,
                                      0xFFFFFFFF,
                                      0x100000000,
                                      std::uint64_t(1) << 53,
                                      std::uint64_t(1) << 63,
                                      ~std::uint64_t(0)};

// A few changes, mostly one, that know where a model file has its text and its zip records.
class Mutator {
  public:
    explicit Mutator(std::uint64_t seed) : random_(seed) {}

    void change(Bytes& file, std::size_t largest) {
        do change_once(file, largest);
        while (below(2) == 0);
        if (file.size() > largest) file.resize(largest);
    }

  private:
    std::size_t below(std::size_t limit) { return limit < 2 ? 0 : std::size_t(random_() % limit); }

    // Mostly in the header of the safetensors part, else in the records at the end of an archive, else anywhere.
    std::size_t place(const Bytes& file) {
        const std::size_t choice = below(8);
        if (choice < 5 && file.size() > 16)
            return std::min(text_start(file) + below(text_length(file)), file.size() - 1);
        if (choice < 7 && is_archive(file)) return file.size() - 1 - below(std::min<std::size_t>(file.size(), 600));
        return below(file.size());
    }
    static bool is_archive(const Bytes& file) { return file.size() > 4 && file[0] == 'P' && file[1] == 'K'; }
    static std::size_t text_start(const Bytes& file) {
        static constexpr std::string_view start = "{\"__metadata__\"";
        const auto found = std::search(file.begin(), file.end(), start.begin(), start.end());
        return found == file.end() ? 0 : std::size_t(found - file.begin());
    }
    static std::size_t text_length(const Bytes& file) {
        const std::size_t start = text_start(file);
        if (start < 8) return file.size();
        std::uint64_t length = 0;
        std::memcpy(&length, file.data() + start - 8, 8);
        return std::size_t(std::min<std::uint64_t>(length, file.size() - start));
    }

    // Text that grew or shrank mostly takes its length along, so that the rest of the file stays readable.
    void resized(Bytes& file, std::size_t at, std::ptrdiff_t growth) {
        const std::size_t start = text_start(file);
        if (start < 8 || at < start || below(8) == 0) return;
        std::uint64_t length = 0;
        std::memcpy(&length, file.data() + start - 8, 8);
        if (at > start + length) return;
        length += std::uint64_t(growth);
        std::memcpy(file.data() + start - 8, &length, 8);
    }

    void insert(Bytes& file, std::size_t at, std::string_view text) {
        file.insert(file.begin() + std::ptrdiff_t(at), text.begin(), text.end());
        resized(file, at, std::ptrdiff_t(text.size()));
    }
    void erase(Bytes& file, std::size_t at, std::size_t count) {
        file.erase(file.begin() + std::ptrdiff_t(at), file.begin() + std::ptrdiff_t(at + count));
        resized(file, at, -std::ptrdiff_t(count));
    }

    // Replaces the whole number that stands at or after a place, which is what sizes and offsets are written as.
    void replace_number(Bytes& file, std::size_t at) {
        const auto digit = [](std::uint8_t byte) { return byte >= '0' && byte <= '9'; };
        const auto first = std::find_if(file.begin() + std::ptrdiff_t(at), file.end(), digit);
        const auto last = std::find_if_not(first, file.end(), digit);
        if (first == file.end() || last - first > 20) return;
        at = std::size_t(first - file.begin());
        const std::uint64_t old = std::strtoull(std::string(first, last).c_str(), nullptr, 10);
        const std::uint64_t choices[] = {old + 1, old - 1,  old * 2,
                                         old / 2, old + 16, extremes[below(std::size(extremes))]};
        erase(file, at, std::size_t(last - first));
        insert(file, at, std::to_string(choices[below(std::size(choices))]));
    }

    void change_once(Bytes& file, std::size_t largest) {
        if (file.empty()) file.push_back(0);
        const std::size_t at = place(file), rest = file.size() - at;
        switch (below(10)) {
            case 0:
                file[at] ^= std::uint8_t(1u << below(8));
                break;
            case 1:
                file[at] = std::uint8_t(random_());
                break;
            case 2:
                insert(file, at, tokens[below(std::size(tokens))]);
                break;
            case 3: {
                const std::string_view token = tokens[below(std::size(tokens))];
                std::copy_n(token.begin(), std::min(token.size(), rest), file.begin() + std::ptrdiff_t(at));
                break;
            }
            case 4:
                erase(file, at, std::min(rest, 1 + below(below(4) == 0 ? 400 : 8)));
                break;
            case 5:
            case 6:
                replace_number(file, at);
                break;
            case 7: {  // a number of a binary record
                const std::uint64_t number = extremes[below(std::size(extremes))];
                std::memcpy(file.data() + at, &number, std::min(rest, std::size_t(1) << below(4)));
                break;
            }
            case 8: {  // a part of the file once more
                const std::size_t from = place(file), count = std::min(file.size() - from, 1 + below(200));
                const std::string part(file.begin() + std::ptrdiff_t(from),
                                       file.begin() + std::ptrdiff_t(from + count));
                if (file.size() + count < largest) insert(file, at, part);
                break;
            }
            default:
                if (below(20) == 0) file.resize(at);
        }
    }

    std::mt19937_64 random_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes file(data, data + size);
    accepted(file);
    bool sound = false;
    if (sign(file, sound)) require(accepted(file) == sound, "a signed file is read exactly if its content is sound");
    return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t largest,
                                               unsigned seed) {
    Bytes file(data, data + size);
    Mutator(seed).change(file, largest);
    std::copy(file.begin(), file.end(), data);
    return file.size();
}

#ifdef SYMMD_FUZZ_STANDALONE

// fuzz_model_file INPUTS RANDOM_SEED FILE...
int main(int count, char** arguments) {
    if (count < 4) {
        std::fprintf(stderr, "usage: %s INPUTS RANDOM_SEED FILE...\n", arguments[0]);
        return 2;
    }
    const unsigned long long inputs = std::strtoull(arguments[1], nullptr, 10);
    Mutator mutator(std::strtoull(arguments[2], nullptr, 10));
    std::vector<Bytes> seeds;
    for (int argument = 3; argument < count; ++argument) {
        std::ifstream stream(arguments[argument], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
        require(accepted(seeds.back()), "a seed is a model");
    }
    unsigned long long reached = 0, read = 0;
    for (unsigned long long input = 0; input < inputs; ++input) {
        Bytes file = seeds[input % seeds.size()];
        mutator.change(file, 2 * file.size());
        accepted(file);
        bool sound = false;
        if (!sign(file, sound)) continue;
        ++reached;
        require(accepted(file) == sound, "a signed file is read exactly if its content is sound");
        read += sound;
    }
    std::printf("%llu inputs, %llu with a readable container, %llu still models\n", inputs, reached, read);
    return 0;
}

#endif
