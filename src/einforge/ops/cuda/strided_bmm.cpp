#include "einforge/ops/cuda/strided_bmm.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "einforge/ops/contraction.h"
#include "einforge/ops/cuda/batched_transpose.h"
#include "einforge/ops/sum_of_rows.h"

// A batched matmul reads and writes matrices with a stride for the batch, one
// for the rows, and none for the columns (or the other way round). So a
// permutation is free where it can be written as such strides, and the layout
// of z is chosen for that.
namespace einforge::ops {
namespace {

using torch::Tensor;

void bmm_into(Tensor out, const Tensor& a, const Tensor& b) {
  torch::bmm_out(out, a, b);
}

bool is_half(const Tensor& tensor) {
  return tensor.scalar_type() == torch::kBFloat16 ||
         tensor.scalar_type() == torch::kFloat16;
}

// left (m, k) times each token of right (tokens, k, n).
Tensor multiply_tokens(const Tensor& left, const Tensor& right) {
  const auto tokens = right.size(0);
  if (right.size(2) == 1) {
    return right.reshape({tokens, right.size(1)}).mm(left.t()).unsqueeze(2);
  }
  // Far from any limit of a grid's size.
  constexpr std::int64_t kMostProducts = 32768;
  Tensor out =
      torch::empty({tokens, left.size(0), right.size(2)}, right.options());
  for (std::int64_t at = 0; at < tokens; at += kMostProducts) {
    const auto count = std::min(kMostProducts, tokens - at);
    bmm_into(
        out.narrow(0, at, count),
        left.unsqueeze(0).expand({count, -1, -1}),
        right.narrow(0, at, count));
  }
  return out;
}

// Sums a batch of partial results. Partial sums of half-width operands are
// kept in float32 where torch can (CUDA).
Tensor sum_of_products(const Tensor& a, const Tensor& b) {
  const Tensor partials = a.is_cuda() && is_half(a)
                              ? torch::bmm(a, b, torch::kFloat32)
                              : torch::bmm(a, b);
  return partials.sum(0).to(a.scalar_type());
}

// a^T b for many rows and few columns, a (rows, m) and b (rows, n): split over
// the rows until the products fill a device. The split depends on sizes only.
Tensor tall_product(const Tensor& a, const Tensor& b) {
  constexpr std::int64_t kTile = 128;      // of cuBLAS
  constexpr std::int64_t kProducts = 256;  // some two for a multiprocessor
  constexpr std::int64_t kLeastRows = 256;
  const auto rows = a.size(0);
  const auto tiles =
      ((a.size(1) + kTile - 1) / kTile) * ((b.size(1) + kTile - 1) / kTile);
  auto splits = static_cast<std::int64_t>(
      std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(
          std::min(kProducts / tiles, rows / kLeastRows), 1))));
  while (rows % splits != 0) {
    splits /= 2;
  }
  if (splits == 1) {
    return a.t().mm(b);
  }
  return sum_of_products(
      a.view({splits, rows / splits, a.size(1)}).transpose(1, 2),
      b.view({splits, rows / splits, b.size(1)}));
}

// gamma = phi = 1: a sum over r of Kronecker products,
//
//   y[t,u,v] = sum_{i,s,r} a[i,u,r] b[s,v,r] x[t,i,s]
struct Kronecker {
  Tensor a;
  Tensor b;

  Kronecker transposed() const {
    return {a.transpose(0, 1), b.transpose(0, 1)};
  }
};

struct KroneckerWanted {
  bool y = false;
  bool x = false;
  bool a = false;
  bool b = false;
};

struct KroneckerResults {
  Tensor y;
  Tensor x;
  Tensor a;
  Tensor b;
};

