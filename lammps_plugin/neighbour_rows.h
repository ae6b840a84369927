// The atoms that the engine sees, and their neighbours: LAMMPS' own list as it is, or, when the list leaves atoms out
// (NULL types under pair_style hybrid), a copy that counts only those which take part.
#pragma once

#include <cstdint>
#include <vector>

namespace LAMMPS_NS {
class NeighList;
}

namespace symmd_lammps {

class NeighbourRows {
  public:
    // After LAMMPS has built its list anew. `local`, `all`: LAMMPS' owned atoms, and those with its ghosts.
    void update(const LAMMPS_NS::NeighList& list, int local, int all);

    // The engine's atoms are LAMMPS' atoms, with the same indices.
    bool same() const { return same_; }
    int owned() const { return owned_; }
    int atoms() const { return atoms_; }
    const int32_t* counts() const { return counts_; }
    const int32_t* const* neighbours() const { return neighbours_; }
    // LAMMPS' index of one of the engine's atoms, and the other way round: -1 if it takes no part.
    int local_of(int atom) const { return same_ ? atom : local_[atom]; }
    int atom_of(int local) const { return same_ ? local : atom_[local]; }
    // [atoms] whether the atom is anybody's neighbour.
    const std::vector<char>& used() const { return used_; }

    double memory_bytes() const;

  private:
    void copy(const LAMMPS_NS::NeighList& list, int local, int all);

    bool same_ = true;
    int owned_ = 0, atoms_ = 0;
    const int32_t* counts_ = nullptr;
    const int32_t* const* neighbours_ = nullptr;
    std::vector<char> used_;
    std::vector<int> local_, atom_;
    std::vector<int32_t> copied_counts_, copied_;
    std::vector<const int32_t*> copied_rows_;
};

}  // namespace symmd_lammps
