// torch operators over the fused kernels: symmd::attention and symmd::node_products, twice differentiable where
// training on forces needs it (docs/theory.md §8). Python's wrappers are in symmd_md.kernels.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cstdlib>
#include <memory>

#include "../core/coupling.h"
#include "../core/kernels.h"

namespace {

using at::Tensor;
using symmd::EdgePassInput;
using symmd::EdgePassOutput;
using symmd::EdgePassShape;
using symmd::Pass;
using symmd::ProductInput;
using symmd::ProductOutput;
using symmd::ProductShape;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

int degree_of(int64_t components) {
    int degree = 0;
    while ((degree + 1) * (degree + 1) < components) ++degree;
    return degree;
}

template <class T>
const T* numbers(const Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <class T>
T* mutable_numbers(const Tensor& tensor) {
    return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

Tensor dense(const Tensor& tensor) { return tensor.contiguous(); }

// A tangent, or zeros where autograd has none.
Tensor tangent(const Tensor& tensor, const Tensor& like) {
    return tensor.defined() ? tensor.contiguous() : at::zeros_like(like, at::MemoryFormat::Contiguous);
}

// autograd's functions take and return tensors only: an empty one stands for an input that is not there, or for a
// result that nobody asked for.
Tensor nothing(const Tensor& like) { return at::empty({0}, like.options().requires_grad(false)); }
tensor_list filled(tensor_list results, const Tensor& like) {
    for (Tensor& result : results)
        if (!result.defined()) result = nothing(like);
    return results;
}
// Gradients of an input without atoms or edges are empty as well, but keep their axes.
Tensor present(const Tensor& result) { return result.dim() == 1 && result.numel() == 0 ? Tensor() : result; }

// The kernels on dual numbers record nothing that autograd could differentiate once more.
void refuse_third_derivative(const char* name) {
    TORCH_CHECK(!at::GradMode::is_enabled(), name,
                " has first and second derivatives only: take the second without create_graph=True, or use plain torch "
                "operations");
}

// One accumulator for each thread, summed in the order of the threads: deterministic for a fixed thread count.
struct PerThread {
    std::vector<Tensor> parts;
    PerThread(bool wanted, const Tensor& like, int64_t threads) {
        for (int64_t k = 0; wanted && k < threads; ++k) parts.push_back(at::zeros(like.sizes(), like.options()));
    }
    Tensor part(int64_t thread) const { return parts.empty() ? Tensor() : parts[thread]; }
    Tensor sum() const {
        if (parts.empty()) return Tensor();
        Tensor total = parts[0];
        for (std::size_t k = 1; k < parts.size(); ++k) total.add_(parts[k]);
        return total;
    }
};

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

// Which results a backward pass is asked for.
struct Wanted {
    bool vectors, values, queries, table, sink;
};

struct FreeMemory {
    void operator()(char* memory) const { std::free(memory); }
};

template <class T>
EdgePulls run_edges(const EdgeTensors& t, const EdgeConstants& c, Pass pass, const Tensor& pull,
                    const EdgeTensors& slopes, Wanted wanted) {
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
    if (wanted.vectors) result.vectors = at::empty({edges, 3}, options);
    if (wanted.queries && c.attends) result.queries = at::empty_like(t.queries);

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
    PerThread values(wanted.values, t.values, threads), table(wanted.table, t.table, threads);
    PerThread sink(wanted.sink && c.attends, t.sink, threads);
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

EdgePulls run_edges_typed(const EdgeTensors& t, const EdgeConstants& c, Pass pass, const Tensor& pull,
                          const EdgeTensors& slopes, Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView guard;
    if (t.values.scalar_type() == at::kDouble) return run_edges<double>(t, c, pass, pull, slopes, wanted);
    return run_edges<float>(t, c, pass, pull, slopes, wanted);
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
                               const Tensor& table, const Tensor& sink, double cutoff, double gain,
                               int64_t harmonic_degree, int64_t message_degree, bool attends,
                               std::vector<bool> wanted) {
        const EdgeConstants c{cutoff, gain, harmonic_degree, message_degree, attends};
        const EdgeTensors t{row_start, sender, vectors, values, queries, table, sink};
        const Tensor packed = pull.contiguous();
        context->set_materialize_grads(false);
        context->save_for_backward({packed, row_start, sender, vectors, values, queries, table, sink});
        keep(context, c);
        EdgePulls pulls =
            run_edges_typed(t, c, Pass::backward, packed, {}, {wanted[0], wanted[1], wanted[2], wanted[3], wanted[4]});
        return filled({pulls.vectors, pulls.values, pulls.queries, pulls.table, pulls.sink}, packed);
    }

    static tensor_list backward(AutogradContext* context, tensor_list cotangents) {
        refuse_third_derivative("symmd::attention");
        TORCH_CHECK(!cotangents[3].defined() && !cotangents[4].defined(),
                    "symmd::attention: second derivatives run through positions, values and queries only");
        const EdgeTensors t = saved_edges(context, 1);
        const EdgeConstants c = kept(context);
        EdgeTensors slopes;
        slopes.vectors = tangent(cotangents[0], t.vectors);
        slopes.values = tangent(cotangents[1], t.values);
        if (c.attends) slopes.queries = tangent(cotangents[2], t.queries);
        EdgePulls pulls = run_edges_typed(t, c, Pass::backward_slope, context->get_saved_variables()[0], slopes,
                                          {context->needs_input_grad(3), true, true, true, true});
        return {pulls.aggregated, Tensor(), Tensor(), pulls.vectors, pulls.values, pulls.queries, pulls.table,
                pulls.sink,       Tensor(), Tensor(), Tensor(),      Tensor(),     Tensor(),      Tensor()};
    }
};

struct Attention : torch::autograd::Function<Attention> {
    static Tensor forward(AutogradContext* context, const Tensor& row_start, const Tensor& sender,
                          const Tensor& vectors, const Tensor& values, const Tensor& queries, const Tensor& table,
                          const Tensor& sink, double cutoff, double gain, int64_t harmonic_degree,
                          int64_t message_degree, bool attends) {
        const EdgeConstants c{cutoff, gain, harmonic_degree, message_degree, attends};
        const EdgeTensors t{row_start, sender, vectors, values, queries, table, sink};
        context->save_for_backward({row_start, sender, vectors, values, queries, table, sink});
        keep(context, c);
        return run_edges_typed(t, c, Pass::forward, {}, {}, {}).aggregated;
    }

    static tensor_list backward(AutogradContext* context, tensor_list pulls) {
        const EdgeTensors t = saved_edges(context, 0);
        const EdgeConstants c = kept(context);
        std::vector<bool> wanted;
        for (std::size_t input = 2; input < 7; ++input) wanted.push_back(context->needs_input_grad(input));
        const tensor_list result =
            AttentionBackward::apply(pulls[0], t.row_start, t.sender, t.vectors, t.values, t.queries, t.table, t.sink,
                                     c.cutoff, c.gain, c.harmonic_degree, c.message_degree, c.attends, wanted);
        return {Tensor(),           Tensor(),           present(result[0]), present(result[1]),
                present(result[2]), present(result[3]), present(result[4]), Tensor(),
                Tensor(),           Tensor(),           Tensor(),           Tensor()};
    }
};

void check_number_type(const Tensor& tensor, const char* name, at::ScalarType type) {
    TORCH_CHECK(tensor.scalar_type() == type, name, " has type ", tensor.scalar_type(), ", expected ", type);
    TORCH_CHECK(tensor.device().is_cpu(), name, " is on ", tensor.device(), "; these kernels run on the CPU");
}

// Every whole number lies in [0, count): an index outside would be read from memory that is not ours.
void check_index(const Tensor& index, const char* name, int64_t count) {
    const int64_t* numbers = index.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < index.numel(); ++k)
        TORCH_CHECK(numbers[k] >= 0 && numbers[k] < count, name, " must lie between 0 and ", count - 1, ", found ",
                    numbers[k], " at position ", k);
}

void check_rows(const Tensor& row_start, int64_t edges) {
    const int64_t* rows = row_start.const_data_ptr<int64_t>();
    const int64_t last = row_start.numel() - 1;
    bool ascends = rows[0] == 0 && rows[last] == edges;
    for (int64_t k = 0; k < last; ++k) ascends = ascends && rows[k] <= rows[k + 1];
    TORCH_CHECK(ascends, "row_start must ascend from 0 to the number of edges, ", edges);
}

// [atoms, (L + 1)^2, channels]; returns L.
int check_features(const Tensor& features, const char* name) {
    TORCH_CHECK(features.dim() == 3 && features.size(2) > 0 && features.size(2) % 16 == 0, name,
                " must be [atoms, components, channels] with channels a multiple of 16, found ", features.sizes());
    const int64_t degree = degree_of(features.size(1));
    TORCH_CHECK((degree + 1) * (degree + 1) == features.size(1), name, " must have 1, 4, 9 or 16 components, found ",
                features.size(1));
    return int(degree);
}

int64_t path_count(int64_t max_l1, int64_t max_l2, int64_t max_l3, bool symmetric = false) {
    int64_t count = 0;
    for (int l3 = 0; l3 <= max_l3; ++l3)
        for (int l1 = 0; l1 <= max_l1; ++l1)
            for (int l2 = symmetric ? l1 : 0; l2 <= max_l2; ++l2) count += symmd::path_allowed(l1, l2, l3);
    return count;
}

void check_sizes(const Tensor& tensor, const char* name, at::IntArrayRef sizes) {
    TORCH_CHECK(tensor.sizes() == sizes, name, " must have sizes ", sizes, ", found ", tensor.sizes());
}

// Whether a kernel was compiled for these degrees.
bool attention_supported(int64_t value_degree, int64_t harmonic_degree, int64_t message_degree) {
    EdgePassShape shape;
    shape.channels = 16;
    shape.value_degree = int(value_degree);
    shape.harmonic_degree = int(harmonic_degree);
    shape.message_degree = int(message_degree);
    return symmd::kernels<float>().edge_workspace(shape, Pass::forward) >= 0;
}

Tensor attention(const Tensor& row_start, const Tensor& sender, const Tensor& vectors, const Tensor& values,
                 const std::optional<Tensor>& queries, const Tensor& table, const std::optional<Tensor>& sink,
                 double cutoff, double gain, int64_t harmonic_degree, int64_t message_degree) {
    const auto type = values.scalar_type();
    TORCH_CHECK(type == at::kFloat || type == at::kDouble, "values must be float32 or float64, found ", type);
    TORCH_CHECK(queries.has_value() == sink.has_value(), "queries and sink must be given together");
    const bool attends = queries.has_value();
    check_number_type(values, "values", type);
    check_number_type(vectors, "vectors", type);
    check_number_type(table, "table", type);
    check_number_type(row_start, "row_start", at::kLong);
    check_number_type(sender, "sender", at::kLong);
    const int degree = check_features(values, "values");
    const int64_t channels = values.size(2);
    TORCH_CHECK(attention_supported(degree, harmonic_degree, message_degree),
                "symmd::attention has no kernel for degrees ", degree, ", ", harmonic_degree, " -> ", message_degree);
    TORCH_CHECK(cutoff > 0, "cutoff must be positive, found ", cutoff);
    check_sizes(row_start, "row_start", {values.size(0) + 1});
    TORCH_CHECK(sender.dim() == 1, "sender must be [edges], found ", sender.sizes());
    check_sizes(vectors, "vectors", {sender.size(0), 3});
    TORCH_CHECK(table.dim() == 2 && table.size(0) >= 4 && table.size(0) % 2 == 0,
                "table needs two rows for each of at least two knots, found ", table.sizes());
    check_sizes(table, "table", {table.size(0), path_count(degree, harmonic_degree, message_degree) * channels});
    if (attends) {
        check_number_type(*queries, "queries", type);
        check_number_type(*sink, "sink", type);
        check_sizes(*queries, "queries", values.sizes());
        TORCH_CHECK(sink->dim() == 1 && sink->size(0) > 0 && channels % sink->size(0) == 0,
                    "sink must be [heads] with a number of heads that divides ", channels, " channels, found ",
                    sink->sizes());
    }
    check_rows(row_start.contiguous(), sender.size(0));
    check_index(sender.contiguous(), "sender", values.size(0));
    return Attention::apply(row_start.contiguous(), sender.contiguous(), dense(vectors), dense(values),
                            attends ? dense(*queries) : nothing(values), dense(table),
                            attends ? dense(*sink) : nothing(values), cutoff, gain, harmonic_degree, message_degree,
                            attends);
}

struct ProductTensors {
    Tensor species, aggregated, square_weight, cube_weight;
};

struct ProductPulls {
    Tensor products, aggregated, square_weight, cube_weight;
};

template <class T>
ProductPulls run_products(const ProductTensors& t, int64_t output_degree, Pass pass, const Tensor& pull,
                          const Tensor& slope, bool weights_wanted) {
    ProductShape shape;
    shape.channels = t.aggregated.size(2);
    shape.degree = degree_of(t.aggregated.size(1));
    shape.output_degree = int(output_degree);
    shape.cube = t.cube_weight.numel() > 0;
    const auto& kernels = symmd::kernels<T>();
    TORCH_CHECK(kernels.product_supported(shape), "symmd::node_products has no kernel for degrees ", shape.degree,
                " -> ", output_degree);
    const int64_t atoms = t.aggregated.size(0), components = (output_degree + 1) * (output_degree + 1);
    ProductPulls result;
    if (pass != Pass::backward)
        result.products = at::empty({atoms, shape.cube ? 2 : 1, components, shape.channels}, t.aggregated.options());
    if (pass != Pass::forward) result.aggregated = at::empty_like(t.aggregated);

    ProductInput<T> in{};
    in.species = t.species.const_data_ptr<int64_t>();
    in.aggregated = numbers<T>(t.aggregated);
    in.square_weight = numbers<T>(t.square_weight);
    in.cube_weight = numbers<T>(t.cube_weight);
    in.aggregated_slope = numbers<T>(slope);
    in.pull = numbers<T>(pull);

    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), (atoms + 15) / 16));
    PerThread square(weights_wanted, t.square_weight, threads);
    PerThread cube(weights_wanted && shape.cube, t.cube_weight, threads);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t thread = begin; thread < end; ++thread) {
            ProductOutput<T> out;
            out.products = mutable_numbers<T>(result.products);
            out.aggregated = mutable_numbers<T>(result.aggregated);
            out.square_weight = mutable_numbers<T>(square.part(thread));
            out.cube_weight = mutable_numbers<T>(cube.part(thread));
            kernels.product(shape, pass, in, atoms * thread / threads, atoms * (thread + 1) / threads, out);
        }
    });
    result.square_weight = square.sum();
    result.cube_weight = cube.sum();
    return result;
}

