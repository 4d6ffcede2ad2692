"""The exercises of notebook 06: pixels, words, and all at once."""

import itertools
import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(6, 1)
def chain(answer):
    """`f(next_white, image)`: the probability of a black and white image of four pixels, a tuple of 0 and 1 in reading order, as a float.
    next_white(before) says how likely the next pixel is 1, given the tuple of those before it."""

    def next_white(before):
        if not isinstance(before, tuple) or len(before) > 3:
            raise Wrong(f"It takes the tuple of the pixels before the next one, at most three of them, and was given {before!r}.")
        return 0.1 + 0.2 * sum(before) + 0.1 * len(before)

    images = list(itertools.product((0, 1), repeat=4))
    found = torch.stack([given(answer(next_white, image), ()) for image in images])
    if abs(found[0] - 0.1 * 0.2 * 0.3 * 0.4) < 1e-6:
        raise Wrong("A pixel that is 0 has the probability 1 - next_white.")
    same(found[0], 0.9 * 0.8 * 0.7 * 0.6, f"All black it should be 0.9 * 0.8 * 0.7 * 0.6 = 0.3024, and yours is {found[0]:.4f}.")
    same(found.sum(), 1.0, f"Over all 16 images it should sum to 1, and yours sums to {found.sum():.3f}.")
    same(found[15], 0.1 * 0.4 * 0.7 * 1.0, "All white, each pixel's probability depends on the white ones before it.")


@exercise(6, 1)
def bits(answer):
    """`f(logits, pixels)`: logits (N, D, 256) for the D pixels of N images, and what these are, pixels (N, D), whole numbers from 0 to 255.
    Return the bits per dimension, one number: -log2 of the pixels' probabilities, averaged."""
    pixels = torch.randint(256, (3, 5))
    for _ in range(2):  # a network that knows nothing: every value as likely as any
        found = given(answer(torch.zeros(3, 5, 256), pixels.clone()), ())
        if abs(found - 8 * math.log(2)) < 1e-3:
            raise Wrong("That is in nats: divide by the logarithm of 2.")
        if abs(found - 40) < 1e-2:
            raise Wrong("That is the bits of an image: divide by the number of its pixels.")
        same(found, 8.0, f"A network that knows nothing needs 8 bits a pixel, and yours needs {found:.3f}.", 1e-4)
    logits = torch.randn(3, 5, 256) * 3
    expected = -torch.distributions.Categorical(logits=logits).log_prob(pixels).mean() / math.log(2)
    same(given(answer(logits.clone(), pixels.clone()), ()), expected, "It isn't -log2 of the softmax at each pixel's value, averaged.", 1e-4)


@exercise(6, 2)
def kernel_mask(answer):
    """`f(size, first)`: a mask (size, size) of 0 and 1 for the kernel of a convolution, size odd, whose output at a pixel may see only what comes
    before it in reading order; and the pixel itself too, unless it is the first layer."""
    for size in (3, 5):
        for first in (True, False):
            mask = given(answer(size, first), (size, size))
            if not ((mask == 0) | (mask == 1)).all():
                raise Wrong("It should hold nothing but 0 and 1.")
            middle = size // 2
            same(mask[:middle], 1.0, "The rows above the middle come before it: all of them are seen.")
            same(mask[middle + 1 :], 0.0, "The rows below the middle come after it.")
            same(mask[middle, :middle], 1.0, "In the row of the middle, what is to the left comes before.")
            same(mask[middle, middle + 1 :], 0.0, "In the row of the middle, what is to the right comes after.")
            why = (
                "The first layer must not see the pixel that it is to predict."
                if first
                else "A later layer may look at its own place, where only what came before is known."
            )
            same(mask[middle, middle], float(not first), why)


