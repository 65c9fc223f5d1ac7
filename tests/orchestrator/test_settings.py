"""ec2emo.toml: the nearest upwards, refused when it says what nobody understands, comments kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import settings
from orchestrator.errors import BadRequest
from orchestrator.settings import Settings
from tests.disks import read_only, small_disk


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert settings.read(tmp_path) == Settings()


def test_the_nearest_file_upwards_counts_alone(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "ec2emo.toml").write_text('on = "local"\ndata = "demo"')
    assert settings.read(deep) == Settings("local", "demo", None, tmp_path / "ec2emo.toml")
    (tmp_path / "a" / "ec2emo.toml").write_text('on = "gpu-box"')
    assert settings.read(deep) == Settings("gpu-box", None, None, tmp_path / "a" / "ec2emo.toml")


def test_a_folder_of_that_name_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a" / "ec2emo.toml").mkdir(parents=True)
    (tmp_path / "ec2emo.toml").write_text('on = "local"')
    assert settings.read(tmp_path / "a").on == "local"


def test_the_folder_one_stands_in_is_where_the_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ec2emo.toml").write_text('on = "local"')
    monkeypatch.chdir(tmp_path)
    assert settings.read().on == "local"


def test_paths_are_seen_from_the_file_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "ec2emo.toml").write_text('data = "../features"\nidentity = "keys/id"')
    monkeypatch.chdir(tmp_path / "deep")
    seen = settings.read()
    assert seen.data == str(tmp_path.parent / "features")
    assert seen.identity == str(tmp_path / "keys" / "id")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "ec2emo.toml").write_text('data = "~/features"\nidentity = "~/.ssh/id"')
    seen = settings.read(tmp_path)
    assert (seen.data, seen.identity) == (str(tmp_path / "me/features"), str(tmp_path / "me/.ssh/id"))
    (tmp_path / "ec2emo.toml").write_text('data = "~no-such-user-here/features"')
    with pytest.raises(BadRequest, match="a home folder that is not there"):
        settings.read(tmp_path)


@pytest.mark.parametrize("data", ["demo", "remote:/data/x", "s3://bucket/x"])
def test_data_that_is_no_folder_stays_as_it_is(tmp_path: Path, data: str) -> None:
    (tmp_path / "ec2emo.toml").write_text(f'data = "{data}"')
    assert settings.read(tmp_path).data == data


@pytest.mark.parametrize(
    "line", ['proxy_command = "touch pwned"', 'path = "/etc"', "[on]\nx = 1", '"" = "x"']
)
def test_an_unknown_setting_is_refused_with_those_there_are(tmp_path: Path, line: str) -> None:
    (tmp_path / "ec2emo.toml").write_text(line)
    with pytest.raises(BadRequest, match=r"known are data, ec2, identity, on|must be a text"):
        settings.read(tmp_path)


@pytest.mark.parametrize("value", ["5", "true", "[]", '["local"]', "1979-05-27", '""', "9" * 5000])
def test_a_value_that_is_no_text_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "ec2emo.toml").write_text(f"on = {value}")
    with pytest.raises(BadRequest, match=r"on must be a text in quotes|cannot read"):
        settings.read(tmp_path)


BROKEN = (b"on = ", b"on = 'local", b"\xff\xfe\x00", b"on = 'a'\non = 'b'", b"[" * 500)


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_named_with_the_way_out_and_never_written_over(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "ec2emo.toml"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match=r"cannot read .*ec2emo\.toml: .*'ec2emo init'"):
        settings.read(tmp_path)
    with pytest.raises(BadRequest, match=r"cannot read .*mend it or move it away"):
        settings.write(tmp_path, on="local", data=None, identity=None)
    assert path.read_bytes() == content


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    hostile = '/data/it\'s "q" \\ ü'
    path = settings.write(tmp_path, on="ssh://u@h:22", data=hostile, identity=None)
    assert settings.read(tmp_path) == Settings("ssh://u@h:22", hostile, None, path)
    assert path.read_text().startswith("# Where this project trains")


def test_writing_again_keeps_comments_order_and_what_was_not_named(tmp_path: Path) -> None:
    path = tmp_path / "ec2emo.toml"
    path.write_text(
        '# ours, do not touch\ndata = "demo"  # small\n\n# the box under the desk\non = "local"\n'
    )
    settings.write(tmp_path, on="gpu-box", data=None, identity="~/.ssh/id")
    expected = '# ours, do not touch\ndata = "demo"  # small\n\n# the box under the desk\non = "gpu-box"\n'
    assert path.read_text() == expected + 'identity = "~/.ssh/id"\n'


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        settings.write(disk, on="local", data=None, identity=None)
        read_only(disk)
        with pytest.raises(BadRequest, match=r"cannot write .*ec2emo\.toml: Read-only file system"):
            settings.write(disk, on="other", data=None, identity=None)
        assert settings.read(disk).on == "local"


def test_the_terms_for_renting_are_a_table(tmp_path: Path) -> None:
    (tmp_path / "ec2emo.toml").write_text(
        'on = "ec2"\n[ec2]\nregion = "eu-west-1"\ninstance_types = ["g5.xlarge"]\n'
        'market = "spot"\nmax_cost = 5\n'
    )
    terms = settings.read(tmp_path).ec2
    assert (terms.region, terms.instance_types, terms.market) == ("eu-west-1", ("g5.xlarge",), "spot")
    assert (terms.max_cost, terms.max_hours, terms.after) == (5, 12.0, "terminate")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ec2 = 1", "is a table"),
        ("[ec2]\nproxy_command = 'touch pwned'", "unknown setting ec2.proxy_command"),
        ("[ec2]\nadopt = true", "unknown setting ec2.adopt"),
        ("[ec2]\nmarket = 'free'", "market is 'free'"),
        ("[ec2]\nmax_hours = 0", "max_hours lies between"),
        ("[ec2]\nmax_hours = 1e400", "max_hours lies between"),
        ("[ec2]\nmax_cost = -1", "max_cost is more than 0"),
        ("[ec2]\ninstance_types = [1]", "instance_types is a list of texts"),
        ("[ec2]\ndisk_gb = 99999999999999999999999", "disk_gb is"),
        ("[ec2]\nvia = 'ssh -o ProxyCommand=x'", "via is"),
    ],
)
def test_terms_nobody_understands_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ec2emo.toml").write_text(text)
    with pytest.raises(BadRequest, match=said):
        settings.read(tmp_path)
