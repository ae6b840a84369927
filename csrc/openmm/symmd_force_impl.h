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
    // Positions in nm, forces in kJ/mol/nm, energy in kJ/mol.
    double computeForce(OpenMM::ContextImpl& context, const std::vector<OpenMM::Vec3>& positions,
                        std::vector<OpenMM::Vec3>& forces) override;
    std::map<std::string, double> getDefaultParameters() override { return {{scale_parameter_, 1.0}}; }
    std::vector<std::pair<int, int>> getBondedParticles() const override { return bonds_; }
    void updateParametersInContext(OpenMM::ContextImpl& context);

  private:
    void check_box(const OpenMM::System& system) const;
    void configure(const OpenMM::System& system);
    void read_structure(OpenMM::ContextImpl& context, const std::vector<OpenMM::Vec3>& positions);
    void run_engine();
    std::string with_particles(const std::string& message) const;

    // Read when the Context is made and when it is told to take changes, at no other time: what is set between is not
    // for the Context, and the System may have lost the force.
    const SymmdForce& owner_;
    std::unique_ptr<Engine> engine_;
    std::shared_ptr<const std::string> model_;
    std::string model_name_, precision_, scale_parameter_;
    const std::vector<std::pair<int, int>> bonds_;
    std::vector<int> particles_;
    std::vector<int32_t> species_;
    bool periodic_ = false, derivative_ = false;

    struct Structure {
        std::vector<double> positions;  // [atoms, 3] Å
        std::array<double, 9> cell{};   // [3, 3] Å
        bool operator==(const Structure& other) const { return cell == other.cell && positions == other.positions; }
    };
    struct Computed {
        Structure structure;
        std::vector<double> forces;  // [atoms, 3] eV/Å
        double energy = 0;           // eV
        bool valid = false;
    };
    Structure structure_;
    // The last result and the one before: a barostat asks for the energy here and there, and then goes on from one of
    // the two; reporters ask for what was just computed.
    Computed latest_, earlier_;
};

}  // namespace symmd
