// Checks the fused BTT kernels against float64 on the device, then times them
// beside cuBLAS and a plain copy.
//
//   btt_check            checks, then timings at 32,768 tokens
//   btt_check --small    checks at small sizes only, for compute-sanitizer
//   btt_check --race     one launch of each plan at small sizes; above 1024 of
//                        the register-resident kernel alone
//   btt_check --only S   only shapes whose name contains S
//   btt_check --tokens N
//   btt_check --profile SHAPE PLAN   three launches of one plan, for a profiler
//
// With OUT set in the environment, writes $OUT/btt_check.json. Exits 1 when a
// check fails.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "check.cuh"
#include "einforge/kernels/cuda/btt_linear.h"

namespace ek = einforge::kernels::cuda;

namespace {

void randomize(Buffer<Bf16>& b, uint64_t seed, float deviation) {
  fill_random<<<1024, 256>>>(b.data, b.size, seed, deviation);
  CHECK(cudaGetLastError());
}

struct Strides {
  int64_t in, gamma, phi, rho;
};

// z[t,g,f,r], (tokens, gamma, phi, rho) in float64; `round` as bfloat16.
__global__ void reference_one(
    const Bf16* x,
    int64_t x_stride,
    const Bf16* a,
    Strides s,
    ek::BttSizes n,
    int64_t tokens,
    double* z,
    bool round) {
  const int64_t columns = static_cast<int64_t>(n.gamma) * n.phi * n.rho;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tokens * columns) {
    return;
  }
  const int64_t t = i / columns;
  const int g = static_cast<int>(i % columns / (n.phi * n.rho));
  const int f = static_cast<int>(i / n.rho % n.phi);
  const int r = static_cast<int>(i % n.rho);
  double sum = 0;
  for (int k = 0; k < n.alpha; ++k) {
    sum += static_cast<double>(
               __bfloat162float(x[t * x_stride + k * n.gamma + g])) *
           static_cast<double>(__bfloat162float(
               a[k * s.in + g * s.gamma + f * s.phi + r * s.rho]));
  }
  z[i] = round ? static_cast<double>(__bfloat162float(__double2bfloat16(sum)))
               : sum;
}

__global__ void reference_two(
    const double* z,
    const Bf16* b,
    Strides s,
    const Bf16* bias,
    ek::BttSizes n,
    int64_t tokens,
    double* y) {
  const int64_t columns = static_cast<int64_t>(n.epsilon) * n.phi;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tokens * columns) {
    return;
  }
  const int64_t t = i / columns;
  const int e = static_cast<int>(i % columns / n.phi);
  const int f = static_cast<int>(i % n.phi);
  double sum = bias == nullptr ? 0.0 : __bfloat162float(bias[i % columns]);
  for (int g = 0; g < n.gamma; ++g) {
    for (int r = 0; r < n.rho; ++r) {
      sum += z[((t * n.gamma + g) * n.phi + f) * n.rho + r] *
             static_cast<double>(__bfloat162float(
                 b[e * s.in + g * s.gamma + f * s.phi + r * s.rho]));
    }
  }
  y[i] = sum;
}

// sums: [0] |out - ref|^2, [1] |ref|^2, [2] |rounded - ref|^2,
// [3] max |out - ref|, [4] count of elements that are NaN.
__global__ void compare(
    const Bf16* out,
    int64_t out_stride,
    const double* ref,
    const double* rounded,
    int64_t columns,
    int64_t n,
    double* sums) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  double error = 0;
  double norm = 0;
  double other = 0;
  double largest = 0;
  double nans = 0;
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    const double value =
        __bfloat162float(out[i / columns * out_stride + i % columns]);
    const double d = value - ref[i];
    const double q = __bfloat162float(__double2bfloat16(rounded[i])) - ref[i];
    nans += isnan(value) ? 1 : 0;
    error += d * d;
    norm += ref[i] * ref[i];
    other += q * q;
    largest = fmax(largest, fabs(d));
  }
  atomicAdd(sums, error);
  atomicAdd(sums + 1, norm);
  atomicAdd(sums + 2, other);
  atomicMax(
      reinterpret_cast<unsigned long long*>(sums + 3),
      static_cast<unsigned long long>(__double_as_longlong(largest)));
  atomicAdd(sums + 4, nans);
}

