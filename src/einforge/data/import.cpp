#include "einforge/data/import.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/data/foreign_tokens.h"
#include "einforge/data/library_tokenizer.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/token_files.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

// Tokens that are read at once.
constexpr std::int64_t kChunk = std::int64_t{1} << 18;

// Runs `body`; what it says of a file gets the file's name.
template <typename Body>
auto naming(const fs::path& path, Body&& body) {
  try {
    return body();
  } catch (const base::InvalidInput& error) {
    throw base::InvalidInput(
        fmt::format("'{}': {}", path.string(), error.what()));
  }
}

// Megatron's two files are one.
fs::path with_extension(fs::path path, const char* extension) {
  return path.replace_extension(extension);
}

// Of a file, whatever names and links it has.
using FileId = std::pair<dev_t, ino_t>;

FileId file_id(const fs::path& path) {
  struct stat about {};
  if (::stat(path.c_str(), &about) != 0) {
    base::throw_io_error(fmt::format("cannot read '{}'", path.string()), errno);
  }
  return {about.st_dev, about.st_ino};
}

struct ForeignFile {
  fs::path path;
  FileId id;
  base::MappedFile bytes;
  base::MappedFile index_bytes;
  std::optional<MegatronIndex> index;
  TokenLayout layout;
};

// Whose pairs of bytes would be tokens of a large enough vocabulary.
bool looks_like_text(std::span<const std::byte> bytes) {
  constexpr std::size_t kEnough = 64;
  constexpr std::size_t kLooked = 4096;
  return bytes.size() >= kEnough &&
         std::ranges::all_of(
             bytes.first(std::min(kLooked, bytes.size())), [](std::byte byte) {
               const auto symbol = std::to_integer<unsigned char>(byte);
               return (symbol >= ' ' && symbol < 0x7f) ||
                      (symbol >= '\t' && symbol <= '\r');
             });
}

std::unique_ptr<ForeignFile> open_file(
    const fs::path& named, const ImportOptions& options) {
  auto file = std::make_unique<ForeignFile>();
  const bool is_index = named.extension() == ".idx";
  const fs::path path = is_index ? with_extension(named, ".bin") : named;
  file->path = fs::absolute(path).lexically_normal();
  base::check(
      base::is_utf8(file->path.string()),
      "'{}': expected a path in UTF-8",
      file->path.string());
  file->bytes = base::MappedFile(path);
  file->id = file_id(path);
  const auto bytes = file->bytes.bytes();
  base::check(
      !bytes.empty(),
      "'{}': expected tokens; got an empty file",
      path.string());
  const fs::path index = with_extension(path, ".idx");
  std::error_code ignored;
  if (path.extension() == ".npy") {
    file->layout = naming(path, [&] { return read_npy(bytes); });
  } else if (path.extension() == ".bin" && fs::exists(index, ignored)) {
    file->index_bytes = base::MappedFile(index);
    naming(index, [&] {
      file->index.emplace(
          file->index_bytes.bytes(), static_cast<std::int64_t>(bytes.size()));
    });
    file->layout = file->index->layout();
  } else if (has_shard_header(bytes)) {
    file->layout = naming(path, [&] { return read_shard(bytes); });
  } else {
    base::check(
        !is_index,
        "'{}': expected Megatron's .bin beside it; got another file",
        named.string());
    base::check(
        options.vocab_size > 0 || !options.tokenizer.empty(),
        "'{}': expected a shard's header, .npy or Megatron's .idx beside it; "
        "got none of them: for tokens without a header (nanoGPT's) give "
        "--vocab N",
        path.string());
    const std::int64_t width = !options.dtype.empty()
                                   ? token_bytes(options.dtype)
                               : options.vocab_size > 65'536 ? 4
                                                             : 2;
    base::check(
        !looks_like_text(bytes),
        "'{}': expected tokens; got text: `einforge data prepare` makes tokens "
        "of it",
        path.string());
    file->layout = naming(path, [&] { return read_headerless(bytes, width); });
    return file;
  }
  base::check(
      options.dtype.empty(),
      "'{}': expected no --dtype, as the file says its own ({} bytes per "
      "token)",
      path.string(),
      file->layout.width);
  return file;
}

using ForeignFiles = std::vector<std::unique_ptr<ForeignFile>>;

