import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from trainer import clips
from trainer.clips import Report, demo, files

from .runs import clip


def good(folder: Path, *, per_class: int = 2) -> Path:
    """Clips of two emotions and two speakers."""
    for emotion in ("angry", "sad"):
        for i in range(per_class):
            clip(folder, f"{emotion}_{i}.npz", emotion=emotion, speaker=f"s{i % 2}")
    return folder


def reasons(report: Report) -> dict[str, str]:
    return {s.path: s.reason for s in report.skipped}


def kinds(report: Report, *, fatal: bool) -> set[str]:
    return {p.kind for p in report.problems if p.fatal is fatal}


def test_a_good_folder_is_described_and_has_no_problem(tmp_path: Path) -> None:
    report = clips.check(good(tmp_path))
    assert (report.files, len(report.used), report.skipped, report.problems) == (4, 4, (), ())
    assert report.classes == {"angry": 2, "sad": 2}
    assert report.speakers == {"s0": 2, "s1": 2}
    assert report.every_speaker_known
    assert report.frames == {"min": 12, "median": 12.0, "p95": 12.0, "p98": 12.0, "max": 12}
    assert (report.dim, report.key, report.synthetic) == (4, "features", False)
    first = report.used[0]
    assert (first.path, first.label, first.speaker) == ("angry_0.npz", "angry", "s0")
    assert (first.frames, first.dim, first.dtype) == (12, 4, "float32")
    assert first.bytes == (tmp_path / first.path).stat().st_size


def test_the_json_has_the_shape_that_is_promised(tmp_path: Path) -> None:
    good(tmp_path)
    (tmp_path / "mean.npy").touch()
    body = json.loads(clips.check(tmp_path).to_json())
    assert set(body) >= {"files", "used", "skipped", "classes", "speakers", "frames", "dim", "fingerprint"}
    assert body["files"] == 5
    assert body["used"] == 4
    assert body["skipped"] == [{"path": "mean.npy", "reason": "the file is empty"}]
    assert [sorted(p) for p in body["problems"]] == [["fatal", "kind", "paths", "text"]]


@pytest.mark.parametrize(
    ("name", "features", "said"),
    [
        ("no-frames", np.zeros((0, 4), np.float32), "no frames"),
        ("no-dims", np.zeros((4, 0), np.float32), "no dimensions"),
        ("nan", np.array([[1, np.nan], [1, 2]], np.float32), "NaN or infinite"),
        ("inf", np.array([[1, np.inf], [1, 2]], np.float16), "NaN or infinite"),
        ("huge", np.array([[1, 1e300], [1, 2]]), "NaN or infinite"),
        ("constant", np.full((9, 4), 3.0), "all its values are 3.0"),
        ("flat", np.arange(9.0), r"its shape is \(9,\)"),
        ("batch-of-one", np.arange(8.0).reshape(1, 2, 4), r"its shape is \(1, 2, 4\)"),
        ("deep", np.arange(16.0).reshape(2, 2, 2, 2), r"its shape is \(2, 2, 2, 2\)"),
        ("scalar", np.array(3.0), r"its shape is \(\)"),
        ("whole", np.arange(9).reshape(3, 3), "int64, not one of float16"),
        ("objects", np.array([[1, "a"]], dtype=object), "only unpickling"),
    ],
)
def test_an_array_that_is_no_clip_is_left_out_with_its_reason(
    tmp_path: Path, name: str, features: object, said: str
) -> None:
    good(tmp_path)
    clip(tmp_path, f"x-{name}.npz", emotion="sad", features=features)
    np.save(tmp_path / "03-01-05-01-01-01-01.npy", features, allow_pickle=True)  # type: ignore[arg-type]
    report = clips.check(tmp_path)
    assert len(report.used) == 4
    for path in (f"x-{name}.npz", "03-01-05-01-01-01-01.npy"):
        assert __import__("re").search(said, reasons(report)[path])


