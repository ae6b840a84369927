// symmd::attention, the edge pass of one layer (eq. 15-19) as a torch operator: twice differentiable where training on
// forces needs it (docs/theory.md §8). Each derivative is an operator of its own, so that compilers of torch programs
// see all of them.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <tuple>

#include "../core/coupling.h"
#include "../core/kernels.h"
#include "operators.h"
#include "tensors.h"

namespace symmd_torch {

namespace {

using symmd::EdgePassInput;
using symmd::EdgePassOutput;
using symmd::EdgePassShape;
using symmd::Pass;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct EdgeTensors {
    Tensor row_start, sender, vectors, values, queries, table, sink;
};

struct EdgeConstants {
    double cutoff, gain;
    int64_t harmonic_degree, message_degree;
    bool attends;
};

struct EdgePulls {
    Tensor aggregated, vectors, values, queries, table, sink;
};

EdgePassShape shape_of(const EdgeTensors& t, const EdgeConstants& c) {
    EdgePassShape shape;
    shape.channels = t.values.size(2);
    shape.heads = c.attends ? t.sink.size(0) : 1;
    shape.knots = t.table.size(0) / 2 - 1;
    shape.value_degree = degree_of(t.values.size(1));
    shape.harmonic_degree = int(c.harmonic_degree);
    shape.message_degree = int(c.message_degree);
    shape.cutoff = c.cutoff;
    shape.gain = c.gain;
    shape.attends = c.attends;
    return shape;
}

// Which results a backward pass is asked for: vectors, values, queries, table, sink.
using Wanted = std::array<bool, 5>;

struct FreeMemory {
    void operator()(char* memory) const { std::free(memory); }
};

template <class T>
EdgePulls run_edges(const EdgeTensors& t, const EdgeConstants& c, Pass pass, const Tensor& pull,
                    const EdgeTensors& slopes, const Wanted& wanted) {
    const EdgePassShape shape = shape_of(t, c);
    const auto& kernels = symmd::kernels<T>();
    const int64_t workspace = kernels.edge_workspace(shape, pass);
    TORCH_CHECK(workspace >= 0, "symmd::attention has no kernel for degrees ", shape.value_degree, ", ",
                shape.harmonic_degree, " -> ", shape.message_degree);
    const int64_t atoms = t.values.size(0), edges = t.vectors.size(0);
    const int64_t components = (c.message_degree + 1) * (c.message_degree + 1);
    const auto options = t.values.options();
    const bool backward = pass == Pass::backward;
    EdgePulls result;
    if (!backward) result.aggregated = at::empty({atoms, components, shape.channels}, options);
    if (wanted[0]) result.vectors = at::empty({edges, 3}, options);
    if (wanted[2] && c.attends) result.queries = at::empty_like(t.queries);

    EdgePassInput<T> in{};
    in.row_start = t.row_start.const_data_ptr<int64_t>();
    in.sender = t.sender.const_data_ptr<int64_t>();
    in.vectors = numbers<T>(t.vectors);
    in.values = numbers<T>(t.values);
    in.queries = numbers<T>(t.queries);
    in.table = numbers<T>(t.table);
    in.sink = numbers<T>(t.sink);
    in.vectors_slope = numbers<T>(slopes.vectors);
    in.values_slope = numbers<T>(slopes.values);
    in.queries_slope = numbers<T>(slopes.queries);
    in.pull = numbers<T>(pull);

    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), (atoms + 7) / 8));
    PerThread values(wanted[1], t.values, threads), table(wanted[3], t.table, threads);
    PerThread sink(wanted[4] && c.attends, t.sink, threads);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
        std::unique_ptr<char, FreeMemory> memory(
            static_cast<char*>(std::aligned_alloc(64, (workspace + 63) / 64 * 64)));
        TORCH_CHECK(memory, "symmd::attention: out of memory");
        for (int64_t thread = begin; thread < end; ++thread) {
            EdgePassOutput<T> out;
            out.aggregated = mutable_numbers<T>(result.aggregated);
            out.vectors = mutable_numbers<T>(result.vectors);
            out.queries = mutable_numbers<T>(result.queries);
            out.values = mutable_numbers<T>(values.part(thread));
            out.table = mutable_numbers<T>(table.part(thread));
            out.sink = mutable_numbers<T>(sink.part(thread));
            kernels.edge(shape, pass, in, atoms * thread / threads, atoms * (thread + 1) / threads, out, memory.get());
        }
    });
    result.values = values.sum();
    result.table = table.sum();
    result.sink = sink.sum();
    return result;
}

