"""What programs are told keeps to the schema that is published, whatever happened and whatever was sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator import view
from orchestrator.errors import BadRequest, ContactLost, Defect
from orchestrator.progress import Snapshot
from orchestrator.published import answer, failure
from tests.conftest import Ec2emo
from tests.orchestrator.snapshots import EVIL, MOMENTS, acting, hostile, story

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "monitor.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def checked(line: str) -> dict[str, Any]:
    """The object on a line, which must keep to the schema and act on no terminal."""
    body: dict[str, Any] = json.loads(line)
    VALIDATOR.validate(body)
    assert line.isascii() and not acting(line)
    return body


def test_the_schema_is_that_of_the_types() -> None:
    VALIDATOR.check_schema(SCHEMA)
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "schema"), "--check"], check=False)
    assert done.returncode == 0, "docs/monitor.schema.json is stale: run scripts/schema"


@pytest.mark.parametrize("shown", [*MOMENTS.values(), *story(), hostile()])
def test_every_snapshot_keeps_to_the_schema(shown: Snapshot, capsys: pytest.CaptureFixture[str]) -> None:
    view.json_line(answer(shown))
    body = checked(capsys.readouterr().out)
    assert body["state"] == shown.verdict.state


@pytest.mark.parametrize("error", [BadRequest("no"), ContactLost(EVIL, run="a"), Defect(EVIL)])
def test_every_error_keeps_to_the_schema(error: Any, capsys: pytest.CaptureFixture[str]) -> None:
    view.json_line(failure(error))
    body = checked(capsys.readouterr().out)
    assert (body["error"], body["exit_code"]) == (str(error), error.exit_code) or "\ud800" in str(error)


def test_what_is_no_answer_does_not_keep_to_the_schema() -> None:
    good = json.loads(json.dumps(answer(MOMENTS["healthy"])))
    for key, value in (("state", "fine"), ("epoch", "3"), ("best", {"epoch": 1}), ("schema", 2)):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({**good, key: value})
    for key in good:
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({k: v for k, v in good.items() if k != key})


def test_a_run_that_is_not_there_is_an_object_and_a_sentence(ec2emo: Ec2emo) -> None:
    for argv in (("monitor", "none", "--json"), ("monitor", "none", "--follow", "--json")):
        done = ec2emo(*argv, code=2)
        body = checked(done.out.rstrip("\n"))
        assert (body["exit_code"], body["run"]) == (2, None)
        assert body["error"] in done.err
