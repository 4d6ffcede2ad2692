"""The exercises of notebook 05: flow matching."""

import torch

from helpers.exercises.checks import Wrong, exercise, given, same, two
from helpers.models import matching


@exercise(5, 1)
def endpoints(answer):
    """`f(x, v, t)`: a straight path is at x (N, D) at time t (N,), and goes on with velocity v (N, D). Return the noise where it began, at
    time 0, and the data point where it ends, at time 1, both (N, D)."""
    noise, data = torch.randn(2, 5, 3)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    x, v = matching.path(noise, data, t)
    tried = answer(x.clone(), v.clone(), t)
    if isinstance(tried, tuple | list) and any(not one.isfinite().all() for one in tried if isinstance(one, torch.Tensor)):
        raise Wrong("It is not finite everywhere: at time 0 or 1 something is divided by 0. Nothing need be divided.")
    if isinstance(tried, torch.Tensor) and tried.shape == (2, 5, 3):
        tried = list(tried)
    began, ends = two(tried, ((5, 3), (5, 3)), ("the noise", "the data point"))
    same(ends[4], data[4], "At time 1 the path is at its end: the data point should be x itself.")
    same(began[0], noise[0], "At time 0 the path is at its start: the noise should be x itself.")
    same(ends, data, "The data point lies a time of 1 - t ahead, at velocity v.")
    same(began, noise, "The noise lies a time of t behind, at velocity v.")


@exercise(5, 2)
def midpoint(answer):
    """`f(velocity, x, steps)`: follow velocity(x, t), x (N, D), t (N,), from time 0 to 1 in `steps` steps of the midpoint method: half a step
    along the velocity here; then a whole step, from here, along the velocity found there. Return the end of the way, (N, D)."""

    def track(steps, field):
        times = []

        def velocity(x, t):
            if not isinstance(t, torch.Tensor) or t.shape != x.shape[:1]:
                raise Wrong(f"The velocity takes a time for each row, t of shape ({len(x)},), and yours was given {getattr(t, 'shape', t)}.")
            times.append([round(one, 4) for one in t.tolist()])
            return field(x, t.to(x.dtype)[:, None])

        return given(answer(velocity, torch.tensor([[1.0, 0.5], [1.0, -0.5], [1.0, 2.0]]), steps), (3, 2)), times

    found, times = track(2, lambda x, t: x)
    if len(times) != 4:
        raise Wrong(f"2 steps should ask for the velocity 4 times, twice a step, and yours asked {len(times)} times.")
    if times != [[t] * 3 for t in (0, 0.25, 0.5, 0.75)]:
        raise Wrong(f"2 steps should look at times 0, 0.25, 0.5 and 0.75: at the start and the middle of each. Yours looked at {times}.")
    if abs(found[0, 0] - 3.516) < 1e-2:
        raise Wrong("The whole step goes from where it began, not from the point half way.")
    why = f"With a velocity of x, 2 steps should make (1 + h + h²/2)² = 2.641 of 1, with h = 1/2, and yours made {found[0, 0]:.3f}."
    same(found[0, 0], (1 + 0.5 + 0.125) ** 2, why)

    def bent(x, t):
        return t - x.square()

    expected = torch.tensor([[1.0, 0.5], [1.0, -0.5], [1.0, 2.0]])
    for i in range(3):
        half_way = expected + bent(expected, i / 3) / 6
        expected = expected + bent(half_way, i / 3 + 1 / 6) / 3
    why = "With a velocity of t - x², and 3 steps, it ends elsewhere. Each whole step takes the velocity at the point half way, at the time half way."
    same(track(3, bent)[0], expected, why)


@exercise(5, 2)
def guided(answer):
    """`f(told, untold, w, t)`: guidance on an interval (Kynkäänniemi et al. 2024): of the velocities told the class and told nothing, (N, D), the
    guided one of strength w where 0.2 <= t < 0.8, and elsewhere the one that was told the class; t is (N,)."""
    told, untold = torch.randn(2, 6, 3)
    t = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.7999, 0.8])
    inside = torch.tensor([False, False, True, True, True, False])
    kept = told.clone(), untold.clone()
    same(
        given(answer(*(one.clone() for one in kept), 0.0, t), (6, 3)),
        told,
        "At strength 0 it should be the velocity that was told the class, at every time.",
    )
    found = given(answer(*(one.clone() for one in kept), 2.0, t), (6, 3))
    same(found[~inside], told[~inside], "Before 0.2 and from 0.8 on it should be the velocity that was told the class.")
    same(found[2], (3 * told - 2 * untold)[2], "At 0.2 itself guidance has begun: 0.2 <= t.")
    same(found[inside], (3 * told - 2 * untold)[inside], "Between, it should go beyond the class's velocity, away from that which was told nothing.")
    found = given(answer(*kept, 0.5, t), (6, 3))
    same(found[inside], (1.5 * told - 0.5 * untold)[inside], "At a strength of 0.5 it should go half as far beyond as the two are apart.")


