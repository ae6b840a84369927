// symmd::node_products, the products of one layer (eq. 20-21) as a torch operator: twice differentiable where training
// on forces needs it (docs/theory.md §8).
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../core/coupling.h"
#include "../core/kernels.h"
#include "operators.h"
#include "tensors.h"

namespace symmd_torch {

namespace {

using symmd::Pass;
using symmd::ProductInput;
using symmd::ProductOutput;
using symmd::ProductShape;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

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

ProductPulls run_products(const ProductTensors& t, int64_t output_degree, Pass pass, const Tensor& pull,
                          const Tensor& slope, bool weights_wanted) {
    if (t.aggregated.scalar_type() == at::kDouble)
        return run_products<double>(t, output_degree, pass, pull, slope, weights_wanted);
    return run_products<float>(t, output_degree, pass, pull, slope, weights_wanted);
}

// The tensors without gaps in memory, after checks of everything that the kernels rely on.
ProductTensors checked(const Tensor& species, const Tensor& aggregated, const Tensor& square_weight,
                       const std::optional<Tensor>& cube_weight, int64_t output_degree) {
    check_floating(aggregated, "aggregated");
    const auto type = aggregated.scalar_type();
    check_number_type(square_weight, "square_weight", type);
    check_number_type(species, "species", at::kLong);
    const int degree = check_features(aggregated, "aggregated");
    const int64_t channels = aggregated.size(2);
    TORCH_CHECK(output_degree >= 0 && output_degree <= degree && degree <= 3,
                "symmd::node_products has no kernel for degrees ", degree, " -> ", output_degree);
    TORCH_CHECK(square_weight.dim() == 3, "square_weight must be [species, paths, channels], found ",
                square_weight.sizes());
    const int64_t kinds = square_weight.size(0), middle = cube_weight ? degree : output_degree;
    check_sizes(square_weight, "square_weight",
                {kinds, symmd::count_paths(degree, degree, int(middle), true), channels});
    if (cube_weight) {
        check_number_type(*cube_weight, "cube_weight", type);
        check_sizes(*cube_weight, "cube_weight",
                    {kinds, symmd::count_paths(degree, degree, int(output_degree)), channels});
    }
    check_sizes(species, "species", {aggregated.size(0)});
    const ProductTensors packed{dense(species), dense(aggregated), dense(square_weight),
                                dense(or_nothing(cube_weight, aggregated))};
    check_index(packed.species, "species", kinds);
    return packed;
}

Tensor checked_pull(const Tensor& pull, const ProductTensors& t, int64_t output_degree) {
    check_number_type(pull, "pull", t.aggregated.scalar_type());
    check_sizes(pull, "pull",
                {t.aggregated.size(0), t.cube_weight.numel() > 0 ? 2 : 1, (output_degree + 1) * (output_degree + 1),
                 t.aggregated.size(2)});
    return dense(pull);
}

// The operators of operators.cpp, on tensors of the CPU and on tensors without numbers.

using Pulls = std::tuple<Tensor, Tensor, Tensor>;
using SlopePulls = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using ProductsCall = Tensor(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, int64_t);
using BackwardCall = Pulls(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                           int64_t, bool);
using BackwardSlopeCall = SlopePulls(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                     const std::optional<Tensor>&, int64_t, const Tensor&);

Tensor node_products(const Tensor& species, const Tensor& aggregated, const Tensor& square_weight,
                     const std::optional<Tensor>& cube_weight, int64_t output_degree) {
    const ProductTensors t = checked(species, aggregated, square_weight, cube_weight, output_degree);
    return run_products(t, output_degree, Pass::forward, {}, {}, false).products;
}

Tensor node_products_shape(const Tensor&, const Tensor& aggregated, const Tensor&,
                           const std::optional<Tensor>& cube_weight, int64_t output_degree) {
    return at::empty_symint({aggregated.sym_size(0), cube_weight ? 2 : 1, (output_degree + 1) * (output_degree + 1),
                             aggregated.sym_size(2)},
                            aggregated.options());
}

Pulls node_products_backward(const Tensor& pull, const Tensor& species, const Tensor& aggregated,
                             const Tensor& square_weight, const std::optional<Tensor>& cube_weight,
                             int64_t output_degree, bool weights_wanted) {
    const ProductTensors t = checked(species, aggregated, square_weight, cube_weight, output_degree);
    const ProductPulls pulls =
        run_products(t, output_degree, Pass::backward, checked_pull(pull, t, output_degree), {}, weights_wanted);
    return {pulls.aggregated, or_nothing(pulls.square_weight, aggregated), or_nothing(pulls.cube_weight, aggregated)};
}

Pulls node_products_backward_shape(const Tensor&, const Tensor&, const Tensor& aggregated, const Tensor& square_weight,
                                   const std::optional<Tensor>& cube_weight, int64_t, bool weights_wanted) {
    return {shaped_like(aggregated), weights_wanted ? shaped_like(square_weight) : nothing(aggregated),
            weights_wanted && cube_weight ? shaped_like(*cube_weight) : nothing(aggregated)};
}

SlopePulls node_products_backward_slope(const Tensor& pull, const Tensor& species, const Tensor& aggregated,
                                        const Tensor& square_weight, const std::optional<Tensor>& cube_weight,
                                        int64_t output_degree, const Tensor& slope) {
    const ProductTensors t = checked(species, aggregated, square_weight, cube_weight, output_degree);
    check_number_type(slope, "slope", t.aggregated.scalar_type());
    check_sizes(slope, "slope", t.aggregated.sizes());
    const ProductPulls pulls =
        run_products(t, output_degree, Pass::backward_slope, checked_pull(pull, t, output_degree), dense(slope), true);
    return {pulls.products, pulls.aggregated, pulls.square_weight, or_nothing(pulls.cube_weight, aggregated)};
}

SlopePulls node_products_backward_slope_shape(const Tensor& pull, const Tensor&, const Tensor& aggregated,
                                              const Tensor& square_weight, const std::optional<Tensor>& cube_weight,
                                              int64_t, const Tensor&) {
    return {shaped_like(pull), shaped_like(aggregated), shaped_like(square_weight),
            cube_weight ? shaped_like(*cube_weight) : nothing(aggregated)};
}

std::optional<Tensor> if_cubed(bool cubed, const Tensor& weight) {
    return cubed ? std::optional<Tensor>(weight) : std::nullopt;
}

struct ProductsBackward : torch::autograd::Function<ProductsBackward> {
    static tensor_list forward(AutogradContext* context, const Tensor& pull, const Tensor& species,
                               const Tensor& aggregated, const Tensor& square_weight, const Tensor& cube_weight,
                               bool cubed, int64_t output_degree, bool weights_wanted) {
        static const auto backward = operator_named<BackwardCall>("symmd::_node_products_backward");
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor packed = pull.contiguous();
        context->set_materialize_grads(false);
        context->save_for_backward({packed, species, aggregated, square_weight, cube_weight});
        context->saved_data["output_degree"] = output_degree;
        context->saved_data["cubed"] = cubed;
        const auto [of_aggregated, of_square, of_cube] = backward.call(
            packed, species, aggregated, square_weight, if_cubed(cubed, cube_weight), output_degree, weights_wanted);
        return {of_aggregated, of_square, of_cube};
    }

