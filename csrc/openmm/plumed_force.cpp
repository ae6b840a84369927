#include "plumed_force.h"

#include <cmath>

#include "openmm/OpenMMException.h"
#include "plumed_force_impl.h"
#include "plumed_run.h"

namespace symmd {

PlumedForce::PlumedForce(const std::string& script) : script_(script), run_(std::make_shared<PlumedRun>()) {
    setName("PlumedForce");
}

PlumedForce::~PlumedForce() = default;

void PlumedForce::setTemperature(double temperature) {
    if (!std::isfinite(temperature) || temperature < 0)
        throw OpenMM::OpenMMException("PlumedForce: the temperature must be 0 K or more, found " +
                                      std::to_string(temperature));
    temperature_ = temperature;
}

void PlumedForce::close() { run_->close(); }

void PlumedForce::closeAll() { PlumedRun::close_all(); }

OpenMM::ForceImpl* PlumedForce::createImpl() const { return new PlumedForceImpl(*this, run_); }

}  // namespace symmd
