// Node products of one atom, channel by channel: Q = A (x) A and X = Q (x) A (docs/theory.md, eq. 20-21), and their
// backward (eq. 46-48).
#pragma once

#include "coupling.h"
#include "kernels.h"
#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L, int LOut, bool Cube, class S>
class NodeProducts {
    using T = RealOf<S>;
    using V = PackOf<S>;
    using P = Pack<T>;
    static constexpr int middle = Cube ? L : LOut;
    using Square = Coupling<L, L, middle, true>;
    using Third = Coupling<L, L, LOut>;
    static constexpr int D = component_count(L), DMiddle = component_count(middle), DOut = component_count(LOut);
    static constexpr int powers = Cube ? 2 : 1, W = lanes<T>;

    const int64_t channels;
    const ProductInput<T>& in;

  public:
    NodeProducts(const ProductShape& shape, const ProductInput<T>& in) : channels(shape.channels), in(in) {}

    void forward(int64_t first, int64_t last, const ProductOutput<T>& out) const {
        for (int64_t atom = first; atom < last; ++atom) {
            for (int64_t start = 0; start < channels; start += W) {
                V a[D], square[DMiddle], third[DOut];
                evaluate(atom, start, a, square, third);
                write(atom, start, square, third, out.products);
            }
        }
    }

    void backward(int64_t first, int64_t last, const ProductOutput<T>& out) const {
        // A simulation has no use for the weights' gradients, and training always asks for them.
        if (is_dual<S> || out.square_weight || out.cube_weight) {
            pull_all<true>(first, last, out);
        } else {
            pull_all<is_dual<S>>(first, last, out);
        }
    }

  private:
    template <bool Weights>
    void pull_all(int64_t first, int64_t last, const ProductOutput<T>& out) const {
        for (int64_t atom = first; atom < last; ++atom) {
            for (int64_t start = 0; start < channels; start += W) pull<Weights>(atom, start, out);
        }
    }

    P square_weight(int64_t atom, int64_t start, int path) const {
        return load<T>(in.square_weight + (in.species[atom] * Square::path_count + path) * channels + start);
    }
    P cube_weight(int64_t atom, int64_t start, int path) const {
        return load<T>(in.cube_weight + (in.species[atom] * Third::path_count + path) * channels + start);
    }

    void evaluate(int64_t atom, int64_t start, V* a, V* square, V* third) const {
        for (int c = 0; c < D; ++c)
            a[c] = load_with_slope<S>(in.aggregated, in.aggregated_slope, (atom * D + c) * channels + start);
        for (int c = 0; c < DMiddle; ++c) square[c] = zero_pack<V>();
        for_each<Square::term_count>([&](auto k) {
            constexpr auto& terms = Square::terms.at;
            const auto weight = T(terms[k].value) * square_weight(atom, start, terms[k].path);
            square[terms[k].c3] += weight * a[terms[k].c1] * a[terms[k].c2];
        });
        if constexpr (Cube) {
            for (int c = 0; c < DOut; ++c) third[c] = zero_pack<V>();
            for_each<Third::term_count>([&](auto k) {
                constexpr auto& terms = Third::terms.at;
                const auto weight = T(terms[k].value) * cube_weight(atom, start, terms[k].path);
                third[terms[k].c3] += weight * square[terms[k].c1] * a[terms[k].c2];
            });
        }
    }

    void write(int64_t atom, int64_t start, const V* square, const V* third, T* to) const {
        T* base = to + atom * powers * DOut * channels + start;
        for (int c = 0; c < DOut; ++c) {
            store<T>(base + c * channels, outcome(square[c]));
            if constexpr (Cube) store<T>(base + (DOut + c) * channels, outcome(third[c]));
        }
    }

    template <bool Weights>
    void pull(int64_t atom, int64_t start, const ProductOutput<T>& out) const {
        V a[D], square[DMiddle], third[DOut], a_pull[D], square_pull[DMiddle];
        evaluate(atom, start, a, square, third);
        if (out.products) write(atom, start, square, third, out.products);
        const T* pulls = in.pull + atom * powers * DOut * channels + start;
        for (int c = 0; c < D; ++c) a_pull[c] = zero_pack<V>();
        for (int c = 0; c < DMiddle; ++c) {
            square_pull[c] = zero_pack<V>();
            if (c < DOut) square_pull[c] += load<T>(pulls + c * channels);
        }
        if constexpr (Cube) {
            V weight_pull[Third::path_count];
            for (V& pull : weight_pull) pull = zero_pack<V>();
            for_each<Third::term_count>([&](auto k) {
                constexpr auto& terms = Third::terms.at;
                const auto part = T(terms[k].value) * load<T>(pulls + (DOut + terms[k].c3) * channels);
                const auto weighted = part * cube_weight(atom, start, terms[k].path);
                if constexpr (Weights) weight_pull[terms[k].path] += part * square[terms[k].c1] * a[terms[k].c2];
                square_pull[terms[k].c1] += weighted * a[terms[k].c2];
                a_pull[terms[k].c2] += weighted * square[terms[k].c1];
            });
            if (Weights && out.cube_weight) add_weights<Third::path_count>(atom, start, weight_pull, out.cube_weight);
        }
        V weight_pull[Square::path_count];
        for (V& pull : weight_pull) pull = zero_pack<V>();
        for_each<Square::term_count>([&](auto k) {
            constexpr auto& terms = Square::terms.at;
            const auto part = T(terms[k].value) * square_pull[terms[k].c3];
            const auto weighted = part * square_weight(atom, start, terms[k].path);
            if constexpr (Weights) weight_pull[terms[k].path] += part * a[terms[k].c1] * a[terms[k].c2];
            a_pull[terms[k].c1] += weighted * a[terms[k].c2];
            a_pull[terms[k].c2] += weighted * a[terms[k].c1];
        });
        if (Weights && out.square_weight) add_weights<Square::path_count>(atom, start, weight_pull, out.square_weight);
        if (out.aggregated)
            for (int c = 0; c < D; ++c)
                store<T>(out.aggregated + (atom * D + c) * channels + start, outcome(a_pull[c]));
    }

    template <int Paths>
    void add_weights(int64_t atom, int64_t start, const V* weight_pull, T* to) const {
        for (int path = 0; path < Paths; ++path)
            add_to<T>(to + (in.species[atom] * Paths + path) * channels + start, outcome(weight_pull[path]));
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