def test_bins_and_channels_of_a_frame_are_its_dimensions(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(9, 4, 3)).astype(np.float32)
    path = clip(tmp_path, "x.npz", emotion="sad", features=features)
    found = clips.check(tmp_path).used[0]
    assert (found.frames, found.dim) == (9, 12)
    parsed = files.parse(path.read_bytes(), path.name).features
    assert np.array_equal(parsed, features.reshape(9, 12))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_all_float_precisions_are_read(tmp_path: Path, dtype: str) -> None:
    clip(tmp_path, "a.npz", emotion="sad", features=np.arange(8.0).reshape(2, 4).astype(dtype))
    assert clips.check(tmp_path).used[0].dtype == np.dtype(dtype).name


def test_a_bare_npy_is_the_array_itself(tmp_path: Path) -> None:
    np.save(tmp_path / "1001_DFA_ANG_XX.npy", np.arange(8.0).reshape(2, 4))
    report = clips.check(tmp_path)
    assert (report.used[0].label, report.used[0].speaker, report.key) == ("angry", "crema-1001", "")


@pytest.mark.parametrize("key", clips.KEYS)
def test_every_known_key_is_found(tmp_path: Path, key: str) -> None:
    clip(tmp_path, "a.npz", emotion="sad", key=key)
    assert clips.check(tmp_path).key == key


def test_none_or_several_feature_keys_are_not_guessed_at(tmp_path: Path) -> None:
    clip(tmp_path, "none.npz", emotion="sad", key="video_features")
    clip(tmp_path, "two.npz", emotion="sad", embeddings=np.ones((2, 2)))
    said = reasons(clips.check(tmp_path))
    assert said["none.npz"].startswith(
        "has none of wav2vec_features, features, embeddings, but emotion, video"
    )
    assert said["two.npz"] == "has features and embeddings: which is meant?"


def test_an_unknown_emotion_is_left_out_and_never_a_class(tmp_path: Path) -> None:
    good(tmp_path)
    clip(tmp_path, "03-01-05-01-01-01-01.npz", emotion="xyz")
    clip(tmp_path, "angry/nameless.npz")
    report = clips.check(tmp_path)
    assert set(report.classes) == {"angry", "sad"}
    assert "'xyz'" in reasons(report)["03-01-05-01-01-01-01.npz"]
    assert "neither" in reasons(report)["angry/nameless.npz"]


def test_the_string_is_believed_and_the_disagreement_told(tmp_path: Path) -> None:
    good(tmp_path)
    clip(tmp_path, "03-01-05-01-01-01-01.npz", emotion="fear", speaker="somebody")
    report = clips.check(tmp_path)
    odd = report.used[0]
    assert (odd.label, odd.named, odd.speaker) == ("fearful", "angry", "ravdess-01")
    assert "label-disagrees" in kinds(report, fatal=False)


def test_secrets_are_never_opened(tmp_path: Path) -> None:
    good(tmp_path)
    for name in (
        "key.pem",
        ".env",
        ".env.local",
        ".ssh/id_ed25519",
        ".aws/credentials",
        "id_rsa",
        "a/id_1.npz",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0)
    clip(tmp_path, ".aws/clip.npz", emotion="sad")
    report = clips.check(tmp_path)
    secret = {s.path for s in report.skipped if s.kind == "secret"}
    assert secret == {"key.pem", ".env", ".env.local", ".ssh", ".aws", "id_rsa", "a/id_1.npz"}
    assert len(report.used) == 4


def test_a_link_to_a_secret_is_a_secret(tmp_path: Path) -> None:
    clip(tmp_path / ".ssh", "x.npz", emotion="sad")
    data = tmp_path / "data"
    data.mkdir()
    (data / "innocent.npz").symlink_to(tmp_path / ".ssh" / "x.npz")
    (data / "innocent").symlink_to(tmp_path / ".ssh")
    assert {s.kind for s in clips.check(data).skipped} == {"secret"}


