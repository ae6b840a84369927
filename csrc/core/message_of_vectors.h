// The message of an edge where values have degrees to 1, harmonics and messages to 2: what message.h does, in half the
// operations. A vector v meets the direction n in two ways only, through n·v and as v itself (docs/theory.md,
// eq. 67-69); messages of degree 2 are symmetric tensors z n as long as they are summed.
#pragma once

#include "message.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <class S>
struct Message<1, 2, 2, S> {
    using T = RealOf<S>;
    using P = Pack<T>;
    using V = PackOf<S>;
    using Table = Coupling<1, 2, 2>;
    static constexpr int D1 = 4, D2 = 9, D3 = 9, shared = 4, paths = Table::path_count;
    static constexpr int record_size = 4, scored_paths = 5;
    static constexpr int sum_size = 10, pull_size = 10;  // degree 0, 1, and the six of a symmetric tensor
    static constexpr int direction_pulls = 3;            // the gradient of eq. 44 itself
    // Multiples of the direction: n, A/C n, F/2G n of eq. 68-69.
    static constexpr int plain = 0, along = 3, inward = 6, factor_count = 9;

    struct Kept {
        V distance_by_pull, distance_by_query;  // Σ_p ρ̄_p ρ'_p of eq. 43
        V scalar, lengthwise, own;              // y_0, y_1, u_1 of eq. 67
        V r000, r110, r011, r121, r022, r112;   // ρ of the paths, by degrees of value, harmonic, message
        V turned[3];                            // tensor of the pull on the aggregate, times n
    };

    SYMMD_FUNCTION static void make_factors(const V* direction, V* factor) {
        for (int axis = 0; axis < 3; ++axis) {
            factor[plain + axis] = direction[axis];
            factor[along + axis] = T(A / C) * direction[axis];
            factor[inward + axis] = T(F / (2 * G)) * direction[axis];
        }
    }

    static constexpr int shape_size = 3;
    SYMMD_FUNCTION static void make_shape(const V* direction, V* shape) {
        for (int axis = 0; axis < 3; ++axis) shape[axis] = direction[axis];
    }
    SYMMD_FUNCTION static V factor_of(const V* shape, int k) {
        return k < along ? shape[k] : k < inward ? T(A / C) * shape[k - along] : T(F / (2 * G)) * shape[k - inward];
    }

    SYMMD_FUNCTION static void prepare_query(V* query) {
        query[0] = T(O) * query[0];
        for (int c = 1; c < 4; ++c) query[c] = T(C) * query[c];
    }
    SYMMD_FUNCTION static void finish_query(V* query_pull) { prepare_query(query_pull); }

    // Degree 2 becomes the tensor that eq. 69 contracts with z n: its xx, yy, zz, xy, xz, yz.
    SYMMD_FUNCTION static void prepare_pull(P* pull) {
        pull[0] = T(O) * pull[0];
        for (int c = 1; c < 4; ++c) pull[c] = T(C) * pull[c];
        const P xz = pull[4], xy = pull[5], polar = T(G * root5) * pull[6], yz = pull[7],
                rest = T(G * root15) * pull[8];
        pull[4] = -polar - rest;
        pull[5] = polar + polar;
        pull[6] = rest - polar;
        pull[7] = T(G * root15) * xy;
        pull[8] = T(G * root15) * xz;
        pull[9] = T(G * root15) * yz;
    }

    SYMMD_FUNCTION static void finish_sum(const V* sum, V* aggregate) {
        aggregate[0] = T(O) * sum[0];
        for (int c = 1; c < 4; ++c) aggregate[c] = T(C) * sum[c];
        aggregate[4] = T(G * root15) * sum[8];
        aggregate[5] = T(G * root15) * sum[7];
        aggregate[6] = T(G * root5) * (T(2) * sum[5] - sum[4] - sum[6]);
        aggregate[7] = T(G * root15) * sum[9];
        aggregate[8] = T(G * root15) * (sum[6] - sum[4]);
    }

    template <class Factor, class Radial>
    SYMMD_FUNCTION static V form(const Factor& factor, Radial& radial, const V* sent, const V* query, V* record) {
        const V projection = dot(factor, plain, sent + 1);
        const V r000 = radial(), r110 = radial(), r011 = radial(), r101 = radial(), r121 = radial();
        record[0] = r000 * sent[0] + T(N / O) * (r110 * projection);
        const V lengthwise = r011 * sent[0] + r121 * (T(B / A) * projection);
        const V own = r101 + T(E / C) * r121;
        V overlap = query[0] * record[0];
        for (int axis = 0; axis < 3; ++axis) {
            const V component = factor(along + axis) * lengthwise + own * sent[1 + axis];
            overlap += query[1 + axis] * component;
            record[1 + axis] = component;
        }
        return overlap;
    }

