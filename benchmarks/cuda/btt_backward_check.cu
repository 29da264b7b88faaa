// Checks the fused gradients of both cores against float64 on the device, then
// times them.
//
//   btt_backward_check            checks, then timings
//   btt_backward_check --check    checks only; --time: timings only
//   btt_backward_check --small    few and small, for compute-sanitizer
//   btt_backward_check --only S   the shape of this name
//   btt_backward_check --profile SHAPE TOKENS EXPERTS   launches of one
//
// Exits 1 when a check fails.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.cuh"
#include "einforge/kernels/cuda/btt_backward.h"

namespace ek = einforge::kernels::cuda;

namespace {

void randomize(Buffer<Bf16>& b, float deviation) {
  static uint64_t seed = 1;
  fill_random<<<1024, 256>>>(b.data, b.size, ++seed, deviation);
  CHECK(cudaGetLastError());
}

struct Problem {
  const char* name;
  ek::BttSizes sizes;
  int64_t tokens = 1;
  int experts = 1;
  int active = 0;  // 0: no mixture
  int uneven = 0;  // 1: a third of the experts, 2: all on the first `active`

  int64_t rows() const { return active == 0 ? tokens : tokens * active; }
};

// Everything that a launch works on.
struct Work {
  Problem p;
  ek::DeviceLimits limits;
  Buffer<Bf16> x;
  Buffer<Bf16> dy;
  Buffer<Bf16> a;  // (experts, gamma, alpha, phi, rho)
  Buffer<Bf16> b;  // (experts, phi, gamma, rho, epsilon)
  Buffer<Bf16> da;
  Buffer<Bf16> db;
  std::vector<int32_t> host_offsets{0};
  std::vector<int32_t> host_order;
  std::vector<float> host_gates;
  std::vector<int32_t> host_experts;  // of a pair
  Buffer<int32_t>* offsets = nullptr;
  Buffer<int32_t>* order = nullptr;
  Buffer<float>* gates = nullptr;
  ek::BttCores cores;

  int64_t a_size() const {
    return static_cast<int64_t>(p.sizes.d_in()) * p.sizes.phi * p.sizes.rho;
  }
  int64_t b_size() const {
    return static_cast<int64_t>(p.sizes.d_out()) * p.sizes.gamma * p.sizes.rho;
  }

