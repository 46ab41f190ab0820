"""How many features a torch module reads: what it says itself, or what its layers need."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from lipctrl.bounds.torch_composed import COMPOSED_MODULES
from lipctrl.bounds.torch_modules import BATCH_NORMS, NEUTRAL, SHAPED, kind_of, module_activation, setting
from lipctrl.bounds.torch_trace import Whole, attribute, refusal

# Calls whose result may have another number of features than what they read.
_RESIZING = {
    *(operator.getitem, operator.matmul, torch.matmul, "matmul", torch.cat, torch.concat, torch.concatenate),
    *(torch.split, torch.chunk, torch.tensor_split, "split", "chunk"),
}


def input_size(module: nn.Module) -> int:
    """Return the number of input features: `in_features`, or that of the first linear layer.

    Raises
    ------
    ValueError
        When neither is there.
    """
    features = getattr(module, "in_features", None)
    if isinstance(features, int):
        return features
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
    raise ValueError(
        f"{type(module).__name__} has no in_features and no Linear layer: its input size is unknown"
    )


def graph_input_size(whole: Whole, graph: fx.Graph) -> int:
    """Return the size of the input: of the first Linear that reads it through size-preserving steps."""
    if isinstance(getattr(whole.net, "in_features", None), int):
        return input_size(whole.net)
    frontier = [n for n in graph.nodes if n.op == "placeholder"]
    seen, resized = set(frontier), None
    while frontier:
        for user in frontier.pop(0).users:
            if user.op == "call_module":
                part = whole.get_submodule(str(user.target))
                if isinstance(part, nn.Linear):
                    return part.in_features
                if kind_of(part) in BATCH_NORMS:
                    return int(setting(part, "num_features"))
                plain = isinstance(part, (*NEUTRAL, nn.Flatten, nn.PReLU, *COMPOSED_MODULES))
                if kind_of(part) in SHAPED:
                    raise refusal(user, f"{kind_of(part).__name__} needs input_shape=(channels, ...)")
                if not plain and module_activation(part) is None:
                    raise refusal(user, f"a {kind_of(part).__name__} module")
            elif user.target is F.linear:
                weight = user.args[1] if len(user.args) > 1 else user.kwargs["weight"]
                if isinstance(weight, fx.Node) and weight.op == "get_attr":
                    return int(attribute(whole, weight.target).shape[1])
            if user.target in _RESIZING:
                resized = user
            elif user not in seen:
                seen.add(user)
                frontier.append(user)
    if resized is not None:
        raise refusal(
            resized,
            "it leaves the size of the input open; give the network an attribute in_features, or input_shape=",
        )
    return input_size(whole.net)
