// fix ID group symmd/plumed plumedfile FILE [outfile FILE] [kernel FILE]
//
// A bias of PLUMED, whose kernel is loaded at run time. Keywords, output and what enters energy and pressure are those
// of LAMMPS' own fix plumed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fix.h"
#include "plumed/once_per_step.h"
#include "plumed/session.h"
#include "rank_zero.h"

namespace LAMMPS_NS {

class FixPlumed : public Fix {
  public:
    FixPlumed(LAMMPS* lmp, int narg, char** arg);
    ~FixPlumed() override;

    int setmask() override;
    void init() override;
    void setup(int vflag) override;
    void min_setup(int vflag) override;
    void post_force(int vflag) override;
    void setup_pre_force_respa(int vflag, int level) override;
    void post_force_respa(int vflag, int level, int iteration) override;
    void min_post_force(int vflag) override;
    void end_of_step() override;
    // Bias, in LAMMPS' units of energy.
    double compute_scalar() override { return bias_; }
    double memory_usage() override;

  private:
    // How the ranks share one calculation.
    enum class Sharing {
        one_rank,         // there is no other
        message_passing,  // each rank gives its atoms, and the kernel uses LAMMPS' communicator
        rank_zero,        // the kernel knows nothing of ranks: rank 0 has all atoms
    };

    void start();
    std::string choose_kernel();
    void open_session();
    void configure();
    void check_order();
    int level() const;
    void speak(const std::function<void()>& talk);
    void evaluate();
    bool evaluate_again();
    void collect();
    void calculate();
    double potential_energy();
    void update_once();

    std::string plumed_file_, log_file_, kernel_;
    Sharing sharing_ = Sharing::one_rank;
    bool started_ = false;
    int atoms_ = 0;         // of the whole system, which must not change
    double time_step_ = 0;  // that PLUMED was told
    bool respa_ = false;
    int levels_ = 0;  // of rRESPA
    std::string energy_id_, pressure_id_;
    class Compute *energy_ = nullptr, *pressure_ = nullptr;

    // Null on the ranks that leave PLUMED to rank 0.
    std::unique_ptr<symmd::plumed::Session> session_;
    symmd::plumed::OncePerStep once_;
    symmd_lammps::RankZero rank_zero_;

    // Of this rank's atoms in the last evaluation, in LAMMPS' order of that time.
    std::vector<int> tags_;
    std::vector<double> bias_forces_;  // [local, 3]
    double bias_ = 0;
    int stop_ = 0;

    // What PLUMED gets: of this rank's atoms, or of all atoms on rank 0. It keeps pointers to these.
    symmd::plumed::OncePerStep::Box box_{};
    double plumed_virial_[9] = {}, system_virial_[9] = {}, system_energy_ = 0;
    int shared_count_ = 0;
    std::vector<int> shared_indices_;
    std::vector<double> masses_, charges_, shared_positions_, shared_masses_, shared_charges_, shared_forces_;
};

}  // namespace LAMMPS_NS
