#include "einforge/data/foreign_tokens.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <string_view>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::data {
namespace {

using Bytes = std::span<const std::byte>;

std::int64_t size_of(Bytes bytes) {
  return static_cast<std::int64_t>(bytes.size());
}

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The number at `at`; the caller knows that it is there.
template <typename T>
T load(Bytes bytes, std::int64_t at) {
  T value{};
  std::memcpy(
      &value, bytes.data() + static_cast<std::size_t>(at), sizeof(value));
  return value;
}

// Cuts `bytes` of `count` items off the front.
Bytes take(Bytes& bytes, std::int64_t count, std::int64_t width) {
  const std::int64_t there = size_of(bytes) / width;
  base::check(
      count >= 0 && count <= there,
      "expected {} items of {} bytes; got {}: truncated",
      count,
      width,
      there);
  const auto length = static_cast<std::size_t>(count * width);
  const Bytes taken = bytes.first(length);
  bytes = bytes.subspan(length);
  return taken;
}

constexpr std::int64_t kShardHeader = 1024;  // bytes

struct ShardKind {
  std::uint32_t magic;
  std::int32_t version;
  std::int64_t width;
  std::int64_t vocab_size;
  std::int64_t end_of_text;
};
// From llm.c's dev/data/data_common.py; some write version 1 in both.
constexpr auto kShardKinds = std::to_array<ShardKind>({
    {20240520, 1, 2, 50257, 50256},
    {20240801, 7, 4, 128256, 128000},
});

const ShardKind* shard_kind(Bytes bytes) {
  if (bytes.size() >= sizeof(std::uint32_t)) {
    for (const ShardKind& kind : kShardKinds) {
      if (load<std::uint32_t>(bytes, 0) == kind.magic) {
        return &kind;
      }
    }
  }
  return nullptr;
}

std::uint32_t swapped(std::uint32_t value) {
  return value << 24U | (value & 0xff00U) << 8U | (value >> 8U & 0xff00U) |
         value >> 24U;
}

// The text of a .npy header: a Python literal such as
// {'descr': '<u2', 'fortran_order': False, 'shape': (3, 4), }
class NpyHeader {
 public:
  explicit NpyHeader(std::string_view text) : text_(text) {}

  void parse() {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr" && !seen_[0]) {
        descr = value_of_descr();
        seen_[0] = true;
      } else if (key == "fortran_order" && !seen_[1]) {
        fortran = boolean();
        seen_[1] = true;
      } else if (key == "shape" && !seen_[2]) {
        read_shape();
        seen_[2] = true;
      } else {
        fail();
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_blanks();
    if (!text_.empty() || !seen_[0] || !seen_[1] || !seen_[2]) {
      fail();
    }
  }

  std::string_view descr;
  bool fortran = false;
  std::int64_t items = 1;
  std::int64_t axes = 0;

 private:
  [[noreturn]] static void fail() {
    throw base::InvalidInput(
        "expected the header of an array of integers (descr, fortran_order, "
        "shape); got something else");
  }
  void skip_blanks() {
    text_.remove_prefix(std::min(text_.find_first_not_of(" \n"), text_.size()));
  }
  bool accept(char symbol) {
    skip_blanks();
    const bool found = text_.starts_with(symbol);
    text_.remove_prefix(found ? 1 : 0);
    return found;
  }
  void expect(char symbol) {
    if (!accept(symbol)) {
      fail();
    }
  }
  std::string_view quoted() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'') {
      expect(quote);
    }
    const std::size_t end = text_.find(quote);
    if (end == std::string_view::npos) {
      fail();
    }
    const std::string_view word = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return word;
  }
  std::string_view value_of_descr() {
    skip_blanks();
    base::check(
        !text_.starts_with('['),
        "expected an array of integers; got one of structures");
    return quoted();
  }
  bool boolean() {
    skip_blanks();
    for (const std::string_view word : {"True", "False"}) {
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return word == "True";
      }
    }
    fail();
  }
  void read_shape() {
    expect('(');
    while (!accept(')')) {
      skip_blanks();
      std::int64_t length = 0;
      const auto [end, error] =
          std::from_chars(text_.data(), text_.data() + text_.size(), length);
      if (error != std::errc() || length < 0 ||
          __builtin_mul_overflow(items, length, &items)) {
        fail();
      }
      text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
      ++axes;
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
  }

  std::string_view text_;
  std::array<bool, 3> seen_{};
};

