// What LAMMPS calls when it loads the plugin: registers pair_style symmd and fix symmd/plumed, or what refuses them in
// a LAMMPS that they were not built for. Classes of LAMMPS change their layout from release to release, so until the
// release is known only LAMMPS' C interface may be used.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "fix_plumed.h"
#include "library.h"
#include "pair_symmd.h"

namespace {

// The interface of LAMMPS' plugin loader.
struct Registration {
    const char *version, *style, *name, *info, *author;
    union {
        void* (*of_lammps)(void*);
        void* (*of_lammps_and_arguments)(void*, int, char**);
    } creator;
    void* handle;
};
using Register = void (*)(Registration*, void*);

// Release for which the plugin was compiled, as a text in the file, where it can be found without running it.
const char built_for[] = "pair_style symmd for LAMMPS " SYMMD_LAMMPS_VERSION;

int built_version() { return std::atoi(std::strrchr(built_for, ' ') + 1); }

// "22 Jul 2025" for 20250722
std::string date_of(int version) {
    const char* const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const int month = version / 100 % 100;
    if (month < 1 || month > 12) return std::to_string(version);
    return std::to_string(version % 100) + " " + months[month - 1] + " " + std::to_string(version / 10000);
}

// One sentence; empty when plugin and LAMMPS fit.
std::string mismatch(void* lammps, const std::string& style) {
    const int running = lammps_version(lammps);
    if (running != built_version())
        return style + " was built for LAMMPS " + date_of(built_version()) + " and this is LAMMPS " + date_of(running) +
               ": install the release that it was built for, or build the plugin for this one";
    const struct {
        const char* name;
        std::size_t bytes;
    } integers[] = {{"tagint", sizeof(LAMMPS_NS::tagint)},
                    {"bigint", sizeof(LAMMPS_NS::bigint)},
                    {"imageint", sizeof(LAMMPS_NS::imageint)}};
    for (const auto& integer : integers) {
        const int found = lammps_extract_setting(lammps, integer.name);
        if (std::size_t(found) != integer.bytes)
            return style + " was built for a LAMMPS whose " + integer.name + " has " + std::to_string(integer.bytes) +
                   " bytes and here it has " + std::to_string(found) +
                   ": build the plugin with the same LAMMPS_SMALLBIG or LAMMPS_BIGBIG as LAMMPS";
    }
    return "";
}

constexpr const char* pair_style = "pair_style symmd";
constexpr const char* fix_style = "fix symmd/plumed";

void* create_pair(void* lammps) { return new LAMMPS_NS::PairSymmd(static_cast<LAMMPS_NS::LAMMPS*>(lammps)); }
void* create_fix(void* lammps, int narg, char** arg) {
    return new LAMMPS_NS::FixPlumed(static_cast<LAMMPS_NS::LAMMPS*>(lammps), narg, arg);
}

void* refuse(void* lammps, const char* style) {
    const std::string text = mismatch(lammps, style);
    lammps_error(lammps, LMP_ERROR_ALL, text.c_str());
    // A library interface that catches errors returns to here, and LAMMPS cannot go on without the style.
    std::fprintf(stderr, "ERROR: %s\n", text.c_str());
    std::exit(1);
}
void* refuse_pair(void* lammps) { return refuse(lammps, pair_style); }
void* refuse_fix(void* lammps, int, char**) { return refuse(lammps, fix_style); }

}  // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void* lammps, void* handle, void* function) {
    static const std::string version = date_of(built_version());
    Registration registration{};
    registration.version = version.c_str();
    registration.author = "SymMD developers";
    registration.handle = handle;
    const bool fits = mismatch(lammps, pair_style).empty();
    const auto enter = reinterpret_cast<Register>(function);

    registration.style = "pair";
    registration.name = "symmd";
    registration.info = "SymMD, a symmetry-equivariant transformer potential";
    registration.creator.of_lammps = fits ? create_pair : refuse_pair;
    enter(&registration, lammps);

    registration.style = "fix";
    registration.name = "symmd/plumed";
    registration.info = "a bias of PLUMED, whose kernel is loaded at run time";
    registration.creator.of_lammps_and_arguments = fits ? create_fix : refuse_fix;
    enter(&registration, lammps);
}
