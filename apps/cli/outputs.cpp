#include "cli/outputs.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <string_view>
#include <system_error>

#include "einforge/base/error.h"

namespace einforge::cli {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// A pipe or a device: nothing is lost there, nor is it there twice.
bool is_special(const fs::path& path) {
  std::error_code ignored;
  return fs::is_other(fs::status(path, ignored));
}

// The path without links and dots, as far as it is there.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(fs::absolute(path, error), error);
  return error ? path : result;
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return fs::equivalent(a, b, ignored) || resolved(a) == resolved(b);
}

bool is_below(const fs::path& path, const fs::path& folder) {
  const fs::path whole = resolved(path);
  const fs::path root = resolved(folder);
  return std::mismatch(root.begin(), root.end(), whole.begin(), whole.end())
             .first == root.end();
}

bool is_kept(const fs::path& path, const fs::path& kept) {
  return is_folder(kept) ? is_there(path) && is_below(path, kept)
                         : same_file(path, kept);
}

// What is lost with the file, and by what in its folder that is known; "" if
// nothing is.
std::string_view treasure(const fs::path& given) {
  const fs::path path = resolved(given);
  if (!is_there(path)) {
    return "";
  }
  for (const std::string_view journal : {"", "-wal", "-shm", "-journal"}) {
    const std::string name = path.string();
    if (name.ends_with(journal) &&
        is_database(name.substr(0, name.size() - journal.size()))) {
      return "a search's store";
    }
  }
  struct Kind {
    std::string_view what;
    const char* mark;  // is in the folder too
    std::array<std::string_view, 6> files;
  };
  constexpr std::array kKinds = {
      Kind{
          "a file of a checkpoint",
          "state.json",
          {"state.json",
           "model.safetensors",
           "optimizer.safetensors",
           "tokenizer.json",
           "tokenizer.tiktoken",
           "tokenizer.model"}},
      Kind{
          "a file of a training run",
          "checkpoints",
          {"config.json", "log.jsonl"}},
      Kind{"a file of a search", "trials.db", {"search.json", "workers.log"}},
      Kind{
          "a file of a data folder",
          "meta.json",
          {"train.bin",
           "val.bin",
           "meta.json",
           "tokenizer.json",
           "tokenizer.tiktoken",
           "tokenizer.model"}}};
  const std::string name = path.filename().string();
  for (const Kind& kind : kKinds) {
    if (std::ranges::find(kind.files, name) != kind.files.end() &&
        is_there(path.parent_path() / kind.mark)) {
      return kind.what;
    }
  }
  return "";
}

void check_folder_of(const fs::path& path) {
  const fs::path folder = resolved(path).parent_path();
  std::error_code ignored;
  int error = 0;
  if (!is_folder(folder)) {
    // As the system has it: below a file, or nowhere.
    error = ::access((folder / ".").c_str(), F_OK) == 0 ? ENOTDIR : errno;
  } else if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    error = errno;
  }
  if (error != 0) {
    base::throw_io_error(
        fmt::format("cannot write '{}'", path.string()), error);
  }
}

void check_output(
    const Output& output,
    const std::vector<fs::path>& kept,
    const std::string& made) {
  const fs::path path(output.path);
  for (const fs::path& other : kept) {
    base::check(
        !is_kept(path, other),
        "{}: expected another file than those that the command reads or makes; "
        "got '{}'",
        output.option,
        output.path);
  }
  base::check(
      !is_folder(path),
      "{}: expected a file; got the folder '{}'",
      output.option,
      output.path);
  const std::string_view lost = treasure(path);
  base::check(
      lost.empty(),
      "{}: expected a file to write; '{}' is {}",
      output.option,
      output.path,
      lost);
  if (made.empty() || resolved(path).parent_path() != resolved(made)) {
    check_folder_of(path);
  }
}

}  // namespace

bool is_database(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) {
    return false;
  }
  std::ifstream file(path, std::ios::binary);
  std::string head(15, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head == "SQLite format 3";
}

std::vector<fs::path> files_in(
    const std::string& folder, const std::vector<std::string>& names) {
  std::vector<fs::path> files;
  for (const std::string& name : names) {
    files.push_back(fs::path(folder) / name);
  }
  return files;
}

void check_outputs(
    const std::vector<Output>& outputs,
    const std::vector<fs::path>& kept,
    const std::string& folder) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Output& output = outputs[i];
    if (output.path.empty() || is_special(output.path)) {
      continue;
    }
    for (std::size_t j = 0; j < i; ++j) {
      base::check(
          output.path == "-"
              ? outputs[j].path != "-"
              : outputs[j].path.empty() || outputs[j].path == "-" ||
                    !same_file(output.path, outputs[j].path),
          "{} and {}: expected two files; got '{}' twice",
          outputs[j].option,
          output.option,
          output.path);
    }
    if (output.path != "-") {
      check_output(output, kept, folder);
    }
  }
}

}  // namespace einforge::cli
