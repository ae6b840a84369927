// A bias of PLUMED as a force of OpenMM, for every platform (docs/plumed.md).
//
// Names of methods are in OpenMM's style, since users meet them beside OpenMM's own.
#pragma once

#include <memory>
#include <string>

#include "openmm/Force.h"
#include "symmd/error.h"

namespace symmd {

class PlumedRun;

// One input of PLUMED. The calculation, with its hills and open files, belongs to the force and begins with the first
// Context: a Context that is made again goes on with it, as does any later one of the same System. What is set after
// that has no effect. A copy of the force is another calculation.
class SYMMD_API PlumedForce : public OpenMM::Force {
  public:
    // `script`: lines of PLUMED's input.
    explicit PlumedForce(const std::string& script = "");
    ~PlumedForce() override;

    const std::string& getScript() const { return script_; }
    void setScript(const std::string& script) { script_ = script; }

    // Path of libplumedKernel.so; empty to look for it (csrc/plumed/kernel.h).
    const std::string& getKernel() const { return kernel_; }
    void setKernel(const std::string& path) { kernel_ = path; }

    // K, for what needs kT and says no temperature itself; 0 to tell PLUMED none.
    double getTemperature() const { return temperature_; }
    void setTemperature(double temperature);

    // File for PLUMED's log.
    const std::string& getLogFile() const { return log_file_; }
    void setLogFile(const std::string& path) { log_file_ = path; }

    // Go on with the files of an earlier process, as with RESTART in the script.
    bool getRestart() const { return restart_; }
    void setRestart(bool restart) { restart_ = restart; }

    // Ends the calculation: what PLUMED holds back is written. Contexts that still use the force fail from here on.
    void close();

    // Closes the calculations of all forces, before a program ends that does not destroy them.
    static void closeAll();

    // The box is passed on if the System has one; PLUMED alone asks for none.
    bool usesPeriodicBoundaryConditions() const override { return false; }

  protected:
    OpenMM::ForceImpl* createImpl() const override;

  private:
    std::string script_, kernel_, log_file_ = "plumed.log";
    double temperature_ = 0;
    bool restart_ = false;
    std::shared_ptr<PlumedRun> run_;
};

}  // namespace symmd
