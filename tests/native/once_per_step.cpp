// The policy of csrc/plumed/once_per_step.h, alone. Ends with 1 and a line for each expectation that fails.
#include "plumed/once_per_step.h"

#include <cstdio>

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
    if (condition) return;
    std::printf("expected: %s\n", what);
    ++failures;
}

}  // namespace

int main() {
    using symmd::plumed::OncePerStep;
    const OncePerStep::Box box{10, 0, 0, 0, 10, 0, 0, 0, 10}, larger{10.1, 0, 0, 0, 10, 0, 0, 0, 10};
    const double here[6] = {0, 0, 0, 1, 1, 1}, there[6] = {0, 0, 0, 1, 1, 1.5};

    OncePerStep once;
    expect(!once.same(0, box, here, 6), "nothing is known at the start");
    once.evaluated(0, box, here, 6);
    expect(once.same(0, box, here, 6), "the last evaluation is known");
    expect(!once.same(1, box, here, 6), "another step is a new evaluation");
    expect(!once.same(0, larger, here, 6), "another box is a new evaluation");
    expect(!once.same(0, box, there, 6), "other positions are a new evaluation");
    expect(!once.same(0, box, here, 3), "other atoms are a new evaluation");

    once.evaluated(0, larger, there, 6);
    expect(!once.same(0, box, here, 6), "what a trial has replaced is not known any more");
    once.forget_evaluation();
    expect(!once.same(0, larger, there, 6), "a failed evaluation is not known");

    expect(once.claim_update(0), "the first step is updated");
    expect(!once.claim_update(0), "no step is updated twice");
    expect(once.claim_update(1), "the next step is updated");
    expect(once.claim_update(0), "a counter that was set back begins anew");
    return failures ? 1 : 0;
}
