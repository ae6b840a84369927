// The fused edge pass: harmonics, radial spline, tensor product, score, exponential and sum over the neighbours in one
// sweep, forward (docs/theory.md, eq. 15-19) and backward (eq. 33-45). The backward recomputes the messages; nothing of
// size edges x channels exists. Instantiated with dual numbers the same two functions give the derivative of the
// backward, which trains on forces (eq. 55).
//
// An atom's edges are taken by the pack (lanes are edges: edge_geometry.h) and then by batches of a few, each visited
// twice (lanes are channels: message.h): once for the scores, and once with the weights that follow from them. Between
// the visits the heads of the whole batch share packs (head_sums.h).
#pragma once

#include "edge_geometry.h"
#include "head_sums.h"
#include "message.h"
#include "message_of_vectors.h"
#include "radial.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <int L1, int L2, int L3, class S>
class EdgePass {
    using T = RealOf<S>;
    using P = Pack<T>;
    using V = PackOf<S>;
    using Message = symmd::Message<L1, L2, L3, S>;
    using Edges = EdgePack<Message::factor_count, Message::D1, Message::paths, S>;
    using Kept = typename Message::Kept;
    using Radial = symmd::Radial<Message::paths, S>;
    static constexpr int D1 = Message::D1, D3 = Message::D3, shared = Message::shared;
    static constexpr int paths = Message::paths, W = lanes<T>;
    static constexpr int record_size = Message::record_size, sum_size = Message::sum_size;
    static constexpr int pull_size = Message::pull_size;
    static constexpr int edge_sums = Message::direction_pulls + 1;  // of eq. 42, and λ of eq. 43
    static constexpr int batch = W < 8 ? W : 8;                     // edges between two looks at the heads

    const EdgePassShape& shape;
    const EdgePassInput<T>& in;
    const int channels, heads, blocks, head_packs;
    const T score_scale;  // 1 / √d
    Edges& edges;
    V *accumulated, *message_sums;                 // A, and A as it is summed up, by block of channels
    V* records;                                    // [batch, blocks] what the first visit of the forward pass leaves
    V *query, *query_pull;                         // by block, as the messages want them
    P* prepared_pull;                              // by block
    V *total, *inverse_total, *pull_of_aggregate;  // Z, 1/Z and G, by pack of heads
    V* sums;     // [edge_sums, W] λ and Ȳ of each edge, still to be summed over the lanes
    Kept* kept;  // [batch, blocks]
    EdgeNumbers<S> first, second, third, fades;  // of a batch: by channels, then by heads
    EdgeNumbers<S> weights, bends;               // of a batch, by heads: √n̄ α (forward: w), β
    const HeadSums<S> head_sums;

    static int64_t heads_of(const EdgePassShape& shape) { return shape.attends ? shape.heads : 1; }
    static int64_t packs_of_heads(const EdgePassShape& shape) { return (heads_of(shape) + W - 1) / W; }
    static int64_t numbers_of(const EdgePassShape& shape) { return batch * shape.channels + 8 * W; }

    // Hands out the parts of the workspace, or only counts their bytes.
    struct Memory {
        char* at;
        template <class Item>
        Item* take(int64_t count) {
            Item* taken = reinterpret_cast<Item*>(at);
            at += (count * int64_t(sizeof(Item)) + 63) / 64 * 64;
            return taken;
        }
        EdgeNumbers<S> take_numbers(int64_t count) {
            EdgeNumbers<S> numbers{take<T>(count), nullptr};
            if constexpr (is_dual<S>) numbers.slope = take<T>(count);
            return numbers;
        }
    };

  public:
    static int64_t workspace_bytes(const EdgePassShape& shape) {
        const int64_t blocks = shape.channels / W;
        const int64_t packs = blocks * (D3 + sum_size + pull_size + batch * record_size + 2 * D1) +
                              3 * packs_of_heads(shape) + edge_sums * W;
        const int64_t numbers = 6 * numbers_of(shape) * (is_dual<S> ? 2 : 1);
        return int64_t(sizeof(Edges)) + packs * int64_t(sizeof(V)) + batch * blocks * int64_t(sizeof(Kept)) +
               numbers * int64_t(sizeof(T)) + HeadSums<S>::index_bytes(shape.channels) + 32 * 64;
    }