// y with a contracted first, the gradient of x with b first, and the cores'
// gradients. The order b first, then a, is the transposed layer's: its x is
// this one's gradient of y.
KroneckerResults run(
    const Kronecker& k,
    const Tensor& x,   // (tokens, i s), for y, a and b
    const Tensor& dy,  // (tokens, u v), for x, a and b
    const KroneckerWanted& wanted) {
  const auto i = k.a.size(0);
  const auto u = k.a.size(1);
  const auto r = k.a.size(2);
  const auto s = k.b.size(0);
  const auto v = k.b.size(1);
  const auto tokens = x.defined() ? x.size(0) : dy.size(0);
  KroneckerResults results;
  if (wanted.y || wanted.b) {
    const Tensor z =  // (t, u r, s), so (t u, r s)
        multiply_tokens(
            k.a.permute({1, 2, 0}).reshape({u * r, i}), x.view({tokens, i, s}))
            .view({tokens * u, r * s});
    if (wanted.y) {
      results.y = z.mm(k.b.permute({2, 0, 1}).reshape({r * s, v}))
                      .view({tokens, u * v});
    }
    if (wanted.b) {
      results.b = tall_product(z, dy.view({tokens * u, v}))
                      .view({r, s, v})
                      .permute({1, 2, 0});
    }
  }
  if (!wanted.x && !wanted.a) {
    return results;
  }
  // The sum over (t, s) of x and dz is one product where (t, s) is one index
  // of both: for s of 1, or for x permuted. A product a token and their sum
  // move less than that where they have fewer elements than x.
  const bool permute = wanted.a && s > 1 && u * r >= s;
  Tensor dz;  // (t, columns, s)
  Tensor a;   // (i, columns)
  if (permute) {
    dz = multiply_tokens(  // (t, s r, u), so (t, s, r u)
             k.b.permute({0, 2, 1}).reshape({s * r, v}),
             dy.view({tokens, u, v}).transpose(1, 2))
             .view({tokens, s, r * u})
             .transpose(1, 2);
    a = k.a.permute({0, 2, 1}).reshape({i, r * u});
  } else {
    dz = dy.view({tokens * u, v})
             .mm(k.b.permute({1, 2, 0}).reshape({v, r * s}))
             .view({tokens, u * r, s});
    a = k.a.reshape({i, u * r});
  }
  if (wanted.x) {
    results.x = multiply_tokens(a, dz).view({tokens, i * s});
  }
  if (permute) {
    results.a =
        tall_product(
            x.view({tokens, i, s}).transpose(1, 2).reshape({tokens * s, i}),
            dz.transpose(1, 2).reshape({tokens * s, r * u}))
            .view({i, r, u})
            .transpose(1, 2);
  } else if (wanted.a) {
    const Tensor da =
        s == 1 ? tall_product(x, dz.view({tokens, u * r}))
               : sum_of_products(x.view({tokens, i, s}), dz.transpose(1, 2));
    results.a = da.view({i, u, r});
  }
  return results;
}

bool is_kronecker(const structure::Sizes& sizes) {
  return sizes.gamma == 1 && sizes.phi == 1;
}

Kronecker kronecker_of(
    const structure::Sizes& n, const Tensor& core_a, const Tensor& core_b) {
  return {
      core_a.view({n.alpha, n.delta, n.rho}),
      core_b.view({n.beta, n.epsilon, n.rho})};
}

Tensor kronecker_forward(
    const Contraction& c, const Kronecker& k, const Tensor& x) {
  return c.ab() ? run(k, x, Tensor(), {.y = true}).y
                : run(k.transposed(), Tensor(), x, {.x = true}).x;
}

EinsumLinearGradients kronecker_backward(
    const Contraction& c,
    const Kronecker& k,
    const Tensor& grad,
    const Tensor& x,
    const GradientMask& mask) {
  KroneckerResults found;
  if (c.ab()) {
    found = run(k, x, grad, {.x = mask[0], .a = mask[1], .b = mask[2]});
  } else {
    found = run(
        k.transposed(), grad, x, {.y = mask[0], .a = mask[1], .b = mask[2]});
    found.x = found.y;
    found.a = mask[1] ? found.a.transpose(0, 1) : found.a;
    found.b = mask[2] ? found.b.transpose(0, 1) : found.b;
  }
  const auto core = [](const Tensor& gradient) {  // (in, 1, out, 1, r)
    return gradient.defined() ? gradient.unsqueeze(1).unsqueeze(3) : gradient;
  };
  return {.x = found.x, .core_a = core(found.a), .core_b = core(found.b)};
}