ProductPulls run_products_typed(const ProductTensors& t, int64_t output_degree, Pass pass, const Tensor& pull,
                                const Tensor& slope, bool weights_wanted) {
    at::AutoDispatchBelowADInplaceOrView guard;
    if (t.aggregated.scalar_type() == at::kDouble)
        return run_products<double>(t, output_degree, pass, pull, slope, weights_wanted);
    return run_products<float>(t, output_degree, pass, pull, slope, weights_wanted);
}

struct ProductsBackward : torch::autograd::Function<ProductsBackward> {
    static tensor_list forward(AutogradContext* context, const Tensor& pull, const Tensor& species,
                               const Tensor& aggregated, const Tensor& square_weight, const Tensor& cube_weight,
                               int64_t output_degree, bool weights_wanted) {
        const Tensor packed = pull.contiguous();
        context->set_materialize_grads(false);
        context->save_for_backward({packed, species, aggregated, square_weight, cube_weight});
        context->saved_data["output_degree"] = output_degree;
        const ProductPulls pulls = run_products_typed({species, aggregated, square_weight, cube_weight}, output_degree,
                                                      Pass::backward, packed, {}, weights_wanted);
        return filled({pulls.aggregated, pulls.square_weight, pulls.cube_weight}, packed);
    }

    static tensor_list backward(AutogradContext* context, tensor_list cotangents) {
        refuse_third_derivative("symmd::node_products");
        TORCH_CHECK(!cotangents[1].defined() && !cotangents[2].defined(),
                    "symmd::node_products: second derivatives run through the aggregate only");
        const auto saved = context->get_saved_variables();
        if (!cotangents[0].defined()) return tensor_list(7);
        const ProductPulls pulls =
            run_products_typed({saved[1], saved[2], saved[3], saved[4]}, context->saved_data["output_degree"].toInt(),
                               Pass::backward_slope, saved[0], cotangents[0].contiguous(), true);
        return {pulls.products, Tensor(), pulls.aggregated, pulls.square_weight, pulls.cube_weight, Tensor(), Tensor()};
    }
};

