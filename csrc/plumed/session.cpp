#include "session.h"

#include <climits>
#include <sstream>

#include "symbol_table.h"
#include "symmd/error.h"

namespace symmd::plumed {
namespace {

constexpr std::size_t no_value = 2 * 0x10000, any_type = 0x10000, integer = 3 * 0x10000, real = 4 * 0x10000;
constexpr std::size_t letter = ((CHAR_MIN == 0 ? 0x100 : 0) + 3) * 0x10000;
constexpr std::size_t writable = 2 * 0x2000000, constant = 3 * 0x2000000;

// PLUMED's messages fill several lines, with places in its source: the sentences alone, in one line.
std::string sentence(const std::string& message) {
    std::istringstream lines(message);
    std::string line, found;
    while (std::getline(lines, line)) {
        const auto begin = line.find_first_not_of("+ \t");
        if (begin == std::string::npos) continue;
        line = line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
        if (line == "PLUMED error" || line.rfind("at ", 0) == 0 || line.rfind("assertion failed", 0) == 0) continue;
        if (line[0] == '(' && line.find(':') < line.find(')')) continue;  // (file:line) function
        if (line.rfind("message follows", 0) == 0 || line.find_first_not_of('#') == std::string::npos) continue;
        found += (found.empty() ? "" : " ") + line;
    }
    return found.empty() ? "an error without a message" : found;
}

struct Caught {
    bool is = false;
    std::string message;
};

// Called by the kernel: nothing may be thrown through it.
void receive(void* context, int, const char* message, const void*) noexcept {
    auto* caught = static_cast<Caught*>(context);
    caught->is = true;
    try {
        caught->message = message ? message : "";
    } catch (...) {
    }
}

}  // namespace

Session::Session(std::shared_ptr<const Kernel> kernel)
    : kernel_(std::move(kernel)), calculation_(kernel_->table().create()) {
    if (!calculation_) throw Error("the PLUMED kernel '" + kernel_->path() + "' cannot begin a calculation");
}

Session::~Session() { kernel_->table().finalize(calculation_); }

void Session::send(const char* name, const void* value, std::size_t flags) {
    const SymbolTable& table = kernel_->table();
    Caught caught;
    const ErrorReceiver receiver{&caught, receive};
    if (table.version >= 3)
        table.command_typed_caught(calculation_, name, TypedPointer{value, 0, nullptr, flags, nullptr}, receiver);
    else
        table.command_caught(calculation_, name, value, receiver);
    if (caught.is) throw Error("PLUMED refused '" + std::string(name) + "': " + sentence(caught.message));
}

void Session::command(const char* name) { send(name, nullptr, no_value); }
void Session::command(const char* name, const int* value) { send(name, value, sizeof(int) | integer | constant); }
void Session::command(const char* name, const long* value) { send(name, value, sizeof(long) | integer | constant); }
void Session::command(const char* name, const double* value) { send(name, value, sizeof(double) | real | constant); }
void Session::command(const char* name, int* value) { send(name, value, sizeof(int) | integer | writable); }
void Session::command(const char* name, double* value) { send(name, value, sizeof(double) | real | writable); }
void Session::command(const char* name, const std::string& text) {
    send(name, text.c_str(), sizeof(char) | letter | constant);
}
void Session::command_untyped(const char* name, const void* value) { send(name, value, any_type | constant); }

double Session::bias() {
    double value = 0;
    command("getBias", &value);
    return value;
}

int Session::interface_version() {
    int value = 0;
    command("getApiVersion", &value);
    return value;
}

}  // namespace symmd::plumed
