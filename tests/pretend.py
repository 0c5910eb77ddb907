"""A GPU that is not there: tensors that compute on the CPU and say that they are on
`cuda:0`.

Inside `pretend()` whatever is made for, or moved to, `cuda` becomes a `Pretend` tensor.
The `Host` that it yields counts, with the line of
odeflow that caused each, its `waits`, where the host would wait for the device (a copy
from pageable memory or back from the device, a number
or a shape that must be known), and its `copies`, from pinned memory with
`non_blocking`, for which it would not. What CUDA refuses raises `Mixed`:
tensors of two devices in one operation, a CPU index of a tensor on the device's behalf,
a generator of the other device, `numpy()` of a tensor there.

It sees what python and PyTorch's dispatcher see. It does not see CUDA itself: kernels
and their rounding, memory, streams and the order of events,
pinning that fails, autocast (which is off where there is no CUDA), torch.compile, cuDNN
and attention's choice of kernels, DistributedDataParallel,
waits inside a library's own kernels, and real random numbers: a generator that says
`cuda` draws the CPU's, so that results can be compared bit by bit.
"""

import collections
import contextlib
import functools
import sys
from unittest import mock

import torch
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


class Mixed(RuntimeError):
    "Two devices, or a device and the generator of another, in one operation."


class Host:
    """What the host did: `waits` and `copies`, each (what, the line of odeflow) -> how
    often.
    """

    now = None

    def __init__(self):
        self.clear()

    def clear(self):
        self.waits = collections.Counter()
        self.copies = collections.Counter()

    def __str__(self):
        return "\n".join(
            f"{n:5} {what:12} {line}"
            for seen in (self.waits, self.copies)
            for (what, line), n in seen.most_common()
        )


def line():
    "The line of odeflow that is at work."
    f = sys._getframe(1)
    while f and "/odeflow/" not in f.f_code.co_filename.replace("\\", "/"):
        f = f.f_back
    return (
        f"{f.f_code.co_filename.replace(chr(92), '/').split('/')[-1]}:{f.f_lineno}"
        if f
        else "elsewhere"
    )


def wait(what):
    Host.now.waits[what, line()] += 1


def is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


