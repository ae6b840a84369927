// The kernels of one instruction set and one precision: this file is compiled once for each pair, with SYMMD_NAMESPACE
// naming the set and SYMMD_NUMBER the number type. No function of the standard library's templates is called here: its
// symbols would be shared between the sets.
#include "../core/channel_mixing.h"
#include "../core/edge_pass.h"
#include "../core/node_products.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

namespace {

using Number = SYMMD_NUMBER;

// Training takes derivatives of the backward pass too. A build that runs the engine alone compiles in a third of the
// time without them.
#ifdef SYMMD_WITHOUT_SLOPES
constexpr bool has_slopes = false;
#else
constexpr bool has_slopes = true;
#endif

// Calls body(integral constants L1, L2, L3) for the degrees that have a kernel; false for all others.
template <int Code = 0, class Body>
bool with_degrees(const EdgePassShape& shape, Body&& body) {
    if constexpr (Code == 64) {
        return false;
    } else {
        constexpr int l1 = Code / 16, l2 = Code / 4 % 4, l3 = Code % 4;
        if constexpr (l1 <= l2 && (l3 == l2 || (l2 < 3 && l3 < l2))) {
            if (shape.value_degree == l1 && shape.harmonic_degree == l2 && shape.message_degree == l3) {
                body(std::integral_constant<int, l1>{}, std::integral_constant<int, l2>{},
                     std::integral_constant<int, l3>{});
                return true;
            }
        }
        return with_degrees<Code + 1>(shape, body);
    }
}

int64_t edge_workspace(const EdgePassShape& shape, Pass pass) {
    int64_t bytes = -1;
    with_degrees(shape, [&](auto l1, auto l2, auto l3) {
        if (pass != Pass::backward_slope) {
            bytes = EdgePass<l1, l2, l3, Number>::workspace_bytes(shape);
        } else if constexpr (has_slopes) {
            bytes = EdgePass<l1, l2, l3, Dual<Number>>::workspace_bytes(shape);
        }
    });
    return bytes;
}

void edge(const EdgePassShape& shape, Pass pass, const EdgePassInput<Number>& in, int64_t first, int64_t last,
          const EdgePassOutput<Number>& out, char* workspace) {
    with_degrees(shape, [&](auto l1, auto l2, auto l3) {
        if (pass == Pass::backward_slope) {
            if constexpr (has_slopes)
                EdgePass<l1, l2, l3, Dual<Number>>(shape, in, workspace).backward(first, last, out);
        } else if (pass == Pass::backward) {
            EdgePass<l1, l2, l3, Number>(shape, in, workspace).backward(first, last, out);
        } else {
            EdgePass<l1, l2, l3, Number>(shape, in, workspace).forward(first, last, out);
        }
    });
}

template <int Code = 0, class Body>
bool with_products(const ProductShape& shape, Body&& body) {
    if constexpr (Code == 32) {
        return false;
    } else {
        constexpr int degree = Code / 8, output = Code / 2 % 4;
        constexpr bool cube = Code % 2;
        if constexpr (output <= degree) {
            if (shape.degree == degree && shape.output_degree == output && shape.cube == cube) {
                body(std::integral_constant<int, degree>{}, std::integral_constant<int, output>{},
                     std::integral_constant<bool, cube>{});
                return true;
            }
        }
        return with_products<Code + 1>(shape, body);
    }
}

bool product_supported(const ProductShape& shape) {
    return with_products(shape, [](auto, auto, auto) {});
}

void product(const ProductShape& shape, Pass pass, const ProductInput<Number>& in, int64_t first, int64_t last,
             const ProductOutput<Number>& out) {
    with_products(shape, [&](auto degree, auto output, auto cube) {
        if (pass == Pass::backward_slope) {
            if constexpr (has_slopes)
                NodeProducts<degree, output, cube, Dual<Number>>(shape, in).backward(first, last, out);
        } else if (pass == Pass::backward) {
            NodeProducts<degree, output, cube, Number>(shape, in).backward(first, last, out);
        } else {
            NodeProducts<degree, output, cube, Number>(shape, in).forward(first, last, out);
        }
    });
}

void mix(const Mixing<Number>& in) { ChannelMixing<Number>(in).run(); }

void readout(const Readout<Number>& in) { read_out<Number>(in); }

}  // namespace

// Found by the dispatcher under the name of the set (csrc/cpu/dispatch.cpp).
void fill(Kernels<Number>& table) { table = {edge_workspace, edge, product_supported, product, mix, readout}; }

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
