"""The command line as a user meets it: what it prints, what it leaves, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import lipctrl
from lipctrl import rules
from lipctrl.cli import main

SHORT = ("--steps", "512", "--width", "8", "--set", "environments=8", "--set", "horizon=16")


@pytest.fixture
def run_cli(capsys, monkeypatch):
    """Call `lipctrl ...` in this process; return (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lipctrl", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    command = ["train", "lipctrl/Pendulum-v0", "--out", str(out), *SHORT]
    done = subprocess.run(
        [sys.executable, "-m", "lipctrl", *command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def certificate(tmp_path):
    net = rules.series(rules.linear([[0.3, 0.1]]), rules.elementwise("tanh", 1))
    return rules.centered([[-1.0, -1.5]], net).save(tmp_path / "certificate.json")


def test_train_says_what_stands_where_its_folder_should(run_cli, tmp_path):
    for out in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "run"):
        (tmp_path / "notes.txt").touch()
        code, _, err = run_cli("train", "lipctrl/Pendulum-v0", "--out", out, *SHORT)
        assert code == 2
        assert f"lipctrl: {out}" in err or f"the run folder {out}" in err
        assert "choose another" in err
        assert "intact" not in err


def test_train_says_the_bound_its_reason_and_where_the_run_is(trained):
    out, said = trained
    run = lipctrl.load_run(out)
    assert "stability radius of the linearised plant with its LQR gain" in said
    assert f"certified gain ≤ {run.certificate.gain:.6g}" in said
    assert "100 unseen episodes" in said
    assert f"lipctrl analyze {out}" in said
    assert run.config["settings"]["environments"] == 8
    assert run.config["guarantee"]["radius"] > run.certificate.radius


def test_train_resumes_and_refuses_to_overwrite(run_cli, trained):
    out, _ = trained
    code, _, err = run_cli("train", "lipctrl/Pendulum-v0", "--out", out, *SHORT)
    assert code == 2
    assert "already holds a run; continue it with resume (--resume)" in err
    code, said, _ = run_cli("train", "lipctrl/Pendulum-v0", "--out", out, "--resume", "--steps", "640")
    assert code == 0
    assert lipctrl.load_run(out).metrics["steps"][-1] == 640
    assert "unseen episodes" in said


def test_a_run_begins_where_another_ended(run_cli, trained, tmp_path):
    first, _ = trained
    flags = ("--out", tmp_path / "second", "--steps", "512", "--set", "environments=8", "--set", "horizon=16")
    # A rate this small leaves the weights where they began.
    code, out, err = run_cli(
        "train", "lipctrl/Pendulum-v0", "--start", first, "--algorithm", "ppo", "--set", "rate=1e-12", *flags
    )
    assert code == 0, err
    assert f"the residual policy of {first}" in out
    began, ended = lipctrl.load_run(first), lipctrl.load_run(tmp_path / "second")
    assert ended.certificate.radius == pytest.approx(began.certificate.radius, rel=1e-6)
    observation = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ended.policy(observation), began.policy(observation))
    # The plant may be another one: the radius is computed anew, and holds for that plant.
    code, _, err = run_cli(
        "train",
        "lipctrl/Pendulum-v0",
        "--start",
        first,
        "--env-option",
        "length=30.0",
        *flags[2:],
        "--out",
        tmp_path / "x",
    )
    assert code == 2, err
    assert "stability radius" in err


@pytest.mark.parametrize(
    ("env", "words", "message"),
    [
        ("lipctrl/Pendulum-v0", ("--lipschitz", "1"), "leave out --resume and what describes a policy"),
        ("lipctrl/Pendulum-v0", ("--resume",), "leave out --resume and what describes a policy"),
        ("lipctrl/CartPole-v0", (), "maps 2 observations to 1 actions; expected 4 and 1"),
    ],
)
def test_a_policy_that_is_taken_over_fits_and_is_not_described_again(run_cli, trained, env, words, message):
    code, _, err = run_cli("train", env, "--start", trained[0], *words)
    assert code == 2
    assert message in err


def test_a_config_file_holds_settings_and_schedule_and_flags_win(run_cli, tmp_path):
    file, out = tmp_path / "settings.json", tmp_path / "run"
    file.write_text(json.dumps({"environments": 4, "horizon": 16, "patience": 3, "evaluation_episodes": 4}))
    words = ("train", "lipctrl/Pendulum-v0", "--out", out, "--config", file, "--steps", "128")
    code, _, err = run_cli(*words, "--set", "horizon=8", "--set", "checkpoint_every=2")
    assert code == 0, err
    config = lipctrl.load_run(out).config
    assert (config["settings"]["environments"], config["settings"]["horizon"]) == (4, 8)
    assert (config["schedule"]["patience"], config["schedule"]["checkpoint_every"]) == (3, 2)
    file.write_text("[1]")
    assert "holds a list; expected settings" in run_cli(*words[:-2])[2]


def test_a_run_goes_on_with_its_own_settings_or_not_at_all(run_cli, tmp_path):
    out = tmp_path / "run"
    words = ("train", "lipctrl/Pendulum-v0", "--out", out, "--set", "environments=4", "--set", "horizon=8")
    few = ("--set", "evaluation_episodes=4", "--width", "8", "--policy", "plain", "--algorithm", "apg")
    assert run_cli(*words, *few, "--steps", "64")[0] == 0
    code, _, err = run_cli(*words[:-1], "horizon=16", "--resume")
    assert code == 2
    assert "was trained with horizon=8, and 16 was given" in err
    code, _, err = run_cli(*words[:4], "--resume", "--width", "16", "--policy", "plain")
    assert code == 2
    assert "holds another policy than the one given" in err
    assert "--width" in err
    for flag, message in (
        (("--seed", "3"), "seed=0, and 3 was given"),
        (("--algorithm", "ppo"), "'apg', and 'ppo'"),
    ):
        code, _, err = run_cli(*words[:4], "--resume", *flag)
        assert code == 2
        assert message in err
    # The same command again, and a schedule, may stand beside --resume.
    code, _, err = run_cli(*words, *few, "--resume", "--steps", "96", "--target", "-1e9")
    assert code == 0, err
    assert lipctrl.load_run(out).metrics["steps"][-1] == 96


def test_a_traded_bound_shrinks_below_its_cap(run_cli, tmp_path):
    out = tmp_path / "run"
    small = (
        "--set",
        "environments=4",
        "--set",
        "horizon=8",
        "--set",
        "evaluation_episodes=4",
        "--width",
        "8",
    )
    code, _, err = run_cli(
        "train", "lipctrl/Pendulum-v0", "--out", out, "--steps", "640", "--trade-off", "10", *small,
        "--set", "policy_rate=0.1", "--set", "evaluate_every=100",
    )  # fmt: skip
    assert code == 0, err
    run = lipctrl.load_run(out)
    assert run.config["settings"]["gain_price"] == 10.0
    radius = run.config["guarantee"]["radius"]
    assert run.certificate.radius < 0.8 * 0.5 * radius


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("NoSuch-v0",), "no environment 'NoSuch-v0'"),
        (("CartPole-v1",), "Discrete"),
        (("lipctrl/Pendulum-v0", "--lipschitz", "1e6"), "not below the stability radius"),
        (("lipctrl/Pendulum-v0", "--algorithm", "magic"), "algorithm is 'magic'"),
        (("lipctrl/Pendulum-v0", "--set", "rate=1"), "apg has no setting 'rate'; it has environments"),
        (("lipctrl/Pendulum-v0", "--set", "horizon=1.5"), "setting horizon is 1.5; expected a whole number"),
        (("lipctrl/Pendulum-v0", "--set", "patience=0"), "schedule patience is 0; expected a whole number"),
        (
            ("lipctrl/Pendulum-v0", "--trade-off", "-1"),
            "setting gain_price is -1.0; expected a finite number",
        ),
        (("lipctrl/Pendulum-v0", "--set", "gain_price=0.1"), "the gain of this policy is fixed"),
        (("lipctrl/Pendulum-v0", "--parametrization", "magic"), "magic"),
        (("lipctrl/Pendulum-v0", "--resume", "--out", "no-such-folder"), "not a folder"),
    ],
)
def test_train_refuses_bad_input_in_one_line(run_cli, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("train", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("lipctrl: ")
    assert not (tmp_path / "runs").exists()


def test_verify_exits_zero_one_or_two(run_cli, certificate, tmp_path):
    code, out, _ = run_cli("verify", certificate)
    assert code == 0
    assert "proved: gain ≤" in out
    assert run_cli("verify", certificate.parent)[0] == 0
    assert run_cli("verify", "--exact", certificate)[0] == 0

    data = json.loads(certificate.read_text())
    data["nodes"][0]["weights"]["weight"]["data"][0] += 1e-6
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps(data))
    code, out, _ = run_cli("verify", altered)
    assert code == 1
    assert "not proved" in out

    for content in (b"\x00\xff garbage", b"{}", b"[1, 2]"):
        garbage = tmp_path / "garbage.json"
        garbage.write_bytes(content)
        code, _, err = run_cli("verify", garbage)
        assert code == 2
        assert err.count("\n") == 1
    code, _, err = run_cli("verify", tmp_path / "absent.json")
    assert code == 2
    assert "does not exist" in err


def test_verify_imports_no_torch(certificate):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['control'] = None\n"
        f"sys.argv = ['lipctrl', 'verify', {str(certificate)!r}]\n"
        "from lipctrl.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_certify_proves_the_stored_weights_again(run_cli, trained, tmp_path):
    out, _ = trained
    path = tmp_path / "again.json"
    code, said, _ = run_cli("certify", out, "--out", path)
    assert code == 0
    assert "proved: gain ≤" in said
    again, stored = lipctrl.load_certificate(path), lipctrl.load_run(out).certificate
    y = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(again.evaluate(y), stored.evaluate(y))
    code, _, err = run_cli("certify", tmp_path / "nothing.onnx")
    assert code == 2
    assert "does not exist" in err


def test_analyze_prints_the_verdict_and_writes_the_page(run_cli, trained, tmp_path):
    out, _ = trained
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    code, said, _ = run_cli("analyze", out, "--html", page, "--json", numbers)
    assert code == 0
    assert "certified" in said
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    assert json.loads(numbers.read_text())


def test_analyze_of_a_black_box_says_that_its_model_was_sampled(run_cli, tmp_path):
    pytest.importorskip("mujoco")
    out = tmp_path / "run"
    small = ("--set", "environments=2", "--set", "horizon=4", "--width", "8", "--depth", "1", "--steps", "8")
    assert run_cli("train", "InvertedPendulum-v5", *small, "--out", out)[0] == 0
    code, said, _ = run_cli("analyze", out)
    assert code == 1
    assert "InvertedPendulumEnv, linearised, 4 states" in said
    assert "sampled, not certified" in said


@pytest.mark.parametrize(("env", "known"), [("Hopper-v5", False), ("MountainCarContinuous-v0", True)])
def test_a_training_ends_in_what_can_be_done_next(run_cli, tmp_path, env, known):
    pytest.importorskip("mujoco")
    out = tmp_path / "run"
    small = (
        "--set",
        "environments=2",
        "--set",
        "horizon=4",
        "--set",
        "evaluation_episodes=1",
        "--width",
        "4",
    )
    quick = ("--set", "validation_episodes=1", "--steps", "8", "--depth", "1")
    code, said, err = run_cli("train", env, *small, *quick, "--out", out)
    assert code == 0, err
    # Hopper stands on a contact: there is nothing to linearise, and so nothing to analyse.
    assert (f"next: lipctrl analyze {out}" in said) is known
    assert (f"next: lipctrl verify {out}, lipctrl evaluate {out} --noise 0.05" in said) is not known
    if not known:
        assert f"lipctrl.analyze(model, lipctrl.load_run({str(out)!r}).certificate)" in said
        code, _, err = run_cli("analyze", out)
        assert code == 2
        assert "a contact" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Pendulum-v1", "--set", "environments=0"), "setting environments is 0; expected a whole number"),
        (("Pendulum-v1", "--set", "rate=-1"), "setting rate is -1.0; expected a positive finite number"),
        (("Pendulum-v1", "--set", "discount=1"), "setting discount is 1.0"),
        (("Pendulum-v1", "--set", "minibatches=4096"), "too few for 4096 minibatches"),
        (("Pendulum-v1", "--device", "cuda:77"), "device is 'cuda:77', which cannot be used here"),
        (("CartPole-v1",), "action space Discrete(2)"),
        (("Blackjack-v1",), "observation space Tuple"),
        (("lipctrl/CartPol-v0",), "Did you mean: `CartPole`?"),
        (("lipctrl/CartPole-v7",), "provides versioned environments"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_line(run_cli, tmp_path, arguments, message):
    code, said, err = run_cli("train", *arguments, "--algorithm", "ppo", "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert "Traceback" not in said + err
    assert not (tmp_path / "run").exists()


def test_every_spelling_of_an_environment_is_the_same_task():
    from lipctrl.training import find_task

    for name in ("lipctrl_envs/Pendulum-v0", "lipctrl_envs:lipctrl/Pendulum-v0"):
        assert find_task(name).env_id == "lipctrl_envs:lipctrl/Pendulum-v0"
    with pytest.warns(UserWarning, match="Using the latest versioned environment"):
        assert find_task("lipctrl/Pendulum").env_id == "lipctrl_envs:lipctrl/Pendulum-v0"


def test_plot_writes_a_picture_and_lists_the_kinds(run_cli, trained, tmp_path):
    out, _ = trained
    path = tmp_path / "curve.png"
    assert run_cli("plot", out, "training", "--out", path)[0] == 0
    assert path.read_bytes()[:4] == b"\x89PNG"
    code, _, err = run_cli("plot", out, "moods")
    assert code == 2
    assert "trajectories" in err


def test_sweep_prints_a_table_and_resumes(run_cli, tmp_path):
    few = ("--set", "evaluation_episodes=5", "--set", "validation_episodes=2")
    command = ("sweep", "lipctrl/Pendulum-v0", "--steps", "1", "--grid", "seed=0,1", "--workers", "0", *few)
    code, said, _ = run_cli(*command, "--grid", "width=8", "--out", tmp_path)
    assert code == 0
    assert "mean return" in said
    assert [row["episodes"] for row in json.loads((tmp_path / "sweep.json").read_text())] == [5, 5]
    assert (tmp_path / "sweep.csv").read_text().count("\n") == 3
    before = (tmp_path / "sweep.json").read_bytes()
    assert run_cli(*command, "--grid", "width=8", "--out", tmp_path)[0] == 0
    assert (tmp_path / "sweep.json").read_bytes() == before
    code, _, err = run_cli("sweep", "lipctrl/Pendulum-v0", "--grid", "colour=1", "--out", tmp_path / "x")
    assert code == 2
    assert "unknown axes ['colour']" in err
    code, _, err = run_cli("sweep", "lipctrl/Pendulum-v0", "--grid", "seed", "--out", tmp_path / "x")
    assert code == 2
    assert "NAME=V1,V2" in err


def test_ctrl_c_of_a_sweep_says_how_to_go_on(run_cli, tmp_path, monkeypatch):
    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr("lipctrl.runs.sweeps.train_one", interrupted)
    code, said, _ = run_cli("sweep", "lipctrl/Pendulum-v0", "--workers", "0", "--out", tmp_path)
    assert code == 130
    assert f"in {tmp_path}. The same command goes on" in said.replace("\n", "")


def test_the_demo_reaches_its_verdict(run_cli, tmp_path):
    code, said, _ = run_cli("demo", "--fast", "--out", tmp_path / "demo")
    assert code == 0
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert result["verdict"] == "certified"
    assert result["proved"]
    assert result["residual_gain"] < result["stability_radius"]
    for form, margin in result["margins"].items():
        assert margin["upper"] > 1.0, form
        if margin["falsified_upper"] is not None:
            assert margin["falsified_upper"] >= margin["upper"]
    for word in ("certified", "dB", "scope", "report.html"):
        assert word in said
    for name in ("report.html", "report.json", "nyquist.png", "run/certificate.json"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000, name
    assert run_cli("verify", tmp_path / "demo" / "run")[0] == 0


@pytest.mark.slow
def test_the_demo_cuts_the_cost_of_lqr(run_cli, tmp_path):
    assert run_cli("demo", "--out", tmp_path)[0] == 0
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["cost_trained"] < 0.9 * result["cost_lqr"]
    assert result["better_share"] > 0.55
    assert result["margins"]["policy"]["falsified_upper"] > result["margins"]["policy"]["upper"]


def test_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "lipctrl", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for command in ("train", "certify", "verify", "analyze", "plot", "sweep", "demo"):
        assert command in done.stdout


def test_evaluate_prints_the_return_of_unseen_episodes_and_its_error(run_cli, trained):
    out, _ = trained
    code, said, _ = run_cli("evaluate", out, "--episodes", 8)
    assert code == 0
    assert "(8 episodes" in said
    assert "±" in said
    code, disturbed, _ = run_cli(
        "evaluate", out, "--episodes", 8, "--noise", 0.1, "--delay", 1, "--gain-scale", 0.5, "--attack", 0.1
    )
    assert code == 0
    assert disturbed != said
    code, _, error = run_cli("evaluate", out, "--attack", -1.0)
    assert code == 2
    assert "-1" in error


def test_the_version_is_a_flag_and_a_command(run_cli):
    for word in ("--version", "version"):
        code, said, _ = run_cli(word)
        assert code == 0
        assert said.strip() == lipctrl.__version__
