#include "cuda_emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace cuda_emulator {

Place thread_place{0}, block_place{0};
dim3 block_size, grid_size;

struct Stream {
    int device = 0;
    std::vector<std::function<void()>> waiting;
    Graph* capturing = nullptr;
};
struct Graph {
    std::vector<std::function<void()>> work;
};
struct Event {
    cudaStream_t stream = nullptr;
    bool recorded = false;
};

namespace {

constexpr std::size_t stack_bytes = 256 * 1024;
constexpr std::size_t fence_bytes = 256;
constexpr unsigned char fence_byte = 0xd5;

[[noreturn]] void fail(const std::string& text) {
    std::fprintf(stderr, "cuda_emulator: %s\n", text.c_str());
    std::abort();
}

// A thread of a block.
struct Fiber {
    ucontext_t start{};
    jmp_buf place;
    char* stack = nullptr;
    bool begun = false, done = false;
    uint64_t block_round = 0, warp_round = 0;  // barriers passed
    bool at_block = false, at_warp = false;    // waits there
    const char* operation = "";
};

struct Warp {
    Lanes lanes[2];
    int arrived = 0;
    uint64_t round = 0;
};

struct Runner {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned> order;
    std::vector<char> shared;
    const std::function<void()>* body = nullptr;
    unsigned threads = 0, current = 0, arrived = 0, running = 0;
    uint64_t round = 0, random = 0;
    jmp_buf scheduler;
    bool busy = false;

    ~Runner() {
        for (Fiber& fiber : fibers)
            if (fiber.stack) munmap(fiber.stack, stack_bytes);
    }
    uint64_t next_random() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return random;
    }
};

Runner& runner() {
    static Runner the_runner;
    return the_runner;
}

std::recursive_mutex& everything() {
    static std::recursive_mutex mutex;
    return mutex;
}

void fiber_main() {
    Runner& here = runner();
    (*here.body)();
    here.fibers[here.current].done = true;
    _longjmp(here.scheduler, 1);
}

void switch_away() {
    Runner& here = runner();
    if (_setjmp(here.fibers[here.current].place) == 0) _longjmp(here.scheduler, 1);
}

bool runnable(const Runner& here, unsigned number) {
    const Fiber& fiber = here.fibers[number];
    if (fiber.done) return false;
    if (fiber.at_block && fiber.block_round == here.round) return false;
    if (fiber.at_warp && fiber.warp_round == here.warps[number / 32].round) return false;
    return true;
}

void run_block(unsigned block) {
    Runner& here = runner();
    block_place = {block};
    std::fill(here.shared.begin(), here.shared.end(), char(0xff));
    here.arrived = 0;
    here.running = here.threads;
    here.order.resize(here.threads);
    for (unsigned k = 0; k < here.threads; ++k) {
        Fiber& fiber = here.fibers[k];
        fiber.begun = fiber.done = fiber.at_block = fiber.at_warp = false;
        here.order[k] = k;
    }
    for (Warp& warp : here.warps) warp.arrived = 0;
    while (here.running > 0) {
        if (here.random)
            for (unsigned k = here.threads; k > 1; --k)
                std::swap(here.order[k - 1], here.order[here.next_random() % k]);
        bool moved = false;
        for (unsigned position = 0; position < here.threads; ++position) {
            const unsigned number = here.order[position];
            if (!runnable(here, number)) continue;
            moved = true;
            Fiber& fiber = here.fibers[number];
            fiber.at_block = fiber.at_warp = false;
            here.current = number;
            thread_place = {number};
            if (_setjmp(here.scheduler) == 0) {
                if (fiber.begun) _longjmp(fiber.place, 1);
                fiber.begun = true;
                getcontext(&fiber.start);
                fiber.start.uc_stack.ss_sp = fiber.stack;
                fiber.start.uc_stack.ss_size = stack_bytes;
                fiber.start.uc_link = nullptr;
                makecontext(&fiber.start, fiber_main, 0);
                setcontext(&fiber.start);
            }
            if (here.fibers[number].done) --here.running;
        }
        if (!moved) {
            unsigned stuck = 0;
            while (here.fibers[stuck].done) ++stuck;
            fail("threads of a block wait for ever: thread " + std::to_string(stuck) + " of block " +
                 std::to_string(block) + " at " + here.fibers[stuck].operation);
        }
    }
}

// --- memory

struct Block {
    char* start;
    std::size_t bytes;
    bool device;
};

