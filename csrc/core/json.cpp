#include "core/json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>

#include "core/model_file_error.h"

namespace symmd::json {

namespace {

constexpr int deepest = 32;
constexpr std::size_t longest_number = 64;
constexpr double largest_natural = 9007199254740992.0;  // 2^53

bool is_digit(char character) { return character >= '0' && character <= '9'; }

void append_utf8(std::string& text, std::uint32_t code) {
    const auto continuation = [](std::uint32_t bits) { return char(0x80 | (bits & 0x3F)); };
    if (code < 0x80) {
        text += char(code);
    } else if (code < 0x800) {
        text += char(0xC0 | (code >> 6));
        text += continuation(code);
    } else if (code < 0x10000) {
        text += char(0xE0 | (code >> 12));
        text += continuation(code >> 6);
        text += continuation(code);
    } else {
        text += char(0xF0 | (code >> 18));
        text += continuation(code >> 12);
        text += continuation(code >> 6);
        text += continuation(code);
    }
}

class Parser {
  public:
    Parser(std::string_view text, const std::string& subject) : text_(text), subject_(subject) {}

    Value document() {
        if (text_.size() > longest_text)
            throw ModelFileError(subject_ + " has " + std::to_string(text_.size()) +
                                 " bytes, more than the 1 MiB that are read; export it again");
        Value value = any_value(0);
        skip_space();
        if (at_ != text_.size()) fail("something follows its end");
        return value;
    }

  private:
    [[noreturn]] void fail(const std::string& reason) const {
        throw ModelFileError(subject_ + " is not valid JSON at byte " + std::to_string(at_) + ": " + reason +
                             "; copy or export it again");
    }

    bool more() const { return at_ < text_.size(); }
    char peek() const { return more() ? text_[at_] : '\0'; }
    bool take(char character) {
        if (!more() || text_[at_] != character) return false;
        ++at_;
        return true;
    }
    void skip_space() {
        while (more() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) ++at_;
    }

    Value any_value(int depth) {
        skip_space();
        if (!more()) fail("it ends where a value is expected");
        Value value;
        switch (peek()) {
            case '{':
                value.kind = Kind::object;
                fill_object(value, depth);
                break;
            case '[':
                value.kind = Kind::array;
                fill_array(value, depth);
                break;
            case '"':
                value.kind = Kind::string;
                value.text = string();
                break;
            case 't':
                word("true");
                value.kind = Kind::boolean;
                value.boolean = true;
                break;
            case 'f':
                word("false");
                value.kind = Kind::boolean;
                break;
            case 'n':
                word("null");
                break;
            default:
                value.kind = Kind::number;
                fill_number(value);
        }
        return value;
    }

    void word(std::string_view expected) {
        if (text_.substr(at_, expected.size()) != expected) fail("a value is expected");
        at_ += expected.size();
    }

    void check_depth(int depth) const {
        if (depth >= deepest) fail("it is nested more than " + std::to_string(deepest) + " deep");
    }

    void fill_array(Value& value, int depth) {
        check_depth(depth);
        take('[');
        skip_space();
        if (take(']')) return;
        do {
            value.items.push_back(any_value(depth + 1));
            skip_space();
        } while (take(','));
        if (!take(']')) fail("',' or ']' is expected");
    }

    void fill_object(Value& value, int depth) {
        check_depth(depth);
        take('{');
        skip_space();
        if (take('}')) return;
        do {
            skip_space();
            if (peek() != '"') fail("a key in double quotes is expected");
            std::string key = string();
            skip_space();
            if (!take(':')) fail("':' is expected");
            Value member = any_value(depth + 1);
            value.members.push_back({std::move(key), std::move(member)});
            skip_space();
        } while (take(','));
        if (!take('}')) fail("',' or '}' is expected");
        // Sorting keeps many keys cheap: comparing each with each would take minutes for a text made of them.
        std::sort(value.members.begin(), value.members.end(),
                  [](const Member& first, const Member& second) { return first.key < second.key; });
        const auto repeated =
            std::adjacent_find(value.members.begin(), value.members.end(),
                               [](const Member& first, const Member& second) { return first.key == second.key; });
        if (repeated != value.members.end()) fail("the key " + in_quotes(repeated->key) + " is there twice");
    }

    void digits() {
        if (!is_digit(peek())) fail("a digit is expected");
        while (is_digit(peek())) ++at_;
    }

