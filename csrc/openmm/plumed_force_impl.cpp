#include "plumed_force_impl.h"

#include <string>
#include <typeinfo>

#include "openmm/Context.h"
#include "openmm/Integrator.h"
#include "openmm/NonbondedForce.h"
#include "openmm/OpenMMException.h"
#include "openmm/System.h"
#include "openmm/VerletIntegrator.h"
#include "openmm/internal/ContextImpl.h"

namespace symmd {

using OpenMM::ContextImpl;
using OpenMM::Vec3;

namespace {

// e, of the first NonbondedForce; empty without one.
std::vector<double> charges_of(const OpenMM::System& system) {
    std::vector<double> charges;
    for (int k = 0; k < system.getNumForces() && charges.empty(); ++k) {
        const auto* nonbonded = dynamic_cast<const OpenMM::NonbondedForce*>(&system.getForce(k));
        if (!nonbonded) continue;
        for (int particle = 0; particle < nonbonded->getNumParticles(); ++particle) {
            double charge, sigma, epsilon;
            nonbonded->getParticleParameters(particle, charge, sigma, epsilon);
            charges.push_back(charge);
        }
    }
    return charges;
}

// Contexts whose steps nobody announces would run to their end without a hill.
void refuse_without_steps(const OpenMM::Integrator& integrator) {
    // Its class lives in a plugin, which need not be there.
    if (std::string(typeid(integrator).name()).find("RPMDIntegrator") != std::string::npos)
        throw OpenMM::OpenMMException(
            "PlumedForce: expected one copy of the particles, found RPMDIntegrator with its beads, of which PLUMED "
            "would see one after the other; take another integrator");
    // What CustomCVForce and ATMForce make for the forces inside of them; no dynamics has such steps.
    const double inner_step = 1.0;  // ps
    if (dynamic_cast<const OpenMM::VerletIntegrator*>(&integrator) && integrator.getStepSize() == inner_step)
        throw OpenMM::OpenMMException(
            "PlumedForce: expected to be a force of the System itself, found the step of 1 ps with which OpenMM "
            "evaluates forces inside of CustomCVForce or ATMForce, where no step of the dynamics is known; add it to "
            "the System with addForce");
}

}  // namespace

PlumedForceImpl::PlumedForceImpl(const PlumedForce& owner, std::shared_ptr<PlumedRun> run)
    : CustomCPPForceImpl(owner), owner_(owner), run_(std::move(run)) {}

PlumedForceImpl::~PlumedForceImpl() { run_->leave(this); }

void PlumedForceImpl::initialize(ContextImpl& context) {
    CustomCPPForceImpl::initialize(context);
    refuse_without_steps(context.getIntegrator());
    const std::string platform = context.getPlatform().getName();
    on_host_ = platform == "Reference" || platform == "CPU";
    const OpenMM::System& system = context.getSystem();
    periodic_ = system.usesPeriodicBoundaryConditions();
    PlumedStart start;
    start.script = owner_.getScript();
    start.kernel = owner_.getKernel();
    start.log_file = owner_.getLogFile();
    start.temperature = owner_.getTemperature();
    start.restart = owner_.getRestart();
    start.time_step = context.getIntegrator().getStepSize();
    for (int k = 0; k < system.getNumParticles(); ++k) start.masses.push_back(system.getParticleMass(k));
    start.charges = charges_of(system);
    run_->begin(start);
}

void PlumedForceImpl::updateContextState(ContextImpl&, bool&) {
    run_->settle();
    step_begun_ = true;
    unannounced_ = 0;
}

// Minimisers and queries do not begin a step, and barostats ask for energies alone. So the first forces after the begin
// of a step are those that move the particles.
double PlumedForceImpl::calcForcesAndEnergy(ContextImpl& context, bool forces, bool energy, int groups) {
    const double result = CustomCPPForceImpl::calcForcesAndEnergy(context, forces, energy, groups);
    if (!forces || (groups & (1 << owner_.getForceGroup())) == 0) return result;
    watch_integrator(context);
    if (!step_begun_) return result;
    step_begun_ = false;
    run_->step_of_dynamics(this, context.getStepCount());
    if (on_host_) run_->settle();
    return result;
}

// A CustomIntegrator without addUpdateContextState does not say when its steps begin: hills would never come.
void PlumedForceImpl::watch_integrator(ContextImpl& context) {
    const long long step = context.getStepCount();
    if (step == last_step_) return;
    unannounced_ = step == last_step_ + 1 ? unannounced_ + 1 : 0;
    last_step_ = step;
    if (!step_begun_ && unannounced_ > 2)
        throw OpenMM::OpenMMException(
            "PlumedForce: the integrator must announce its steps, found one that does not; begin the steps of a "
            "CustomIntegrator with integrator.addUpdateContextState()");
}

double PlumedForceImpl::computeForce(ContextImpl& context, const std::vector<Vec3>& positions,
                                     std::vector<Vec3>& forces) {
    plumed::OncePerStep::Box box{};
    if (periodic_) {
        Vec3 vectors[3];
        context.getPeriodicBoxVectors(vectors[0], vectors[1], vectors[2]);
        for (int row = 0; row < 3; ++row)
            for (int axis = 0; axis < 3; ++axis) box[3 * row + axis] = vectors[row][axis];
    }
    return run_->evaluate(context.getStepCount(), box, positions, forces);
}

}  // namespace symmd