  Work(const Problem& problem, const ek::DeviceLimits& device)
      : p(problem),
        limits(device),
        x(p.tokens * p.sizes.d_in()),
        dy(p.tokens * p.sizes.d_out()),
        a(a_size() * p.experts),
        b(b_size() * p.experts),
        da(a_size() * p.experts),
        db(b_size() * p.experts) {
    const ek::BttSizes& n = p.sizes;
    randomize(x, 1.0F);
    randomize(dy, 1.0F);
    randomize(a, 1.0F / std::sqrt(static_cast<float>(n.alpha)));
    randomize(b, 1.0F / std::sqrt(static_cast<float>(n.gamma * n.rho)));
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
    cores.a_expert = a_size();
    cores.b_expert = b_size();
    if (p.active > 0) {
      std::mt19937 random(17);
      std::vector<std::vector<int32_t>> of(p.experts);
      std::uniform_real_distribution<float> gate(0.0F, 1.0F);
      std::vector<int> experts(p.experts);
      std::iota(experts.begin(), experts.end(), 0);
      const int end = p.uneven == 2   ? p.active
                      : p.uneven == 1 ? std::max(p.active, p.experts / 3)
                                      : p.experts;
      for (int64_t t = 0; t < p.tokens; ++t) {
        for (int j = 0; j < p.active; ++j) {
          std::uniform_int_distribution<int> pick(j, end - 1);
          std::swap(experts[j], experts[pick(random)]);
          of[experts[j]].push_back(static_cast<int32_t>(t * p.active + j));
          host_experts.push_back(experts[j]);
          host_gates.push_back(gate(random));
        }
      }
      for (const auto& rows : of) {
        host_order.insert(host_order.end(), rows.begin(), rows.end());
        host_offsets.push_back(static_cast<int32_t>(host_order.size()));
      }
      offsets = new Buffer<int32_t>(host_offsets);
      order = new Buffer<int32_t>(host_order);
      gates = new Buffer<float>(host_gates);
    }
  }
  ~Work() {
    delete offsets;
    delete order;
    delete gates;
  }
  ek::RoutedRows rows() const {
    ek::RoutedRows r;
    if (p.active > 0) {
      r.offsets = offsets->data;
      r.order = order->data;
      r.experts = p.experts;
      r.active = p.active;
      r.pairs = static_cast<int>(p.rows());
    }
    return r;
  }
};

ek::BttBackwardSpace space_of(const Work& w) {
  return ek::btt_backward_space(w.p.sizes, w.p.rows(), w.p.experts, w.limits);
}

cudaError_t run(const Work& w, const ek::BttBackwardLaunch& launch) {
  return ek::btt_backward(w.p.sizes, w.cores, launch, w.limits, nullptr);
}

// Whether there is a bias's gradient beside.
bool sums_bias(const Problem& p) {
  return p.active == 0 && ek::btt_backward_sums_bias(p.sizes);
}

ek::BttBackwardLaunch launch_of(
    const Work& w, int splits, void* workspace, Bf16* da, Bf16* db) {
  ek::BttBackwardLaunch launch;
  launch.x = w.x.data;
  launch.dy = w.dy.data;
  launch.tokens = w.p.tokens;
  launch.splits = splits;
  launch.workspace = workspace;
  launch.da = da;
  launch.db = db;
  launch.da_strides = w.cores.a_strides;
  launch.db_strides = w.cores.b_strides;
  launch.rows = w.rows();
  if (w.p.active > 0) {
    launch.gates = w.gates->data;
  }
  launch.da_expert = w.a_size();
  launch.db_expert = w.b_size();
  return launch;
}

// --- references ------------------------------------------------------------

struct Reference {
  ek::BttSizes n;
  int64_t rows;
  int active;  // 1 without a mixture
  const Bf16* x;
  const Bf16* dy;
  const Bf16* a;
  const Bf16* b;
  const int32_t* experts;  // of a row, or null
  const float* gates;
};

// z and dz (rows, gamma, phi, rho), with the gates.
__global__ void reference_z(Reference p, double* z, double* dz) {
  const auto& n = p.n;
  const int64_t columns = static_cast<int64_t>(n.gamma) * n.phi * n.rho;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= p.rows * columns) {
    return;
  }
  const int64_t row = i / columns;
  const int64_t t = row / p.active;
  const int e = p.experts == nullptr ? 0 : p.experts[row];
  const double gate = p.gates == nullptr ? 1.0 : p.gates[row];
  const int g = static_cast<int>(i % columns / (n.phi * n.rho));
  const int f = static_cast<int>(i / n.rho % n.phi);
  const int r = static_cast<int>(i % n.rho);
  const Bf16* a =
      p.a + static_cast<int64_t>(e) * n.alpha * n.gamma * n.phi * n.rho;
  const Bf16* b =
      p.b + static_cast<int64_t>(e) * n.epsilon * n.gamma * n.phi * n.rho;
  double sum = 0;
  for (int k = 0; k < n.alpha; ++k) {
    sum += static_cast<double>(
               __bfloat162float(p.x[(t * n.alpha + k) * n.gamma + g])) *
           static_cast<double>(__bfloat162float(
               a[((static_cast<int64_t>(g) * n.alpha + k) * n.phi + f) * n.rho +
                 r]));
  }
  z[i] = sum * gate;
  sum = 0;
  for (int k = 0; k < n.epsilon; ++k) {
    sum += static_cast<double>(
               __bfloat162float(p.dy[(t * n.epsilon + k) * n.phi + f])) *
           static_cast<double>(__bfloat162float(
               b[((static_cast<int64_t>(f) * n.gamma + g) * n.rho + r) *
                     n.epsilon +
                 k]));
  }
  dz[i] = sum * gate;
}