EdgePulls run_edges(const EdgeTensors& t, const EdgeConstants& c, Pass pass, const Tensor& pull,
                    const EdgeTensors& slopes, const Wanted& wanted) {
    if (t.values.scalar_type() == at::kDouble) return run_edges<double>(t, c, pass, pull, slopes, wanted);
    return run_edges<float>(t, c, pass, pull, slopes, wanted);
}

void check_rows(const Tensor& row_start, int64_t edges) {
    const int64_t* rows = row_start.const_data_ptr<int64_t>();
    const int64_t last = row_start.numel() - 1;
    bool ascends = rows[0] == 0 && rows[last] == edges;
    for (int64_t k = 0; k < last; ++k) ascends = ascends && rows[k] <= rows[k + 1];
    TORCH_CHECK(ascends, "row_start must ascend from 0 to the number of edges, ", edges);
}

void check_finite(const Tensor& vectors) {
    AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "symmd::attention", [&] {
        const scalar_t* found = vectors.const_data_ptr<scalar_t>();
        for (int64_t k = 0; k < vectors.numel(); ++k)
            TORCH_CHECK(std::isfinite(found[k]), "vectors must be finite, found ", found[k], " at edge ", k / 3);
        for (int64_t k = 0; k < vectors.numel(); k += 3)
            TORCH_CHECK(found[k] * found[k] + found[k + 1] * found[k + 1] + found[k + 2] * found[k + 2] > 0,
                        "vectors must have a length, found none at edge ", k / 3,
                        "; leave out edges of an atom to itself, and fill up with vectors beyond the cutoff");
    });
}

// The tensors without gaps in memory, after checks of everything that the kernels rely on.
EdgeTensors checked(const EdgeTensors& t, const EdgeConstants& c) {
    check_floating(t.values, "values");
    const auto type = t.values.scalar_type();
    check_number_type(t.vectors, "vectors", type);
    check_number_type(t.table, "table", type);
    check_number_type(t.row_start, "row_start", at::kLong);
    check_number_type(t.sender, "sender", at::kLong);
    const int degree = check_features(t.values, "values");
    const int64_t channels = t.values.size(2);
    TORCH_CHECK(attention_supported(degree, c.harmonic_degree, c.message_degree),
                "symmd::attention has no kernel for degrees ", degree, ", ", c.harmonic_degree, " -> ",
                c.message_degree);
    TORCH_CHECK(c.cutoff > 0, "cutoff must be positive, found ", c.cutoff);
    check_sizes(t.row_start, "row_start", {t.values.size(0) + 1});
    TORCH_CHECK(t.sender.dim() == 1, "sender must be [edges], found ", t.sender.sizes());
    check_sizes(t.vectors, "vectors", {t.sender.size(0), 3});
    TORCH_CHECK(t.table.dim() == 2 && t.table.size(0) >= 4 && t.table.size(0) % 2 == 0,
                "table needs two rows for each of at least two knots, found ", t.table.sizes());
    check_sizes(
        t.table, "table",
        {t.table.size(0), symmd::count_paths(degree, int(c.harmonic_degree), int(c.message_degree)) * channels});
    if (c.attends) {
        check_number_type(t.queries, "queries", type);
        check_number_type(t.sink, "sink", type);
        check_sizes(t.queries, "queries", t.values.sizes());
        TORCH_CHECK(t.sink.dim() == 1 && t.sink.size(0) > 0 && channels % t.sink.size(0) == 0,
                    "sink must be [heads] with a number of heads that divides ", channels, " channels, found ",
                    t.sink.sizes());
    }
    const EdgeTensors packed{dense(t.row_start), dense(t.sender), dense(t.vectors), dense(t.values),
                             dense(t.queries),   dense(t.table),  dense(t.sink)};
    check_rows(packed.row_start, packed.sender.size(0));
    check_index(packed.sender, "sender", packed.values.size(0));
    return packed;
}

Tensor checked_pull(const Tensor& pull, const EdgeTensors& t, const EdgeConstants& c) {
    check_number_type(pull, "pull", t.values.scalar_type());
    check_sizes(pull, "pull", {t.values.size(0), (c.message_degree + 1) * (c.message_degree + 1), t.values.size(2)});
    return dense(pull);
}