// Of the tokens of a layout, which the rest of the file must be.
void check_size(const TokenLayout& layout, Bytes bytes) {
  const std::int64_t there = size_of(bytes) - layout.offset;
  base::check(
      layout.tokens >= 0 && layout.tokens <= there / layout.width &&
          layout.tokens * layout.width == there,
      "expected {} tokens of {} bytes, as the header says; got {} bytes: {}",
      layout.tokens,
      layout.width,
      there,
      layout.tokens > there / layout.width ? "truncated"
                                           : "another kind of file");
}

}  // namespace

bool has_shard_header(Bytes bytes) {
  if (shard_kind(bytes) != nullptr) {
    return true;
  }
  if (size_of(bytes) < kShardHeader || load<std::uint32_t>(bytes, 0) == 0) {
    return false;
  }
  // All but the first three numbers are 0.
  return std::ranges::all_of(
      bytes.subspan(12, kShardHeader - 12),
      [](std::byte byte) { return byte == std::byte{0}; });
}

TokenLayout read_shard(Bytes bytes) {
  const ShardKind* kind = shard_kind(bytes);
  const std::uint32_t magic =
      bytes.size() < sizeof(magic) ? 0 : load<std::uint32_t>(bytes, 0);
  if (kind == nullptr) {
    const bool big = std::ranges::any_of(kShardKinds, [&](const auto& known) {
      return known.magic == swapped(magic);
    });
    throw base::InvalidInput(fmt::format(
        "expected a shard of magic number {}; got {}{}",
        "20240520 or 20240801",
        magic,
        big ? ", which is big-endian" : ""));
  }
  base::check(
      size_of(bytes) >= kShardHeader,
      "expected a header of {} bytes; got {}: truncated",
      kShardHeader,
      bytes.size());
  const auto version = load<std::int32_t>(bytes, 4);
  base::check(
      version == kind->version || version == 1,
      "expected version {} of magic number {}; got {}",
      kind->version,
      magic,
      version);
  const TokenLayout layout{
      .format = "shard",
      .offset = kShardHeader,
      .tokens = load<std::uint32_t>(bytes, 8),
      .width = kind->width,
      .vocab_size = kind->vocab_size,
      .end_of_text = kind->end_of_text};
  check_size(layout, bytes);
  return layout;
}

TokenLayout read_headerless(Bytes bytes, std::int64_t width) {
  base::check(
      size_of(bytes) % width == 0,
      "expected tokens of {} bytes; got {} bytes in all: truncated, or of "
      "another --dtype",
      width,
      bytes.size());
  return {
      .format = "headerless", .tokens = size_of(bytes) / width, .width = width};
}

TokenLayout read_npy(Bytes bytes) {
  constexpr std::string_view kMagic("\x93NUMPY", 6);
  base::check(
      text_of(bytes).starts_with(kMagic),
      "expected the file of a NumPy array; its first bytes are not \\x93NUMPY");
  Bytes rest = bytes.subspan(kMagic.size());
  const Bytes version = take(rest, 2, 1);
  const int major = std::to_integer<int>(version[0]);
  base::check(
      major >= 1 && major <= 3, "expected .npy version 1 to 3; got {}", major);
  const std::int64_t length = major == 1
                                  ? load<std::uint16_t>(take(rest, 1, 2), 0)
                                  : load<std::uint32_t>(take(rest, 1, 4), 0);
  NpyHeader header(text_of(take(rest, length, 1)));
  header.parse();
  const std::string_view descr = header.descr;
  base::check(
      descr.find('O') == std::string_view::npos,
      "expected an array of integers; got one of pickled objects, which are "
      "never read");
  const std::string_view digit =
      descr.substr(std::min<std::size_t>(2, descr.size()));
  const bool known =
      descr.size() == 3 && (descr[1] == 'u' || descr[1] == 'i') &&
      (digit == "1" || digit == "2" || digit == "4" || digit == "8") &&
      (descr[0] == '<' || (descr[0] == '|' && digit == "1"));
  base::check(
      known,
      "expected an array of integers, little-endian; got dtype '{}'",
      base::shortened(base::printable(descr), 40));
  base::check(
      !header.fortran || header.axes < 2,
      "expected an array in C order; got Fortran order");
  const TokenLayout layout{
      .format = "npy",
      .offset = size_of(bytes) - size_of(rest),
      .tokens = header.items,
      .width = digit[0] - '0',
      .is_signed = descr[1] == 'i'};
  check_size(layout, bytes);
  return layout;
}

