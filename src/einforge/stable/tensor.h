#pragma once

#include "einforge/stable/call.h"

// torch::Tensor and what ops/ calls on it, over torch's stable ABI.
namespace c10 {

// Sizes are numbers here: shapes with symbols are Python's (meta kernels).
class SymInt {
 public:
  SymInt(std::int64_t value) : value_(value) {}     // NOLINT: as LibTorch's
  operator std::int64_t() const { return value_; }  // NOLINT
  bool sym_eq(const SymInt& other) const { return value_ == other.value_; }

 private:
  std::int64_t value_;
};

enum class DispatchKey { Python, AutocastCPU, AutocastCUDA };

struct DispatchKeySet {
  bool has(DispatchKey) const { return false; }
};

}  // namespace c10

namespace at {

enum class MemoryFormat { Contiguous };

inline bool isIntegralType(
    torch::headeronly::ScalarType type, bool /*include_bool*/) {
  using enum torch::headeronly::ScalarType;
  return type == Byte || type == Char || type == Short || type == Int ||
         type == Long;
}

}  // namespace at

namespace torch {

using ScalarType = headeronly::ScalarType;
using DeviceType = c10::DeviceType;
using Device = c10::Device;

inline constexpr ScalarType kUInt8 = ScalarType::Byte;
inline constexpr ScalarType kInt32 = ScalarType::Int;
inline constexpr ScalarType kInt64 = ScalarType::Long;
inline constexpr ScalarType kFloat16 = ScalarType::Half;
inline constexpr ScalarType kFloat32 = ScalarType::Float;
inline constexpr ScalarType kFloat64 = ScalarType::Double;
inline constexpr ScalarType kBFloat16 = ScalarType::BFloat16;
inline constexpr DeviceType kCPU = DeviceType::CPU;
inline constexpr DeviceType kCUDA = DeviceType::CUDA;

class TensorOptions {
 public:
  TensorOptions() = default;
  TensorOptions(ScalarType dtype) : dtype_(dtype) {}  // NOLINT: as LibTorch's

  TensorOptions dtype(ScalarType dtype) const {
    TensorOptions result = *this;
    result.dtype_ = dtype;
    return result;
  }
  TensorOptions device(Device device) const {
    TensorOptions result = *this;
    result.device_ = device;
    return result;
  }
  const std::optional<ScalarType>& dtype() const { return dtype_; }
  const std::optional<Device>& device() const { return device_; }

 private:
  std::optional<ScalarType> dtype_;
  std::optional<Device> device_;
};

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(einforge::stable::Handle handle)
      : handle_(std::move(handle)) {}

  const einforge::stable::Handle& handle() const { return handle_; }
  bool defined() const { return handle_ != nullptr; }
  void reset() { handle_.reset(); }
  bool is_same(const Tensor& other) const { return handle_ == other.handle_; }

  std::int64_t dim() const { return number(aoti_torch_get_dim); }
  std::int64_t numel() const { return number(aoti_torch_get_numel); }
  c10::IntArrayRef sizes() const { return numbers(aoti_torch_get_sizes); }
  c10::IntArrayRef strides() const { return numbers(aoti_torch_get_strides); }
  std::int64_t size(std::int64_t dim) const { return at(sizes(), dim); }
  std::int64_t stride(std::int64_t dim) const { return at(strides(), dim); }
  c10::SymInt sym_size(std::int64_t dim) const { return size(dim); }
  c10::IntArrayRef sym_sizes() const { return sizes(); }

