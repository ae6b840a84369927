// What the engine finds in this library (core/device.h).
#include <exception>

#include "cuda/evaluation.h"
#include "cuda/platform.h"

namespace symmd {

namespace {

int device_count(std::string& problem) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess && count > 0) return count;
    cudaGetLastError();  // forgets the error
    problem = status == cudaSuccess ? "CUDA sees no device" : cudaGetErrorString(status);
    return 0;
}

DeviceEvaluator* create(const void* model, std::size_t size, const std::string& name, const EngineOptions& options,
                        int device, std::string& problem) {
    try {
        return make_device_evaluator(load_model_file(model, size, name), options, device).release();
    } catch (const std::exception& error) {
        problem = error.what();
        return nullptr;
    }
}

DeviceMemoryPlan plan(const void* model, std::size_t size, const std::string& name, const EngineOptions& options,
                      int64_t atoms, double neighbours, int device, std::string& problem) {
    try {
        DeviceMemoryPlan found = plan_memory(load_model_file(model, size, name), options, atoms, neighbours);
        if (device < 0) return found;
        const DeviceScope scope(device);
        std::size_t free = 0, total = 0;
        check_cuda(cudaMemGetInfo(&free, &total), "ask for its free memory");
        cudaDeviceProp properties{};
        check_cuda(cudaGetDeviceProperties(&properties, device), "describe the device");
        found.free_bytes = int64_t(free);
        found.total_bytes = int64_t(total);
        found.device = properties.name;
        return found;
    } catch (const std::exception& error) {
        problem = error.what();
        return {};
    }
}

constexpr DeviceLibrary library = {device_library_version, device_count, create, plan};

}  // namespace

}  // namespace symmd

extern "C" SYMMD_API const symmd::DeviceLibrary* symmd_device_library() { return &symmd::library; }