// grad[e, own, row, other, r] of x and dz (or dy and z).
__global__ void reference_grad(
    Reference p, bool is_a, const double* z, double* grad, int experts) {
  const auto& n = p.n;
  const int own = is_a ? n.gamma : n.phi;
  const int row = is_a ? n.alpha : n.epsilon;
  const int other = is_a ? n.phi : n.gamma;
  const int64_t size = static_cast<int64_t>(own) * row * other * n.rho;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size * experts) {
    return;
  }
  const int e = static_cast<int>(i / size);
  const int r = static_cast<int>(i % n.rho);
  const int o = static_cast<int>(i / n.rho % other);
  const int k = static_cast<int>(i / n.rho / other % row);
  const int w = static_cast<int>(i % size / n.rho / other / row);
  const Bf16* from = is_a ? p.x : p.dy;
  double sum = 0;
  for (int64_t pair = 0; pair < p.rows; ++pair) {
    if (p.experts != nullptr && p.experts[pair] != e) {
      continue;
    }
    const int64_t t = pair / p.active;
    const int g = is_a ? w : o;
    const int f = is_a ? o : w;
    sum +=
        static_cast<double>(__bfloat162float(from[(t * row + k) * own + w])) *
        z[((pair * n.gamma + g) * n.phi + f) * n.rho + r];
  }
  grad[i] = sum;
}

__global__ void reference_bias(
    const Bf16* dy, int64_t tokens, int width, double* sums) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (column < width) {
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      sum += static_cast<double>(__bfloat162float(dy[t * width + column]));
    }
    sums[column] = sum;
  }
}

int failures = 0;

double error_of(
    const std::vector<double>& ref,
    const std::vector<Bf16>& got,
    bool is_b,
    const Problem& p,
    double* largest) {
  const auto& n = p.sizes;
  double error = 0;
  double norm = 0;
  *largest = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    size_t at = i;
    if (is_b) {  // (phi, epsilon, gamma, rho) to (phi, gamma, rho, epsilon)
      const size_t gr = static_cast<size_t>(n.gamma) * n.rho;
      const size_t f = i / (n.epsilon * gr);
      at = (f * gr + i % gr) * n.epsilon + i / gr % n.epsilon;
    }
    const double v = __bfloat162float(got[at]);
    const double d = v - ref[i];
    error += d * d;
    norm += ref[i] * ref[i];
    *largest = std::isfinite(d) ? std::max(*largest, std::fabs(d)) : 1e30;
  }
  *largest /= std::sqrt(norm / static_cast<double>(ref.size()));
  return std::sqrt(error / norm);
}