Tensor checked_slope(const Tensor& slope, const char* name, const Tensor& of) {
    check_number_type(slope, name, of.scalar_type());
    check_sizes(slope, name, of.sizes());
    return dense(slope);
}

bool both_given(const std::optional<Tensor>& queries, const std::optional<Tensor>& sink) {
    TORCH_CHECK(queries.has_value() == sink.has_value(), "queries and sink must be given together");
    return queries.has_value();
}

// The operators of operators.cpp, on tensors of the CPU and on tensors without numbers.

using AttentionCall = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                             const Tensor&, const std::optional<Tensor>&, double, double, int64_t, int64_t);
using FirstPulls = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardCall = FirstPulls(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                const std::optional<Tensor>&, const Tensor&, const std::optional<Tensor>&, double,
                                double, int64_t, int64_t, Wanted);
using SecondPulls = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using BackwardSlopeCall = SecondPulls(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                      const std::optional<Tensor>&, const Tensor&, const std::optional<Tensor>&, double,
                                      double, int64_t, int64_t, const Tensor&, const Tensor&,
                                      const std::optional<Tensor>&, bool);

Tensor attention(const Tensor& row_start, const Tensor& sender, const Tensor& vectors, const Tensor& values,
                 const std::optional<Tensor>& queries, const Tensor& table, const std::optional<Tensor>& sink,
                 double cutoff, double gain, int64_t harmonic_degree, int64_t message_degree) {
    const EdgeConstants c{cutoff, gain, harmonic_degree, message_degree, both_given(queries, sink)};
    const EdgeTensors t =
        checked({row_start, sender, vectors, values, or_nothing(queries, values), table, or_nothing(sink, values)}, c);
    check_finite(t.vectors);
    return run_edges(t, c, Pass::forward, {}, {}, {}).aggregated;
}

Tensor attention_shape(const Tensor&, const Tensor&, const Tensor&, const Tensor& values, const std::optional<Tensor>&,
                       const Tensor&, const std::optional<Tensor>&, double, double, int64_t, int64_t message_degree) {
    return at::empty_symint({values.sym_size(0), (message_degree + 1) * (message_degree + 1), values.sym_size(2)},
                            values.options());
}

FirstPulls attention_backward(const Tensor& pull, const Tensor& row_start, const Tensor& sender, const Tensor& vectors,
                              const Tensor& values, const std::optional<Tensor>& queries, const Tensor& table,
                              const std::optional<Tensor>& sink, double cutoff, double gain, int64_t harmonic_degree,
                              int64_t message_degree, Wanted wanted) {
    const EdgeConstants c{cutoff, gain, harmonic_degree, message_degree, both_given(queries, sink)};
    const EdgeTensors t =
        checked({row_start, sender, vectors, values, or_nothing(queries, values), table, or_nothing(sink, values)}, c);
    const EdgePulls pulls = run_edges(t, c, Pass::backward, checked_pull(pull, t, c), {}, wanted);
    return {or_nothing(pulls.vectors, values), or_nothing(pulls.values, values), or_nothing(pulls.queries, values),
            or_nothing(pulls.table, values), or_nothing(pulls.sink, values)};
}

FirstPulls attention_backward_shape(const Tensor&, const Tensor&, const Tensor&, const Tensor& vectors,
                                    const Tensor& values, const std::optional<Tensor>& queries, const Tensor& table,
                                    const std::optional<Tensor>& sink, double, double, int64_t, int64_t,
                                    Wanted wanted) {
    return {wanted[0] ? shaped_like(vectors) : nothing(values), wanted[1] ? shaped_like(values) : nothing(values),
            wanted[2] && queries ? shaped_like(*queries) : nothing(values),
            wanted[3] ? shaped_like(table) : nothing(values), wanted[4] && sink ? shaped_like(*sink) : nothing(values)};
}