    // `workspace`: workspace_bytes(shape) bytes, aligned to 64.
    EdgePass(const EdgePassShape& shape, const EdgePassInput<T>& in, char* workspace)
        : EdgePass(shape, in, Memory{workspace}) {}

    void forward(int64_t begin, int64_t end, const EdgePassOutput<T>& out) {
        for (int64_t atom = begin; atom < end; ++atom) {
            aggregate(atom);
            write_aggregate(atom, out.aggregated);
            if (out.total && shape.attends) write_total(atom, out.total);
        }
    }

    void backward(int64_t begin, int64_t end, const EdgePassOutput<T>& out) {
        for (int64_t atom = begin; atom < end; ++atom) {
            if (!is_dual<S> && in.aggregated) {
                recall(atom);
            } else {
                aggregate(atom);
            }
            if (out.aggregated) write_aggregate(atom, out.aggregated);
            pull_atom(atom, out);
        }
    }

  private:
    EdgePass(const EdgePassShape& shape, const EdgePassInput<T>& in, Memory memory)
        : shape(shape),
          in(in),
          channels(int(shape.channels)),
          heads(int(heads_of(shape))),
          blocks(channels / W),
          head_packs(int(packs_of_heads(shape))),
          score_scale(T(1 / __builtin_sqrt(double(channels / heads)))),
          edges(*memory.template take<Edges>(1)),
          accumulated(memory.template take<V>(blocks * D3)),
          message_sums(memory.template take<V>(blocks * sum_size)),
          records(memory.template take<V>(batch * blocks * record_size)),
          query(memory.template take<V>(blocks * D1)),
          query_pull(memory.template take<V>(blocks * D1)),
          prepared_pull(memory.template take<P>(blocks * pull_size)),
          total(memory.template take<V>(head_packs)),
          inverse_total(memory.template take<V>(head_packs)),
          pull_of_aggregate(memory.template take<V>(head_packs)),
          sums(memory.template take<V>(edge_sums * W)),
          kept(memory.template take<Kept>(batch * blocks)),
          first(memory.take_numbers(numbers_of(shape))),
          second(memory.take_numbers(numbers_of(shape))),
          third(memory.take_numbers(numbers_of(shape))),
          fades(memory.take_numbers(numbers_of(shape))),
          weights(memory.take_numbers(numbers_of(shape))),
          bends(memory.take_numbers(numbers_of(shape))),
          head_sums(channels, heads, memory.template take<char>(HeadSums<S>::index_bytes(shape.channels))) {
        // Lanes behind the last head are computed with, and must hold numbers; without attention every message counts
        // with √n̄ of eq. 19 (backward) or 1, and no query bends it.
        for (int64_t k = 0; k < numbers_of(shape); k += W) {
            first.put(k, zero_pack<V>()), second.put(k, zero_pack<V>()), third.put(k, zero_pack<V>()),
                fades.put(k, zero_pack<V>());
            bends.put(k, zero_pack<V>());
            weights.put(k, zero_pack<V>() + T(1));
        }
        for (int k = 0; k < blocks * D1; ++k) query[k] = zero_pack<V>();
    }

    struct Edge {
        const Edges& edges;
        const int lane;
        S operator()(int group) const { return lane_of(edges.factor[group], lane); }
    };

    // What the channels of an edge are computed from. Copies of the members: stores into the workspace would otherwise
    // make the compiler load them again.
    struct Source {
        const T *table, *values, *values_slope;
        int64_t channels;
        Source(const EdgePass& pass)
            : table(pass.in.table),
              values(pass.in.values),
              values_slope(pass.in.values_slope),
              channels(pass.shape.channels) {}

        void load_values(int64_t start, V* sent) const {
            for (int c = 0; c < D1; ++c) sent[c] = load_with_slope<S>(values, values_slope, start + c * channels);
        }
    };

