// The edges of one evaluation: those within the cutoff, packed by receiver, and which thread works on which of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/neighbour_list.h"
#include "symmd/engine.h"

namespace symmd {

// Atoms and where their neighbours are listed: in `list` with images by `cell`, or else in a caller's rows.
struct Surroundings {
    int64_t owned = 0, atoms = 0;
    const int32_t* species = nullptr;
    const double* positions = nullptr;
    const NeighbourEdges* list = nullptr;
    const double* cell = nullptr;  // null without images
    const Neighbourhood* rows = nullptr;
    const int64_t* names = nullptr;  // what messages call the atoms, counted from 0; null: as they are
    // Threads share the atoms by their number, not by the work, which depends on how far the list reaches today.
    bool evenly = false;
};

template <class T>
class EdgeRows {
  public:
    static constexpr int64_t block_atoms = 64;  // atoms of which a part knows whether its edges touch them

    // The work of one thread.
    struct Part {
        int64_t first = 0, last = 0;   // its receivers
        int64_t* row_start = nullptr;  // edges of receiver i: row_start[i] … row_start[i + 1] - 1
        std::vector<uint8_t> touched;  // [blocks] whether atoms of the block are at an end of its edges
        std::string problem;           // what is wrong with its atoms; empty: nothing
    };

    // Sizes and parts; does not look at positions.
    void prepare(const Surroundings& around, int parts, double cutoff);
    // Fills one part (eq. 1).
    void collect(int part);

    const std::vector<Part>& parts() const { return parts_; }
    const Part& part(int index) const { return parts_[index]; }
    // Edges in the list of receivers first … last-1: at least as many as are within the cutoff.
    int64_t listed(int64_t first, int64_t last) const { return list_start_[last] - list_start_[first]; }
    const int64_t* sender() const { return sender_.data(); }           // [edges] atom that stands for the sender
    const int64_t* sender_species() const { return species_.data(); }  // [edges]
    const T* vectors() const { return vectors_.data(); }               // [edges, 3] r_sender - r_receiver, Å
    // Atoms that have features: up to the last one that stands for any.
    int64_t standing() const { return standing_; }
    int64_t blocks() const { return (standing_ + block_atoms - 1) / block_atoms; }
    std::size_t bytes() const;

  private:
    void divide();
    void note_problem(Part& part, int64_t receiver, int64_t sender, double square) const;

    Surroundings around_;
    double cutoff_ = 0;
    int64_t standing_ = 0;
    std::vector<Part> parts_;
    Buffer<int64_t> list_start_, row_start_, sender_, species_;
    Buffer<T> vectors_;
};

extern template class EdgeRows<float>;
extern template class EdgeRows<double>;

}  // namespace symmd
