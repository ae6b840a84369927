#include "symmd_force.h"

#include <algorithm>

#include "openmm/OpenMMException.h"
#include "symmd_force_impl.h"

namespace symmd {

using OpenMM::OpenMMException;

SymmdForce::SymmdForce() { setName("SymmdForce"); }

void SymmdForce::setModel(std::string content, const std::string& name) {
    model_ = std::make_shared<const std::string>(std::move(content));
    model_name_ = name;
}

void SymmdForce::setAtoms(std::vector<int> atomic_numbers, std::vector<int> particles) {
    if (!particles.empty() && particles.size() != atomic_numbers.size())
        throw OpenMMException("SymmdForce: expected an atomic number for each of " + std::to_string(particles.size()) +
                              " particles, found " + std::to_string(atomic_numbers.size()));
    std::vector<int> sorted = particles;
    std::sort(sorted.begin(), sorted.end());
    if (!sorted.empty() && sorted.front() < 0)
        throw OpenMMException("SymmdForce: particles are counted from 0, found " + std::to_string(sorted.front()));
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end())
        throw OpenMMException("SymmdForce: expected each particle once, found particle " + std::to_string(*twice) +
                              " twice");
    atomic_numbers_ = std::move(atomic_numbers);
    particles_ = std::move(particles);
}

void SymmdForce::setTopology(int particles, std::vector<OpenMM::Vec3> box) {
    if (particles < 0 || (!box.empty() && box.size() != 3))
        throw OpenMMException("SymmdForce: expected a topology with three box vectors or none, found " +
                              std::to_string(box.size()) + " of them for " + std::to_string(particles) + " particles");
    topology_particles_ = particles;
    topology_box_ = std::move(box);
}

void SymmdForce::setPrecision(const std::string& precision) {
    if (precision != "single" && precision != "mixed" && precision != "double")
        throw OpenMMException("SymmdForce: the precision must be single, mixed or double, found '" + precision + "'");
    precision_ = precision;
}

void SymmdForce::setThreads(int threads) {
    if (threads < 0 || threads > 1024)
        throw OpenMMException("SymmdForce: threads must lie between 0 (all) and 1024, found " +
                              std::to_string(threads));
    threads_ = threads;
}

void SymmdForce::setScaleParameterName(const std::string& name) {
    if (name.empty()) throw OpenMMException("SymmdForce: the parameter of the scale needs a name, found an empty one");
    scale_parameter_ = name;
}

void SymmdForce::addEnergyParameterDerivative(const std::string& name) {
    if (name != scale_parameter_)
        throw OpenMMException("SymmdForce: the energy depends on the parameter '" + scale_parameter_ +
                              "' alone, found '" + name + "'");
    derivative_ = true;
}

const std::string& SymmdForce::getEnergyParameterDerivativeName(int index) const {
    if (index < 0 || index >= getNumEnergyParameterDerivatives())
        throw OpenMMException("SymmdForce: expected the index of one of " +
                              std::to_string(getNumEnergyParameterDerivatives()) + " derivatives, found " +
                              std::to_string(index));
    return scale_parameter_;
}

void SymmdForce::updateParametersInContext(OpenMM::Context& context) {
    dynamic_cast<SymmdForceImpl&>(getImplInContext(context)).updateParametersInContext(getContextImpl(context));
}

OpenMM::ForceImpl* SymmdForce::createImpl() const { return new SymmdForceImpl(*this); }

}  // namespace symmd
