#pragma once

#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

// CUDA kernels compiled when they are first needed, by NVRTC. No CUDA header,
// no GPU and no toolkit is needed: NVRTC is loaded from the torch wheel.
namespace einforge::kernels::jit {

// A header that kernels include by this name.
struct Header {
  std::string_view name;
  std::string_view text;
};

// The library's own, and a shim for <cstdint>: nothing else is included.
std::span<const Header> device_headers();

class CompileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// NVRTC, loaded once. Thread-safe.
class Compiler {
 public:
  // Null where no NVRTC can be loaded. Looks at ${EINFORGE_NVRTC}, at what the
  // process has loaded, at the default search path, beside the libtorch that
  // is loaded, and at the toolkit the library was built with.
  static const Compiler* find();

  // "13.0".
  const std::string& version() const { return version_; }

  // The cubin of one translation unit.
  //
  // @param architecture such as "sm_90a"
  // @throw CompileError with the compiler's log
  std::string compile(
      const std::string& source, const std::string& architecture) const;

 private:
  explicit Compiler(void* library);
  friend struct CompilerLoader;

  struct Functions;
  const Functions* functions_ = nullptr;
  std::string version_;
};

}  // namespace einforge::kernels::jit
