// The message of an edge, for one pack of channels, and the pulls through it: the tensor product of docs/theory.md,
// eq. 15, 39, 40 and 42, with couplings of any degrees. Lanes are channels, but where edges are named.
//
// A message is visited twice. The first visit does what the score needs: in the forward pass the components that meet
// the query, in the backward pass everything that is linear in the pull on the message. With that pull being
// M̄ = √n̄ α Ā + β q (eq. 37), it is done for Ā and for q before α and β are known.
#pragma once

#include "coupling.h"
#include "harmonics.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L1, int L2, int L3, class S>
struct Message {
    using T = RealOf<S>;
    using P = Pack<T>;
    using V = PackOf<S>;
    using Table = Coupling<L1, L2, L3>;
    static constexpr int D1 = component_count(L1), D2 = component_count(L2), D3 = component_count(L3);
    static constexpr int shared = D1 < D3 ? D1 : D3;  // components that query and message have in common
    static constexpr int paths = Table::path_count;
    static constexpr int record_size = shared;  // packs that the first visit of the forward pass leaves
    static constexpr int sum_size = D3;         // packs that messages are summed up in
    static constexpr int pull_size = D3;        // packs of a pull on the aggregate as `measure` wants it
    static constexpr int factor_count = Table::group_count;
    static constexpr int scored_paths = Coupling < L1, L2, L1<L3 ? L1 : L3>::path_count;  // into those components
    // Long unrolled code of dual numbers takes the compiler more time than it is worth.
    static constexpr int unrolled = is_dual<S> ? SYMMD_UNROLL / 2 : SYMMD_UNROLL;
    static constexpr int direction_pulls = D2 - 1;  // Ȳ of eq. 42 without k = 0, which is constant

    // What the first visit of the backward pass leaves to the second.
    struct Kept {
        V value_by_pull[D1], value_by_query[D1];  // eq. 39
        V distance_by_pull, distance_by_query;    // Σ_p ρ̄_p ρ'_p of eq. 43
        V radial[paths];                          // ρ
    };

    // The factors Φ of the groups. Lanes are edges.
    static void make_factors(const V* direction, V* factor) {
        V harmonic[D2];
        harmonics<L2, T>(direction[0], direction[1], direction[2], harmonic);
        for (int k = 0; k < factor_count; ++k) factor[k] = zero_pack<V>();
        for (const CoupledTerm& term : Table::terms.at) factor[term.group] += T(term.value) * harmonic[term.c2];
    }

    // The same, one by one, from the few numbers that an edge brings where its factors are not kept.
    static constexpr int shape_size = D2 - 1;
    SYMMD_FUNCTION static void make_shape(const V* direction, V* shape) {
        V harmonic[D2];
        harmonics<L2, T>(direction[0], direction[1], direction[2], harmonic);
        for (int c = 1; c < D2; ++c) shape[c - 1] = harmonic[c];
    }
    template <class K>
    SYMMD_FUNCTION static V factor_of(const V* shape, K) {
        V factor = zero_pack<V>();
        for_each<Table::group(K{}).term_count>([&](auto n) __attribute__((always_inline)) {
            const CoupledTerm& term = Table::term(std::integral_constant<int, Table::group(K{}).first_term + n>{});
            factor += term.c2 == 0 ? V(T(term.value)) : T(term.value) * shape[term.c2 - 1];
        });
        return factor;
    }

    SYMMD_FUNCTION static void prepare_query(V*) {}
    SYMMD_FUNCTION static void finish_query(V*) {}
    SYMMD_FUNCTION static void prepare_pull(P*) {}
    SYMMD_FUNCTION static void finish_sum(const V* sum, V* aggregate) {
        for (int c = 0; c < D3; ++c) aggregate[c] = sum[c];
    }