ForeignFiles open_files(
    const std::vector<std::string>& patterns, const ImportOptions& options) {
  ForeignFiles files;
  for (const fs::path& path : find_token_files(patterns)) {
    auto file = open_file(path, options);
    base::check(
        std::ranges::none_of(
            files, [&](const auto& other) { return other->id == file->id; }),
        "'{}': expected each file once; got it twice",
        path.string());
    if (file->layout.tokens > 0) {
      files.push_back(std::move(file));
    }
  }
  base::check(!files.empty(), "FILES: expected tokens; got only empty files");
  return files;
}

// Files as one stream of tokens, and where its documents end.
class Stream {
 public:
  Stream(const ForeignFiles& files, std::int64_t vocab_size, std::int64_t end)
      : files_(files),
        tokens_(pieces_of(files), files.front()->layout.width, vocab_size),
        end_(end) {
    if (end_ >= 0) {
      std::int64_t first = 0;
      tokens_.read(0, std::span(&first, 1));
      starts_ = first == end_;
    }
  }

  const TokenStream& tokens() const { return tokens_; }

  // Whether it is known where documents end.
  bool has_boundaries() const {
    return end_ >= 0 || std::ranges::all_of(files_, [](const auto& file) {
             return file->index.has_value();
           });
  }

  // The first boundary of documents at or after `place`.
  std::int64_t boundary(std::int64_t place) const {
    if (place <= 0 || place >= tokens_.size()) {
      return std::clamp<std::int64_t>(place, 0, tokens_.size());
    }
    const std::size_t piece = piece_of(place);
    if (files_[piece]->index) {
      const std::int64_t begin = tokens_.pieces()[piece].begin;
      return begin + files_[piece]->index->boundary(place - begin);
    }
    // After an end-of-text token one place before, or at one.
    std::vector<std::int64_t> chunk;
    for (std::int64_t from = starts_ ? place : place - 1; from < tokens_.size();
         from += kChunk) {
      chunk.resize(
          static_cast<std::size_t>(std::min(kChunk, tokens_.size() - from)));
      tokens_.read(from, chunk);
      const auto found = std::ranges::find(chunk, end_);
      if (found != chunk.end()) {
        return from + (found - chunk.begin()) + (starts_ ? 0 : 1);
      }
    }
    return tokens_.size();
  }

  // Part of the stream as meta.json has it. `on_tokens` is called with how many
  // were read.
  template <typename OnTokens>
  void add(
      std::int64_t begin,
      std::int64_t end,
      base::Hasher& all,
      SplitInfo& side,
      OnTokens&& on_tokens) const {
    const std::int64_t width = tokens_.width();
    std::vector<std::int64_t> chunk;
    while (begin < end) {
      const std::size_t piece = piece_of(begin);
      const TokenStream::Piece& lies = tokens_.pieces()[piece];
      const ForeignFile& file = *files_[piece];
      const std::int64_t last = std::min(end, lies.begin + file.layout.tokens);
      base::Hasher hasher;
      FileInfo info{
          file.path.string(),
          static_cast<std::int64_t>(file.bytes.bytes().size()),
          lies.offset + (begin - lies.begin) * width,
          last - begin,
          ""};
      if (file.index) {
        side.documents +=
            file.index->documents(begin - lies.begin, last - lies.begin);
      }
      for (; begin < last; begin += std::ssize(chunk)) {
        chunk.resize(static_cast<std::size_t>(std::min(kChunk, last - begin)));
        tokens_.read(begin, chunk);
        if (!file.index) {
          side.documents += std::ranges::count(chunk, end_);
        }
        const std::string_view bytes(
            reinterpret_cast<const char*>(lies.bytes.data()) +
                (begin - lies.begin) * width,
            chunk.size() * static_cast<std::size_t>(width));
        hasher.update(bytes);
        all.update(bytes);
        on_tokens(std::ssize(chunk));
      }
      info.hash = hasher.hex();
      side.tokens += info.tokens;
      side.files.push_back(std::move(info));
    }
  }

 private:
  static std::vector<TokenStream::Piece> pieces_of(const ForeignFiles& files) {
    std::vector<TokenStream::Piece> pieces;
    for (const auto& file : files) {
      pieces.push_back(
          {file->path,
           file->layout.offset,
           0,
           file->bytes.bytes().subspan(
               static_cast<std::size_t>(file->layout.offset)),
           ""});
    }
    return pieces;
  }

