// What the distance of an edge decides: envelope, spline coefficients, radial functions (docs/theory.md, eq. 4, 7-8).
#pragma once

#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// eq. 4 at u = r / r_c, and its derivative along r.
template <class T, class V>
SYMMD_FUNCTION void envelope(V u, T inverse_cutoff, V& fade, V& fade_slope) {
    const V u2 = u * u, u5 = u2 * u2 * u;
    fade = T(1) - u5 * u * (T(28) - T(48) * u + T(21) * u2);
    fade_slope = -(T(168) * inverse_cutoff) * u5 * ((T(1) - u) * (T(1) - u));
}

// ψ_1, ψ_2, ψ_3 of eq. 8 (ψ_0 is 1 - ψ_2) at the place t in the interval, and d/dr of them. `rate`: intervals per Å.
template <class T, class V>
SYMMD_FUNCTION void spline_coefficients(V t, T rate, V* coefficient, V* coefficient_slope) {
    const V s = T(1) - t;
    coefficient[0] = t * s * s;
    coefficient[1] = t * t * (T(3) - T(2) * t);
    coefficient[2] = -(t * t * s);
    coefficient_slope[0] = rate * (s * (T(1) - T(3) * t));
    coefficient_slope[1] = (T(6) * rate) * (t * s);
    coefficient_slope[2] = rate * (t * (T(3) * t - T(2)));
}

// The radial functions of one edge for a pack of channels, to be asked for one path after the other: `rows` moves
// along.
template <int Paths, class S>
struct Radial {
    using T = RealOf<S>;
    using P = Pack<T>;
    using V = PackOf<S>;
    const S *coefficient, *coefficient_slope;
    const T* rows;
    const int64_t channels;

    // R of eq. 8.
    SYMMD_FUNCTION V operator()() {
        const int64_t stride = Paths * channels;
        const P start = load<T>(rows);
        V sum = start + coefficient[0] * load<T>(rows + stride);
        sum += coefficient[1] * (load<T>(rows + 2 * stride) - start);
        sum += coefficient[2] * load<T>(rows + 3 * stride);
        rows += channels;
        return sum;
    }
    // And R'.
    SYMMD_FUNCTION V operator()(V& slope) {
        const int64_t stride = Paths * channels;
        const P start = load<T>(rows), first = load<T>(rows + stride), last = load<T>(rows + 3 * stride);
        const P rise = load<T>(rows + 2 * stride) - start;
        rows += channels;
        slope = coefficient_slope[0] * first + coefficient_slope[1] * rise + coefficient_slope[2] * last;
        return start + coefficient[0] * first + coefficient[1] * rise + coefficient[2] * last;
    }
};

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