    static tensor_list backward(AutogradContext* context, tensor_list cotangents) {
        static const auto slope = operator_named<BackwardSlopeCall>("symmd::_node_products_backward_slope");
        refuse_third_derivative("symmd::node_products");
        TORCH_CHECK(!cotangents[1].defined() && !cotangents[2].defined(),
                    "symmd::node_products: second derivatives run through the aggregate only");
        tensor_list gradients(8);
        if (!cotangents[0].defined()) return gradients;
        at::AutoDispatchBelowADInplaceOrView guard;
        const auto saved = context->get_saved_variables();
        const bool cubed = context->saved_data["cubed"].toBool();
        const auto [products, aggregated, square_weight, cube_weight] =
            slope.call(saved[0], saved[1], saved[2], saved[3], if_cubed(cubed, saved[4]),
                       context->saved_data["output_degree"].toInt(), cotangents[0].contiguous());
        gradients[0] = products;
        gradients[2] = aggregated;
        gradients[3] = square_weight;
        if (cubed) gradients[4] = cube_weight;
        return gradients;
    }
};

struct Products : torch::autograd::Function<Products> {
    static Tensor forward(AutogradContext* context, const Tensor& species, const Tensor& aggregated,
                          const Tensor& square_weight, const Tensor& cube_weight, bool cubed, int64_t output_degree) {
        static const auto node_products = operator_named<ProductsCall>("symmd::node_products");
        at::AutoDispatchBelowADInplaceOrView guard;
        context->save_for_backward({species, aggregated, square_weight, cube_weight});
        context->saved_data["output_degree"] = output_degree;
        context->saved_data["cubed"] = cubed;
        return node_products.call(species, aggregated, square_weight, if_cubed(cubed, cube_weight), output_degree);
    }

    static tensor_list backward(AutogradContext* context, tensor_list pulls) {
        const auto saved = context->get_saved_variables();
        const bool cubed = context->saved_data["cubed"].toBool();
        const bool weights_wanted = context->needs_input_grad(2) || context->needs_input_grad(3);
        const tensor_list found = ProductsBackward::apply(pulls[0], saved[0], saved[1], saved[2], saved[3], cubed,
                                                          context->saved_data["output_degree"].toInt(), weights_wanted);
        return {Tensor(), found[0], weights_wanted ? found[1] : Tensor(), weights_wanted && cubed ? found[2] : Tensor(),
                Tensor(), Tensor()};
    }
};

Tensor node_products_autograd(const Tensor& species, const Tensor& aggregated, const Tensor& square_weight,
                              const std::optional<Tensor>& cube_weight, int64_t output_degree) {
    return Products::apply(species.contiguous(), dense(aggregated), dense(square_weight),
                           dense(or_nothing(cube_weight, aggregated)), cube_weight.has_value(), output_degree);
}

}  // namespace

}  // namespace symmd_torch

TORCH_LIBRARY_IMPL(symmd, CPU, library) {
    library.impl("node_products", symmd_torch::node_products);
    library.impl("_node_products_backward", symmd_torch::node_products_backward);
    library.impl("_node_products_backward_slope", symmd_torch::node_products_backward_slope);
}

TORCH_LIBRARY_IMPL(symmd, Meta, library) {
    library.impl("node_products", symmd_torch::node_products_shape);
    library.impl("_node_products_backward", symmd_torch::node_products_backward_shape);
    library.impl("_node_products_backward_slope", symmd_torch::node_products_backward_slope_shape);
}

TORCH_LIBRARY_IMPL(symmd, Autograd, library) {
    library.impl("node_products", symmd_torch::node_products_autograd);
    library.impl("_node_products_backward", torch::autograd::autogradNotImplementedFallback());
    library.impl("_node_products_backward_slope", torch::autograd::autogradNotImplementedFallback());
}
