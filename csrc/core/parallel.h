// Work of a fixed number of parts on the caller's choice of threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif

namespace symmd {

#ifdef _OPENMP
inline bool& in_forked_child() {
    static bool forked = false;
    return forked;
}
inline const int forks_are_watched = pthread_atfork(nullptr, nullptr, [] { in_forked_child() = true; });
#endif

// body(part) for part = 0 … parts-1, each in a thread of its own where OpenMP gives as many. `body` must not throw.
template <class Body>
void in_parallel(int parts, Body&& body) {
    if (parts == 1) {
        body(0);
        return;
    }
#ifdef _OPENMP
    // OpenMP's threads do not survive a fork, and a child that asks for them waits for ever.
    if (in_forked_child()) {
        for (int part = 0; part < parts; ++part) body(part);
        return;
    }
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
