// Between channels and heads, for several edges at a time: sums over the channels of each head, and the numbers of the
// heads spread to their channels again.
#pragma once

#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// Numbers of edges x channels, or of edges x heads, in one row without gaps.
template <class S>
struct EdgeNumbers {
    using T = RealOf<S>;
    T *value, *slope;  // slope: of dual numbers only

    PackOf<S> at(int64_t place) const { return load_with_slope<S>(value, slope, place); }
    void put(int64_t place, PackOf<S> pack) const { store_with_slope<S>(value, slope, place, pack); }
};

template <class S>
class HeadSums {
    using T = RealOf<S>;
    using V = PackOf<S>;
    static constexpr int W = lanes<T>;
    const int channels, heads, width;
    int halvings = 0, rest;  // width = 2^halvings * rest
    // By block of channels: the head of its first channel, and the heads of all its channels counted from that one.
    PackIndex<T>* index;
    int* first_head;

  public:
    static int64_t index_bytes(int64_t channels) { return channels / W * int64_t(sizeof(PackIndex<T>) + sizeof(int)); }

    HeadSums(int channels, int heads, char* index_memory)
        : channels(channels),
          heads(heads),
          width(channels / heads),
          rest(width),
          index(reinterpret_cast<PackIndex<T>*>(index_memory)),
          first_head(reinterpret_cast<int*>(index + channels / W)) {
        for (; rest % 2 == 0; rest /= 2) ++halvings;
        for (int block = 0; block < channels / W; ++block) {
            first_head[block] = block * W / width;
            for (int lane = 0; lane < W; ++lane) index[block][lane] = (block * W % width + lane) / width;
        }
    }

    // [edges, channels] becomes [edges, heads], in place. May look at eight packs more.
    void sum(EdgeNumbers<S> numbers, int edges) const {
        int count = edges * channels, left = halvings;
        for (; left >= 3; left -= 3) count = halve<3>(numbers, count);
        if (left == 2) halve<2>(numbers, count);
        if (left == 1) halve<1>(numbers, count);
        if (rest == 1) return;
        for (int k = 0; k < edges * heads; ++k) {
            T value = 0, slope = 0;
            for (int c = 0; c < rest; ++c) {
                value += numbers.value[k * rest + c];
                if constexpr (is_dual<S>) slope += numbers.slope[k * rest + c];
            }
            numbers.value[k] = value;
            if constexpr (is_dual<S>) numbers.slope[k] = slope;
        }
    }

    // For each channel of a block, the number of its head. May look at one pack more. A copy of pointers, for loops
    // that store.
    struct Spread {
        const PackIndex<T>* index;
        const int* first_head;
        // `start`: of the edge's heads.
        V operator()(EdgeNumbers<S> numbers, int start, int block) const {
            return select_lanes(numbers.at(start + first_head[block]), index[block]);
        }
    };
    Spread spread() const { return {index, first_head}; }

  private:
    template <int Times>
    static int halve(EdgeNumbers<S> numbers, int count) {
        constexpr int together = 1 << Times;
        for (int k = 0; k * together < count; k += W) {
            const auto pack = [&](int n) { return numbers.at(k * together + n * W); };
            numbers.put(k, sums_of_lanes<T, together>(pack));
        }
        return count / together;
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
