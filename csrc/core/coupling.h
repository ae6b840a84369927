// Coupling paths and coefficients as compile-time tables (docs/theory.md, eq. 10-11): terms that are zero do not exist.
#pragma once

#include <cstddef>
#include <utility>

#include "coupling_terms.h"
#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

constexpr int component_count(int degree) { return (degree + 1) * (degree + 1); }

constexpr bool path_allowed(int l1, int l2, int l3) {
    return l3 <= l1 + l2 && l1 <= l2 + l3 && l2 <= l1 + l3 && (l1 + l2 + l3) % 2 == 0;
}

// Paths into degree l3 from degrees up to max_l1 and max_l2; symmetric ones have l1 <= l2.
constexpr int count_paths_into(int max_l1, int max_l2, int l3, bool symmetric) {
    int count = 0;
    for (int l1 = 0; l1 <= max_l1; ++l1)
        for (int l2 = symmetric ? l1 : 0; l2 <= max_l2; ++l2) count += path_allowed(l1, l2, l3);
    return count;
}

// The same into all degrees up to max_l3.
constexpr int count_paths(int max_l1, int max_l2, int max_l3, bool symmetric = false) {
    int count = 0;
    for (int l3 = 0; l3 <= max_l3; ++l3) count += count_paths_into(max_l1, max_l2, l3, symmetric);
    return count;
}

constexpr double square_root_of(double x) {
    double root = x > 1 ? x : 1;
    for (int step = 0; step < 60; ++step) root = 0.5 * (root + x / root);
    return root;
}

// One coefficient: output component c3 += value * (first input, component c1) * (second input, component c2).
struct CoupledTerm {
    int path, c1, c2, c3;
    double value;
    int group;
    bool opens_group;  // the first of its group
};

// Terms of one path that share c1 and c3: their factor is a number of the edge alone, Σ value * Y[c2]. Groups of one
// path that share c1 are neighbours and form a pair: what one component of the first input meets on this path.
struct CoupledGroup {
    int path, c1, c3, first_term, term_count;
    bool opens_path, opens_pair, closes_pair;  // the first of its path, the first and the last of its pair
};

// Every path with l1 <= L1, l2 <= L2, l3 <= L3, in the order l3, l1, l2; `Symmetric` keeps l1 <= l2 only.
template <int L1, int L2, int L3, bool Symmetric = false>
struct Coupling {
    static constexpr bool kept(int l1, int l2, int l3) {
        return l1 <= L1 && l2 <= L2 && l3 <= L3 && path_allowed(l1, l2, l3) && !(Symmetric && l1 > l2);
    }
    static constexpr int count_terms() {
        int count = 0;
        for (const BareTerm& term : bare_terms) count += kept(term.l1, term.l2, term.l3);
        return count;
    }
    static constexpr int path_count = count_paths(L1, L2, L3, Symmetric);
    static constexpr int term_count = count_terms();

    struct Terms {
        CoupledTerm at[term_count];
    };
    static constexpr Terms make_terms() {
        Terms terms{};
        int count = 0, path = -1, seen = -1;
        for (const BareTerm& term : bare_terms) {
            if (!kept(term.l1, term.l2, term.l3)) continue;
            const int key = (term.l3 * 4 + term.l1) * 4 + term.l2;
            if (key != seen) ++path;
            seen = key;
            const double scale = 1.0 / square_root_of(double(count_paths_into(L1, L2, term.l3, Symmetric)));
            terms.at[count++] = {path,
                                 term.l1 * term.l1 + term.m1,
                                 term.l2 * term.l2 + term.m2,
                                 term.l3 * term.l3 + term.m3,
                                 scale * term.value,
                                 0,
                                 true};
        }
        for (int k = 1; k < term_count; ++k) {
            terms.at[k].opens_group = !same_group(terms.at[k], terms.at[k - 1]);
            terms.at[k].group = terms.at[k - 1].group + terms.at[k].opens_group;
        }
        return terms;
    }
    static constexpr bool same_group(const CoupledTerm& a, const CoupledTerm& b) {
        return a.path == b.path && a.c1 == b.c1 && a.c3 == b.c3;
    }
    static constexpr Terms terms = make_terms();

    static constexpr int group_count = terms.at[term_count - 1].group + 1;
    struct Groups {
        CoupledGroup at[group_count];
    };
    static constexpr Groups make_groups() {
        Groups groups{};
        for (int k = 0; k < term_count; ++k) {
            const CoupledTerm& term = terms.at[k];
            CoupledGroup& group = groups.at[term.group];
            if (term.opens_group) group = {term.path, term.c1, term.c3, k, 0, true, true, true};
            ++group.term_count;
        }
        for (int k = 1; k < group_count; ++k) {
            CoupledGroup &group = groups.at[k], &before = groups.at[k - 1];
            group.opens_path = group.path != before.path;
            group.opens_pair = before.closes_pair = group.opens_path || group.c1 != before.c1;
        }
        return groups;
    }
    static constexpr Groups groups = make_groups();

    // Term k, group k, the group of term k, and its number. A device does not see the tables of the host: there k must
    // be an integral constant.
#ifdef SYMMD_GPU
    template <class K>
    SYMMD_FUNCTION static constexpr CoupledTerm term(K) {
        constexpr CoupledTerm found = terms.at[K::value];
        return found;
    }
    template <class K>
    SYMMD_FUNCTION static constexpr CoupledGroup group(K) {
        constexpr CoupledGroup found = groups.at[K::value];
        return found;
    }
    template <class K>
    SYMMD_FUNCTION static constexpr CoupledGroup group_of_term(K) {
        return group(group_number(K{}));
    }
    template <class K>
    SYMMD_FUNCTION static constexpr auto group_number(K) {
        return std::integral_constant<int, terms.at[K::value].group>{};
    }
#else
    static constexpr const CoupledTerm& term(int k) { return terms.at[k]; }
    static constexpr const CoupledGroup& group(int k) { return groups.at[k]; }
    static constexpr const CoupledGroup& group_of_term(int k) { return groups.at[terms.at[k].group]; }
    static constexpr int group_number(int k) { return terms.at[k].group; }
#endif
};

template <class Body, std::size_t... Index>
SYMMD_FUNCTION __attribute__((always_inline)) void unrolled(Body&& body, std::index_sequence<Index...>) {
    (body(std::integral_constant<int, int(Index)>{}), ...);
}

// The most terms that are written out one by one. Where speed does not matter, a small number keeps compile times
// short. On a device there is no other way.
#ifdef SYMMD_GPU
#undef SYMMD_UNROLL
#define SYMMD_UNROLL 1000
#endif
#ifndef SYMMD_UNROLL
#define SYMMD_UNROLL 128
#endif

// body(k) for k = 0 … Count-1: with compile-time k while the code stays small, else in a loop.
template <int Count, int Most = SYMMD_UNROLL, class Body>
SYMMD_FUNCTION __attribute__((always_inline)) void for_each(Body&& body) {
    if constexpr (Count <= Most) {
        unrolled(body, std::make_index_sequence<Count>{});
    } else {
        for (int k = 0; k < Count; ++k) body(k);
    }
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
