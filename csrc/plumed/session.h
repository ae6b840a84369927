// One PLUMED calculation: typed commands to a kernel, whose exceptions come back as symmd::Error.
#pragma once

#include <memory>
#include <string>

#include "kernel.h"

namespace symmd::plumed {

// PLUMED's unit of energy (kJ/mol) in an eV (CODATA 2018), and in a kcal/mol.
constexpr double kilojoule_per_mole_of_electronvolt = 96.48533212331002;
constexpr double kilojoule_per_mole_of_kilocalorie = 4.184;
// kJ/mol per K
constexpr double gas_constant = 8.31446261815324e-3;

class Session {
  public:
    explicit Session(std::shared_ptr<const Kernel> kernel);
    // Closes PLUMED's files.
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    const Kernel& kernel() const { return *kernel_; }

    // A command without a value.
    void command(const char* name);
    // Numbers: one, or an array whose length PLUMED knows. PLUMED keeps pointers to arrays until their next command.
    void command(const char* name, const int* value);
    void command(const char* name, const long* value);
    void command(const char* name, const double* value);
    void command(const char* name, int* value);
    void command(const char* name, double* value);
    void command(const char* name, const std::string& text);
    // Of any type, such as an MPI communicator.
    void command_untyped(const char* name, const void* value);

    // Bias of the last calculation, in the units that the program has set.
    double bias();
    // Version of PLUMED's interface.
    int interface_version();

  private:
    void send(const char* name, const void* value, std::size_t flags);

    std::shared_ptr<const Kernel> kernel_;
    void* calculation_;
};

}  // namespace symmd::plumed