    // eq. 15 for the components that meet the query; returns ⟨q, M⟩ of eq. 16. `factor(k)`: the number of group k;
    // `radial()`: ρ of one path after the other.
    template <class Factor, class Radial>
    SYMMD_FUNCTION static V form(const Factor& factor, Radial& radial, const V* sent, const V* query, V* record) {
        V rho = zero_pack<V>(), part = rho, message[shared];
        for (int c = 0; c < shared; ++c) message[c] = zero_pack<V>();
        for_each<factor_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledGroup& group = Table::group(k);
            if (group.c3 >= shared) return;
            if (group.opens_path) rho = radial();
            if (group.opens_pair) part = rho * sent[group.c1];
            message[group.c3] += factor(k) * part;
        });
        V overlap = query[0] * message[0];
        for (int c = 1; c < shared; ++c) overlap += query[c] * message[c];
        for (int c = 0; c < shared; ++c) record[c] = message[c];
        return overlap;
    }

    // sum += weight M: the components that `form` left, and the others of eq. 15.
    template <class Factor, class Radial>
    SYMMD_FUNCTION static void add(const Factor& factor, Radial& radial, const V* sent, V weight, const V* record,
                                   V* sum) {
        for (int c = 0; c < shared; ++c) sum[c] += weight * record[c];
        if constexpr (shared < D3) {
            V rho = zero_pack<V>(), part = rho;
            for_each<factor_count>([&](auto k) __attribute__((always_inline)) {
                const CoupledGroup& group = Table::group(k);
                if (group.c3 < shared) return;
                if (group.opens_path) rho = weight * radial();
                if (group.opens_pair) part = rho * sent[group.c1];
                sum[group.c3] += factor(k) * part;
            });
        }
    }

    // First visit: ⟨q, M⟩ and P of eq. 33, by way of eq. 39. `radial(slope)`: returns ρ, and ρ' in `slope`;
    // `to_values`: will the second visit be asked for the pulls on values and queries?
    template <class Factor, class Radial>
    SYMMD_FUNCTION static void measure(const Factor& factor, Radial& radial, const V* sent, const V* query,
                                       const P* pull, bool to_values, Kept& kept, V& overlap, V& pulled) {
        V by_pull[D1], by_query[D1], slope_by_pull[D1], slope_by_query[D1];
        for (int c = 0; c < D1; ++c) by_pull[c] = by_query[c] = slope_by_pull[c] = slope_by_query[c] = zero_pack<V>();
        V rho = zero_pack<V>(), rho_slope = rho, turned_pull = rho, turned_query = rho;
        for_each<factor_count, unrolled>([&](auto k) __attribute__((always_inline)) {
            const CoupledGroup& group = Table::group(k);
            if (group.opens_path) {
                rho = radial(rho_slope);
                if (L1 > 0 || group.path > 0 || to_values) kept.radial[group.path] = rho;
            }
            if (group.opens_pair) turned_pull = turned_query = zero_pack<V>();
            turned_pull += factor(k) * pull[group.c3];
            if (group.c3 < shared) turned_query += factor(k) * query[group.c3];
            if (group.closes_pair) {
                by_pull[group.c1] += rho * turned_pull;
                slope_by_pull[group.c1] += rho_slope * turned_pull;
                if (group.c3 < shared) {
                    by_query[group.c1] += rho * turned_query;
                    slope_by_query[group.c1] += rho_slope * turned_query;
                }
            }
        });
        V distance_by_pull = zero_pack<V>(), distance_by_query = zero_pack<V>();
        overlap = pulled = zero_pack<V>();
        for (int c = 0; c < D1; ++c) {
            overlap += sent[c] * by_query[c];
            pulled += sent[c] * by_pull[c];
            distance_by_query += sent[c] * slope_by_query[c];
            distance_by_pull += sent[c] * slope_by_pull[c];
        }
        for (int c = 0; c < D1 && to_values; ++c) {
            kept.value_by_pull[c] = by_pull[c];
            kept.value_by_query[c] = by_query[c];
        }
        kept.distance_by_pull = distance_by_pull;
        kept.distance_by_query = distance_by_query;
    }

    // Second visit, with the weights √n̄ α and β: adds to the pulls on the harmonics (eq. 42), on the distance (eq. 43)
    // and, `to_values`, on the query (eq. 38), and gives the pull on the value (eq. 39).
    template <class Factor>
    SYMMD_FUNCTION static void pull(const Factor& factor, const Kept& kept, const V* sent, const V* query,
                                    const P* pull, V weight, V bend, bool to_values, V* direction_pull,
                                    V& distance_pull, V* query_pull, V* value_pull) {
        V message_pull[shared], message[shared], part = zero_pack<V>(), weighted = part;
        for (int c = 0; c < shared; ++c) {
            message_pull[c] = weight * pull[c] + bend * query[c];
            message[c] = zero_pack<V>();
        }
        for_each<Table::term_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledTerm& term = Table::term(k);
            const CoupledGroup& group = Table::group_of_term(k);
            if (L1 == 0 && group.c3 == 0) return;  // Y_0 is constant
            if (term.opens_group && group.opens_pair) {
                part = kept.radial[group.path] * sent[group.c1];
                if (group.c3 >= shared) weighted = weight * part;
            }
            if (group.c3 < shared) {
                if (term.opens_group) message[group.c3] += factor(Table::group_number(k)) * part;
                if (term.c2 > 0) direction_pull[term.c2 - 1] += (T(term.value) * part) * message_pull[group.c3];
            } else {
                direction_pull[term.c2 - 1] += (T(term.value) * weighted) * pull[group.c3];
            }
        });
        distance_pull += weight * kept.distance_by_pull + bend * kept.distance_by_query;
        if (!to_values) return;
        if constexpr (L1 == 0) message[0] = factor(std::integral_constant<int, 0>{}) * (kept.radial[0] * sent[0]);
        for (int c = 0; c < shared; ++c) query_pull[c] += bend * message[c];
        for (int c = 0; c < D1; ++c) value_pull[c] = weight * kept.value_by_pull[c] + bend * kept.value_by_query[c];
    }

    // eq. 40.
    template <class Factor>
    SYMMD_FUNCTION static void pull_radial(const Factor& factor, const V* sent, const V* query, const P* pull, V weight,
                                           V bend, V* radial_pull) {
        V message_pull[D3];
        pull_message(query, pull, weight, bend, message_pull);
        for (int p = 0; p < paths; ++p) radial_pull[p] = zero_pack<V>();
        V turned = zero_pack<V>();
        for_each<factor_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledGroup& group = Table::group(k);
            if (group.opens_pair) turned = zero_pack<V>();
            turned += factor(k) * message_pull[group.c3];
            if (group.closes_pair) radial_pull[group.path] += turned * sent[group.c1];
        });
    }

    // eq. 39 alone: adds the pull on the value.
    template <class Factor, class Radial>
    SYMMD_FUNCTION static void pull_value(const Factor& factor, Radial& radial, const V* query, const P* pull, V weight,
                                          V bend, V* value_pull) {
        V message_pull[D3];
        pull_message(query, pull, weight, bend, message_pull);
        V rho = zero_pack<V>(), turned = rho;
        for_each<factor_count>([&](auto k) __attribute__((always_inline)) {
            const CoupledGroup& group = Table::group(k);
            if (group.opens_path) rho = radial();
            if (group.opens_pair) turned = zero_pack<V>();
            turned += factor(k) * message_pull[group.c3];
            if (group.closes_pair) value_pull[group.c1] += rho * turned;
        });
    }

    // eq. 44 from the sums of eq. 42. Lanes are edges.
    SYMMD_FUNCTION static void gradient(const V* direction, const V* direction_pull, V* result) {
        V pull[D2];
        pull[0] = zero_pack<V>();
        for (int c = 1; c < D2; ++c) pull[c] = direction_pull[c - 1];
        harmonics_pull<L2, T>(direction[0], direction[1], direction[2], pull, result);
    }

  private:
    // eq. 37.
    SYMMD_FUNCTION static void pull_message(const V* query, const P* pull, V weight, V bend, V* result) {
        for (int c = 0; c < D3; ++c) result[c] = weight * pull[c];
        for (int c = 0; c < shared; ++c) result[c] += bend * query[c];
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
