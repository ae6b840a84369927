#include "core/safetensors.h"

#include <algorithm>

namespace symmd {

namespace {

constexpr std::uint64_t length_bytes = 8;
constexpr std::size_t most_dimensions = 8;
// Sizes stay below this, so that no product or sum of them overflows.
constexpr std::uint64_t most_numbers = std::uint64_t(1) << 48;

[[noreturn]] void fail(const std::string& reason) { throw ModelFileError(reason + "; export the model again"); }

NumberType number_type(const json::Value& written, const std::string& subject) {
    if (written.kind == json::Kind::string && written.text == "F32") return NumberType::float32;
    if (written.kind == json::Kind::string && written.text == "F64") return NumberType::float64;
    fail(subject + " must have the dtype F32 or F64, found " +
         (written.kind == json::Kind::string ? in_quotes(written.text) : json::name_of(written.kind)));
}

std::uint64_t natural(const json::Value& written, const std::string& what) {
    if (!written.natural) fail(what + " must be whole numbers from 0 to 2^53");
    return std::uint64_t(written.number);
}

StoredTensor stored_tensor(const json::Member& member, std::uint64_t data_start) {
    StoredTensor tensor;
    tensor.name = member.key;
    const std::string subject = "tensor " + in_quotes(tensor.name);
    const json::Value* dtype = member.value.find("dtype");
    const json::Value* shape = member.value.find("shape");
    const json::Value* offsets = member.value.find("data_offsets");
    if (!dtype || !shape || !offsets || member.value.members.size() != 3)
        fail(subject + " must be described by dtype, shape and data_offsets alone");
    tensor.type = number_type(*dtype, subject);
    if (shape->kind != json::Kind::array || shape->items.size() > most_dimensions)
        fail("the shape of " + subject + " must be an array of at most 8 sizes");
    tensor.count = 1;
    for (const json::Value& size : shape->items) {
        tensor.shape.push_back(natural(size, "the sizes of " + subject));
        if (tensor.shape.back() == 0) fail(subject + " has a size of 0");
        if (tensor.shape.back() > most_numbers / tensor.count) fail(subject + " has more than 2^48 numbers");
        tensor.count *= tensor.shape.back();
    }
    if (offsets->kind != json::Kind::array || offsets->items.size() != 2)
        fail("the data_offsets of " + subject + " must be two numbers");
    const std::uint64_t begin = natural(offsets->items[0], "the data_offsets of " + subject);
    const std::uint64_t end = natural(offsets->items[1], "the data_offsets of " + subject);
    if (end < begin || end - begin != tensor.count * bytes_of(tensor.type))
        fail(subject + " has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) +
             "], but its shape needs " + std::to_string(tensor.count * bytes_of(tensor.type)) + " bytes");
    tensor.bytes = {std::size_t(data_start + begin), std::size_t(end - begin)};
    return tensor;
}

void check_layout(const std::vector<StoredTensor>& tensors, std::uint64_t data_start, std::uint64_t size) {
    std::vector<const StoredTensor*> ordered;
    for (const StoredTensor& tensor : tensors) ordered.push_back(&tensor);
    std::sort(ordered.begin(), ordered.end(), [](const StoredTensor* first, const StoredTensor* second) {
        return first->bytes.start < second->bytes.start;
    });
    std::uint64_t end = data_start;
    for (const StoredTensor* tensor : ordered) {
        if (tensor->bytes.start != end)
            fail("tensor " + in_quotes(tensor->name) +
                 (tensor->bytes.start < end ? " overlaps another" : " follows a gap"));
        end += tensor->bytes.count;
    }
    if (end > size)
        throw ModelFileError("it is cut short: its tensors end at byte " + std::to_string(end) + ", and there are " +
                             std::to_string(size) + "; copy or export it again");
    if (end < size) fail(std::to_string(size - end) + " bytes follow its last tensor, which belong to none");
}

}  // namespace

Safetensors read_safetensors(const ByteView& file) {
    const std::uint64_t header_length = file.u64(0);
    if (header_length < 2 || header_length > json::longest_text)
        throw ModelFileError(
            "it is neither a safetensors file nor a zip archive: its first 8 bytes give " +
            std::to_string(header_length) +
            " as the length of a header, which must be 2 to 1048576; name a file that symmd export wrote");
    const json::Value header = json::parse(file.text(length_bytes, header_length), "its safetensors header");
    if (header.kind != json::Kind::object)
        fail("its safetensors header must be an object, found " + std::string(json::name_of(header.kind)));
    Safetensors result;
    result.metadata.kind = json::Kind::object;
    const std::uint64_t data_start = length_bytes + header_length;
    for (const json::Member& member : header.members) {
        if (member.key == "__metadata__") {
            result.metadata = member.value;
        } else {
            result.tensors.push_back(stored_tensor(member, data_start));
        }
    }
    if (result.metadata.kind != json::Kind::object) fail("its __metadata__ must be an object");
    for (const json::Member& member : result.metadata.members)
        if (member.value.kind != json::Kind::string)
            fail("its __metadata__ must hold strings, found " + std::string(json::name_of(member.value.kind)) + " at " +
                 in_quotes(member.key));
    check_layout(result.tensors, data_start, file.size());
    return result;
}

}  // namespace symmd
