// The safetensors container: an 8-byte length, a JSON header of that length, and the bytes of the tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/byte_view.h"
#include "core/json.h"

namespace symmd {

enum class NumberType { float32, float64 };

// 4 or 8.
inline std::size_t bytes_of(NumberType type) { return type == NumberType::float32 ? 4 : 8; }
// "F32" or "F64", as the container writes it.
inline const char* name_of(NumberType type) { return type == NumberType::float32 ? "F32" : "F64"; }

struct StoredTensor {
    std::string name;
    NumberType type = NumberType::float32;
    std::vector<std::uint64_t> shape;
    std::uint64_t count = 0;  // numbers; the product of the shape
    ByteRange bytes;          // counted from the first byte of the container
};

struct Safetensors {
    json::Value metadata;               // an object whose values are all strings
    std::vector<StoredTensor> tensors;  // in ascending order of the bytes of their names
};

// Reads the header and checks that the tensors, dense and little-endian, fill the rest of `file` without gap or
// overlap. Takes F32 and F64 tensors of at most 8 dimensions. Throws ModelFileError.
Safetensors read_safetensors(const ByteView& file);

}  // namespace symmd
