// Which evaluations of a bias are steps of the dynamics, and which are the same one again.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace symmd::plumed {

// PLUMED's update (hills, lines of files) belongs to a step of the dynamics once, however often the program asks for
// the bias: minimisers, trial moves of barostats, repeated queries and the first evaluation of a further run ask for it
// too. A further run that begins where the last one ended must also see the bias without the hill of that step, as a
// run that goes on would; so the result of the last evaluation is used again for the same step, positions and box.
class OncePerStep {
  public:
    using Box = std::array<double, 9>;

    // Is this the step and the box of the last evaluation?
    bool same_step_and_box(int64_t step, const Box& box) const {
        return evaluated_ && step == evaluated_step_ && box == box_;
    }

    // Is this the last evaluation again? `positions` has `numbers` numbers.
    bool same(int64_t step, const Box& box, const double* positions, std::size_t numbers) const {
        return same_step_and_box(step, box) && numbers == positions_.size() &&
               (numbers == 0 || std::memcmp(positions, positions_.data(), numbers * sizeof(double)) == 0);
    }

    void evaluated(int64_t step, const Box& box, const double* positions, std::size_t numbers) {
        evaluated_ = true;
        evaluated_step_ = step;
        box_ = box;
        positions_.assign(positions, positions + numbers);
    }

    // The last evaluation came to nothing: whatever comes next is a new one.
    void forget_evaluation() { evaluated_ = false; }

    // True for the first time that a step of the dynamics asks.
    bool claim_update(int64_t step) {
        if (updated_ && step == updated_step_) return false;
        updated_ = true;
        updated_step_ = step;
        return true;
    }

    const std::vector<double>& positions() const { return positions_; }

  private:
    bool evaluated_ = false, updated_ = false;
    int64_t evaluated_step_ = 0, updated_step_ = 0;
    Box box_{};
    std::vector<double> positions_;
};

}  // namespace symmd::plumed
