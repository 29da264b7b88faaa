#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace einforge::data {

// One input of `data prepare` as named on the command line, with the files
// that it stands for.
struct TextSource {
  std::string name;  // "-": standard input
  std::vector<std::filesystem::path> files;
  // Size of all files; nothing when some are pipes.
  std::optional<std::int64_t> bytes = 0;
};

// Finds the files of a file, of a folder (recursively, in the order of their
// paths, without hidden ones, README files and `except`) or of "-".
// Throws base::InvalidInput when there is nothing to read.
TextSource find_source(
    const std::string& input, const std::filesystem::path& except);

// Calls `on_chunk` with the file's bytes, a chunk of a mebibyte at a time.
// `file` "-" is standard input. Throws base::InvalidInput for a packed file,
// for UTF-16 and at a NUL byte, which no text has, and base::IoError when it
// cannot be read.
void read_text(
    const std::filesystem::path& file,
    const std::function<void(std::string_view)>& on_chunk);

}  // namespace einforge::data
