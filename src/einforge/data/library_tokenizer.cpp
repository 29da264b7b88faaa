#include "einforge/data/library_tokenizer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "einforge/base/embed.h"
#include "einforge/base/error.h"
#include "einforge/base/files.h"
#include "einforge/base/hash.h"
#include "einforge/base/json.h"
#include "einforge/base/text.h"

// The helper is part of the program. EINFORGE_TOKENIZERS_PY is its file.
EINFORGE_EMBED(einforge_tokenizers_py, EINFORGE_TOKENIZERS_PY);

namespace einforge::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJson = "tokenizer.json";
constexpr const char* kTiktoken = "tiktoken";
constexpr const char* kSentencePiece = "sentencepiece";

// Base64, a space and a number.
bool is_rank_line(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const std::size_t space = line.find(' ');
  constexpr std::string_view kBase64 =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
  return space != std::string_view::npos && space > 0 &&
         line.substr(0, space).find_first_not_of(kBase64) ==
             std::string_view::npos &&
         line.size() > space + 1 &&
         line.substr(space + 1).find_first_not_of("0123456789\r") ==
             std::string_view::npos;
}

std::string find_python() {
  if (const char* chosen = std::getenv("EINFORGE_PYTHON");
      chosen != nullptr && *chosen != '\0') {
    return chosen;
  }
  std::error_code ignored;
  return fs::exists(EINFORGE_BUILD_PYTHON, ignored) ? EINFORGE_BUILD_PYTHON
                                                    : "python3";
}

}  // namespace

bool is_library_tokenizer(std::string_view kind) {
  return kind == kJson || kind == kTiktoken || kind == kSentencePiece;
}

bool TokenizerFile::is_named(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".json" || extension == ".tiktoken" ||
         extension == ".model";
}

TokenizerFile::TokenizerFile(const fs::path& path)
    : bytes_(base::read_file(path)) {
  const std::string extension = path.extension().string();
  base::check(
      is_named(path),
      "'{}': expected a tokenizer.json, FILE.tiktoken or FILE.model",
      path.string());
  base::check(
      !bytes_.empty(),
      "'{}': expected a tokenizer; got an empty file",
      path.string());
  kind_ = extension == ".json"                               ? kJson
          : extension == ".tiktoken" || is_rank_line(bytes_) ? kTiktoken
                                                             : kSentencePiece;
  info_.file = "tokenizer" + extension;
  info_.hash = base::hash_hex(bytes_);
}

LibraryTokenizer::LibraryTokenizer(
    const std::string& kind, const fs::path& file, const std::string& pattern)
    : file_(file.string()) {
  constexpr std::array kPatterns = {"", "gpt2", "cl100k", "o200k"};
  base::check(
      std::ranges::count(kPatterns, pattern) > 0,
      "--pattern: expected gpt2, cl100k or o200k; got '{}'",
      pattern);
  start(
      {find_python(),
       "-c",
       einforge_tokenizers_py,
       kind,
       fs::absolute(file).string(),
       pattern});
  try {
    expect('I');
    const base::Json about = base::parse_json(read_text(), "the tokenizer");
    vocab_size_ = about.at("vocab_size").get<std::int64_t>();
    end_of_text_ = about.at("end_of_text").get<std::int64_t>();
    base::check(
        vocab_size_ > 0 && vocab_size_ <= Metadata::kLargestVocabulary &&
            end_of_text_ < vocab_size_,
        "'{}': expected a vocabulary of 1 to {} tokens; got {}",
        file_,
        Metadata::kLargestVocabulary,
        vocab_size_);
  } catch (...) {
    stop();
    throw;
  }
}

LibraryTokenizer::~LibraryTokenizer() {
  stop();
}

void LibraryTokenizer::stop() noexcept {
  ::close(socket_);
  // It may have ended and been waited for: -1 would be every process there is.
  if (process_ > 0) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
}

void LibraryTokenizer::start(const std::vector<std::string>& command) {
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) !=
      0) {
    base::throw_io_error("cannot make a socket for the tokenizer", errno);
  }
  // All that allocates comes before fork.
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(127);
    }
    ::dup2(sockets[1], STDIN_FILENO);
    ::dup2(sockets[1], STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  const int error = errno;
  ::close(sockets[1]);
  ::close(null);
  socket_ = sockets[0];
  if (process_ < 0) {
    ::close(socket_);
    base::throw_io_error("cannot start Python", error);
  }
}

void LibraryTokenizer::interrupt() noexcept {
  ::shutdown(socket_, SHUT_RDWR);
}