  ScalarType scalar_type() const {
    std::int32_t dtype = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle_.get(), &dtype));
    return stable::detail::to<ScalarType>(stable::detail::from(dtype));
  }
  std::int64_t element_size() const {
    std::int32_t dtype = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle_.get(), &dtype));
    return static_cast<std::int64_t>(aoti_torch_dtype_element_size(dtype));
  }
  Device device() const {
    std::int32_t type = 0;
    std::int32_t index = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle_.get(), &type));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle_.get(), &index));
    return {stable::detail::to<DeviceType>(stable::detail::from(type)), index};
  }
  bool is_cpu() const { return device().is_cpu(); }
  bool is_cuda() const { return device().is_cuda(); }
  TensorOptions options() const {
    return TensorOptions(scalar_type()).device(device());
  }
  bool is_contiguous() const {
    bool result = false;
    TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle_.get(), &result));
    return result;
  }
  bool is_non_overlapping_and_dense() const {
    // Whether strides, from the smallest, are the sizes before them.
    std::vector<std::pair<std::int64_t, std::int64_t>> dims;  // stride, size
    for (std::int64_t i = 0; i < dim(); ++i) {
      if (size(i) != 1) {
        dims.emplace_back(stride(i), size(i));
      }
    }
    std::ranges::sort(dims);
    std::int64_t expected = 1;
    for (const auto& [stride, size] : dims) {
      if (stride != expected) {
        return false;
      }
      expected *= size;
    }
    return true;
  }
  // Gradients are Python's: kernels run below autograd.
  bool requires_grad() const { return false; }
  c10::DispatchKeySet key_set() const { return {}; }

  const void* const_data_ptr() const {
    const void* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(handle_.get(), &data));
    return data;
  }
  void* mutable_data_ptr() const {
    void* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_mutable_data_ptr(handle_.get(), &data));
    return data;
  }
  template <typename T>
  const T* const_data_ptr() const {
    return static_cast<const T*>(const_data_ptr());
  }
  template <typename T>
  T* mutable_data_ptr() const {
    return static_cast<T*>(mutable_data_ptr());
  }

  // Views.
  Tensor view(c10::IntArrayRef sizes) const { return run("aten::view", sizes); }
  Tensor view_symint(c10::IntArrayRef sizes) const { return view(sizes); }
  Tensor reshape(c10::IntArrayRef sizes) const {
    return run("aten::reshape", sizes);
  }
  Tensor permute(c10::IntArrayRef dims) const {
    return run("aten::permute", dims);
  }
  Tensor transpose(std::int64_t a, std::int64_t b) const {
    return with<Tensor>("aten::transpose", "int", a, b);
  }
  Tensor t() const { return run("aten::t"); }
  Tensor flatten(std::int64_t begin, std::int64_t end = -1) const {
    return with<Tensor>("aten::flatten", "using_ints", begin, end);
  }
  Tensor squeeze(std::int64_t dim) const {
    return with<Tensor>("aten::squeeze", "dim", dim);
  }
  Tensor unsqueeze(std::int64_t dim) const {
    return run("aten::unsqueeze", dim);
  }
  Tensor select(std::int64_t dim, std::int64_t index) const {
    return with<Tensor>("aten::select", "int", dim, index);
  }
  Tensor operator[](std::int64_t index) const { return select(0, index); }
  Tensor narrow(std::int64_t dim, std::int64_t at, std::int64_t size) const {
    return run("aten::narrow", dim, at, size);
  }
  Tensor slice(std::int64_t dim, std::int64_t begin) const {
    return narrow(dim, begin, size(dim) - begin);
  }
  Tensor expand(c10::IntArrayRef sizes) const {
    return run("aten::expand", sizes, /*implicit=*/false);
  }
  std::vector<Tensor> unbind(std::int64_t dim) const {
    return with<std::vector<Tensor>>("aten::unbind", "int", dim);
  }
  Tensor detach() const { return *this; }

  // Copies and conversions.
  Tensor contiguous() const {
    return is_contiguous()
               ? *this
               : run("aten::contiguous", headeronly::MemoryFormat::Contiguous);
  }
  Tensor clone() const {
    return run("aten::clone", std::optional<headeronly::MemoryFormat>());
  }
  Tensor to(ScalarType dtype) const {
    return dtype == scalar_type() ? *this : converted(dtype, std::nullopt);
  }
  Tensor to(DeviceType device) const {
    return converted(std::nullopt, Device(device));
  }
  Tensor copy_(const Tensor& from) const {
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(
        handle_.get(), from.handle_.get(), /*non_blocking=*/0));
    return *this;
  }
  Tensor zero_() const {
    TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(handle_.get()));
    return *this;
  }
  Tensor new_empty(c10::IntArrayRef sizes) const;
  Tensor new_zeros(c10::IntArrayRef sizes) const {
    return new_empty(sizes).zero_();
  }

  // Arithmetic.
  Tensor square() const { return run("aten::square"); }
  Tensor sqrt() const { return run("aten::sqrt"); }
  Tensor sin() const { return run("aten::sin"); }
  Tensor reciprocal() const { return run("aten::reciprocal"); }
  Tensor operator-() const { return run("aten::neg"); }
  Tensor clamp_min(double least) const {
    return run("aten::maximum", like_this(least));
  }
  Tensor clamp_max(std::int64_t most) const {
    return run("aten::minimum", like_this(static_cast<double>(most)));
  }
  Tensor clamp_max_(std::int64_t most) const { return clamp_max(most); }
  Tensor floor_divide(std::int64_t by) const {
    return run("aten::floor_divide", like_this(static_cast<double>(by)));
  }
  Tensor add_(const Tensor& other) const;

  // Reductions.
  Tensor sum() const { return run("aten::sum", std::optional<ScalarType>()); }
  Tensor sum(
      std::int64_t dim,
      bool keepdim = false,
      std::optional<ScalarType> dtype = std::nullopt) const {
    return with<Tensor>(
        "aten::sum",
        "dim_IntList",
        std::make_optional(std::vector<std::int64_t>{dim}),
        keepdim,
        dtype);
  }
  Tensor mean() const { return run("aten::mean", std::optional<ScalarType>()); }
  Tensor mean(std::int64_t dim) const {
    return with<Tensor>(
        "aten::mean",
        "dim",
        std::make_optional(std::vector<std::int64_t>{dim}),
        /*keepdim=*/false,
        std::optional<ScalarType>());
  }
  Tensor logsumexp(std::int64_t dim, bool keepdim = false) const {
    return run("aten::logsumexp", std::vector<std::int64_t>{dim}, keepdim);
  }
  Tensor softmax(std::int64_t dim) const {
    return with<Tensor>(
        "aten::softmax", "int", dim, std::optional<ScalarType>());
  }
  Tensor cumsum(std::int64_t dim) const {
    return run("aten::cumsum", dim, std::optional<ScalarType>());
  }
  Tensor diff() const {
    return run(
        "aten::diff",
        std::int64_t{1},
        std::int64_t{-1},
        std::optional<Tensor>(),
        std::optional<Tensor>());
  }
  std::tuple<Tensor, Tensor> sort(
      bool stable, std::int64_t dim, bool descending) const {
    return with<std::tuple<Tensor, Tensor>>(
        "aten::sort", "stable", std::make_optional(stable), dim, descending);
  }

  // Products.
  Tensor mm(const Tensor& other) const { return run("aten::mm", other); }
  Tensor bmm(const Tensor& other) const { return run("aten::bmm", other); }
  Tensor matmul(const Tensor& other) const {
    return run("aten::matmul", other);
  }

  // By index.
  Tensor index_select(std::int64_t dim, const Tensor& index) const {
    return run("aten::index_select", dim, index);
  }
  Tensor gather(std::int64_t dim, const Tensor& index) const {
    return run("aten::gather", dim, index, /*sparse_grad=*/false);
  }
  Tensor index_copy_(
      std::int64_t dim, const Tensor& index, const Tensor& source) const {
    return run("aten::index_copy_", dim, index, source);
  }
  // Of whole rows: dim is 0.
  Tensor index_add_(
      std::int64_t dim, const Tensor& index, const Tensor& source) const {
    return scatter_add_(
        dim,
        index.to(kInt64).unsqueeze(1).expand(source.sizes()),
        source.to(scalar_type()));
  }
  Tensor scatter_(
      std::int64_t dim, const Tensor& index, const Tensor& source) const {
    return with<Tensor>("aten::scatter_", "src", dim, index, source);
  }
  Tensor scatter_add_(
      std::int64_t dim, const Tensor& index, const Tensor& source) const {
    return run("aten::scatter_add_", dim, index, source);
  }
  Tensor masked_fill(const Tensor& mask, std::int64_t value) const {
    return with<Tensor>(
        "aten::masked_fill",
        "Tensor",
        mask,
        like_this(static_cast<double>(value)));
  }
  Tensor masked_fill_(const Tensor& mask, std::int64_t value) const {
    return with<Tensor>(
        "aten::masked_fill_",
        "Tensor",
        mask,
        like_this(static_cast<double>(value)));
  }

  // A number as a tensor without dimensions, which the stable ABI has in place
  // of scalars. It does not widen tensors of the same kind that have some.
  Tensor like_this(double value) const {
    AtenTensorHandle result = nullptr;
    TORCH_ERROR_CODE_CHECK(
        at::isIntegralType(scalar_type(), /*include_bool=*/false)
            ? aoti_torch_scalar_to_tensor_int64(
                  static_cast<std::int64_t>(value), &result)
            : aoti_torch_scalar_to_tensor_float64(value, &result));
    return Tensor(einforge::stable::owning(result));
  }

  // The operator `name` of this tensor and other arguments.
  template <typename Return = Tensor, typename... Args>
  Return run(const char* name, const Args&... args) const {
    return with<Return>(name, "", args...);
  }
  template <typename Return, typename... Args>
  Return with(
      const char* name, const char* overload, const Args&... args) const;

 private:
  template <typename Get>
  std::int64_t number(Get get) const {
    std::int64_t result = 0;
    TORCH_ERROR_CODE_CHECK(get(handle_.get(), &result));
    return result;
  }
  template <typename Get>
  c10::IntArrayRef numbers(Get get) const {
    std::int64_t* result = nullptr;
    TORCH_ERROR_CODE_CHECK(get(handle_.get(), &result));
    return {result, static_cast<std::size_t>(dim())};
  }
  std::int64_t at(c10::IntArrayRef values, std::int64_t dim) const {
    const auto count = static_cast<std::int64_t>(values.size());
    const std::int64_t index = dim < 0 ? dim + count : dim;
    STD_TORCH_CHECK(
        index >= 0 && index < count, "expected a dimension; got ", dim);
    return values[static_cast<std::size_t>(index)];
  }
  Tensor converted(
      std::optional<ScalarType> dtype, std::optional<Device> device) const {
    return with<Tensor>(
        "aten::to",
        "dtype_layout",
        dtype,
        std::optional<headeronly::Layout>(),
        device,
        std::optional<bool>(),
        /*non_blocking=*/false,
        /*copy=*/false,
        std::optional<headeronly::MemoryFormat>());
  }

  einforge::stable::Handle handle_;
};

}  // namespace torch

