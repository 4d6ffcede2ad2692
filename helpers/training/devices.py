"""What a device can do: its name, its precision, its compiler, its memory."""

import contextlib
import functools
import logging
import math
import os
import platform
import warnings
from pathlib import Path

import torch

from helpers import UserError


def pick_device() -> torch.device:
    """The GPU if there is one, of several processes each its own. Float32 then means float32: in TF32 the inverse of a convolution is no inverse."""
    torch.backends.cudnn.allow_tf32 = False
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() and learns("mps") else "cpu")


@functools.cache
def learns(device: str) -> bool:
    """Whether a step of a small network of our parts works on this device; where it doesn't, one line says why the processor is taken."""
    try:
        x = torch.randn(4, 4, 8, 8, device=device).to(memory_format=torch.channels_last)
        net = torch.nn.Sequential(torch.nn.PixelUnshuffle(2), torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.GroupNorm(4, 16), torch.nn.SiLU()).to(
            device
        )
        turned = torch.einsum("ij,njhw->nihw", torch.linalg.inv(torch.eye(16, device=device)), net(x))  # as a 1x1 convolution of a flow
        loss = turned.square().mean() + torch.linalg.slogdet(torch.eye(16, device=device))[1]
        loss.backward()
        torch.optim.AdamW(net.parameters()).step()
        if not math.isfinite(loss.item()):
            raise RuntimeError("a loss that is not finite")
    except (RuntimeError, NotImplementedError, TypeError) as error:
        print(f"The {device} device does not train here ({str(error).splitlines()[0]}): the processor is taken.")
        return False
    return True


def device_name(device) -> str:
    """What a result is labelled with: the GPU's name, or the processor's and its number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if torch.device(device).type == "mps":
        return "Apple's GPU"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def pick_precision(device, halves: bool = False) -> str:
    """bfloat16 where the device has fast instructions for it; on an older GPU float16 for a model that `halves`; else float32."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16" if halves else "float32"
    if torch.device(device).type != "cpu":
        return "float32"
    supported = [getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in ("avx512_bf16", "amx_tile")]
    return "bfloat16" if any(supported) else "float32"


@contextlib.contextmanager
def compiled(model, wanted: bool = True):
    """The model's regions are compiled meanwhile; yields whether they are. Without a working compiler it warns once and stays eager.

    Afterwards they are as they were: compiled code is of one batch size, and whoever drew 12 samples would wait for the compiler.
    """
    regions = model.regions() if wanted and model.device.type != "mps" and compiler_works(model.device) else []
    for region in regions:
        region.compile(dynamic=False)
    try:
        yield bool(regions)
    finally:
        eager(model)


def eager(model) -> None:
    """Its regions are as they were before they were compiled."""
    for region in model.regions():
        region._compiled_call_impl = None  # torch has no public way back


def compiler_works(device) -> bool:
    if not torch.cuda.is_available():  # else it warns of a missing GPU wherever CUDA's compiler is installed
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # the compiler raises whatever its tool chain raises
        warnings.warn(f"torch.compile does not work here ({type(error).__name__}): it goes on eagerly, slower.", stacklevel=4)
        return False
    # couplings of all sizes share their code, of which torch would compile 8 variants and then, silently, no more
    limits = torch._dynamo.config
    setattr(limits, "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit", 64)  # the second in torch 2.6
    return True


@contextlib.contextmanager
def enough_memory(batch_size: int):
    """Say which setting to lower where the memory runs out."""
    try:
        yield
    except RuntimeError as error:  # the processor's own is a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"The memory does not hold a step of {batch_size} images of this model: lower batch_size (--batch-size), or the model's width."
        ) from error


def count_parameters(model) -> int:
    """How many weights a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())