    template <class Factor, class Radial>
    SYMMD_FUNCTION static void add(const Factor& factor, Radial& radial, const V* sent, V weight, const V* record,
                                   V* sum) {
        for (int c = 0; c < 4; ++c) sum[c] += weight * record[c];
        const V r022 = radial(), r112 = radial();
        const V inner = weight * r022 * sent[0], outer = weight * r112;
        V z[3];
        for (int axis = 0; axis < 3; ++axis) z[axis] = outer * sent[1 + axis] + factor(inward + axis) * inner;
        for (int axis = 0; axis < 3; ++axis) sum[4 + axis] += factor(plain + axis) * z[axis];
        sum[7] += factor(plain + 1) * z[0];
        sum[8] += factor(plain + 2) * z[0];
        sum[9] += factor(plain + 2) * z[1];
        sum[7] += factor(plain + 0) * z[1];
        sum[8] += factor(plain + 0) * z[2];
        sum[9] += factor(plain + 1) * z[2];
    }

    template <class Factor, class Radial>
    SYMMD_FUNCTION static void measure(const Factor& factor, Radial& radial, const V* sent, const V* query,
                                       const P* pull, bool, Kept& kept, V& overlap, V& pulled) {
        // In an order that keeps few packs alive.
        V turned[3];
        apply(pull + 4, [&](int axis) { return factor(plain + axis); }, turned);
        const V projection = dot(factor, plain, sent + 1);
        const V inner = sent[0] * dot(factor, inward, turned), outer = dot(sent + 1, turned);
        for (int axis = 0; axis < 3; ++axis) kept.turned[axis] = turned[axis];
        const V query_along = dot(factor, along, query + 1), query_own = dot(sent + 1, query + 1);
        const V pull_along = dot(factor, along, pull + 1), pull_own = dot(sent + 1, pull + 1);

        V slope;
        kept.r000 = radial(slope);
        V scalar = kept.r000 * sent[0], scalar_slope = slope * sent[0];
        kept.r110 = radial(slope);
        scalar += T(N / O) * (kept.r110 * projection);
        scalar_slope += T(N / O) * (slope * projection);
        kept.scalar = scalar;
        overlap = scalar * query[0];
        pulled = scalar * pull[0];
        V distance_by_query = scalar_slope * query[0], distance_by_pull = scalar_slope * pull[0];

        kept.r011 = radial(slope);
        V lengthwise = kept.r011 * sent[0], lengthwise_slope = slope * sent[0], own_slope;
        V own = radial(own_slope);
        kept.r121 = radial(slope);
        const V scaled = T(B / A) * projection;
        lengthwise += kept.r121 * scaled;
        lengthwise_slope += slope * scaled;
        own += T(E / C) * kept.r121;
        own_slope += T(E / C) * slope;
        kept.lengthwise = lengthwise;
        kept.own = own;
        overlap += lengthwise * query_along + own * query_own;
        pulled += lengthwise * pull_along + own * pull_own;
        kept.distance_by_query = distance_by_query + lengthwise_slope * query_along + own_slope * query_own;
        distance_by_pull += lengthwise_slope * pull_along + own_slope * pull_own;

        kept.r022 = radial(slope);
        pulled += kept.r022 * inner;
        distance_by_pull += slope * inner;
        kept.r112 = radial(slope);
        pulled += kept.r112 * outer;
        kept.distance_by_pull = distance_by_pull + slope * outer;
    }

    template <class Factor>
    SYMMD_FUNCTION static void pull(const Factor& factor, const Kept& kept, const V* sent, const V* query,
                                    const P* pull, V weight, V bend, bool, V* direction_pull, V& distance_pull,
                                    V* query_pull, V* value_pull) {
        distance_pull += weight * kept.distance_by_pull + bend * kept.distance_by_query;
        V message_pull[4];
        for (int c = 0; c < 4; ++c) message_pull[c] = weight * pull[c] + bend * query[c];
        const V along_pull = dot(factor, along, message_pull + 1);
        const V projection_pull = T(N / O) * (kept.r110 * message_pull[0]) + T(B / A) * (kept.r121 * along_pull);
        const V outer = weight * kept.r112, inner = weight * kept.r022;
        const V bend_lengthwise = bend * kept.lengthwise, bend_own = bend * kept.own;
        const V inward_pull = dot(factor, inward, kept.turned);
        V tensor_on_value[3];
        apply(pull + 4, [&](int axis) { return sent[1 + axis]; }, tensor_on_value);
        value_pull[0] = kept.r000 * message_pull[0] + kept.r011 * along_pull + inner * inward_pull;
        query_pull[0] += bend * kept.scalar;
        const V scaled_lengthwise = T(A / C) * kept.lengthwise, scaled_inner = T(F / G) * (inner * sent[0]);
        for (int axis = 0; axis < 3; ++axis) {
            const V value = sent[1 + axis], message = message_pull[1 + axis], turned = kept.turned[axis];
            value_pull[1 + axis] = factor(plain + axis) * projection_pull + kept.own * message + outer * turned;
            query_pull[1 + axis] += factor(along + axis) * bend_lengthwise + bend_own * value;
            direction_pull[axis] += projection_pull * value + scaled_lengthwise * message +
                                    (scaled_inner * turned + outer * tensor_on_value[axis]);
        }
    }

