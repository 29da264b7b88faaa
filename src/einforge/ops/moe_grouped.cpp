#include "einforge/ops/moe_grouped.h"

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "einforge/ops/autocast_dtype.h"
#include "einforge/ops/size_text.h"

namespace einforge::ops {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::int64_t active_of(const Tensor& order, std::int64_t tokens) {
  return tokens == 0 ? 1 : order.size(0) / tokens;
}

// Rows by expert, put into the order of the pairs (t, j): (T, k, d). Pairs are
// distinct, so that no two writes meet.
Tensor by_token(const Tensor& rows, const Tensor& order, std::int64_t tokens) {
  return torch::empty_like(rows)
      .index_copy_(0, order.to(torch::kInt64), rows)
      .view({tokens, active_of(order, tokens), rows.size(1)});
}

Tensor token_of(const Tensor& order, std::int64_t tokens) {
  return order.floor_divide(active_of(order, tokens));
}

// Gradients of index_select are summed in any order on CUDA; these do not.
class Gather : public torch::autograd::Function<Gather> {
 public:
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& order) {
    context->save_for_backward({order});
    context->saved_data["tokens"] = x.size(0);
    return x.index_select(0, token_of(order, x.size(0)));
  }

  static variable_list backward(
      AutogradContext* context, const variable_list& grads) {
    const Tensor order = context->get_saved_variables()[0];
    const std::int64_t tokens = context->saved_data["tokens"].toInt();
    return {by_token(grads[0].contiguous(), order, tokens).sum(1), Tensor()};
  }
};

class Combine : public torch::autograd::Function<Combine> {
 public:
  static Tensor forward(
      AutogradContext* context,
      const Tensor& rows,
      const Tensor& order,
      const Tensor& gates) {
    context->save_for_backward({rows, order, gates});
    return by_token(rows * gate_of(gates, order), order, gates.size(0))
        .sum(1)
        .to(rows.scalar_type());
  }

  static variable_list backward(
      AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& rows = saved[0];
    const Tensor& order = saved[1];
    const Tensor& gates = saved[2];
    const Tensor grad =
        grads[0].index_select(0, token_of(order, gates.size(0)));  // (T k, d)
    variable_list result(3);
    if (context->needs_input_grad(0)) {
      result[0] = (grad * gate_of(gates, order)).to(rows.scalar_type());
    }
    if (context->needs_input_grad(2)) {
      const Tensor products = (grad.to(gates.scalar_type()) * rows).sum(1);
      result[2] = by_token(products.unsqueeze(1), order, gates.size(0))
                      .view(gates.sizes());
    }
    return result;
  }

 private:
  static Tensor gate_of(const Tensor& gates, const Tensor& order) {
    return gates.reshape({-1, 1}).index_select(0, order);
  }
};

// What torch's grouped matmul takes without going through the host.
bool has_grouped_kernel(
    const Tensor& rows, std::int64_t d_in, std::int64_t d_out) {
  return rows.is_cuda() && rows.scalar_type() == torch::kBFloat16 &&
         d_in % 8 == 0 && d_out % 8 == 0;
}

// Calls work(expert, first row, rows) for each.
template <typename Work>
void for_each_expert(const Tensor& offsets, Work work) {
  const Tensor host = offsets.to(torch::kCPU);
  const std::int32_t* begin = host.const_data_ptr<std::int32_t>();
  for (std::int64_t e = 0; e + 1 < host.size(0); ++e) {
    work(e, begin[e], begin[e + 1] - begin[e]);
  }
}

Tensor one_by_one(
    const Tensor& rows, const Tensor& weight, const Tensor& offsets) {
  // unbind, because the gradient of select is as large as all of weight.
  const std::vector<Tensor> matrices = weight.unbind(0);
  std::vector<Tensor> results;
  for_each_expert(
      offsets, [&](std::int64_t e, std::int64_t begin, std::int64_t size) {
        results.push_back(rows.narrow(0, begin, size)
                              .matmul(matrices[static_cast<size_t>(e)].t()));
      });
  return torch::cat(results);
}

Tensor by_expert(
    const Tensor& rows, const Tensor& weight, const Tensor& offsets) {
  return has_grouped_kernel(rows, weight.size(2), weight.size(1))
             ? at::_grouped_mm(
                   rows, weight.transpose(1, 2), offsets.slice(0, 1))
             : one_by_one(rows, weight, offsets);
}

}  // namespace

Tensor moe_gather(const Tensor& x, const MoeDispatch& dispatch) {
  TORCH_CHECK(
      x.dim() == 2,
      "[moe_gather] expected x of size (T, d); got ",
      size_text(x.sizes()));
  return Gather::apply(in_autocast_dtype(x), dispatch.order);
}

Tensor moe_grouped_linear(
    const Tensor& rows, const Tensor& weight, const Tensor& offsets) {
  TORCH_CHECK(
      rows.dim() == 2 && weight.dim() == 3 && rows.size(1) == weight.size(2) &&
          offsets.dim() == 1 && offsets.size(0) == weight.size(0) + 1,
      "[moe_grouped_linear] expected rows of size (N, d_in), weight (E, d_out, "
      "d_in) and offsets (E + 1); got ",
      size_text(rows.sizes()),
      ", ",
      size_text(weight.sizes()),
      " and ",
      size_text(offsets.sizes()));
  return by_expert(in_autocast_dtype(rows), in_autocast_dtype(weight), offsets);
}

Tensor moe_grouped_outer(
    const Tensor& p, const Tensor& q, const Tensor& offsets) {
  TORCH_CHECK(
      p.dim() == 2 && q.dim() == 2 && p.size(0) == q.size(0),
      "[moe_grouped_outer] expected p of size (N, a) and q (N, b); got ",
      size_text(p.sizes()),
      " and ",
      size_text(q.sizes()));
  if (has_grouped_kernel(p, p.size(1), q.size(1))) {
    return at::_grouped_mm(p.t(), q, offsets.slice(0, 1));
  }
  Tensor result = p.new_empty({offsets.size(0) - 1, p.size(1), q.size(1)});
  for_each_expert(
      offsets, [&](std::int64_t e, std::int64_t begin, std::int64_t size) {
        Tensor matrix = result.select(0, e);
        torch::mm_out(
            matrix, p.narrow(0, begin, size).t(), q.narrow(0, begin, size));
      });
  return result;
}

Tensor moe_combine(
    const Tensor& rows, const MoeDispatch& dispatch, const Tensor& gates) {
  TORCH_CHECK(
      rows.dim() == 2 && gates.dim() == 2 && rows.size(0) == gates.numel(),
      "[moe_combine] expected rows of size (T k, d) and gates (T, k); got ",
      size_text(rows.sizes()),
      " and ",
      size_text(gates.sizes()));
  return Combine::apply(rows, dispatch.order, gates);
}

}  // namespace einforge::ops
