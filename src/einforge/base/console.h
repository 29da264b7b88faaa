#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

// What the program says: standard output is its result, standard error what it
// does meanwhile. Neither a full disk nor a closed pipe nor a terminal that
// hung up may end a run, so that nothing here throws; a result that could not
// be written is known at the end (output_error).
namespace einforge::base {

// Bytes to standard output as they are, at once. After a failed write all
// others are dropped.
void print_raw(std::string_view bytes) noexcept;

// Text to standard output, made printable (base/text.h); lines and tabs stay.
void print_text(std::string_view text) noexcept;
template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  print_text(fmt::format(format, std::forward<Args>(args)...));
}

// Bytes to standard error, as the control sequences of a progress bar.
void note_raw(std::string_view bytes) noexcept;

// Text to standard error, made printable.
void note_text(std::string_view text) noexcept;
template <typename... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  note_text(fmt::format(format, std::forward<Args>(args)...));
}

// "einforge: warning: TEXT" on a line of its own, below a progress bar.
void warn(std::string_view text) noexcept;

// The errno of the first write to standard output that failed; 0 if none did.
int output_error() noexcept;

}  // namespace einforge::base
