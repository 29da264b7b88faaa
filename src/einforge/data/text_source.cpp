#include "einforge/data/text_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "einforge/base/error.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

std::optional<std::int64_t> size_of(const fs::path& file) {
  struct stat status {};
  const bool known = file == "-" ? ::fstat(STDIN_FILENO, &status) == 0
                                 : ::stat(file.c_str(), &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    return std::nullopt;
  }
  return status.st_size;
}

// Hidden, or about the texts rather than one of them.
bool is_left_out(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with('.') || name.starts_with("README");
}

std::vector<fs::path> files_below(const fs::path& folder, const fs::path& out) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator i(folder, error), end;
       !error && i != end;
       i.increment(error)) {
    std::error_code ignored;  // `out` need not be there
    if (is_left_out(i->path()) || fs::equivalent(i->path(), out, ignored)) {
      i.disable_recursion_pending();
    } else {
      std::error_code unknown;
      const fs::file_type type = i->status(unknown).type();
      // A link that leads back to itself is left out as one to nothing is.
      if (type == fs::file_type::none &&
          unknown != std::errc::too_many_symbolic_link_levels) {
        base::throw_io_error(
            fmt::format("cannot read '{}'", i->path().string()),
            unknown.value());
      }
      if (type == fs::file_type::regular) {
        files.push_back(i->path());
      }
    }
  }
  if (error) {
    base::throw_io_error(
        fmt::format("cannot read '{}'", folder.string()), error.value());
  }
  std::ranges::sort(files);
  return files;
}

// Files that are no UTF-8 text, by what they start with, and what makes one of
// them.
struct Format {
  std::string_view magic;
  std::string_view name;
  std::string_view converter;
};
constexpr auto kFormats = std::to_array<Format>({
    {"\x1f\x8b", "a file packed by gzip", "gzip -dc"},
    {"\xfd"
     "7zXZ",
     "a file packed by xz",
     "xz -dc"},
    {"\x28\xb5\x2f\xfd", "a file packed by zstd", "zstd -dc"},
    {"BZh", "a file packed by bzip2", "bzip2 -dc"},
    // Before UTF-16, whose mark is the start of this one.
    {{"\xff\xfe\0\0", 4}, "UTF-32", "iconv -f UTF-32 -t UTF-8"},
    {{"\0\0\xfe\xff", 4}, "UTF-32", "iconv -f UTF-32 -t UTF-8"},
    {"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"},
    {"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"},
});

void check_format(
    std::string_view start, const std::string& name, const fs::path& file) {
  for (const Format& format : kFormats) {
    base::check(
        !start.starts_with(format.magic),
        "{}: expected UTF-8 text; got {}: pipe `{} {}` into `data prepare -`",
        name,
        format.name,
        format.converter,
        file.string());
  }
}

class Input {
 public:
  explicit Input(const fs::path& file)
      : is_stdin_(file == "-"),
        descriptor_(
            is_stdin_ ? STDIN_FILENO
                      : ::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {}
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;
  ~Input() {
    if (!is_stdin_ && descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }
  int get() const { return descriptor_; }

 private:
  bool is_stdin_;
  int descriptor_;
};

// Fills the buffer unless the file ends before.
std::size_t read_fully(
    int descriptor, std::vector<char>& buffer, const std::string& what) {
  std::size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t got =
        ::read(descriptor, buffer.data() + size, buffer.size() - size);
    if (got == 0) {
      break;
    }
    if (got < 0 && errno != EINTR) {
      base::throw_io_error(what, errno);
    }
    size += got < 0 ? 0 : static_cast<std::size_t>(got);
  }
  return size;
}

}  // namespace

TextSource find_source(const std::string& input, const fs::path& except) {
  TextSource source;
  source.name = input;
  const fs::path path(input);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (input == "-") {
    source.files = {path};
  } else {
    base::check(
        fs::exists(status),
        "'{}': expected a text file or a folder of text files; got nothing "
        "there",
        input);
    source.files = fs::is_directory(status) ? files_below(path, except)
                                            : std::vector<fs::path>{path};
    base::check(
        !source.files.empty(),
        "'{}': expected a folder of text files; got no file in it",
        input);
  }
  for (const fs::path& file : source.files) {
    const std::optional<std::int64_t> size = size_of(file);
    source.bytes = source.bytes && size ? std::optional(*source.bytes + *size)
                                        : std::nullopt;
  }
  base::check(
      source.bytes != 0,
      "'{}': expected text; got {}",
      input,
      source.files.size() == 1 ? "an empty file" : "only empty files");
  return source;
}

void read_text(
    const fs::path& file,
    const std::function<void(std::string_view)>& on_chunk) {
  const std::string name =
      file == "-" ? "standard input" : fmt::format("'{}'", file.string());
  const std::string what = fmt::format("cannot read {}", name);
  const Input input(file);
  if (input.get() < 0) {
    base::throw_io_error(what, errno);
  }
  std::vector<char> buffer(kChunkBytes);
  std::int64_t offset = 0;
  for (std::size_t got = buffer.size(); got == buffer.size();) {
    got = read_fully(input.get(), buffer, what);
    std::string_view chunk(buffer.data(), got);
    if (offset == 0) {
      check_format(chunk, name, file);
    }
    const std::size_t nul = chunk.find('\0');
    base::check(
        nul == std::string_view::npos,
        "{}: expected text; got a binary file (a NUL byte at {})",
        name,
        offset + static_cast<std::int64_t>(nul));
    offset += static_cast<std::int64_t>(got);
    if (!chunk.empty()) {
      on_chunk(chunk);
    }
  }
}

}  // namespace einforge::data
