// The PLUMED kernel, libplumedKernel.so: found and loaded when a simulation starts, so that nothing of PLUMED is needed
// to build. Knows neither LAMMPS nor OpenMM.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace symmd::plumed {

// Where the kernel is: `argument` if it is not empty; else what the environment variable PLUMED_KERNEL says; else
// libplumedKernel.so in one of `folders`, in CONDA_PREFIX/lib and VIRTUAL_ENV/lib, in a folder lib above this library
// (the environment that it is installed in), or where the dynamic loader looks. Throws Error with how to get one.
std::string find_kernel(const std::string& argument, const std::vector<std::string>& folders = {});

// What the kernel exports since PLUMED 2.5, in its own layout: a table of functions, plumed_symbol_table.
struct SymbolTable;

// A loaded kernel. It stays in memory until the process ends, as its threads and static objects may outlive the last
// use.
class Kernel {
  public:
    // Throws Error when the file is no kernel, or one older than 2.5, whose errors cannot be caught.
    static std::shared_ptr<const Kernel> load(const std::string& path);

    const std::string& path() const { return path_; }
    const SymbolTable& table() const { return *table_; }

    // Address of a function of the kernel or of a library that it is linked to; null where there is none.
    void* symbol(const char* name) const;

  private:
    Kernel() = default;

    std::string path_;
    void* handle_ = nullptr;
    const SymbolTable* table_ = nullptr;
};

}  // namespace symmd::plumed
