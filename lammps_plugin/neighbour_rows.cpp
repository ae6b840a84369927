#include "neighbour_rows.h"

#include "lmptype.h"
#include "neigh_list.h"
#include "symmd/error.h"

namespace symmd_lammps {

void NeighbourRows::update(const LAMMPS_NS::NeighList& list, int local, int all) {
    same_ = list.inum == local;
    for (int k = 0; same_ && k < local; ++k) same_ = list.ilist[k] == k;
    if (!same_) {
        copy(list, local, all);
        return;
    }
    owned_ = local;
    atoms_ = all;
    counts_ = list.numneigh;
    neighbours_ = list.firstneigh;
    used_.assign(all, 0);
    for (int i = 0; i < local; ++i)
        for (int k = 0; k < list.numneigh[i]; ++k) used_[list.firstneigh[i][k] & NEIGHMASK] = 1;
}

void NeighbourRows::copy(const LAMMPS_NS::NeighList& list, int local, int all) {
    owned_ = list.inum;
    local_.assign(list.ilist, list.ilist + owned_);
    atom_.assign(all, -1);
    for (int k = 0; k < owned_; ++k) atom_[list.ilist[k]] = k;
    copied_counts_.resize(owned_);
    copied_.clear();
    for (int k = 0; k < owned_; ++k) {
        const int i = list.ilist[k];
        copied_counts_[k] = list.numneigh[i];
        for (int n = 0; n < list.numneigh[i]; ++n) {
            const int j = list.firstneigh[i][n] & NEIGHMASK;
            if (atom_[j] < 0) {
                if (j < local)
                    throw symmd::Error(
                        "the neighbour list must have rows for all atoms of this style, found a neighbour without one; "
                        "map all types of a pair of this style to elements");
                atom_[j] = int(local_.size());
                local_.push_back(j);
            }
            copied_.push_back(atom_[j]);
        }
    }
    atoms_ = int(local_.size());
    copied_rows_.resize(owned_);
    const int32_t* row = copied_.data();
    for (int k = 0; k < owned_; row += copied_counts_[k], ++k) copied_rows_[k] = row;
    counts_ = copied_counts_.data();
    neighbours_ = copied_rows_.data();
    used_.assign(atoms_, 1);
}

double NeighbourRows::memory_bytes() const {
    return double(used_.capacity()) + double(local_.capacity() + atom_.capacity()) * sizeof(int) +
           double(copied_counts_.capacity() + copied_.capacity()) * sizeof(int32_t) +
           double(copied_rows_.capacity()) * sizeof(const int32_t*);
}

}  // namespace symmd_lammps
