#include "einforge/data/prepare.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/data/text_source.h"
#include "einforge/data/token_writer.h"
#include "einforge/data/tokenizer.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

// A document's side is known after so many tokens, however long it is.
constexpr std::size_t kHashedTokens = 32'768;

// How many newlines in a row end a document.
int newlines_between_documents(const std::string& separator) {
  const std::array<std::string, 3> known = {"blank-line", "line", "file"};
  const auto found = std::ranges::find(known, separator);
  base::check(
      found != known.end(),
      "document separator: expected blank-line, line or file; got '{}'{}",
      separator,
      base::suggestion(separator, known));
  return separator == "blank-line" ? 2
         : separator == "line"     ? 1
                                   : std::numeric_limits<int>::max();
}

// One of the two sides.
struct Side {
  explicit Side(const fs::path& path) : writer(path) {}

  SplitInfo info() const { return {writer.tokens(), documents, writer.hash()}; }

  TokenWriter writer;
  std::int64_t documents = 0;
};

// Cuts a stream of text into documents and deals them out to the two sides.
class Splitter {
 public:
  Splitter(
      const PrepareOptions& options,
      const Tokenizer& tokenizer,
      Side& train,
      Side& validation)
      : encoder_(tokenizer),
        newline_(static_cast<std::uint16_t>(tokenizer.encode("\n").front())),
        newlines_needed_(
            newlines_between_documents(options.document_separator)),
        val_share_(options.val_share),
        seed_(options.seed),
        train_(train),
        validation_(validation) {}

  void add(std::string_view text) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') {
        ++newlines_;
      } else if (text[i] != '\r') {
        if (newlines_ >= newlines_needed_) {
          append(text.substr(begin, i - begin));
          end_document();
          begin = i;
        }
        newlines_ = 0;
      }
    }
    append(text.substr(begin));
  }

  // Ends the file's last document, in a newline like all others.
  void end_file() {
    encoder_.finish(pending_);
    if (!pending_.empty()) {
      last_ = pending_.back();
    }
    if (last_ && *last_ != newline_) {
      pending_.push_back(newline_);
    }
    end_document();
    newlines_ = 0;
  }

  std::int64_t tokens() const {
    return train_.writer.tokens() + validation_.writer.tokens();
  }
  const Replacements& replacements() const { return encoder_.replacements(); }

 private:
  void append(std::string_view text) {
    encoder_.encode(text, pending_);
    if (pending_.size() >= kHashedTokens) {
      write_pending();
    }
  }

  void write_pending() {
    if (pending_.empty()) {
      return;
    }
    if (side_ == nullptr) {
      const std::size_t hashed = std::min(pending_.size(), kHashedTokens);
      const std::uint64_t hash = base::hash64(
          {reinterpret_cast<const char*>(pending_.data()), hashed * 2}, seed_);
      const double place = static_cast<double>(hash >> 11) * 0x1p-53;
      side_ = place < val_share_ ? &validation_ : &train_;
      ++side_->documents;
    }
    side_->writer.write(pending_);
    last_ = pending_.back();
    pending_.clear();
  }

  void end_document() {
    write_pending();
    side_ = nullptr;
    last_.reset();
  }

  Encoder encoder_;
  std::uint16_t newline_;
  int newlines_needed_;
  double val_share_;
  std::uint64_t seed_;
  Side& train_;
  Side& validation_;
  std::vector<std::uint16_t> pending_;
  std::optional<std::uint16_t> last_;  // token of this document
  Side* side_ = nullptr;               // of this document, once known
  int newlines_ = 0;                   // since the last other character
};

ReplacedInfo summarise(const Replacements& replacements) {
  constexpr std::size_t kListed = 8;
  ReplacedInfo info;
  info.invalid_bytes = replacements.invalid_bytes;
  std::vector<std::pair<std::int64_t, char32_t>> counts;
  const auto add = [&](const auto& map, std::int64_t& total) {
    for (const auto& [code_point, count] : map) {
      total += count;
      counts.emplace_back(count, code_point);
    }
  };
  add(replacements.dropped, info.dropped);
  add(replacements.transliterated, info.transliterated);
  add(replacements.unknown, info.unknown);
  std::ranges::sort(counts, std::greater{});
  counts.resize(std::min(counts.size(), kListed));
  for (const auto& [count, code_point] : counts) {
    info.most_frequent.push_back(fmt::format(
        "U+{:04X} {}", static_cast<std::uint32_t>(code_point), count));
  }
  return info;
}