    void load_queries(int64_t atom) {
        for (int b = 0; b < blocks; ++b) {
            for (int c = 0; c < D1; ++c) {
                const int64_t at = (atom * D1 + c) * shape.channels + b * W;
                query[b * D1 + c] = load_with_slope<S>(in.queries, in.queries_slope, at);
            }
            Message::prepare_query(query + b * D1);
        }
    }

    V head_constant(const T* numbers, int pack, T padding) const {
        alignas(64) T value[W];
        for (int lane = 0; lane < W; ++lane) {
            const int h = pack * W + lane;
            value[lane] = h < heads ? numbers[h] : padding;
        }
        return constant_pack(load<T>(value));
    }

    static V constant_pack(P pack) {
        if constexpr (is_dual<S>) {
            return {pack, P{}};
        } else {
            return pack;
        }
    }

    // eq. 16-19 for one atom: leaves A in `accumulated` and, with attention, Z in `total`.
    void aggregate(int64_t atom) {
        for (int k = 0; k < blocks * sum_size; ++k) message_sums[k] = zero_pack<V>();
        if (shape.attends) {
            load_queries(atom);
            for (int pack = 0; pack < head_packs; ++pack)
                total[pack] = exponential_of(head_constant(in.sink, pack, T(0)));
        }
        const int64_t end = in.row_start[atom + 1];
        edges.start();
        for (int64_t edge = in.row_start[atom]; !edges.finished(edge, end);) {
            edges.gather(shape, in, edge, end);
            if (edges.count == 0) continue;
            Message::make_factors(edges.direction, edges.factor);
            for (int lane = 0; lane < edges.count; lane += batch) {
                const int count = edges.count - lane < batch ? edges.count - lane : batch;
                if (shape.attends) {
                    spread_fade(lane, count);
                    form_messages(lane, count);
                    weigh(lane, count);
                } else {
                    form_messages(lane, count);
                    weigh_alike(lane, count);
                }
                add_messages(lane, count);
            }
        }
        if (shape.attends) {
            for (int pack = 0; pack < head_packs; ++pack)
                weights.put(pack * W, (zero_pack<V>() + T(shape.gain)) / total[pack]);
        } else {
            weights.put(0, zero_pack<V>() + T(1));
        }
        for (int b = 0; b < blocks; ++b) {
            const V weight = head_sums.spread()(weights, 0, b);
            Message::finish_sum(message_sums + b * sum_size, accumulated + b * D3);
            for (int c = 0; c < D3; ++c) accumulated[b * D3 + c] = weight * accumulated[b * D3 + c];
        }
    }

    void form_messages(int lane, int count) {
        const Source source(*this);
        const int blocks = this->blocks;
        const V* const query = this->query;
        const EdgeNumbers<S> overlaps = first;
        V* record = records;
        for (int e = 0; e < count; ++e) {
            const Edge factor{edges, lane + e};
            S coefficient[3];
            for (int k = 0; k < 3; ++k) coefficient[k] = lane_of(edges.coefficient[k], lane + e);
            const T* rows = source.table + edges.row_start[lane + e];
            const int64_t value_start = edges.value_start[lane + e];
            for (int b = 0; b < blocks; ++b, record += record_size) {
                V sent[D1];
                source.load_values(value_start + b * W, sent);
                Radial radial{coefficient, nullptr, unforeseen(rows + b * W), source.channels};
                overlaps.put((e * blocks + b) * W, Message::form(factor, radial, sent, query + b * D1, record));
            }
        }
    }

    // Before the overlaps of a batch are summed up: the envelope for each head, which messages are formed without.
    void spread_fade(int lane, int count) {
        for (int e = 0; e < count; ++e) {
            const V fade = zero_pack<V>() + lane_of(edges.fade, lane + e);
            for (int pack = 0; pack < head_packs; ++pack) fades.put(e * heads + pack * W, fade);
        }
    }

    // eq. 16-17: f w of the batch, from the overlaps.
    void weigh(int lane, int count) {
        head_sums.sum(first, count);
        for (int k = 0; k < count * heads; k += W) {
            const V score = T(5) * hyperbolic_tangent(first.at(k) * (score_scale / T(5)) * fades.at(k));
            first.put(k, exponential_of(score));
        }
        for (int e = 0; e < count; ++e) {
            const S fade = lane_of(edges.fade, lane + e);
            for (int pack = 0; pack < head_packs; ++pack) {
                const V weight = fade * first.at(e * heads + pack * W);
                weights.put(e * heads + pack * W, fade * weight);
                total[pack] += weight;
            }
        }
    }

