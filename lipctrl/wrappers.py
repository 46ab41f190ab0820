"""What stands between a controller and an environment: wrappers that change units hide a factor from certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gymnasium


def harmless_wrappers() -> tuple[type, ...]:
    """Return the wrappers of Gymnasium that change nothing that a training sees: not even rewards or lengths."""
    from gymnasium import wrappers

    return (
        wrappers.Autoreset,
        wrappers.HumanRendering,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics,
        wrappers.RecordVideo,
        wrappers.RenderCollection,
    )


def unit_keeping_wrappers() -> tuple[type, ...]:
    """Return the wrappers of Gymnasium that neither scale nor shift: observations and actions keep their units."""
    from gymnasium import RewardWrapper, wrappers

    return (
        *harmless_wrappers(),
        RewardWrapper,
        wrappers.ClipAction,
        wrappers.FlattenObservation,
        wrappers.NormalizeReward,
        wrappers.TimeLimit,
    )


def first_other(env: Any, known: tuple[type, ...]) -> type | None:
    """Return the class of the outermost wrapper that is none of the known ones, None where there is no such.

    Examples
    --------
    >>> import gymnasium
    >>> env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))
    >>> first_other(env, unit_keeping_wrappers()).__name__
    'NormalizeObservation'
    >>> first_other(env.env, unit_keeping_wrappers()) is None
    True
    """
    import gymnasium

    layer = env
    while isinstance(layer, gymnasium.Wrapper | gymnasium.vector.VectorWrapper):
        if not isinstance(layer, known):
            return type(layer)
        layer = layer.env
    return None


def require_raw_units(env: gymnasium.Env | Any) -> None:
    """Raise ValueError where a wrapper may change units: a model of what it wraps is then not the plant in the loop.

    What is no environment of Gymnasium has no wrappers, and passes.
    """
    if not hasattr(env, "unwrapped"):
        return
    kind = first_other(env, unit_keeping_wrappers())
    if kind is not None:
        raise ValueError(
            f"the environment is wrapped in {kind.__name__}, which may change the units of observations or actions, "
            f"and a model of the {type(env.unwrapped).__name__} inside does not have that factor; expected an "
            "environment without it, or a linear model that has it, as a control.StateSpace"
        )