@exercise(6, 2)
def draw(answer):
    """`f(next_logits, n, length, temperature)`: n texts (n, length) of whole numbers, drawn word by word. next_logits(words) takes the words so far,
    (n, k), at first (n, 0), and gives logits (n, K) of the next. Below a temperature of 1, likely words become likelier."""
    lengths = []

    def next_logits(words):
        if not isinstance(words, torch.Tensor) or words.ndim != 2 or words.is_floating_point():
            raise Wrong("It takes the words so far as whole numbers, a tensor (n, k); at first (n, 0).")
        lengths.append(words.shape[1])
        odds = torch.tensor([0.5, 0.25, 0.25]).log().repeat(len(words), 1)
        if words.shape[1]:  # a word is never followed by itself
            odds = odds.scatter(1, words[:, -1:], -math.inf)
        return odds

    words = given(answer(next_logits, 4_000, 4, 1.0), (4_000, 4)).long()
    if lengths != [0, 1, 2, 3]:
        raise Wrong(f"It should ask for each of 4 words once, knowing 0, 1, 2 and 3 words, and yours asked knowing {lengths}.")
    if (words[:, 1:] == words[:, :-1]).any():
        raise Wrong("A word of probability 0 was drawn: the next word must be told the last one.")
    share = (words[:, 0] == 0).float().mean().item()
    if share == 1:
        raise Wrong("It always takes the likeliest word: draw it.")
    if abs(share - 0.5) > 0.04:
        raise Wrong(f"Of the first words one half should be word 0, and of yours {share:.0%} are.")
    share = (given(answer(next_logits, 4_000, 4, 0.5), (4_000, 4))[:, 0] == 0).float().mean().item()
    if abs(share - 0.4) < 0.03:
        raise Wrong("At a temperature below 1 the likely word became less likely: divide the logits by it.")
    if abs(share - 2 / 3) > 0.04:
        raise Wrong(f"At a temperature of 0.5 the odds are squared, 4 to 1 to 1, so word 0 should begin 67 % of the texts, and begins {share:.0%}.")


@exercise(6, 3)
def settle(answer):
    """`f(logits, words, hidden, keep)`: one pass of masked words, without chance. words (N, L) hold `hidden` where they are hidden, and logits
    (N, L, K) are the network's. In each text settle the `keep` hidden words it is surest of, to their likeliest value; return the words (N, L)."""
    logits, words = torch.randn(4, 6, 5), torch.randint(5, (4, 6))
    words[:, [0, 2, 3, 5]] = 5
    logits[:, 1] *= 50  # it is surest where there is nothing to settle
    kept = words.clone()
    found = given(answer(logits.clone(), words.clone(), 5, 2), (4, 6)).long()
    known = kept != 5
    if not torch.equal(found[known], kept[known]):
        raise Wrong("A word that was settled before stays: only hidden ones are guessed.")
    settled = (found != 5).sum(1) - known.sum(1)
    if (settled != 2).any():
        raise Wrong(
            f"With keep = 2 two hidden words of each text should be settled, and in yours it was {settled.tolist()}. Those known don't count."
        )
    sure, likeliest = logits.softmax(2).max(2)
    fresh = (found != 5) & ~known
    if not torch.equal(found[fresh], likeliest[fresh]):
        raise Wrong("A settled word should have the value with the largest logit at its place.")
    order = sure.masked_fill(known, -1).argsort(1, descending=True)[:, :2]
    if not torch.equal(fresh, torch.zeros_like(fresh).scatter(1, order, True)):
        largest = logits.amax(2).masked_fill(known, -math.inf).argsort(1, descending=True)[:, :2]
        if torch.equal(fresh, torch.zeros_like(fresh).scatter(1, largest, True)):
            raise Wrong("Logits of different places don't compare: how sure it is says their softmax.")
        raise Wrong("It should settle those whose likeliest value has the highest probability.")
    if not torch.equal(given(answer(logits, words, 5, 4), (4, 6)).long(), torch.where(known, kept, likeliest)):
        raise Wrong("With keep = 4, all that was hidden, nothing should stay hidden.")