SecondPulls attention_backward_slope(const Tensor& pull, const Tensor& row_start, const Tensor& sender,
                                     const Tensor& vectors, const Tensor& values, const std::optional<Tensor>& queries,
                                     const Tensor& table, const std::optional<Tensor>& sink, double cutoff, double gain,
                                     int64_t harmonic_degree, int64_t message_degree, const Tensor& vectors_slope,
                                     const Tensor& values_slope, const std::optional<Tensor>& queries_slope,
                                     bool vectors_wanted) {
    const EdgeConstants c{cutoff, gain, harmonic_degree, message_degree, both_given(queries, sink)};
    const EdgeTensors t =
        checked({row_start, sender, vectors, values, or_nothing(queries, values), table, or_nothing(sink, values)}, c);
    EdgeTensors slopes;
    slopes.vectors = checked_slope(vectors_slope, "vectors_slope", t.vectors);
    slopes.values = checked_slope(values_slope, "values_slope", t.values);
    TORCH_CHECK(queries_slope.has_value() == c.attends, "queries and queries_slope must be given together");
    if (c.attends) slopes.queries = checked_slope(*queries_slope, "queries_slope", t.queries);
    const EdgePulls pulls = run_edges(t, c, Pass::backward_slope, checked_pull(pull, t, c), slopes,
                                      {vectors_wanted, true, true, true, true});
    return {pulls.aggregated, or_nothing(pulls.vectors, values), pulls.values, or_nothing(pulls.queries, values),
            pulls.table,      or_nothing(pulls.sink, values)};
}

SecondPulls attention_backward_slope_shape(const Tensor& pull, const Tensor&, const Tensor&, const Tensor& vectors,
                                           const Tensor& values, const std::optional<Tensor>& queries,
                                           const Tensor& table, const std::optional<Tensor>& sink, double, double,
                                           int64_t, int64_t, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                                           bool vectors_wanted) {
    return {shaped_like(pull),   vectors_wanted ? shaped_like(vectors) : nothing(values),
            shaped_like(values), queries ? shaped_like(*queries) : nothing(values),
            shaped_like(table),  sink ? shaped_like(*sink) : nothing(values)};
}

std::optional<Tensor> if_attends(const EdgeConstants& c, const Tensor& tensor) {
    return c.attends ? std::optional<Tensor>(tensor) : std::nullopt;
}

EdgeTensors saved_edges(AutogradContext* context, std::size_t offset) {
    const auto saved = context->get_saved_variables();
    return {saved[offset],     saved[offset + 1], saved[offset + 2], saved[offset + 3],
            saved[offset + 4], saved[offset + 5], saved[offset + 6]};
}

void keep(AutogradContext* context, const EdgeConstants& c) {
    context->saved_data["cutoff"] = c.cutoff;
    context->saved_data["gain"] = c.gain;
    context->saved_data["harmonic_degree"] = c.harmonic_degree;
    context->saved_data["message_degree"] = c.message_degree;
    context->saved_data["attends"] = c.attends;
}

EdgeConstants kept(AutogradContext* context) {
    auto& data = context->saved_data;
    return {data["cutoff"].toDouble(), data["gain"].toDouble(), data["harmonic_degree"].toInt(),
            data["message_degree"].toInt(), data["attends"].toBool()};
}

// (pull, edges) -> gradients of <pull, A>. Its own backward runs the same kernels on dual numbers (eq. 55).
struct AttentionBackward : torch::autograd::Function<AttentionBackward> {
    static tensor_list forward(AutogradContext* context, const Tensor& pull, const Tensor& row_start,
                               const Tensor& sender, const Tensor& vectors, const Tensor& values, const Tensor& queries,
                               const Tensor& table, const Tensor& sink, const EdgeConstants& c, const Wanted& wanted) {
        static const auto backward = operator_named<BackwardCall>("symmd::_attention_backward");
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor packed = pull.contiguous();
        context->set_materialize_grads(false);
        context->save_for_backward({packed, row_start, sender, vectors, values, queries, table, sink});
        keep(context, c);
        const auto [of_vectors, of_values, of_queries, of_table, of_sink] =
            backward.call(packed, row_start, sender, vectors, values, if_attends(c, queries), table,
                          if_attends(c, sink), c.cutoff, c.gain, c.harmonic_degree, c.message_degree, wanted);
        return {of_vectors, of_values, of_queries, of_table, of_sink};
    }

