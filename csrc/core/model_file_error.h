// The one exception of everything that reads a model file.
#pragma once

#include <string>
#include <string_view>

#include "symmd/error.h"

namespace symmd {

// `text` of a file in quotes and fit for a message: printable ASCII, at most 60 characters.
inline std::string in_quotes(std::string_view text) {
    constexpr std::size_t longest = 60;
    std::string result = "'";
    for (const char character : text.substr(0, longest))
        result += character >= ' ' && character <= '~' ? character : '?';
    if (text.size() > longest) result += "...";
    return result + "'";
}

}  // namespace symmd
