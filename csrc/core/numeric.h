// Packs of lanes and dual numbers. A kernel written once with these types runs on real numbers, and on dual numbers
// value + ε slope (ε² = 0), which carry the derivative along one direction (docs/theory.md, eq. 56-57).
//
// With SYMMD_GPU a pack is the number of one thread: lanes are the threads of a warp.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef SYMMD_GPU
#include <cmath>
#endif

// Code compiled for several instruction sets must not share symbols: each set names its own inner namespace.
#ifndef SYMMD_NAMESPACE
#define SYMMD_NAMESPACE portable
#endif

// What the device and the host call alike.
#ifdef __CUDACC__
#define SYMMD_FUNCTION __host__ __device__ __forceinline__
#else
#define SYMMD_FUNCTION inline
#endif

namespace symmd {
inline namespace SYMMD_NAMESPACE {

#ifdef SYMMD_GPU
template <class T>
using Pack = T;
template <class T>
inline constexpr int lanes = 1;
#else
// One pack fills a register of the instruction set that this code is compiled for; at most 16 floats.
#if defined(__AVX512F__)
inline constexpr int pack_bytes = 64;
#elif defined(__AVX__)
inline constexpr int pack_bytes = 32;
#else
inline constexpr int pack_bytes = 16;
#endif

template <class T>
struct PackType {
    typedef T type __attribute__((vector_size(pack_bytes)));
    typedef T loose __attribute__((vector_size(pack_bytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Pack = typename PackType<T>::type;
template <class T>
inline constexpr int lanes = pack_bytes / sizeof(T);
#endif

template <class P>
struct Dual {
    P value, slope;
};

template <class S>
inline constexpr bool is_dual = false;
template <class P>
inline constexpr bool is_dual<Dual<P>> = true;

// The number under a dual number, and the pack of a number or a dual number.
template <class S>
struct RealType {
    using type = S;
};
template <class P>
struct RealType<Dual<P>> {
    using type = P;
};
template <class S>
using RealOf = typename RealType<S>::type;

template <class S>
struct PackedType {
    using type = Pack<S>;
};
template <class P>
struct PackedType<Dual<P>> {
    using type = Dual<Pack<P>>;
};
template <class S>
using PackOf = typename PackedType<S>::type;

template <class A, class B>
inline auto operator+(Dual<A> a, Dual<B> b) -> Dual<decltype(a.value + b.value)> {
    return {a.value + b.value, a.slope + b.slope};
}
template <class A, class B>
inline auto operator-(Dual<A> a, Dual<B> b) -> Dual<decltype(a.value - b.value)> {
    return {a.value - b.value, a.slope - b.slope};
}
template <class A, class B>
inline auto operator*(Dual<A> a, Dual<B> b) -> Dual<decltype(a.value * b.value)> {
    return {a.value * b.value, a.value * b.slope + a.slope * b.value};
}
template <class A, class B>
inline auto operator/(Dual<A> a, Dual<B> b) -> Dual<decltype(a.value / b.value)> {
    const auto quotient = a.value / b.value;
    return {quotient, (a.slope - quotient * b.slope) / b.value};
}
template <class A, class B, std::enable_if_t<!is_dual<A>, int> = 0>
inline auto operator/(A a, Dual<B> b) -> Dual<decltype(a / b.value)> {
    const auto quotient = a / b.value;
    return {quotient, -(quotient * b.slope) / b.value};
}
template <class A, class B, std::enable_if_t<!is_dual<B>, int> = 0>
inline auto operator*(Dual<A> a, B b) -> Dual<decltype(a.value * b)> {
    return {a.value * b, a.slope * b};
}
template <class A, class B, std::enable_if_t<!is_dual<A>, int> = 0>
inline auto operator*(A a, Dual<B> b) -> Dual<decltype(a * b.value)> {
    return {a * b.value, a * b.slope};
}
template <class A, class B, std::enable_if_t<!is_dual<B>, int> = 0>
inline Dual<A> operator+(Dual<A> a, B b) {
    return {a.value + b, a.slope};
}
template <class A, class B, std::enable_if_t<!is_dual<A>, int> = 0>
inline Dual<B> operator+(A a, Dual<B> b) {
    return {a + b.value, b.slope};
}
template <class A, class B, std::enable_if_t<!is_dual<B>, int> = 0>
inline Dual<A> operator-(Dual<A> a, B b) {
    return {a.value - b, a.slope};
}
template <class A, class B, std::enable_if_t<!is_dual<A>, int> = 0>
inline Dual<B> operator-(A a, Dual<B> b) {
    return {a - b.value, -b.slope};
}
template <class P>
inline Dual<P> operator-(Dual<P> a) {
    return {-a.value, -a.slope};
}
template <class A, class B>
inline Dual<A>& operator+=(Dual<A>& a, B b) {
    a = a + b;
    return a;
}

template <class V>
SYMMD_FUNCTION V zero_pack() {
    if constexpr (is_dual<V>) {
        return {zero_pack<RealOf<V>>(), zero_pack<RealOf<V>>()};
    } else {
        return V{};
    }
}

// What a kernel hands out: the number itself, or its derivative along the direction of the dual numbers.
template <class P>
SYMMD_FUNCTION P outcome(P number) {
    return number;
}
template <class P>
inline P outcome(Dual<P> number) {
    return number.slope;
}
template <class P>
SYMMD_FUNCTION P value_of(P number) {
    return number;
}
template <class P>
inline P value_of(Dual<P> number) {
    return number.value;
}

template <class T>
SYMMD_FUNCTION Pack<T> load(const T* from) {
#ifdef SYMMD_GPU
    return *from;
#else
    return *reinterpret_cast<const typename PackType<T>::loose*>(from);
#endif
}
template <class T>
SYMMD_FUNCTION void store(T* to, Pack<T> pack) {
#ifdef SYMMD_GPU
    *to = pack;
#else
    *reinterpret_cast<typename PackType<T>::loose*>(to) = pack;
#endif
}
template <class T>
SYMMD_FUNCTION void add_to(T* to, Pack<T> pack) {
    store<T>(to, load<T>(to) + pack);
}
// `slopes` is looked at for dual numbers only.
template <class S>
SYMMD_FUNCTION PackOf<S> load_with_slope(const RealOf<S>* values, const RealOf<S>* slopes, int64_t at) {
    if constexpr (is_dual<S>) {
        return {load<RealOf<S>>(values + at), load<RealOf<S>>(slopes + at)};
    } else {
        (void)slopes;
        return load<S>(values + at);
    }
}

template <class S>
SYMMD_FUNCTION void store_with_slope(RealOf<S>* values, RealOf<S>* slopes, int64_t at, PackOf<S> pack) {
    if constexpr (is_dual<S>) {
        store<RealOf<S>>(values + at, pack.value);
        store<RealOf<S>>(slopes + at, pack.slope);
    } else {
        (void)slopes;
        store<S>(values + at, pack);
    }
}

#ifdef SYMMD_GPU

// A thread's own functions.
SYMMD_FUNCTION float square_root(float x) { return sqrtf(x); }
SYMMD_FUNCTION double square_root(double x) { return sqrt(x); }
SYMMD_FUNCTION float exponential_of(float x) { return expf(x); }
SYMMD_FUNCTION double exponential_of(double x) { return exp(x); }
SYMMD_FUNCTION float hyperbolic_tangent(float x) { return tanhf(x); }
SYMMD_FUNCTION double hyperbolic_tangent(double x) { return tanh(x); }

#else

// The same pointer, of which the compiler knows nothing any more: without this it computes a pointer to every row of a
// loop's body ahead of the loop, and has no registers left.
template <class T>
inline const T* unforeseen(const T* pointer) {
    asm("" : "+r"(pointer));
    return pointer;
}

// Lane k of the result is lane index[k] of the pack.
template <class T>
using PackIndex = Pack<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
template <class P, class I>
inline P select_lanes(P pack, I index) {
    if constexpr (is_dual<P>) {
        return {select_lanes(pack.value, index), select_lanes(pack.slope, index)};
    } else {
#ifdef __clang__
        P result{};
        for (int lane = 0; lane < int(sizeof(I) / sizeof(index[0])); ++lane) result[lane] = pack[index[lane]];
        return result;
#else
        return __builtin_shuffle(pack, index);
#endif
    }
}

// One number of a pack.
template <class P>
inline auto lane_of(const P& pack, int lane) {
    return pack[lane];
}
template <class P>
inline auto lane_of(const Dual<P>& pack, int lane) {
    using T = std::decay_t<decltype(pack.value[0])>;
    return Dual<T>{pack.value[lane], pack.slope[lane]};
}

// Sums of neighbouring lanes: those of `first`, then those of `second`.
template <class P, std::size_t... Lane>
inline P sums_of_pairs(P first, P second, std::index_sequence<Lane...>) {
    return __builtin_shufflevector(first, second, int(2 * Lane)...) +
           __builtin_shufflevector(first, second, int(2 * Lane + 1)...);
}
template <class T>
inline Pack<T> sums_of_pairs(Pack<T> first, Pack<T> second) {
    return sums_of_pairs(first, second, std::make_index_sequence<lanes<T>>{});
}
template <class T>
inline Dual<Pack<T>> sums_of_pairs(Dual<Pack<T>> first, Dual<Pack<T>> second) {
    return {sums_of_pairs<T>(first.value, second.value), sums_of_pairs<T>(first.slope, second.slope)};
}

// Of as many packs as `Together` = 2, 4, 8 …, the sums of so many neighbouring lanes: those of pack(0) come first.
template <class T, int Together, class Source>
inline __attribute__((always_inline)) auto sums_of_lanes(const Source& pack) {
    if constexpr (Together == 1) {
        return pack(0);
    } else {
        const auto second_half = [&](int n) __attribute__((always_inline)) { return pack(n + Together / 2); };
        const auto first = sums_of_lanes<T, Together / 2>(pack);
        return sums_of_pairs<T>(first, sums_of_lanes<T, Together / 2>(second_half));
    }
}

template <class P>
inline P square_root(P x) {
    P root;
    for (unsigned lane = 0; lane < sizeof(x) / sizeof(x[0]); ++lane) {
        if constexpr (sizeof(x[0]) == 4) {
            root[lane] = __builtin_sqrtf(x[lane]);
        } else {
            root[lane] = __builtin_sqrt(x[lane]);
        }
    }
    return root;
}
template <class P>
inline Dual<P> square_root(Dual<P> x) {
    const P root = square_root(x.value);
    return {root, x.slope / (root + root)};
}

// exp for |x| < 80, by 2^n times a polynomial of the remainder; relative error of a few ulp.
template <class T>
inline Pack<T> exponential(Pack<T> x) {
    using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    constexpr int mantissa = sizeof(T) == 4 ? 23 : 52, bias = sizeof(T) == 4 ? 127 : 1023;
    constexpr T high = sizeof(T) == 4 ? T(0.693145751953125) : T(6.93147180369123816490e-01);
    constexpr T low = sizeof(T) == 4 ? T(1.42860682030941723212e-6) : T(1.90821492927058770002e-10);
    // Adding 1.5 times 2^mantissa rounds to a whole number, which is then in the low bits.
    constexpr T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);
    const Pack<T> shifted = x * T(1.4426950408889634074) + magic;
    const Pack<T> n = shifted - magic;
    Pack<Integer> whole;
    std::memcpy(&whole, &shifted, sizeof(whole));
    const Pack<T> r = (x - n * high) - n * low;
    constexpr int degree = sizeof(T) == 4 ? 7 : 13;
    constexpr double inverse_factorial[14] = {
        1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
        1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    Pack<T> series = Pack<T>{} + T(inverse_factorial[degree]);
    for (int power = degree - 1; power >= 0; --power) series = series * r + T(inverse_factorial[power]);
    const Pack<Integer> bits = (whole + Integer(bias)) << mantissa;
    Pack<T> scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return series * scale;
}

template <class V>
struct PackReal;  // the number type of a pack of reals
template <>
struct PackReal<Pack<float>> {
    using type = float;
};
template <>
struct PackReal<Pack<double>> {
    using type = double;
};

template <class V>
inline V exponential_of(V x) {
    if constexpr (is_dual<V>) {
        using P = RealOf<V>;
        const P e = exponential<typename PackReal<P>::type>(x.value);
        return {e, e * x.slope};
    } else {
        return exponential<typename PackReal<V>::type>(x);
    }
}

template <class V>
inline V hyperbolic_tangent(V x) {
    if constexpr (is_dual<V>) {
        const auto t = hyperbolic_tangent(x.value);
        return {t, (1 - t * t) * x.slope};
    } else {
        using T = typename PackReal<V>::type;
        const V bounded = x > T(20) ? V{} + T(20) : (x < T(-20) ? V{} - T(20) : x);
        return T(1) - T(2) / (exponential<T>(bounded + bounded) + T(1));
    }
}

#endif  // SYMMD_GPU

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
