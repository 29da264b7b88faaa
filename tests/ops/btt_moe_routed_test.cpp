// A mixture together with its router, against the formulas in float64.
#include "einforge/ops/btt_moe_routed.h"

#include <atomic>
#include <thread>

#include "einforge/ops/btt_moe_linear.h"
#include "einforge/ops/btt_moe_table.h"
#include "tests/ops/testing.h"

namespace einforge {
namespace {

using structure::Sizes;
using testing::Tensor;

struct Case {
  Sizes sizes;
  std::int64_t tokens;
  std::int64_t experts;
  std::int64_t active;
  ops::MoeRouteOptions options = {};
};

std::string name_of(const Case& c) {
  return fmt::format(
      "d {}, {} tokens, {} of {}{}",
      c.sizes.d_in(),
      c.tokens,
      c.active,
      c.experts,
      c.options.softmax_first.value_or(false) ? ", softmax first" : "");
}

// Leaves, and the gradients of what comes out.
struct Operands {
  Tensor x;
  Tensor router;
  Tensor core_a;
  Tensor core_b;
  Tensor bias;
  Tensor y_grad;
  Tensor logits_grad;
  Tensor gates_grad;

  std::vector<Tensor> leaves() const {
    return {x, router, core_a, core_b, bias};
  }

  Operands to(torch::Device device, torch::ScalarType dtype) const {
    const auto wide =
        dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    const auto leaf = [&](const Tensor& tensor, torch::ScalarType as) {
      return tensor.detach().to(device, as).requires_grad_();
    };
    const auto with_layout = [&](const Tensor& tensor) {
      return tensor.detach().to(device, dtype);
    };
    return {
        leaf(x, dtype),
        leaf(router, wide),
        with_layout(core_a).requires_grad_(),
        with_layout(core_b).requires_grad_(),
        leaf(bias, dtype),
        y_grad.to(device, dtype),
        logits_grad.to(device, wide),
        gates_grad.to(device, wide)};
  }
};

// Exact in `dtype`; scores of order 1.
Operands random_operands(const Case& c, torch::ScalarType dtype) {
  const Sizes& s = c.sizes;
  const auto normal = [](c10::IntArrayRef sizes, std::int64_t fan_in) {
    return torch::randn(sizes) / std::sqrt(static_cast<double>(fan_in));
  };
  const Operands o{
      normal({c.tokens, s.d_in()}, 1),
      normal({c.experts, s.d_in()}, s.d_in()),
      ops::expert_core_a_layout(
          normal({c.experts, s.alpha, s.gamma, s.delta, s.phi, s.rho}, s.alpha),
          s),
      ops::expert_core_b_layout(
          normal(
              {c.experts, s.beta, s.gamma, s.epsilon, s.phi, s.rho}, s.gamma),
          s),
      normal({s.d_out()}, 1),
      normal({c.tokens, s.d_out()}, 1),
      normal({c.tokens, c.experts}, 1),
      normal({c.tokens, c.active}, 1)};
  return o.to(torch::kCPU, dtype);
}

struct Results {
  ops::BttMoeRouted out;
  std::vector<Tensor> grads;  // of the leaves
};

Results run(const Case& c, const Operands& o, bool losses) {
  Results result;
  ops::MoeRouteOptions options = c.options;
  if (options.bias) {
    options.bias = options.bias->to(o.x.device());
  }
  result.out = ops::btt_moe_routed(
      o.x, o.router, o.core_a, o.core_b, c.active, options, o.bias);
  std::vector<Tensor> outputs{result.out.y};
  std::vector<Tensor> grads{o.y_grad};
  if (losses) {
    outputs.insert(
        outputs.end(), {result.out.logits, result.out.routing.gates});
    grads.insert(grads.end(), {o.logits_grad, o.gates_grad});
  }
  result.grads = torch::autograd::grad(outputs, o.leaves(), grads);
  return result;
}

// The same by the formulas, for the experts that were chosen.
Results definition(
    const Case& c, const Operands& o, const Tensor& experts, bool losses) {
  const Sizes& s = c.sizes;
  const Tensor chosen = experts.to(torch::kInt64);
  const Tensor logits = o.x.matmul(o.router.t());
  const bool of_all = c.active == 1 || c.options.softmax_first.value_or(false);
  const Tensor gates = of_all ? logits.softmax(1).gather(1, chosen)
                              : logits.gather(1, chosen).softmax(1);
  Tensor y = torch::zeros({c.tokens, s.d_out()}, o.x.options());
  for (std::int64_t e = 0; e < c.experts; ++e) {
    const Tensor mine = (chosen == e).any(1).nonzero().view({-1});
    const Tensor gate =
        (gates * (chosen == e)).sum(1, /*keepdim=*/true).index_select(0, mine);
    const Tensor x =
        o.x.index_select(0, mine).view({-1, s.alpha, s.beta, s.gamma});
    const Tensor z = torch::einsum("tabg,agdfr->tbgdfr", {x, o.core_a[e]});
    const Tensor rows = torch::einsum("tbgdfr,bgefr->tdef", {z, o.core_b[e]})
                            .reshape({-1, s.d_out()});
    y = y.index_add(0, mine, gate * rows);
  }
  y = y + o.bias;
  std::vector<Tensor> outputs{y};
  std::vector<Tensor> grads{o.y_grad};
  if (losses) {
    outputs.insert(outputs.end(), {logits, gates});
    grads.insert(grads.end(), {o.logits_grad, o.gates_grad});
  }
  return {
      {y.detach(), logits.detach(), {experts, gates.detach()}},
      torch::autograd::grad(outputs, o.leaves(), grads)};
}

// The largest error of a row, against the row and a share of the mean row.
void expect_rows_close(
    const std::string& what,
    const Tensor& got,
    const Tensor& expected,
    double tolerance) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const auto rows = [](const Tensor& tensor) {
    const Tensor wide = tensor.detach().to(torch::kFloat64);
    return wide.dim() > 1 ? wide.flatten(1) : wide.unsqueeze(0);
  };
  const Tensor error = (rows(got) - rows(expected)).norm(2, 1);
  const Tensor size = rows(expected).norm(2, 1);
  const Tensor share = error / (size + 0.1 * size.mean() + 1e-30);
  EXPECT_LE(share.nan_to_num(1e30).max().item<double>(), tolerance)
      << what << ", row " << share.nan_to_num(1e30).argmax().item<double>();
}

void check(const Case& c, torch::DeviceType device, torch::ScalarType dtype) {
  const Operands exact = random_operands(c, dtype);
  const Operands here = exact.to(device, dtype);
  const Operands wide = exact.to(device, torch::kFloat64);
  const double sharp = dtype == torch::kFloat64 ? 1e-12 : 1e-5;
  const double unit = dtype == torch::kBFloat16 ? 2e-2 : sharp;
  // Tensor cores add 16 products to a float32 sum and cut off what does not
  // fit, up to 2^-23 of it; twice that for sums larger than the last.
  const double scores =
      dtype == torch::kBFloat16
          ? std::max(sharp, static_cast<double>(c.sizes.d_in()) / 16 * 0x1p-22)
          : sharp;
  for (const bool losses : {false, true}) {
    const std::string what = name_of(c) + (losses ? ", losses" : "");
    const Results got = run(c, here, losses);
    const Tensor experts = got.out.routing.experts;
    const Results expected = definition(c, wide, experts, losses);
    EXPECT_EQ(got.out.y.scalar_type(), dtype) << what;
    EXPECT_EQ(experts.scalar_type(), torch::kInt32) << what;
    expect_rows_close(what + " y", got.out.y, expected.out.y, unit);
    expect_rows_close(
        what + " logits", got.out.logits, expected.out.logits, scores);
    expect_rows_close(
        what + " gates",
        got.out.routing.gates,
        expected.out.routing.gates,
        scores);
    // None that is left out is better than one that is taken.
    Tensor score = expected.out.logits;
    if (c.options.bias) {
      score = score + c.options.bias->to(score.device());
    }
    const Tensor chosen = experts.to(torch::kInt64);
    const Tensor least = std::get<0>(score.gather(1, chosen).min(1));
    const Tensor rest = std::get<0>(score.scatter(1, chosen, -1e9).max(1));
    EXPECT_TRUE((rest <= least + scores).all().item<bool>()) << what;
    const char* const names[] = {
        " x", " router", " core_a", " core_b", " bias"};
    for (std::size_t i = 0; i < std::size(names); ++i) {
      EXPECT_EQ(got.grads[i].scalar_type(), here.leaves()[i].scalar_type());
      expect_rows_close(what + names[i], got.grads[i], expected.grads[i], unit);
    }
    const Results again = run(c, here, losses);
    EXPECT_TRUE(torch::equal(again.out.y, got.out.y)) << what;
    for (std::size_t i = 0; i < std::size(names); ++i) {
      EXPECT_TRUE(torch::equal(again.grads[i], got.grads[i]))
          << what << names[i];
    }
  }
}

// All tokens take the first experts.
ops::MoeRouteOptions first_ones(std::int64_t experts) {
  return {.bias = -1e4 * torch::arange(experts, torch::kFloat32)};
}

const Sizes kMonarch{8, 1, 8, 1, 8, 8, 1};
const Sizes k256{16, 1, 16, 1, 16, 16, 1};
const Sizes kUp256{16, 1, 16, 1, 32, 32, 1};
const Sizes kDown256{32, 1, 32, 1, 16, 16, 1};
const Sizes k512{32, 1, 16, 1, 32, 16, 1};
const Sizes kFull512{16, 1, 32, 1, 32, 16, 1};
const Sizes k1024{32, 1, 32, 1, 32, 32, 1};
const Sizes kUp{32, 1, 32, 1, 64, 64, 1};
const Sizes kDown{64, 1, 64, 1, 32, 32, 1};
const Sizes k2048{64, 1, 32, 1, 64, 32, 1};
const Sizes kFull2048{32, 1, 64, 1, 64, 32, 1};
const Sizes k4096{64, 1, 64, 1, 64, 64, 1};
// Smaller than the kernels that take them.
const Sizes k384{16, 1, 24, 1, 24, 16, 1};
const Sizes k768{24, 1, 32, 1, 32, 24, 1};
const Sizes kUp768{32, 1, 24, 1, 64, 48, 1};
const Sizes kDown768{64, 1, 48, 1, 32, 24, 1};
const Sizes k1600{40, 1, 40, 1, 40, 40, 1};
const ops::MoeRouteOptions kOfAll{.softmax_first = true};

class MoeRouted : public testing::DeviceTest {
 protected:
  MoeRouted() { torch::manual_seed(17); }
};

EINFORGE_ON_EACH_DEVICE(MoeRouted);

TEST_P(MoeRouted, AgreesWithTheFormulas) {
  for (const Case& c :
       {Case{kMonarch, 37, 8, 2},
        Case{kMonarch, 1, 2, 1},
        Case{kMonarch, 100, 16, 4, kOfAll},
        Case{kMonarch, 50, 8, 2, first_ones(8)}}) {
    check(c, GetParam(), torch::kFloat64);
    check(c, GetParam(), torch::kFloat32);
  }
}

TEST_P(MoeRouted, AgreesInBfloat16) {
  if (GetParam() == torch::kCPU) {
    check({kMonarch, 37, 8, 2}, GetParam(), torch::kBFloat16);
    return;
  }
  for (const Case& c :
       {Case{kMonarch, 37, 8, 2},  // no kernel has all of it
        Case{k256, 1000, 16, 2},
        Case{k256, 37, 64, 4},
        Case{k256, 500, 2, 1},
        Case{kUp256, 1000, 16, 2},
        Case{kDown256, 1000, 16, 2},
        Case{k512, 1000, 16, 2},
        Case{kFull512, 1000, 16, 2},
        Case{k1024, 1, 2, 1},
        Case{k1024, 37, 8, 2},
        Case{k1024, 5000, 16, 2},
        Case{k1024, 1000, 64, 4},
        Case{k1024, 1000, 33, 2, kOfAll},
        Case{k1024, 1000, 16, 2, first_ones(16)},
        Case{k2048, 1000, 16, 1, kOfAll},
        Case{k2048, 37, 16, 4},
        Case{kFull2048, 1000, 16, 2},
        Case{kUp, 1000, 16, 2},
        Case{kDown, 1000, 16, 2},
        Case{k4096, 1000, 16, 2},
        Case{k4096, 37, 64, 4, kOfAll},
        Case{k384, 1000, 16, 2},
        Case{k768, 1, 2, 1},
        Case{k768, 1000, 16, 2},
        Case{k768, 37, 64, 4},
        Case{k768, 1000, 16, 2, first_ones(16)},
        Case{kUp768, 1000, 16, 2},
        Case{kDown768, 1000, 16, 2},
        Case{k1600, 1000, 16, 2}}) {
    check(c, GetParam(), torch::kBFloat16);
  }
}

// What this kernel takes, in both passes. Compiles its kernels.
bool row_supports(std::string_view name, const Case& c) {
  ops::BttMoeProblem problem{
      .expert =
          {.sizes = c.sizes,
           .tokens = c.tokens,
           .dtype = torch::kBFloat16,
           .device = torch::kCUDA},
      .experts = c.experts,
      .active = c.active};
  const auto table = ops::cuda_moe_kernels();
  const auto row = std::ranges::find(table, name, &ops::BttMoeKernel::name);
  const bool forward = row->supports(problem);
  problem.expert.pass = ops::Pass::kBackward;
  return forward && row->supports(problem);
}

// Any sizes, 1 to 128 experts, 1 to 8 of them active; of each, several numbers
// of tokens and ways to choose. EINFORGE_RANDOM_CASES says how many sizes.
TEST_P(MoeRouted, TwoPassesAgreeAtRandomPoints) {
  if (GetParam() == torch::kCPU) {
    GTEST_SKIP() << "about kernels on a GPU";
  }
  const char* given = std::getenv("EINFORGE_RANDOM_CASES");
  const std::size_t count = given == nullptr ? 8 : std::stoul(given);
  base::Random random(23);
  const auto below = [&](int end) {
    return static_cast<std::int64_t>(random.below(static_cast<uint64_t>(end)));
  };
  std::vector<Case> cases;
  while (cases.size() < count) {
    const auto side = [&] { return 2 + below(below(3) == 0 ? 130 : 70); };
    const Sizes s{side(), 1, side(), 1, side(), side(), below(6) == 0 ? 2 : 1};
    const std::int64_t experts = 2 + below(below(2) == 0 ? 15 : 127);
    const std::int64_t active =
        1 + below(static_cast<int>(std::min<std::int64_t>(experts, 8)));
    // Of a few tokens an expert's row of the router's gradient is a difference
    // of rounded numbers.
    const std::int64_t tokens =
        std::max(2 * experts, 1 + below(below(2) == 0 ? 60 : 1500));
    if (s.d_in() % 8 == 0 && s.d_out() % 8 == 0) {
      cases.push_back({s, tokens, experts, active});
    }
  }
  // Their kernels side by side.
  std::atomic<std::size_t> next{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
      threads.emplace_back([&] {
        for (std::size_t at = next++; at < cases.size(); at = next++) {
          row_supports("two_pass", cases[at]);
        }
      });
    }
  }
  const ops::ForcedKernel forced("two_pass");
  int taken = 0;
  for (const Case& sized : cases) {
    if (!row_supports("two_pass", sized)) {
      continue;
    }
    ++taken;
    for (int i = 0; i < 4; ++i) {
      Case c = sized;
      c.tokens -= below(static_cast<int>(c.tokens / 2 + 1));
      if (i == 1 || (c.active == 1 && c.experts > 1)) {
        c.options = kOfAll;
      }
      if (i == 2) {
        c.options.bias = first_ones(c.experts).bias;
      }
      check(c, GetParam(), torch::kBFloat16);
    }
    if (HasFatalFailure()) {
      return;
    }
  }
  EXPECT_GE(4 * taken, 3 * static_cast<int>(cases.size()));
}