    template <class Factor>
    SYMMD_FUNCTION static void pull_radial(const Factor& factor, const V* sent, const V* query, const P* pull, V weight,
                                           V bend, V* radial_pull) {
        V message_pull[4], turned[3];
        for (int c = 0; c < 4; ++c) message_pull[c] = weight * pull[c] + bend * query[c];
        apply(pull + 4, [&](int axis) { return factor(plain + axis); }, turned);
        const V projection = dot(factor, plain, sent + 1), along_pull = dot(factor, along, message_pull + 1);
        const V own_pull = dot(sent + 1, message_pull + 1);
        radial_pull[p000] = sent[0] * message_pull[0];
        radial_pull[p110] = T(N / O) * (projection * message_pull[0]);
        radial_pull[p011] = sent[0] * along_pull;
        radial_pull[p101] = own_pull;
        radial_pull[p121] = T(B / A) * (projection * along_pull) + T(E / C) * own_pull;
        radial_pull[p022] = weight * (sent[0] * dot(factor, inward, turned));
        radial_pull[p112] = weight * dot(sent + 1, turned);
    }

    template <class Factor, class Radial>
    SYMMD_FUNCTION static void pull_value(const Factor& factor, Radial& radial, const V* query, const P* pull, V weight,
                                          V bend, V* value_pull) {
        V message_pull[4], turned[3];
        for (int c = 0; c < 4; ++c) message_pull[c] = weight * pull[c] + bend * query[c];
        apply(pull + 4, [&](int axis) { return factor(plain + axis); }, turned);
        const V along_pull = dot(factor, along, message_pull + 1), inward_pull = dot(factor, inward, turned);
        const V r000 = radial(), r110 = radial(), r011 = radial(), r101 = radial(), r121 = radial();
        const V own = r101 + T(E / C) * r121, r022 = radial(), outer = weight * radial();
        const V projection_pull = T(N / O) * (r110 * message_pull[0]) + T(B / A) * (r121 * along_pull);
        value_pull[0] += r000 * message_pull[0] + r011 * along_pull + weight * r022 * inward_pull;
        for (int axis = 0; axis < 3; ++axis)
            value_pull[1 + axis] +=
                factor(plain + axis) * projection_pull + own * message_pull[1 + axis] + outer * turned[axis];
    }

    SYMMD_FUNCTION static void gradient(const V*, const V* direction_pull, V* result) {
        for (int axis = 0; axis < 3; ++axis) result[axis] = direction_pull[axis];
    }

  private:
    static constexpr int p000 = 0, p110 = 1, p011 = 2, p101 = 3, p121 = 4, p022 = 5, p112 = 6;

    // The numbers of eq. 67, read off the couplings at n = y, where Y_1 = √3 (0, 1, 0) and Y_2 = √5 (0, 0, 1, 0, 0).
    static constexpr double coupling(int path, int c1, int c2, int c3) {
        for (const CoupledTerm& term : Table::terms.at)
            if (term.path == path && term.c1 == c1 && term.c2 == c2 && term.c3 == c3) return term.value;
        return 0;
    }
    static constexpr double root3 = square_root_of(3), root5 = square_root_of(5), root15 = square_root_of(15);
    static constexpr double O = coupling(p000, 0, 0, 0), N = root3 * coupling(p110, 2, 2, 0);
    static constexpr double A = root3 * coupling(p011, 0, 2, 2), C = coupling(p101, 2, 0, 2);
    static constexpr double E = root5 * coupling(p121, 1, 6, 1), B = root5 * coupling(p121, 2, 6, 2) - E;
    static constexpr double F = coupling(p022, 0, 6, 6), G = root3 * coupling(p112, 2, 2, 6) / (2 * root5);

    template <class Factor, class Other>
    SYMMD_FUNCTION static V dot(const Factor& factor, int first, const Other* vector) {
        return factor(first) * vector[0] + factor(first + 1) * vector[1] + factor(first + 2) * vector[2];
    }
    template <class Other>
    SYMMD_FUNCTION static V dot(const V* one, const Other* other) {
        return one[0] * other[0] + one[1] * other[1] + one[2] * other[2];
    }

    // A symmetric tensor (xx, yy, zz, xy, xz, yz) times a vector.
    template <class Vector>
    SYMMD_FUNCTION static void apply(const P* tensor, const Vector& vector, V* result) {
        result[0] = vector(0) * tensor[0] + vector(1) * tensor[3] + vector(2) * tensor[4];
        result[1] = vector(0) * tensor[3] + vector(1) * tensor[1] + vector(2) * tensor[5];
        result[2] = vector(0) * tensor[4] + vector(1) * tensor[5] + vector(2) * tensor[2];
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
