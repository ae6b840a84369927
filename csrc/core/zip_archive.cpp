#include "core/zip_archive.h"

#include <optional>

namespace symmd {

namespace {

constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50,
                        end64_signature = 0x06064b50, locator64_signature = 0x07064b50;
constexpr std::uint64_t local_length = 30, central_length = 46, end_length = 22, end64_length = 56,
                        locator64_length = 20, longest_comment = 0xFFFF;
constexpr std::uint16_t absent16 = 0xFFFF;  // these two say that the number is in a zip64 record
constexpr std::uint32_t absent32 = 0xFFFFFFFF;
constexpr std::uint16_t zip64_field = 1;
constexpr std::uint16_t encrypted_flags = 0x2041;  // encrypted, strongly encrypted, central directory masked

[[noreturn]] void fail(const std::string& reason) {
    throw ModelFileError("it is a damaged zip archive, " + reason + "; copy or export it again");
}

struct Directory {
    std::uint64_t start, count, entries;
};

struct Entry {
    std::uint16_t flags, method;
    std::uint64_t compressed, uncompressed, local_header;
    std::string_view name;
};

// The end record is the last one whose comment reaches exactly to the end of the file.
std::uint64_t find_end_record(const ByteView& archive) {
    for (std::uint64_t comment = 0; comment <= longest_comment && end_length + comment <= archive.size(); ++comment) {
        const std::uint64_t at = archive.size() - end_length - comment;
        if (archive.u32(at) == end_signature && archive.u16(at + 20) == comment) return at;
    }
    fail("it has no end record");
}

Directory directory64(const ByteView& archive, std::uint64_t end_record) {
    if (end_record < locator64_length || archive.u32(end_record - locator64_length) != locator64_signature)
        fail("its zip64 locator is missing");
    const std::uint64_t limit = end_record - locator64_length;
    const std::uint64_t at = archive.u64(limit + 8);
    if (!archive.part(0, limit).holds(at, end64_length) || archive.u32(at) != end64_signature)
        fail("its zip64 end record is missing");
    if (archive.u32(at + 16) != 0 || archive.u32(at + 20) != 0 || archive.u64(at + 24) != archive.u64(at + 32))
        fail("it is one part of several");
    const Directory directory = {archive.u64(at + 48), archive.u64(at + 40), archive.u64(at + 32)};
    if (!archive.part(0, at).holds(directory.start, directory.count)) fail("its central directory lies outside it");
    return directory;
}

Directory find_directory(const ByteView& archive) {
    const std::uint64_t at = find_end_record(archive);
    const Directory directory = {archive.u32(at + 16), archive.u32(at + 12), archive.u16(at + 10)};
    if (directory.start == absent32 || directory.count == absent32 || directory.entries == absent16)
        return directory64(archive, at);
    if (archive.u16(at + 4) != 0 || archive.u16(at + 6) != 0 || archive.u16(at + 8) != directory.entries)
        fail("it is one part of several");
    if (!archive.part(0, at).holds(directory.start, directory.count)) fail("its central directory lies outside it");
    return directory;
}

// Replaces the numbers of an entry that did not fit into 32 bits by those of its extra field.
void read_zip64_field(const ByteView& extra, Entry& entry) {
    std::uint64_t* const wide[] = {&entry.uncompressed, &entry.compressed, &entry.local_header};
    bool needed = false;
    for (const std::uint64_t* number : wide) needed = needed || *number == absent32;
    if (!needed) return;
    for (std::uint64_t at = 0; extra.holds(at, 4);) {
        const std::uint16_t kind = extra.u16(at);
        const ByteView field = extra.part(at + 4, extra.u16(at + 2));
        if (kind == zip64_field) {
            std::uint64_t position = 0;
            for (std::uint64_t* number : wide) {
                if (*number != absent32) continue;
                *number = field.u64(position);
                position += 8;
            }
            return;
        }
        at += 4 + field.size();
    }
    fail("the zip64 sizes of an entry are missing");
}

std::optional<Entry> find_entry(const ByteView& directory, std::uint64_t entries, std::string_view suffix) {
    std::optional<Entry> found;
    std::uint64_t at = 0;
    for (std::uint64_t index = 0; index < entries; ++index) {
        if (!directory.holds(at, central_length) || directory.u32(at) != central_signature)
            fail("its central directory breaks off");
        const std::uint64_t name = directory.u16(at + 28), extra = directory.u16(at + 30),
                            comment = directory.u16(at + 32);
        if (!directory.holds(at + central_length, name + extra + comment)) fail("its central directory breaks off");
        Entry entry = {directory.u16(at + 8),  directory.u16(at + 10), directory.u32(at + 20),
                       directory.u32(at + 24), directory.u32(at + 42), directory.text(at + central_length, name)};
        if (entry.name.size() >= suffix.size() && entry.name.substr(entry.name.size() - suffix.size()) == suffix) {
            if (found) fail("it holds the model twice");
            read_zip64_field(directory.part(at + central_length + name, extra), entry);
            found = entry;
        }
        at += central_length + name + extra + comment;
    }
    if (at != directory.size()) fail("its central directory is longer than its entries");
    return found;
}

}  // namespace

bool is_zip_archive(const ByteView& archive) {
    return archive.holds(0, 4) && (archive.u32(0) == local_signature || archive.u32(0) == end_signature);
}

ByteRange find_stored_entry(const ByteView& archive, std::string_view suffix) {
    const Directory directory = find_directory(archive);
    const std::optional<Entry> entry =
        find_entry(archive.part(directory.start, directory.count), directory.entries, suffix);
    if (!entry)
        throw ModelFileError("it is a zip archive without an entry " + in_quotes("*" + std::string(suffix)) +
                             ", so not a SymMD model; name a file that symmd export wrote");
    if (entry->flags & encrypted_flags) fail("its model is encrypted");
    if (entry->method != 0 || entry->compressed != entry->uncompressed)
        throw ModelFileError("its entry " + in_quotes(entry->name) +
                             " is compressed, but a model must be stored as it is; export it again");
    // Everything an entry has lies before the central directory.
    const ByteView before = archive.part(0, directory.start);
    const std::uint64_t local = entry->local_header;
    if (!before.holds(local, local_length) || before.u32(local) != local_signature)
        fail("the header of its model is missing");
    const std::uint64_t name = before.u16(local + 26), extra = before.u16(local + 28);
    if (!before.holds(local + local_length, name) || before.text(local + local_length, name) != entry->name)
        fail("the header of its model has another name than the directory");
    const std::uint64_t start = local + local_length + name + extra;
    if (!before.holds(start, entry->uncompressed)) fail("its model reaches beyond it");
    return {std::size_t(start), std::size_t(entry->uncompressed)};
}

}  // namespace symmd
