// Work of a fixed number of parts on the caller's choice of threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

namespace symmd {

// body(part) for part = 0 … parts-1, each in a thread of its own where OpenMP gives as many. `body` must not throw.
template <class Body>
void in_parallel(int parts, Body&& body) {
    if (parts == 1) {
        body(0);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(parts)
    for (int part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) body(part);
#else
    for (int part = 0; part < parts; ++part) body(part);
#endif
}

inline int available_threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

}  // namespace symmd
