"""A dense matrix in a structure: the nearest one, and the nearest for data."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from einforge.structure import Sizes


# Rows of a Gram matrix that is made and factored; with more of them, steps of
# conjugate gradients in its place.
_DIRECT, _STEPS = 768, 20


class Projection(NamedTuple):
    core_a: Tensor  # (alpha, gamma, delta, phi, rho), the dtype of the matrix
    core_b: Tensor  # (beta, gamma, epsilon, phi, rho)
    errors: list[float]  # relative error, after the start and each iteration


class MixtureProjection(NamedTuple):
    router: Tensor  # (E, d_in), float32
    core_a: Tensor  # (E, alpha, gamma, delta, phi, rho), the dtype of the matrix
    core_b: Tensor  # (E, beta, gamma, epsilon, phi, rho)
    errors: list[float]  # relative error of the outputs: the last alone


def _slices(weight: Tensor, s: Sizes) -> Tensor:
    """(d_out, d_in) -> (gamma, phi, beta epsilon, alpha delta)."""
    w = weight.reshape(s.delta, s.epsilon, s.phi, s.alpha, s.beta, s.gamma)
    return w.permute(5, 2, 4, 1, 3, 0).reshape(
        s.gamma, s.phi, s.beta * s.epsilon, s.alpha * s.delta)


def matrix(core_a: Tensor, core_b: Tensor) -> Tensor:
    """The dense matrix (d_out, d_in) that two cores make."""
    m = torch.einsum("agdfr,bgefr->defabg", core_a, core_b)
    return m.reshape(
        m.shape[0] * m.shape[1] * m.shape[2], m.shape[3] * m.shape[4] * m.shape[5])


def project(
    weight: Tensor,
    sizes: Sizes,
    inputs: Optional[Tensor] = None,
    iterations: int = 20,
    *,
    moment: Optional[Tensor] = None,
) -> Projection:
    """The cores whose matrix is nearest to `weight`.

    For each (gamma, phi) the layer is a matrix of rank rho over
    ((beta, epsilon), (alpha, delta)), so the optimum in the Frobenius norm is a
    truncated singular value decomposition of each such slice: closed form, for
    every theta and rank. With `inputs` the error is that of the outputs,
    ||inputs (W - W')^T||, minimised from there by alternating least squares;
    it never rises.

    Args:
        weight: (d_out, d_in), any floating dtype; computed in float64.
        sizes: of the structure.
        inputs: (n, d_in) activations of the layer, or None.
        moment: (d_in, d_in), inputs^T inputs, in their place.
        iterations: of alternating least squares at most; it stops when an
            iteration gains less than 1e-6 of the error.

    Raises:
        ValueError: a shape does not fit, or values are not finite.
    """
    s = Sizes(*sizes)
    if weight.shape != (s.d_out, s.d_in):
        raise ValueError(
            f"[project] expected weight of size ({s.d_out}, {s.d_in}); got "
            f"{tuple(weight.shape)}")
    if inputs is not None and (inputs.dim() != 2 or inputs.shape[1] != s.d_in):
        raise ValueError(
            f"[project] expected inputs of size (n, {s.d_in}); got "
            f"{tuple(inputs.shape)}")
    if inputs is not None:
        inputs = inputs.detach().double()
        moment = inputs.T @ inputs
    if not torch.isfinite(weight).all() or (
            moment is not None and not torch.isfinite(moment).all()):
        raise ValueError("[project] expected finite weight and inputs")
    dtype = weight.dtype
    w = weight.detach().double()
    u, sigma, v = torch.linalg.svd(_slices(w, s), full_matrices=False)
    rank = min(s.rho, sigma.shape[-1])
    root = sigma[..., :rank].sqrt()
    # (gamma, phi, beta, epsilon, rank) and (gamma, phi, rank, alpha, delta)
    left = (u[..., :rank] * root.unsqueeze(-2)).unflatten(2, (s.beta, s.epsilon))
    right = (root.unsqueeze(-1) * v[..., :rank, :]).unflatten(
        3, (s.alpha, s.delta))
    core_a = w.new_zeros(s.core_a)
    core_b = w.new_zeros(s.core_b)
    core_a[..., :rank] = right.permute(3, 0, 4, 1, 2)
    core_b[..., :rank] = left.permute(2, 0, 3, 1, 4)
    if moment is None:
        scale = w.norm()
        error = (w - matrix(core_a, core_b)).norm() / scale if scale > 0 else 0.0
        return Projection(core_a.to(dtype), core_b.to(dtype), [float(error)])
    return _alternate(
        w, s, core_a, core_b, moment.to(w), iterations, dtype)


def project_mixture(
    weight: Tensor,
    sizes: Sizes,
    inputs: Tensor,
    experts: int,
    active: int,
    softmax_first: bool,
    iterations: int = 20,
) -> MixtureProjection:
    """A mixture of experts whose outputs are nearest to those of one matrix.

    The inputs are clustered by direction (spherical k-means); a centre is a row
    of the router, so that a token takes the experts of the nearest centres. Each
    expert is then the projection of the matrix for its tokens, weighted by their
    gates: an upper bound of the mixture's error, as gates are convex.

    Args:
        weight: (d_out, d_in), any floating dtype; computed in float64.
        sizes: of one expert.
        inputs: (n, d_in) activations of the layer, n at least `experts`.
        experts, active: E and k.
        softmax_first: gates are shares of the softmax over all experts.
        iterations: of alternating least squares at most, per expert.

    Raises:
        ValueError: a shape does not fit, or there are too few inputs.
    """
    s = Sizes(*sizes)
    if inputs.dim() != 2 or inputs.shape[1] > s.d_in or len(inputs) < experts:
        raise ValueError(
            f"[project_mixture] expected inputs of size (n, {s.d_in}), n at "
            f"least {experts}; got {tuple(inputs.shape)}")
    x = inputs.detach().double()
    w = weight.detach().double()
    norm = x.norm(dim=-1).mean().clamp(min=1e-30)
    centres = _cluster(x, experts)
    logits = x @ centres.T / norm
    chosen = logits.argsort(dim=-1, descending=True, stable=True)[:, :active]
    # As sharp as it must be for the chosen to have nearly all of the softmax.
    sharpness = 1.0
    while sharpness < 1024 and float(
            (sharpness * logits).softmax(-1).gather(-1, chosen).sum(-1).mean()
    ) < 0.99:
        sharpness *= 2
    logits *= sharpness
    gates = (logits.softmax(-1).gather(-1, chosen) if softmax_first
             else logits.gather(-1, chosen).softmax(-1))
    share = torch.zeros_like(logits).scatter(-1, chosen, gates)  # (n, E)
    cores = []
    y = torch.zeros(len(x), s.d_out, dtype=x.dtype, device=x.device)
    for expert in range(experts):
        moment = x.T @ (share[:, expert:expert + 1] * x)
        found = project(w, s, iterations=iterations, moment=moment)
        cores.append((found.core_a, found.core_b))
        y += share[:, expert:expert + 1] * (
            x @ matrix(found.core_a, found.core_b).T)
    want = x @ w.T
    scale = want.norm()
    error = float((y - want).norm() / scale) if scale > 0 else 0.0
    a, b = (torch.stack(core).to(weight.dtype) for core in zip(*cores))
    return MixtureProjection(
        (sharpness / norm * centres).float(), a, b, [error])


def _cluster(x: Tensor, count: int, rounds: int = 30) -> Tensor:
    """Spherical k-means: `count` unit rows (count, d), from a fixed seed."""
    x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    draw = torch.Generator().manual_seed(0)
    # k-means++: the next centre is drawn by its distance to those there are.
    first = int(torch.randint(len(x), (1,), generator=draw))
    centres = x[first:first + 1]
    while len(centres) < count:
        far = (1 - (x @ centres.T).amax(-1)).clamp(min=1e-12)
        pick = torch.multinomial(far.cpu(), 1, generator=draw).to(x.device)
        centres = torch.cat((centres, x[pick]))
    for _ in range(rounds):
        nearness, own = (x @ centres.T).max(-1)
        sums = torch.zeros_like(centres).index_add_(0, own, x)
        empty = torch.bincount(own, minlength=count) == 0
        # An empty cluster restarts at the tokens that fit theirs worst.
        worst = nearness.argsort()[:int(empty.sum())]
        sums[empty] = x[worst]
        new = sums / sums.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        if torch.equal(new, centres):
            break
        centres = new
    return centres


def _alternate(w, s, core_a, core_b, moment, iterations, dtype) -> Projection:
    """Alternating least squares of ||X (W - W')^T|| in either core.

    The error depends on the inputs X by their moment X^T X alone.
    """
    scale = float(((w @ moment) * w).sum().clamp(min=0.0).sqrt())

    def error(a, b):
        gap = w - matrix(a, b)
        squared = float(((gap @ moment) * gap).sum())
        return max(squared, 0.0) ** 0.5 / scale if scale > 0 else 0.0

    # Rows and columns by their factors; with core A first, and with core B.
    rows, columns = (s.delta, s.epsilon, s.phi), (s.alpha, s.beta, s.gamma)
    targets = (w @ moment).reshape(*rows, *columns)
    moments = moment.reshape(*columns, *columns)
    of_a = (targets, moments)
    of_b = (targets.permute(1, 0, 2, 4, 3, 5),
            moments.permute(1, 0, 2, 4, 3, 5))
    errors = [error(core_a, core_b)]
    for _ in range(iterations):
        for index in (0, 1):
            cores = [core_a, core_b]
            cores[index] = (_solve(*of_a, core_a, core_b) if index == 0
                            else _solve(*of_b, core_b, core_a))
            now = error(*cores)
            # A singular system may gain nothing; the better cores stay.
            if now <= errors[-1]:
                core_a, core_b = cores
                errors.append(now)
        if len(errors) > 2 and errors[-3] - errors[-1] < 1e-6 * errors[-1]:
            break
    return Projection(core_a.to(dtype), core_b.to(dtype), errors)


def _solve(target, moment, core, other):
    """The best core beside another, which both stand for A or both for B.

    Outputs of different (own output, phi) share no number of the core, so each
    is a least squares problem of its own; those of one phi share its Gram
    matrix. Where that is large, it is not made: conjugate gradients from the
    core that there is lower the error with each step.

    target: W X^T X as (own out, other out, phi, own in, other in, gamma).
    moment: X^T X as (own in, other in, gamma) twice.
    """
    if core.shape[0] * core.shape[1] * core.shape[4] > _DIRECT:
        return _conjugate_gradients(target, moment, core, other)
    own, gamma, out, phi, rho = core.shape
    n = own * gamma * rho
    found = torch.empty_like(core)
    for f in range(phi):
        o = other[:, :, :, f]  # (other in, gamma, other out, rho)
        # By what is smaller in between.
        of_both = (o.numel() // o.shape[2]) ** 2
        if of_both < own * o.shape[0] * gamma * n * o.shape[2]:
            both = torch.einsum("bger,hkes->bgrhks", o, o)
            gram = torch.einsum("abgchk,bgrhks->agrcks", moment, both)
        else:
            half = torch.einsum("abgchk,hkes->abgckes", moment, o)
            gram = torch.einsum("bger,abgckes->agrcks", o, half)
        right = torch.einsum("deabg,bger->agrd", target[:, :, f], o)
        found[:, :, :, f] = _least_squares(
            gram.reshape(n, n), right.reshape(n, out)).reshape(
                own, gamma, rho, out).transpose(2, 3)
    return found


def _conjugate_gradients(target, moment, core, other):
    """_solve without its Gram matrix, preconditioned by that of each (gamma,
    phi) for inputs whose other factor is uncorrelated."""
    size = moment.shape[:3]
    flat = moment.reshape(size.numel(), size.numel())

    def seen(gradient):  # of W' X^T X, in the core
        return torch.einsum("defabg,bgefr->agdfr", gradient, other)

    def gram(direction):
        y = torch.einsum("agdfr,bgefr->defabg", direction, other)
        return seen((y.reshape(-1, size.numel()) @ flat).reshape(y.shape))

    # (gamma, own in, own in) and (gamma, phi, rho, rho)
    inner = torch.einsum("abgcbg->gac", moment) / size[1]
    outer = torch.einsum("bgefr,bgefs->gfrs", other, other)
    inner, outer = (_inverse(block) for block in (inner, outer))

    def preconditioned(residual):
        return torch.einsum(
            "gac,cgdfr,gfrs->agdfs", inner, residual, outer)

    x = core.clone()
    residual = seen(target) - gram(x)
    z = preconditioned(residual)
    p, rz = z, (residual * z).sum()
    enough = 1e-12 * rz
    for _ in range(_STEPS):
        if not rz > enough:
            break
        ap = gram(p)
        curvature = (p * ap).sum()
        if not curvature > 0:
            break
        step = rz / curvature
        x = x + step * p
        residual = residual - step * ap
        z = preconditioned(residual)
        rz, before = (residual * z).sum(), rz
        p = z + (rz / before) * p
    return x


def _inverse(blocks: Tensor) -> Tensor:
    """Of symmetric blocks (..., n, n) that may be singular, damped."""
    scale = blocks.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-300)
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    return torch.linalg.inv(blocks + 1e-6 * scale[..., None, None] * eye)


def _least_squares(gram: Tensor, right: Tensor) -> Tensor:
    """The minimum of a quadratic form that may be singular."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed and float(factor.diagonal().min()) > (
            1e-7 * float(factor.diagonal().max())):
        return torch.cholesky_solve(right, factor)
    values, vectors = torch.linalg.eigh(gram)
    keep = values > 1e-12 * values[-1]
    inverse = torch.where(keep, 1 / torch.where(keep, values, 1.0), 0.0)
    return vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ right))