def test_links_count_once_and_loops_of_links_end(tmp_path: Path) -> None:
    good(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z.npz").symlink_to(tmp_path / "a" / "sad_0.npz")
    os.link(tmp_path / "a" / "sad_0.npz", tmp_path / "zz.npz")
    (tmp_path / "gone.npz").symlink_to(tmp_path / "nowhere")
    report = clips.check(tmp_path)
    assert len(report.used) == 4
    assert {s.path: s.kind for s in report.skipped} == {
        "a/up": "duplicate",
        "b": "duplicate",
        "gone.npz": "unreadable",
        "z.npz": "duplicate",
        "zz.npz": "duplicate",
    }


def test_the_same_content_twice_counts_once(tmp_path: Path) -> None:
    good(tmp_path)
    shutil.copy(tmp_path / "sad_0.npz", tmp_path / "z.npz")
    report = clips.check(tmp_path)
    assert reasons(report) == {"z.npz": "the same content as sad_0.npz"}
    assert kinds(report, fatal=False) == {"duplicate"}


def test_nothing_in_a_name_makes_it_crash(tmp_path: Path) -> None:
    good(tmp_path)
    odd = [b"new\nline.npz", b"bad\xff.npz", b"tab\t.npz", b"esc\x1b[31m.npz", b"back\\slash.npz"]
    fine = ["quote'\".npz", "sp ace.npz", "é.npz", "-rf.npz", "$(x).npz"]
    for raw in odd:
        shutil.copy(os.fsencode(tmp_path / "sad_0.npz"), os.fsencode(tmp_path) + b"/" + raw)
    for name in fine:
        clip(tmp_path, name, emotion="sad", speaker="s0")
    report = clips.check(tmp_path)
    json.loads(report.to_json())
    refused = {s.path for s in report.skipped if s.kind == "bad-name"}
    assert refused == {
        "new\\nline.npz",
        "bad\\udcff.npz",
        "tab\\t.npz",
        "esc\\x1b[31m.npz",
        "back\\slash.npz",
    }
    assert {c.path for c in report.used} >= set(fine)


def test_no_folder_no_clips_and_no_leave_to_look_are_said_in_sentences(tmp_path: Path) -> None:
    assert clips.check(tmp_path / "nowhere").fatal[0].text.endswith("name a folder of .npz or .npy files")
    (tmp_path / "a.flac").touch()
    assert clips.check(tmp_path / "a.flac").fatal[0].kind == "no-folder"
    problem = clips.check(tmp_path).fatal[0]
    assert problem.kind == "no-clips"
    assert "but 1 .flac file" in problem.text


def test_what_cannot_be_trained_on_is_fatal(tmp_path: Path) -> None:
    one = tmp_path / "one"
    clip(one, "a.npz", emotion="sad")
    clip(one, "b.npz", emotion="sad")
    assert kinds(clips.check(one), fatal=True) == {"one-class"}
    small = good(tmp_path / "small")
    lonely = clip(small, "x.npz", emotion="calm")
    problem = clips.check(small).fatal[0]
    assert (problem.kind, problem.paths) == ("small-class", (lonely.name,))
    mixed = good(tmp_path / "mixed")
    other = clip(mixed, "x.npz", emotion="sad", features=np.eye(5, 7))
    problem = clips.check(mixed).fatal[0]
    assert (problem.kind, problem.paths) == ("mixed-dims", (other.name,))


def test_imbalance_and_unknown_speakers_are_told_and_not_fatal(tmp_path: Path) -> None:
    for i in range(22):
        clip(tmp_path, f"a{i}.npz", emotion="angry")
    good(tmp_path)
    report = clips.check(tmp_path)
    assert kinds(report, fatal=False) == {"imbalance", "no-speaker"}
    assert not report.fatal
    assert not report.every_speaker_known


def test_the_fingerprint_is_of_content_and_names_of_used_clips_alone(tmp_path: Path) -> None:
    first = clips.check(good(tmp_path / "a")).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "elsewhere")
    assert clips.check(tmp_path / "b" / "elsewhere").fingerprint == first
    (tmp_path / "a" / "mean.npy").touch()
    os.utime(tmp_path / "a" / "sad_0.npz", (1, 1))
    assert clips.check(tmp_path / "a").fingerprint == first
    (tmp_path / "a" / "sad_0.npz").rename(tmp_path / "a" / "sad_9.npz")
    assert clips.check(tmp_path / "a").fingerprint != first


def test_synthetic_clips_make_the_report_synthetic(demo_data: Path) -> None:
    assert clips.check(demo_data).synthetic


