// The fused edge pass: harmonics, radial spline, tensor product, score, exponential and sum over the neighbours in one
// sweep, forward (docs/theory.md, eq. 15-19) and backward (eq. 33-45). The backward recomputes the messages; nothing of
// size edges x channels exists. Instantiated with dual numbers the same two functions give the derivative of the
// backward, which trains on forces (eq. 55).
#pragma once

#include "coupling.h"
#include "harmonics.h"
#include "kernels.h"
#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L1, int L2, int L3, class S>
class EdgePass {
    using T = RealOf<S>;
    using P = Pack<T>;
    using V = PackOf<S>;
    using Table = Coupling<L1, L2, L3>;
    static constexpr int D1 = component_count(L1), D2 = component_count(L2), D3 = component_count(L3);
    static constexpr int shared = D1 < D3 ? D1 : D3;  // components that query and message have in common
    static constexpr int paths = Table::path_count, W = lanes<T>;

    struct Geometry {
        S direction[3], distance, fade, fade_slope;
        S coefficient[4], coefficient_slope[4];  // of the four spline rows, envelope included, and d/dr of them
        S factor[Table::group_count];
        int64_t row;
    };

    const EdgePassShape& shape;
    const EdgePassInput<T>& in;
    const int blocks, width, head_packs;
    const bool lane_heads;
    V *accumulated, *messages, *radial, *query, *query_pull;  // by block of channels
    V *total, *pull_of_aggregate;                             // by pack of heads
    struct HeadSums {
        V* heads;
        T *value, *slope;
    } first_sums, second_sums;
    PackIndex<T>*expand_index, *collect_index;  // by block of channels
    PackIndex<T> lane_number;

  public:
    static int64_t packs_of_heads(const EdgePassShape& shape) { return (shape.heads + W - 1) / W; }

    static int64_t workspace_bytes(const EdgePassShape& shape) {
        const int64_t packs = shape.channels / W * (2 * D3 + paths + 2 * D1) + 4 * packs_of_heads(shape);
        return packs * int64_t(sizeof(V)) + 6 * shape.channels * int64_t(sizeof(T));
    }

    // `workspace`: workspace_bytes(shape) bytes, aligned to 64.
    EdgePass(const EdgePassShape& shape, const EdgePassInput<T>& in, char* workspace)
        : shape(shape),
          in(in),
          blocks(int(shape.channels / W)),
          width(int(shape.channels / shape.heads)),
          head_packs(int(packs_of_heads(shape))),
          lane_heads(fast_permutes && shape.heads <= W && width <= W && (width & (width - 1)) == 0) {
        const auto take = [&](int64_t count) {
            V* taken = reinterpret_cast<V*>(workspace);
            workspace += count * sizeof(V);
            return taken;
        };
        accumulated = take(blocks * D3);
        messages = take(blocks * D3);
        radial = take(blocks * paths);
        query = take(blocks * D1);
        query_pull = take(blocks * D1);
        total = take(head_packs);
        pull_of_aggregate = take(head_packs);
        first_sums.heads = take(head_packs);
        second_sums.heads = take(head_packs);
        expand_index = reinterpret_cast<PackIndex<T>*>(workspace);
        collect_index = expand_index + blocks;
        first_sums.value = reinterpret_cast<T*>(collect_index + blocks);
        first_sums.slope = first_sums.value + shape.channels;
        second_sums.value = first_sums.slope + shape.channels;
        second_sums.slope = second_sums.value + shape.channels;
        prepare_lanes();
    }

    void forward(int64_t first, int64_t last, const EdgePassOutput<T>& out) {
        for (int64_t atom = first; atom < last; ++atom) {
            aggregate(atom);
            write_aggregate(atom, out.aggregated);
            if (out.total && shape.attends) write_total(atom, out.total);
        }
    }

