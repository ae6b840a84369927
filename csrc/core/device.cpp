#include "core/device.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <vector>

namespace symmd {

namespace {

constexpr char library_name[] = "libsymmd_cuda.so";
constexpr char library_variable[] = "SYMMD_CUDA_LIBRARY";  // names another file
constexpr int most_digits = 4;

// Where the library may lie: beside what holds this code, or a folder above, as the plugins lie one below the package.
std::vector<std::string> candidates() {
    if (const char* named = std::getenv(library_variable)) return {named};
    std::vector<std::string> files;
    Dl_info here;
    if (dladdr(reinterpret_cast<const void*>(&device_number), &here) && here.dli_fname) {
        const std::string file = here.dli_fname;
        const std::size_t end = file.rfind('/');
        const std::string folder = end == std::string::npos ? "." : file.substr(0, end);
        const std::size_t above = folder.rfind('/');
        files = {folder + "/" + library_name};
        if (above != std::string::npos) files.push_back(folder.substr(0, above) + "/" + library_name);
    }
    return files;
}

bool is_there(const std::string& file) {
    struct stat status;
    return stat(file.c_str(), &status) == 0;
}

}  // namespace

int device_number(const std::string& device) {
    if (device == "cpu") return -1;
    if (device == "cuda") return 0;
    const std::string start = "cuda:";
    const std::string digits = device.compare(0, start.size(), start) == 0 ? device.substr(start.size()) : "";
    if (digits.empty() || digits.size() > most_digits || digits.find_first_not_of("0123456789") != std::string::npos)
        throw Error("the device must be cpu, cuda or cuda:K with K counted from 0, found '" + device + "'");
    return std::stoi(digits);
}

const DeviceLibrary& device_library() {
    const std::vector<std::string> files = candidates();
    std::string found;
    for (const std::string& file : files)
        if (found.empty() && is_there(file)) found = file;
    if (found.empty()) {
        std::string looked;
        for (const std::string& file : files) looked += (looked.empty() ? "" : " or ") + file;
        throw Error(std::string("a device needs the library ") + library_name + ", which is not there as " + looked +
                    ": install SymMD from its sources where nvcc of CUDA is found, or compute with device cpu");
    }
    // Of its names none is seen by others, and it stays: closing it would take away the code of engines that are left.
    void* library = dlopen(found.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char* reason = dlerror();
        throw Error("the library of devices " + found + " does not load: " + (reason ? reason : "no reason was given"));
    }
    using Symbol = const DeviceLibrary* (*)();
    const auto symbol = reinterpret_cast<Symbol>(dlsym(library, device_library_symbol));
    const DeviceLibrary* given = symbol ? symbol() : nullptr;
    if (!given || std::strcmp(given->version, device_library_version) != 0)
        throw Error("the library of devices " + found + " must be of this build (" + device_library_version +
                    "), found " + (given ? given->version : "one that is none of SymMD") +
                    "; install SymMD anew from one source");
    return *given;
}

int device_count(const DeviceLibrary& library) {
    std::string problem;
    const int count = library.device_count(problem);
    if (count <= 0)
        throw Error("device cuda needs a GPU, found none" + (problem.empty() ? "" : " (" + problem + ")") +
                    "; look at what nvidia-smi says, or compute with device cpu");
    return count;
}

const DeviceLibrary& device_library(const std::string& device) {
    const int number = device_number(device);
    const DeviceLibrary& library = device_library();
    const int count = device_count(library);
    if (number >= count)
        throw Error("device " + device + " must be one of the " + std::to_string(count) + " that are here, cuda:0" +
                    (count > 1 ? " to cuda:" + std::to_string(count - 1) : "") + "; compute with one of them");
    return library;
}

}  // namespace symmd
