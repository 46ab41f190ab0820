"""Nested training state (tensors, numbers, dictionaries) as flat tensors plus one JSON document, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dictionaries, lists, numbers and tensors into tensors by name and a JSON skeleton.

    Keys of dictionaries may be strings or integers (optimisers use integers) and keep their type.

    Raises
    ------
    TypeError
        For a leaf that a checkpoint cannot hold exactly.

    Examples
    --------
    >>> import torch
    >>> tensors, skeleton = flatten({"step": 3, "moments": {0: torch.zeros(2)}})
    >>> unflatten(tensors, skeleton)
    {'step': 3, 'moments': {0: tensor([0., 0.])}}
    """
    import torch

    tensors: dict[str, Tensor] = {}

    def visit(node: Any, name: str) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[name] = node
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[key, visit(value, f"{name}.{key}")] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [visit(value, f"{name}.{i}") for i, value in enumerate(node)]}
        if node is None or isinstance(node, (bool, int, str)):
            return {"value": node}
        if isinstance(node, float):
            # Hexadecimal keeps inf and every bit; plain JSON keeps neither for sure.
            return {"float": node.hex()}
        raise TypeError(f"a checkpoint cannot hold {name} of type {type(node).__name__}")

    return tensors, visit(state, "state")


def unflatten(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """Rebuild the tree that `flatten` split."""
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten(tensors, value) for key, value in content}
    if kind in ("list", "tuple"):
        items = [unflatten(tensors, value) for value in content]
        return items if kind == "list" else tuple(items)
    return float.fromhex(content) if kind == "float" else content
