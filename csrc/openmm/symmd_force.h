// A model file as a force of OpenMM, for every platform (docs/openmm.md).
//
// Names of methods are in OpenMM's style, since users meet them beside OpenMM's own. Units are OpenMM's, nm, kJ/mol and
// ps; the engine's Å and eV stay inside of the implementation. Particles are counted from 0 as OpenMM does.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "openmm/Context.h"
#include "openmm/Force.h"
#include "openmm/Vec3.h"
#include "symmd/error.h"

namespace symmd {

// Every setter throws OpenMM::OpenMMException for a value that cannot be. What is set after a Context was made has no
// effect on it before updateParametersInContext, or where that refuses it, before the Context is reinitialized.
class SYMMD_API SymmdForce : public OpenMM::Force {
  public:
    SymmdForce();

    // Content of a model file, `model.pt` or `.safetensors`; the force keeps it, messages call it `name`. It is read
    // when a Context is made.
    void setModel(std::string content, const std::string& name);
    const std::string& getModel() const { return *model_; }
    const std::string& getModelName() const { return model_name_; }

    // Atomic number of each particle that the force acts on. Without `particles` it acts on all of the System, which
    // must have as many.
    void setAtoms(std::vector<int> atomic_numbers, std::vector<int> particles = {});
    const std::vector<int>& getAtomicNumbers() const { return atomic_numbers_; }
    const std::vector<int>& getParticles() const { return particles_; }
    bool actsOnAllParticles() const { return particles_.empty() && !atomic_numbers_.empty(); }

    // The topology that the atoms were named by: its number of particles, and its box vectors (nm) as rows, empty for
    // one without. With them a Context refuses a System that another topology was made for, and one that nobody gave
    // its box to. 0 particles, as in a new force, is a topology that nothing is known of.
    void setTopology(int particles, std::vector<OpenMM::Vec3> box = {});
    int getTopologyParticles() const { return topology_particles_; }
    const std::vector<OpenMM::Vec3>& getTopologyBox() const { return topology_box_; }

    // Pairs of bonded particles. The energy does not know them; they say which particles are a molecule, whose image
    // OpenMM chooses as a whole and whose centre a barostat moves.
    void setBonds(std::vector<std::pair<int, int>> bonds) { bonds_ = std::move(bonds); }
    const std::vector<std::pair<int, int>>& getBonds() const { return bonds_; }

    // "single" and "mixed" are both fp32 arithmetic on differences of fp64 coordinates with energies summed in fp64;
    // "double" is fp64 throughout.
    void setPrecision(const std::string& precision);
    const std::string& getPrecision() const { return precision_; }

    // OpenMP threads; 0 takes as many as OpenMP would, fewer for a few atoms.
    void setThreads(int threads);
    int getThreads() const { return threads_; }

    // The same positions give the same bits whatever was computed before, as restarts need that shall be bitwise.
    void setDeterministic(bool deterministic) { deterministic_ = deterministic; }
    bool getDeterministic() const { return deterministic_; }

    // Where the engine computes, whatever the platform: "cpu", "cuda" (the first GPU) or "cuda:K".
    void setDevice(const std::string& device) { device_ = device; }
    const std::string& getDevice() const { return device_; }

    // Periodic along all three box vectors of the Context, or along none.
    void setUsesPeriodicBoundaryConditions(bool periodic) { periodic_ = periodic; }
    bool usesPeriodicBoundaryConditions() const override { return periodic_; }

    // Global parameter λ by which energy and forces are multiplied; it is 1 in a new Context.
    void setScaleParameterName(const std::string& name);
    const std::string& getScaleParameterName() const { return scale_parameter_; }

    // Asks for dE/dλ in State::getEnergyParameterDerivatives, for platforms Reference and CPU. `name` is that of λ.
    void addEnergyParameterDerivative(const std::string& name);
    int getNumEnergyParameterDerivatives() const { return derivative_ ? 1 : 0; }
    const std::string& getEnergyParameterDerivativeName(int index) const;

    // Brings model, precision, device, threads and atoms of this force into a Context made with it. Bonds stay those
    // that the Context was made with; another periodicity, name of λ or derivative is refused.
    void updateParametersInContext(OpenMM::Context& context);

  protected:
    OpenMM::ForceImpl* createImpl() const override;

  private:
    // Shared by copies of the force's settings, so that a Context does not hold another copy.
    std::shared_ptr<const std::string> model_ = std::make_shared<const std::string>();
    std::string model_name_;
    std::vector<int> atomic_numbers_, particles_;
    int topology_particles_ = 0;
    std::vector<OpenMM::Vec3> topology_box_;
    std::vector<std::pair<int, int>> bonds_;
    std::string precision_ = "mixed", device_ = "cpu";
    int threads_ = 0;
    bool deterministic_ = false, periodic_ = false, derivative_ = false;
    std::string scale_parameter_ = "symmd_scale";
};

}  // namespace symmd
