#include "cuda/evaluation.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "cuda/device_network.h"
#include "cuda/rows_step.h"
#include "cuda/structure_step.h"

namespace symmd {

namespace {

// A stream that does not wait for the default one.
class OwnStream {
  public:
    OwnStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream"); }
    ~OwnStream() { cudaStreamDestroy(stream_); }
    OwnStream(const OwnStream&) = delete;
    OwnStream& operator=(const OwnStream&) = delete;
    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

template <class T>
class DeviceEvaluation : public DeviceEvaluator {
  public:
    DeviceEvaluation(const NetworkWeights<T>& weights, const EngineOptions& options, int device)
        : device_(device),
          network_(weights),
          structure_(network_, device, options.skin, stream_.get()),
          rows_(network_, stream_.get()) {}

    std::string run(const System& system, Results& results) noexcept override {
        return guarded([&] { structure_.run(system, results); }, system.atoms, ", in pieces too");
    }
    std::string run(const Surroundings& around, GhostExchange* exchange, const Results& out) noexcept override {
        return guarded([&] { rows_.run(around, exchange, out); }, around.atoms, "");
    }
    std::string check() noexcept override {
        return guarded([&] { structure_.check(); }, 0, "");
    }
    bool captured() const noexcept override { return structure_.captured(); }
    int64_t list_builds() const noexcept override { return structure_.list_builds(); }
    std::size_t memory_bytes() const noexcept override {
        return network_.bytes() + structure_.memory_bytes() + rows_.memory_bytes();
    }

  private:
    template <class Body>
    std::string guarded(Body&& body, int64_t atoms, const char* how) noexcept {
        try {
            const DeviceScope scope(device_);
            body();
            return "";
        } catch (const OutOfDeviceMemory& error) {
            finish();
            return no_room(atoms, how, error);
        } catch (const std::exception& error) {
            finish();
            return error.what();
        }
    }
    // What was queued may still read arrays of the host that the next step fills.
    void finish() const noexcept { cudaStreamSynchronize(stream_.get()); }
    std::string no_room(int64_t atoms, const char* how, const OutOfDeviceMemory& error) const {
        return "the device cuda:" + std::to_string(device_) + " has too little memory for " + std::to_string(atoms) +
               " atoms" + how + ": " + error.what() +
               "; divide the atoms among more processes and devices, or compute with device cpu";
    }

    const int device_;
    const OwnStream stream_;
    const DeviceNetwork<T> network_;
    StructureStep<T> structure_;
    RowsStep<T> rows_;
};

// What CudaBuffer allocates for so many bytes.
int64_t with_slack(int64_t bytes) { return bytes + bytes / 16; }

// A piece for one atom, with as many neighbours around as all atoms have on average. Only its sizes are there.
Chunk smallest_chunk(int layers, int64_t atoms, double neighbours) {
    Chunk chunk;
    for (int hop = 0; hop <= layers; ++hop)
        chunk.reach.push_back(int32_t(std::min(double(atoms), std::ceil(1 + neighbours * hop * hop * hop))));
    chunk.sender.resize(std::size_t(std::ceil(double(chunk.receivers(0)) * neighbours)));
    return chunk;
}

template <class T>
DeviceMemoryPlan plan(const ModelFile& model, int64_t atoms, double neighbours) {
    const NetworkWeights<T> weights(model, device_kernels());
    const std::vector<DeviceLayer<T>> layers = describe_layers(weights);
    const int64_t edges = int64_t(std::ceil(double(atoms) * neighbours));
    StepSizes sizes;
    sizes.receivers.assign(layers.size(), atoms);
    sizes.senders = sizes.receivers;
    sizes.edges = with_slack(edges);  // the room that the list makes for them
    WantedResults wanted;
    wanted.atom_energy = wanted.forces = wanted.virial = true;
    // The list, the vectors of its edges, positions and species, results.
    const int64_t always = DeviceNeighbourList::memory_for(atoms, edges) +
                           with_slack(sizes.edges * int64_t(sizeof(Vector4<T>))) + with_slack(28 * atoms) +
                           with_slack(8 * Outcome::size(wanted, atoms, atoms));
    DeviceMemoryPlan plan;
    plan.whole_bytes = always + with_slack(NetworkStep<T>::bytes(layers, weights.heads, sizes));
    const Chunk chunk = smallest_chunk(int(layers.size()), atoms, neighbours);
    plan.chunk_bytes = always + with_slack(ChunkedStep<T>::bytes(layers, weights.heads, chunk, wanted));
    plan.chunk_bytes = std::min(plan.chunk_bytes, plan.whole_bytes);
    return plan;
}

}  // namespace

DeviceScope::DeviceScope(int device) {
    check_cuda(cudaGetDevice(&before_), "name the device");
    check_cuda(cudaSetDevice(device), "use the device");
}

DeviceScope::~DeviceScope() { cudaSetDevice(before_); }

std::unique_ptr<DeviceEvaluator> make_device_evaluator(const ModelFile& model, const EngineOptions& options,
                                                       int device) {
    const DeviceScope scope(device);
    if (options.precision == Precision::float32)
        return std::make_unique<DeviceEvaluation<float>>(NetworkWeights<float>(model, device_kernels()), options,
                                                         device);
    return std::make_unique<DeviceEvaluation<double>>(NetworkWeights<double>(model, device_kernels()), options, device);
}

DeviceMemoryPlan plan_memory(const ModelFile& model, const EngineOptions& options, int64_t atoms, double neighbours) {
    return options.precision == Precision::float32 ? plan<float>(model, atoms, neighbours)
                                                   : plan<double>(model, atoms, neighbours);
}

}  // namespace symmd
