#include "kernel.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "symbol_table.h"
#include "symmd/error.h"

namespace symmd::plumed {
namespace {

constexpr const char* library = "libplumedKernel.so";

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

// Folders named lib above the file that holds this function: those of the environment that it is installed in.
std::vector<std::string> own_folders() {
    Dl_info information{};
    if (!dladdr(reinterpret_cast<void*>(&find_kernel), &information) || !information.dli_fname) return {};
    std::error_code ignored;
    std::vector<std::string> found;
    for (auto folder = std::filesystem::absolute(information.dli_fname, ignored).parent_path();
         folder.has_relative_path(); folder = folder.parent_path())
        if (folder.filename() == "lib" || folder.filename() == "lib64") found.push_back(folder.string());
    return found;
}

int loading_mode() {
    // As PLUMED's own wrapper loads it: its BLAS and C++ symbols stay apart from those of the program.
    int mode = RTLD_NOW | RTLD_LOCAL;
#ifdef RTLD_DEEPBIND
    if (!std::getenv("PLUMED_LOAD_NODEEPBIND")) mode |= RTLD_DEEPBIND;
#endif
    return mode;
}

}  // namespace

std::string find_kernel(const std::string& argument, const std::vector<std::string>& folders) {
    if (!argument.empty()) return argument;
    const std::string named = environment("PLUMED_KERNEL");
    if (!named.empty()) return named;

    std::vector<std::string> places = folders;
    for (const char* prefix : {"CONDA_PREFIX", "VIRTUAL_ENV"})
        if (const std::string value = environment(prefix); !value.empty()) places.push_back(value + "/lib");
    for (const std::string& folder : own_folders()) places.push_back(folder);
    std::string list;
    for (const std::string& place : places) {
        const std::string path = place + "/" + library;
        std::error_code ignored;
        if (std::filesystem::exists(path, ignored)) return path;
        if (list.find(place + ", ") == std::string::npos) list += place + ", ";
    }
    if (void* handle = dlopen(library, loading_mode())) {
        dlclose(handle);
        return library;
    }
    throw Error(
        std::string("a bias of PLUMED needs its kernel, ") + library +
        ", which pip does not bring, and none was found in " + list +
        "nor where the dynamic loader looks; get one with 'conda install -c conda-forge plumed', with 'module load "
        "plumed' on a cluster, or by building PLUMED, and name the file in the environment variable PLUMED_KERNEL "
        "or in the argument kernel");
}

std::shared_ptr<const Kernel> Kernel::load(const std::string& path) {
    std::shared_ptr<Kernel> kernel(new Kernel);
    kernel->path_ = path;
    kernel->handle_ = dlopen(path.c_str(), loading_mode());
    if (!kernel->handle_) {
        const char* reason = dlerror();
        throw Error("the PLUMED kernel '" + path + "' cannot be loaded: " + (reason ? reason : "no reason given") +
                    "; name the file libplumedKernel.so of a PLUMED for this machine");
    }
    kernel->table_ = static_cast<const SymbolTable*>(dlsym(kernel->handle_, "plumed_symbol_table"));
    if (!kernel->table_ || kernel->table_->version < 2)
        throw Error("the file '" + path + "' must be the kernel of PLUMED 2.5 or newer, found " +
                    (kernel->table_ ? "an older one" : "no table of its functions in it") +
                    "; name another libplumedKernel.so");
    return kernel;
}

void* Kernel::symbol(const char* name) const { return dlsym(handle_, name); }

}  // namespace symmd::plumed
