"""A file of a run that was damaged is named, with what is wrong in it."""

from __future__ import annotations

import json

import pytest
from short_runs import short_run

from lipctrl.runs import RunError, load_run


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "not valid JSON"),
        ("config.json", b"{}", "not the config of a lipctrl run"),
        ("config.json", {"env_options": None}, "damaged: its entry 'env_options' is None"),
        ("config.json", {"schedule": []}, r"damaged: its entry 'schedule' is \[\]"),
        ("config.json", {"trained_on": 3}, "damaged: its entry 'trained_on' is 3"),
        ("config.json", {"policy": {}}, "no policy can be built of its entry 'policy'"),
        ("config.json", {"policy": {"policy": "LipschitzPolicy", "network": []}}, "no policy can be built"),
        ("config.json", {"settings": {"colour": 1}}, "holds settings that this version does not take"),
        ("config.json", {"settings": {"discount": "x"}}, "holds settings that this version does not take"),
        ("weights.safetensors", b"garbage", "trained weights .* damaged"),
        ("weights.safetensors", None, "missing"),
        ("certificate.json", None, "no certificate yet"),
        ("evaluation.json", b"[", "not valid JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    run = short_run(tmp_path / "run", iterations=1)
    if content is None:
        (run.path / name).unlink()
    elif isinstance(content, dict):
        config = json.loads((run.path / name).read_text())
        (run.path / name).write_text(json.dumps({**config, **content}))
    else:
        (run.path / name).write_bytes(content)

    def read_all():
        found = load_run(run.path)
        if name == "config.json":
            short_run(run.path, policy=None, resume=True)
        return found.policy, found.certificate, found.evaluation

    with pytest.raises(RunError, match=message):
        read_all()
