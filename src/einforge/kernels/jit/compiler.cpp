#include "einforge/kernels/jit/compiler.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

namespace einforge::kernels::jit {

// Of nvrtc.h, which the host may lack.
struct Compiler::Functions {
  using Program = struct Opaque*;
  int (*create)(
      Program*,
      const char* source,
      const char* name,
      int headers,
      const char* const* texts,
      const char* const* names) = nullptr;
  int (*destroy)(Program*) = nullptr;
  int (*compile)(Program, int count, const char* const* options) = nullptr;
  int (*log_size)(Program, std::size_t*) = nullptr;
  int (*log)(Program, char*) = nullptr;
  int (*cubin_size)(Program, std::size_t*) = nullptr;
  int (*cubin)(Program, char*) = nullptr;
  int (*version)(int*, int*) = nullptr;
  const char* (*describe)(int) = nullptr;
};

namespace {

constexpr const char* kLibrary = "libnvrtc.so.13";

// Where NVRTC of the torch wheel lies, seen from libraries that are loaded.
std::vector<std::string> beside_loaded_libraries() {
  std::vector<std::string> paths;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        const std::string name = info->dlpi_name;
        auto& found = *static_cast<std::vector<std::string>*>(data);
        const std::size_t torch = name.rfind("/torch/lib/");
        if (torch != std::string::npos) {
          found.push_back(
              name.substr(0, torch) + "/nvidia/cu13/lib/" + kLibrary);
        }
        const std::size_t cudart = name.rfind("/libcudart.so");
        if (cudart != std::string::npos) {
          found.push_back(name.substr(0, cudart + 1) + kLibrary);
        }
        return 0;
      },
      &paths);
  return paths;
}

void* open_library() {
  std::vector<std::string> paths;
  if (const char* given = std::getenv("EINFORGE_NVRTC")) {
    // "" switches compiling off.
    return *given == '\0' ? nullptr : dlopen(given, RTLD_NOW | RTLD_LOCAL);
  }
  paths.emplace_back(kLibrary);
  for (std::string& path : beside_loaded_libraries()) {
    paths.push_back(std::move(path));
  }
#ifdef EINFORGE_NVRTC_DIRECTORY
  paths.push_back(std::string(EINFORGE_NVRTC_DIRECTORY "/") + kLibrary);
#endif
  paths.push_back(std::string("/usr/local/cuda/lib64/") + kLibrary);
  for (const std::string& path : paths) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      return library;
    }
  }
  return nullptr;
}

template <typename Function>
bool resolve(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

Compiler::Compiler(void* library) {
  auto found = std::make_unique<Functions>();
  Functions& f = *found;
  int major = 0;
  int minor = 0;
  if (resolve(library, "nvrtcCreateProgram", f.create) &&
      resolve(library, "nvrtcDestroyProgram", f.destroy) &&
      resolve(library, "nvrtcCompileProgram", f.compile) &&
      resolve(library, "nvrtcGetProgramLogSize", f.log_size) &&
      resolve(library, "nvrtcGetProgramLog", f.log) &&
      resolve(library, "nvrtcGetCUBINSize", f.cubin_size) &&
      resolve(library, "nvrtcGetCUBIN", f.cubin) &&
      resolve(library, "nvrtcVersion", f.version) &&
      resolve(library, "nvrtcGetErrorString", f.describe) &&
      f.version(&major, &minor) == 0) {
    version_ = fmt::format("{}.{}", major, minor);
    functions_ = found.release();  // as long as the process
  }
}

const Compiler* Compiler::find() {
  static const Compiler* const found = []() -> const Compiler* {
    void* library = open_library();
    if (library == nullptr) {
      return nullptr;
    }
    static const Compiler compiler(library);
    return compiler.functions_ == nullptr ? nullptr : &compiler;
  }();
  return found;
}

std::string Compiler::compile(
    const std::string& source, const std::string& architecture) const {
  const Functions& f = *functions_;
  std::vector<const char*> texts;
  std::vector<const char*> names;
  for (const Header& header : device_headers()) {
    texts.push_back(header.text.data());
    names.push_back(header.name.data());
  }
  const auto check = [&](int status, const char* what) {
    if (status != 0) {
      throw CompileError(fmt::format("{}: {}", what, f.describe(status)));
    }
  };
  Functions::Program program = nullptr;
  check(
      f.create(
          &program,
          source.c_str(),
          "kernel.cu",
          static_cast<int>(names.size()),
          texts.data(),
          names.data()),
      "nvrtcCreateProgram");
  const std::unique_ptr<Functions::Program, int (*)(Functions::Program*)> owner(
      &program, f.destroy);
  const std::string target = "--gpu-architecture=" + architecture;
  const std::array options{
      target.c_str(), "--std=c++20", "--device-as-default-execution-space"};
  const int status =
      f.compile(program, static_cast<int>(options.size()), options.data());
  if (status != 0) {
    std::size_t size = 0;
    f.log_size(program, &size);
    std::string log(size, '\0');
    f.log(program, log.data());
    throw CompileError(
        fmt::format("nvrtcCompileProgram: {}\n{}", f.describe(status), log));
  }
  std::size_t size = 0;
  check(f.cubin_size(program, &size), "nvrtcGetCUBINSize");
  std::string cubin(size, '\0');
  check(f.cubin(program, cubin.data()), "nvrtcGetCUBIN");
  return cubin;
}

}  // namespace einforge::kernels::jit
