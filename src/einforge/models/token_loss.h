#pragma once

#include <cstdint>

#include "einforge/nn/token_layer.h"

namespace einforge::models {

// Rows of `vocabulary` logits that are held at a time: 512 MiB in float32.
std::int64_t rows_at_once(std::int64_t vocabulary);

// The mean cross-entropy in nats of tokens from `head`'s logits, float32.
//
// Rows beyond `chunk` are taken so many at a time, and the gradients of a chunk
// are computed with its loss: neither the logits nor their gradients are ever
// there as a whole. The gradients of the head's parameters are then sums over
// chunks.
//
// @param head takes each row by itself
// @param hidden (rows, width), the head's input
// @param targets (rows), int64
// @return scalar; differentiable once
torch::Tensor token_loss(
    nn::TokenLayer& head,
    const torch::Tensor& hidden,
    const torch::Tensor& targets,
    std::int64_t chunk);

}  // namespace einforge::models