void check(const Problem& p, const ek::DeviceLimits& limits, int repeats) {
  Work w(p, limits);
  const auto& n = p.sizes;
  const auto space = space_of(w);
  Buffer<char> workspace(space.bytes);
  const bool with_bias = sums_bias(p);
  Buffer<Bf16> bias(with_bias ? n.d_out() : 0);
  auto first = launch_of(w, space.splits, workspace.data, w.da.data, w.db.data);
  first.dbias = with_bias ? bias.data : nullptr;
  CHECK(run(w, first));
  CHECK(cudaDeviceSynchronize());
  double bias_error = 0;
  if (with_bias) {
    Buffer<double> expected(n.d_out());
    reference_bias<<<(n.d_out() + 255) / 256, 256>>>(
        w.dy.data, p.tokens, n.d_out(), expected.data);
    CHECK(cudaGetLastError());
    const std::vector<double> sums = expected.host();
    const std::vector<Bf16> got = bias.host();
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      const double d = __bfloat162float(got[i]) - sums[i];
      error += d * d;
      norm += sums[i] * sums[i];
    }
    bias_error = std::sqrt(error / norm);
  }
  const std::vector<Bf16> da = w.da.host();
  const std::vector<Bf16> db = w.db.host();
  int unequal = 0;
  for (int i = 0; i < repeats; ++i) {
    w.da.poison();
    w.db.poison();
    workspace.poison();
    CHECK(run(
        w, launch_of(w, space.splits, workspace.data, w.da.data, w.db.data)));
    const std::vector<Bf16> again = w.da.host();
    const std::vector<Bf16> b_again = w.db.host();
    unequal += std::memcmp(again.data(), da.data(), da.size() * 2) != 0 ||
               std::memcmp(b_again.data(), db.data(), db.size() * 2) != 0;
  }
  const int64_t z_size =
      p.rows() * static_cast<int64_t>(n.gamma) * n.phi * n.rho;
  Buffer<double> z(z_size);
  Buffer<double> dz(z_size);
  Buffer<double> ref_a(w.da.size);
  Buffer<double> ref_b(w.db.size);
  Buffer<int32_t> experts(w.host_experts);
  const Reference ref{
      n,
      p.rows(),
      std::max(1, p.active),
      w.x.data,
      w.dy.data,
      w.a.data,
      w.b.data,
      p.active > 0 ? experts.data : nullptr,
      p.active > 0 ? w.gates->data : nullptr};
  const auto blocks = [](size_t size) {
    return static_cast<unsigned>((size + 255) / 256);
  };
  reference_z<<<blocks(z_size), 256>>>(ref, z.data, dz.data);
  reference_grad<<<blocks(w.da.size), 256>>>(
      ref, true, dz.data, ref_a.data, p.experts);
  reference_grad<<<blocks(w.db.size), 256>>>(
      ref, false, z.data, ref_b.data, p.experts);
  CHECK(cudaGetLastError());
  double largest_a = 0;
  double largest_b = 0;
  double error_a = 0;
  double error_b = 0;
  // Experts one by one: one with few rows must not hide behind the others.
  const std::vector<double> all_a = ref_a.host();
  const std::vector<double> all_b = ref_b.host();
  for (int e = 0; e < p.experts; ++e) {
    const auto part = [&](const auto& v, int64_t size) {
      return std::vector(v.begin() + e * size, v.begin() + (e + 1) * size);
    };
    if (p.active > 0 && w.host_offsets[e] == w.host_offsets[e + 1]) {
      for (const auto& v : {part(da, w.a_size()), part(db, w.b_size())}) {
        for (const Bf16 value : v) {
          if (!(__bfloat162float(value) == 0.0F)) {
            error_a = 1e30;
          }
        }
      }
      continue;
    }
    double largest = 0;
    error_a = std::max(
        error_a,
        error_of(
            part(all_a, w.a_size()), part(da, w.a_size()), false, p, &largest));
    largest_a = std::max(largest_a, largest);
    error_b = std::max(
        error_b,
        error_of(
            part(all_b, w.b_size()), part(db, w.b_size()), true, p, &largest));
    largest_b = std::max(largest_b, largest);
  }
  const bool ok = error_a < 6e-3 && error_b < 6e-3 && error_a > 0 &&
                  largest_a < 0.1 && largest_b < 0.1 && unequal == 0 &&
                  bias_error < 3e-3;
  failures += ok ? 0 : 1;
  std::printf(
      "%s %-14s %d,%d|%d,%d|%d T %ld E %d k %d uneven %d splits %d: "
      "%.2e %.2e largest %.2e %.2e unequal %d bias %.2e\n",
      ok ? "ok  " : "FAIL",
      p.name,
      n.alpha,
      n.gamma,
      n.epsilon,
      n.phi,
      n.rho,
      static_cast<long>(p.tokens),
      p.experts,
      p.active,
      p.uneven,
      space.splits,
      error_a,
      error_b,
      largest_a,
      largest_b,
      unequal,
      bias_error);
}

double time_of(const Work& w, bool with_bias) {
  const auto space = space_of(w);
  Buffer<char> workspace(space.bytes);
  Buffer<Bf16> bias(w.p.sizes.d_out());
  auto launch =
      launch_of(w, space.splits, workspace.data, w.da.data, w.db.data);
  launch.dbias = with_bias ? bias.data : nullptr;
  return time_ms([&](int) { CHECK(run(w, launch)); });
}

