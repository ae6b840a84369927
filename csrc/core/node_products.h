// Node products of one atom, channel by channel: Q = A (x) A and X = Q (x) A (docs/theory.md, eq. 20-21), and their
// backward (eq. 46-48).
#pragma once

#include "coupling.h"
#include "kernels.h"
#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// The arithmetic, of one pack of channels. `square_weight(path)` and `cube_weight(path)` are those of the atom's
// species.
template <int L, int LOut, bool Cube, class S>
struct ProductArithmetic {
    using T = RealOf<S>;
    using V = PackOf<S>;
    static constexpr int middle = Cube ? L : LOut;
    using Square = Coupling<L, L, middle, true>;
    using Third = Coupling<L, L, LOut>;
    static constexpr int D = component_count(L), DMiddle = component_count(middle), DOut = component_count(LOut);

    // Q [DMiddle], and with the cube X [DOut], of a [D].
    template <class SquareWeight, class CubeWeight>
    SYMMD_FUNCTION __attribute__((always_inline)) static void evaluate(const V* a, const SquareWeight& square_weight,
                                                                       const CubeWeight& cube_weight, V* square,
                                                                       V* third) {
        for (int c = 0; c < DMiddle; ++c) square[c] = zero_pack<V>();
        for_each<Square::term_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledTerm& term = Square::term(k);
            const auto weight = T(term.value) * square_weight(term.path);
            square[term.c3] += weight * a[term.c1] * a[term.c2];
        });
        if constexpr (Cube) {
            for (int c = 0; c < DOut; ++c) third[c] = zero_pack<V>();
            for_each<Third::term_count>([&](auto k) __attribute__((always_inline)) {
                const CoupledTerm& term = Third::term(k);
                const auto weight = T(term.value) * cube_weight(term.path);
                third[term.c3] += weight * square[term.c1] * a[term.c2];
            });
        }
    }

    // eq. 46 and the first part of eq. 47, from the pull on X: added to the pulls on Q and A. `Weights`: the pulls on
    // the weights too (eq. 48), added to `weight_pull` [paths].
    template <bool Weights, class CubePull, class CubeWeight>
    SYMMD_FUNCTION __attribute__((always_inline)) static void pull_cube(const V* a, const V* square,
                                                                        const CubePull& cube_pull,
                                                                        const CubeWeight& cube_weight, V* square_pull,
                                                                        V* a_pull, V* weight_pull) {
        for_each<Third::term_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledTerm& term = Third::term(k);
            const auto part = T(term.value) * cube_pull(term.c3);
            const auto weighted = part * cube_weight(term.path);
            if constexpr (Weights) weight_pull[term.path] += part * square[term.c1] * a[term.c2];
            square_pull[term.c1] += weighted * a[term.c2];
            a_pull[term.c2] += weighted * square[term.c1];
        });
    }

    // The rest of eq. 47, from the whole pull on Q.
    template <bool Weights, class SquareWeight>
    SYMMD_FUNCTION __attribute__((always_inline)) static void pull_square(const V* a, const V* square_pull,
                                                                          const SquareWeight& square_weight, V* a_pull,
                                                                          V* weight_pull) {
        for_each<Square::term_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledTerm& term = Square::term(k);
            const auto part = T(term.value) * square_pull[term.c3];
            const auto weighted = part * square_weight(term.path);
            if constexpr (Weights) weight_pull[term.path] += part * a[term.c1] * a[term.c2];
            a_pull[term.c1] += weighted * a[term.c2];
            a_pull[term.c2] += weighted * a[term.c1];
        });
    }
};

template <int L, int LOut, bool Cube, class S>
class NodeProducts {
    using T = RealOf<S>;
    using V = PackOf<S>;
    using P = Pack<T>;
    using Arithmetic = ProductArithmetic<L, LOut, Cube, S>;
    using Square = typename Arithmetic::Square;
    using Third = typename Arithmetic::Third;
    static constexpr int D = Arithmetic::D, DMiddle = Arithmetic::DMiddle, DOut = Arithmetic::DOut;
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

    auto square_weight(int64_t atom, int64_t start) const {
        return [=](int path) __attribute__((always_inline)) {
            return load<T>(in.square_weight + (in.species[atom] * Square::path_count + path) * channels + start);
        };
    }
    auto cube_weight(int64_t atom, int64_t start) const {
        return [=](int path) __attribute__((always_inline)) {
            return load<T>(in.cube_weight + (in.species[atom] * Third::path_count + path) * channels + start);
        };
    }

    void evaluate(int64_t atom, int64_t start, V* a, V* square, V* third) const {
        for (int c = 0; c < D; ++c)
            a[c] = load_with_slope<S>(in.aggregated, in.aggregated_slope, (atom * D + c) * channels + start);
        Arithmetic::evaluate(a, square_weight(atom, start), cube_weight(atom, start), square, third);
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
            const auto cube_pull = [&](int c) __attribute__((always_inline)) {
                return load<T>(pulls + (DOut + c) * channels);
            };
            Arithmetic::template pull_cube<Weights>(a, square, cube_pull, cube_weight(atom, start), square_pull, a_pull,
                                                    weight_pull);
            if (Weights && out.cube_weight) add_weights<Third::path_count>(atom, start, weight_pull, out.cube_weight);
        }
        V weight_pull[Square::path_count];
        for (V& pull : weight_pull) pull = zero_pack<V>();
        Arithmetic::template pull_square<Weights>(a, square_pull, square_weight(atom, start), a_pull, weight_pull);
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
