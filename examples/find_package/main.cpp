// Runs one structured layer and checks it against its einsum.

#include <einforge/ops/einsum_linear.h>
#include <einforge/structure/structure.h>
#include <torch/torch.h>

#include <iostream>

int main() {
  using namespace einforge;
  const auto layer =
      structure::realise(structure::parse("btt:0.25"), 768, 3072);
  const auto& n = layer.sizes;
  torch::manual_seed(0);
  const auto x = torch::randn({4, layer.d_in});
  const auto a = torch::randn({n.alpha, n.gamma, n.delta, n.phi, n.rho});
  const auto b = torch::randn({n.beta, n.gamma, n.epsilon, n.phi, n.rho});

  const auto y = ops::einsum_linear(x, a, b);
  const auto expected = torch::einsum(
                            "tabg,agdfr,bgefr->tdef",
                            {x.view({4, n.alpha, n.beta, n.gamma}), a, b})
                            .reshape({4, layer.d_out});
  const double error = ((y - expected).norm() / expected.norm()).item<double>();
  std::cout << "btt:0.25, 768 -> 3072: " << structure::parameters(layer)
            << " parameters, relative error " << error << "\n";
  return error < 1e-5 ? 0 : 1;
}
