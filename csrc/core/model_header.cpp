#include "core/model_header.h"

#include <algorithm>
#include <sstream>

#include "core/elements.h"

namespace symmd {

namespace {

constexpr double shortest_cutoff = 0.5, longest_cutoff = 20.0;  // Å

[[noreturn]] void fail(const std::string& reason) { throw ModelFileError(reason + "; export the model again"); }

std::string written(double number) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream.precision(17);
    stream << number;
    return stream.str();
}

// What a message says was found in place of the value expected.
std::string found(const json::Value& value) {
    if (value.kind == json::Kind::number) return ", found " + written(value.number);
    if (value.kind == json::Kind::string) return ", found " + in_quotes(value.text);
    return std::string(", found ") + json::name_of(value.kind);
}

const json::Value& array(const json::Value& value, const std::string& name) {
    if (value.kind != json::Kind::array) fail(in_quotes(name) + " in its header must be an array" + found(value));
    return value;
}

double real(const json::Value& value, const std::string& name) {
    if (value.kind != json::Kind::number) fail(in_quotes(name) + " in its header must be a number" + found(value));
    return value.number;
}

double positive(const json::Value& object, const char* name) {
    const json::Value& value = *object.find(name);
    if (!(real(value, name) > 0.0)) fail(in_quotes(name) + " in its header must be positive" + found(value));
    return value.number;
}

int whole(const json::Value& value, const std::string& name, int low, int high) {
    if (!value.natural || value.number < low || value.number > high)
        fail(in_quotes(name) + " in its header must be a whole number from " + std::to_string(low) + " to " +
             std::to_string(high) + found(value));
    return int(value.number);
}

double length(const json::Value& value, const std::string& name, double longest) {
    const double angstrom = real(value, name);
    if (!(angstrom >= shortest_cutoff && angstrom <= longest))
        fail(in_quotes(name) + " in its header must lie between 0.5 and " + written(longest) + " Å" + found(value));
    return angstrom;
}

void read_species(const json::Value& value, ModelHeader& header) {
    for (const json::Value& symbol : array(value, "species").items) {
        const int number = symbol.kind == json::Kind::string ? atomic_number(symbol.text) : 0;
        if (number == 0) fail("'species' in its header must hold element symbols" + found(symbol));
        if (std::count(header.species.begin(), header.species.end(), symbol.text) > 0)
            fail("'species' in its header repeats " + in_quotes(symbol.text));
        header.species.push_back(symbol.text);
        header.atomic_numbers.push_back(number);
    }
    if (header.species.empty()) fail("'species' in its header is empty");
}

void read_hyperparameters(const json::Value& value, ModelHeader& header) {
    check_keys(value, "'hyperparameters' in its header",
               {"layers", "channels", "heads", "max_degree", "hidden_degree", "body_order", "aggregation",
                "radial_functions", "radial_hidden", "radial_knots", "readout_hidden"});
    const auto read = [&](const char* name, int low, int high) { return whole(*value.find(name), name, low, high); };
    header.layers = read("layers", 1, 4);
    header.channels = read("channels", 16, 1024);
    header.heads = read("heads", 1, 1024);
    header.max_degree = read("max_degree", 0, 3);
    header.hidden_degree = read("hidden_degree", 0, 3);
    header.body_order = read("body_order", 1, 3);
    header.radial_knots = read("radial_knots", 16, 4096);
    header.readout_hidden = read("readout_hidden", 1, 4096);
    if (header.channels % 16 != 0)
        fail("'channels' in its header must be a multiple of 16" + found(*value.find("channels")));
    if (header.channels % header.heads != 0)
        fail("'heads' in its header must divide its " + std::to_string(header.channels) + " channels" +
             found(*value.find("heads")));
    if (header.hidden_degree > header.max_degree)
        fail("'hidden_degree' in its header must be at most 'max_degree' = " + std::to_string(header.max_degree) +
             found(*value.find("hidden_degree")));
    const json::Value& aggregation = *value.find("aggregation");
    header.attends = aggregation.text == "attention";
    if (!header.attends && aggregation.text != "convolution")
        fail("'aggregation' in its header must be 'attention' or 'convolution'" + found(aggregation));
    // The radial network stays behind in training, but a file that contradicts itself is not trusted.
    read("radial_functions", 1, 32);
    const json::Value& hidden = array(*value.find("radial_hidden"), "radial_hidden");
    if (hidden.items.empty()) fail("'radial_hidden' in its header is empty");
    for (const json::Value& width : hidden.items) whole(width, "radial_hidden", 1, 1 << 20);
}

void read_cutoffs(const json::Value& value, ModelHeader& header) {
    header.cutoff = length(*value.find("cutoff"), "cutoff", longest_cutoff);
    for (const json::Value& item : array(*value.find("layer_cutoffs"), "layer_cutoffs").items)
        header.layer_cutoffs.push_back(length(item, "layer_cutoffs", header.cutoff));
    if (header.layer_cutoffs.size() != std::size_t(header.layers))
        fail("'layer_cutoffs' in its header must hold one length for each of its " + std::to_string(header.layers) +
             " layers, found " + std::to_string(header.layer_cutoffs.size()));
}

void read_reference_energies(const json::Value& value, ModelHeader& header) {
    if (value.kind != json::Kind::object) fail("'reference_energies' in its header must be an object" + found(value));
    for (const std::string& symbol : header.species) {
        const json::Value* energy = value.find(symbol);
        if (!energy) fail("'reference_energies' in its header lacks " + in_quotes(symbol));
        header.reference_energies.push_back(real(*energy, "reference_energies"));
    }
    if (value.members.size() != header.species.size())
        fail("'reference_energies' in its header must name the elements of 'species' alone");
}

void check_unit(const json::Value& units, const char* quantity, const char* expected) {
    const json::Value& unit = *units.find(quantity);
    if (unit.text != expected)
        fail("the unit of " + std::string(quantity) + " in its header must be '" + expected + "'" + found(unit));
}

void read_validated_precisions(const json::Value& value, ModelHeader& header) {
    for (const json::Value& item : array(value, "validated_precisions").items) {
        if (item.text != "float32" && item.text != "float64")
            fail("'validated_precisions' in its header must hold 'float32' or 'float64'" + found(item));
        header.validated_precisions.push_back(item.text == "float32" ? NumberType::float32 : NumberType::float64);
    }
}

}  // namespace

