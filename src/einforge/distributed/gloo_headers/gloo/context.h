#pragma once

#include <chrono>

// Declarations only, see distributed/README.md.
namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