    // Without attention: f times the gain of eq. 19.
    void weigh_alike(int lane, int count) {
        for (int e = 0; e < count; ++e) weights.put(e, zero_pack<V>() + T(shape.gain) * lane_of(edges.fade, lane + e));
    }

    void add_messages(int lane, int count) {
        const Source source(*this);
        const int blocks = this->blocks, heads = this->heads;
        const EdgeNumbers<S> weights = this->weights;
        const typename HeadSums<S>::Spread spread = head_sums.spread();
        for (int b = 0; b < blocks; ++b) {
            V sum[sum_size];
            for (int c = 0; c < sum_size; ++c) sum[c] = message_sums[b * sum_size + c];
            const V* record = records + b * record_size;
            for (int e = 0; e < count; ++e, record += blocks * record_size) {
                S coefficient[3];
                for (int k = 0; k < 3; ++k) coefficient[k] = lane_of(edges.coefficient[k], lane + e);
                const T* rows =
                    source.table + edges.row_start[lane + e] + Message::scored_paths * source.channels + b * W;
                V sent[D1];
                source.load_values(edges.value_start[lane + e] + b * W, sent);
                Radial radial{coefficient, nullptr, unforeseen(rows), source.channels};
                Message::add(Edge{edges, lane + e}, radial, sent, spread(weights, e * heads, b), record, sum);
            }
            for (int c = 0; c < sum_size; ++c) message_sums[b * sum_size + c] = sum[c];
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

    void write_total(int64_t atom, T* to) const {
        for (int pack = 0; pack < head_packs; ++pack)
            for (int lane = 0; lane < W && pack * W + lane < heads; ++lane)
                to[atom * heads + pack * W + lane] = value_of(total[pack])[lane];
    }

    void write_aggregate(int64_t atom, T* to) const {
        for (int b = 0; b < blocks; ++b)
            for (int c = 0; c < D3; ++c)
                store<T>(to + (atom * D3 + c) * shape.channels + b * W, outcome(accumulated[b * D3 + c]));
    }

    // eq. 33-45 for the edges of one atom, after `aggregate` of the same atom.
    void pull_atom(int64_t atom, const EdgePassOutput<T>& out) {
        const T* pull = in.pull + atom * D3 * shape.channels;
        if (shape.attends) {
            sum_pull_of_aggregate(pull);
            if (out.sink) pull_sink(out.sink);
        }
        const bool to_values = out.values || out.queries;
        if (out.vectors) zero_vectors(atom, out.vectors);
        for (int k = 0; k < blocks * D1; ++k) query_pull[k] = zero_pack<V>();
        for (int b = 0; b < blocks; ++b) {
            for (int c = 0; c < D3; ++c) prepared_pull[b * pull_size + c] = load<T>(pull + c * shape.channels + b * W);
            Message::prepare_pull(prepared_pull + b * pull_size);
        }
        const int64_t end = in.row_start[atom + 1];
        edges.start();
        for (int64_t edge = in.row_start[atom]; !edges.finished(edge, end);) {
            edges.gather(shape, in, edge, end);
            if (edges.count == 0) continue;
            Message::make_factors(edges.direction, edges.factor);
            for (int lane = 0; lane < edges.count; lane += batch) {
                const int count = edges.count - lane < batch ? edges.count - lane : batch;
                if (shape.attends) spread_fade(lane, count);
                measure_messages(lane, count, to_values);
                pull_scores(lane, count);
                pull_messages(lane, count, to_values, out);
                if (out.table) pull_table(lane, count, out.table);
            }
            if (out.vectors) pull_vectors(out.vectors);
        }
        if (shape.attends && out.queries) {
            for (int b = 0; b < blocks; ++b) {
                Message::finish_query(query_pull + b * D1);
                for (int c = 0; c < D1; ++c)
                    store<T>(out.queries + (atom * D1 + c) * shape.channels + b * W, outcome(query_pull[b * D1 + c]));
            }
        }
    }

    // What edges beyond the cutoff keep.
    void zero_vectors(int64_t atom, T* vectors) const {
        for (int64_t k = 3 * in.row_start[atom]; k < 3 * in.row_start[atom + 1]; ++k) vectors[k] = T(0);
    }

    // G of eq. 33. The inverse of Z is zero in lanes behind the last head: nothing comes from there.
    void sum_pull_of_aggregate(const T* pull) {
        for (int b = 0; b < blocks; ++b) {
            V overlap = zero_pack<V>();
            for (int c = 0; c < D3; ++c)
                overlap += load<T>(pull + c * shape.channels + b * W) * accumulated[b * D3 + c];
            first.put(b * W, overlap);
        }
        head_sums.sum(first, 1);
        for (int pack = 0; pack < head_packs; ++pack) {
            pull_of_aggregate[pack] = first.at(pack * W);
            inverse_total[pack] = only_heads(T(1) / total[pack], pack);
        }
    }

    // eq. 35.
    void pull_sink(T* sink_pull) const {
        for (int pack = 0; pack < head_packs; ++pack) {
            const V floor = exponential_of(head_constant(in.sink, pack, T(0)));
            const V change = -(floor * pull_of_aggregate[pack] / total[pack]);
            for (int lane = 0; lane < W && pack * W + lane < heads; ++lane) {
                sink_pull[pack * W + lane] += outcome(change)[lane];
            }
        }
    }

    void measure_messages(int lane, int count, bool to_values) {
        const Source source(*this);
        const int blocks = this->blocks;
        const V* const query = this->query;
        const P* const pull = prepared_pull;
        const EdgeNumbers<S> overlaps = first, pulls = second;
        Kept* known = kept;
        for (int e = 0; e < count; ++e) {
            const Edge factor{edges, lane + e};
            S coefficient[3], coefficient_slope[3];
            for (int k = 0; k < 3; ++k) {
                coefficient[k] = lane_of(edges.coefficient[k], lane + e);
                coefficient_slope[k] = lane_of(edges.coefficient_slope[k], lane + e);
            }
            const T* rows = source.table + edges.row_start[lane + e];
            const int64_t value_start = edges.value_start[lane + e];
            for (int b = 0; b < blocks; ++b, ++known) {
                V sent[D1], overlap, pulled;
                source.load_values(value_start + b * W, sent);
                Radial radial{coefficient, coefficient_slope, unforeseen(rows + b * W), source.channels};
                Message::measure(factor, radial, sent, query + b * D1, pull + b * pull_size, to_values, *known, overlap,
                                 pulled);
                overlaps.put((e * blocks + b) * W, overlap);
                pulls.put((e * blocks + b) * W, pulled);
            }
        }
    }

    // eq. 34, 36: f √n̄ α and f β of the batch, and the part of λ (eq. 43) that goes through the envelope.
    void pull_scores(int lane, int count) {
        head_sums.sum(first, count);
        head_sums.sum(second, count);
        if (!shape.attends) {
            weigh_alike(lane, count);
            for (int e = 0; e < count; ++e) {
                const V fade_pull = only_heads(T(shape.gain) * second.at(e), 0);
                sums[lane + e] = lane_of(edges.fade_slope, lane + e) * fade_pull;
            }
            return;
        }
        for (int k = 0; k < count * heads; k += W) {
            const V bent = hyperbolic_tangent(first.at(k) * (score_scale / T(5)) * fades.at(k));
            third.put(k, score_scale * (T(1) - bent * bent));
            fades.put(k, exponential_of(T(5) * bent));
        }
        for (int e = 0; e < count; ++e) {
            const S fade = lane_of(edges.fade, lane + e);
            V fade_pull = zero_pack<V>();
            for (int pack = 0; pack < head_packs; ++pack) {
                const int64_t at = e * heads + pack * W;
                const V raised = fades.at(at), faded = fade * raised, message = T(shape.gain) * second.at(at);
                const V weight_pull = (fade * message - pull_of_aggregate[pack]) * inverse_total[pack];
                const V weight = faded * inverse_total[pack], bend = weight_pull * faded * third.at(at);
                fade_pull += weight_pull * raised + weight * message + bend * first.at(at);
                weights.put(at, (T(shape.gain) * fade) * weight);
                bends.put(at, fade * bend);
            }
            sums[lane + e] = lane_of(edges.fade_slope, lane + e) * fade_pull;
        }
    }

    V only_heads(V pack, int number) const {
        if ((number + 1) * W <= heads) return pack;
        PackIndex<T> place;
        for (int lane = 0; lane < W; ++lane) place[lane] = number * W + lane;
        const auto inside = place < PackIndex<T>{} + heads;
        if constexpr (is_dual<S>) {
            return {inside ? pack.value : P{}, inside ? pack.slope : P{}};
        } else {
            return inside ? pack : P{};
        }
    }

    // eq. 37-43.
    void pull_messages(int lane, int count, bool to_values, const EdgePassOutput<T>& out) {
        const Source source(*this);
        const int blocks = this->blocks;
        const V* const query = this->query;
        const P* const pull = prepared_pull;
        const EdgeNumbers<S> weights = this->weights, bends = this->bends;
        const typename HeadSums<S>::Spread spread = head_sums.spread();
        T* const value_pulls = out.values;
        const Kept* known = kept;
        for (int e = 0; e < count; ++e) {
            const Edge factor{edges, lane + e};
            const int64_t value_start = edges.value_start[lane + e];
            const int heads_start = e * heads;
            V direction_pull[edge_sums], distance_pull = sums[lane + e];
            for (int k = 0; k < edge_sums; ++k) direction_pull[k] = zero_pack<V>();
            for (int b = 0; b < blocks; ++b, ++known) {
                const V weight = spread(weights, heads_start, b), bend = spread(bends, heads_start, b);
                V sent[D1], value_pull[D1];
                for (int c = 0; c < D1; ++c) value_pull[c] = zero_pack<V>();
                source.load_values(value_start + b * W, sent);
                Message::pull(factor, *known, sent, query + b * D1, pull + b * pull_size, weight, bend, to_values,
                              direction_pull, distance_pull, query_pull + b * D1, value_pull);
                if (value_pulls) {
                    for (int c = 0; c < D1; ++c)
                        add_to<T>(value_pulls + value_start + c * source.channels + b * W, outcome(value_pull[c]));
                }
            }
            sums[lane + e] = distance_pull;
            for (int k = 1; k < edge_sums; ++k) sums[k * W + lane + e] = direction_pull[k - 1];
        }
    }

    // eq. 40-41.
    void pull_table(int lane, int count, T* table) const {
        const Source source(*this);
        const typename HeadSums<S>::Spread spread = head_sums.spread();
        for (int e = 0; e < count; ++e) {
            for (int b = 0; b < blocks; ++b) {
                V sent[D1], radial_pull[paths];
                source.load_values(edges.value_start[lane + e] + b * W, sent);
                Message::pull_radial(Edge{edges, lane + e}, sent, query + b * D1, prepared_pull + b * pull_size,
                                     spread(weights, e * heads, b), spread(bends, e * heads, b), radial_pull);
                add_to_rows(lane + e, radial_pull, table + edges.row_start[lane + e] + b * W);
            }
        }
    }

    void add_to_rows(int lane, const V* radial_pull, T* rows) const {
        const S rise = lane_of(edges.coefficient[1], lane);
        const S coefficient[4] = {T(1) - rise, lane_of(edges.coefficient[0], lane), rise,
                                  lane_of(edges.coefficient[2], lane)};
        for (int k = 0; k < 4; ++k)
            for (int p = 0; p < paths; ++p, rows += shape.channels)
                add_to<T>(rows, outcome(coefficient[k] * radial_pull[p]));
    }

    void pull_vectors(T* vectors) {
        for (int k = 0; k < edge_sums; ++k) {
            const auto pack = [&](int n) { return sums[k * W + n]; };
            sums[k] = sums_of_lanes<T, W>(pack);
        }
        V gradient[3];
        Message::gradient(edges.direction, sums + 1, gradient);
        edges.write_pull(sums[0], gradient, vectors);
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
