#include "einforge/base/console.h"

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "einforge/base/text.h"

namespace einforge::base {
namespace {

std::atomic<int> first_error = 0;

// 0, or the errno of the failed write.
int write_all(int descriptor, std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      // Another program made the terminal or pipe that we share non-blocking.
      pollfd ready = {.fd = descriptor, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

void print_raw(std::string_view bytes) noexcept {
  if (first_error == 0) {
    first_error = write_all(STDOUT_FILENO, bytes);
  }
}

void print_text(std::string_view text) noexcept {
  print_raw(printable(text, true));
}

void note_raw(std::string_view bytes) noexcept {
  write_all(STDERR_FILENO, bytes);
}

void note_text(std::string_view text) noexcept {
  note_raw(printable(text, true));
}

void warn(std::string_view text) noexcept {
  // A progress bar is erased first; it draws itself again.
  const char* clear = ::isatty(STDERR_FILENO) == 1 ? "\r\033[K" : "";
  note_raw(fmt::format("{}einforge: warning: {}\n", clear, printable(text)));
}

int output_error() noexcept {
  return first_error;
}

}  // namespace einforge::base
