// pair_style symmd [precision single|double] [device cpu|cuda|cuda:K]
// pair_coeff * * MODEL ELEMENT ...          one element, or NULL under pair_style hybrid, for each atom type
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ghost_features.h"
#include "neighbour_rows.h"
#include "pair.h"
#include "symmd/engine.h"

namespace LAMMPS_NS {

class PairSymmd : public Pair {
  public:
    explicit PairSymmd(LAMMPS* lmp);
    ~PairSymmd() override;

    void settings(int narg, char** arg) override;
    void coeff(int narg, char** arg) override;
    void init_style() override;
    double init_one(int i, int j) override;
    void compute(int eflag, int vflag) override;

    // "scale" [types + 1, types + 1]: factor of energies and forces, for fix adapt and compute fep.
    void* extract(const char* name, int& dimensions) override;
    double memory_usage() override;

    int pack_forward_comm(int n, int* list, double* buffer, int pbc_flag, int* pbc) override;
    void unpack_forward_comm(int n, int first, double* buffer) override;

  private:
    void allocate();
    void load_model(const std::string& name);
    std::string device_of_rank(const std::string& names) const;
    void check_special_bonds();
    template <class Work>
    void on_all_ranks(Work work);
    void update_rows();
    void gather();
    void scatter(const symmd::Results& results);
    double common_scale() const;

    symmd::Precision precision_ = symmd::Precision::float32;
    std::string device_ = "cpu";
    double** scale_ = nullptr;  // [types + 1, types + 1] of energies and forces, set from outside
    double energy_unit_ = 1;    // units of LAMMPS in an eV
    std::string model_name_;
    std::unique_ptr<symmd::Engine> engine_;
    std::vector<int> species_of_type_;  // [types + 1]; -1 for NULL

    // Since LAMMPS last built its lists.
    symmd_lammps::NeighbourRows rows_;
    std::vector<symmd_lammps::Owner> owners_;
    std::vector<int64_t> names_;
    bigint rows_step_ = -1;
    int rows_all_ = -1;
    symmd_lammps::GhostFeatures ghost_features_;

    // Of this step, for the engine's atoms.
    std::vector<int32_t> species_;
    std::vector<double> positions_, atom_energy_, forces_, atom_virial_, sender_virial_;
};

}  // namespace LAMMPS_NS
