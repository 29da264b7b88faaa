#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace einforge::base {

// The 128-bit XXH3 hash of the bytes as 32 hexadecimal digits.
std::string hash_hex(std::string_view bytes);

// The 64-bit XXH3 hash of the bytes under `seed`: the same on every platform.
std::uint64_t hash64(std::string_view bytes, std::uint64_t seed);

// hash_hex of bytes that come in pieces.
class Hasher {
 public:
  Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  ~Hasher();

  void update(std::string_view bytes);
  // Of all bytes so far; more may follow.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace einforge::base
