#include "base64.h"

#include <array>
#include <cstdint>

#include "symmd/error.h"

namespace symmd {

namespace {

constexpr char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::array<int, 256> values_of_letters() {
    std::array<int, 256> values;
    values.fill(-1);
    for (int k = 0; k < 64; ++k) values[static_cast<unsigned char>(letters[k])] = k;
    return values;
}

}  // namespace

std::string to_base64(const std::string& bytes) {
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t k = 0; k < bytes.size(); k += 3) {
        uint32_t group = 0;
        for (std::size_t j = 0; j < 3; ++j)
            group = group << 8 | (k + j < bytes.size() ? static_cast<unsigned char>(bytes[k + j]) : 0u);
        for (int j = 0; j < 4; ++j) text += letters[group >> (18 - 6 * j) & 63];
    }
    const std::size_t padding = (3 - bytes.size() % 3) % 3;
    text.replace(text.size() - padding, padding, padding, '=');
    return text;
}

std::string from_base64(const std::string& text) {
    static const std::array<int, 256> values = values_of_letters();
    std::size_t length = text.size();
    while (length > 0 && text.size() - length < 2 && text[length - 1] == '=') --length;
    if (text.size() % 4 != 0)
        throw Error("base64 comes in groups of 4 letters, found " + std::to_string(text.size()) + " letters");
    std::string bytes;
    bytes.reserve(length / 4 * 3 + 2);
    uint32_t group = 0;
    for (std::size_t k = 0; k < length; ++k) {
        const int value = values[static_cast<unsigned char>(text[k])];
        if (value < 0) throw Error("base64 has letters, digits, + and /, found another character");
        group = group << 6 | uint32_t(value);
        // Each letter but the first of a group of 4 completes a byte.
        if (k % 4 != 0) bytes += static_cast<char>(group >> (6 - 2 * (k % 4)) & 255);
    }
    return bytes;
}

}  // namespace symmd
