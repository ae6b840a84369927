// The JSON header of a model file.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/json.h"
#include "core/model_file.h"

namespace symmd {

// Reads and checks the header's text (docs/model_file.md). Throws ModelFileError.
ModelHeader read_model_header(std::string_view text);

// The version of the format; refuses one that is newer than `model_file_version`, or none.
int read_format_version(const json::Value& metadata);

// Refuses anything but an object with exactly these keys; messages call it `subject`.
void check_keys(const json::Value& value, const std::string& subject, std::initializer_list<const char*> keys);

}  // namespace symmd
