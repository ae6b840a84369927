// The binary interface of PLUMED kernels (versions 2.5 to 2.11): fields and order are those that the kernel exports.
#pragma once

#include <cstddef>

namespace symmd::plumed {

// Receives an exception of the kernel instead of letting it pass through: (context, code, message, options).
struct ErrorReceiver {
    void* context;
    void (*receive)(void*, int, const char*, const void*);
};

// A pointer with its type, which the kernel compares with what a command expects.
struct TypedPointer {
    const void* pointer;
    std::size_t elements;      // 0: not said
    const std::size_t* shape;  // ends with 0; null: not said
    std::size_t flags;         // bytes of an element + 0x10000 · kind + 0x2000000 · constness
    const void* options;
};

struct SymbolTable {
    int version;
    void* (*create)();
    void (*command)(void*, const char*, const void*);
    void (*finalize)(void*);
    // From version 2 on.
    void (*command_caught)(void*, const char*, const void*, ErrorReceiver);
    // From version 3 on.
    void (*command_typed)(void*, const char*, TypedPointer);
    void (*command_typed_caught)(void*, const char*, TypedPointer, ErrorReceiver);
};

}  // namespace symmd::plumed
