#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace einforge::cli {

// A file that a command is asked to write; "-" is standard output, "" none.
struct Output {
  std::string option;
  std::string path;
};

// Refuses, before any work, what would lose a file or could not be written.
// `kept`: what the command reads, and the files of a folder that it makes,
// whether or not they are there; of a folder in it all files. `folder`: one
// that the command makes; files may go there before it is there.
//
// Throws base::InvalidInput for an output that is one of `kept`, the same file
// as another output, a folder, a store, or a file of a checkpoint, a run or a
// data folder; base::IoError where its folder is missing or cannot be written.
void check_outputs(
    const std::vector<Output>& outputs,
    const std::vector<std::filesystem::path>& kept = {},
    const std::string& folder = "");

// Files of these names in the folder, for `kept`.
std::vector<std::filesystem::path> files_in(
    const std::string& folder, const std::vector<std::string>& names);

// Whether the file begins as SQLite's do. A stream, which can be read only
// once, is none.
bool is_database(const std::filesystem::path& path);

}  // namespace einforge::cli