// sums: [0] |z - ref|^2, [1] |ref|^2; z is (tokens, phi, rho, gamma), ref
// (tokens, gamma, phi, rho).
__global__ void compare_z(
    const Bf16* z,
    const double* ref,
    ek::BttSizes n,
    int64_t size,
    double* sums) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t columns = static_cast<int64_t>(n.phi) * n.rho;
  double error = 0;
  double norm = 0;
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < size;
       i += stride) {
    const int64_t t = i / columns / n.gamma;
    const int64_t g = i / columns % n.gamma;
    const double got =
        __bfloat162float(z[(t * columns + i % columns) * n.gamma + g]);
    error += (got - ref[i]) * (got - ref[i]);
    norm += ref[i] * ref[i];
  }
  atomicAdd(sums, error);
  atomicAdd(sums + 1, norm);
}

__global__ void count_differences(
    const uint4* a, const uint4* b, size_t n, unsigned* count) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  unsigned different = 0;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
    const uint4 p = a[i];
    const uint4 q = b[i];
    different += p.x != q.x || p.y != q.y || p.z != q.z || p.w != q.w;
  }
  if (different != 0) {
    atomicAdd(count, different);
  }
}

__global__ void copy_vectors(const uint4* in, uint4* out, size_t n) {
  const size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) {
    out[i] = in[i];
  }
}

struct Shape {
  std::string name;
  ek::BttSizes sizes;
};

