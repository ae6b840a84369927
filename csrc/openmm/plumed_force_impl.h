// What a Context holds of a PlumedForce: the way to its calculation, and what is known of the Context's steps.
#pragma once

#include <memory>
#include <vector>

#include "openmm/internal/CustomCPPForceImpl.h"
#include "plumed_force.h"
#include "plumed_run.h"

namespace symmd {

class PlumedForceImpl : public OpenMM::CustomCPPForceImpl {
  public:
    PlumedForceImpl(const PlumedForce& owner, std::shared_ptr<PlumedRun> run);
    ~PlumedForceImpl() override;

    void initialize(OpenMM::ContextImpl& context) override;
    const PlumedForce& getOwner() const override { return owner_; }
    // Integrators call this once at the begin of each step, and nobody else does.
    void updateContextState(OpenMM::ContextImpl& context, bool& forces_invalid) override;
    double calcForcesAndEnergy(OpenMM::ContextImpl& context, bool forces, bool energy, int groups) override;
    double computeForce(OpenMM::ContextImpl& context, const std::vector<OpenMM::Vec3>& positions,
                        std::vector<OpenMM::Vec3>& forces) override;

  private:
    void watch_integrator(OpenMM::ContextImpl& context);

    const PlumedForce& owner_;
    std::shared_ptr<PlumedRun> run_;
    bool on_host_ = false, periodic_ = false;
    // A step has begun, and its forces have not been asked for yet.
    bool step_begun_ = false;
    long long last_step_ = 0;
    int unannounced_ = 0;
};

}  // namespace symmd