MegatronIndex::MegatronIndex(Bytes index, std::int64_t data_bytes) {
  constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
  // By the code in the index; the others are floating-point.
  constexpr auto kWidths =
      std::to_array<std::int64_t>({0, 1, 1, 2, 4, 8, 0, 0, 2});
  constexpr std::int64_t kUint8 = 1;
  constexpr std::int64_t kUint16 = 8;
  base::check(
      text_of(index).starts_with(kMagic),
      "expected a Megatron index; its first bytes are not MMIDIDX");
  Bytes rest = index.subspan(kMagic.size());
  const auto version = load<std::uint64_t>(take(rest, 1, 8), 0);
  base::check(version == 1, "expected version 1; got {}", version);
  const auto code = std::to_integer<std::int64_t>(take(rest, 1, 1)[0]);
  const std::int64_t width =
      code < std::ssize(kWidths) ? kWidths[static_cast<std::size_t>(code)] : 0;
  base::check(
      width > 0, "expected tokens of an integer type; got dtype code {}", code);
  sequence_count_ = load<std::int64_t>(take(rest, 1, 8), 0);
  const auto bounds = load<std::int64_t>(take(rest, 1, 8), 0);
  base::check(bounds > 0, "expected where documents begin; got {}", bounds);
  document_count_ = bounds - 1;
  const Bytes lengths = take(rest, sequence_count_, 4);
  pointers_ = take(rest, sequence_count_, 8);
  documents_ = take(rest, bounds, 8);
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < sequence_count_; ++i) {
    const std::int64_t length = load<std::int32_t>(lengths, 4 * i);
    const auto pointer = load<std::int64_t>(pointers_, 8 * i);
    base::check(
        length >= 0 && pointer == bytes &&
            length <= (data_bytes - bytes) / width,
        "expected sequences one after another in the {} bytes of the .bin; "
        "sequence {} has {} tokens at byte {}: truncated, or not its .bin",
        data_bytes,
        i,
        length,
        pointer);
    bytes += length * width;
  }
  base::check(
      bytes == data_bytes,
      "expected the {} bytes of the .bin; the sequences have {}: not its .bin",
      data_bytes,
      bytes);
  std::int64_t last = 0;
  for (std::int64_t i = 0; i <= document_count_; ++i) {
    const auto first = load<std::int64_t>(documents_, 8 * i);
    base::check(
        first >= last && first <= sequence_count_ && (i > 0 || first == 0) &&
            (i < document_count_ || first == sequence_count_),
        "expected documents one after another, of all {} sequences; document "
        "{} begins with sequence {}",
        sequence_count_,
        i,
        first);
    last = first;
  }
  layout_ = {
      .format = "Megatron",
      .tokens = bytes / width,
      .width = width,
      .is_signed = code != kUint8 && code != kUint16};
}

std::int64_t MegatronIndex::document_start(std::int64_t document) const {
  const auto sequence = load<std::int64_t>(documents_, 8 * document);
  return sequence == sequence_count_
             ? layout_.tokens
             : load<std::int64_t>(pointers_, 8 * sequence) / layout_.width;
}

std::int64_t MegatronIndex::first_document_from(std::int64_t place) const {
  std::int64_t first = 0;
  std::int64_t last = document_count_;  // begins at the end
  while (first < last) {
    const std::int64_t middle = first + (last - first) / 2;
    if (document_start(middle) < place) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  return first;
}

std::int64_t MegatronIndex::boundary(std::int64_t place) const {
  return document_start(first_document_from(place));
}

std::int64_t MegatronIndex::documents(
    std::int64_t begin, std::int64_t end) const {
  return first_document_from(end) - first_document_from(begin);
}

}  // namespace einforge::data
