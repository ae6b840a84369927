// The calculation of a PlumedForce: which evaluations PLUMED sees, and which of them are steps of the dynamics.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "openmm/Vec3.h"
#include "plumed/once_per_step.h"
#include "plumed/session.h"

namespace symmd {

// What a calculation begins with. Units are OpenMM's, nm, ps, kJ/mol, u and e, which are PLUMED's too.
struct PlumedStart {
    std::string script, kernel, log_file;
    double time_step = 0, temperature = 0;
    bool restart = false;
    std::vector<double> masses, charges;  // [particles]; no charges: PLUMED has none
};

class PlumedRun {
  public:
    PlumedRun();
    ~PlumedRun();

    // The first call begins the calculation; a later one must have the same number of particles.
    void begin(const PlumedStart& start);

    // Energy of the bias (kJ/mol) and its forces (kJ/mol/nm). `box`: zeros for none.
    double evaluate(int64_t step, const plumed::OncePerStep::Box& box, const std::vector<OpenMM::Vec3>& positions,
                    std::vector<OpenMM::Vec3>& forces);

    // The last evaluation moves the particles of `user`, in this step. Its update takes place in `settle`, or before
    // the next evaluation: a GPU's evaluation may not be over yet.
    void step_of_dynamics(const void* user, int64_t step);
    void settle();

    // `user` does not run any more.
    void leave(const void* user);

    void close();
    static void close_all();

  private:
    void open(const PlumedStart& start);
    void settle_locked();
    void calculate(int64_t step, const plumed::OncePerStep::Box& box, const std::vector<OpenMM::Vec3>& positions);

    std::mutex mutex_;  // GPUs evaluate in a thread of their own
    std::unique_ptr<plumed::Session> session_;
    bool begun_ = false, due_ = false;
    int64_t due_step_ = 0;
    const void* user_ = nullptr;
    plumed::OncePerStep once_;

    // PLUMED keeps pointers to these.
    plumed::OncePerStep::Box box_{};
    std::vector<double> masses_, charges_, positions_, forces_;
    double virial_[9] = {}, bias_ = 0;
    int stop_ = 0;
};

}  // namespace symmd
