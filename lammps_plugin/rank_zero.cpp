#include "rank_zero.h"

namespace symmd_lammps {

RankZero::RankZero(MPI_Comm world) : world_(world) {
    MPI_Comm_rank(world_, &rank_);
    MPI_Comm_size(world_, &ranks_);
    if (rank_ != 0) return;
    counts_.resize(ranks_);
    lengths_.resize(ranks_);
    begins_.resize(ranks_);
}

void RankZero::count(int local) {
    local_ = local;
    MPI_Gather(&local_, 1, MPI_INT, counts_.data(), 1, MPI_INT, 0, world_);
    atoms_ = 0;
    for (const int atoms : counts_) atoms_ += atoms;
}

void RankZero::scale(int width) {
    int begin = 0;
    for (std::size_t rank = 0; rank < counts_.size(); ++rank) {
        lengths_[rank] = width * counts_[rank];
        begins_[rank] = begin;
        begin += lengths_[rank];
    }
}

void RankZero::gather(const double* local, int width, std::vector<double>& all) {
    scale(width);
    all.resize(std::size_t(width) * atoms_);
    MPI_Gatherv(local, width * local_, MPI_DOUBLE, all.data(), lengths_.data(), begins_.data(), MPI_DOUBLE, 0, world_);
}

void RankZero::gather(const int* local, std::vector<int>& all) {
    scale(1);
    all.resize(atoms_);
    MPI_Gatherv(local, local_, MPI_INT, all.data(), lengths_.data(), begins_.data(), MPI_INT, 0, world_);
}

void RankZero::scatter(const std::vector<double>& all, int width, double* local) {
    scale(width);
    MPI_Scatterv(all.data(), lengths_.data(), begins_.data(), MPI_DOUBLE, local, width * local_, MPI_DOUBLE, 0, world_);
}

}  // namespace symmd_lammps