namespace torch::stable::detail {

template <>
struct FromImpl<torch::Tensor> {
  static StableIValue call(const torch::Tensor& tensor, std::uint64_t, bool) {
    return torch::stable::detail::from(
        einforge::stable::copy_of(tensor.handle()));
  }
};

template <>
struct ToImpl<torch::Tensor> {
  static torch::Tensor call(StableIValue value, std::uint64_t, bool) {
    return torch::Tensor(
        einforge::stable::adopted(to<AtenTensorHandle>(value)));
  }
};

template <>
struct FromImpl<std::vector<std::int64_t>> {
  static StableIValue call(
      const std::vector<std::int64_t>& values, std::uint64_t, bool) {
    return FromList<std::int64_t>::call(values);
  }
};

template <>
struct FromImpl<std::vector<torch::Tensor>> {
  static StableIValue call(
      const std::vector<torch::Tensor>& values, std::uint64_t, bool) {
    return FromList<torch::Tensor>::call(values);
  }
};

}  // namespace torch::stable::detail

namespace torch {

template <typename Return, typename... Args>
Return Tensor::with(
    const char* name, const char* overload, const Args&... args) const {
  return einforge::stable::call<Return>(name, overload, *this, args...);
}

// Operators between tensors, and with numbers.
inline Tensor operator*(const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::mul", "Tensor", b);
}
inline Tensor operator*(const Tensor& a, double b) {
  return (a * a.like_this(b)).to(a.scalar_type());
}
inline Tensor operator*(double a, const Tensor& b) {
  return b * a;
}
inline Tensor operator/(const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::div", "Tensor", b);
}
inline Tensor operator/(const Tensor& a, double b) {
  return (a / a.like_this(b)).to(a.scalar_type());
}

// a + scale b. add and sub take a scalar, which the stable ABI has not; its
// own function for it takes no integers, which are exact in float64 here.
inline Tensor add_scaled(const Tensor& a, const Tensor& b, double scale) {
  if (at::isIntegralType(a.scalar_type(), /*include_bool=*/false)) {
    return add_scaled(a.to(kFloat64), b.to(kFloat64), scale)
        .to(a.scalar_type());
  }
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_subtract_Tensor(
      a.handle().get(), b.handle().get(), -scale, &result));
  return Tensor(einforge::stable::owning(result));
}
inline Tensor operator+(const Tensor& a, const Tensor& b) {
  return add_scaled(a, b, 1);
}
inline Tensor operator-(const Tensor& a, const Tensor& b) {
  return add_scaled(a, b, -1);
}
inline Tensor operator+(const Tensor& a, double b) {
  return add_scaled(a, a.like_this(b), 1).to(a.scalar_type());
}
inline Tensor operator-(const Tensor& a, double b) {
  return a + -b;
}
inline Tensor operator>(const Tensor& a, double b) {
  return a.with<Tensor>("aten::gt", "Tensor", a.like_this(b));
}
inline Tensor operator>=(const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::ge", "Tensor", b);
}
inline Tensor operator==(const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::eq", "Tensor", b);
}

