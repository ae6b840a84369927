// Just enough of the zip format (APPNOTE 6.3, zip64 included) to find one uncompressed entry of a TorchScript archive.
#pragma once

#include <string_view>

#include "core/byte_view.h"

namespace symmd {

// Whether the bytes start like a zip archive.
bool is_zip_archive(const ByteView& archive);

// Where the bytes of the only entry lie whose name ends with `suffix`; it must be stored, not compressed. Its CRC-32
// is not looked at: what is read from it has a SHA-256 of its own. Throws ModelFileError.
ByteRange find_stored_entry(const ByteView& archive, std::string_view suffix);

}  // namespace symmd
