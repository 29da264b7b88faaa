#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <iostream>

namespace einforge::store::testing {

// Runs `body` in a child process; its exit code is what `body` returns, or 99
// after an exception.
inline pid_t spawn(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::cerr << "child: " << error.what() << '\n';
    }
    ::_exit(code);
  }
  return child;
}

inline int exit_code(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace einforge::store::testing
