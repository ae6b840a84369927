// Where a step leaves its results on the device: those that are wanted side by side, so that one copy brings them to
// the host.
#pragma once

#include <cstdint>

#include "cuda/device_memory.h"
#include "cuda/step_kernels.h"
#include "symmd/engine.h"

namespace symmd {

// Which results a caller asks for. The energy is always there.
struct WantedResults {
    bool atom_energy = false, forces = false, virial = false, atom_virial = false, sender_virial = false;

    WantedResults() = default;
    explicit WantedResults(const Results& results)
        : atom_energy(results.atom_energy),
          forces(results.forces),
          virial(results.virial),
          atom_virial(results.atom_virial),
          sender_virial(results.sender_virial) {}
    bool derivatives() const { return forces || virial || atom_virial || sender_virial; }
    bool operator==(const WantedResults& other) const {
        return atom_energy == other.atom_energy && forces == other.forces && virial == other.virial &&
               atom_virial == other.atom_virial && sender_virial == other.sender_virial;
    }
};

class Outcome {
  public:
    // Makes room; may allocate. `atoms` have forces, `energies` an energy. `to_host`: for results that the host reads.
    void prepare(const WantedResults& wanted, int64_t energies, int64_t atoms, bool to_host);
    // Doubles of memory on the device.
    static int64_t size(const WantedResults& wanted, int64_t energies, int64_t atoms);

    StepStatus* status() { return reinterpret_cast<StepStatus*>(device_.data()); }
    // On the device; energies of the atoms are always there.
    const StepResults& results() const { return results_; }
    DeviceSums sums() const;
    double* scratch() { return device_.data() + scratch_; }  // of device_sum_edges and device_sum

    // Queues; what it brings is there when the stream has been waited for.
    void download(cudaStream_t stream);
    void download_status(cudaStream_t stream);
    void clear_results(cudaStream_t stream);
    const StepStatus& found() const { return *reinterpret_cast<const StepStatus*>(host_.data()); }
    double energy() const { return host_.data()[energy_]; }
    // Copies what was brought to a caller's arrays, with zeros for atoms from those that have forces to `all`.
    void hand_out(const Results& to, int64_t all) const;

    std::size_t bytes() const { return device_.bytes(); }

  private:
    static constexpr int64_t energy_ = 8;  // behind the status
    struct Places {
        int64_t virial = 0, forces = 0, atom_virial = 0, sender_virial = 0, atom_energy = 0;
        int64_t host_end = 0, scratch = 0, end = 0;
    };
    static Places places(const WantedResults& wanted, int64_t energies, int64_t atoms);

    WantedResults wanted_;
    int64_t energies_ = 0, atoms_ = 0, scratch_ = 0;
    Places at_;
    StepResults results_;
    DeviceBuffer<double> device_;
    PinnedBuffer<double> host_;
};

}  // namespace symmd
