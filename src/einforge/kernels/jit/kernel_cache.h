#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace einforge::kernels::jit {

// Cubins by source, in memory and in a directory that processes share:
// DIRECTORY/KEY.cubin, KEY the hash of source, headers, architecture and
// compiler version. Files are written atomically. Thread-safe.
//
// A directory that cannot be written, or a missing compiler, is reported once
// on standard error; a compile that takes longer than 2 s too.
class KernelCache {
 public:
  explicit KernelCache(std::filesystem::path directory);

  // The cubin of each source, compiled in parallel where the cache lacks
  // it; nullopt where it cannot be compiled. In the order of the sources.
  std::vector<std::optional<std::string>> get(
      const std::vector<std::string>& sources, const std::string& architecture);

 private:
  void report(bool& reported, const std::string& message);

  std::filesystem::path directory_;
  std::mutex mutex_;
  std::map<std::string, std::optional<std::string>> known_;  // by key
  bool reported_compiler_ = false;
  bool reported_directory_ = false;
  bool reported_failure_ = false;
};

// The key of a source; also without a compiler.
std::string kernel_key(
    const std::string& source,
    const std::string& architecture,
    const std::string& compiler_version);

}  // namespace einforge::kernels::jit
