#include "einforge/search/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

extern char** environ;

namespace einforge::search {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) {
    return "localhost";
  }
  return name.data();
}

struct Stat {
  char state = 0;
  std::string threads;
  std::string start_time;
};

// From /proc/PID/stat; see proc(5).
bool read_stat(pid_t pid, Stat& stat) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text(std::istreambuf_iterator<char>(file), {});
  // The second field, the program's name, may hold spaces and parentheses.
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos || end + 2 >= text.size()) {
    return false;
  }
  const std::vector<std::string> fields =
      base::split(std::string_view(text).substr(end + 2), ' ');
  // Fields 20 and 22, counted from field 3.
  constexpr std::size_t kThreads = 17;
  constexpr std::size_t kStartTime = 19;
  if (fields.size() <= kStartTime) {
    return false;
  }
  stat.state = fields[0][0];
  stat.threads = fields[kThreads];
  stat.start_time = fields[kStartTime];
  return true;
}

void close_file(int& file) {
  if (file >= 0) {
    ::close(file);
    file = -1;
  }
}

}  // namespace

std::string process_name(pid_t pid) {
  Stat stat;
  if (!read_stat(pid, stat)) {
    return "";
  }
  return fmt::format("{}:{}:{}", host_name(), pid, stat.start_time);
}

bool process_alive(std::string_view name) {
  const std::size_t second = name.rfind(':');
  if (second == std::string_view::npos || second == 0) {
    return false;
  }
  const std::size_t first = name.rfind(':', second - 1);
  if (first == std::string_view::npos || name.substr(0, first) != host_name()) {
    return false;
  }
  const pid_t pid = std::atoi(
      std::string(name.substr(first + 1, second - first - 1)).c_str());
  Stat stat;
  if (pid <= 0 || !read_stat(pid, stat) ||
      stat.start_time != name.substr(second + 1)) {
    return false;
  }
  // A zombie whose other threads are still going down holds its locks.
  const bool dead =
      stat.state == 'X' || (stat.state == 'Z' && stat.threads == "1");
  return !dead;
}

Child::Child(const Options& options) {
  std::array<int, 2> input{};
  std::array<int, 2> output{};
  const int log = ::open(
      options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log < 0) {
    base::throw_io_error(
        fmt::format("cannot open '{}'", options.log.string()), errno);
  }
  if (::pipe2(input.data(), O_CLOEXEC) != 0 ||
      ::pipe2(output.data(), O_CLOEXEC) != 0) {
    base::throw_io_error("cannot make a pipe to a worker", errno);
  }
  // Everything that allocates comes before fork: the child only makes system
  // calls until exec.
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    bool replaced = false;
    for (const auto& [key, value] : options.environment) {
      replaced |= text.starts_with(key + "=");
    }
    if (!replaced) {
      variables.emplace_back(text);
    }
  }
  for (const auto& [key, value] : options.environment) {
    variables.push_back(key + "=" + value);
  }
  std::vector<char*> environment;
  for (std::string& variable : variables) {
    environment.push_back(variable.data());
  }
  environment.push_back(nullptr);
  std::vector<std::string> words = options.command;
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);

  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    // Its own process group: Ctrl-C reaches the search alone, which asks its
    // workers to stop. Dies with the search, however that dies.
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(127);
    }
    ::dup2(input[0], STDIN_FILENO);
    ::dup2(output[1], STDOUT_FILENO);
    ::dup2(log, STDERR_FILENO);
    ::execve(arguments[0], arguments.data(), environment.data());
    ::_exit(127);
  }
  const int error = errno;
  ::close(log);
  ::close(input[0]);
  ::close(output[1]);
  input_ = input[1];
  output_ = output[0];
  if (pid_ < 0) {
    close_file(input_);
    close_file(output_);
    base::throw_io_error("cannot start a worker", error);
  }
  ::fcntl(output_, F_SETFL, O_NONBLOCK);
  name_ = process_name(pid_);
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      name_(std::move(other.name_)),
      input_(std::exchange(other.input_, -1)),
      output_(std::exchange(other.output_, -1)),
      pending_(std::move(other.pending_)) {}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(name_, other.name_);
  std::swap(input_, other.input_);
  std::swap(output_, other.output_);
  std::swap(pending_, other.pending_);
  return *this;
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  close_file(input_);
  close_file(output_);
}

std::vector<base::Json> Child::events() {
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t count = ::read(output_, buffer.data(), buffer.size());
    if (count > 0) {
      pending_.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      break;
    }
  }
  std::vector<base::Json> result;
  for (std::size_t end; (end = pending_.find('\n')) != std::string::npos;) {
    std::optional<base::Json> event =
        base::try_parse_json(std::string_view(pending_).substr(0, end));
    pending_.erase(0, end + 1);
    if (event && event->is_object()) {
      result.push_back(std::move(*event));
    }
  }
  return result;
}

void Child::send(std::string_view line) {
  const std::string text = std::string(line) + "\n";
  // A broken pipe is no news here: SIGPIPE is ignored while a search runs.
  [[maybe_unused]] const ssize_t written =
      ::write(input_, text.data(), text.size());
}

void Child::ask_to_stop() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
  }
  close_file(input_);
}

void Child::kill() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
  }
}

bool Child::exited(std::string& how) {
  int status = 0;
  if (pid_ > 0 && ::waitpid(pid_, &status, WNOHANG) != pid_) {
    return false;
  }
  pid_ = -1;
  how = WIFSIGNALED(status) ? fmt::format(
                                  "signal {} ({})",
                                  WTERMSIG(status),
                                  ::strsignal(WTERMSIG(status)))
                            : fmt::format("exit code {}", WEXITSTATUS(status));
  return true;
}

}  // namespace einforge::search
