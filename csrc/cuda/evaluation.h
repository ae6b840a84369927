// What computes on a device (core/device.h), in one precision.
#pragma once

#include <cstddef>
#include <string>

#include "core/device.h"
#include "core/model_file.h"

namespace symmd {

// Sets a device for the calling thread, and the one before it again.
class DeviceScope {
  public:
    explicit DeviceScope(int device);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    int before_ = 0;
};

// Throws Error, or ModelFileError when there is no kernel for the model.
std::unique_ptr<DeviceEvaluator> make_device_evaluator(const ModelFile& model, const EngineOptions& options,
                                                       int device);

// Bytes that a step would take, as DeviceLibrary::plan has them; looks at no device.
DeviceMemoryPlan plan_memory(const ModelFile& model, const EngineOptions& options, int64_t atoms, double neighbours);

}  // namespace symmd
