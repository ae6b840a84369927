// Many arrays in one piece of memory, whose size is known before it is there.
#pragma once

#include <cstdint>

namespace symmd {

// Hands out parts of a piece of memory, each on 256 bytes; without memory it only counts.
class MemoryLayout {
  public:
    explicit MemoryLayout(char* memory) : memory_(memory) {}

    template <class T>
    T* take(int64_t count) {
        const int64_t start = bytes_;
        bytes_ += (count * int64_t(sizeof(T)) + 255) / 256 * 256;
        return memory_ ? reinterpret_cast<T*>(memory_ + start) : nullptr;
    }
    int64_t bytes() const { return bytes_; }

  private:
    char* memory_;
    int64_t bytes_ = 0;
};

}  // namespace symmd