void time_problem(const Problem& p, const ek::DeviceLimits& limits) {
  const Work w(p, limits);
  const double bytes =
      2.0 * static_cast<double>(p.rows()) * (p.sizes.d_in() + p.sizes.d_out());
  std::printf(
      "time %-14s T %-7ld E %-2d k %d %.4f ms, bytes at 4.2 TB/s %.4f",
      p.name,
      static_cast<long>(p.tokens),
      p.experts,
      p.active,
      time_of(w, false),
      bytes / 4.2e12 * 1e3);
  if (sums_bias(p)) {
    std::printf(", with bias %.4f", time_of(w, true));
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ek::DeviceLimits limits;
  CHECK(cudaDeviceGetAttribute(
      &limits.multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  CHECK(cudaDeviceGetAttribute(
      &limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  CHECK(cudaDeviceGetAttribute(
      &limits.major, cudaDevAttrComputeCapabilityMajor, 0));
  const std::vector<std::pair<const char*, ek::BttSizes>> shapes{
      {"1024", {32, 32, 32, 32, 1}},
      {"1024 to 4096", {32, 32, 64, 64, 1}},
      {"4096 to 1024", {64, 64, 32, 32, 1}},
      {"4096", {64, 64, 64, 64, 1}},
      {"2048", {32, 64, 64, 32, 1}},
      {"2048 b", {64, 32, 64, 32, 1}},
      {"2048 c", {64, 32, 32, 64, 1}},
      {"1024 rho 4", {32, 32, 32, 32, 4}},
      {"256", {16, 16, 16, 16, 1}},
      {"512", {16, 32, 32, 16, 1}},
      {"512 to 2048", {16, 32, 64, 32, 1}},
      {"2048 to 512", {32, 64, 32, 16, 1}},
      {"768", {24, 32, 32, 24, 1}},
      {"768 to 3072", {24, 32, 64, 48, 1}},
      {"1280", {32, 40, 40, 32, 1}},
      {"1536", {32, 48, 48, 32, 1}},
      {"odd", {20, 8, 12, 24, 3}}};
  bool small = false;
  bool timing = true;
  bool checking = true;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) {
      small = true;
    } else if (std::strcmp(argv[i], "--check") == 0) {
      timing = false;
    } else if (std::strcmp(argv[i], "--time") == 0) {
      checking = false;
    } else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (std::strcmp(argv[i], "--profile") == 0 && i + 3 < argc) {
      const std::string name = argv[++i];
      for (const auto& [shape, sizes] : shapes) {
        if (name == shape) {
          Problem p{shape, sizes, std::atoll(argv[i + 1])};
          p.experts = std::atoi(argv[i + 2]);
          p.active = p.experts > 1 ? 2 : 0;
          const Work w(p, limits);
          time_of(w, false);
        }
      }
      return 0;
    }
  }
  for (const auto& [name, sizes] : shapes) {
    if (!checking || (!only.empty() && only != name)) {
      continue;
    }
    ek::DeviceLimits few = limits;
    few.multiprocessors = 16;
    const int repeats = small ? 0 : 2;
    // Several tiles of few blocks, the last one partial; one token.
    check({name, sizes, small ? 77 : 1003}, few, repeats);
    if (!small) {
      check({name, sizes, 1}, limits, 1);
      check({name, sizes, 2049}, limits, 1);
    }
    check({name, sizes, small ? 50 : 301, 4, 2, 0}, limits, repeats);
    if (!small) {
      check({name, sizes, 40, 40, 3, 0}, few, repeats);
      check({name, sizes, 130, 7, 2, 1}, few, repeats);
      check({name, sizes, 130, 5, 1, 2}, few, repeats);
    }
  }
  std::printf("%d checks failed\n", failures);
  if (failures == 0 && timing && !small) {
    for (const auto& [name, sizes] : shapes) {
      if (!only.empty() && only != name) {
        continue;
      }
      for (const int64_t tokens : {1024, 8192, 32768, 65536}) {
        time_problem({name, sizes, tokens}, limits);
      }
      for (const int64_t tokens : {4096, 16384, 65536}) {
        if (tokens == 65536 && (sizes.d_in() > 1024 && sizes.d_out() > 1024)) {
          continue;
        }
        time_problem({name, sizes, tokens, 16, 2, 0}, limits);
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
