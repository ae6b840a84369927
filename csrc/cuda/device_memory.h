// Arrays on the device and pinned arrays on the host, that keep their memory when they shrink.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/platform.h"

namespace symmd {

// Thrown where the device has no memory left; whoever can do with less catches it.
class OutOfDeviceMemory : public Error {
  public:
    explicit OutOfDeviceMemory(std::size_t bytes)
        : Error("the device has no room for another " + std::to_string(bytes >> 20) + " MiB"), bytes(bytes) {}
    std::size_t bytes;
};

template <class T, bool Pinned>
class CudaBuffer {
  public:
    CudaBuffer() = default;
    CudaBuffer(CudaBuffer&& other) noexcept { swap(other); }
    CudaBuffer& operator=(CudaBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~CudaBuffer() { free(); }

    // What was in the array is lost when it has to grow; waits for the device then.
    void resize(int64_t count) {
        if (count > capacity_) {
            free();
            const int64_t roomy = count + count / 16;
            void* memory = nullptr;
            const std::size_t bytes = std::size_t(roomy) * sizeof(T);
            const cudaError_t status = Pinned ? cudaMallocHost(&memory, bytes) : cudaMalloc(&memory, bytes);
            if (status == cudaErrorMemoryAllocation) {
                cudaGetLastError();  // forgets the error
                throw OutOfDeviceMemory(bytes);
            }
            check_cuda(status, "allocate memory");
            memory_ = static_cast<T*>(memory);
            capacity_ = roomy;
        }
        size_ = count;
    }
    void free() {
        if (memory_) Pinned ? cudaFreeHost(memory_) : cudaFree(memory_);
        memory_ = nullptr;
        size_ = capacity_ = 0;
    }

    T* data() { return memory_; }
    const T* data() const { return memory_; }
    int64_t size() const { return size_; }
    std::size_t bytes() const { return std::size_t(capacity_) * sizeof(T); }

  private:
    void swap(CudaBuffer& other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }
    T* memory_ = nullptr;
    int64_t size_ = 0, capacity_ = 0;
};

template <class T>
using DeviceBuffer = CudaBuffer<T, false>;
template <class T>
using PinnedBuffer = CudaBuffer<T, true>;

// Copies of an array of the host.
template <class T>
void upload(DeviceBuffer<T>& to, const T* from, int64_t count) {
    to.resize(count);
    check_cuda(cudaMemcpy(to.data(), from, std::size_t(count) * sizeof(T), cudaMemcpyHostToDevice),
               "copy to the device");
}

}  // namespace symmd
