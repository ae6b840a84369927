#include "core/sha256.h"

#include <algorithm>

namespace symmd {

namespace {

// Fractional parts of the cube roots of the first 64 primes.
constexpr std::uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t rotated(std::uint32_t word, int count) { return (word >> count) | (word << (32 - count)); }

}  // namespace

void Sha256::block(const std::uint8_t* bytes) {
    std::uint32_t words[64];
    for (int t = 0; t < 16; ++t)
        words[t] = std::uint32_t(bytes[4 * t]) << 24 | std::uint32_t(bytes[4 * t + 1]) << 16 |
                   std::uint32_t(bytes[4 * t + 2]) << 8 | std::uint32_t(bytes[4 * t + 3]);
    for (int t = 16; t < 64; ++t) {
        const std::uint32_t early = words[t - 15], late = words[t - 2];
        words[t] = words[t - 16] + words[t - 7] + (rotated(early, 7) ^ rotated(early, 18) ^ (early >> 3)) +
                   (rotated(late, 17) ^ rotated(late, 19) ^ (late >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (int t = 0; t < 64; ++t) {
        const std::uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                                    round_constants[t] + words[t];
        const std::uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const std::uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (std::size_t k = 0; k < 8; ++k) state_[k] += added[k];
}

void Sha256::add(const std::uint8_t* bytes, std::size_t count) {
    total_ += count;
    while (count > 0) {
        if (waiting_count_ == 0 && count >= 64) {
            block(bytes);
            bytes += 64;
            count -= 64;
            continue;
        }
        const std::size_t taken = std::min(count, 64 - waiting_count_);
        std::copy_n(bytes, taken, waiting_.data() + waiting_count_);
        waiting_count_ += taken;
        bytes += taken;
        count -= taken;
        if (waiting_count_ == 64) {
            block(waiting_.data());
            waiting_count_ = 0;
        }
    }
}

std::string Sha256::finish() {
    const std::uint64_t bits = 8 * total_;
    const std::uint8_t end[64] = {0x80};
    add(end, 1 + (119 - waiting_count_) % 64);
    std::uint8_t length[8];
    for (int k = 0; k < 8; ++k) length[k] = std::uint8_t(bits >> (56 - 8 * k));
    add(length, 8);
    constexpr char hexadecimals[] = "0123456789abcdef";
    std::string digest;
    for (const std::uint32_t word : state_)
        for (int shift = 28; shift >= 0; shift -= 4) digest += hexadecimals[(word >> shift) & 15u];
    return digest;
}

}  // namespace symmd
