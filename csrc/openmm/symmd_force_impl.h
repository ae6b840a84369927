// What a Context holds of a SymmdForce: an engine, and the particles that it computes.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "openmm/internal/CustomCPPForceImpl.h"
#include "symmd/engine.h"
#include "symmd_force.h"

namespace symmd {

class SymmdForceImpl : public OpenMM::CustomCPPForceImpl {
  public:
    explicit SymmdForceImpl(const SymmdForce& owner);

    void initialize(OpenMM::ContextImpl& context) override;
    const SymmdForce& getOwner() const override { return owner_; }
    double calcForcesAndEnergy(OpenMM::ContextImpl& context, bool forces, bool energy, int groups) override;
    // Positions in nm, forces in kJ/mol/nm, energy in kJ/mol.
    double computeForce(OpenMM::ContextImpl& context, const std::vector<OpenMM::Vec3>& positions,
                        std::vector<OpenMM::Vec3>& forces) override;
    std::map<std::string, double> getDefaultParameters() override { return {{scale_parameter_, 1.0}}; }
    std::vector<std::pair<int, int>> getBondedParticles() const override { return owner_.getBonds(); }
    void updateParametersInContext(OpenMM::ContextImpl& context);

  private:
    void configure(const OpenMM::System& system);
    void read_structure(OpenMM::ContextImpl& context, const std::vector<OpenMM::Vec3>& positions);
    void run_engine(bool with_forces);

    const SymmdForce& owner_;
    std::unique_ptr<Engine> engine_;
    std::shared_ptr<const std::string> model_;
    std::string model_name_, precision_, scale_parameter_;
    std::vector<int> particles_;
    std::vector<int32_t> species_;
    bool periodic_ = false, derivative_ = false;
    // Platforms whose positions are the host's say in time whether forces are wanted; others begin to compute before.
    bool on_host_ = false, forces_wanted_ = true;

    // What was computed last, in the engine's units: a barostat, a reporter and outer time steps ask for the energy of
    // positions whose forces were just computed.
    struct Structure {
        std::vector<double> positions;
        std::array<double, 9> cell{};
        bool operator==(const Structure& other) const { return cell == other.cell && positions == other.positions; }
    };
    Structure structure_, computed_;
    std::vector<double> forces_;
    double energy_ = 0;
    bool energy_known_ = false, forces_known_ = false;
};

}  // namespace symmd