// For compute-sanitizer, with the CPU's reference: few tokens; slots that are
// reduced in place, and rows that are summed.
TEST_P(MoeRouted, SmallMixtures) {
  if (GetParam() == torch::kCPU) {
    GTEST_SKIP() << "about kernels on a GPU";
  }
  for (const Case& c :
       {Case{k256, 50, 4, 2},
        Case{kFull512, 50, 4, 4},
        Case{kUp256, 50, 4, 1},
        Case{k384, 50, 4, 2},
        Case{kFull2048, 20, 4, 2}}) {
    const Operands exact = random_operands(c, torch::kBFloat16);
    const Results got =
        run(c, exact.to(GetParam(), torch::kBFloat16), /*losses=*/true);
    const Results expected = definition(
        c,
        exact.to(torch::kCPU, torch::kFloat64),
        got.out.routing.experts.cpu(),
        /*losses=*/true);
    expect_rows_close(name_of(c), got.out.y.cpu(), expected.out.y, 2e-2);
    for (std::size_t i = 0; i < expected.grads.size(); ++i) {
      expect_rows_close(
          fmt::format("{}, gradient {}", name_of(c), i),
          got.grads[i].cpu(),
          expected.grads[i],
          2e-2);
    }
  }
}

TEST_P(MoeRouted, RefusesWhatDoesNotFit) {
  const Case c{kMonarch, 5, 8, 2};
  const Operands o =
      random_operands(c, torch::kFloat32).to(GetParam(), torch::kFloat32);
  EXPECT_THROW(
      ops::btt_moe_routed(
          o.x, o.router, o.core_a, o.core_b, 2, {}, o.bias.slice(0, 1)),
      c10::Error);
  EXPECT_THROW(
      ops::btt_moe_routed(
          o.x, o.router.slice(0, 1), o.core_a, o.core_b, 2, {}, o.bias),
      c10::Error);
  EXPECT_THROW(
      ops::btt_moe_routed(
          o.x,
          o.router,
          o.core_a,
          o.core_b,
          2,
          {.bias = torch::zeros({7}, o.router.options())},
          o.bias),
      c10::Error);
}

