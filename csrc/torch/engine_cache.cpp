#include "engine_cache.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

namespace symmd_torch {

// Never destroyed: at the end of a process, torch's own memory may be gone before it.
EngineCache& engine_cache() {
    static EngineCache& engines = *new EngineCache;
    return engines;
}

symmd::EngineOptions engine_options(std::string_view precision, int64_t threads) {
    TORCH_CHECK(precision == "float32" || precision == "float64", "precision must be float32 or float64, found '",
                precision, "'");
    TORCH_CHECK(threads >= 0 && threads <= 1024, "threads must lie between 0 (torch's number) and 1024, found ",
                threads);
    symmd::EngineOptions options;
    options.precision = precision == "float32" ? symmd::Precision::float32 : symmd::Precision::float64;
    options.threads = threads > 0 ? int(threads) : at::get_num_threads();
    options.deterministic = at::globalContext().deterministicAlgorithms();
    return options;
}

void check_input(const Tensor& model, const Tensor& atomic_numbers, const Tensor& positions,
                 const std::optional<Tensor>& cell, const Axes& pbc) {
    TORCH_CHECK(model.scalar_type() == at::kByte && model.dim() == 1 && model.is_contiguous(),
                "model must hold the bytes of a model file as [bytes] of type uint8, found ", model.scalar_type(), " ",
                model.sizes());
    TORCH_CHECK(!model.is_inference(),
                "model must not be an inference tensor, whose changes torch does not count; make it outside of "
                "torch.inference_mode()");
    TORCH_CHECK(positions.dim() == 2 && positions.size(1) == 3, "positions must be [atoms, 3], found ",
                positions.sizes());
    TORCH_CHECK(at::isFloatingType(positions.scalar_type()), "positions must be floating-point numbers, found ",
                positions.scalar_type());
    TORCH_CHECK(at::isIntegralType(atomic_numbers.scalar_type(), false), "atomic_numbers must be integers, found ",
                atomic_numbers.scalar_type());
    TORCH_CHECK(atomic_numbers.dim() == 1 && atomic_numbers.size(0) == positions.size(0), "atomic_numbers must be [",
                positions.size(0), "], one for each of the positions, found ", atomic_numbers.sizes());
    TORCH_CHECK(cell.has_value() || !(pbc[0] || pbc[1] || pbc[2]), "a periodic structure needs a cell, found None");
    if (cell) {
        TORCH_CHECK(cell->dim() == 2 && cell->size(0) == 3 && cell->size(1) == 3, "cell must be [3, 3], found ",
                    cell->sizes());
        TORCH_CHECK(at::isFloatingType(cell->scalar_type()), "cell must be floating-point numbers, found ",
                    cell->scalar_type());
    }
}

}  // namespace symmd_torch
