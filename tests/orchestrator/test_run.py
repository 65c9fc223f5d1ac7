"""What home knows of a run: its names, its attempts, its record."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import run as runs
from orchestrator.errors import BadRequest
from orchestrator.machine import Machine
from orchestrator.run import Asked, Run
from trainer.contract import ContractError, Spec

SPEC = Spec("a-run", "v9_attention", "/d", "f" * 64, 3, 8, {"units": 4}, synthetic=True, parent="b")
RUN = Run(
    "a-run", SPEC, "gpu", "/d", 1.5, Machine("attached", host="gpu"), "/r", "/p", (Asked("t", 1.0, "c"),)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_record_comes_back_as_it_was_written() -> None:
    assert runs.parse(RUN.to_json(), "run.json") == RUN
    bare = Run("b", SPEC, "local", "demo", 0.5)
    assert runs.parse(bare.to_json(), "run.json") == bare


def test_keys_of_a_later_version_are_passed_over() -> None:
    body = {**json.loads(RUN.to_json()), "later": {"x": 1}, "contract": "1.9"}
    body["attempts"][0]["later"] = 1
    assert runs.parse(json.dumps(body).encode(), "run.json") == RUN


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Run)]), JSON, min_size=1))
def test_any_json_in_any_place_is_a_run_or_a_contract_error(body: dict[str, Any]) -> None:
    try:
        read = runs.parse(json.dumps({**json.loads(RUN.to_json()), **body}).encode(), "run.json")
    except ContractError as e:
        assert "run.json" in str(e)
    else:
        assert isinstance(read, Run)
        assert runs.parse(read.to_json(), "run.json").spec == SPEC


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_contract_error(data: bytes) -> None:
    with pytest.raises(ContractError):
        runs.parse(data, "run.json")


def test_a_name_of_ours_says_recipe_and_minute_and_differs_each_time() -> None:
    made = {runs.new_id("v9_attention", None) for _ in range(50)}
    assert len(made) > 45
    assert all(re.fullmatch(r"v9-attention-\d{4}-\d{4}-[a-z]{3}", name) for name in made)
    assert all(runs.NAME.fullmatch(name) for name in made)


@pytest.mark.parametrize("name", ["a", "0", "a-run_2", "x" * 63])
def test_a_good_name_is_kept(name: str) -> None:
    assert runs.new_id("v9", name) == name
    assert shlex.quote(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A",
        "a b",
        "../x",
        ".x",
        "-x",
        "_x",
        "a/b",
        "a\n",
        "; touch pwned",
        "$(x)",
        "ü",
        "x" * 64,
        "x" * 10_000,
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="cannot name a run: use small letters") as refused:
        runs.new_id("v9", name)
    assert len(str(refused.value)) < 250


def test_an_attempt_asked_for_again_takes_the_place_of_itself() -> None:
    second = Asked("t2", 2.0, "c2")
    both = RUN.with_attempt(second)
    assert [a.token for a in both.attempts] == ["t", "t2"]
    numbered = both.with_attempt(dataclasses.replace(second, number=2))
    assert numbered.attempts == (*RUN.attempts, Asked("t2", 2.0, "c2", 2))


def test_the_folder_on_the_machine_is_known_once_the_machine_is() -> None:
    assert RUN.folder == "/r/runs/a-run"
    with pytest.raises(BadRequest, match="a-run never reached a machine"):
        _ = dataclasses.replace(RUN, root=None).folder


def test_what_every_answer_begins_with() -> None:
    assert runs.describe(RUN) == {"run": "a-run", "recipe": "v9_attention", "machine": "ssh://gpu"}
    assert runs.describe(dataclasses.replace(RUN, machine=None))["machine"] == "gpu"


def test_a_token_is_new_each_time() -> None:
    assert len({runs.new_token() for _ in range(100)}) == 100


def test_a_cross_validation_is_a_run_for_each_fold_that_waits_for_those_before() -> None:
    whole = Run("cv", SPEC, where="local", data="/d", created=1.0)
    folds = runs.folded(whole, 3)
    assert [f.id for f in folds] == [f.spec.run for f in folds] == ["cv-f1", "cv-f2", "cv-f3"]
    assert [(f.spec.fold, f.spec.folds) for f in folds] == [(1, 3), (2, 3), (3, 3)]
    assert [f.spec.after for f in folds] == [[], ["cv-f1"], ["cv-f1", "cv-f2"]]
    assert len({f.spec.uid for f in folds}) == 3
    assert {f.group for f in folds} == {"cv"}
    assert whole.group is None
    with pytest.raises(BadRequest, match="too long a name for 3 folds"):
        runs.folded(dataclasses.replace(whole, id="a" * 61), 3)
