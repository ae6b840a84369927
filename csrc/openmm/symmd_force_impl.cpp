#include "symmd_force_impl.h"

#include <algorithm>
#include <cmath>
#include <regex>

#include "ReferencePlatform.h"
#include "openmm/OpenMMException.h"
#include "openmm/System.h"
#include "openmm/internal/ContextImpl.h"

namespace symmd {

using OpenMM::ContextImpl;
using OpenMM::OpenMMException;
using OpenMM::Vec3;

namespace {

// e · N_A / 1000 with the exact constants of the SI, which are OpenMM's too.
constexpr double kilojoules_per_mole = 96.48533212331002;
constexpr double angstroms = 10.0;  // in a nm

[[noreturn]] void refuse(const std::string& reason) { throw OpenMMException("SymmdForce: " + reason); }

}  // namespace

SymmdForceImpl::SymmdForceImpl(const SymmdForce& owner)
    : CustomCPPForceImpl(owner),
      owner_(owner),
      scale_parameter_(owner.getScaleParameterName()),
      bonds_(owner.getBonds()) {}

void SymmdForceImpl::initialize(ContextImpl& context) {
    CustomCPPForceImpl::initialize(context);
    const std::string platform = context.getPlatform().getName();
    derivative_ = owner_.getNumEnergyParameterDerivatives() > 0;
    // Other platforms keep derivatives where only kernels of their own reach them.
    if (derivative_ && platform != "Reference" && platform != "CPU")
        refuse("dE/d" + scale_parameter_ + " is for the platforms Reference and CPU, found platform " + platform +
               "; put the force into a CustomCVForce with its own parameter, whose derivative every platform has");
    for (const auto& bond : bonds_)
        for (const int particle : {bond.first, bond.second})
            if (particle < 0 || particle >= context.getSystem().getNumParticles())
                refuse("expected bonds between particles from 0 to " +
                       std::to_string(context.getSystem().getNumParticles() - 1) + " of the System, found one of " +
                       std::to_string(particle));
    check_box(context.getSystem());
    configure(context.getSystem());
}

// A System has a cube of 2 nm that nobody asked for. Of a periodic force, its box must be that of the topology.
void SymmdForceImpl::check_box(const OpenMM::System& system) const {
    if (!owner_.usesPeriodicBoundaryConditions()) return;
    const std::vector<Vec3>& known = owner_.getTopologyBox();
    Vec3 box[3];
    system.getDefaultPeriodicBoxVectors(box[0], box[1], box[2]);
    bool untouched = true, same = !known.empty();
    for (int row = 0; row < 3; ++row)
        for (int axis = 0; axis < 3; ++axis) {
            untouched = untouched && box[row][axis] == (row == axis ? 2.0 : 0.0);
            same = same && std::abs(box[row][axis] - known[row][axis]) < 1e-4;
        }
    if (untouched && !same)
        refuse("expected the System to have a box, found the cube of 2 nm that every System begins with, and a " +
               std::string(known.empty() ? "topology without a box" : "topology with another one") +
               "; call system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())" +
               (known.empty() ? " with a topology that has a box, and make the force of it" : ""));
}

void SymmdForceImpl::updateParametersInContext(ContextImpl& context) {
    if (owner_.getScaleParameterName() != scale_parameter_)
        refuse("the Context was made with the parameter '" + scale_parameter_ + "', found '" +
               owner_.getScaleParameterName() + "'; reinitialize the Context, with which its parameters begin");
    if (owner_.usesPeriodicBoundaryConditions() != periodic_)
        refuse("a Context keeps its periodicity; reinitialize it, which was made with a force that was " +
               std::string(periodic_ ? "periodic" : "open"));
    if (owner_.getNumEnergyParameterDerivatives() > 0 && !derivative_)
        refuse("the Context was made without dE/d" + scale_parameter_ +
               "; reinitialize it after addEnergyParameterDerivative");
    configure(context.getSystem());
    context.systemChanged();
}

// All or nothing: a refusal leaves the Context with what it had.
void SymmdForceImpl::configure(const OpenMM::System& system) {
    if (owner_.getModel().empty()) refuse("there is no model; give one with setModel");
    const int count = system.getNumParticles();
    std::vector<int> particles = owner_.getParticles();
    if (particles.empty()) {
        if (int(owner_.getAtomicNumbers().size()) != count)
            refuse("expected as many atoms as the System has particles, " + std::to_string(count) + ", found " +
                   std::to_string(owner_.getAtomicNumbers().size()) +
                   "; use the topology that the System was made from, or name the atoms of the force");
        particles.resize(count);
        for (int k = 0; k < count; ++k) particles[k] = k;
    }
    if (owner_.getTopologyParticles() > count)
        refuse("expected a topology of the System, which has " + std::to_string(count) +
               " particles, found atoms named by one of " + std::to_string(owner_.getTopologyParticles()) +
               "; name them by their indices in the topology that the System was made from");
    for (const int particle : particles)
        if (particle >= count)
            refuse("expected particles from 0 to " + std::to_string(count - 1) + " of the System, found " +
                   std::to_string(particle));

    EngineOptions options;
    options.precision = owner_.getPrecision() == "double" ? Precision::float64 : Precision::float32;
    options.device = owner_.getDevice();
    options.threads = owner_.getThreads();
    options.deterministic = owner_.getDeterministic();
    std::vector<int32_t> species;
    try {
        const std::string& model = owner_.getModel();
        auto engine =
            std::make_unique<Engine>(Engine::load(model.data(), model.size(), owner_.getModelName(), options));
        for (const int number : owner_.getAtomicNumbers()) species.push_back(engine->species_of(number));
        engine_ = std::move(engine);
    } catch (const Error& error) {
        refuse(error.what());
    }
    species_ = std::move(species);
    particles_ = std::move(particles);
    periodic_ = owner_.usesPeriodicBoundaryConditions();
    latest_.valid = earlier_.valid = false;
}

// nm into Å.
void SymmdForceImpl::read_structure(ContextImpl& context, const std::vector<Vec3>& positions) {
    structure_.positions.resize(3 * particles_.size());
    double* to = structure_.positions.data();
    for (const int particle : particles_) {
        const Vec3& from = positions[particle];
        for (int axis = 0; axis < 3; ++axis) *to++ = angstroms * from[axis];
        if (!std::isfinite(from[0]) || !std::isfinite(from[1]) || !std::isfinite(from[2]))
            refuse("expected finite positions, found particle " + std::to_string(particle) + " at (" +
                   std::to_string(from[0]) + ", " + std::to_string(from[1]) + ", " + std::to_string(from[2]) +
                   ") nm; check the structure and the time step, since the simulation has most likely blown up");
    }
    if (!periodic_) return;
    Vec3 box[3];
    context.getPeriodicBoxVectors(box[0], box[1], box[2]);
    for (int row = 0; row < 3; ++row)
        for (int axis = 0; axis < 3; ++axis) structure_.cell[3 * row + axis] = angstroms * box[row][axis];
}

// Into latest_; what it was becomes earlier_.
void SymmdForceImpl::run_engine() {
    std::swap(latest_, earlier_);
    latest_.valid = false;
    std::swap(latest_.structure, structure_);
    System system;
    system.atoms = int64_t(particles_.size());
    system.species = species_.data();
    system.positions = latest_.structure.positions.data();
    if (periodic_) {
        system.cell = latest_.structure.cell.data();
        system.periodic = {{true, true, true}};
    }
    Results results;
    latest_.forces.resize(3 * particles_.size());
    results.forces = latest_.forces.data();
    try {
        engine_->compute(system, results);
    } catch (const Error& error) {
        refuse(with_particles(error.what()));
    }
    latest_.energy = results.energy;
    latest_.valid = true;
}

// The engine counts atoms from 1 along those it computes; users know particles of the System.
std::string SymmdForceImpl::with_particles(const std::string& message) const {
    static const std::regex named("\\b[aA]toms? ([0-9]{1,10})( and ([0-9]{1,10}))?");
    const auto particle = [&](const std::string& atom) {
        const std::size_t index = std::stoull(atom) - 1;
        return index < particles_.size() ? std::to_string(particles_[index]) : "?";
    };
    std::string translated;
    auto rest = message.cbegin();
    for (std::sregex_iterator match(message.begin(), message.end(), named), end; match != end; ++match) {
        translated.append(rest, (*match)[0].first);
        translated += (*match)[3].matched ? "particles " : "particle ";
        translated += particle((*match)[1]);
        if ((*match)[3].matched) translated += " and " + particle((*match)[3]);
        rest = (*match)[0].second;
    }
    return translated.append(rest, message.cend());
}

double SymmdForceImpl::computeForce(ContextImpl& context, const std::vector<Vec3>& positions,
                                    std::vector<Vec3>& forces) {
    read_structure(context, positions);
    if (!latest_.valid || !(structure_ == latest_.structure)) {
        if (earlier_.valid && structure_ == earlier_.structure)
            std::swap(latest_, earlier_);
        else
            run_engine();
    }

    const double scale = context.getParameter(scale_parameter_);
    std::fill(forces.begin(), forces.end(), Vec3());
    const double unit = scale * kilojoules_per_mole * angstroms;
    const double* from = latest_.forces.data();
    for (const int particle : particles_) {
        forces[particle] = Vec3(unit * from[0], unit * from[1], unit * from[2]);
        from += 3;
    }
    const double energy = kilojoules_per_mole * latest_.energy;
    if (derivative_) {
        auto* data = static_cast<OpenMM::ReferencePlatform::PlatformData*>(context.getPlatformData());
        (*data->energyParameterDerivatives)[scale_parameter_] += energy;
    }
    return scale * energy;
}

}  // namespace symmd
