#include "einforge/kernels/jit/kernel_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/kernels/jit/compiler.h"

namespace einforge::kernels::jit {
namespace {

constexpr double kQuietSeconds = 2;

// A cubin is an ELF file; a file that is not, is not ours.
bool is_cubin(const std::string& bytes) {
  return bytes.size() > 64 && bytes.compare(
                                  0,
                                  4,
                                  "\x7f"
                                  "ELF") == 0;
}

std::optional<std::string> read_cubin(const std::filesystem::path& path) {
  try {
    std::string bytes = base::read_file(path);
    if (is_cubin(bytes)) {
      return bytes;
    }
  } catch (const std::exception&) {
    // Not there, or not readable: compiled again.
  }
  return std::nullopt;
}

// Runs work(0), work(1), ... on as many threads as there are cores.
template <typename Work>
void in_parallel(std::size_t count, const Work& work) {
  std::atomic<std::size_t> next{0};
  const auto loop = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      work(i);
    }
  };
  std::vector<std::jthread> threads;
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  for (std::size_t i = 1; i < std::min(count, cores); ++i) {
    threads.emplace_back(loop);
  }
  loop();
}

}  // namespace

std::string kernel_key(
    const std::string& source,
    const std::string& architecture,
    const std::string& compiler_version) {
  base::Hasher hasher;
  const auto add = [&](std::string_view text) {
    hasher.update(fmt::format("{}:", text.size()));
    hasher.update(text);
  };
  add(source);
  add(architecture);
  add(compiler_version);
  for (const Header& header : device_headers()) {
    add(header.name);
    add(header.text);
  }
  return hasher.hex();
}

KernelCache::KernelCache(std::filesystem::path directory)
    : directory_(std::move(directory)) {}

void KernelCache::report(bool& reported, const std::string& message) {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(reported, true)) {
    base::note("einforge: {}\n", message);
  }
}

std::vector<std::optional<std::string>> KernelCache::get(
    const std::vector<std::string>& sources, const std::string& architecture) {
  const Compiler* compiler = Compiler::find();
  if (compiler == nullptr) {
    report(
        reported_compiler_,
        "no libnvrtc.so.13 found, so kernels are not specialised; slower ones "
        "are used (EINFORGE_NVRTC names the library)");
    return std::vector<std::optional<std::string>>(sources.size());
  }
  std::vector<std::string> keys;
  std::vector<std::size_t> missing;  // of each key the first source
  {
    const std::lock_guard lock(mutex_);
    std::set<std::string> asked;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      keys.push_back(kernel_key(sources[i], architecture, compiler->version()));
      if (!known_.contains(keys[i]) && asked.insert(keys[i]).second) {
        missing.push_back(i);
      }
    }
  }
  const auto start = std::chrono::steady_clock::now();
  std::atomic<int> compiled{0};
  in_parallel(missing.size(), [&](std::size_t m) {
    const std::size_t i = missing[m];
    const auto path = directory_ / (keys[i] + ".cubin");
    std::optional<std::string> cubin = read_cubin(path);
    if (!cubin) {
      try {
        cubin = compiler->compile(sources[i], architecture);
        ++compiled;
      } catch (const CompileError& error) {
        report(
            reported_failure_,
            fmt::format("a kernel does not compile: {}", error.what()));
      }
      if (cubin) {
        try {
          base::make_directory(directory_);
          base::write_file_atomically(path, *cubin);
        } catch (const std::exception& error) {
          report(
              reported_directory_,
              fmt::format("compiled kernels are not kept: {}", error.what()));
        }
      }
    }
    const std::lock_guard lock(mutex_);
    known_[keys[i]] = std::move(cubin);
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  if (compiled > 0 && seconds > kQuietSeconds) {
    base::note(
        "einforge: compiled {} kernels for {} in {:.1f} s; kept in {}\n",
        compiled.load(),
        architecture,
        seconds,
        directory_.string());
  }
  std::vector<std::optional<std::string>> found;
  const std::lock_guard lock(mutex_);
  for (const std::string& key : keys) {
    found.push_back(known_.at(key));
  }
  return found;
}

}  // namespace einforge::kernels::jit
