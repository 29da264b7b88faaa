#pragma once

// Conversions between our types and torch's stable ABI, and calls through its
// dispatcher.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/DeviceType.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace einforge::stable {

// Not of LibTorch's own names, by which exceptions are caught across libraries.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One of torch's operators failed. The stable ABI does not say why, for want of
// memory or otherwise; torch writes that to standard error.
class OperatorError : public Error {
 public:
  using Error::Error;
};

}  // namespace einforge::stable

namespace c10 {

using DeviceType = torch::headeronly::DeviceType;
using DeviceIndex = std::int8_t;

using Error = einforge::stable::Error;
using OutOfMemoryError = einforge::stable::OperatorError;

class IntArrayRef : public HeaderOnlyArrayRef<std::int64_t> {
 public:
  using HeaderOnlyArrayRef<std::int64_t>::HeaderOnlyArrayRef;
  IntArrayRef() = default;

  friend bool operator==(IntArrayRef a, IntArrayRef b) { return a.equals(b); }
};

inline std::ostream& operator<<(std::ostream& out, IntArrayRef values) {
  out << '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    out << (i == 0 ? "" : ", ") << values[i];
  }
  return out << ']';
}

struct Device {
  Device(DeviceType type, std::int64_t index = -1)  // NOLINT: as LibTorch's
      : type_(type), index_(static_cast<DeviceIndex>(index)) {}

  DeviceType type() const { return type_; }
  DeviceIndex index() const { return index_; }
  bool is_cpu() const { return type_ == DeviceType::CPU; }
  bool is_cuda() const { return type_ == DeviceType::CUDA; }
  bool operator==(const Device&) const = default;

 private:
  DeviceType type_;
  DeviceIndex index_;
};

inline const char* DeviceTypeName(DeviceType type, bool /*lower_case*/ = true) {
  switch (type) {
    case DeviceType::CPU:
      return "cpu";
    case DeviceType::CUDA:
      return "cuda";
    default:
      return "device";
  }
}

inline std::ostream& operator<<(std::ostream& out, const Device& device) {
  out << DeviceTypeName(device.type());
  return device.index() < 0 ? out : out << ':' << int{device.index()};
}

}  // namespace c10

namespace torch {

// A tensor of torch's, by a counted handle; none is an undefined tensor. The
// operators are in tensor.h.
class Tensor;

}  // namespace torch

namespace einforge::stable {

using Handle = std::shared_ptr<AtenTensorOpaque>;

inline Handle owning(AtenTensorHandle handle) {
  return {handle, [](AtenTensorHandle dead) {
            aoti_torch_delete_tensor_object(dead);
          }};
}

// An owning handle for torch, of an undefined tensor where there is none.
inline AtenTensorHandle copy_of(const Handle& handle) {
  AtenTensorHandle copy = nullptr;
  TORCH_ERROR_CODE_CHECK(
      handle == nullptr ? aoti_torch_new_uninitialized_tensor(&copy)
                        : aoti_torch_new_tensor_handle(handle.get(), &copy));
  return copy;
}

// What torch hands over; an undefined tensor becomes none.
inline Handle adopted(AtenTensorHandle handle) {
  Handle owner = owning(handle);
  bool defined = false;
  TORCH_ERROR_CODE_CHECK(aoti_torch_is_defined(handle, &defined));
  return defined ? owner : nullptr;
}

}  // namespace einforge::stable

// Read by the library's own boxing (TORCH_BOX), as for its own types.
namespace torch::stable::detail {

template <typename T>
struct FromList {
  template <typename Values>
  static StableIValue call(const Values& values) {
    StableListHandle list = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_new_list_reserve_size(values.size(), &list));
    for (const auto& value : values) {
      TORCH_ERROR_CODE_CHECK(torch_list_push_back(
          list, FromImpl<T>::call(value, TORCH_ABI_VERSION, false)));
    }
    return torch::stable::detail::from(list);
  }
};

template <std::size_t N>
struct FromImpl<std::array<bool, N>> {
  static StableIValue call(
      const std::array<bool, N>& values, std::uint64_t, bool) {
    return FromList<bool>::call(values);
  }
};

template <std::size_t N>
struct ToImpl<std::array<bool, N>> {
  static std::array<bool, N> call(StableIValue value, std::uint64_t, bool) {
    const auto found = to<std::vector<bool>>(value);
    std::array<bool, N> result{};
    std::copy_n(found.begin(), std::min(N, found.size()), result.begin());
    return result;
  }
};

template <>
struct FromImpl<c10::IntArrayRef> {
  static StableIValue call(c10::IntArrayRef values, std::uint64_t, bool) {
    return FromList<std::int64_t>::call(values);
  }
};

template <>
struct UnboxType<c10::IntArrayRef> {
  using type = std::vector<std::int64_t>;
};

template <>
struct FromImpl<c10::Device> {
  static StableIValue call(const c10::Device& device, std::uint64_t, bool) {
    return torch::stable::detail::from(
        torch::stable::Device(device.type(), device.index()));
  }
};

}  // namespace torch::stable::detail

namespace einforge::stable {

template <typename Return>
struct Returned {
  static constexpr std::size_t kCount = 1;
  static Return of(const StableIValue* stack) {
    return torch::stable::detail::to<Return>(stack[0]);
  }
};

template <typename... Returns>
struct Returned<std::tuple<Returns...>> {
  static constexpr std::size_t kCount = sizeof...(Returns);
  static std::tuple<Returns...> of(const StableIValue* stack) {
    return of(stack, std::index_sequence_for<Returns...>());
  }

 private:
  template <std::size_t... I>
  static std::tuple<Returns...> of(
      const StableIValue* stack, std::index_sequence<I...>) {
    return {torch::stable::detail::to<Returns>(stack[I])...};
  }
};

// Calls an operator by name with all arguments of its schema, those that have
// a default too.
template <typename Return, typename... Args>
Return call(const char* name, const char* overload, const Args&... args) {
  constexpr std::size_t kSize =
      std::max(sizeof...(Args), Returned<Return>::kCount);
  std::array<StableIValue, kSize> stack{
      torch::stable::detail::FromImpl<Args>::call(
          args, TORCH_ABI_VERSION, /*is_internal=*/false)...};
  if (torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION) !=
      TORCH_SUCCESS) {
    throw OperatorError(
        std::string(name) + " failed; torch said why on standard error");
  }
  return Returned<Return>::of(stack.data());
}

}  // namespace einforge::stable

namespace einforge::stable {

// "2.11.0", of the torch that is loaded.
inline std::string torch_version() {
  const std::uint64_t version = aoti_torch_abi_version();
  const auto part = [&](int shift) {
    return std::to_string((version >> shift) & 0xff);
  };
  return part(56) + "." + part(48) + "." + part(40);
}

}  // namespace einforge::stable