class Pretend(torch.Tensor):
    "A tensor on the CPU (`inner`) that says it is on `cuda:0`."

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cpu",
            requires_grad=requires_grad,
        )
        self.inner = inner
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self):
        return f"Pretend({self.inner!r})"

    def __deepcopy__(self, memo):
        new = Pretend(self.inner.detach().clone())
        return (
            torch.nn.Parameter(new, self.requires_grad)
            if isinstance(self, torch.nn.Parameter)
            else new
        )

    # tells modules to swap the tensors of parameters that move
    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts, meta, size, stride):
        return Pretend(parts["inner"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


def there(x):
    return (
        Pretend(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretend) else x
    )


def inner(x):
    return x.inner if isinstance(x, Pretend) else x


def each(f, v):
    return type(v)(each(f, a) for a in v) if type(v) in (list, tuple) else f(v)


def tensors(v):
    return (
        [t for a in v for t in tensors(a)]
        if type(v) in (list, tuple)
        else [v] * isinstance(v, torch.Tensor)
    )


# of operations whose answer or shape the host must know
ASKED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
MORE = (
    "aten.equal.",
    "aten.is_nonzero.",
    "aten._linalg_check_errors.",
    "aten._linalg_eigh.",
    "aten._linalg_svd.",
    "aten.linalg_eig.",
)


@functools.cache
def traits(op):
    """Of an operation: its name, whether it indexes, takes numbers of the CPU, is asked
    for by the host, and works in place.
    """
    name, made = str(op), op._schema.returns
    indexes = name.startswith(
        ("aten.index.", "aten._unsafe_index.", "aten.index_put", "aten._index_put_impl")
    )
    in_place = (
        len(made) == 1
        and made[0].alias_info is not None
        and made[0].alias_info.is_write
    )
    return (
        name,
        indexes,
        torch.Tag.pointwise in op.tags or name == "aten.fill_.Tensor",
        not indexes and bool(ASKED & {*op.tags}) or name.startswith(MORE),
        in_place,
    )


def check(op, args, kwargs):
    "Raise what CUDA would, and count what the host would wait for."
    name, indexes, numbers, asked, _ = traits(op)
    away = [a for a in tensors([*args, *kwargs.values()]) if not isinstance(a, Pretend)]
    if indexes:
        index(name, *args[:3])
    elif name == "aten.copy_.default":
        [
            move(
                a,
                isinstance(args[0], Pretend),
                len(args) > 2 and args[2],
                args[0].dtype,
            )
            for a in away
        ]
    elif [a for a in away if a.ndim or not numbers]:
        raise Mixed(
            f"{name}: {[tuple(a.shape) for a in away]} on the CPU with tensors on "
            f"the device, at {line()}"
        )
    elif asked:
        wait(name.split(".")[1].strip("_"))


def index(name, x, at, value=None):
    """Indices may be on the CPU, and are copied; a mask must be counted, unless one
    number is all that is put there.
    """
    at = tensors(at)
    if not isinstance(x, Pretend):
        raise Mixed(f"{name}: a CPU tensor, indexed on the device, at {line()}")
    if value is not None and not isinstance(value, Pretend) and value.ndim:
        raise Mixed(f"{name}: a value on the CPU, at {line()}")
    if any(not isinstance(i, Pretend) for i in at):
        wait("CPU index")
    if any(i.dtype in (torch.bool, torch.uint8) for i in at) and (
        value is None or value.numel() != 1
    ):
        wait("mask")


def run(op, args, kwargs):
    """An operation on the tensors within; one in place gives back the very tensor that
    it was asked of.
    """
    check(op, args, kwargs)
    out = op(*each(inner, args), **{k: each(inner, v) for k, v in kwargs.items()})
    return args[0] if traits(op)[-1] else each(there, out)


def same(generator, device, name):
    if generator is not None and generator.device.type != device.type:
        raise Mixed(
            f"{name}: a generator on {generator.device} for {device}, at {line()}"
        )


def move(x, to_device, non_blocking, dtype):
    "Count a copy between host and device."
    if not to_device:
        return wait("from device")
    pinned = non_blocking and getattr(x, "pinned", False)
    # of another type it would go by way of pageable memory
    if pinned and dtype == x.dtype:
        Host.now.copies["to device", line()] += 1
    else:
        wait("to device")


TORCH_GENERATOR = torch.Generator


class Generator(TORCH_GENERATOR):
    "A generator that may say it is on the device; it draws the CPU's numbers."

    def __new__(cls, device="cpu"):
        self = TORCH_GENERATOR.__new__(cls, "cpu")
        self.said = CUDA if is_cuda(device) else CPU
        return self

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self.said)


class Mode(TorchFunctionMode):
    """What tensors cannot see of themselves: where they are made, moved, and left for
    python or numpy.
    """

    def __torch_function__(self, f, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(f, "__name__", "")
        own = getattr(self, f"on_{name}", None)
        if own and (
            not name.startswith("to") or f in (torch.Tensor.to, torch.Tensor.tolist)
        ):
            return own(f, args, kwargs)
        x = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if x is not None:
            same(kwargs.get("generator"), x.device, name)
        if x is not None or "device" not in kwargs and "generator" not in kwargs:
            return f(*args, **kwargs)
        device = CUDA if is_cuda(kwargs.get("device")) else CPU
        same(kwargs.get("generator"), device, name)
        if device == CPU:
            return f(*args, **kwargs)
        return Pretend(f(*args, **kwargs | {"device": "cpu"}))

    def on_tensor(self, f, args, kwargs):
        device = kwargs.pop("device", None)
        x = f(*args, **kwargs)
        return x if device is None else self.on_to(torch.Tensor.to, (x, device), {})

    on_as_tensor = on_tensor

    def on_to(self, f, args, kwargs):
        x = args[0]
        given = [*args[1:], *(kwargs.get(k) for k in ("device", "dtype", "other"))]
        like = [(r.device, r.dtype) for r in given if isinstance(r, torch.Tensor)]
        device = next(
            (
                d
                for d in [d for d, _ in like]
                + [torch.device(r) for r in given if isinstance(r, (str, torch.device))]
            ),
            x.device,
        )
        dtype = next(
            (
                t
                for t in [t for _, t in like]
                + [r for r in given if isinstance(r, torch.dtype)]
            ),
            x.dtype,
        )
        if device.type != "cuda" and not isinstance(x, Pretend):
            return f(*args, **kwargs)
        if device.type == "cuda" and isinstance(x, Pretend):
            return x if dtype == x.dtype else f(x, dtype)
        if x.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                "the pretend device carries no gradients from one device to another"
            )
        move(x, device.type == "cuda", kwargs.get("non_blocking", False), dtype)
        y = inner(x).detach()
        y = y.clone() if y.dtype == dtype else f(y, dtype)
        return Pretend(y) if device.type == "cuda" else y

    def on_cpu(self, f, args, kwargs):
        return self.on_to(torch.Tensor.to, (args[0], "cpu"), {})

    def on_cuda(self, f, args, kwargs):
        return self.on_to(torch.Tensor.to, (args[0], "cuda"), {})

    def on_pin_memory(self, f, args, kwargs):
        if isinstance(args[0], Pretend):
            raise Mixed(
                f"pin_memory: only dense CPU tensors can be pinned, at {line()}"
            )
        x = args[0].clone()
        x.pinned = True
        return x

    def on_tolist(self, f, args, kwargs):
        if isinstance(args[0], Pretend):
            wait("tolist")
        return inner(args[0]).tolist()

    def on_numpy(self, f, args, kwargs):
        if isinstance(args[0], Pretend):
            raise Mixed(f"{f.__name__}: of a tensor on the device, at {line()}")
        return f(*args, **kwargs)

    on___array__ = on_numpy


def grouped(grads, by_device=clip_grad._group_tensors_by_device_and_dtype):
    """Gradients by device and type, for the clip of their norm: PyTorch asks below
    python, where all are on the CPU.
    """
    return {
        (same[0][0].device, dtype): (same, at)
        for (_, dtype), (same, at) in by_device(grads).items()
    }


@contextlib.contextmanager
def pretend(free=2**33):
    "Inside, there is a device `cuda:0` with so many free bytes; yields the `Host`."
    with (
        mock.patch.object(torch, "Generator", Generator),
        mock.patch.object(clip_grad, "_group_tensors_by_device_and_dtype", grouped),
        mock.patch("torch.cuda.mem_get_info", lambda device=None: (free, free)),
        mock.patch.object(Host, "now", Host()),
        Mode(),
    ):
        yield Host.now
