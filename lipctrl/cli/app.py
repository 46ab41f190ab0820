"""The commands: train, evaluate, certify, verify, analyze, plot, sweep, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipctrl.cli.flags import pairs

app = typer.Typer(
    help="Neural controllers whose Lipschitz bound is guaranteed, with the proof carried to the closed loop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say(text: str) -> None:
    """Print without markup: file names and numbers are not to be interpreted."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def _lipschitz(text: str) -> float | str:
    if text in ("auto", "scaled"):
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}; expected a positive number, 'auto' or 'scaled'") from None


@app.command()
def train(
    env: Annotated[str, typer.Argument(help="Gymnasium name, such as Pendulum-v1 or lipctrl/CartPole-v0.")],
    algorithm: Annotated[
        str, typer.Option(help="apg, ppo or imitation; auto: apg for residual policies, ppo otherwise.")
    ] = "auto",
    lipschitz: Annotated[
        str,
        typer.Option(
            help="Bound in action per observation unit; auto: half the stability radius; scaled: half of it for "
            "observations divided by their sizes, which leaves more room where units differ."
        ),
    ] = "auto",
    policy: Annotated[str, typer.Option(help="residual (around LQR), plain, or auto.")] = "auto",
    parametrization: Annotated[str, typer.Option(help="Of the certified network.")] = "lossless",
    width: Annotated[int, typer.Option(help="Neurons in each layer.")] = 32,
    depth: Annotated[int, typer.Option(help="Residual blocks in series.")] = 2,
    steps: Annotated[int | None, typer.Option(help="Environment steps in total.")] = None,
    seed: Annotated[int | None, typer.Option(help="Split into recorded streams. [0]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder [runs/ENV-ALGORITHM-SEED].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    start: Annotated[
        Path | None, typer.Option(help="Begin with the trained policy of this run, not with a new one.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Stop when a validation reaches this return.")] = None,
    trade_off: Annotated[
        float | None,
        typer.Option(
            help="Learn which share of the bound to use, at this price of all of it; the bound is then a cap."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Setting of the algorithm, or of the schedule (patience, checkpoint_every …), NAME=VALUE; "
            "repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with the same settings, {NAME: VALUE}; flags win.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--env-option", help="Keyword of the environment, NAME=VALUE; repeatable."),
    ] = None,
) -> None:
    """Train a certified policy and leave a run folder: weights, certificate, metrics, evaluation."""
    from lipctrl.cli.training import run_training

    run_training(
        env,
        algorithm=algorithm,
        design={
            "lipschitz": _lipschitz(lipschitz),
            "kind": policy,
            "parametrization": parametrization,
            "width": width,
            "depth": depth,
        },
        steps=steps,
        seed=seed,
        device=device,
        out=out,
        resume=resume,
        target=target,
        trade_off=trade_off,
        settings=pairs(setting, "--set"),
        config=config,
        options=pairs(option, "--env-option"),
        start=start,
        say=_say,
    )


@app.command()
def certify(
    source: Annotated[Path, typer.Argument(help="A run folder, or a model file (.onnx, .safetensors).")],
    method: Annotated[
        str, typer.Option(help="Bound for model files: auto, product, lipsdp, eclipse …")
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="Where to write the certificate.")] = None,
) -> None:
    """Prove a Lipschitz bound of stored weights, write the certificate and check it."""
    from lipctrl.checker import check

    if source.is_dir():
        from lipctrl.runs import load_run
        from lipctrl.runs.folder import RunWriter

        policy = load_run(source).policy
        certificate = policy.certificate()
        path = out or source / "certificate.json"
        if out is None:
            # Weights of another machine may fold to other last digits: they name the certificate that is theirs now.
            RunWriter(source).save_policy(policy, certificate)
    elif source.exists():
        import lipctrl

        certificate = lipctrl.certify(str(source), method=method)
        path = out or source.with_suffix(".certificate.json")
    else:
        raise ValueError(f"{source} does not exist; expected a run folder or a model file")
    certificate.save(path)
    report = check(certificate)
    _say(f"{certificate}\n{report}\nwritten to {path}")
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def verify(
    certificate: Annotated[Path, typer.Argument(help="A certificate.json file, or a run folder.")],
    exact: Annotated[
        bool, typer.Option("--exact", help="Integer arithmetic: slow, for small networks.")
    ] = False,
) -> None:
    """Re-prove a certificate from its stored numbers; exit 0 proved, 1 not proved, 2 bad input."""
    from lipctrl.certificate import bound_text
    from lipctrl.certificate_reader import load_certificate
    from lipctrl.checker import check

    path = certificate / "certificate.json" if certificate.is_dir() else certificate
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a certificate that lipctrl saved")
    found = load_certificate(path)
    report = check(found, route="exact" if exact else "float")
    if report.ok and certificate.is_dir():
        from lipctrl.runs.folder import require_own

        require_own(certificate, found)
    _say(str(report))
    if report.ok:
        radius = (
            ""
            if found.radius is None
            else f", incremental ball of radius {bound_text(found.radius)} about its gain"
        )
        _say(f"{path}: {found.in_features} inputs, {found.out_features} outputs, norm {found.norm}{radius}")
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def analyze(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers.")] = None,
) -> None:
    """Analyse the closed loop of a run; exit 0 when its stability is certified, 1 otherwise."""
    import lipctrl
    from lipctrl.cli.loop import loop_of

    plant, policy = loop_of(run)
    report = lipctrl.analyze(plant, policy)
    _say(report.summary())
    for path in (html, json):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            report.save(path)
            _say(f"written to {path}")
    raise typer.Exit(0 if report.verdict == "certified" else 1)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    kind: Annotated[
        str,
        typer.Argument(
            help="training trajectories nyquist sigma margins disk-margin margin-simulation structured-margins region "
            "trade-off poles certificate singular-values gershgorin."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Picture file [RUN/KIND.png].")] = None,
) -> None:
    """Draw one picture of a run."""
    from lipctrl.cli.pictures import draw

    _say(f"written to {draw(run, kind, out)}")


@app.command()
def sweep(
    env: Annotated[str, typer.Argument(help="Gymnasium name.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=V1,V2,… or, with --random, NAME=LOW:HIGH; repeatable. Names: lipschitz seed parametrization "
            "env_id algorithm steps width depth activation trade_off. [seed=0,1,2,3,4]"
        ),
    ] = None,
    random: Annotated[int | None, typer.Option(help="Draw this many combinations; all without it.")] = None,
    algorithm: Annotated[
        str,
        typer.Option(
            help="apg, ppo or imitation; auto: for each environment apg where its policy is residual, ppo otherwise."
        ),
    ] = "auto",
    steps: Annotated[int | None, typer.Option(help="Environment steps of each run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same folder resumes it.")] = Path(
        "runs/sweep"
    ),
    workers: Annotated[int, typer.Option(help="Runs at a time; 0 runs here, without Ray.")] = 2,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; local without it.")] = None,
    retries: Annotated[int, typer.Option(help="Times that a run is tried again after its worker died.")] = 2,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Setting of the algorithm or of the schedule for every run, NAME=VALUE; repeatable."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--env-option", help="Keyword of the environment, NAME=VALUE; repeatable."),
    ] = None,
) -> None:
    """Train many policies on Ray, resumable; table and Pareto front of performance against margin."""
    from lipctrl.cli.sweeping import run_sweep

    done = run_sweep(
        env,
        grid=grid or [],
        random=random,
        algorithm=algorithm,
        steps=steps,
        out=out,
        workers=workers,
        address=address,
        retries=retries,
        settings=pairs(setting, "--set"),
        options=pairs(option, "--env-option"),
        say=_say,
    )
    raise typer.Exit(0 if done else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run, the report and the pictures.")] = Path(
        "demo-report"
    ),
    fast: Annotated[
        bool, typer.Option("--fast", help="A short training: for tests, not for results.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
) -> None:
    """Balance a cart-pole better than LQR, with the same proof of stability: the whole line in one go."""
    from lipctrl.demo import run_demo

    run_demo(out, fast=fast, seed=seed)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episodes: Annotated[int, typer.Option(help="Episodes, from starts that no training saw.")] = 100,
    seed: Annotated[int, typer.Option(help="Of starts and perturbations.")] = 1,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of noise on every observation, in its units.")
    ] = 0.0,
    delay: Annotated[int, typer.Option(help="Samples by which every action arrives late.")] = 0,
    gain_scale: Annotated[float, typer.Option(help="Factor k of the policy k·π.")] = 1.0,
    attack: Annotated[
        float, typer.Option(help="Radius ε of an l2 attack by gradient on every observation; 0: none.")
    ] = 0.0,
) -> None:
    """Run the policy of a run for whole episodes and print its mean return with the standard error."""
    from lipctrl.runs import load_run
    from lipctrl.training import Attack
    from lipctrl.training import evaluate as run_episodes

    found = load_run(run)
    result = run_episodes(
        found.policy,
        found.env_id,
        episodes=episodes,
        seed=seed,
        env_options=found.config["env_options"],
        observation_noise=noise,
        delay=delay,
        gain_scale=gain_scale,
        attack=Attack(attack) if attack else None,
    )
    _say(str(result))


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def main(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Neural controllers whose Lipschitz bound is guaranteed, with the proof carried to the closed loop."""


@app.command()
def version() -> None:
    """Print the version."""
    import lipctrl

    _say(lipctrl.__version__)
