import pytest

from trainer.clips import labels


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("fear", "fearful"),
        ("Anger", "angry"),
        ("ANG", "angry"),
        (" surprise ", "surprised"),
        ("calm", "calm"),
    ],
)
def test_other_spellings_are_one_emotion(word: str, label: str) -> None:
    assert labels.canonical(word) == label


@pytest.mark.parametrize("word", ["", "xyz", "IEO", "05", "5"])
def test_an_unknown_word_is_no_emotion(word: str) -> None:
    assert labels.canonical(word) is None


def test_every_name_in_the_corpora_tables_is_one_of_the_eight() -> None:
    assert set(labels.RAVDESS.values()) == set(labels.EMOTIONS)
    assert set(labels.CREMA_D.values()) <= set(labels.EMOTIONS)
    assert all(labels.canonical(name) == name for name in labels.EMOTIONS)


@pytest.mark.parametrize("prefix", ["ravdess_", ""])
@pytest.mark.parametrize(("code", "label"), sorted(labels.RAVDESS.items()))
def test_ravdess_names_say_emotion_and_actor(prefix: str, code: str, label: str) -> None:
    assert labels.from_file_name(f"{prefix}03-01-{code}-02-01-02-07") == (label, "ravdess-07")


@pytest.mark.parametrize("prefix", ["cremad_", ""])
@pytest.mark.parametrize(("code", "label"), sorted(labels.CREMA_D.items()))
def test_crema_d_names_say_emotion_and_speaker(prefix: str, code: str, label: str) -> None:
    assert labels.from_file_name(f"{prefix}1025_TSI_{code}_XX") == (label, "crema-1025")


def test_a_crema_d_sentence_is_not_taken_for_an_emotion() -> None:
    # Third field of an underscored name: once mistaken for the emotion, it made 13 "classes" of sentences.
    assert labels.from_file_name("cremad_1025_ANG_XYZ_XX") == (None, "crema-1025")


@pytest.mark.parametrize(
    "stem", ["angry_1", "03-01-05", "mean", "", "1025_TSI_HAP", "x_03-01-05-02-01-02-07"]
)
def test_other_names_say_nothing(stem: str) -> None:
    assert labels.from_file_name(stem) == (None, None)