std::map<char*, Block>& blocks_of_memory() {
    static std::map<char*, Block> blocks;
    return blocks;
}
std::size_t& device_bytes() {
    static std::size_t bytes = 0;
    return bytes;
}
std::size_t memory_limit() {
    const char* megabytes = std::getenv("SYMMD_EMULATOR_MEGABYTES");
    return (megabytes && *megabytes ? std::size_t(std::atoll(megabytes)) : 8192) << 20;
}

std::vector<Stream*>& streams() {
    static std::vector<Stream*> all;
    return all;
}
Stream& default_stream() {
    static Stream stream;
    return stream;
}
Stream& stream_of(cudaStream_t stream) { return stream ? *stream : default_stream(); }

void finish(Stream& stream) {
    // Work may be added while this runs only by mistake.
    std::vector<std::function<void()>> work;
    work.swap(stream.waiting);
    for (const std::function<void()>& item : work) item();
}
void finish_all() {
    finish(default_stream());
    for (Stream* stream : streams()) finish(*stream);
}

cudaError_t take(void** pointer, std::size_t bytes, bool device) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    if (device && device_bytes() + bytes > memory_limit()) return cudaErrorMemoryAllocation;
    const std::size_t whole = (bytes + 2 * fence_bytes + 255) / 256 * 256;
    char* start = static_cast<char*>(std::aligned_alloc(256, whole));
    if (!start) return cudaErrorMemoryAllocation;
    std::memset(start, fence_byte, whole);
    std::memset(start + fence_bytes, 0xff, bytes);
    blocks_of_memory()[start + fence_bytes] = {start, bytes, device};
    if (device) device_bytes() += bytes;
    *pointer = start + fence_bytes;
    return cudaSuccess;
}

void check_fences(const Block& block) {
    for (std::size_t k = 0; k < fence_bytes; ++k)
        if (static_cast<unsigned char>(block.start[k]) != fence_byte ||
            static_cast<unsigned char>(block.start[fence_bytes + block.bytes + k]) != fence_byte)
            fail("somebody wrote beyond an array of " + std::to_string(block.bytes) + " bytes");
}

cudaError_t give_back(void* pointer) {
    if (!pointer) return cudaSuccess;
    const std::lock_guard<std::recursive_mutex> guard(everything());
    finish_all();
    const auto found = blocks_of_memory().find(static_cast<char*>(pointer));
    if (found == blocks_of_memory().end()) return cudaErrorInvalidValue;
    check_fences(found->second);
    if (found->second.device) device_bytes() -= found->second.bytes;
    std::free(found->second.start);
    blocks_of_memory().erase(found);
    return cudaSuccess;
}

const Block* block_with(const void* pointer) {
    const auto next = blocks_of_memory().upper_bound(const_cast<char*>(static_cast<const char*>(pointer)));
    if (next == blocks_of_memory().begin()) return nullptr;
    const Block& block = std::prev(next)->second;
    const char* at = static_cast<const char*>(pointer);
    return at >= block.start + fence_bytes && at < block.start + fence_bytes + block.bytes ? &block : nullptr;
}

// Copies and fills must lie within an array where either end is one of the emulator's.
void check_range(const void* pointer, std::size_t bytes) {
    if (bytes == 0) return;
    const std::lock_guard<std::recursive_mutex> guard(everything());
    const Block* block = block_with(pointer);
    if (block && static_cast<const char*>(pointer) + bytes > block->start + fence_bytes + block->bytes)
        fail("a copy reaches beyond an array of " + std::to_string(block->bytes) + " bytes");
}

thread_local int this_device = 0;
constexpr int devices = 2;

}  // namespace

char* shared_memory() { return runner().shared.data(); }
int lane_number() { return int(runner().current % 32); }

void run_kernel(const std::function<void()>& thread, unsigned blocks, unsigned threads, std::size_t shared_bytes) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    Runner& here = runner();
    if (here.busy) fail("a kernel starts a kernel");
    if (threads == 0 || threads > 1024) fail("a block of " + std::to_string(threads) + " threads");
    if (shared_bytes > 227 * 1024) fail(std::to_string(shared_bytes) + " bytes of shared memory");
    here.busy = true;
    while (here.fibers.size() < threads) {
        here.fibers.emplace_back();
        void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) fail("no memory for a stack");
        here.fibers.back().stack = static_cast<char*>(stack);
    }
    here.warps.resize((threads + 31) / 32);
    here.threads = threads;
    here.body = &thread;
    // 16 bytes for the alignment that dynamic shared memory has; std::vector gives it.
    here.shared.resize(shared_bytes + 16);
    const char* seed = std::getenv("SYMMD_EMULATOR_SEED");
    here.random = seed && *seed ? uint64_t(std::atoll(seed)) * 0x9e3779b97f4a7c15ull | 1 : 0;
    block_size = dim3(threads);
    grid_size = dim3(blocks);
    for (unsigned block = 0; block < blocks; ++block) run_block(here.random ? blocks - 1 - block : block);
    here.busy = false;
}

