#include "cuda/outcome.h"

#include <algorithm>

namespace symmd {

static_assert(sizeof(StepStatus) <= 8 * sizeof(double), "the status lies in front of the energy");

Outcome::Places Outcome::places(const WantedResults& wanted, int64_t energies, int64_t atoms) {
    Places at;
    at.virial = energy_ + 1;
    int64_t end = at.virial + 9;
    const auto take = [&](int64_t& place, int64_t count) {
        place = end;
        end += count;
    };
    if (wanted.forces) take(at.forces, 3 * atoms);
    if (wanted.atom_virial) take(at.atom_virial, 9 * atoms);
    if (wanted.sender_virial) take(at.sender_virial, 9 * atoms);
    take(at.atom_energy, energies);
    at.host_end = wanted.atom_energy ? end : at.atom_energy;
    take(at.scratch, device_sum_scratch(std::max(energies, atoms)));
    at.end = end;
    return at;
}

int64_t Outcome::size(const WantedResults& wanted, int64_t energies, int64_t atoms) {
    return places(wanted, energies, atoms).end;
}

void Outcome::prepare(const WantedResults& wanted, int64_t energies, int64_t atoms, bool to_host) {
    at_ = places(wanted, energies, atoms);
    wanted_ = wanted;
    energies_ = energies;
    atoms_ = atoms;
    device_.resize(at_.end);
    host_.resize(to_host ? at_.host_end : energy_ + 1);
    scratch_ = at_.scratch;
    double* const start = device_.data();
    results_ = {};
    results_.energy = start + energy_;
    if (wanted.virial) results_.virial = start + at_.virial;
    if (wanted.forces) results_.forces = start + at_.forces;
    results_.atom_energy = start + at_.atom_energy;
    if (wanted.atom_virial) results_.atom_virial = start + at_.atom_virial;
    if (wanted.sender_virial) results_.sender_virial = start + at_.sender_virial;
}

DeviceSums Outcome::sums() const {
    DeviceSums sums;
    sums.forces = results_.forces;
    sums.atom_virial = results_.atom_virial;
    sums.sender_virial = results_.sender_virial;
    sums.virial = results_.virial;
    return sums;
}

void Outcome::download(cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(host_.data(), device_.data(), std::size_t(at_.host_end) * sizeof(double),
                               cudaMemcpyDeviceToHost, stream),
               "copy results to the host");
}

void Outcome::download_status(cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(host_.data(), device_.data(), sizeof(StepStatus), cudaMemcpyDeviceToHost, stream),
               "copy the outcome to the host");
}

void Outcome::clear_results(cudaStream_t stream) {
    check_cuda(
        cudaMemsetAsync(device_.data() + energy_, 0, std::size_t(at_.scratch - energy_) * sizeof(double), stream),
        "clear memory");
}

void Outcome::hand_out(const Results& to, int64_t all) const {
    const double* const from = host_.data();
    const auto copy = [&](double* place, int64_t start, int64_t width) {
        if (!place) return;
        std::copy_n(from + start, width * atoms_, place);
        std::fill(place + width * atoms_, place + width * all, 0.0);
    };
    copy(to.forces, at_.forces, 3);
    copy(to.atom_virial, at_.atom_virial, 9);
    copy(to.sender_virial, at_.sender_virial, 9);
    if (to.virial) std::copy_n(from + at_.virial, 9, to.virial);
    if (to.atom_energy) std::copy_n(from + at_.atom_energy, energies_, to.atom_energy);
}

}  // namespace symmd
