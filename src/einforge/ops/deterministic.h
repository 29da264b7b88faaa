#pragma once

namespace einforge::ops {

// Torch's deterministic algorithms while this lives, without filling memory
// that is not written yet; then what was set before. The setting is the whole
// process's: keep the scope to the operators that need it.
class Deterministic {
 public:
  Deterministic();
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;
  ~Deterministic();

 private:
  bool on_;
  bool warn_only_;
  bool fill_;
};

}  // namespace einforge::ops
