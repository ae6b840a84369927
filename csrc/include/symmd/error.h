// The exceptions of the engine.
#pragma once

#include <stdexcept>

#ifndef SYMMD_API
#define SYMMD_API __attribute__((visibility("default")))
#endif

namespace symmd {

// Whatever cannot be computed; what() is one sentence: what was expected, what was found, what to do.
class SYMMD_API Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A model file that cannot be used.
class SYMMD_API ModelFileError : public Error {
  public:
    using Error::Error;
};

}  // namespace symmd
