"""What an error of torch means to somebody who wrote a function for us."""

from pddlvm.basics.errors import InputError

__all__ = ["explained"]

_TAKES_A_NUMBER = ("data-dependent control flow", ".item()", "Boolean value of Tensor")
_IS_NUMPY = ("numpy()", "access data pointer", "__array_wrap__", "__array__")


def explained(error: Exception) -> str:
    """Its cause, in words: what to write instead where that is known."""
    text = str(error)
    if isinstance(error, InputError):
        return text
    if any(words in text for words in _TAKES_A_NUMBER):
        return (
            "it takes a truth value or a number out of a tensor, as `if` and the functions of math "
            "do: write torch.where(condition, a, b) for `if`, and functions of torch"
        )
    if any(words in text for words in _IS_NUMPY):
        return "it hands a tensor to NumPy: write functions of torch, as torch.sin for np.sin"
    return f"{type(error).__name__}: {text}"