    void backward(int64_t first, int64_t last, const EdgePassOutput<T>& out) {
        for (int64_t atom = first; atom < last; ++atom) {
            if (in.aggregated) {
                recall(atom);
            } else {
                aggregate(atom);
            }
            if (out.aggregated) write_aggregate(atom, out.aggregated);
            pull_atom(atom, out);
        }
    }

  private:
#ifdef __AVX512F__
    static constexpr bool fast_permutes = true;
#else
    static constexpr bool fast_permutes = false;
#endif

    void prepare_lanes() {
        for (int lane = 0; lane < W; ++lane) lane_number[lane] = lane;
        if (!lane_heads) return;
        for (int block = 0; block < blocks; ++block) {
            for (int lane = 0; lane < W; ++lane) {
                expand_index[block][lane] = (block * W + lane) / width;
                const int start = lane * width - block * W;  // of head number `lane`, within this block
                collect_index[block][lane] = start >= 0 && start < W ? W + start : lane;
            }
        }
    }

    // eq. 1, 2, 4, 8: everything about an edge that does not depend on the channel. False beyond the cutoff.
    template <bool WithSlope>
    bool locate(int64_t edge, Geometry& g) const {
        S r[3];
        for (int axis = 0; axis < 3; ++axis) {
            if constexpr (is_dual<S>) {
                r[axis] = {in.vectors[3 * edge + axis], in.vectors_slope[3 * edge + axis]};
            } else {
                r[axis] = in.vectors[3 * edge + axis];
            }
        }
        g.distance = square_root(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
        if (!(value_of(g.distance) < T(shape.cutoff))) return false;
        const S inverse = T(1) / g.distance;
        for (int axis = 0; axis < 3; ++axis) g.direction[axis] = r[axis] * inverse;
        const T inverse_cutoff = T(1 / shape.cutoff), rate = T(shape.knots / shape.cutoff);
        const S u = g.distance * inverse_cutoff, u2 = u * u, u5 = u2 * u2 * u;
        g.fade = T(1) - u5 * u * (T(28) - T(48) * u + T(21) * u2);
        g.fade_slope = -(T(168) * inverse_cutoff) * u5 * ((T(1) - u) * (T(1) - u));
        const S position = g.distance * rate;
        int64_t interval = int64_t(value_of(position));
        if (interval > shape.knots - 1) interval = shape.knots - 1;
        g.row = 2 * interval;
        const S t = position - T(interval), s = T(1) - t;
        const S basis[4] = {(T(1) + T(2) * t) * s * s, t * s * s, t * t * (T(3) - T(2) * t), -(t * t * s)};
        for (int k = 0; k < 4; ++k) g.coefficient[k] = g.fade * basis[k];
        if constexpr (WithSlope) {
            const S bend = T(6) * t * s;
            const S slope[4] = {-bend, s * (T(1) - T(3) * t), bend, t * (T(3) * t - T(2))};
            for (int k = 0; k < 4; ++k) {
                g.coefficient_slope[k] = g.fade_slope * basis[k] + rate * (g.fade * slope[k]);
            }
        }
        S harmonic[D2];
        harmonics<L2, S>(g.direction[0], g.direction[1], g.direction[2], harmonic);
        for_each<Table::group_count>([&](auto k) {
            constexpr auto& groups = Table::groups.at;
            S factor = constant<S>(0);
            for (int n = 0; n < groups[k].term_count; ++n) {
                const CoupledTerm& term = Table::terms.at[groups[k].first_term + n];
                factor += T(term.value) * harmonic[term.c2];
            }
            g.factor[k] = factor;
        });
        return true;
    }

    V spline(const S* coefficient, const T* rows, int64_t stride) const {
        V sum = coefficient[0] * load<T>(rows);
        for (int k = 1; k < 4; ++k) sum += coefficient[k] * load<T>(rows + k * stride);
        return sum;
    }

    const T* rows_of(const Geometry& g, int block, int path) const {
        return in.table + (g.row * paths + path) * shape.channels + block * W;
    }

    V value_at(int64_t atom, int component, int block) const {
        const int64_t at = (atom * D1 + component) * shape.channels + block * W;
        return load_with_slope<S>(in.values, in.values_slope, at);
    }

    // eq. 15: the message of one edge for one block of channels; `weights` receives f R_p.
    void message(const Geometry& g, int64_t sender, int block, V* weights, V* result) const {
        V sent[D1];
        for (int c = 0; c < D1; ++c) sent[c] = value_at(sender, c, block);
        const int64_t stride = paths * shape.channels;
        for (int p = 0; p < paths; ++p) weights[p] = spline(g.coefficient, rows_of(g, block, p), stride);
        V sum[D3];
        for (int c = 0; c < D3; ++c) sum[c] = zero_pack<V>();
        for_each<Table::group_count>([&](auto k) {
            constexpr auto& groups = Table::groups.at;
            sum[groups[k].c3] += g.factor[k] * (weights[groups[k].path] * sent[groups[k].c1]);
        });
        for (int c = 0; c < D3; ++c) result[c] = sum[c];
    }

    // Between channels and heads: `collect` is given one block of channels after the other, `finish` leaves each head's
    // sum over its channels in `heads`, and `expand` gives every channel of a block the number of its head. Where a
    // pack holds whole heads, and all heads, this is done by permuting lanes; else through memory.
    void collect(HeadSums sums, int block, V pack) const {
        if (lane_heads) {
            for (int step = 1; step < width; step *= 2) pack += select_lanes(pack, lane_number ^ step);
            const V before = block == 0 ? zero_pack<V>() : sums.heads[0];
            sums.heads[0] = select_lanes_of_two(before, pack, collect_index[block]);
        } else if constexpr (is_dual<S>) {
            store<T>(sums.value + block * W, pack.value);
            store<T>(sums.slope + block * W, pack.slope);
        } else {
            store<T>(sums.value + block * W, pack);
        }
    }

    void finish(HeadSums sums) const {
        if (lane_heads) return;
        alignas(64) T value[W], slope[W];
        for (int pack = 0; pack < head_packs; ++pack) {
            for (int lane = 0; lane < W; ++lane) {
                const int start = (pack * W + lane) * width;
                T a = 0, b = 0;
                if (start < shape.channels) {
                    for (int c = 0; c < width; ++c) a += sums.value[start + c];
                    if constexpr (is_dual<S>)
                        for (int c = 0; c < width; ++c) b += sums.slope[start + c];
                }
                value[lane] = a;
                slope[lane] = b;
            }
            sums.heads[pack] = load_with_slope<S>(value, slope, 0);
        }
    }

    // Before the first `expand` of these heads.
    void prepare(HeadSums sums) const {
        if (lane_heads) return;
        alignas(64) T value[W], slope[W];
        for (int pack = 0; pack < head_packs; ++pack) {
            if constexpr (is_dual<S>) {
                store<T>(value, sums.heads[pack].value);
                store<T>(slope, sums.heads[pack].slope);
            } else {
                store<T>(value, sums.heads[pack]);
            }
            for (int lane = 0; lane < W && pack * W + lane < shape.heads; ++lane) {
                const int start = (pack * W + lane) * width;
                for (int c = 0; c < width; ++c) sums.value[start + c] = value[lane];
                if constexpr (is_dual<S>)
                    for (int c = 0; c < width; ++c) sums.slope[start + c] = slope[lane];
            }
        }
    }

    V expand(HeadSums sums, int block) const {
        if (lane_heads) return select_lanes(sums.heads[0], expand_index[block]);
        return load_with_slope<S>(sums.value, sums.slope, block * W);
    }

    V head_constant(const T* numbers, int pack, T padding) const {
        alignas(64) T value[W];
        for (int lane = 0; lane < W; ++lane) {
            const int h = pack * W + lane;
            value[lane] = h < shape.heads ? numbers[h] : padding;
        }
        return constant_pack(load<T>(value));
    }

    // eq. 16-19 for one atom: leaves A in `accumulated` and, with attention, Z in `total`.
    void aggregate(int64_t atom) {
        for (int k = 0; k < blocks * D3; ++k) accumulated[k] = zero_pack<V>();
        const T score_scale = T(1 / __builtin_sqrt(double(width)));
        if (shape.attends) {
            load_queries(atom);
            for (int pack = 0; pack < head_packs; ++pack) {
                total[pack] = exponential_of(head_constant(in.sink, pack, T(0)));
            }
        }
        Geometry g;
        V weights[paths], sum[D3];
        for (int64_t edge = in.row_start[atom]; edge < in.row_start[atom + 1]; ++edge) {
            if (!locate<false>(edge, g)) continue;
            const int64_t sender = in.sender[edge];
            if (!shape.attends) {
                for (int b = 0; b < blocks; ++b) {
                    message(g, sender, b, weights, sum);
                    for (int c = 0; c < D3; ++c) accumulated[b * D3 + c] += sum[c];
                }
                continue;
            }
            for (int b = 0; b < blocks; ++b) {
                message(g, sender, b, weights, sum);
                V overlap = query[b * D1] * sum[0];
                for (int c = 1; c < shared; ++c) overlap += query[b * D1 + c] * sum[c];
                for (int c = 0; c < D3; ++c) messages[b * D3 + c] = sum[c];
                collect(first_sums, b, overlap);
            }
            finish(first_sums);
            for (int pack = 0; pack < head_packs; ++pack) {
                const V score = T(5) * hyperbolic_tangent(first_sums.heads[pack] * (score_scale / T(5)));
                first_sums.heads[pack] = g.fade * exponential_of(score);
                total[pack] += first_sums.heads[pack];
            }
            prepare(first_sums);
            for (int b = 0; b < blocks; ++b) {
                const V weight = expand(first_sums, b);
                for (int c = 0; c < D3; ++c) accumulated[b * D3 + c] += weight * messages[b * D3 + c];
            }
        }
        if (!shape.attends) {
            for (int k = 0; k < blocks * D3; ++k) accumulated[k] = T(shape.gain) * accumulated[k];
            return;
        }
        for (int pack = 0; pack < head_packs; ++pack) {
            V gain = zero_pack<V>() + T(shape.gain);
            first_sums.heads[pack] = gain / total[pack];
        }
        prepare(first_sums);
        for (int b = 0; b < blocks; ++b) {
            const V weight = expand(first_sums, b);
            for (int c = 0; c < D3; ++c) accumulated[b * D3 + c] = weight * accumulated[b * D3 + c];
        }
    }

    void load_queries(int64_t atom) {
        for (int b = 0; b < blocks; ++b)
            for (int c = 0; c < D1; ++c) {
                const int64_t at = (atom * D1 + c) * shape.channels + b * W;
                query[b * D1 + c] = load_with_slope<S>(in.queries, in.queries_slope, at);
            }
    }

    // What `aggregate` would leave, from the arrays of the forward pass.
    void recall(int64_t atom) {
        for (int b = 0; b < blocks; ++b)
            for (int c = 0; c < D3; ++c) {
                const int64_t at = (atom * D3 + c) * shape.channels + b * W;
                accumulated[b * D3 + c] = constant_pack(load<T>(in.aggregated + at));
            }
        if (!shape.attends) return;
        load_queries(atom);
        for (int pack = 0; pack < head_packs; ++pack)
            total[pack] = head_constant(in.total + atom * shape.heads, pack, T(1));
    }

    static V constant_pack(P pack) {
        V result = zero_pack<V>();
        if constexpr (is_dual<S>) {
            result.value = pack;
        } else {
            result = pack;
        }
        return result;
    }

    void write_total(int64_t atom, T* to) const {
        for (int pack = 0; pack < head_packs; ++pack)
            for (int lane = 0; lane < W && pack * W + lane < shape.heads; ++lane)
                to[atom * shape.heads + pack * W + lane] = value_of(total[pack])[lane];
    }

    void write_aggregate(int64_t atom, T* to) const {
        for (int b = 0; b < blocks; ++b)
            for (int c = 0; c < D3; ++c)
                store<T>(to + (atom * D3 + c) * shape.channels + b * W, outcome(accumulated[b * D3 + c]));
    }

    // eq. 33-45 for the edges of one atom, after `aggregate` of the same atom.
    void pull_atom(int64_t atom, const EdgePassOutput<T>& out) {
        const T* pull = in.pull + atom * D3 * shape.channels;
        const T score_scale = T(1 / __builtin_sqrt(double(width)));
        if (shape.attends) {
            for (int b = 0; b < blocks; ++b) {
                V overlap = zero_pack<V>();
                for (int c = 0; c < D3; ++c)
                    overlap += load<T>(pull + c * shape.channels + b * W) * accumulated[b * D3 + c];
                collect(first_sums, b, overlap);
                for (int c = 0; c < D1; ++c) query_pull[b * D1 + c] = zero_pack<V>();
            }
            finish(first_sums);
            for (int pack = 0; pack < head_packs; ++pack) pull_of_aggregate[pack] = first_sums.heads[pack];
            if (out.sink) pull_sink(out.sink);
        }
        Geometry g;
        V sum[D3];
        for (int64_t edge = in.row_start[atom]; edge < in.row_start[atom + 1]; ++edge) {
            if (!locate<true>(edge, g)) {
                if (out.vectors)
                    for (int axis = 0; axis < 3; ++axis) out.vectors[3 * edge + axis] = T(0);
                continue;
            }
            const int64_t sender = in.sender[edge];
            for (int b = 0; b < blocks; ++b) {
                message(g, sender, b, radial + b * paths, sum);
                if (!shape.attends) continue;
                V overlap = query[b * D1] * sum[0];
                for (int c = 1; c < shared; ++c) overlap += query[b * D1 + c] * sum[c];
                V pulled = load<T>(pull + b * W) * sum[0];
                for (int c = 1; c < D3; ++c) pulled += load<T>(pull + c * shape.channels + b * W) * sum[c];
                for (int c = 0; c < shared; ++c) messages[b * D3 + c] = sum[c];
                collect(first_sums, b, overlap);
                collect(second_sums, b, pulled);
            }
            V fade_pull = zero_pack<V>();
            if (shape.attends) {
                finish(first_sums);
                finish(second_sums);
                for (int pack = 0; pack < head_packs; ++pack) {
                    const V bent = hyperbolic_tangent(first_sums.heads[pack] * (score_scale / T(5)));
                    const V inverse_total = T(1) / total[pack];
                    const V raised = exponential_of(T(5) * bent);
                    const V weight = g.fade * raised;
                    const V weight_pull =
                        (T(shape.gain) * second_sums.heads[pack] - pull_of_aggregate[pack]) * inverse_total;
                    fade_pull += weight_pull * raised;
                    first_sums.heads[pack] = T(shape.gain) * weight * inverse_total;
                    second_sums.heads[pack] = score_scale * (weight_pull * weight * (T(1) - bent * bent));
                }
                prepare(first_sums);
                prepare(second_sums);
            }
            pull_edge(g, edge, sender, pull, fade_pull, out);
        }
        if (shape.attends && out.queries) {
            for (int b = 0; b < blocks; ++b)
                for (int c = 0; c < D1; ++c)
                    store<T>(out.queries + (atom * D1 + c) * shape.channels + b * W, outcome(query_pull[b * D1 + c]));
        }
    }

    // eq. 35.
    void pull_sink(T* sink_pull) const {
        for (int pack = 0; pack < head_packs; ++pack) {
            const V floor = exponential_of(head_constant(in.sink, pack, T(0)));
            const V change = -(floor * pull_of_aggregate[pack] / total[pack]);
            for (int lane = 0; lane < W && pack * W + lane < shape.heads; ++lane) {
                sink_pull[pack * W + lane] += outcome(change)[lane];
            }
        }
    }

    // eq. 37-45 for one edge; the heads' sums hold √n̄ α and β of eq. 36.
    void pull_edge(const Geometry& g, int64_t edge, int64_t sender, const T* pull, V fade_pull,
                   const EdgePassOutput<T>& out) {
        const int64_t stride = paths * shape.channels;
        V harmonic_pull[D2], distance_pull = zero_pack<V>();
        for (int c = 0; c < D2; ++c) harmonic_pull[c] = zero_pack<V>();
        for (int b = 0; b < blocks; ++b) {
            V message_pull[D3];
            V weight = zero_pack<V>() + T(shape.gain);
            if (shape.attends) weight = expand(first_sums, b);
            for (int c = 0; c < D3; ++c) message_pull[c] = weight * load<T>(pull + c * shape.channels + b * W);
            if (shape.attends) {
                const V bend = expand(second_sums, b);
                for (int c = 0; c < shared; ++c) {
                    message_pull[c] += bend * query[b * D1 + c];
                    query_pull[b * D1 + c] += bend * messages[b * D3 + c];
                }
            }
            V sent[D1], sent_pull[D1], radial_pull[paths], weights[paths];
            for (int c = 0; c < D1; ++c) {
                sent[c] = value_at(sender, c, b);
                sent_pull[c] = zero_pack<V>();
            }
            for (int p = 0; p < paths; ++p) {
                weights[p] = radial[b * paths + p];
                radial_pull[p] = zero_pack<V>();
            }
            for_each<Table::group_count>([&](auto k) {
                constexpr auto& groups = Table::groups.at;
                const V part = g.factor[k] * message_pull[groups[k].c3];
                sent_pull[groups[k].c1] += part * weights[groups[k].path];
                radial_pull[groups[k].path] += part * sent[groups[k].c1];
            });
            if (out.values) {
                for (int c = 0; c < D1; ++c)
                    add_to<T>(out.values + (sender * D1 + c) * shape.channels + b * W, outcome(sent_pull[c]));
            }
            if (out.table) {
                for (int p = 0; p < paths; ++p) {
                    T* rows = out.table + (g.row * paths + p) * shape.channels + b * W;
                    for (int k = 0; k < 4; ++k)
                        add_to<T>(rows + k * stride, outcome(g.coefficient[k] * radial_pull[p]));
                }
            }
            if (!out.vectors) continue;
            for (int p = 0; p < paths; ++p)
                distance_pull += radial_pull[p] * spline(g.coefficient_slope, rows_of(g, b, p), stride);
            for_each<Table::group_count>([&](auto k) {
                constexpr auto& groups = Table::groups.at;
                const V part = weights[groups[k].path] * sent[groups[k].c1] * message_pull[groups[k].c3];
                for (int n = 0; n < groups[k].term_count; ++n) {
                    const CoupledTerm& term = Table::terms.at[groups[k].first_term + n];
                    harmonic_pull[term.c2] += T(term.value) * part;
                }
            });
        }
        if (!out.vectors) return;
        S pulled[D2], gradient[3];
        for (int c = 0; c < D2; ++c) pulled[c] = sum_over_lanes(harmonic_pull[c]);
        const S* n = g.direction;
        harmonics_pull<L2, S>(n[0], n[1], n[2], pulled, gradient);
        const S along = n[0] * gradient[0] + n[1] * gradient[1] + n[2] * gradient[2];
        S radial_part = sum_over_lanes(distance_pull);
        if (shape.attends) radial_part += g.fade_slope * sum_over_lanes(fade_pull);
        for (int axis = 0; axis < 3; ++axis) {
            const S result = radial_part * n[axis] + (gradient[axis] - n[axis] * along) / g.distance;
            out.vectors[3 * edge + axis] = outcome(result);
        }
    }

    static S sum_over_lanes(V pack) {
        if constexpr (is_dual<S>) {
            return {sum_of_lanes<T>(pack.value), sum_of_lanes<T>(pack.slope)};
        } else {
            return sum_of_lanes<T>(pack);
        }
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