def test_progress_is_told_for_every_file(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    clips.check(good(tmp_path), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_second_look_opens_only_what_changed(tmp_path: Path) -> None:
    data, cache = good(tmp_path / "data"), tmp_path / "cache" / "data.json"
    first = clips.check(data, cache=cache)
    assert clips.check(data, cache=cache) == first
    # A file that can no longer be opened is still known as long as it looks the same from outside.
    stat = (data / "sad_0.npz").stat()
    (data / "sad_0.npz").write_bytes(b"x" * stat.st_size)
    os.utime(data / "sad_0.npz", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert clips.check(data, cache=cache) == first
    os.utime(data / "sad_0.npz", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert "damaged" in reasons(clips.check(data, cache=cache))["sad_0.npz"]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"version": 1}', b'{"files": 3}', b"\xff\xff"])
def test_a_broken_cache_is_ignored_and_replaced(tmp_path: Path, broken: bytes) -> None:
    data, cache = good(tmp_path / "data"), tmp_path / "cache.json"
    cache.write_bytes(broken)
    first = clips.check(data, cache=cache)
    assert len(first.used) == 4
    for row in (3, [1], [1, 2, "clip"], ["a"] * 20, None):
        body = json.loads(cache.read_bytes())
        body["files"] = dict.fromkeys(body["files"], row)
        cache.write_text(json.dumps(body))
        assert clips.check(data, cache=cache) == first


def test_the_cache_of_another_folder_is_not_believed(tmp_path: Path) -> None:
    data, cache = good(tmp_path / "data"), tmp_path / "cache.json"
    clips.check(data, cache=cache)
    other = shutil.copytree(data, tmp_path / "other")
    clip(other, "sad_0.npz", emotion="calm", speaker="s0", features=np.eye(12, 4, dtype=np.float32))
    stat = (data / "sad_0.npz").stat()
    os.utime(other / "sad_0.npz", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "calm" in clips.check(other, cache=cache).classes


def test_a_second_look_at_seven_thousand_files_takes_less_than_half_a_second(tmp_path: Path) -> None:
    source = clip(tmp_path / "one", "x.npz", emotion="sad").read_bytes()
    data, cache = tmp_path / "data", tmp_path / "cache.json"
    data.mkdir()
    for i in range(7000):
        (data / f"{i:05}.npz").write_bytes(source)
    clips.check(data, cache=cache)
    best = 9.0
    for _ in range(3):
        # Of the processor: how long others keep it says nothing about this.
        began = time.process_time()
        report = clips.check(data, cache=cache)
        best = min(best, time.process_time() - began)
    assert report.files == 7000
    assert best < 0.5


def test_the_demo_is_the_same_everywhere_and_complete_after_a_kill(tmp_path: Path) -> None:
    folder = demo.write(tmp_path / demo.NAME)
    whole = clips.check(folder)
    assert "synthetic" in folder.name
    assert whole.synthetic
    assert not whole.problems
    assert (len(whole.classes), len(whole.speakers), whole.dim) == (4, 8, 16)
    assert (whole.frames["min"], whole.frames["max"]) == (20, 40)
    some = sorted(folder.glob("*.npz"))
    some[3].unlink()
    some[5].write_bytes(some[5].read_bytes()[:100])
    before = some[0].stat().st_mtime_ns
    demo.write(folder)
    assert clips.check(folder).fingerprint == whole.fingerprint
    assert some[0].stat().st_mtime_ns == before


def test_the_same_features_stored_otherwise_are_one_clip_and_with_two_labels_none(tmp_path: Path) -> None:
    good(tmp_path)
    with np.load(tmp_path / "sad_0.npz") as stored:
        features = stored["features"]
    clip(tmp_path, "t.npz", emotion="sad", speaker="s9", features=features, take=np.array(2))
    clip(tmp_path, "u.npz", emotion="sad", speaker="s0", features=features.astype(np.float64))
    clip(tmp_path, "v.npz", emotion="angry", speaker="s0", features=features)
    report = clips.check(tmp_path)
    assert reasons(report) == {
        "sad_0.npz": "sad here, angry in v.npz: the same features",
        "t.npz": "sad here, angry in v.npz: the same features",
        "u.npz": "sad here, angry in v.npz: the same features",
        "v.npz": "angry here, sad in sad_0.npz: the same features",
    }
    assert kinds(report, fatal=False) == {"contradiction"}
    (tmp_path / "v.npz").unlink()
    report = clips.check(tmp_path)
    assert reasons(report) == dict.fromkeys(("t.npz", "u.npz"), "the same features as sad_0.npz")
    assert kinds(report, fatal=False) == {"duplicate"}


def test_statistics_between_the_clips_are_called_so_and_never_counted(tmp_path: Path) -> None:
    good(tmp_path)
    np.save(tmp_path / "mean.npy", np.zeros(768))
    np.save(tmp_path / "audio_std_v9.npy", np.ones((1, 2048)))
    np.savez(tmp_path / "wav2vec_stats.npz", features=np.arange(8.0).reshape(2, 4))
    np.save(tmp_path / "meaning.npy", np.zeros(768))
    report = clips.check(tmp_path)
    kind = {s.path: s.kind for s in report.skipped}
    assert [path for path, k in kind.items() if k == "statistics"] == [
        "audio_std_v9.npy",
        "mean.npy",
        "wav2vec_stats.npz",
    ]
    assert kind["meaning.npy"] == "not-2d"
    assert len(report.used) == 4
    assert kinds(report, fatal=False) == {"not-2d", "statistics"}


def test_a_clip_in_which_nothing_happens_is_constant_and_one_of_a_single_frame_is_not(tmp_path: Path) -> None:
    good(tmp_path)
    clip(tmp_path, "x.npz", emotion="sad", speaker="s0", features=np.tile(np.arange(4.0), (9, 1)))
    clip(tmp_path, "y.npz", emotion="sad", speaker="s0", features=np.arange(4.0)[None])
    report = clips.check(tmp_path)
    assert reasons(report) == {"x.npz": "all its 9 frames are the same"}
    assert [s.kind for s in report.skipped] == ["constant"]


def spoken(folder: Path, extract: Callable[[np.ndarray], np.ndarray]) -> Report:  # type: ignore[type-arg]
    """Forty clips of something like speech, as an extractor sees them."""
    random = np.random.default_rng(5)
    loud = np.exp(-np.linspace(0, 3, 24))
    for i in range(40):
        frames = np.abs(random.normal(size=(30, 24))) * loud * random.uniform(0.5, 2)
        clip(
            folder, f"{i}.npz", emotion=("sad", "angry")[i % 2], speaker=f"s{i % 5}", features=extract(frames)
        )
    return clips.check(folder)


def test_features_of_networks_with_random_weights_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(6)

    def untrained(frames: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Weights of its own for every file, as an extractor makes that forgets to load any."""
        hidden = np.maximum(frames @ random.normal(size=(24, 32)), 0)
        return np.maximum(hidden @ random.normal(size=(32, 48)), 0)

    weights = random.normal(size=(24, 48))
    fine = {
        "raw": lambda x: x,
        "one-network": lambda x: np.maximum(x @ weights, 0),
        "normalised": lambda x: (x - x.mean(axis=0)) / x.std(axis=0),
        "narrow": lambda x: x[:, :4],
    }
    assert kinds(spoken(tmp_path / "bad", untrained), fatal=False) == {"unrelated"}
    for name, extract in fine.items():
        assert not spoken(tmp_path / name, extract).problems, name


def test_two_headers_are_never_parsed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 may answer two threads that do so with SystemError."""
    np.save(tmp_path / "clip.npy", np.zeros((3, 4), np.float32))
    data, read = (tmp_path / "clip.npy").read_bytes(), npy.read_array_header_1_0
    # What both threads would meet at, if both were let in.
    met = threading.Barrier(2)

    def parse(file: Any, max_header_size: int) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.wait(0.2)
            raise AssertionError("two threads are in here")
        return read(file, max_header_size=max_header_size)

    monkeypatch.setattr(npy, "read_array_header_1_0", parse)
    with ThreadPoolExecutor(2) as pool:
        assert [a.shape for a in pool.map(files.array, [data, data])] == [(3, 4)] * 2
