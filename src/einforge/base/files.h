#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace einforge::base {

// The whole file. Throws InvalidInput when it does not exist or is not a
// regular file, IoError when it cannot be read.
std::string read_file(const std::filesystem::path& path);

// Replaces `path` in one step: written beside it, synced, renamed, and the
// directory synced. A crash or a full disk leaves the old file as it was.
// A pipe or a device (/dev/stdout) is written to.
// Throws IoError.
void write_file_atomically(
    const std::filesystem::path& path, std::string_view bytes);

// Makes the directory and its parents; throws IoError when it cannot.
void make_directory(const std::filesystem::path& path);

// A read-only memory map of a whole file; empty files map to an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws InvalidInput when the file is missing, IoError when it cannot be
  // mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace einforge::base
