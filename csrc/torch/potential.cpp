// The whole network as torch operators, run by the engine through its public header: symmd::potential gives the energy
// with forces as its gradient, symmd::potential_derivatives all observables at once.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "engine_cache.h"
#include "operators.h"
#include "symmd/engine.h"

namespace symmd_torch {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using PotentialCall = Tensor(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, Axes,
                             std::string_view, int64_t);
using DerivativesCall = Observables(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, Axes,
                                    std::string_view, int64_t);

// Runs the engine; forces and virial where they are defined.
Tensor run(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
           const std::optional<Tensor>& cell, const Axes& pbc, std::string_view precision, int64_t threads,
           const Tensor& atom_energy, const Tensor& forces, const Tensor& virial) {
    check_input(model, atomic_numbers, positions, cell, pbc);
    const symmd::EngineOptions options = engine_options(precision, threads);
    const Tensor numbers = atomic_numbers.to(at::kLong).contiguous();
    const Tensor coordinates = positions.to(at::kDouble).contiguous();
    const Tensor box = cell ? cell->to(at::kDouble).contiguous() : Tensor();
    symmd::Results results;
    if (atom_energy.defined()) results.atom_energy = atom_energy.mutable_data_ptr<double>();
    if (forces.defined()) results.forces = forces.mutable_data_ptr<double>();
    if (virial.defined()) results.virial = virial.mutable_data_ptr<double>();

    const std::shared_ptr<SharedEngine> shared = engine_cache().find(model, options);
    const std::lock_guard<std::mutex> guard(shared->busy);
    try {
        if (!shared->engine)
            shared->engine =
                symmd::Engine::load(model.const_data_ptr(), std::size_t(model.numel()), "in a tensor", options);
        symmd::Engine& engine = *shared->engine;
        if (engine.options().threads != options.threads) engine.set_threads(options.threads);
        const int64_t atoms = positions.size(0);
        const int64_t* number = numbers.const_data_ptr<int64_t>();
        shared->species.resize(atoms);
        for (int64_t i = 0; i < atoms; ++i)
            shared->species[i] = engine.species_of(int(std::clamp<int64_t>(number[i], -1, 1000)));
        symmd::System system;
        system.atoms = atoms;
        system.species = shared->species.data();
        system.positions = coordinates.const_data_ptr<double>();
        system.cell = box.defined() ? box.const_data_ptr<double>() : nullptr;
        system.periodic = pbc;
        engine.compute(system, results);
    } catch (const symmd::Error& error) {
        TORCH_CHECK(false, error.what());
    }
    return at::scalar_tensor(results.energy, at::kDouble);
}

Tensor potential(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                 const std::optional<Tensor>& cell, Axes pbc, std::string_view precision, int64_t threads) {
    return run(model, atomic_numbers, positions, cell, pbc, precision, threads, {}, {}, {});
}

Observables potential_derivatives(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                                  const std::optional<Tensor>& cell, Axes pbc, std::string_view precision,
                                  int64_t threads) {
    const int64_t atoms = positions.dim() > 0 ? positions.size(0) : 0;
    const Tensor atom_energy = at::empty({atoms}, at::kDouble);
    const Tensor forces = at::empty({atoms, 3}, at::kDouble);
    const Tensor virial = at::empty({3, 3}, at::kDouble);
    const Tensor energy =
        run(model, atomic_numbers, positions, cell, pbc, precision, threads, atom_energy, forces, virial);
    return {energy, atom_energy, forces, virial};
}

Tensor potential_shape(const Tensor&, const Tensor&, const Tensor& positions, const std::optional<Tensor>&, Axes,
                       std::string_view, int64_t) {
    return at::empty({}, positions.options().dtype(at::kDouble));
}

Observables potential_derivatives_shape(const Tensor&, const Tensor&, const Tensor& positions,
                                        const std::optional<Tensor>&, Axes, std::string_view, int64_t) {
    const auto options = positions.options().dtype(at::kDouble);
    const c10::SymInt atoms = positions.sym_size(0);
    return {at::empty({}, options), at::empty_symint({atoms}, options), at::empty_symint({atoms, 3}, options),
            at::empty({3, 3}, options)};
}

// dE/dh for the rows h of the cell. A strain moves atoms and cell together, so with W of eq. 26
//     -W_ab = Σ_i (∂E/∂r_i)_a r_ib + Σ_k (∂E/∂h_k)_a h_kb,
// which the pseudo-inverse of the periodic rows solves; the other rows are not looked at by the potential. Forces sum
// to zero, so the origin is free: the middle of the atoms loses the fewest digits. The cell may be on another device.
Tensor cell_gradient(const Tensor& positions, const Tensor& cell, const Axes& pbc, const Tensor& forces,
                     const Tensor& virial) {
    std::vector<Tensor> periodic;
    for (int64_t axis = 0; axis < 3; ++axis)
        if (pbc[axis]) periodic.push_back(cell.select(0, axis));
    const auto options = virial.options().device(cell.device());
    if (periodic.empty()) return at::zeros({3, 3}, options);
    const Tensor coordinates = positions.to(at::kDouble);
    const Tensor cell_part = (at::matmul(forces.t(), coordinates - coordinates.mean(0)) - virial).to(cell.device());
    const Tensor found = at::matmul(cell_part, at::linalg_pinv(at::stack(periodic).to(at::kDouble)));
    std::vector<Tensor> gradient;
    for (int64_t axis = 0, column = 0; axis < 3; ++axis)
        gradient.push_back(pbc[axis] ? found.select(1, column++) : at::zeros({3}, options));
    return at::stack(gradient);
}

// (pull, forces, virial) -> gradients. A function of its own, so that a second derivative is refused and not zero.
struct PotentialBackward : torch::autograd::Function<PotentialBackward> {
    static tensor_list forward(AutogradContext*, const Tensor& pull, const Tensor& positions, const Tensor& cell,
                               const Tensor& forces, const Tensor& virial, Axes pbc, bool cell_wanted) {
        at::AutoDispatchBelowADInplaceOrView guard;
        const Tensor of_positions = (forces * pull.neg()).to(positions.scalar_type());
        const Tensor of_cell =
            cell_wanted
                ? (cell_gradient(positions, cell, pbc, forces, virial) * pull.to(cell.device())).to(cell.scalar_type())
                : at::empty({0}, virial.options());
        return {of_positions, of_cell};
    }

