// What the kernels of this folder are compiled with: CUDA by nvcc, or the emulator of tests/cuda_emulator by any C++
// compiler, which runs every thread of a block as a fiber on the host. The same sources, so that a machine without a
// GPU tests them.
#pragma once

#ifdef SYMMD_CUDA_EMULATED
#include "cuda_emulator.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <string>

#include "symmd/error.h"

namespace symmd {

// Threads of a warp, on every device.
inline constexpr int warp_size = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

inline void check_cuda(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    throw Error(std::string("CUDA failed to ") + what + ": " + cudaGetErrorString(status));
}

#if defined(SYMMD_CUDA_EMULATED) || defined(__CUDACC__)
// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...); without blocks nothing happens.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, std::size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
    if (blocks <= 0) return;
#ifdef SYMMD_CUDA_EMULATED
    cuda_emulator::launch(kernel, unsigned(blocks), unsigned(threads), shared_bytes, stream, Parameters(arguments)...);
#else
    kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads)), shared_bytes, stream>>>(arguments...);
#endif
    check_cuda(cudaGetLastError(), "start a kernel");
}
#endif

}  // namespace symmd

// The block's dynamic shared memory, on 16 bytes.
#ifdef SYMMD_CUDA_EMULATED
#define SYMMD_SHARED_MEMORY(name) char* const name = cuda_emulator::shared_memory()
#else
#define SYMMD_SHARED_MEMORY(name) extern __shared__ __align__(16) char name[]
#endif