void LibraryTokenizer::throw_ended() {
  interrupt();
  int status = 0;
  std::string how = "it closed its output";
  if (process_ > 0 && ::waitpid(process_, &status, 0) == process_) {
    process_ = -1;
    if (WIFSIGNALED(status)) {
      how = fmt::format(
          "signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) == 127) {
      how = fmt::format("cannot run '{}'", find_python());
    } else {
      how = fmt::format("exit code {}", WEXITSTATUS(status));
    }
  }
  throw base::InvalidInput(fmt::format(
      "'{}': the Python process of the tokenizer ended: {}", file_, how));
}

void LibraryTokenizer::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count =
        ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) {
      throw base::IoError(fmt::format(
          "'{}': the Python process of the tokenizer ended", file_));
    }
    bytes.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
}

void LibraryTokenizer::read(void* to, std::size_t size) {
  auto* next = static_cast<char*>(to);
  while (size > 0) {
    const ssize_t count = ::recv(socket_, next, size, 0);
    if (count == 0 || (count < 0 && errno != EINTR)) {
      throw_ended();
    }
    const auto got = static_cast<std::size_t>(std::max<ssize_t>(count, 0));
    next += got;
    size -= got;
  }
}

std::uint32_t LibraryTokenizer::read_number() {
  std::uint32_t number = 0;
  read(&number, sizeof(number));
  return number;
}

std::string LibraryTokenizer::read_text() {
  std::string text(read_number(), '\0');
  read(text.data(), text.size());
  return text;
}

void LibraryTokenizer::expect(char kind) {
  char got = 0;
  read(&got, 1);
  if (got == 'X') {
    throw base::InvalidInput(fmt::format("'{}': {}", file_, read_text()));
  }
  base::check(
      got == kind, "'{}': the tokenizer's Python said something else", file_);
}

void LibraryTokenizer::send(const std::vector<std::string>& texts) {
  std::vector<std::uint32_t> header = {
      static_cast<std::uint32_t>(texts.size())};
  for (const std::string& text : texts) {
    header.push_back(static_cast<std::uint32_t>(text.size()));
  }
  write("E");
  write({reinterpret_cast<const char*>(header.data()), header.size() * 4});
  for (const std::string& text : texts) {
    write(text);
  }
}

std::vector<std::vector<std::uint32_t>> LibraryTokenizer::receive() {
  expect('T');
  std::vector<std::uint32_t> sizes(read_number());
  read(sizes.data(), sizes.size() * 4);
  std::vector<std::vector<std::uint32_t>> all;
  for (const std::uint32_t size : sizes) {
    std::vector<std::uint32_t>& tokens = all.emplace_back(size);
    read(tokens.data(), tokens.size() * 4);
  }
  return all;
}

std::vector<std::int64_t> LibraryTokenizer::encode(std::string_view text) {
  base::check(
      base::is_utf8(text), "prompt: expected UTF-8 text; got other bytes");
  send({std::string(text)});
  const auto all = receive();
  return {all.front().begin(), all.front().end()};
}

std::string LibraryTokenizer::decode(std::span<const std::int64_t> tokens) {
  std::vector<std::uint32_t> frame = {
      static_cast<std::uint32_t>(tokens.size())};
  for (const std::int64_t token : tokens) {
    base::check(
        token >= 0 && token <= Metadata::kLargestVocabulary,
        "[decode] expected a token of the vocabulary; got {}",
        token);
    frame.push_back(static_cast<std::uint32_t>(token));
  }
  write("D");
  write({reinterpret_cast<const char*>(frame.data()), frame.size() * 4});
  expect('S');
  return read_text();
}

void describe_tokenizer(
    const LibraryTokenizer& tokenizer,
    const TokenizerFile& file,
    const std::string& pattern,
    std::int64_t vocab_size,
    std::int64_t end_of_text,
    Metadata& metadata) {
  base::check(
      vocab_size == 0 || (vocab_size >= tokenizer.vocab_size() &&
                          vocab_size <= Metadata::kLargestVocabulary),
      "--vocab: expected from {}, which the tokenizer has, to {}; got {}",
      tokenizer.vocab_size(),
      Metadata::kLargestVocabulary,
      vocab_size);
  metadata.tokens = file.kind();
  metadata.tokenizer = file.info();
  metadata.tokenizer.pattern = pattern;
  metadata.vocab_size = vocab_size == 0 ? tokenizer.vocab_size() : vocab_size;
  metadata.end_of_text =
      end_of_text >= 0 ? end_of_text : tokenizer.end_of_text();
  base::check(
      metadata.end_of_text < metadata.vocab_size,
      "--end-of-text: expected a token below {}; got {}",
      metadata.vocab_size,
      metadata.end_of_text);
}

}  // namespace einforge::data