    static tensor_list backward(AutogradContext*, tensor_list) {
        TORCH_CHECK(false,
                    "symmd::potential has first derivatives only: take forces without create_graph=True, or use the "
                    "plain network or its portable module for second derivatives");
    }
};

struct Potential : torch::autograd::Function<Potential> {
    static Tensor forward(AutogradContext* context, const Tensor& model, const Tensor& atomic_numbers,
                          const Tensor& positions, const Tensor& cell, bool with_cell, Axes pbc,
                          std::string_view precision, int64_t threads) {
        static const auto derivatives = operator_named<DerivativesCall>("symmd::potential_derivatives");
        at::AutoDispatchBelowADInplaceOrView guard;
        const std::optional<Tensor> box = with_cell ? std::optional<Tensor>(cell) : std::nullopt;
        const auto [energy, atom_energy, forces, virial] =
            derivatives.call(model, atomic_numbers, positions, box, pbc, precision, threads);
        context->save_for_backward({positions, cell, forces, virial});
        context->saved_data["pbc"] = c10::List<bool>({pbc[0], pbc[1], pbc[2]});
        return energy;
    }

    static tensor_list backward(AutogradContext* context, tensor_list pulls) {
        const auto saved = context->get_saved_variables();
        const c10::List<bool> periodic = context->saved_data["pbc"].toBoolList();
        const bool cell_wanted = context->needs_input_grad(3);
        const tensor_list gradients =
            PotentialBackward::apply(pulls[0], saved[0], saved[1], saved[2], saved[3],
                                     Axes{periodic.get(0), periodic.get(1), periodic.get(2)}, cell_wanted);
        return {Tensor(), Tensor(), gradients[0], cell_wanted ? gradients[1] : Tensor(),
                Tensor(), Tensor(), Tensor(),     Tensor()};
    }
};

// Forces take twice as long as the energy, and computed with it they share its layers: they come at once when somebody
// can ask for them, and not at all otherwise.
Tensor potential_autograd(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                          const std::optional<Tensor>& cell, Axes pbc, std::string_view precision, int64_t threads) {
    if (at::GradMode::is_enabled() && (positions.requires_grad() || (cell && cell->requires_grad()))) {
        // autograd's functions take tensors only: an empty one stands for no cell.
        const Tensor box = cell ? *cell : at::empty({0}, positions.options().requires_grad(false));
        return Potential::apply(model, atomic_numbers, positions, box, cell.has_value(), pbc, precision, threads);
    }
    static const auto plain = operator_named<PotentialCall>("symmd::potential");
    at::AutoDispatchBelowADInplaceOrView guard;
    return plain.call(model, atomic_numbers, positions, cell, pbc, precision, threads);
}

}  // namespace

}  // namespace symmd_torch

TORCH_LIBRARY_IMPL(symmd, CPU, library) {
    library.impl("potential", symmd_torch::potential);
    library.impl("potential_derivatives", symmd_torch::potential_derivatives);
}

TORCH_LIBRARY_IMPL(symmd, Meta, library) {
    library.impl("potential", symmd_torch::potential_shape);
    library.impl("potential_derivatives", symmd_torch::potential_derivatives_shape);
}

TORCH_LIBRARY_IMPL(symmd, Autograd, library) {
    library.impl("potential", symmd_torch::potential_autograd);
    library.impl("potential_derivatives", torch::autograd::autogradNotImplementedFallback());
}