    void fill_number(Value& value) {
        const std::size_t start = at_;
        const bool negative = take('-');
        if (!is_digit(peek())) fail("a value is expected");
        if (take('0')) {
            if (is_digit(peek())) fail("a number starts with 0");
        } else {
            digits();
        }
        bool whole = true;
        if (take('.')) {
            whole = false;
            digits();
        }
        if (take('e') || take('E')) {
            whole = false;
            if (!take('+')) take('-');
            digits();
        }
        const std::string_view written = text_.substr(start, at_ - start);
        if (written.size() > longest_number) fail("a number has " + std::to_string(written.size()) + " characters");
        // Not strtod: that follows the decimal comma of the program that we are part of.
        std::istringstream stream{std::string(written)};
        stream.imbue(std::locale::classic());
        if (!(stream >> value.number) || !std::isfinite(value.number))
            fail("fp64 cannot hold the number " + in_quotes(written));
        value.natural = whole && !negative && value.number <= largest_natural;
    }

    std::string string() {
        take('"');
        std::string result;
        while (true) {
            if (!more()) fail("it ends within a string");
            const unsigned char first = static_cast<unsigned char>(text_[at_]);
            if (first < 0x20) fail("a string holds a control character");
            if (take('"')) return result;
            if (first == '\\') {
                ++at_;
                escape(result);
            } else if (first < 0x80) {
                result += char(first);
                ++at_;
            } else {
                copy_utf8(result, first);
            }
        }
    }

    void escape(std::string& result) {
        const char kind = peek();
        if (!more()) fail("it ends within a string");
        ++at_;
        switch (kind) {
            case '"':
            case '\\':
            case '/':
                result += kind;
                return;
            case 'b':
                result += '\b';
                return;
            case 'f':
                result += '\f';
                return;
            case 'n':
                result += '\n';
                return;
            case 'r':
                result += '\r';
                return;
            case 't':
                result += '\t';
                return;
            case 'u':
                append_utf8(result, escaped_code());
                return;
            default:
                fail("a string holds an unknown escape");
        }
    }

    std::uint32_t four_hexadecimals() {
        std::uint32_t code = 0;
        for (int position = 0; position < 4; ++position, ++at_) {
            const char digit = peek();
            code <<= 4;
            if (is_digit(digit)) {
                code |= std::uint32_t(digit - '0');
            } else if (digit >= 'a' && digit <= 'f') {
                code |= std::uint32_t(digit - 'a' + 10);
            } else if (digit >= 'A' && digit <= 'F') {
                code |= std::uint32_t(digit - 'A' + 10);
            } else {
                fail("four hexadecimal digits are expected");
            }
        }
        return code;
    }

    // Characters beyond 16 bits are written as a high and a low surrogate, which mean nothing alone.
    std::uint32_t escaped_code() {
        const std::uint32_t code = four_hexadecimals();
        if (code < 0xD800 || code > 0xDFFF) return code;
        if (code > 0xDBFF || !take('\\') || !take('u')) fail("half of a surrogate pair stands alone");
        const std::uint32_t low = four_hexadecimals();
        if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair stands alone");
        return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }

    void copy_utf8(std::string& result, unsigned char first) {
        const int length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
        if (first < 0xC2 || first > 0xF4 || text_.size() - at_ < std::size_t(length)) fail("a string is not UTF-8");
        std::uint32_t code = first & (0xFFu >> (length + 1));
        for (int position = 1; position < length; ++position) {
            const unsigned char next = static_cast<unsigned char>(text_[at_ + std::size_t(position)]);
            if ((next & 0xC0) != 0x80) fail("a string is not UTF-8");
            code = (code << 6) | (next & 0x3Fu);
        }
        constexpr std::uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
        if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
            fail("a string is not UTF-8");
        result.append(text_.substr(at_, std::size_t(length)));
        at_ += std::size_t(length);
    }

    std::string_view text_;
    const std::string& subject_;
    std::size_t at_ = 0;
};

}  // namespace

const Value* Value::find(std::string_view key) const {
    const auto found =
        std::lower_bound(members.begin(), members.end(), key,
                         [](const Member& member, std::string_view sought) { return member.key < sought; });
    return found != members.end() && found->key == key ? &found->value : nullptr;
}

Value parse(std::string_view text, const std::string& subject) { return Parser(text, subject).document(); }

const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::null:
            return "null";
        case Kind::boolean:
            return "a boolean";
        case Kind::number:
            return "a number";
        case Kind::string:
            return "a string";
        case Kind::array:
            return "an array";
        default:
            return "an object";
    }
}

}  // namespace symmd::json