// The router's gradients alone, and none of what needs none.
TEST_P(MoeRouted, ComputesWhatIsAskedFor) {
  const auto dtype =
      GetParam() == torch::kCUDA ? torch::kBFloat16 : torch::kFloat32;
  const Case c{k1024, 77, 8, 2};
  const Operands all = random_operands(c, dtype).to(GetParam(), dtype);
  const Results expected = run(c, all, /*losses=*/true);
  for (unsigned bits = 1; bits < 32; ++bits) {
    const Operands o = all.to(GetParam(), dtype);
    std::vector<Tensor> asked;
    for (unsigned i = 0; i < 5; ++i) {
      if ((bits >> i & 1) != 0) {
        asked.push_back(o.leaves()[i]);
      } else {
        o.leaves()[i].requires_grad_(false);
      }
    }
    const auto out = ops::btt_moe_routed(
        o.x, o.router, o.core_a, o.core_b, c.active, {}, o.bias);
    const bool scored = (bits & 3) != 0;
    const auto grads = scored
                           ? torch::autograd::grad(
                                 {out.y, out.logits, out.routing.gates},
                                 asked,
                                 {o.y_grad, o.logits_grad, o.gates_grad})
                           : torch::autograd::grad({out.y}, asked, {o.y_grad});
    std::size_t next = 0;
    for (unsigned i = 0; i < 5; ++i) {
      if ((bits >> i & 1) != 0) {
        expect_rows_close(
            fmt::format("gradient {} of {}", i, bits),
            grads[next++],
            expected.grads[i],
            1e-2);
      }
    }
  }
}

