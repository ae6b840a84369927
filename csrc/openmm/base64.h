// Bytes as text for XML (RFC 4648, with padding).
#pragma once

#include <string>

namespace symmd {

std::string to_base64(const std::string& bytes);

// Throws symmd::Error for a text that is no base64.
std::string from_base64(const std::string& text);

}  // namespace symmd
