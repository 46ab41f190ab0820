"""Operations of torch that overwrite their operand, and values that share its memory.

A traced graph reads as if every value were kept. A layer such as `ReLU(inplace=True)` or an `x += y` replaces the
numbers that its operand holds, so that a later read of the operand, or of a view of it, sees other numbers than the
graph says. Such reads are refused.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from lipctrl.bounds.graph import UnsupportedOperationError

_AUGMENTED = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
# Modules whose output is their input, or a view of it, in evaluation mode.
_SAME = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_VIEWS = {
    *("view", "reshape", "flatten", "detach", "contiguous", "float", "double", "split", "chunk"),
    *(
        operator.getitem,
        torch.reshape,
        torch.flatten,
        torch.split,
        torch.chunk,
        torch.tensor_split,
        F.dropout,
    ),
}


def _operand(node: fx.Node) -> fx.Node | None:
    """Return the first argument of a node, where it is a value of the graph."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def overwrites(module: nn.Module, node: fx.Node) -> bool:
    """Tell whether a node writes its result over its first operand, in evaluation mode."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        return getattr(part, "inplace", False) is True and not isinstance(part, _SAME)
    if node.op not in ("call_function", "call_method") or node.target is F.dropout:
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    underscored = name.endswith("_") and not name.endswith("__")
    flagged = any(argument is True for argument in (*node.args, node.kwargs.get("inplace")))
    return node.target in _AUGMENTED or underscored or flagged


def _shares(module: nn.Module, node: fx.Node) -> bool:
    """Tell whether the result of a node may lie in the memory of its first operand."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        return isinstance(part, _SAME) or getattr(part, "spec", None) == {"name": "identity"}
    return node.op in ("call_function", "call_method") and node.target in _VIEWS


def refuse_stale_reads(module: nn.Module, graph: fx.Graph) -> None:
    """Refuse graphs that read a value after an operation has written over it.

    Raises
    ------
    UnsupportedOperationError
        With the reading and the writing node.
    """
    memory: dict[fx.Node, fx.Node] = {}
    written: dict[fx.Node, fx.Node] = {}
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            writer = written.get(memory[source])
            if writer is not None and order[source] < order[writer]:
                raise UnsupportedOperationError(
                    f"{node.name!r} reads {source.name!r}, over which {writer.name!r} has written in place: the trace "
                    "does not show what it reads; use the operation that is not in place (inplace=False, y = y + x)"
                )
        operand = _operand(node)
        over = operand is not None and overwrites(module, node)
        shared = operand is not None and (over or _shares(module, node))
        memory[node] = memory[operand] if operand is not None and shared else node
        if over:
            if memory[node].op == "get_attr":
                raise UnsupportedOperationError(
                    f"{node.name!r} writes over {memory[node].name!r}, a tensor of the network: a call depends on the "
                    "calls before it"
                )
            written[memory[node]] = node
