// What the files of operators know of each other.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>

namespace symmd_torch {

// One of our operators, to be called through torch's dispatcher, so that whoever traces a program sees the call.
template <class Call>
c10::TypedOperatorHandle<Call> operator_named(const char* name) {
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Call>();
}

// Whether an edge kernel was compiled for these degrees.
bool attention_supported(int64_t value_degree, int64_t harmonic_degree, int64_t message_degree);

}  // namespace symmd_torch