struct Products : torch::autograd::Function<Products> {
    static Tensor forward(AutogradContext* context, const Tensor& species, const Tensor& aggregated,
                          const Tensor& square_weight, const Tensor& cube_weight, int64_t output_degree) {
        context->save_for_backward({species, aggregated, square_weight, cube_weight});
        context->saved_data["output_degree"] = output_degree;
        return run_products_typed({species, aggregated, square_weight, cube_weight}, output_degree, Pass::forward, {},
                                  {}, false)
            .products;
    }

    static tensor_list backward(AutogradContext* context, tensor_list pulls) {
        const auto saved = context->get_saved_variables();
        const bool weights_wanted = context->needs_input_grad(2) || context->needs_input_grad(3);
        const tensor_list result =
            ProductsBackward::apply(pulls[0], saved[0], saved[1], saved[2], saved[3],
                                    context->saved_data["output_degree"].toInt(), weights_wanted);
        return {Tensor(), present(result[0]), present(result[1]), present(result[2]), Tensor()};
    }
};

Tensor node_products(const Tensor& species, const Tensor& aggregated, const Tensor& square_weight,
                     const std::optional<Tensor>& cube_weight, int64_t output_degree) {
    const auto type = aggregated.scalar_type();
    TORCH_CHECK(type == at::kFloat || type == at::kDouble, "aggregated must be float32 or float64, found ", type);
    check_number_type(aggregated, "aggregated", type);
    check_number_type(square_weight, "square_weight", type);
    check_number_type(species, "species", at::kLong);
    const int degree = check_features(aggregated, "aggregated");
    const int64_t channels = aggregated.size(2);
    TORCH_CHECK(output_degree >= 0 && output_degree <= degree && degree <= 3,
                "symmd::node_products has no kernel for degrees ", degree, " -> ", output_degree);
    TORCH_CHECK(square_weight.dim() == 3, "square_weight must be [species, paths, channels], found ",
                square_weight.sizes());
    const int64_t kinds = square_weight.size(0), middle = cube_weight ? degree : output_degree;
    check_sizes(square_weight, "square_weight", {kinds, path_count(degree, degree, middle, true), channels});
    if (cube_weight) {
        check_number_type(*cube_weight, "cube_weight", type);
        check_sizes(*cube_weight, "cube_weight", {kinds, path_count(degree, degree, output_degree), channels});
    }
    check_sizes(species, "species", {aggregated.size(0)});
    check_index(species.contiguous(), "species", kinds);
    return Products::apply(species.contiguous(), dense(aggregated), dense(square_weight),
                           cube_weight ? dense(*cube_weight) : nothing(aggregated), output_degree);
}

std::string instruction_set_name() { return symmd::instruction_set().name; }

}  // namespace

TORCH_LIBRARY(symmd, library) {
    library.def(
        "attention(Tensor row_start, Tensor sender, Tensor vectors, Tensor values, Tensor? queries, Tensor table, "
        "Tensor? sink, float cutoff, float gain, int harmonic_degree, int message_degree) -> Tensor",
        attention);
    library.def(
        "node_products(Tensor species, Tensor aggregated, Tensor square_weight, Tensor? cube_weight, int "
        "output_degree) "
        "-> Tensor",
        node_products);
    library.def("attention_supported(int value_degree, int harmonic_degree, int message_degree) -> bool",
                attention_supported);
    library.def("instruction_set() -> str", instruction_set_name);
}
