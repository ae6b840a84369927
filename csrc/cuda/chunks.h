// A structure in pieces, for a device whose memory does not hold the features of all atoms at once. Each piece computes
// the energies of a few atoms, with as many atoms around them as the layers reach, and what acts on them is added up.
//
// Logic of the host: nothing here knows CUDA.
#pragma once

#include <cstdint>
#include <vector>

namespace symmd {

// A listed structure: edges of atom i are row_start[i] … row_start[i + 1] - 1. As everywhere, each pair stands in both
// rows.
struct ListedStructure {
    int64_t atoms = 0;
    const int32_t* row_start = nullptr;  // [atoms + 1]
    const int32_t* sender = nullptr;     // [edges]
};

// A piece, with its own numbers for atoms and edges. Its atoms are those whose energy counts, then their neighbours,
// then the neighbours of those, and so on: atoms 0 … reach[k]-1 are at most k edges away from the first reach[0].
struct Chunk {
    std::vector<int32_t> atoms;             // [reach[layers]] numbers in the structure
    std::vector<int32_t> reach;             // [layers + 1]
    std::vector<int32_t> row_start;         // [reach[layers - 1] + 1]
    std::vector<int32_t> receiver, sender;  // [edges]
    std::vector<int32_t> edge;              // [edges] numbers in the structure
    // For each layer, its edges by sender: of the first layer all, of the others those of its receivers.
    std::vector<std::vector<int32_t>> reverse_start, reverse;

    // Receivers and senders of a layer: a last layer works on the first reach[0] atoms.
    int64_t receivers(int layer) const { return reach[reach.size() - 2 - std::size_t(layer)]; }
    int64_t senders(int layer) const { return reach[reach.size() - 1 - std::size_t(layer)]; }
    int64_t edges() const { return int64_t(sender.size()); }
};

class ChunkMaker {
  public:
    ChunkMaker(const ListedStructure& structure, int layers);

    // The piece for the energies of atoms members[0] … members[count - 1], all different.
    Chunk make(const int64_t* members, int64_t count);

  private:
    void gather_atoms(const int64_t* members, int64_t count, Chunk& chunk);
    void gather_edges(Chunk& chunk) const;
    void sort_by_sender(int layer, Chunk& chunk) const;

    const ListedStructure structure_;
    const int layers_;
    std::vector<int32_t> local_;  // [atoms of the structure] number in the piece, or -1
};

// Edges of rows by sender, ascending for each: start [senders + 1], reverse [edges]. Edges from `edges` on are left
// out.
void sort_by_sender(const int32_t* sender, int64_t edges, int64_t senders, int32_t* start, int32_t* reverse);

}  // namespace symmd
