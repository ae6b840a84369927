// Matrix products of an atom's features with the weights of a degree, and the hidden layer of the readout
// (docs/theory.md, eq. 14, 22, 23, 49-51).
#pragma once

#include "kernels.h"
#include "numeric.h"

namespace symmd {
inline namespace SYMMD_NAMESPACE {

template <class T>
class ChannelMixing {
    using P = Pack<T>;
    static constexpr int W = lanes<T>;
#ifdef __AVX512F__
    static constexpr int row_step = 6, pack_step = 4;  // 24 sums, 4 packs of weights: within 32 registers
#else
    static constexpr int row_step = 4, pack_step = 2;  // 8 sums within 16 registers
#endif
    const Mixing<T>& in;

  public:
    explicit ChannelMixing(const Mixing<T>& in) : in(in) {}

    void run() const {
        // Packs outside: the weights of one step of packs stay in the fastest cache while all rows pass by.
        int64_t column = 0;
        for (; column + pack_step * W <= in.outputs; column += pack_step * W) all_rows<pack_step>(column);
        if constexpr (pack_step > 2)
            for (; column + 2 * W <= in.outputs; column += 2 * W) all_rows<2>(column);
        for (; column < in.outputs; column += W) all_rows<1>(column);
    }

  private:
    template <int Packs>
    void all_rows(int64_t column) const {
        int64_t row = 0;
        for (; row + row_step <= in.rows; row += row_step) block<row_step, Packs>(row, column);
        if constexpr (row_step > 4)
            for (; row + 4 <= in.rows; row += 4) block<4, Packs>(row, column);
        for (; row + 2 <= in.rows; row += 2) block<2, Packs>(row, column);
        for (; row < in.rows; ++row) block<1, Packs>(row, column);
    }

    template <int Rows, int Packs>
    inline __attribute__((always_inline)) void block(int64_t first, int64_t column) const {
        P sum[Rows][Packs];
        const T* x[Rows];
        for (int r = 0; r < Rows; ++r) {
            x[r] = in.x + in.x_row[first + r];
            for (int p = 0; p < Packs; ++p) sum[r][p] = P{};
        }
        const T* weight = in.weight + column;
        for (int64_t k = 0; k < in.inputs; ++k, weight += in.outputs) {
            P w[Packs];
            for (int p = 0; p < Packs; ++p) w[p] = load<T>(weight + p * W);
            for (int r = 0; r < Rows; ++r)
                for (int p = 0; p < Packs; ++p) sum[r][p] += x[r][k] * w[p];
        }
        for (int r = 0; r < Rows; ++r) {
            T* y = in.y + in.y_row[first + r] + column;
            for (int p = 0; p < Packs; ++p) {
                if (in.add) {
                    add_to<T>(y + p * W, sum[r][p]);
                } else {
                    store<T>(y + p * W, sum[r][p]);
                }
            }
        }
    }
};

template <class T>
void read_out(const Readout<T>& in) {
    using P = Pack<T>;
    const T gain = T(1.6768);
    for (int64_t row = 0; row < in.rows; ++row) {
        T* hidden = in.hidden + row * in.width;
        double energy = 0;
        for (int64_t start = 0; start < in.width; start += lanes<T>) {
            const P a = load<T>(hidden + start), outer = load<T>(in.outer + start);
            const P bounded = a > T(-60) ? a : P{} + T(-60);
            const P gate = T(1) / (T(1) + exponential<T>(-(bounded < T(60) ? bounded : P{} + T(60))));
            P part = gain * outer * a * gate;
            for (int lane = 0; lane < lanes<T>; ++lane) energy += double(part[lane]);
            store<T>(hidden + start, T(in.scale) * gain * outer * gate * (T(1) + a * (T(1) - gate)));
        }
        in.energy[row] += energy;
    }
}

}  // namespace SYMMD_NAMESPACE
}  // namespace symmd