using kernels::cuda::BatchedTransposeShape;

// Any sizes. z lies as (u, f, r, g, s, t): the first product writes rows (u, f,
// r) and columns (s, t) for each g, the second reads rows (r, g, s) and columns
// t for each (u, f).
struct Layout {
  Contraction c;
  std::int64_t tokens;

  std::int64_t columns() const { return c.second_in * tokens; }
  std::int64_t rows() const { return c.first_out * c.phi * c.rho; }
  std::int64_t products() const { return c.first_out * c.phi; }
  std::int64_t depth() const { return c.rho * c.gamma * c.second_in; }

  // z for each of the first products, (g, u f r, s t), and of the second,
  // (u f, r g s, t).
  Tensor by_gamma(const Tensor& z) const {
    return z.view({rows(), c.gamma, columns()}).transpose(0, 1);
  }
  Tensor by_phi(const Tensor& z) const {
    return z.view({products(), depth(), tokens});
  }
  Tensor empty(const Tensor& like) const {
    return torch::empty({rows() * c.gamma * columns()}, like.options());
  }

  // x (t, i, s, g), or (t, s, i, g) in the order BA, as batches (g, s).
  BatchedTransposeShape input_batches() const {
    return {
        .tokens = tokens,
        .outer = static_cast<int>(c.second_in),
        .inner = static_cast<int>(c.gamma),
        .columns = static_cast<int>(c.first_in),
        .columns_first = c.ab(),
        .outer_batch = 1,
        .inner_batch = static_cast<int>(c.second_in)};
  }
  // y (t, u, v, f), or (t, v, u, f) in the order BA, as batches (u, f).
  BatchedTransposeShape output_batches() const {
    return {
        .tokens = tokens,
        .outer = static_cast<int>(c.first_out),
        .inner = static_cast<int>(c.phi),
        .columns = static_cast<int>(c.second_out),
        .columns_first = !c.ab(),
        .outer_batch = static_cast<int>(c.phi),
        .inner_batch = 1};
  }

  Tensor input(const Tensor& x) const {  // (g, s t, i)
    const Tensor batches = fused::to_batches(input_batches(), x);
    return (batches.defined() ? batches
                              : c.split_input(x).permute({3, 2, 0, 1}))
        .reshape({c.gamma, columns(), c.first_in});
  }
  Tensor join_input(const Tensor& batches) const {  // (g, s t, i) to x
    const Tensor rows = fused::to_rows(input_batches(), batches);
    return rows.defined()
               ? rows
               : c.join_input(
                     batches.view({c.gamma, c.second_in, tokens, c.first_in})
                         .permute({2, 3, 1, 0}));
  }
  Tensor output(const Tensor& y) const {  // (u f, t, v)
    const Tensor batches = fused::to_batches(output_batches(), y);
    return (batches.defined() ? batches
                              : c.split_output(y).permute({1, 3, 0, 2}))
        .reshape({products(), tokens, c.second_out});
  }
  Tensor join_output(const Tensor& batches) const {  // (u f, t, v) to y
    const Tensor rows = fused::to_rows(output_batches(), batches);
    return rows.defined()
               ? rows
               : c.join_output(
                     batches.view({c.first_out, c.phi, tokens, c.second_out})
                         .permute({2, 0, 3, 1}));
  }
  // The second core, (u f, r g s, v), the same for each u.
  Tensor second(const Tensor& core) const {
    return core.permute({3, 4, 1, 0, 2})
        .reshape({1, c.phi, depth(), c.second_out})
        .expand({c.first_out, -1, -1, -1})
        .reshape({products(), depth(), c.second_out});
  }
  Tensor z(const Tensor& input, const Tensor& first) const {
    Tensor z = empty(input);
    bmm_into(by_gamma(z), first.transpose(1, 2), input.transpose(1, 2));
    return z;
  }
};

