// core's templates as a thread of the device runs them: a pack is one number. Included before any other header of core
// that has templates.
#pragma once

#if !defined(SYMMD_GPU)
#define SYMMD_GPU
#endif
#ifndef SYMMD_NAMESPACE
#define SYMMD_NAMESPACE gpu
#endif

#include "cuda/platform.h"
// platform.h comes first: the emulator says what __host__ and __device__ are.
#include "core/message_of_vectors.h"
#include "core/node_products.h"
#include "core/radial.h"
