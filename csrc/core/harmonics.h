// Real spherical harmonics to degree 3 of a unit vector, in e3nn's order and "component" normalisation
// (docs/theory.md, eq. 2-3): the squares of the 2l+1 components of each degree sum to 2l+1.
#pragma once

#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

// R: the number type of the lanes of S.
template <int L, class R, class S>
SYMMD_FUNCTION void harmonics(S x, S y, S z, S* values) {
    static_assert(L >= 0 && L <= 3, "degrees 0 to 3");
    values[0] = zero_pack<S>() + R(1);
    if constexpr (L >= 1) {
        const R a = R(1.7320508075688772);  // sqrt(3)
        values[1] = a * x;
        values[2] = a * y;
        values[3] = a * z;
    }
    if constexpr (L >= 2) {
        const R a = R(3.8729833462074170);  // sqrt(15)
        const R b = R(2.2360679774997896);  // sqrt(5)
        values[4] = a * (x * z);
        values[5] = a * (x * y);
        values[6] = b * (y * y - R(0.5) * (x * x + z * z));
        values[7] = a * (y * z);
        values[8] = (R(0.5) * a) * (z * z - x * x);
    }
    if constexpr (L >= 3) {
        const R a = R(2.0916500663351889);   // sqrt(70) / 4
        const R b = R(10.2469507659595984);  // sqrt(105)
        const R c = R(1.6201851746019651);   // sqrt(42) / 4
        const R d = R(1.3228756555322954);   // sqrt(7) / 2
        const S xx = x * x, yy = y * y, zz = z * z;
        values[9] = a * (x * (R(3) * zz - xx));
        values[10] = b * (x * y * z);
        values[11] = c * (x * (R(4) * yy - xx - zz));
        values[12] = d * (y * (R(2) * yy - R(3) * (xx + zz)));
        values[13] = c * (z * (R(4) * yy - xx - zz));
        values[14] = (R(0.5) * b) * (y * (zz - xx));
        values[15] = a * (z * (zz - R(3) * xx));
    }
}

// Gradient with respect to (x, y, z) of sum_k pull[k] * values[k], with the values as polynomials of x, y, z (eq. 44).
template <int L, class R, class S>
SYMMD_FUNCTION void harmonics_pull(S x, S y, S z, const S* pull, S* gradient) {
    S gx = zero_pack<S>(), gy = gx, gz = gx;
    if constexpr (L >= 1) {
        const R a = R(1.7320508075688772);
        gx += a * pull[1];
        gy += a * pull[2];
        gz += a * pull[3];
    }
    if constexpr (L >= 2) {
        const R a = R(3.8729833462074170), b = R(2.2360679774997896);
        gx += a * (z * pull[4] + y * pull[5] - x * pull[8]) - b * x * pull[6];
        gy += a * (x * pull[5] + z * pull[7]) + R(2) * b * y * pull[6];
        gz += a * (x * pull[4] + y * pull[7] + z * pull[8]) - b * z * pull[6];
    }
    if constexpr (L >= 3) {
        const R a = R(2.0916500663351889), b = R(10.2469507659595984);
        const R c = R(1.6201851746019651), d = R(1.3228756555322954);
        const S xx = x * x, yy = y * y, zz = z * z;
        gx += a * (R(3) * (zz - xx) * pull[9] - R(6) * x * z * pull[15]);
        gx += b * (y * z * pull[10] - x * y * pull[14]);
        gx += c * ((R(4) * yy - R(3) * xx - zz) * pull[11] - R(2) * x * z * pull[13]);
        gx += -(R(6) * d) * x * y * pull[12];
        gy += b * (x * z * pull[10] + R(0.5) * (zz - xx) * pull[14]);
        gy += R(8) * c * y * (x * pull[11] + z * pull[13]);
        gy += d * (R(6) * yy - R(3) * (xx + zz)) * pull[12];
        gz += a * (R(6) * x * z * pull[9] + R(3) * (zz - xx) * pull[15]);
        gz += b * (x * y * pull[10] + y * z * pull[14]);
        gz += c * ((R(4) * yy - xx - R(3) * zz) * pull[13] - R(2) * x * z * pull[11]);
        gz += -(R(6) * d) * y * z * pull[12];
    }
    gradient[0] = gx;
    gradient[1] = gy;
    gradient[2] = gz;
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
