#pragma once

#include "einforge/stable/tensor.h"

// Registration and calls of operators, errors and guards, as torch/library.h
// and what it includes have them.

#define TORCH_CHECK(condition, ...)                                     \
  if (C10_UNLIKELY(!(condition))) {                                     \
    throw einforge::stable::Error(einforge::stable::text(__VA_ARGS__)); \
  }
#define TORCH_CHECK_VALUE(condition, ...)                             \
  if (C10_UNLIKELY(!(condition))) {                                   \
    throw std::invalid_argument(einforge::stable::text(__VA_ARGS__)); \
  }
#define TORCH_SYM_CHECK(condition, ...) TORCH_CHECK(condition, __VA_ARGS__)

namespace einforge::stable {

template <typename... Args>
std::string text(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace einforge::stable

namespace at {

enum class Tag { pt2_compliant_tag };

}  // namespace at

namespace torch {

// A function that is known where it is compiled.
template <auto* kFunction>
struct KnownFunction {};

#define TORCH_FN(function) ::torch::KnownFunction<&function>()

class Library {
 public:
  using Kind = stable::detail::StableLibrary::Kind;

  Library(
      Kind kind,
      const char* space,
      const char* key,
      const char* file,
      std::uint32_t line)
      : library_(kind, space, key, file, line),
        // Shapes are Python's.
        is_skipped_(key != nullptr && std::string_view(key) == "Meta") {}

  void def(const char* schema, std::initializer_list<at::Tag> = {}) {
    library_.def(schema);
  }
  template <auto* kFunction>
  void def(const char* schema, KnownFunction<kFunction> function) {
    library_.def(schema);
    const std::string_view whole = schema;
    impl(std::string(whole.substr(0, whole.find('('))).c_str(), function);
  }
  template <auto* kFunction>
  void impl(const char* name, KnownFunction<kFunction>) {
    if (!is_skipped_) {
      library_.impl(
          name,
          stable::detail::boxer<
              std::remove_pointer_t<decltype(kFunction)>,
              kFunction>::boxed_fn);
    }
  }

 private:
  stable::detail::StableLibrary library_;
  bool is_skipped_;
};

struct Registration {
  Registration(
      void (*fill)(Library&),
      Library::Kind kind,
      const char* space,
      const char* key,
      const char* file,
      std::uint32_t line)
      : library(kind, space, key, file, line) {
    fill(library);
  }

  Library library;
};

}  // namespace torch

#define EINFORGE_REGISTER(kind, space, key, m, id)                    \
  static void C10_CONCATENATE(einforge_fill_, id)(::torch::Library&); \
  static const ::torch::Registration C10_CONCATENATE(                 \
      einforge_registration_, id)(                                    \
      &C10_CONCATENATE(einforge_fill_, id),                           \
      ::torch::Library::Kind::kind,                                   \
      #space,                                                         \
      key,                                                            \
      __FILE__,                                                       \
      __LINE__);                                                      \
  void C10_CONCATENATE(einforge_fill_, id)(::torch::Library & m)
#define TORCH_LIBRARY(space, m) \
  EINFORGE_REGISTER(DEF, space, nullptr, m, C10_UID)
#define TORCH_LIBRARY_FRAGMENT(space, m) \
  EINFORGE_REGISTER(FRAGMENT, space, nullptr, m, C10_UID)
#define TORCH_LIBRARY_IMPL(space, key, m) \
  EINFORGE_REGISTER(IMPL, space, #key, m, C10_UID)

namespace c10 {

template <typename Signature>
class TypedOperatorHandle;

template <typename Return, typename... Args>
class TypedOperatorHandle<Return(Args...)> {
 public:
  TypedOperatorHandle(const char* name, const char* overload)
      : name_(name), overload_(overload) {}

  Return call(Args... args) const {
    return einforge::stable::call<Return>(name_, overload_, args...);
  }

 private:
  const char* name_;
  const char* overload_;
};

struct OperatorHandle {
  const char* name;
  const char* overload;

  template <typename Signature>
  TypedOperatorHandle<Signature> typed() const {
    return {name, overload};
  }
};

struct Dispatcher {
  static Dispatcher singleton() { return {}; }
  OperatorHandle findSchemaOrThrow(
      const char* name, const char* overload) const {
    return {name, overload};
  }
};

// Makes a device of an accelerator the current one.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Device& device) {
    if (!device.is_cpu()) {
      guard_.emplace(device.index());
    }
  }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// Kernels run below autocast, which is Python's.
inline constexpr DispatchKeySet autocast_dispatch_keyset{};

namespace impl {

struct ExcludeDispatchKeyGuard {
  template <typename Keys>
  explicit ExcludeDispatchKeyGuard(const Keys&) {}
};

}  // namespace impl
}  // namespace c10

namespace at::autocast {

inline bool is_autocast_enabled(torch::DeviceType) {
  return false;
}
inline torch::ScalarType get_autocast_dtype(torch::DeviceType) {
  return torch::kBFloat16;
}

}  // namespace at::autocast

namespace torch {

// Kernels run below autograd, which is Python's, too.
struct GradMode {
  static bool is_enabled() { return false; }
};
struct NoGradGuard {
  NoGradGuard() {}  // NOLINT: a guard is not an unused variable
};

namespace autograd {

using variable_list = std::vector<Tensor>;

struct Saved {
  std::int64_t toInt() const { return 0; }
  bool toBool() const { return false; }
};

// Of which nothing is read: backward is never called.
struct AutogradContext {
  struct {
    struct Entry : Saved {
      template <typename T>
      void operator=(const T&) {}
    };
    Entry operator[](const char*) const { return {}; }
  } saved_data;

  void save_for_backward(const variable_list&) {}
  void mark_non_differentiable(const variable_list&) {}
  void set_materialize_grads(bool) {}
  variable_list get_saved_variables() const { return {}; }
  bool needs_input_grad(std::size_t) const { return false; }
};

// A function with a gradient is the function alone.
template <typename Self>
struct Function {
  template <typename... Args>
  static auto apply(const Args&... args) {
    AutogradContext context;
    return Self::forward(&context, args...);
  }
};

}  // namespace autograd
}  // namespace torch