void wait_for_block() {
    Runner& here = runner();
    Fiber& fiber = here.fibers[here.current];
    fiber.operation = "__syncthreads";
    fiber.block_round = here.round;
    if (++here.arrived == here.threads) {
        here.arrived = 0;
        ++here.round;
        return;
    }
    fiber.at_block = true;
    switch_away();
}

const Lanes& gather_lanes(unsigned mask, const void* value, std::size_t bytes, const char* operation) {
    Runner& here = runner();
    const unsigned number = here.current, lane = number % 32;
    Fiber& fiber = here.fibers[number];
    Warp& warp = here.warps[number / 32];
    const unsigned present = std::min(32u, here.threads - number / 32 * 32);
    if (mask != (present == 32 ? 0xffffffffu : (1u << present) - 1) && mask != 0xffffffffu)
        fail(std::string(operation) + " by a part of a warp");
    Lanes& lanes = warp.lanes[warp.round % 2];
    std::memset(lanes.at[lane], 0, sizeof(lanes.at[lane]));
    std::memcpy(lanes.at[lane], value, bytes);
    fiber.operation = operation;
    fiber.warp_round = warp.round;
    if (++warp.arrived == int(present)) {
        for (unsigned other = 0; other < present; ++other)
            if (std::strcmp(here.fibers[number / 32 * 32 + other].operation, operation) != 0)
                fail(std::string("lanes of a warp meet at ") + operation + " and " +
                     here.fibers[number / 32 * 32 + other].operation);
        warp.arrived = 0;
        ++warp.round;
        return lanes;
    }
    fiber.at_warp = true;
    switch_away();
    return lanes;
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    Stream& target = stream_of(stream);
    (target.capturing ? target.capturing->work : target.waiting).push_back(std::move(work));
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

const char* cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaSuccess:
            return "no error";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice:
            return "invalid device ordinal";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        default:
            return "invalid argument";
    }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
    *count = devices;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
    this_device = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
    *device = this_device;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
    *properties = {};
    std::snprintf(properties->name, sizeof(properties->name), "emulated device %d", device);
    properties->totalGlobalMem = memory_limit();
    properties->sharedMemPerBlockOptin = 227 * 1024;
    properties->major = 9;
    properties->multiProcessorCount = 2;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount ? 2 : 227 * 1024;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    finish_all();
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = memory_limit();
    *free = *total - std::min(*total, device_bytes());
    return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) { return take(pointer, bytes, true); }
cudaError_t cudaFree(void* pointer) { return give_back(pointer); }
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) { return take(pointer, bytes, false); }
cudaError_t cudaFreeHost(void* pointer) { return give_back(pointer); }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    const Block* block = block_with(pointer);
    *attributes = {block ? (block->device ? cudaMemoryTypeDevice : cudaMemoryTypeHost) : cudaMemoryTypeUnregistered, 0,
                   const_cast<void*>(pointer), const_cast<void*>(pointer)};
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    check_range(to, bytes);
    check_range(from, bytes);
    enqueue(stream, [=] { std::memmove(to, from, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    finish(default_stream());
    cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    finish(default_stream());
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
    check_range(to, bytes);
    enqueue(stream, [=] { std::memset(to, value, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    cudaMemsetAsync(to, value, bytes, nullptr);
    finish(default_stream());
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    *stream = new Stream;
    (*stream)->device = this_device;
    streams().push_back(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    finish(*stream);
    streams().erase(std::find(streams().begin(), streams().end(), stream));
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    if (stream_of(stream).capturing) return cudaErrorStreamCaptureUnsupported;
    finish(stream_of(stream));
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    if (event->recorded && !stream_of(event->stream).capturing) finish(stream_of(event->stream));
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    if (!stream || stream->capturing) return cudaErrorStreamCaptureUnsupported;
    stream->capturing = new Graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    if (!stream || !stream->capturing) return cudaErrorInvalidValue;
    *graph = stream->capturing;
    stream->capturing = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream_of(stream).capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new Graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    for (const std::function<void()>& work : executable->work) enqueue(stream, work);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    const std::lock_guard<std::recursive_mutex> guard(everything());
    finish_all();
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = new Event;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->stream = stream;
    event->recorded = true;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return event->recorded ? cudaStreamSynchronize(event->stream) : cudaSuccess;
}