inline Tensor Tensor::add_(const Tensor& other) const {
  return copy_(*this + other);
}

// Factories.
inline Tensor empty(c10::IntArrayRef sizes, const TensorOptions& options = {}) {
  return einforge::stable::call<Tensor>(
      "aten::empty",
      "memory_format",
      sizes,
      options.dtype(),
      std::optional<headeronly::Layout>(),
      options.device(),
      std::optional<bool>(),
      std::optional<headeronly::MemoryFormat>());
}
inline Tensor empty_symint(
    std::initializer_list<c10::SymInt> sizes, const TensorOptions& options) {
  return empty(std::vector<std::int64_t>(sizes.begin(), sizes.end()), options);
}
inline Tensor empty_like(
    const Tensor& tensor, const TensorOptions& options = {}) {
  return tensor.run(
      "aten::empty_like",
      options.dtype(),
      std::optional<headeronly::Layout>(),
      options.device(),
      std::optional<bool>(),
      std::optional<headeronly::MemoryFormat>());
}
inline Tensor empty_like(const Tensor& tensor, at::MemoryFormat) {
  return empty(tensor.sizes(), tensor.options());
}
inline Tensor zeros(c10::IntArrayRef sizes, const TensorOptions& options = {}) {
  return empty(sizes, options).zero_();
}
inline Tensor zeros_like(const Tensor& tensor) {
  return empty_like(tensor).zero_();
}
inline Tensor Tensor::new_empty(c10::IntArrayRef sizes) const {
  return empty(sizes, options());
}
// 0, 1, .. count - 1.
inline Tensor arange(std::int64_t count, const TensorOptions& options = {}) {
  const Tensor ones = einforge::stable::call<Tensor>(
      "aten::ones",
      "",
      c10::IntArrayRef{count},
      std::make_optional(options.dtype().value_or(kInt64)),
      std::optional<headeronly::Layout>(),
      options.device(),
      std::optional<bool>());
  return ones.cumsum(0).to(ones.scalar_type()) - 1;
}