  std::size_t piece_of(std::int64_t place) const {
    const auto& pieces = tokens_.pieces();
    return static_cast<std::size_t>(
        std::ranges::upper_bound(
            pieces, place, {}, &TokenStream::Piece::begin) -
        pieces.begin() - 1);
  }

  const ForeignFiles& files_;
  TokenStream tokens_;
  std::int64_t end_;
  bool starts_ = false;  // documents begin with the end-of-text token
};

// Where the two sides change: train up to the first, validation up to the
// second, and so on.
std::vector<std::int64_t> split(
    const Stream& stream, double val_share, int parts) {
  const auto size = static_cast<double>(stream.tokens().size());
  std::vector<std::int64_t> changes;
  for (int part = 1; part <= parts; ++part) {
    for (const double share : {val_share, 0.0}) {
      const auto place =
          static_cast<std::int64_t>(size * (part - share) / parts);
      // Within one long document there is nothing to look for again.
      const std::int64_t last = changes.empty() ? 0 : changes.back();
      changes.push_back(last >= place ? last : stream.boundary(place));
    }
  }
  changes.back() = stream.tokens().size();
  return changes;
}

// In parts, of which each is on both sides, since a stream may be in some
// order; in fewer where no part has a document to hold out.
std::vector<std::int64_t> split(const Stream& stream, double val_share) {
  constexpr int kParts = 16;
  std::vector<std::int64_t> changes;
  for (int parts = kParts; parts >= 1; parts /= 2) {
    changes = split(stream, val_share, parts);
    for (std::size_t i = 1; i < changes.size(); i += 2) {
      if (changes[i] > changes[i - 1]) {
        return changes;
      }
    }
  }
  return changes;
}

void check_alike(const ForeignFiles& files, const TokenLayout& first) {
  for (const auto& file : files) {
    base::check(
        file->layout.width == first.width,
        "'{}': expected tokens of {} bytes as in the first file; got {}",
        file->path.string(),
        first.width,
        file->layout.width);
  }
}

// Too large a vocabulary for signed numbers of so many bits would take negative
// ones for tokens.
void check_signs(const ForeignFiles& files, std::int64_t vocab_size) {
  for (const auto& file : files) {
    const std::int64_t most = std::int64_t{1} << (8 * file->layout.width - 1);
    base::check(
        !file->layout.is_signed || file->layout.width > 2 || vocab_size <= most,
        "'{}': expected unsigned tokens for a vocabulary of {}; got signed "
        "ones of {} bytes",
        file->path.string(),
        vocab_size,
        file->layout.width);
  }
}

// A validation loss of tokens that were trained on says nothing.
void check_copies(const Metadata& metadata) {
  std::unordered_map<std::string, std::string> train;
  for (const FileInfo& file : metadata.train.files) {
    train.emplace(file.hash, file.path);
  }
  for (const FileInfo& file : metadata.validation.files) {
    const auto copy = train.find(file.hash);
    base::check(
        copy == train.end(),
        "'{}': expected other tokens for the validation side; '{}' has the "
        "same",
        file.path,
        copy == train.end() ? "" : copy->second);
  }
}

}  // namespace

std::vector<fs::path> find_token_files(
    const std::vector<std::string>& patterns) {
  std::vector<fs::path> paths;
  for (const std::string& pattern : patterns) {
    const std::size_t before = paths.size();
    std::error_code ignored;
    glob_t found{};
    base::check(
        !fs::is_directory(pattern, ignored),
        "'{}': expected a token file or a pattern of some, such as '{}'; got a "
        "folder",
        pattern,
        (fs::path(pattern) / "*.bin").string());
    if (fs::exists(pattern, ignored)) {
      paths.emplace_back(pattern);
    } else if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) {
      paths.insert(
          paths.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
    }
    ::globfree(&found);
    base::check(
        paths.size() > before,
        "'{}': expected a token file or a pattern of some; got nothing there",
        pattern);
  }
  return paths;
}

