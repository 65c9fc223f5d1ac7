"""`ec2emo evaluate` with a real run: while it trains and afterwards, on data it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.conftest import Ec2emo
from tests.end_to_end.conftest import Place, in_fresh_python
from trainer.clips import demo

RIGHT = """
import pathlib, sys
import numpy as np
from trainer.artifacts import load
folder, data = map(pathlib.Path, sys.argv[1:])
bundle = load(folder)
paths = sorted(data.glob("demo-*.npz"))
told = bundle.model(bundle.norm.batch([np.load(p)["features"] for p in paths])).numpy().argmax(axis=1)
print(sum(bundle.classes[i] == p.name.split("_")[1] for i, p in zip(told, paths)) / len(paths))
"""


def test_a_run_is_evaluated_on_other_data_while_it_trains_and_when_it_is_over(
    ec2emo: Ec2emo, data: Path, tmp_path: Path
) -> None:
    place = Place("local", ec2emo, ec2emo.home / "machine", data)
    others = tmp_path / "others"
    others.mkdir()
    trained = {p.name for p in data.glob("*.npz")}
    whole = demo.write(tmp_path / "whole")
    for path in [p for p in sorted(whole.glob("*.npz")) if p.name not in trained][::6]:
        (others / path.name).write_bytes(path.read_bytes())
    random = np.random.default_rng(1)
    np.savez(others / "strange.npz", features=random.normal(size=(20, 16)), emotion="calm")

    place.deploy(name="judged", epochs=4000)
    place.await_epoch("judged", 2)
    asked = ("evaluate", "judged", "--data", str(others), "--json")
    during = json.loads(ec2emo(*asked).out)
    assert place.see("judged", code=0)["state"] == "running"
    ec2emo("stop", "judged")
    found = json.loads(ec2emo(*asked).out)
    for answer in (during, found):
        assert (answer["run"], answer["data"], answer["n"]) == ("judged", str(others), 32)
        assert answer["left_out"] == {"calm": 1}
        assert answer["synthetic"] is True
        assert answer["speakers_shared_with_training"] == 7
        assert answer["intervals"]["resampled"] == "speakers"
        low, high = answer["intervals"]["accuracy"]
        assert low <= answer["accuracy"] <= high

    got = json.loads(ec2emo("download", "judged", "--best", "--json").out)
    assert got["epoch"] == found["epoch"]
    assert {f["path"] for f in got["files"]} >= {"report_v9.html", "evaluation_v9.json", "roc_v9.png"}
    assert float(in_fresh_python(RIGHT, got["dir"], str(others))) == found["accuracy"]

    shown = ec2emo("evaluate", "judged", "--data", str(others)).out
    for words in ("SYNTHETIC", f"{found['uar']:.4f}", "1 of calm left out", "7 shared with training"):
        assert words in shown
    for name in ("angry", "happy", "neutral", "sad"):
        assert name in shown

    other, empty = tmp_path / "other", tmp_path / "empty"
    other.mkdir()
    empty.mkdir()
    np.savez(other / "a.npz", features=random.normal(size=(20, 4)), emotion="sad")
    said = ec2emo("evaluate", "judged", "--data", str(other), code=2).err
    assert "the model takes 16 dimensions" in said
    assert "holds no clip" in ec2emo("evaluate", "judged", "--data", str(empty), code=2).err
    assert "not a folder" in ec2emo("evaluate", "judged", "--data", "s3://x", code=2).err
    assert "name the folder itself" in ec2emo("evaluate", "--data", "remote:/x", code=2).err
