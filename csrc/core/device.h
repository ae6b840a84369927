// What runs an engine on a device other than the processor: a library of its own beside the engine's, symmd_cuda,
// which is loaded when a device is asked for, so that nobody else links CUDA.
//
// Both sides are of one build, which `device_library_version` checks. Errors are values here: no exception passes from
// one library to the other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/evaluation.h"
#include "symmd/engine.h"

namespace symmd {

// What computes on a device. An empty string is success, any other the message of an Error.
class DeviceEvaluator {
  public:
    virtual ~DeviceEvaluator() = default;
    // A structure of which the device finds the neighbours. Arrays on the host or, with system.on_device, on the
    // device. Fills results.energy (not with system.on_device, where it goes to results.total_energy).
    virtual std::string run(const System& system, Results& results) noexcept = 0;
    // A caller's rows, on the host, as Evaluation::run takes them; fills results.atom_energy, which must be there.
    virtual std::string run(const Surroundings& surroundings, GhostExchange* exchange, const Results& out) noexcept = 0;
    // What captured steps (System::on_device) found out; waits for them.
    virtual std::string check() noexcept = 0;
    // Whether a caller's graph may replay a step of this.
    virtual bool captured() const noexcept = 0;
    virtual int64_t list_builds() const noexcept = 0;
    virtual std::size_t memory_bytes() const noexcept = 0;
};

// Bytes on the device: what a step of so many atoms with so many listed neighbours each would need, and what there is.
struct DeviceMemoryPlan {
    int64_t whole_bytes = 0;                  // in one piece
    int64_t chunk_bytes = 0;                  // in the smallest chunks
    int64_t free_bytes = 0, total_bytes = 0;  // of the device; 0 when there is none
    std::string device;                       // its name; empty when there is none
};

// What the library gives.
struct DeviceLibrary {
    const char* version;  // device_library_version of its build
    // Number of devices; a message when there are none or no driver.
    int (*device_count)(std::string& problem);
    // `model`: the content of a model file, which messages call `name`. Null with a message when it cannot be.
    DeviceEvaluator* (*create)(const void* model, std::size_t size, const std::string& name,
                               const EngineOptions& options, int device, std::string& problem);
    // For `symmd info --atoms`; device -1: predict without looking at one.
    DeviceMemoryPlan (*plan)(const void* model, std::size_t size, const std::string& name, const EngineOptions& options,
                             int64_t atoms, double neighbours, int device, std::string& problem);
};

// A text that changes when these declarations do.
inline constexpr char device_library_version[] = "symmd-device-2";
inline constexpr char device_library_symbol[] = "symmd_device_library";  // extern "C" const DeviceLibrary* ()

// "cuda" or "cuda:3" gives 0 or 3, "cpu" gives -1; throws Error for anything else.
int device_number(const std::string& device);
// Throws Error when the library is not there or is of another build: one sentence, what to do.
const DeviceLibrary& device_library();
// The same, and throws Error when there is no such device.
const DeviceLibrary& device_library(const std::string& device);
// At least one; throws Error with the reason when there is none.
int device_count(const DeviceLibrary& library);

}  // namespace symmd
