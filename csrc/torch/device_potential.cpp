// The whole network on a GPU, for tensors that are there: nothing is copied to the host but one look at the outcome,
// and a cell that is given on the GPU. Compiled without CUDA, for every torch alike.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <dlfcn.h>
#include <torch/library.h>

#include <algorithm>

#include "engine_cache.h"
#include "operators.h"

namespace symmd_torch {

namespace {

// The stream of this thread on a device (a cudaStream_t), from a function of torch's C interface that is the same in
// all releases. Only torch with CUDA has it, and only with it are there such tensors, so it is looked for when it runs:
// its header would tie this library to the CUDA of one torch.
void* current_stream(const at::Device& device) {
    using Function = int32_t (*)(int32_t device, void** stream);
    static const Function function = [] {
        void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
        return library ? reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
    }();
    void* stream = nullptr;
    TORCH_CHECK(function && function(device.index(), &stream) == 0,
                "symmd::potential expected torch to have a stream on ", device,
                ", found none; use a torch with CUDA (torch.version.cuda)");
    return stream;
}

// The species of the atoms on the GPU. What torch has not written to since the last call is not looked at again, so
// that a step neither copies nor waits; numbers on the processor are compared, since numpy may have written to them.
void update_species(SharedEngine& shared, const Tensor& atomic_numbers, const at::Device& device) {
    const int64_t version = atomic_numbers.is_inference() ? -1 : atomic_numbers._version();
    const bool known = shared.numbers.defined() && shared.numbers.is_same(atomic_numbers);
    if (known && device == atomic_numbers.device() && version >= 0 && version == shared.numbers_version) return;
    const Tensor numbers = atomic_numbers.to(at::kCPU, at::kLong).contiguous();
    const int64_t* number = numbers.const_data_ptr<int64_t>();
    std::vector<int32_t> species(numbers.numel());
    for (std::size_t i = 0; i < species.size(); ++i)
        species[i] = shared.engine->species_of(int(std::clamp<int64_t>(number[i], -1, 1000)));
    if (!shared.species_on_device.defined() || species != shared.species) {
        if (shared.captured) shared.species_of_captures.push_back(shared.species_on_device);
        shared.species = std::move(species);
        shared.species_on_device = at::from_blob(shared.species.data(), {int64_t(shared.species.size())}, at::kInt)
                                       .to(device, at::kInt, false, true);
    }
    shared.numbers = atomic_numbers;
    shared.numbers_version = version;
}

Observables run(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                const std::optional<Tensor>& cell, const Axes& pbc, std::string_view precision, int64_t threads,
                bool derivatives) {
    check_input(model, atomic_numbers, positions, cell, pbc);
    const at::Device device = positions.device();
    TORCH_CHECK(device.is_cuda(), "positions must be on the GPU that other tensors are on, found them on ", device);
    const auto check_device = [&](const Tensor& tensor, const char* name) {
        TORCH_CHECK(tensor.device() == device || tensor.is_cpu(), name, " must be on the CPU or on ", device,
                    " as the positions are, found it on ", tensor.device());
    };
    check_device(model, "model");
    check_device(atomic_numbers, "atomic_numbers");
    if (cell) check_device(*cell, "cell");

    const c10::DeviceGuard guard(device);
    symmd::EngineOptions options = engine_options(precision, threads);
    options.device = "cuda:" + std::to_string(device.index());
    options.deterministic = true;  // as it is whenever the caller has the arrays there
    const int64_t atoms = positions.size(0);
    const Tensor coordinates = positions.to(at::kDouble).contiguous();
    const Tensor box = cell ? cell->to(at::kCPU, at::kDouble).contiguous() : Tensor();
    const auto numbers = at::TensorOptions().dtype(at::kDouble).device(device);
    const Tensor energy = at::empty({}, numbers);
    const Tensor atom_energy = at::empty({derivatives ? atoms : 0}, numbers);
    const Tensor forces = at::empty({derivatives ? atoms : 0, 3}, numbers);
    const Tensor virial = at::empty({derivatives ? 3 : 0, 3}, numbers);
    symmd::Results results;
    results.total_energy = energy.mutable_data_ptr<double>();
    if (derivatives) {
        results.atom_energy = atom_energy.mutable_data_ptr<double>();
        results.forces = forces.mutable_data_ptr<double>();
        results.virial = virial.mutable_data_ptr<double>();
    }

    const std::shared_ptr<SharedEngine> shared = engine_cache().find(model, options);
    const std::lock_guard<std::mutex> lock(shared->busy);
    try {
        if (!shared->engine) {
            const Tensor content = model.cpu();
            shared->engine =
                symmd::Engine::load(content.const_data_ptr(), std::size_t(content.numel()), "in a tensor", options);
        }
        update_species(*shared, atomic_numbers, device);
        symmd::System system;
        system.atoms = atoms;
        system.species = shared->species_on_device.const_data_ptr<int32_t>();
        system.positions = coordinates.const_data_ptr<double>();
        system.cell = box.defined() ? box.const_data_ptr<double>() : nullptr;
        system.periodic = pbc;
        system.on_device = true;
        system.stream = current_stream(device);
        shared->engine->compute(system, results);
        if (shared->engine->captured()) shared->captured = true;
    } catch (const symmd::Error& error) {
        TORCH_CHECK(false, error.what());
    }
    return {energy, atom_energy, forces, virial};
}

Tensor potential(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                 const std::optional<Tensor>& cell, Axes pbc, std::string_view precision, int64_t threads) {
    return std::get<0>(run(model, atomic_numbers, positions, cell, pbc, precision, threads, false));
}

Observables potential_derivatives(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                                  const std::optional<Tensor>& cell, Axes pbc, std::string_view precision,
                                  int64_t threads) {
    return run(model, atomic_numbers, positions, cell, pbc, precision, threads, true);
}

// The operators of training.
void refuse(const c10::OperatorHandle& called, torch::jit::Stack*) {
    TORCH_CHECK(
        false, called.schema().name(),
        " computes on the CPU alone, found tensors on a GPU; train there with the plain network (training.kernels: "
        "plain, or auto, which chooses it), or run the exported model");
}

}  // namespace

}  // namespace symmd_torch

TORCH_LIBRARY_IMPL(symmd, CUDA, library) {
    library.impl("potential", symmd_torch::potential);
    library.impl("potential_derivatives", symmd_torch::potential_derivatives);
    for (const char* name : {"attention", "_attention_backward", "_attention_backward_slope", "node_products",
                             "_node_products_backward", "_node_products_backward_slope"})
        library.impl(name, torch::CppFunction::makeFromBoxedFunction<&symmd_torch::refuse>());
}
