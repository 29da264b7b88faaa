#include "einforge/ops/sum_of_rows.h"

#include <functional>

#include "tests/ops/testing.h"

namespace einforge {
namespace {

using testing::Tensor;

class SumOfRows : public testing::DeviceTest {
 protected:
  SumOfRows() { torch::manual_seed(8); }
};

EINFORGE_ON_EACH_DEVICE(SumOfRows);

TEST_P(SumOfRows, AgreesWithFloat64) {
  const testing::Poison poison;
  const torch::NoGradGuard no_grad;
  for (const std::int64_t width : {1, 8, 63, 72, 256, 520, 2048}) {
    for (const std::int64_t tokens : {0, 1, 31, 257, 5000}) {
      const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
      const Tensor rows = torch::randn({tokens, width}, like) + 0.1;
      const Tensor wide = rows.cpu().to(torch::kFloat64);
      for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
        const Tensor got = ops::sum_of_rows(rows.unsqueeze(0), dtype);
        testing::expect_close(
            fmt::format("{} x {}", tokens, width),
            got,
            wide.sum(0),
            wide.abs().sum(0),
            dtype,
            tokens);
        EXPECT_TRUE(torch::equal(got, ops::sum_of_rows(rows, dtype)));
      }
    }
  }
}

TEST_P(SumOfRows, TakesStridesAndOffsets) {
  const torch::NoGradGuard no_grad;
  const auto like = torch::dtype(torch::kBFloat16).device(GetParam());
  const Tensor all = torch::randn({65, 100}, like);
  const Tensor wide = all.to(torch::kFloat64);
  for (const auto& part : std::vector<std::function<Tensor(const Tensor&)>>{
           [](const Tensor& t) { return t.t().slice(1, 1); },
           [](const Tensor& t) { return t.slice(1, 3, 67); },
           [](const Tensor& t) { return t[7].slice(0, 1, 65).expand({9, 64}); },
           [](const Tensor& t) { return t[7].slice(0, 1, 65); }}) {
    const Tensor got = ops::sum_of_rows(part(all), torch::kFloat32);
    const Tensor expected = part(wide).reshape({-1, 64}).sum(0);
    EXPECT_TRUE(torch::allclose(got.to(torch::kFloat64), expected, 1e-5, 1e-5));
  }
}

}  // namespace
}  // namespace einforge
