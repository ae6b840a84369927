// What an edge is, apart from its channels: direction, envelope, spline coefficients (docs/theory.md, eq. 1, 4, 8), and
// the way back from pulls on them to the pull on the displacement (eq. 44-45). Lanes are edges here: a pack of numbers
// belongs to as many edges.
#pragma once

#include "kernels.h"
#include "numeric.h"
#include "radial.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// `Factors`: numbers of an edge that its messages are made with (message.h); `Components` of a value; `Paths` of a row
// of the spline table.
template <int Factors, int Components, int Paths, class S>
struct EdgePack {
    using T = RealOf<S>;
    using V = PackOf<S>;
    static constexpr int W = lanes<T>;

    V displacement[3], distance, direction[3], inverse_distance, fade, fade_slope;
    V coefficient[3], coefficient_slope[3];  // ψ_1, ψ_2, ψ_3 of eq. 8 (ψ_0 is 1 - ψ_2), and d/dr of them
    V factor[Factors];
    int64_t edge[W];
    int64_t value_start[W], row_start[W];  // where the sender's values and the four rows of the spline table start
    int count;

  private:
    int64_t found[2 * W];  // edges within the cutoff that are not in the pack yet
    int found_count;

  public:
    // Gathers the next edges that are shorter than the cutoff, and moves `edge_number` on. Lanes behind the last edge
    // are copies of the first, so that all lanes hold ordinary numbers.
    void gather(const EdgePassShape& shape, const EdgePassInput<T>& in, int64_t& edge_number, int64_t end) {
        for (; edge_number < end && found_count < W; edge_number += W) find(in, T(shape.cutoff), edge_number, end);
        count = found_count < W ? found_count : W;
        if (count == 0) return;
        alignas(64) T r[3][W], r_slope[3][W];
        for (int lane = 0; lane < W; ++lane) {
            edge[lane] = found[lane < count ? lane : 0];
            value_start[lane] = in.sender[edge[lane]] * Components * shape.channels;
            for (int axis = 0; axis < 3; ++axis) {
                r[axis][lane] = in.vectors[3 * edge[lane] + axis];
                if constexpr (is_dual<S>) r_slope[axis][lane] = in.vectors_slope[3 * edge[lane] + axis];
            }
        }
        found_count -= count;
        for (int k = 0; k < found_count; ++k) found[k] = found[W + k];
        for (int axis = 0; axis < 3; ++axis) displacement[axis] = load_with_slope<S>(r[axis], r_slope[axis], 0);
        measure(shape);
    }

    // Before the first edge of an atom.
    void start() { found_count = 0; }

    bool finished(int64_t edge_number, int64_t end) const { return edge_number >= end && found_count == 0; }

    // From the pull on the distance and the gradient of eq. 44, to the vectors of eq. 45.
    void write_pull(V distance_pull, const V* gradient, T* vectors) const {
        const V along = direction[0] * gradient[0] + direction[1] * gradient[1] + direction[2] * gradient[2];
        alignas(64) T result[3][W];
        for (int axis = 0; axis < 3; ++axis) {
            const V tangential = (gradient[axis] - direction[axis] * along) * inverse_distance;
            store<T>(result[axis], outcome(distance_pull * direction[axis] + tangential));
        }
        for (int lane = 0; lane < count; ++lane)
            for (int axis = 0; axis < 3; ++axis) vectors[3 * edge[lane] + axis] = result[axis][lane];
    }

  private:
    void find(const EdgePassInput<T>& in, T cutoff, int64_t first, int64_t end) {
        const T square = cutoff * cutoff, *v = in.vectors + 3 * first;
        int count = found_count;
        for (int64_t number = first; number < end && number < first + W; ++number, v += 3) {
            found[count] = number;
            count += int(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] < square);
        }
        found_count = count;
    }

    void measure(const EdgePassShape& shape) {
        const V* r = displacement;
        distance = square_root(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
        inverse_distance = T(1) / distance;
        for (int axis = 0; axis < 3; ++axis) direction[axis] = r[axis] * inverse_distance;
        const T inverse_cutoff = T(1 / shape.cutoff), rate = T(shape.knots / shape.cutoff);
        envelope<T, V>(distance * inverse_cutoff, inverse_cutoff, fade, fade_slope);
        const V position = distance * rate;
        PackIndex<T> interval = __builtin_convertvector(value_of(position), PackIndex<T>);
        const PackIndex<T> last = PackIndex<T>{} + (decltype(interval[0] + 0))(shape.knots - 1);
        interval = interval < last ? interval : last;
        for (int lane = 0; lane < W; ++lane) row_start[lane] = 2 * int64_t(interval[lane]) * Paths * shape.channels;
        const V t = position - __builtin_convertvector(interval, Pack<T>);
        spline_coefficients<T, V>(t, rate, coefficient, coefficient_slope);
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
