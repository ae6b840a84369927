// Little-endian numbers in bytes that nobody vouches for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/model_file_error.h"

namespace symmd {

static_assert(sizeof(std::size_t) == 8, "positions in a file are 64-bit numbers");

// A part of a file, counted from its first byte.
struct ByteRange {
    std::size_t start = 0, count = 0;
};

class ByteView {
  public:
    ByteView(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

    // Whether `count` bytes from byte `start` on are all there; no sum of the two is formed, so none overflows.
    bool holds(std::uint64_t start, std::uint64_t count) const { return start <= size_ && count <= size_ - start; }

    std::uint16_t u16(std::uint64_t at) const { return number<std::uint16_t>(at); }
    std::uint32_t u32(std::uint64_t at) const { return number<std::uint32_t>(at); }
    std::uint64_t u64(std::uint64_t at) const { return number<std::uint64_t>(at); }
    std::string_view text(std::uint64_t start, std::uint64_t count) const {
        check(start, count);
        return {reinterpret_cast<const char*>(data_) + start, std::size_t(count)};
    }
    ByteView part(std::uint64_t start, std::uint64_t count) const {
        check(start, count);
        return {data_ + start, std::size_t(count)};
    }
    // The float or double whose bytes start at `at`.
    template <class T>
    T real(std::uint64_t at) const {
        using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
        const Bits bits = number<Bits>(at);
        T value;
        std::memcpy(&value, &bits, sizeof(T));
        return value;
    }

  private:
    void check(std::uint64_t start, std::uint64_t count) const {
        if (!holds(start, count))
            throw ModelFileError("it is cut short: " + std::to_string(count) + " bytes are expected from byte " +
                                 std::to_string(start) + " on, and there are " + std::to_string(size_) +
                                 "; copy or export it again");
    }
    // Assembled from bytes, so that every machine reads the same; compilers make one load of it.
    template <class Number>
    Number number(std::uint64_t at) const {
        check(at, sizeof(Number));
        std::uint64_t value = 0;
        for (std::size_t k = 0; k < sizeof(Number); ++k) value |= std::uint64_t(data_[at + k]) << (8 * k);
        return Number(value);
    }

    const std::uint8_t* data_;
    std::size_t size_;
};

}  // namespace symmd
