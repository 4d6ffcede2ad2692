"""Solutions to the exercises of notebook 06; `python solutions/06_autoregressive.py` checks them."""

import math

import torch

from helpers import exercises


def chain(next_white, image):
    probability = 1.0
    for i, pixel in enumerate(image):
        white = next_white(image[:i])
        probability *= white if pixel else 1 - white
    return probability


def bits(logits, pixels):
    log_probs = logits.log_softmax(2).gather(2, pixels[..., None])
    return -log_probs.mean() / math.log(2)


def kernel_mask(size, first):
    mask = torch.zeros(size, size)
    middle = size // 2
    mask[:middle] = 1
    mask[middle, : middle + (not first)] = 1
    return mask


def draw(next_logits, n, length, temperature):
    words = torch.zeros(n, 0, dtype=torch.long)
    for _ in range(length):
        odds = (next_logits(words) / temperature).softmax(1)
        words = torch.cat([words, torch.multinomial(odds, 1)], dim=1)
    return words


def settle(logits, words, hidden, keep):
    sure, likeliest = logits.softmax(2).max(2)
    order = sure.masked_fill(words != hidden, -1).argsort(1, descending=True)[:, :keep]
    return words.scatter(1, order, likeliest.gather(1, order))


if __name__ == "__main__":
    for name in (one for one, found in exercises.EXERCISES.items() if found.notebook == 6):
        exercises.check(name, globals()[name])