// Makes the folder, and takes it away again when it stays empty.
class OutputFolder {
 public:
  explicit OutputFolder(const fs::path& path)
      : path_(path), made_(!fs::exists(path)) {
    base::make_directory(path);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder() {
    if (made_) {
      std::error_code ignored;
      fs::remove(path_, ignored);  // only ever an empty folder
    }
  }

 private:
  fs::path path_;
  bool made_;
};

// nanoGPT's files have the same names; they are not ours to replace.
void check_replaceable(const fs::path& out) {
  const fs::path meta = out / "meta.json";
  bool ours = false;
  if (fs::is_regular_file(meta)) {
    const base::Json json = base::Json::parse(
        base::read_file(meta), nullptr, /*allow_exceptions=*/false);
    ours = json.is_object() && json.contains("format") &&
           json["format"] == Metadata::kFormat;
  }
  for (const char* name : {"meta.json", "train.bin", "val.bin"}) {
    base::check(
        ours || !fs::exists(out / name),
        "'{}': expected a new folder or one that `data prepare` made; got one "
        "with a {} of another origin",
        out.string(),
        name);
  }
}

std::vector<TextSource> find_sources(const PrepareOptions& options) {
  base::check(
      !options.inputs.empty(), "inputs: expected a file or folder; got none");
  base::check(
      std::ranges::count(options.inputs, "-") <= 1,
      "inputs: expected '-' once; got it twice");
  std::vector<TextSource> sources;
  for (const std::string& input : options.inputs) {
    sources.push_back(find_source(input, options.out));
  }
  return sources;
}

std::int64_t total_bytes(const std::vector<TextSource>& sources) {
  std::int64_t total = 0;
  for (const TextSource& source : sources) {
    if (!source.bytes) {
      return -1;  // Progress: unknown
    }
    total += *source.bytes;
  }
  return total;
}

}  // namespace

Metadata prepare(const PrepareOptions& options) {
  const Tokenizer tokenizer(options.tokens);
  newlines_between_documents(options.document_separator);
  base::check(
      options.val_share > 0 && options.val_share < 1,
      "val share: expected a number between 0 and 1; got {}",
      options.val_share);
  base::check(!options.out.empty(), "out: expected a folder; got ''");
  const std::vector<TextSource> sources = find_sources(options);
  check_replaceable(options.out);

  Metadata metadata;
  metadata.tokens = tokenizer.name();
  metadata.vocab_size = tokenizer.vocab_size();
  metadata.symbols = tokenizer.symbols();
  metadata.val_share = options.val_share;
  metadata.document_separator = options.document_separator;
  metadata.seed = options.seed;

  const OutputFolder folder(options.out);
  Side train(options.out / "train.bin");
  Side validation(options.out / "val.bin");
  Splitter splitter(options, tokenizer, train, validation);
  {
    std::optional<base::Progress> progress;
    if (options.progress) {
      progress.emplace("prepare", total_bytes(sources));
    }
    std::int64_t done = 0;
    for (const TextSource& source : sources) {
      SourceInfo info{source.name, std::ssize(source.files), 0, ""};
      base::Hasher hasher;
      for (const fs::path& file : source.files) {
        read_text(file, [&](std::string_view chunk) {
          hasher.update(chunk);
          splitter.add(chunk);
          info.bytes += std::ssize(chunk);
          done += std::ssize(chunk);
          if (progress) {
            progress->update(
                done,
                fmt::format(
                    "{} tokens",
                    base::human_count(static_cast<double>(splitter.tokens()))));
          }
        });
        splitter.end_file();
      }
      info.hash = hasher.hex();
      metadata.sources.push_back(std::move(info));
    }
  }
  base::check(
      splitter.tokens() > 0, "inputs: expected text; got nothing but empty");
  base::check(
      train.documents > 0 && validation.documents > 0,
      "val share {}: expected documents on both sides; got {} for training and "
      "{} for validation: try another document separator (line, blank-line, "
      "file), share or seed",
      options.val_share,
      train.documents,
      validation.documents);
  train.writer.sync();
  validation.writer.sync();
  metadata.train = train.info();
  metadata.validation = validation.info();
  metadata.replaced = summarise(splitter.replacements());
  const fs::path meta = options.out / "meta.json";
  const fs::path new_meta = options.out / "meta.json.tmp";
  base::write_file_atomically(new_meta, base::to_json(metadata).dump(2) + "\n");
  // All is on the disk. Between here and the end the folder has no meta.json,
  // so that a crash leaves one that says it is incomplete, not a wrong one.
  fs::remove(meta);
  train.writer.publish();
  validation.writer.publish();
  fs::rename(new_meta, meta);
  return metadata;
}

}  // namespace einforge::data
