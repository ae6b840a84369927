// CUDA's runtime and the device functions that csrc/cuda uses, on the host. A block's threads are fibers that switch at
// barriers and warp functions, in an order that SYMMD_EMULATOR_SEED shuffles, so that a missing barrier shows in the
// results. Work of a stream is done when somebody waits for it, so that a host which does not wait shows too. Device
// memory is its own, filled with bytes that are no numbers, and fenced in.
//
// What it does not see: memory shared between blocks without order, alignment, registers, time.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double4 {
    double x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(8) int2 {
    int x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double4 make_double4(double x, double y, double z, double w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void *devicePointer, *hostPointer;
};
struct cudaDeviceProp {
    char name[256];
    std::size_t totalGlobalMem, sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, l2CacheSize;
};

namespace cuda_emulator {
struct Stream;
struct Graph;
struct Event;
}  // namespace cuda_emulator
typedef cuda_emulator::Stream* cudaStream_t;
typedef cuda_emulator::Graph* cudaGraph_t;
typedef cuda_emulator::Graph* cudaGraphExec_t;
typedef cuda_emulator::Event* cudaEvent_t;

const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** pointer, std::size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemset(void* to, int value, std::size_t bytes);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
    return cudaSuccess;
}

namespace cuda_emulator {

// Of the fiber that runs.
struct Place {
    unsigned x, y = 0, z = 0;
};
extern Place thread_place, block_place;
extern dim3 block_size, grid_size;

char* shared_memory();
void run_kernel(const std::function<void()>& thread, unsigned blocks, unsigned threads, std::size_t shared_bytes);
void enqueue(cudaStream_t stream, std::function<void()> work);

template <class... Parameters>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, std::size_t shared_bytes,
            cudaStream_t stream, Parameters... parameters) {
    // Parameters are copied at the launch, as CUDA does.
    std::tuple<Parameters...> copies(parameters...);
    enqueue(stream, [=] { run_kernel([&] { std::apply(kernel, copies); }, blocks, threads, shared_bytes); });
}

// Waits until all threads of the block, or all lanes of the warp, have come to the same place.
void wait_for_block();
// `value` of every lane, by lane; lanes that are not there have zeros. All lanes must bring the same `operation`.
struct Lanes {
    uint64_t at[32][2];
};
const Lanes& gather_lanes(unsigned mask, const void* value, std::size_t bytes, const char* operation);
int lane_number();

template <class T>
T lane_value(const Lanes& lanes, int lane) {
    static_assert(sizeof(T) <= 16, "at most 16 bytes");
    T value;
    std::memcpy(&value, lanes.at[lane], sizeof(T));
    return value;
}

template <class T>
T shuffle(unsigned mask, T value, int from, int width, const char* operation) {
    const Lanes& lanes = gather_lanes(mask, &value, sizeof(T), operation);
    const int own = lane_number(), first = own / width * width;
    return lane_value<T>(lanes, from >= first && from < first + width ? from : own);
}

}  // namespace cuda_emulator

#define threadIdx (cuda_emulator::thread_place)
#define blockIdx (cuda_emulator::block_place)
#define blockDim (cuda_emulator::block_size)
#define gridDim (cuda_emulator::grid_size)

inline void __syncthreads() { cuda_emulator::wait_for_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    const int nothing = 0;
    cuda_emulator::gather_lanes(mask, &nothing, sizeof(nothing), "__syncwarp");
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    const int own = cuda_emulator::lane_number();
    return cuda_emulator::shuffle(mask, value, own / width * width + lane % width, width, "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return cuda_emulator::shuffle(mask, value, cuda_emulator::lane_number() ^ bits, width, "__shfl_xor_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    return cuda_emulator::shuffle(mask, value, cuda_emulator::lane_number() + int(distance), width, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    return cuda_emulator::shuffle(mask, value, cuda_emulator::lane_number() - int(distance), width, "__shfl_up_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const cuda_emulator::Lanes& lanes = cuda_emulator::gather_lanes(mask, &predicate, sizeof(int), "__ballot_sync");
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && cuda_emulator::lane_value<int>(lanes, lane)) bits |= 1u << lane;
    return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(unsigned(bits)) : 32; }
inline void __threadfence() {}
template <class T>
T __ldg(const T* from) {
    return *from;
}
template <class T>
T __ldcg(const T* from) {
    return *from;
}

template <class T, class U>
T atomicAdd(T* to, U value) {
    const T before = *to;
    *to = T(before + T(value));
    return before;
}
template <class T, class U>
T atomicMax(T* to, U value) {
    const T before = *to;
    if (T(value) > before) *to = T(value);
    return before;
}
template <class T, class U>
T atomicMin(T* to, U value) {
    const T before = *to;
    if (T(value) < before) *to = T(value);
    return before;
}
template <class T, class U>
T atomicOr(T* to, U value) {
    const T before = *to;
    *to = T(before | T(value));
    return before;
}
template <class T, class U>
T atomicExch(T* to, U value) {
    const T before = *to;
    *to = T(value);
    return before;
}
template <class T>
T atomicCAS(T* to, T expected, T value) {
    const T before = *to;
    if (before == expected) *to = value;
    return before;
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