Metadata import_tokens(const ImportOptions& options) {
  base::check(!options.files.empty(), "FILES: expected token files; got none");
  base::check(!options.out.empty(), "--out: expected a folder; got ''");
  base::check(
      options.val_share > 0 && options.val_share < 1,
      "--val-share: expected a number between 0 and 1; got {}",
      options.val_share);
  base::check(
      options.dtype.empty() || options.dtype == "uint16" ||
          options.dtype == "uint32",
      "--dtype: expected uint16 or uint32; got '{}'",
      options.dtype);
  Metadata metadata;
  metadata.tokens = Metadata::kIds;
  ImportOptions known = options;
  std::optional<TokenizerFile> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer.emplace(options.tokenizer);
    describe_tokenizer(
        LibraryTokenizer(tokenizer->kind(), options.tokenizer, options.pattern),
        *tokenizer,
        options.pattern,
        options.vocab_size,
        options.end_of_text,
        metadata);
    known.vocab_size = metadata.vocab_size;
    known.end_of_text = metadata.end_of_text;
  }
  const ForeignFiles train = open_files(options.files, known);
  const ForeignFiles validation = options.validation.empty()
                                      ? ForeignFiles()
                                      : open_files(options.validation, known);
  for (const auto& file : validation) {
    base::check(
        std::ranges::none_of(
            train, [&](const auto& other) { return other->id == file->id; }),
        "'{}': expected it on one side; got it by FILES and by --val",
        file->path.string());
  }
  const TokenLayout& layout = train.front()->layout;
  check_alike(train, layout);
  check_alike(validation, layout);
  metadata.vocab_size =
      known.vocab_size > 0 ? known.vocab_size : layout.vocab_size;
  base::check(
      metadata.vocab_size > 0,
      "'{}': expected the number of tokens of its vocabulary; {} files do not "
      "say it: give --vocab N",
      train.front()->path.string(),
      layout.format);
  base::check(
      metadata.vocab_size <= Metadata::kLargestVocabulary,
      "--vocab: expected at most {}; got {}",
      Metadata::kLargestVocabulary,
      metadata.vocab_size);
  check_signs(train, metadata.vocab_size);
  check_signs(validation, metadata.vocab_size);
  metadata.end_of_text =
      known.end_of_text >= 0 ? known.end_of_text : layout.end_of_text;
  base::check(
      metadata.end_of_text < metadata.vocab_size,
      "{}: expected a token below {}; got {}",
      known.end_of_text >= 0 ? "--end-of-text"
                             : "--vocab: the shard's end of text",
      metadata.vocab_size,
      metadata.end_of_text);
  metadata.dtype = fmt::format("uint{}", 8 * layout.width);
  metadata.document_separator = "end-of-text";

  StagedFolder folder(options.out, StagedFolder::Kind::kImported);
  const Stream stream(train, metadata.vocab_size, metadata.end_of_text);
  std::optional<Stream> held_out;
  if (!validation.empty()) {
    held_out.emplace(validation, metadata.vocab_size, metadata.end_of_text);
  }
  std::optional<base::Progress> progress;
  if (options.progress) {
    progress.emplace(
        "import",
        stream.tokens().size() + (held_out ? held_out->tokens().size() : 0));
  }
  std::int64_t done = 0;
  const auto on_tokens = [&](std::int64_t count) {
    done += count;
    if (progress) {
      progress->update(done, "tokens checked");
    }
  };
  base::Hasher train_hash;
  base::Hasher validation_hash;
  if (held_out) {
    stream.add(
        0, stream.tokens().size(), train_hash, metadata.train, on_tokens);
    held_out->add(
        0,
        held_out->tokens().size(),
        validation_hash,
        metadata.validation,
        on_tokens);
    check_copies(metadata);
  } else {
    metadata.val_share = options.val_share;
    base::check(
        stream.has_boundaries(),
        "'{}': expected to know where documents end, to hold out a share of "
        "them; give --end-of-text TOKEN, or files by --val",
        train.front()->path.string());
    std::int64_t begin = 0;
    bool is_train = true;
    for (const std::int64_t end : split(stream, options.val_share)) {
      stream.add(
          begin,
          end,
          is_train ? train_hash : validation_hash,
          is_train ? metadata.train : metadata.validation,
          on_tokens);
      begin = std::max(begin, end);
      is_train = !is_train;
    }
    base::check(
        metadata.train.tokens > 0 && metadata.validation.tokens > 0,
        "--val-share {}: expected documents on both sides; got {} tokens for "
        "training and {} for validation (documents end by token {}): give "
        "another share, --end-of-text or --val",
        options.val_share,
        metadata.train.tokens,
        metadata.validation.tokens,
        metadata.end_of_text);
  }
  metadata.train.hash = train_hash.hex();
  metadata.validation.hash = validation_hash.hex();
  publish(folder, metadata, tokenizer);
  return metadata;
}

}  // namespace einforge::data
