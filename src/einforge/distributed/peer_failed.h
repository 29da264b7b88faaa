#pragma once

#include <stdexcept>

namespace einforge::distributed {

// Another process of the world failed or left. The message names it; it is
// empty where another process says so.
class PeerFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace einforge::distributed