@exercise(5, 3)
def exact_velocity(answer):
    """`f(points, x, t)`: of data that are the points (K, D) and nothing else, the marginal velocity E[x_1 - x_0 | x_t = x], (N, D), at x (N, D)
    and t (N,), below 1. Which noise would have led to x, on the way to point i? How likely is it?"""
    points, x = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -3.0]]), torch.randn(6, 2)
    zero, late, t = torch.zeros(6), torch.full((6,), 0.99), torch.linspace(0.1, 0.9, 6)
    one = points[:1]
    if isinstance(tried := answer(points, 30 * x, late), torch.Tensor) and not tried.isfinite().all():
        raise Wrong(
            "Far from all points the densities are so small that they are 0 in float32, and their mean is 0 / 0. Take a softmax of their logarithms."
        )
    same(
        given(answer(one, x, t), (6, 2)),
        (one - x) / (1 - t[:, None]),
        "With one point there is one line through x: it leads to the point in the time that is left, 1 - t.",
        1e-4,
    )
    same(answer(points, x, zero).float(), points.mean(0) - x, "At time 0 no point is nearer than another: it should lead to the mean of all.", 1e-4)
    near = 0.99 * points.repeat(2, 1)
    same(answer(points, near, late).float(), (points.repeat(2, 1) - near) / 0.01, "Near time 1, beside a point, it should lead to that point.", 1e-2)
    why = "Between, each point counts as much as the density of the noise that would have led from it to x: N((x - t x_i) / (1 - t); 0, I)."
    same(given(answer(points, x, t), (6, 2)), matching.exact_velocity(points, x, t), why, 1e-4)


@exercise(5, 2)
def score(answer):
    """`f(x, v, t)`: the score, the gradient of log p_t at x, (N, D), where the velocity is v (N, D) and the time t (N,), below 1. Given its data
    point, x is normal round t times that point: what is the gradient of that log-density? Which noise does v see in x?"""
    points, x, t = torch.randn(4, 2), torch.randn(6, 2, requires_grad=True), torch.linspace(0, 0.9, 6)
    width = (1 - t)[:, None, None]
    parts = torch.distributions.Normal(t[:, None, None] * points, width).log_prob(x[:, None]).sum(2)
    (known,) = torch.autograd.grad(parts.logsumexp(1).sum(), x)
    x = x.detach()
    found = given(answer(x.clone(), matching.exact_velocity(points, x, t), t), (6, 2))
    if torch.allclose(found, -known, rtol=1e-3, atol=1e-3):
        raise Wrong("It points downhill: the score is the gradient of log p itself, and leads away from the noise.")
    same(found[0], -x[0], "At time 0 all is noise, and the score of a standard normal at x is -x.", 1e-3)
    for power, why in (
        (1, "The noise enters x with the factor 1 - t: divide by it."),
        (-1, "By 1 - t once: its square belongs to x - t times the point."),
    ):
        if torch.allclose(found, known * (1 - t[:, None]) ** power, rtol=1e-3, atol=1e-3):
            raise Wrong(why)
    same(found, known, "Of four points it is not the gradient of the log-density, which autograd knows.", 1e-3)


@exercise(5, 1)
def hop(answer):
    """`f(mean_velocity, x, steps)`: from noise x (N, D) to data, (N, D), in `steps` equal ways from time 0 to 1. mean_velocity(x, t, s), with times
    of shape (N,), is the mean velocity of the way from t to s."""

    def asked(steps):
        times = []

        def mean_velocity(x, t, s):
            if any(not isinstance(one, torch.Tensor) or one.shape != x.shape[:1] for one in (t, s)):
                raise Wrong(f"Both times are given for each row: t and s of shape ({len(x)},).")
            times.append((round(t[0].item(), 4), round(s[0].item(), 4)))
            return x * torch.expm1(s - t)[:, None] / (s - t).clamp(min=1e-6)[:, None]  # of a velocity of x

        return given(answer(mean_velocity, torch.tensor([[1.0, -2.0], [0.5, 3.0]]), steps), (2, 2)), times

    for steps in (1, 4):
        found, times = asked(steps)
        wanted = [(i / steps, (i + 1) / steps) for i in range(steps)]
        if times != wanted:
            raise Wrong(f"In {steps} ways it should ask for {wanted}, and yours asked for {times}.")
        why = "A way goes as far as its mean velocity times its length, s - t: with a velocity of x, 2.718 should come of 1, in any number of ways."
        same(found, torch.tensor([[1.0, -2.0], [0.5, 3.0]]) * torch.e, why, 1e-4)


@exercise(5, 2)
def fill(answer):
    """`f(velocity, x, known, mask, noise, t, s)`: one step of filling in, from time t to s, which are floats. x and known are (N, D), mask is true
    where `known` holds. There, return the point at s of the line from `noise` (N, D) to `known`; elsewhere an Euler step along velocity(x, t)."""
    x, known, noise = torch.randn(3, 5, 4)
    mask = torch.rand(5, 4) < 0.5

    def velocity(x, t):
        if not isinstance(t, torch.Tensor) or t.shape != x.shape[:1]:
            raise Wrong(f"The velocity takes a time for each row, t of shape ({len(x)},): make a tensor of the float.")
        if not torch.allclose(t, torch.full_like(t, 0.3)):
            raise Wrong("The step begins at t: the velocity there is asked for, at t.")
        if not torch.allclose(x, kept):
            raise Wrong("The velocity is asked for at x, before anything is put in.")
        return x.cos()

    kept = x.clone()
    found = given(answer(velocity, x.clone(), known.clone(), mask, noise.clone(), 0.3, 0.5), (5, 4))
    early = 0.7 * noise + 0.3 * known
    if torch.allclose(found[mask], early[mask], atol=1e-5):
        raise Wrong("After the step the time is s: the known part has as much noise as there is then.")
    if torch.allclose(found[mask], known[mask], atol=1e-5):
        raise Wrong("The known part is put in with noise: at time s the velocity has only ever seen points with the noise of s.")
    same(found[mask], (0.5 * noise + 0.5 * known)[mask], "Where it is known, it should be the point at time s of the line from noise to known.")
    same(found[~mask], (kept + 0.2 * kept.cos())[~mask], "Where it is not, it should be a step of s - t along the velocity.")