    static tensor_list backward(AutogradContext* context, tensor_list cotangents) {
        static const auto slope = operator_named<BackwardSlopeCall>("symmd::_attention_backward_slope");
        refuse_third_derivative("symmd::attention");
        TORCH_CHECK(!cotangents[3].defined() && !cotangents[4].defined(),
                    "symmd::attention: second derivatives run through positions, values and queries only");
        at::AutoDispatchBelowADInplaceOrView guard;
        const EdgeTensors t = saved_edges(context, 1);
        const EdgeConstants c = kept(context);
        std::optional<Tensor> queries_slope;
        if (c.attends) queries_slope = tangent(cotangents[2], t.queries);
        const bool vectors_wanted = context->needs_input_grad(3);
        const auto [aggregated, vectors, values, queries, table, sink] = slope.call(
            context->get_saved_variables()[0], t.row_start, t.sender, t.vectors, t.values, if_attends(c, t.queries),
            t.table, if_attends(c, t.sink), c.cutoff, c.gain, c.harmonic_degree, c.message_degree,
            tangent(cotangents[0], t.vectors), tangent(cotangents[1], t.values), queries_slope, vectors_wanted);
        return {aggregated, Tensor(),
                Tensor(),   vectors_wanted ? vectors : Tensor(),
                values,     c.attends ? queries : Tensor(),
                table,      c.attends ? sink : Tensor(),
                Tensor(),   Tensor()};
    }
};

struct Attention : torch::autograd::Function<Attention> {
    static Tensor forward(AutogradContext* context, const Tensor& row_start, const Tensor& sender,
                          const Tensor& vectors, const Tensor& values, const Tensor& queries, const Tensor& table,
                          const Tensor& sink, const EdgeConstants& c) {
        static const auto attention = operator_named<AttentionCall>("symmd::attention");
        at::AutoDispatchBelowADInplaceOrView guard;
        context->save_for_backward({row_start, sender, vectors, values, queries, table, sink});
        keep(context, c);
        return attention.call(row_start, sender, vectors, values, if_attends(c, queries), table, if_attends(c, sink),
                              c.cutoff, c.gain, c.harmonic_degree, c.message_degree);
    }

    static tensor_list backward(AutogradContext* context, tensor_list pulls) {
        const EdgeTensors t = saved_edges(context, 0);
        const EdgeConstants c = kept(context);
        Wanted wanted;
        for (std::size_t k = 0; k < wanted.size(); ++k) wanted[k] = context->needs_input_grad(k + 2);
        const tensor_list found = AttentionBackward::apply(pulls[0], t.row_start, t.sender, t.vectors, t.values,
                                                           t.queries, t.table, t.sink, c, wanted);
        tensor_list gradients(8);
        for (std::size_t k = 0; k < wanted.size(); ++k)
            if (wanted[k]) gradients[k + 2] = found[k];
        return gradients;
    }
};

Tensor attention_autograd(const Tensor& row_start, const Tensor& sender, const Tensor& vectors, const Tensor& values,
                          const std::optional<Tensor>& queries, const Tensor& table, const std::optional<Tensor>& sink,
                          double cutoff, double gain, int64_t harmonic_degree, int64_t message_degree) {
    const bool attends = both_given(queries, sink);
    return Attention::apply(row_start.contiguous(), sender.contiguous(), dense(vectors), dense(values),
                            dense(or_nothing(queries, values)), dense(table), dense(or_nothing(sink, values)),
                            EdgeConstants{cutoff, gain, harmonic_degree, message_degree, attends});
}

}  // namespace

// Whether a kernel was compiled for these degrees.
bool attention_supported(int64_t value_degree, int64_t harmonic_degree, int64_t message_degree) {
    EdgePassShape shape;
    shape.channels = 16;
    shape.value_degree = int(value_degree);
    shape.harmonic_degree = int(harmonic_degree);
    shape.message_degree = int(message_degree);
    return symmd::kernels<float>().edge_workspace(shape, Pass::forward) >= 0;
}

}  // namespace symmd_torch

TORCH_LIBRARY_IMPL(symmd, CPU, library) {
    library.impl("attention", symmd_torch::attention);
    library.impl("_attention_backward", symmd_torch::attention_backward);
    library.impl("_attention_backward_slope", symmd_torch::attention_backward_slope);
}

TORCH_LIBRARY_IMPL(symmd, Meta, library) {
    library.impl("attention", symmd_torch::attention_shape);
    library.impl("_attention_backward", symmd_torch::attention_backward_shape);
    library.impl("_attention_backward_slope", symmd_torch::attention_backward_slope_shape);
}

TORCH_LIBRARY_IMPL(symmd, Autograd, library) {
    library.impl("attention", symmd_torch::attention_autograd);
    library.impl("_attention_backward", torch::autograd::autogradNotImplementedFallback());
    library.impl("_attention_backward_slope", torch::autograd::autogradNotImplementedFallback());
}
