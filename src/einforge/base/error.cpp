#include "einforge/base/error.h"

#include <array>
#include <filesystem>
#include <new>
#include <system_error>

#include "einforge/base/text.h"

namespace einforge::base {
namespace {

constexpr std::size_t kLongestMessage = 1000;
constexpr const char* kInternal =
    "internal error; please report it with the command that led to it";

template <typename T>
const T* as(const std::exception& error) {
  return dynamic_cast<const T*>(&error);
}

// "stoll", "map::at", "vector::_M_range_check: ...": the standard library's
// words for a fault of ours.
bool is_internal(std::string_view message) {
  return message.find(' ') == std::string_view::npos ||
         message.find("::_") != std::string_view::npos ||
         message.find("std::") != std::string_view::npos ||
         message.find("basic_string") != std::string_view::npos;
}

// "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096
// bytes. Error code 12 (Cannot allocate memory)" in plain words; "" if it is
// nothing of the kind.
std::string out_of_memory(std::string_view message) {
  constexpr std::string_view kBefore = "you tried to allocate ";
  const std::size_t at = message.find(kBefore);
  if (at == std::string_view::npos) {
    return "";
  }
  message.remove_prefix(at + kBefore.size());
  const std::string_view bytes = message.substr(0, message.find(' '));
  return !bytes.empty() &&
                 bytes.find_first_not_of("0123456789") == std::string_view::npos
             ? fmt::format(
                   "out of memory: {}B could not be allocated",
                   human_count(parse_double("bytes", bytes)))
             : "out of memory";
}

}  // namespace

void throw_io_error(std::string_view what, int error_number) {
  throw IoError(fmt::format(
      "{}: {}", what, std::generic_category().message(error_number)));
}

std::string plain_message(std::string_view message) {
  // A backtrace follows Torch's first line.
  message = message.substr(0, message.find('\n'));
  if (std::string text = out_of_memory(message); !text.empty()) {
    return text;
  }
  for (const std::string_view mark :
       {"[json.exception.", "[enforce fail at "}) {
    if (message.starts_with(mark)) {
      message.remove_prefix(std::min(message.find(']') + 1, message.size()));
    }
  }
  constexpr std::array kBefore = {
      std::string_view("DefaultCPUAllocator: "),
      std::string_view("parse error at "),
      std::string_view("parse error: "),
      std::string_view("filesystem error: ")};
  for (const std::string_view words : kBefore) {
    if (const auto at = message.find(words); at != std::string_view::npos) {
      message.remove_prefix(at + words.size());
    }
  }
  return trim(message);
}

std::string message_of(const std::exception& error) {
  std::string message;
  if (as<InvalidInput>(error) != nullptr || as<IoError>(error) != nullptr) {
    message = error.what();
  } else if (const auto* file = as<std::filesystem::filesystem_error>(error)) {
    message =
        fmt::format("'{}': {}", file->path1().string(), file->code().message());
  } else if (as<std::bad_alloc>(error) != nullptr) {
    message = "out of memory";
  } else {
    message = plain_message(error.what());
    if (is_internal(message)) {
      message = kInternal;
    }
  }
  return shortened(printable(message), kLongestMessage);
}

int exit_code_of(const std::exception& error) {
  return as<std::invalid_argument>(error) != nullptr ? 2 : 1;
}

}  // namespace einforge::base
