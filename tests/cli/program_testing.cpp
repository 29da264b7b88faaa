#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "tests/cli/program.h"

namespace einforge::cli {
namespace {

// A nameless file in memory that a child writes to.
class Capture {
 public:
  explicit Capture(const char* name) : descriptor_(::memfd_create(name, 0)) {}
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() { ::close(descriptor_); }

  int descriptor() const { return descriptor_; }
  std::string text() const {
    std::string text(
        static_cast<std::size_t>(::lseek(descriptor_, 0, SEEK_END)), '\0');
    ::lseek(descriptor_, 0, SEEK_SET);
    const ssize_t got = ::read(descriptor_, text.data(), text.size());
    text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return text;
  }

 private:
  int descriptor_;
};

[[noreturn]] void become(
    const std::vector<std::string>& command,
    const RunLimits& limits,
    const Capture& out,
    const Capture& err) {
  ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
  ::dup2(out.descriptor(), STDOUT_FILENO);
  ::dup2(err.descriptor(), STDERR_FILENO);
  ::setenv("EINFORGE_PROGRESS", "0", 1);
  if (limits.file_bytes >= 0) {
    // Ignored, the signal becomes the error EFBIG.
    std::signal(SIGXFSZ, SIG_IGN);
    const auto bytes = static_cast<rlim_t>(limits.file_bytes);
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

}  // namespace

std::string einforge_path() {
  const char* folder = std::getenv("EINFORGE_BIN_DIR");
  return std::string(folder == nullptr ? "." : folder) + "/einforge";
}

RunResult run_program(
    const std::vector<std::string>& command, const RunLimits& limits) {
  const Capture out("out");
  const Capture err("err");
  const pid_t child = ::fork();
  if (child == 0) {
    become(command, limits, out, err);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return {
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
      out.text(),
      err.text()};
}

RunResult run_einforge(
    const std::vector<std::string>& arguments, const RunLimits& limits) {
  std::vector<std::string> command = {einforge_path()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_program(command, limits);
}

}  // namespace einforge::cli
