#include "cuda/chunks.h"

#include <algorithm>

namespace symmd {

void sort_by_sender(const int32_t* sender, int64_t edges, int64_t senders, int32_t* start, int32_t* reverse) {
    std::fill_n(start, senders + 1, 0);
    for (int64_t edge = 0; edge < edges; ++edge) ++start[sender[edge] + 1];
    for (int64_t atom = 0; atom < senders; ++atom) start[atom + 1] += start[atom];
    // Each start moves to the end of its row, which is the start of the next.
    for (int64_t edge = 0; edge < edges; ++edge) reverse[start[sender[edge]]++] = int32_t(edge);
    for (int64_t atom = senders; atom > 0; --atom) start[atom] = start[atom - 1];
    if (senders > 0) start[0] = 0;
}

ChunkMaker::ChunkMaker(const ListedStructure& structure, int layers)
    : structure_(structure), layers_(layers), local_(std::size_t(structure.atoms), -1) {}

Chunk ChunkMaker::make(const int64_t* members, int64_t count) {
    Chunk chunk;
    gather_atoms(members, count, chunk);
    gather_edges(chunk);
    chunk.reverse_start.resize(std::size_t(layers_));
    chunk.reverse.resize(std::size_t(layers_));
    for (int layer = 0; layer < layers_; ++layer) sort_by_sender(layer, chunk);
    for (const int32_t atom : chunk.atoms) local_[atom] = -1;
    return chunk;
}

void ChunkMaker::gather_atoms(const int64_t* members, int64_t count, Chunk& chunk) {
    const auto add = [&](int32_t atom) {
        if (local_[atom] >= 0) return;
        local_[atom] = int32_t(chunk.atoms.size());
        chunk.atoms.push_back(atom);
    };
    for (int64_t k = 0; k < count; ++k) add(int32_t(members[k]));
    chunk.reach.push_back(int32_t(chunk.atoms.size()));
    for (int hop = 0; hop < layers_; ++hop) {
        // Only those that came with the hop before have neighbours that are not there yet.
        const std::size_t first = hop == 0 ? 0 : std::size_t(chunk.reach[hop - 1]), last = chunk.atoms.size();
        for (std::size_t k = first; k < last; ++k) {
            const int32_t atom = chunk.atoms[k];
            for (int32_t edge = structure_.row_start[atom]; edge < structure_.row_start[atom + 1]; ++edge)
                add(structure_.sender[edge]);
        }
        chunk.reach.push_back(int32_t(chunk.atoms.size()));
    }
}

void ChunkMaker::gather_edges(Chunk& chunk) const {
    const int64_t receivers = chunk.receivers(0);
    chunk.row_start.reserve(std::size_t(receivers) + 1);
    chunk.row_start.push_back(0);
    for (int64_t k = 0; k < receivers; ++k) {
        const int32_t atom = chunk.atoms[k];
        for (int32_t edge = structure_.row_start[atom]; edge < structure_.row_start[atom + 1]; ++edge) {
            chunk.receiver.push_back(int32_t(k));
            chunk.sender.push_back(local_[structure_.sender[edge]]);
            chunk.edge.push_back(edge);
        }
        chunk.row_start.push_back(int32_t(chunk.sender.size()));
    }
}

void ChunkMaker::sort_by_sender(int layer, Chunk& chunk) const {
    const int64_t edges = chunk.row_start[chunk.receivers(layer)];
    std::vector<int32_t>& start = chunk.reverse_start[layer];
    std::vector<int32_t>& reverse = chunk.reverse[layer];
    start.resize(std::size_t(chunk.senders(layer)) + 1);
    reverse.resize(std::size_t(edges));
    symmd::sort_by_sender(chunk.sender.data(), edges, chunk.senders(layer), start.data(), reverse.data());
}

}  // namespace symmd
