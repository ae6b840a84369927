/* The engine of SymMD for programs in C, and for languages that call C. The same as symmd/engine.h, which says more.
 *
 * Units: eV, Å, eV/Å. Arrays are dense and row-major. A function that can fail returns 0 when it succeeds (symmd_load:
 * not null); after a failure symmd_error() is one sentence about it, for the thread that called. An engine is used by
 * one thread at a time. */
#ifndef SYMMD_H
#define SYMMD_H

#include <stdint.h>

#ifndef SYMMD_API
#define SYMMD_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct symmd_engine symmd_engine;

/* Features on their way between owned atoms and ghosts: rows [atoms, width] of numbers with `bytes` bytes (4 or 8).
 * `forward` copies the rows of owners to their ghosts, `backward` adds the rows of ghosts to those of their owners. */
typedef struct symmd_exchange {
    void* context;
    void (*forward)(void* context, void* rows, int64_t width, int bytes);
    void (*backward)(void* context, void* rows, int64_t width, int bytes);
} symmd_exchange;

/* What shall be computed; null is not wanted. */
typedef struct symmd_results {
    double* energy;      /* [1] eV */
    double* atom_energy; /* [owned] eV */
    double* forces;      /* [atoms, 3] eV/Å */
    double* virial;      /* [3, 3] eV: -dE/d(strain) */
    double* atom_virial; /* [atoms, 3, 3] eV */
} symmd_results;

/* Reads model.pt or a .safetensors model. `bits`: 32 (the usual) or 64 (for checking). `threads`: 0 for all.
 * `skin`: Å by which the engine's neighbour list is longer than the cutoff, 1 if in doubt. */
SYMMD_API symmd_engine* symmd_load(const char* path, int bits, int threads, double skin);
/* The same on `device`: "cpu", "cuda" or "cuda:K", where `threads` is not looked at. Arrays are on the host. */
SYMMD_API symmd_engine* symmd_load_on(const char* path, int bits, int threads, double skin, const char* device);
SYMMD_API void symmd_free(symmd_engine* engine);
SYMMD_API const char* symmd_error(void);

/* Å */
SYMMD_API double symmd_cutoff(const symmd_engine* engine);
SYMMD_API int32_t symmd_species_count(const symmd_engine* engine);
/* Of species 0 ... count-1; -1 for others. */
SYMMD_API int symmd_atomic_number(const symmd_engine* engine, int32_t species);
/* The index of a species; -1, with an error, when the model was not trained for the element. */
SYMMD_API int32_t symmd_species_of(const symmd_engine* engine, int atomic_number);

/* With the engine's own neighbour list. species [atoms], positions [atoms, 3] Å, cell [3, 3] Å (null when no axis is
 * periodic), periodic [3]. */
SYMMD_API int symmd_compute(symmd_engine* engine, int64_t atoms, const int32_t* species, const double* positions,
                            const double* cell, const int* periodic, const symmd_results* results);

/* With a caller's list: atoms from `owned` on are ghosts, counts [owned], neighbours [owned][counts[i]]. `exchange` may
 * be null when there are no ghosts. */
SYMMD_API int symmd_compute_neighbourhood(symmd_engine* engine, int64_t owned, int64_t atoms, const int32_t* species,
                                          const double* positions, const int32_t* counts,
                                          const int32_t* const* neighbours, const symmd_exchange* exchange,
                                          const symmd_results* results);

#ifdef __cplusplus
}
#endif

#endif
