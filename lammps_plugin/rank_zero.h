// Numbers of atoms brought from all ranks to rank 0 and back, for libraries that know nothing of ranks.
#pragma once

#include <mpi.h>

#include <vector>

namespace symmd_lammps {

class RankZero {
  public:
    explicit RankZero(MPI_Comm world);

    // How many atoms each rank has now. All ranks call this, and then the others with arrays of that length.
    void count(int local);
    // Of all ranks together; 0 on other ranks than 0.
    int atoms() const { return atoms_; }

    // [local, width] of each rank to [atoms, width] of rank 0.
    void gather(const double* local, int width, std::vector<double>& all);
    void gather(const int* local, std::vector<int>& all);
    // [atoms, width] of rank 0 back to [local, width] of each rank.
    void scatter(const std::vector<double>& all, int width, double* local);

  private:
    void scale(int width);

    MPI_Comm world_;
    int rank_ = 0, ranks_ = 1, local_ = 0, atoms_ = 0;
    std::vector<int> counts_, lengths_, begins_;  // [ranks] on rank 0
};

}  // namespace symmd_lammps
