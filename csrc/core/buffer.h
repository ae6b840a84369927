// Arrays that start on a cache line and keep their memory when they shrink, so that a simulation does not allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace symmd {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t count) { resize(count); }

    // What was in the array is lost when it has to grow. New memory is not touched, so that the thread which first
    // writes a page has it near.
    void resize(int64_t count) {
        if (count > capacity_) {
            const int64_t roomy = capacity_ ? count + count / 16 : count;
            const std::size_t bytes = (std::size_t(roomy) * sizeof(T) + 63) / 64 * 64;
            memory_.reset();
            capacity_ = 0;
            memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
            if (!memory_) throw std::bad_alloc();
            capacity_ = roomy;
        }
        size_ = count;
    }

    T* data() { return memory_.get(); }
    const T* data() const { return memory_.get(); }
    T& operator[](int64_t index) { return memory_.get()[index]; }
    const T& operator[](int64_t index) const { return memory_.get()[index]; }
    int64_t size() const { return size_; }
    std::size_t bytes() const { return std::size_t(capacity_) * sizeof(T); }

  private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    int64_t size_ = 0, capacity_ = 0;
};

}  // namespace symmd