inline Tensor mm(const Tensor& a, const Tensor& b) {
  return a.mm(b);
}
inline Tensor bmm(const Tensor& a, const Tensor& b) {
  return a.bmm(b);
}
inline Tensor bmm(const Tensor& a, const Tensor& b, ScalarType dtype) {
  return a.with<Tensor>("aten::bmm", "dtype", b, dtype);
}
inline Tensor bmm_out(Tensor& out, const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::bmm", "out", b, out);
}
inline Tensor mm_out(Tensor& out, const Tensor& a, const Tensor& b) {
  return a.with<Tensor>("aten::mm", "out", b, out);
}
inline Tensor matmul(const Tensor& a, const Tensor& b) {
  return a.matmul(b);
}
inline Tensor linear(
    const Tensor& x,
    const Tensor& weight,
    const std::optional<Tensor>& bias = std::nullopt) {
  return x.run("aten::linear", weight, bias);
}
inline Tensor cat(const std::vector<Tensor>& tensors) {
  return einforge::stable::call<Tensor>(
      "aten::cat", "", tensors, std::int64_t{0});
}
inline Tensor where(const Tensor& which, const Tensor& a, const Tensor& b) {
  return which.with<Tensor>("aten::where", "self", a, b);
}
inline Tensor searchsorted(
    const Tensor& sorted,
    const Tensor& values,
    bool out_int32,
    bool right = false) {
  return sorted.with<Tensor>(
      "aten::searchsorted",
      "Tensor",
      values,
      out_int32,
      right,
      std::optional<std::string>(),
      std::optional<Tensor>());
}
inline Tensor constant_pad_nd(const Tensor& x, c10::IntArrayRef padding) {
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_pad(
      x.handle().get(),
      padding.data(),
      static_cast<std::int64_t>(padding.size()),
      "constant",
      /*value=*/nullptr,
      &result));
  return Tensor(einforge::stable::owning(result));
}

}  // namespace torch

namespace at {

inline torch::Tensor _grouped_mm(
    const torch::Tensor& a,
    const torch::Tensor& b,
    const std::optional<torch::Tensor>& offsets) {
  return a.run(
      "aten::_grouped_mm",
      b,
      offsets,
      std::optional<torch::Tensor>(),
      std::optional<torch::ScalarType>());
}

}  // namespace at