ek::DeviceLimits device_limits() {
  ek::DeviceLimits limits;
  int device = 0;
  CHECK(cudaGetDevice(&device));
  CHECK(cudaDeviceGetAttribute(
      &limits.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  CHECK(cudaDeviceGetAttribute(
      &limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  CHECK(cudaDeviceGetAttribute(
      &limits.major, cudaDevAttrComputeCapabilityMajor, device));
  return limits;
}

// The cores with memory (gamma, alpha, phi, rho) and (phi, gamma, rho,
// epsilon), as ops/ keeps them.
struct Cores {
  Buffer<Bf16> a;
  Buffer<Bf16> b;
  ek::BttCores cores;

  Cores(const ek::BttSizes& n, uint64_t seed)
      : a(static_cast<size_t>(n.d_in()) * n.phi * n.rho),
        b(static_cast<size_t>(n.d_out()) * n.gamma * n.rho) {
    randomize(a, seed, 1.0F / sqrtf(static_cast<float>(n.alpha)));
    randomize(b, seed + 1, 1.0F / sqrtf(static_cast<float>(n.gamma * n.rho)));
    cores.a = a.data;
    cores.b = b.data;
    cores.a_strides = {
        .in = n.phi * n.rho,
        .gamma = static_cast<int64_t>(n.alpha) * n.phi * n.rho,
        .phi = n.rho,
        .rho = 1};
    cores.b_strides = {
        .in = 1,
        .gamma = static_cast<int64_t>(n.rho) * n.epsilon,
        .phi = static_cast<int64_t>(n.gamma) * n.rho * n.epsilon,
        .rho = n.epsilon};
  }
};

// Bytes of packed cores that suffice for every plan.
size_t packed_bytes(
    const ek::BttSizes& n, int64_t tokens, const ek::DeviceLimits& limits) {
  size_t most = 0;
  for (const ek::BttPlan& plan : ek::btt_plans(n, tokens, limits)) {
    most = std::max(most, ek::btt_packed_bytes(ek::btt_packed_sizes(n, plan)));
  }
  return most;
}

int failures = 0;
std::string json_rows;

void add_json(const std::string& row) {
  json_rows += (json_rows.empty() ? "  " : ",\n  ") + row;
}

bool check_plan(
    const std::string& name,
    const ek::BttSizes& n,
    const ek::BttCores& cores,
    const ek::BttPlan& plan,
    const ek::DeviceLimits& limits,
    int64_t tokens,
    bool with_extras,
    int repeats) {
  // A sliced input and output: rows longer than the features they hold.
  const int64_t x_stride = n.d_in() + (with_extras ? 24 : 0);
  const int64_t y_stride = n.d_out() + (with_extras ? 8 : 0);
  Buffer<Bf16> x(tokens * x_stride);
  Buffer<Bf16> y(tokens * y_stride);
  Buffer<Bf16> y_again(tokens * y_stride);
  const ek::BttSizes padded = ek::btt_packed_sizes(n, plan);
  Buffer<Bf16> bias(n.d_out());
  Buffer<Bf16> padded_bias(padded.d_out());
  Buffer<Bf16> z(
      with_extras ? static_cast<size_t>(tokens) * n.gamma * n.phi * n.rho : 0);
  Buffer<char> packed(ek::btt_packed_bytes(padded));
  static uint64_t seed = 1000;
  randomize(x, seed++, 1.0F);
  randomize(bias, seed++, 1.0F);
  CHECK(cudaMemcpy2D(
      padded_bias.data,
      sizeof(Bf16) * padded.phi,
      bias.data,
      sizeof(Bf16) * n.phi,
      sizeof(Bf16) * n.phi,
      n.epsilon,
      cudaMemcpyDeviceToDevice));
  const size_t z_size = static_cast<size_t>(tokens) * n.gamma * n.phi * n.rho;
  Buffer<double> z_exact(z_size);
  Buffer<double> z_rounded(z_size);
  Buffer<double> y_exact(tokens * n.d_out());
  Buffer<double> y_rounded(tokens * n.d_out());
  const Strides sa{
      cores.a_strides.in,
      cores.a_strides.gamma,
      cores.a_strides.phi,
      cores.a_strides.rho};
  const Strides sb{
      cores.b_strides.in,
      cores.b_strides.gamma,
      cores.b_strides.phi,
      cores.b_strides.rho};
  const Bf16* bias_data = with_extras ? bias.data : nullptr;
  const auto blocks = [](size_t n_threads) {
    return static_cast<unsigned>((n_threads + 255) / 256);
  };
  for (const bool round : {false, true}) {
    double* z_ref = round ? z_rounded.data : z_exact.data;
    reference_one<<<blocks(z_size), 256>>>(
        x.data, x_stride, cores.a, sa, n, tokens, z_ref, round);
    reference_two<<<blocks(tokens * n.d_out()), 256>>>(
        z_ref,
        cores.b,
        sb,
        bias_data,
        n,
        tokens,
        round ? y_rounded.data : y_exact.data);
    CHECK(cudaGetLastError());
  }
  ek::BttLaunch launch{
      .x = x.data,
      .y = y.data,
      .x_stride = x_stride,
      .y_stride = y_stride,
      .tokens = tokens,
      .bias = with_extras ? padded_bias.data : nullptr,
      .z = with_extras ? z.data : nullptr,
      .packed = packed.data};
  CHECK(ek::btt_pack(n, cores, packed.data, nullptr, plan));
  CHECK(ek::btt_forward(n, launch, plan, limits, true, nullptr));
  Buffer<double> sums(5);
  CHECK(cudaMemset(sums.data, 0, 5 * sizeof(double)));
  compare<<<512, 256>>>(
      y.data,
      y_stride,
      y_exact.data,
      y_rounded.data,
      n.d_out(),
      tokens * n.d_out(),
      sums.data);
  CHECK(cudaGetLastError());
  double host[5];
  CHECK(cudaMemcpy(host, sums.data, sizeof host, cudaMemcpyDeviceToHost));
  const double error = std::sqrt(host[0] / host[1]);
  const double plain = std::sqrt(host[2] / host[1]);
  const double rms =
      std::sqrt(host[1] / static_cast<double>(tokens * n.d_out()));
  // Elements past the features of a row must be left as they were: checked by
  // the repeats below, which start from the same poison.
  Buffer<unsigned> different(1);
  CHECK(cudaMemset(different.data, 0, sizeof(unsigned)));
  launch.y = y_again.data;
  for (int i = 0; i < repeats; ++i) {
    y_again.poison();
    CHECK(ek::btt_forward(n, launch, plan, limits, i % 2 == 0, nullptr));
    count_differences<<<256, 256>>>(
        reinterpret_cast<const uint4*>(y.data),
        reinterpret_cast<const uint4*>(y_again.data),
        tokens * y_stride / 8,
        different.data);
    CHECK(cudaGetLastError());
  }
  unsigned count = 0;
  CHECK(
      cudaMemcpy(&count, different.data, sizeof count, cudaMemcpyDeviceToHost));
  double z_error = 0;
  double host_z[5];
  if (with_extras) {
    CHECK(cudaMemset(sums.data, 0, 5 * sizeof(double)));
    compare_z<<<512, 256>>>(z.data, z_exact.data, n, z_size, sums.data);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(host_z, sums.data, sizeof host_z, cudaMemcpyDeviceToHost));
    z_error = std::sqrt(host_z[0] / host_z[1]);
    if (!(z_error > 0)) {
      z_error = 1;
    }
  }
  const bool good = error <= 1.5 * plain && error > 0 && host[4] == 0 &&
                    host[3] < 0.1 * rms + 1e-6 && count == 0 && z_error < 3e-3;
  if (!good) {
    ++failures;
  }
  std::printf(
      "%s %-28s %-20s T %-5ld error %.3e, two bf16 matmuls %.3e, largest %.2e, "
      "nan %.0f, z %.1e, unequal repeats %u\n",
      good ? "ok  " : "FAIL",
      name.c_str(),
      plan.name().c_str(),
      static_cast<long>(tokens),
      error,
      plain,
      host[3] / rms,
      host[4],
      z_error,
      count);
  return good;
}

std::string format(const char* f, auto... args) {
  char text[512];
  std::snprintf(text, sizeof text, f, args...);
  return text;
}

double copy_bandwidth() {                  // bytes read and written per second
  const size_t vectors = size_t{1} << 26;  // 1 GiB
  Buffer<Bf16> in(vectors * 8);
  Buffer<Bf16> out(vectors * 8);
  randomize(in, 7, 1.0F);
  const double ms = time_ms([&](int) {
    copy_vectors<<<static_cast<unsigned>(vectors / 256), 256>>>(
        reinterpret_cast<const uint4*>(in.data),
        reinterpret_cast<uint4*>(out.data),
        vectors);
  });
  return 2.0 * static_cast<double>(vectors) * 16 / (ms * 1e-3);
}

void time_shape(
    const Shape& shape,
    cublasHandle_t blas,
    const ek::DeviceLimits& limits,
    int64_t tokens,
    double bandwidth) {
  const ek::BttSizes& n = shape.sizes;
  constexpr int kSets = 3;
  std::vector<Buffer<Bf16>*> x;
  std::vector<Buffer<Bf16>*> y;
  for (int i = 0; i < kSets; ++i) {
    x.push_back(new Buffer<Bf16>(tokens * n.d_in()));
    y.push_back(new Buffer<Bf16>(tokens * n.d_out()));
    randomize(*x.back(), 50 + i, 1.0F);
  }
  Buffer<Bf16> weight(static_cast<size_t>(n.d_in()) * n.d_out());
  randomize(weight, 60, 1.0F / sqrtf(static_cast<float>(n.d_in())));
  Cores cores(n, 70);
  Buffer<char> packed(packed_bytes(n, tokens, limits));
  const float one = 1.0F;
  const float zero = 0.0F;
  const double dense = time_ms([&](int i) {
    CHECK(cublasGemmEx(
        blas,
        CUBLAS_OP_T,
        CUBLAS_OP_N,
        n.d_out(),
        static_cast<int>(tokens),
        n.d_in(),
        &one,
        weight.data,
        CUDA_R_16BF,
        n.d_in(),
        x[i % kSets]->data,
        CUDA_R_16BF,
        n.d_in(),
        &zero,
        y[i % kSets]->data,
        CUDA_R_16BF,
        n.d_out(),
        CUBLAS_COMPUTE_32F,
        CUBLAS_GEMM_DEFAULT));
  });
  const double bytes =
      2.0 * (static_cast<double>(tokens) * (n.d_in() + n.d_out())) +
      static_cast<double>(ek::btt_packed_bytes(n));
  const double limit = bytes / bandwidth * 1e3;
  std::printf(
      "\n%s (%d,%d|%d,%d|%d) T %ld: dense %.4f ms, limit by bytes %.4f ms\n",
      shape.name.c_str(),
      n.alpha,
      n.gamma,
      n.epsilon,
      n.phi,
      n.rho,
      static_cast<long>(tokens),
      dense,
      limit);
  add_json(format(
      R"({"shape": "%s", "implementation": "dense", "pass": "forward", )"
      R"("tokens": %ld, "median_ms": %.5f, "limit_ms": %.5f})",
      shape.name.c_str(),
      static_cast<long>(tokens),
      dense,
      limit));
  struct Row {
    ek::BttPlan plan;
    double kernel;
  };
  std::vector<Row> rows;
  const auto launch = [&](int i) {
    return ek::BttLaunch{
        .x = x[i % kSets]->data,
        .y = y[i % kSets]->data,
        .x_stride = n.d_in(),
        .y_stride = n.d_out(),
        .tokens = tokens,
        .packed = packed.data};
  };
  const auto kernel_ms = [&](const ek::BttPlan& plan) {
    CHECK(ek::btt_pack(n, cores.cores, packed.data, nullptr, plan));
    return time_ms([&](int i) {
      CHECK(ek::btt_forward(n, launch(i), plan, limits, false, nullptr));
    });
  };
  for (const ek::BttPlan& plan : ek::btt_plans(n, tokens, limits)) {
    rows.push_back({plan, kernel_ms(plan)});
  }
  // Again, as the clock is low for a while after the dense product.
  for (Row& row : rows) {
    row.kernel = std::min(row.kernel, kernel_ms(row.plan));
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return a.kernel < b.kernel;
  });
  if (rows.empty()) {
    std::printf("  no plan\n");
  } else {
    const ek::BttPlan& plan = rows.front().plan;
    const double both = time_ms([&](int k) {
      CHECK(ek::btt_pack(n, cores.cores, packed.data, nullptr, plan));
      CHECK(ek::btt_forward(n, launch(k), plan, limits, true, nullptr));
    });
    std::printf(
        "  best %s with packing %.4f ms: dense / ours %.2f, %.0f%% of the "
        "limit\n ",
        plan.name().c_str(),
        both,
        dense / both,
        100 * limit / both);
    for (const Row& row : rows) {
      std::printf(" %s %.4f", row.plan.name().c_str(), row.kernel);
    }
    std::printf("\n");
    add_json(format(
        R"({"shape": "%s", "implementation": "%s", "pass": "forward", )"
        R"("tokens": %ld, "kernel_ms": %.5f, "median_ms": %.5f})",
        shape.name.c_str(),
        plan.name().c_str(),
        static_cast<long>(tokens),
        rows.front().kernel,
        both));
  }
  for (int i = 0; i < kSets; ++i) {
    delete x[i];
    delete y[i];
  }
}

// Three launches, so that a profiler can skip the first two.
void profile(
    const Shape& shape,
    const std::string& plan_name,
    const ek::DeviceLimits& limits,
    int64_t tokens) {
  const ek::BttSizes& n = shape.sizes;
  Buffer<Bf16> x(tokens * n.d_in());
  Buffer<Bf16> y(tokens * n.d_out());
  randomize(x, 50, 1.0F);
  const Cores cores(n, 70);
  Buffer<char> packed(packed_bytes(n, tokens, limits));
  for (const ek::BttPlan& plan : ek::btt_plans(n, tokens, limits)) {
    if (plan.name() == plan_name) {
      CHECK(ek::btt_pack(n, cores.cores, packed.data, nullptr, plan));
      for (int i = 0; i < 3; ++i) {
        CHECK(ek::btt_forward(
            n,
            {.x = x.data,
             .y = y.data,
             .x_stride = n.d_in(),
             .y_stride = n.d_out(),
             .tokens = tokens,
             .packed = packed.data},
            plan,
            limits,
            false,
            nullptr));
      }
    }
  }
  CHECK(cudaDeviceSynchronize());
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a hang leaves what came before
  bool small = false;
  bool race = false;
  std::string only;
  std::string profiled;
  std::string profiled_plan;
  int64_t tokens = 32768;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) {
      small = true;
    } else if (std::strcmp(argv[i], "--race") == 0) {
      race = true;
    } else if (std::strcmp(argv[i], "--profile") == 0 && i + 2 < argc) {
      profiled = argv[++i];
      profiled_plan = argv[++i];
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--tokens") == 0 && i + 1 < argc) {
      tokens = std::atoll(argv[++i]);
    } else {
      std::printf(
          "usage: btt_check [--small] [--race] [--only NAME] [--tokens N] "
          "[--profile SHAPE PLAN]\n");
      return 2;
    }
  }
  const ek::DeviceLimits limits = device_limits();
  const std::vector<Shape> tiny{
      {"tiny 256", {16, 16, 16, 16, 1}},
      {"tiny cluster 2", {16, 16, 32, 16, 1}},
      {"tiny cluster 4 rho 2", {16, 32, 16, 32, 2}},
      {"tiny cluster 8", {32, 64, 16, 64, 1}},
      {"tiny gamma 48 rho 3", {16, 48, 48, 16, 3}}};
  const std::vector<Shape> shapes{
      {"1024", {32, 32, 32, 32, 1}},
      {"2048 a", {64, 32, 64, 32, 1}},
      {"2048 b", {32, 64, 64, 32, 1}},
      {"2048 c", {64, 32, 32, 64, 1}},
      {"2048 d", {32, 64, 32, 64, 1}},
      {"4096", {64, 64, 64, 64, 1}},
      {"1024 to 4096", {32, 32, 64, 64, 1}},
      {"4096 to 1024", {64, 64, 32, 32, 1}},
      {"1024 rho 4", {32, 32, 32, 32, 4}},
      {"4096 rho 4", {64, 64, 64, 64, 4}},
      // Smaller than their kernels.
      {"384", {16, 24, 24, 16, 1}},
      {"768", {24, 32, 32, 24, 1}},
      {"768 to 3072", {32, 24, 64, 48, 1}},
      {"768 rho 4", {24, 32, 32, 24, 4}},
      {"1280", {32, 40, 40, 32, 1}},
      {"1536", {32, 48, 48, 32, 1}},
      {"3072", {48, 64, 64, 48, 1}}};
  for (const Shape& shape : shapes) {
    if (!profiled.empty() && shape.name == profiled) {
      profile(shape, profiled_plan, limits, tokens);
      return 0;
    }
  }
  std::vector<Shape> checked = tiny;
  for (const Shape& shape : shapes) {
    // The shapes of the register-resident kernels cannot be tiny.
    constexpr std::string_view kSome[] = {
        "1024",
        "1024 to 4096",
        "4096",
        "1024 rho 4",
        "4096 rho 4",
        "384",
        "768",
        "768 rho 4"};
    if (!(small || race) ||
        std::ranges::find(kSome, shape.name) != std::ranges::end(kSome)) {
      checked.push_back(shape);
    }
  }
  for (const Shape& shape : checked) {
    if (shape.name.find(only) == std::string::npos) {
      continue;
    }
    const Cores cores(shape.sizes, 1);
    const auto both = {
        std::pair{shape.sizes, cores.cores},
        std::pair{shape.sizes.transposed(), cores.cores.transposed()}};
    bool gradient = false;
    for (const auto& [sizes, these] : both) {
      const std::string name = shape.name + (gradient ? ", dx" : "");
      gradient = true;
      const auto plans = ek::btt_plans(sizes, tokens, limits);
      if (plans.empty()) {
        std::printf("     %-28s no plan\n", name.c_str());
      }
      for (const ek::BttPlan& plan : plans) {
        const bool large = std::max(sizes.d_in(), sizes.d_out()) > 1024;
        if (race && large && plan.kernel != ek::BttKernel::kResident) {
          continue;
        }
        // Pretend to have few multiprocessors, so that each block takes five
        // or six tiles, the last one partial; and then a single token.
        ek::DeviceLimits few = limits;
        few.multiprocessors = small || race ? plan.cluster : 2 * plan.cluster;
        const int64_t tiles = (race ? 2 : 5) * few.multiprocessors + 1;
        check_plan(
            name,
            sizes,
            these,
            plan,
            few,
            tiles * plan.tile_tokens() - 3,
            true,
            race    ? 0
            : small ? 1
                    : 4);
        if (!race) {
          check_plan(name, sizes, these, plan, limits, 1, false, 1);
        }
      }
    }
  }
  std::printf("%d checks failed\n", failures);
  if (!small && !race) {
    cublasHandle_t blas = nullptr;
    CHECK(cublasCreate(&blas));
    const double bandwidth = copy_bandwidth();
    std::printf("copy %.3f TB/s\n", bandwidth * 1e-12);
    for (const Shape& shape : shapes) {
      if (shape.name.find(only) != std::string::npos) {
        time_shape(shape, blas, limits, tokens, bandwidth);
      }
    }
    CHECK(cublasDestroy(blas));
    if (const char* out = std::getenv("OUT")) {
      std::ofstream(std::string(out) + "/btt_check.json")
          << format(
                 "{\"copy_bytes_per_s\": %.4e, \"failures\": %d, \"rows\": [\n",
                 bandwidth,
                 failures)
          << json_rows << "\n]}\n";
    }
  }
  return failures == 0 ? 0 : 1;
}