// A loss of the scores alone, as that of the balance is.
TEST_P(MoeRouted, TakesALossOfTheScoresAlone) {
  const auto dtype =
      GetParam() == torch::kCUDA ? torch::kBFloat16 : torch::kFloat32;
  const Case c{k1024, 77, 8, 2};
  const Operands o = random_operands(c, dtype).to(GetParam(), dtype);
  const auto out =
      ops::btt_moe_routed(o.x, o.router, o.core_a, o.core_b, c.active);
  const auto grads =
      torch::autograd::grad({out.logits}, {o.x, o.router}, {o.logits_grad});
  const auto wide = [](const Tensor& t) {
    return t.detach().to(torch::kFloat64);
  };
  const Tensor g = wide(o.logits_grad);
  expect_rows_close(
      "x",
      grads[0],
      g.matmul(wide(o.router)),
      dtype == torch::kBFloat16 ? 1e-2 : 1e-5);
  expect_rows_close("router", grads[1], g.t().matmul(wide(o.x)), 1e-5);
}

// A gradient that is asked for with a graph is the same.
TEST_P(MoeRouted, HasTheSameGradientsWithAGraph) {
  const auto dtype =
      GetParam() == torch::kCUDA ? torch::kBFloat16 : torch::kFloat32;
  const Case c{k1024, 77, 8, 2};
  const Operands o = random_operands(c, dtype).to(GetParam(), dtype);
  const auto out = ops::btt_moe_routed(
      o.x, o.router, o.core_a, o.core_b, c.active, {}, o.bias);
  const std::vector<Tensor> outputs{out.y, out.logits};
  const std::vector<Tensor> given{o.y_grad, o.logits_grad};
  const auto graph = torch::autograd::grad(
      outputs,
      o.leaves(),
      given,
      /*retain_graph=*/true,
      /*create_graph=*/true);
  const auto plain = torch::autograd::grad(outputs, o.leaves(), given);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    expect_rows_close(fmt::format("gradient {}", i), graph[i], plain[i], 1e-2);
  }
}

TEST_P(MoeRouted, TakesNoTokens) {
  const Case c{kMonarch, 0, 8, 2};
  const Operands o =
      random_operands(c, torch::kFloat32).to(GetParam(), torch::kFloat32);
  const Results got = run(c, o, /*losses=*/false);
  EXPECT_EQ(got.out.y.sizes(), (std::vector<std::int64_t>{0, 64}));
  EXPECT_TRUE((got.grads[1] == 0).all().item<bool>());
  EXPECT_TRUE((got.grads[2] == 0).all().item<bool>());
}

}  // namespace
}  // namespace einforge