void check_keys(const json::Value& value, const std::string& subject, std::initializer_list<const char*> keys) {
    if (value.kind != json::Kind::object) fail(subject + " must be an object" + found(value));
    for (const char* key : keys)
        if (!value.find(key)) fail(subject + " lacks " + in_quotes(key));
    for (const json::Member& member : value.members) {
        const auto is_key = [&](const char* key) { return member.key == key; };
        if (std::none_of(keys.begin(), keys.end(), is_key))
            fail(subject + " has the unknown key " + in_quotes(member.key));
    }
}

int read_format_version(const json::Value& metadata) {
    const json::Value* version = metadata.find("format_version");
    const std::string text = version ? version->text : "";
    const bool digits = !text.empty() && text.size() <= 9 && text[0] != '0' &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    if (!digits) fail("its format_version must be a whole number from 1 on, found " + in_quotes(text));
    const int number = std::stoi(text);
    if (number > model_file_version)
        throw ModelFileError("it has the format version " + text + ", and this version of SymMD reads up to " +
                             std::to_string(model_file_version) + "; update SymMD");
    return number;
}

ModelHeader read_model_header(std::string_view text) {
    const json::Value value = json::parse(text, "its model header");
    check_keys(value, "its model header",
               {"species", "cutoff", "layer_cutoffs", "hyperparameters", "units", "reference_energies", "energy_scale",
                "mean_neighbours", "validated_precisions", "provenance"});
    const json::Value& units = *value.find("units");
    check_keys(units, "'units' in its header", {"length", "energy"});
    check_unit(units, "length", "angstrom");
    check_unit(units, "energy", "eV");
    ModelHeader header;
    read_species(*value.find("species"), header);
    read_hyperparameters(*value.find("hyperparameters"), header);
    read_cutoffs(value, header);
    read_reference_energies(*value.find("reference_energies"), header);
    header.energy_scale = positive(value, "energy_scale");
    header.mean_neighbours = positive(value, "mean_neighbours");
    read_validated_precisions(*value.find("validated_precisions"), header);
    if (value.find("provenance")->kind != json::Kind::object)
        fail("'provenance' in its header must be an object" + found(*value.find("provenance")));
    return header;
}

}  // namespace symmd
