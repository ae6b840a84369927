// SHA-256 (FIPS 180-4), so that reading a model file needs no library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace symmd {

class Sha256 {
  public:
    void add(const std::uint8_t* bytes, std::size_t count);
    void add(std::string_view text) { add(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()); }
    // 64 lowercase hexadecimal digits; nothing can be added afterwards.
    std::string finish();

  private:
    void block(const std::uint8_t* bytes);

    std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                           0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<std::uint8_t, 64> waiting_ = {};
    std::size_t waiting_count_ = 0;
    std::uint64_t total_ = 0;
};

}  // namespace symmd
