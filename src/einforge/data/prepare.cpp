#include "einforge/data/prepare.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "einforge/base/console.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/progress.h"
#include "einforge/base/text.h"
#include "einforge/data/ascii_text.h"
#include "einforge/data/document_key.h"
#include "einforge/data/document_sink.h"
#include "einforge/data/document_splitter.h"
#include "einforge/data/library_tokenizer.h"
#include "einforge/data/staged_folder.h"
#include "einforge/data/text_source.h"
#include "einforge/data/tokenizer.h"
#include "einforge/data/utf8_repair.h"

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

// Deals documents out to the two sides.
class Dealer {
 public:
  Dealer(
      const PrepareOptions& options,
      const Tokenizer& alphabet,
      DocumentSink& sink,
      Side& train,
      Side& validation)
      : key_(alphabet, options.document_separator),
        sink_(sink),
        val_share_(options.val_share),
        seed_(options.seed),
        train_(train),
        validation_(validation) {}

  void add(std::string_view text) {
    if (side_ == nullptr) {
      key_.add(text);
      pending_ += text;
      if (key_.complete() || pending_.size() > kLongestPending) {
        choose_side();
      }
    } else {
      sink_.add(*side_, text);
    }
  }

  void end_document() {
    if (side_ == nullptr) {
      choose_side();
    }
    sink_.end_document(*side_);
    side_ = nullptr;
  }

 private:
  // Blanks that do not count for the key are no reason to hold more than that.
  static constexpr std::size_t kLongestPending = std::size_t{1} << 22;

  void choose_side() {
    side_ = key_.finish(seed_) < val_share_ ? &validation_ : &train_;
    ++side_->documents;
    sink_.add(*side_, pending_);
    pending_.clear();
  }

  DocumentKey key_;
  DocumentSink& sink_;
  double val_share_;
  std::uint64_t seed_;
  Side& train_;
  Side& validation_;
  std::string pending_;   // text of a document whose side is not known yet
  Side* side_ = nullptr;  // of this document, once known
};

// What becomes of bytes before they are cut into documents.
enum class Reading { kAscii, kUtf8, kBytes };

// The way from the bytes of files to the two sides.
class Reader {
 public:
  Reader(const PrepareOptions& options, Reading reading, Dealer& dealer)
      : reading_(reading),
        splitter_(
            options.document_separator,
            [&dealer](std::string_view text) { dealer.add(text); },
            [&dealer] { dealer.end_document(); }) {}

  void add(std::string_view bytes) {
    if (at_start_ && bytes.starts_with(kByteOrderMark)) {
      bytes.remove_prefix(kByteOrderMark.size());
    }
    at_start_ = false;
    text_.clear();
    if (reading_ == Reading::kBytes) {
      splitter_.add(bytes);
    } else if (reading_ == Reading::kAscii) {
      ascii_.add(bytes, text_);
      splitter_.add(text_);
    } else {
      utf8_.add(bytes, text_);
      splitter_.add(text_);
    }
  }

  void end_file() {
    text_.clear();
    ascii_.finish(text_);
    utf8_.finish(text_);
    splitter_.add(text_);
    splitter_.end_file();
    at_start_ = true;
  }

  const Replacements& replacements() const { return ascii_.replacements(); }
  std::int64_t invalid_bytes() const {
    return ascii_.replacements().invalid_bytes + utf8_.invalid_bytes();
  }

 private:
  static constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

  Reading reading_;
  bool at_start_ = true;
  AsciiText ascii_;
  Utf8Repair utf8_;
  std::string text_;
  DocumentSplitter splitter_;
};

ReplacedInfo summarise(const Reader& reader) {
  const Replacements& replacements = reader.replacements();
  constexpr std::size_t kListed = 8;
  ReplacedInfo info;
  info.invalid_bytes = reader.invalid_bytes();
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
  const bool by_library = TokenizerFile::is_named(options.tokens);
  // Of a library's text: that of its documents' keys.
  const Tokenizer alphabet(by_library ? "bytes" : options.tokens);
  base::check(
      options.val_share > 0 && options.val_share < 1,
      "val share: expected a number between 0 and 1; got {}",
      options.val_share);
  base::check(!options.out.empty(), "out: expected a folder; got ''");
  const std::vector<TextSource> sources = find_sources(options);

  Metadata metadata;
  std::optional<TokenizerFile> tokenizer_file;
  std::unique_ptr<LibraryTokenizer> library;
  if (by_library) {
    tokenizer_file.emplace(options.tokens);
    library = std::make_unique<LibraryTokenizer>(
        tokenizer_file->kind(), options.tokens, options.pattern);
    describe_tokenizer(
        *library,
        *tokenizer_file,
        options.pattern,
        options.vocab_size,
        options.end_of_text,
        metadata);
  } else {
    base::check(
        options.vocab_size == 0 && options.end_of_text < 0 &&
            options.pattern.empty(),
        "--vocab, --end-of-text, --pattern: expected the file of a tokenizer "
        "by --tokens; got {}",
        options.tokens);
    metadata.tokens = alphabet.name();
    metadata.vocab_size = alphabet.vocab_size();
    metadata.symbols = alphabet.symbols();
  }
  const std::int64_t width = metadata.vocab_size > 65'536 ? 4 : 2;
  metadata.dtype = fmt::format("uint{}", 8 * width);
  metadata.val_share = options.val_share;
  metadata.document_separator = options.document_separator;
  metadata.seed = options.seed;

  StagedFolder folder(options.out);
  Side train(folder.staged("train.bin"), width);
  Side validation(folder.staged("val.bin"), width);
  std::unique_ptr<DocumentSink> sink;
  if (library) {
    sink = std::make_unique<LibrarySink>(*library, metadata.end_of_text);
  } else {
    sink = std::make_unique<AlphabetSink>(alphabet);
  }
  Dealer dealer(options, alphabet, *sink, train, validation);
  Reader reader(
      options,
      by_library            ? Reading::kUtf8
      : alphabet.is_ascii() ? Reading::kAscii
                            : Reading::kBytes,
      dealer);
  const auto tokens = [&] {
    return train.writer.tokens() + validation.writer.tokens();
  };
  std::string not_utf8;  // the first such file
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
          reader.add(chunk);
          info.bytes += std::ssize(chunk);
          done += std::ssize(chunk);
          if (progress) {
            progress->update(
                done,
                fmt::format(
                    "{} tokens",
                    base::human_count(static_cast<double>(tokens()))));
          }
        });
        reader.end_file();
        if (not_utf8.empty() && reader.invalid_bytes() > 0) {
          not_utf8 = source.name == "-" ? "standard input"
                                        : fmt::format("'{}'", file.string());
        }
      }
      info.hash = hasher.hex();
      metadata.sources.push_back(std::move(info));
    }
    sink->finish();
    // Whatever the sizes of the files promised.
    if (const std::int64_t total = total_bytes(sources);
        progress && done < total) {
      progress->update(
          total,
          fmt::format(
              "{} tokens", base::human_count(static_cast<double>(tokens()))));
    }
  }
  if (!not_utf8.empty()) {
    base::warn(fmt::format(
        "{} bytes are not UTF-8 and became {}, the first in {}; if it is of "
        "another encoding, convert it: iconv -f LATIN1 -t UTF-8",
        reader.invalid_bytes(),
        by_library ? "U+FFFD" : "'?'",
        not_utf8));
  }
  base::check(
      tokens() > 0, "inputs: expected text; got nothing but blank lines");
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
  metadata.replaced = summarise(reader);
  publish(folder, metadata, tokenizer_file);
  return metadata;
}

}  // namespace einforge::data
