#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/data/codec.h"
#include "einforge/data/metadata.h"

namespace einforge::data {

// Whether the kind is one of the three that a library of Python runs:
// tokenizer.json (tokenizers), tiktoken and sentencepiece.
bool is_library_tokenizer(std::string_view kind);

// The file of such a tokenizer.
class TokenizerFile {
 public:
  // Whether a name is that of one: *.json, *.tiktoken, *.model.
  static bool is_named(const std::filesystem::path& path);

  // Reads it. The kind is that of the name; but Llama 3 calls a tiktoken file
  // .model. Throws base::InvalidInput when there is none.
  explicit TokenizerFile(const std::filesystem::path& path);

  const std::string& kind() const { return kind_; }
  // Name in a data folder and hash.
  const TokenizerInfo& info() const { return info_; }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string kind_;
  TokenizerInfo info_;
  std::string bytes_;
};

// A tokenizer in its own library, in a Python process that lives as long as
// this and dies with it: $EINFORGE_PYTHON, that of the build, or python3.
class LibraryTokenizer : public Codec {
 public:
  // Throws base::InvalidInput with one line when there is no Python or no
  // library, or when the library cannot read the file.
  LibraryTokenizer(
      const std::string& kind,
      const std::filesystem::path& file,
      const std::string& pattern);
  LibraryTokenizer(const LibraryTokenizer&) = delete;
  LibraryTokenizer& operator=(const LibraryTokenizer&) = delete;
  ~LibraryTokenizer() override;

  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t end_of_text() const { return end_of_text_; }  // -1: none

  // Texts, valid UTF-8, on their way; their tokens come in the order in which
  // they were sent. Another thread has to receive meanwhile.
  void send(const std::vector<std::string>& texts);
  std::vector<std::vector<std::uint32_t>> receive();
  // Both fail from now on.
  void interrupt() noexcept;

  std::vector<std::int64_t> encode(std::string_view text) override;
  std::string decode(std::span<const std::int64_t> tokens) override;
  bool is_by_token() const override { return false; }

 private:
  void start(const std::vector<std::string>& command);
  void stop() noexcept;
  void write(std::string_view bytes);
  void read(void* to, std::size_t size);
  std::uint32_t read_number();
  std::string read_text();
  // The next frame, which must be of that kind.
  void expect(char kind);
  [[noreturn]] void throw_ended();

  std::string file_;
  pid_t process_ = -1;
  int socket_ = -1;
  std::int64_t vocab_size_ = 0;
  std::int64_t end_of_text_ = -1;
};

// Notes a tokenizer in `metadata`, with a vocabulary of at least `vocab_size`
// (0: its own) and the end-of-text token (-1: its own). Throws
// base::InvalidInput when the vocabulary is smaller than the tokenizer's.
void describe_tokenizer(
    const LibraryTokenizer& tokenizer,
    const TokenizerFile& file,
    const std::string& pattern,
    std::int64_t vocab_size,
    std::int64_t end_of_text,
    Metadata& metadata);

}  // namespace einforge::data
