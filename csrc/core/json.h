// A strict reader of JSON (RFC 8259) for text that nobody vouches for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace symmd::json {

enum class Kind { null, boolean, number, string, array, object };

struct Member;

struct Value {
    Kind kind = Kind::null;
    bool boolean = false;
    bool natural = false;         // a number written with digits alone, at most 2^53: `number` is exactly it
    double number = 0.0;          // always finite
    std::string text;             // UTF-8
    std::vector<Value> items;     // of an array
    std::vector<Member> members;  // of an object, in the order of their keys, which are all different

    // The member with this key, or a null pointer.
    const Value* find(std::string_view key) const;
};

struct Member {
    std::string key;
    Value value;
};

// Reads one JSON text of at most 2^20 bytes, nested at most 32 deep, with numbers of at most 64 characters.
// Refuses anything else with a ModelFileError that calls the text `subject`. Memory stays below 300 times the text.
Value parse(std::string_view text, const std::string& subject);

// What a message calls a value of this kind.
const char* name_of(Kind kind);

inline constexpr std::size_t longest_text = std::size_t(1) << 20;

}  // namespace symmd::json
