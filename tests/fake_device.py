"""A device that is not there: tensors that say they are on it, and compute on the CPU.

`OnDevice` wraps a tensor of the CPU and reports `DEVICE`; inside of `fake_device()` torch makes its
tensors there when it is asked to. Values are real, so that control flow works, and faults of a real
device are raised as there:

    - an operation that mixes tensors of the device and of the CPU (but for numbers, copies, and
      indices that lie on the CPU);
    - random numbers on the device from a generator of the CPU;
    - `.numpy()` of a tensor on the device.

The device has the name of a type that torch knows, that no build of it serves, and whose gradients
are computed in the thread of the caller.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CPU", "DEVICE", "OnDevice", "fake_device", "shown"]

CPU = torch.device("cpu")
DEVICE = torch.device("lazy:0")

_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy, _aten._foreach_copy_}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_torch_generator = torch.Generator
_JOINS = {_aten.cat, _aten.stack}
_CROSSING = {Tensor.to, Tensor.backward, torch.autograd.backward, torch.autograd.grad}


class OnDevice(Tensor):
    """A tensor on the device; `host` holds its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        is_strided = host.layout == torch.strided
        places = (host.stride(), host.storage_offset()) if is_strided else (None, None)
        found = Tensor._make_wrapper_subclass(
            cls, host.shape, *places, dtype=host.dtype, device=DEVICE
        )
        found.host = host
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"{self.host!r} on {DEVICE}"

    def tolist(self) -> Any:
        """Copied to the CPU, as on any device."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as on any device."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()


class _Operations(TorchDispatchMode):
    """All operations, also those that torch makes out of one call."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls that have to do with a device; the others go to torch as they are, and fast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor):
            return _from_data(func, *args, **kwargs)
        if func is Tensor.new_tensor:
            like, data = args
            return _from_data(
                torch.tensor, data, **{"dtype": like.dtype, "device": like.device} | kwargs
            )
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _indices(args[1]), *args[2:])
        names_one = "device" in kwargs or "generator" in kwargs
        if not names_one and func not in _CROSSING and not any(_is_there(x) for x in _leaves(args)):
            return func(*args, **kwargs)
        with _Operations():
            return func(*args, **kwargs)


def _is_there(x: Any) -> bool:
    # Not by its class: `torch.func` wraps tensors in its own.
    return isinstance(x, Tensor) and x.device.type == DEVICE.type


def _from_data(make: Any, data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor` and `torch.as_tensor`, which make tensors out of sight of modes."""
    if isinstance(data, Tensor):
        found = data.to(options.get("dtype", data.dtype))
    else:
        found, device = make(data, **options), device or CPU
    with _Operations():
        return found if device is None else found.to(device)


def _indices(index: Any) -> Any:
    """Lists as tensors, for the same reason."""
    if isinstance(index, tuple):
        return tuple(_indices(part) for part in index)
    return torch.tensor(index) if isinstance(index, list | np.ndarray) else index


class _OfAnyKind(type(_torch_generator)):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _torch_generator)


class _Generator(_torch_generator, metaclass=_OfAnyKind):
    """In the place of `torch.Generator`; those of the device are some of the CPU in truth."""

    def __new__(cls, device: Any = CPU) -> torch.Generator:
        made = _torch_generator()
        if torch.device(device).type == DEVICE.type:
            # Kept, so that no other one takes its address.
            _generators[made._cdata] = made
        return made


_generators: dict[int, torch.Generator] = {}


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """Inside, `DEVICE` can be used like any device."""
    with _Calls(), patch.object(torch, "Generator", _Generator):
        yield DEVICE


@contextmanager
def shown(look: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Inside, `look` is shown the operations of the device: overload, arguments and result.

    A mode of torch would see what computes their values, on the CPU.
    """

    def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        found = _run(func, args, kwargs)
        look(func, (args, kwargs), found)
        return found

    _run = globals()["_run"]
    with patch.dict(globals(), {"_run": run}):
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the values; its results lie where its arguments lie, or where it says."""
    leaves = list(_leaves((*args, *kwargs.values())))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    target = _is_on_device(func.overloadpacket, args, tensors)
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = kwargs | {"device": CPU}
    for generator in leaves:
        if isinstance(generator, _torch_generator):
            _check((generator._cdata in _generators) == target, "a generator of another device")
    # What is changed in place stays the tensor that it is.
    wrapped = {id(x.host): x for x in tensors if isinstance(x, OnDevice)}

    def wrap(x: Tensor) -> Tensor:
        return wrapped[id(x)] if id(x) in wrapped else OnDevice(x) if target else x

    found = func(*_map(_host, args), **{k: _map(_host, v) for k, v in kwargs.items()})
    return _map(wrap, found)


def _leaves(arguments: Any) -> Iterator[Any]:
    for x in arguments:
        if isinstance(x, tuple | list):
            yield from _leaves(x)
        else:
            yield x


def _map(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """The function of all tensors in x."""
    if isinstance(x, tuple | list):
        return type(x)(_map(function, part) for part in x)
    return function(x) if isinstance(x, Tensor) else x


def _is_on_device(packet: Any, args: Any, tensors: list[Tensor]) -> bool:
    """Do the arguments lie on the device? Raises where they are on several."""
    if packet in _COPIES:
        return bool(tensors) and isinstance(tensors[0], OnDevice)
    if packet in _INDEXING and isinstance(args[0], OnDevice):
        # Its indices may lie on the CPU, its values may not.
        tensors = [x for x in (args[0], *args[2:]) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, OnDevice)]
    here = [x for x in tensors if not isinstance(x, OnDevice)]
    numbers_may_mix = packet not in _JOINS
    _check(
        not there or not [x for x in here if x.ndim or not numbers_may_mix],
        f"{packet} found tensors on {DEVICE} and on {CPU}",
    )
    return bool(there)


def _check(is_right: bool, fault: str) -> None:
    if not is_right:
        raise RuntimeError(f"Expected all tensors to be on the same device: {fault}")


def _host(x: Tensor) -> Tensor:
    return x.host if isinstance(x, OnDevice) else x