Tensor general_forward(
    const Layout& l,
    const Tensor& x,
    const Tensor& first,
    const Tensor& second) {
  const Contraction& c = l.c;
  const Tensor z = l.by_phi(l.z(l.input(x), c.pack_first(first)));
  const Tensor core = l.second(second);
  if (c.phi == 1 && c.ab()) {  // y lies as the product can write it
    Tensor y = torch::empty({l.tokens, c.d_out()}, x.options());
    bmm_into(
        y.view({l.tokens, c.first_out, c.second_out}).transpose(0, 1),
        z.transpose(1, 2),
        core);
    return y;
  }
  return l.join_output(torch::bmm(z.transpose(1, 2), core));
}

EinsumLinearGradients general_backward(
    const Layout& l,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction& c = l.c;
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  const auto [first_core, second_core] = c.ordered(core_a, core_b);
  const Tensor first = c.pack_first(first_core);
  const Tensor dy = l.output(grad);
  const Tensor input = first_asked || second_asked ? l.input(x) : Tensor();
  EinsumLinearGradients result;
  Tensor grad_first;
  Tensor grad_second;
  if (second_asked) {
    const Tensor grads = torch::bmm(l.by_phi(l.z(input, first)), dy)
                             .view(
                                 {c.first_out,
                                  c.phi,
                                  c.rho,
                                  c.gamma,
                                  c.second_in,
                                  c.second_out});
    grad_second = (c.first_out == 1 ? grads.squeeze(0) : grads.sum(0))
                      .permute({3, 2, 4, 0, 1});
  }
  if (mask[0] || first_asked) {
    const Tensor core = l.second(second_core);
    const Tensor dz =
        l.by_gamma(torch::bmm(core, dy.transpose(1, 2))).transpose(1, 2);
    if (first_asked) {
      grad_first = c.unpack_first(torch::bmm(input.transpose(1, 2), dz));
    }
    if (mask[0]) {
      result.x = l.join_input(torch::bmm(dz, first.transpose(1, 2)));
    }
  }
  std::tie(result.core_a, result.core_b) = c.ordered(grad_first, grad_second);
  return result;
}

Tensor forward(
    const EinsumLinearProblem& problem,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const std::optional<Tensor>& bias) {
  const Contraction c(problem.sizes);
  const auto [first, second] = c.ordered(core_a, core_b);
  const Tensor y =
      is_kronecker(problem.sizes)
          ? kronecker_forward(c, kronecker_of(problem.sizes, core_a, core_b), x)
          : general_forward({c, problem.tokens}, x, first, second);
  return bias ? y + *bias : y;
}

EinsumLinearGradients backward(
    const EinsumLinearProblem& problem,
    const Tensor& grad,
    const Tensor& x,
    const Tensor& core_a,
    const Tensor& core_b,
    const GradientMask& mask) {
  const Contraction c(problem.sizes);
  EinsumLinearGradients result =
      is_kronecker(problem.sizes)
          ? kronecker_backward(
                c, kronecker_of(problem.sizes, core_a, core_b), grad, x, mask)
          : general_backward(
                {c, problem.tokens}, grad, x, core_a, core_b, mask);
  if (mask[3]) {
    result.bias = sum_of_rows(grad, grad.scalar_type());
  }
  return result;
}

}  // namespace

EinsumLinearKernel strided_kernel() {
  return {
      .name = "strided",
      .supports = [](const EinsumLinearProblem&) { return true; },
      .forward = forward,
      .backward = backward};
}

}  // namespace einforge::ops
