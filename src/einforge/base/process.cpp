#include "einforge/base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <exception>
#include <string_view>

#include "einforge/base/console.h"
#include "einforge/base/error.h"

namespace einforge::base {
namespace {

constexpr std::array kStopping = {SIGINT, SIGTERM, SIGHUP};
std::array<struct sigaction, kStopping.size()> before;
volatile std::sig_atomic_t stop = 0;

void on_stop(int signal) {
  // A hang-up comes twice: from the shell and from the kernel.
  if (stop != 0 && signal != SIGHUP) {
    ::_exit(128 + signal);
  }
  stop = 1;
}

// Calls nothing but what a signal handler may.
[[noreturn]] void on_bus_error(int) {
  constexpr std::string_view kText =
      "einforge: error: a file was cut short, or its disk failed, while it was "
      "read in place\n";
  [[maybe_unused]] const ssize_t written =
      ::write(STDERR_FILENO, kText.data(), kText.size());
  ::_exit(1);
}

[[noreturn]] void on_terminate() noexcept {
  try {
    if (std::current_exception()) {
      throw;
    }
    note_text("einforge: error: internal error\n");
  } catch (const std::exception& error) {
    note("einforge: error: {}\n", message_of(error));
  } catch (...) {
    note_text("einforge: error: internal error\n");
  }
  ::_exit(1);
}

}  // namespace

void prepare_process() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open(2) gives the lowest number that is free, which is this one.
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) {
      static_cast<void>(::open("/dev/null", O_RDWR));
    }
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  ::signal(SIGBUS, on_bus_error);
  std::set_terminate(on_terminate);
}

StopSignals::StopSignals() {
  stop = 0;
  struct sigaction action {};
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kStopping.size(); ++i) {
    ::sigaction(kStopping[i], nullptr, &before[i]);
    if (kStopping[i] != SIGHUP || before[i].sa_handler != SIG_IGN) {
      ::sigaction(kStopping[i], &action, nullptr);
    }
  }
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kStopping.size(); ++i) {
    ::sigaction(kStopping[i], &before[i], nullptr);
  }
}

bool StopSignals::requested() {
  return stop != 0;
}

}  // namespace einforge::base
