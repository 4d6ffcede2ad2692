"""The exercises of notebook 06: pixels, words, and all at once."""

import itertools
import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(6, 1)
def chain(answer):
    """`f(next_white, image)`: the probability of a black and white image of four pixels, a tuple of 0 and 1 in reading order, as a float.
    next_white(before) says how likely the next pixel is 1, given the tuple of those before it, () for the first."""

    def next_white(before):
        if not isinstance(before, tuple) or len(before) > 3:
            raise Wrong(f"It takes the tuple of the pixels before the next one, at most three of them, and was given {before!r}.")
        return 0.1 + 0.1 * len(before) + sum(weight * pixel for weight, pixel in zip((0.1, 0.2, 0.3), before, strict=False))

    images = list(itertools.product((0, 1), repeat=4))
    found = torch.stack([given(answer(next_white, image), ()) for image in images])
    if abs(found[0] - 0.1 * 0.2 * 0.3 * 0.4) < 1e-6:
        raise Wrong("A pixel that is 0 has the probability 1 - next_white.")
    same(found[0], 0.9 * 0.8 * 0.7 * 0.6, f"All black it should be 0.9 * 0.8 * 0.7 * 0.6 = 0.3024, and yours is {found[0]:.4f}.")
    same(found.sum(), 1.0, f"Over all 16 images it should sum to 1, and yours sums to {found.sum():.3f}.")
    same(
        found[8], 0.1 * 0.7 * 0.6 * 0.5, "Of the image (1, 0, 0, 0) each pixel after the first should be asked for in the light of a white first one."
    )
    same(found[3], 0.9 * 0.8 * 0.3 * 0.7, "Of the image (0, 0, 1, 1) the last pixel should be asked for in the light of (0, 0, 1), in this order.")


@exercise(6, 1)
def bits(answer):
    """`f(logits, pixels)`: logits (N, D, 256) for the D pixels of N images, and what these are, pixels (N, D), whole numbers from 0 to 255.
    Return the bits per dimension, one number: -log2 of the pixels' probabilities, averaged."""
    pixels = torch.randint(256, (3, 5))
    found = given(answer(torch.zeros(3, 5, 256), pixels.clone()), ())  # a network that knows nothing: every value as likely as any
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
    """`f(size, first)`: a mask (size, size) for the kernel of a convolution, size odd: 1 for all that comes before the middle in reading order, and
    for the middle itself unless it is the first layer; 0 for the rest. (PyTorch's convolutions don't flip their kernels.)"""
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
    (n, k), at first (n, 0), and gives logits (n, K) of the next. They are divided by the temperature: below 1 likely words become likelier."""
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
    colder = given(answer(next_logits, 4_000, 4, 0.5), (4_000, 4)).long()

    def shares(words):  # of word 0: at first, and as the last word after word 1
        return (words[:, 0] == 0).float().mean().item(), (words[words[:, 2] == 1, 3] == 0).float().mean().item()

    (first, last), (cold, cold_last) = shares(words), shares(colder)
    if first == 1 or last == 1:
        raise Wrong("It always takes the likeliest word: draw it.")
    if abs(first - 0.5) > 0.04 or abs(last - 2 / 3) > 0.06:
        raise Wrong(
            f"Of the first words one half should be word 0, and two thirds of those that follow word 1. Of yours it is {first:.0%} and {last:.0%}."
        )
    if abs(cold - 0.4) < 0.03:
        raise Wrong("At a temperature below 1 the likely word became less likely: divide the logits by it.")
    if abs(cold - 2 / 3) > 0.04 or abs(cold_last - 0.8) > 0.06:
        why = "At a temperature of 0.5 the odds are squared: word 0 should begin 67 % of the texts, and follow 80 % of the words 1."
        raise Wrong(f"{why} In yours it is {cold:.0%} and {cold_last:.0%}.")


@exercise(6, 3)
def settle(answer):
    """`f(logits, words, hidden, keep)`: one pass of masked words, without chance. words (N, L) hold `hidden` where they are hidden, and logits
    (N, L, K) are the network's. In each text settle the `keep` hidden words it is surest of, to their likeliest value; return the words (N, L)."""
    for hidden, size in ((5, 5), (3, 3)):
        logits, words = torch.randn(4, 6, size), torch.randint(size, (4, 6))
        holes = torch.rand(4, 6).argsort(1) < 4  # at other places in each text
        words[holes] = hidden
        logits = torch.where(holes[..., None], logits, 50 * logits)  # it is surest where there is nothing to settle
        sure, likeliest = logits.softmax(2).max(2)
        found = given(answer(logits.clone(), words.clone(), hidden, 2), (4, 6)).long()
        if not torch.equal(found[~holes], words[~holes]):
            raise Wrong("A word that was settled before stays: only hidden ones are guessed.")
        fresh = (found != hidden) & holes
        if (fresh.sum(1) != 2).any():
            raise Wrong(f"With keep = 2 two hidden words of each text should be settled, and in yours it was {fresh.sum(1).tolist()}.")
        if not torch.equal(found[fresh], likeliest[fresh]):
            raise Wrong("A settled word should have the value with the largest logit at its place.")

        def surest(score, holes=holes):
            return torch.zeros_like(holes).scatter(1, score.masked_fill(~holes, -math.inf).argsort(1, descending=True)[:, :2], True)

        if not torch.equal(fresh, surest(sure)):
            if torch.equal(fresh, surest(logits.amax(2))):
                raise Wrong("Logits of different places don't compare: how sure it is says their softmax.")
            raise Wrong("It should settle those whose likeliest value has the highest probability.")
        if not torch.equal(given(answer(logits, words, hidden, 4), (4, 6)).long(), torch.where(holes, likeliest, words)):
            raise Wrong("With keep = 4, all that was hidden, nothing should stay hidden.")
