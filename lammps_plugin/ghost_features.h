// The exchange of features between ranks (docs/theory.md, eq. 63).
//
// LAMMPS keeps a ghost for every image of an atom within the cutoff and the skin. Few of them need features sent:
// images of a rank's own atoms have theirs at hand, several images of a remote atom share one copy, and corners of the
// skin are nobody's neighbours. What is left goes straight from owner to user, one message for each pair of ranks.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "neighbour_rows.h"
#include "symmd/engine.h"

namespace symmd_lammps {

// Who owns an atom, and the owner's LAMMPS index of it.
struct Owner {
    int rank = 0, local = 0;
};

class GhostFeatures : public symmd::GhostExchange {
  public:
    explicit GhostFeatures(MPI_Comm world);

    // Plans the exchange for new neighbour lists, on all ranks together. `owners`: [atoms of LAMMPS].
    void plan(const NeighbourRows& rows, const std::vector<Owner>& owners);

    // [atoms of the engine] as symmd::Neighbourhood wants it.
    const int32_t* stands_for() const { return stands_for_.data(); }

    // Work that fails on one rank only must end on all of them, and nobody may wait for a message that never comes.
    // begin_agreement() on all ranks starts it; agree() tells whether any rank has a problem: the text of the lowest
    // rank that has one, on all ranks; empty if there is none. The first exchange of features agrees by itself and
    // throws that text. A second agree() repeats what the first has found.
    void begin_agreement() { agreed_ = false; }
    const std::string& agree(const std::string& problem);

    void forward(void* rows, int64_t width, symmd::Precision precision) override;
    void backward(void* rows, int64_t width, symmd::Precision precision) override;

    // Atoms whose features come from other ranks.
    int64_t received() const { return int64_t(ghosts_.size()); }
    double memory_bytes() const;

  private:
    // Atoms that are exchanged with one other rank: a part of `ghosts_` or of `wanted_`.
    struct Partner {
        int rank = 0;
        int64_t first = 0, count = 0;
    };

    template <class T>
    void send_to_ghosts(T* rows, int64_t width);
    template <class T>
    void add_to_owners(T* rows, int64_t width);
    template <class T>
    void transfer(const std::vector<Partner>& from, T* received, const std::vector<Partner>& to, const T* sent,
                  int64_t width);
    void agree_on_partners(const std::vector<int>& requests);

    MPI_Comm world_;
    int me_ = 0, ranks_ = 1;
    bool agreed_ = false;
    std::string common_problem_;
    std::vector<int32_t> stands_for_;
    std::vector<int> ghosts_, wanted_;  // engine's atoms that others send to here, and that others want from here
    std::vector<Partner> senders_, receivers_;
    std::vector<char> received_, sent_;
    std::vector<MPI_Request> waiting_;
};

}  // namespace symmd_lammps
