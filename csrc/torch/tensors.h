// What the operators share: checks of tensors that come from outside, and views of their numbers for the kernels.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace symmd_torch {

using at::Tensor;

// Highest degree of features with so many components.
inline int degree_of(int64_t components) {
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

inline Tensor dense(const Tensor& tensor) { return tensor.defined() ? tensor.contiguous() : tensor; }

// A tangent, or zeros where autograd has none.
inline Tensor tangent(const Tensor& tensor, const Tensor& like) {
    return tensor.defined() ? tensor.contiguous() : at::zeros_like(like, at::MemoryFormat::Contiguous);
}

// Operators and autograd's functions take and return tensors only: an empty one stands for an input that is not there,
// or for a result that nobody asked for.
inline Tensor nothing(const Tensor& like) { return at::empty({0}, like.options().requires_grad(false)); }
inline Tensor or_nothing(const Tensor& tensor, const Tensor& like) { return tensor.defined() ? tensor : nothing(like); }
inline Tensor or_nothing(const std::optional<Tensor>& tensor, const Tensor& like) {
    return tensor ? *tensor : nothing(like);
}

// The size of a result, for tensors without numbers.
inline Tensor shaped_like(const Tensor& tensor) { return at::empty_symint(tensor.sym_sizes(), tensor.options()); }

// The kernels on dual numbers record nothing that autograd could differentiate once more.
inline void refuse_third_derivative(const char* name) {
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

inline void check_floating(const Tensor& tensor, const char* name) {
    const auto type = tensor.scalar_type();
    TORCH_CHECK(type == at::kFloat || type == at::kDouble, name, " must be float32 or float64, found ", type);
}

inline void check_number_type(const Tensor& tensor, const char* name, at::ScalarType type) {
    TORCH_CHECK(tensor.scalar_type() == type, name, " has type ", tensor.scalar_type(), ", expected ", type);
}

inline void check_sizes(const Tensor& tensor, const char* name, at::IntArrayRef sizes) {
    TORCH_CHECK(tensor.sizes() == sizes, name, " must have sizes ", sizes, ", found ", tensor.sizes());
}

// Every whole number lies in [0, count): an index outside would be read from memory that is not ours.
inline void check_index(const Tensor& index, const char* name, int64_t count) {
    const int64_t* found = index.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < index.numel(); ++k)
        TORCH_CHECK(found[k] >= 0 && found[k] < count, name, " must lie between 0 and ", count - 1, ", found ",
                    found[k], " at position ", k);
}

// [atoms, (L + 1)^2, channels]; returns L.
inline int check_features(const Tensor& features, const char* name) {
    TORCH_CHECK(features.dim() == 3 && features.size(2) > 0 && features.size(2) % 16 == 0, name,
                " must be [atoms, components, channels] with channels a multiple of 16, found ", features.sizes());
    const int64_t degree = degree_of(features.size(1));
    TORCH_CHECK((degree + 1) * (degree + 1) == features.size(1), name, " must have 1, 4, 9 or 16 components, found ",
                features.size(1));
    return int(degree);
}

}  // namespace symmd_torch
