"""One segment of a log to what it means: the grammar of what Keras 1, 2 and 3 print.

| printed by | an epoch's last words |
|---|---|
| Keras 1, verbose 2 | `242s - loss: 3.6361 - acc: 0.2768` |
| Keras 2, verbose 2 | ` - 22s - loss: ...`, or `60000/60000 - 5s - loss: ...`, both also with `5s/epoch` |
| Keras 3, verbose 2 | `20/20 - 1s - 43ms/step - accuracy: ...` |
| Keras 1 and 2, verbose 1 | `296/296 [=====] - 63s 211ms/step - loss: ...`; on the way ` - ETA: 1:10 - ` |
| Keras 3, verbose 1 | `20/20 ━━━━━ 49s 2s/step - accuracy: ...`; on the way with the time that is left |
| any, steps unknown | on the way `123/Unknown - 5s 40ms/step - loss: ...`, in Keras 3 without the dash |
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

LONGEST_TEXT = 500  # characters of a message that are kept

MessageKind = Literal["saved", "note", "rate", "next_rate", "early", "invalid"]


@dataclass(frozen=True)
class Header:
    """`Epoch 3/10`, and how far it is indented; None where it is glued to what stands before it."""

    epoch: int
    epochs: int
    indent: int | None = 0


@dataclass(frozen=True)
class Bar:
    """A state of the bar, or what verbose 2 prints instead of one.

    `total` is None where the steps are unknown, or unsaid. `line` says that it is of verbose 2, `sure` that
    it is the last word on an epoch or on an evaluation: Keras 3 also prints an update with all steps done,
    and both may say `0s`. `seconds` is the time it took. `strict`: it is nothing but metrics, the last of
    which may go on in the next line.
    """

    step: int
    total: int | None
    line: bool
    eta: bool
    sure: bool
    metrics: dict[str, float | None]
    lr: float | None
    seconds: float
    strict: bool
    indent: int = 0

    @property
    def going(self) -> bool:
        """Whether it is an update on the way."""
        return not self.line and (self.eta or self.total is None or self.step < self.total)

    @property
    def scored(self) -> bool:
        """Whether it tells of validation."""
        return any(name.startswith("val_") for name in self.metrics)


@dataclass(frozen=True)
class Message:
    """What a callback says: `value` is the learning rate, or the metric a model was saved with."""

    kind: MessageKind
    text: str
    value: float | None = None
    path: str = ""


@dataclass(frozen=True)
class Fresh:
    """`Train on 60000 samples`: a fit begins."""


@dataclass(frozen=True)
class Text:
    """Anything else."""

    text: str


Mark = Header | Bar | Message | Fresh | Text

_CSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
# What others put before each line, one or several of: a level, a time, where it comes from.
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d+)?"
_DATE = (
    rf"\[?\d{{4}}[-/]\d\d[-/]\d\d[T ]{_CLOCK}(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?\]?"
    rf"|\d\d/\d\d/\d{{4}},? {_CLOCK}(?: [AP]M)?"
    rf"|(?:[A-Z][a-z]{{2}} )?[A-Z][a-z]{{2}} [ \d]\d {_CLOCK}(?: \d{{4}})?"
    rf"|\[?{_CLOCK}\]?"
)
_SOURCE = (
    r"\[\d+(?:,\d+)?\]<std(?:out|err)>:"  # MPI, Horovod
    r"|std(?:out|err) [FP](?=\s)"  # Kubernetes, as containers' logs lie on its nodes
    r"|\[(?=[^\]\s]*[a-z])[\w./-]{1,100}\]:?(?=\s)"  # kubectl, Dask, ts -s
    r"|\[default\d+\]:"  # torchrun
    r"|\((?:\w+ )?pid=\d+(?:, ip=[\d.]+)?\)(?=\s)"  # Ray
    r"|[\w.-]{1,60} +\|(?=\s)"  # Docker Compose
    r"|(?:[\w.-]+ )?[\w./-]+\[[\w.]+\]:(?=\s)"  # syslog: a host, a program
    r"|(?:master|worker|chief|ps)-replica-\d+(?=\s)"
    r"|(?!\d+/)(?=\S*[A-Za-z])[\w.-]+/[\w./$\[\]-]+(?=\s)"  # a stream of CloudWatch
)
_LEVELS = r"(?:DEBUG|INFO|WARNING|ERROR)"
_LEVEL = rf"[-:|]? ?\[?{_LEVELS}\]?(?: *[-:|])?(?=\s)"
_LOGGER = (
    r"(?:- )?[A-Za-z_][\w.]*(?::[\w<>]+:\d+)? -(?=\s)"  # of Python: its name; of Loguru, where it was called
    r"|\{[\w.-]+:\d+\}(?=\s)"  # of Airflow
    r"|\d\d[OE]\+?(?=\s)"  # of GitLab
)
_PREFIX = re.compile(
    rf"(?:(?:{_LEVEL})\s+|(?:[^\t]{{1,80}}\t){{2}}(?=\d{{4}}-))?"  # the second: a job and a step of GitHub
    rf"(?:(?:{_SOURCE})(?:[ \t]?(?:{_DATE})(?=\s))?"
    rf"|(?:{_DATE})(?=\s|\[)(?:[ \t]*(?:{_SOURCE}|{_LOGGER}|{_LEVEL})){{0,3}}"
    rf"|{_LEVELS}:[\w.]+:)"
    r"(?:\t+|[ ]?)"
)
# A bar of tqdm, which leaves its line open for whoever prints next.
_TQDM = re.compile(r"[^\[\]]{0,200}\[\d\d:\d\d(?::\d\d)?[<,][^\]]{0,200}(?:/s|s/)[^\]]{0,200}\]\s*")
_HEADER = re.compile(r"Epoch (\d{1,9})/(\d{1,9})")
_HEADER_AT_END = re.compile(r"Epoch (\d{1,9})/(\d{1,9})\s*\Z")

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)"
_TIME = r"(?P<{0}>\d+(?:\.\d+)?)(?P<{0}_unit>h|ms|us|s)"
_STEP = r"(?P<step>\d{1,18})/(?P<total>\d{1,18}|Unknown|None|\?)"
_PACE = r"(?:\d+(?:\.\d+)?(?:ms|us|s|min|h)/\w+)"
_BARS = re.compile(
    rf"{_STEP}\s+(?:"
    rf"\[[=>. ]*\](?:\s+- (?:ETA: (?P<eta>[\d:]+s?)|{_TIME.format('old')}(?: {_PACE})?(?!/)))?"
    rf"|(?P<line>- ){_TIME.format('took')}(?:(?: |\s-\s){_PACE})?(?!/)"
    rf"|[^\d\s%|\[\]]{{10,}} (?P<new>\d+:\d\d(?::\d\d)?|\d+s) {_PACE}"
    rf"|{_TIME.format('bare')} {_PACE}"
    r")"
)
_TOTAL = re.compile(rb"\d/(\d{1,18})(?!\d)")
_PLAIN_LINE = re.compile(rf"(?:- |){_TIME.format('took')}(?: {_PACE})?(?= - )")
_NEXT = r"(?=\s*\Z| -(?:\s|\Z))"
_METRIC = re.compile(rf"\s?- (?P<name>[^\s:](?:(?! - )[^:]){{0,99}}?): ?(?P<value>{_NUMBER}){_NEXT}")
_GLUED = re.compile(
    r"\s?- (?P<name>[^\s:](?:(?! - )[^:]){0,99}?): (?P<value>-?\d+\.\d{4}(?:e[-+]\d\d)?|nan|inf)"
    r"(?:(?![\d.])|(?=20\d\d-))"
)
_WHOLE_NUMBER = re.compile(r"-?\d+\.\d{4}(?:e[-+]\d\d)?|-?inf|nan")
_PER_EPOCH = re.compile(rf"\s?- {_TIME.format('epoch')}/epoch{_NEXT}")
_PER_STEP = re.compile(rf"\s?- {_PACE}{_NEXT}")
_BEGUN = re.compile(
    r"\s?-(?: (?:[\w.-]+(?: [\w.-]+){0,9} ?)?(?:: ?(?:[-+]?\d*\.?\d*(?:e[-+]?\d*)?|-?na?|-?in?))?)?"
)
_ITEM = re.compile(r"\s?- (?:(?! - ).)*")

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "h": 3600.0}
_RATES = frozenset({"lr", "learning_rate"})
_BOOKKEEPING = frozenset({"batch", "size"})  # which the loop of TensorFlow 1 prints as if they were metrics
_NAMES = {"acc": "accuracy", "val_acc": "val_accuracy"}

_SAYS_EPOCH = r"Epoch \d+: "
_MESSAGES: tuple[tuple[MessageKind, re.Pattern[str]], ...] = (
    (
        "saved",
        re.compile(rf"{_SAYS_EPOCH}.* improved from \S+ to (?P<value>\S+), saving model to (?P<path>.+)"),
    ),
    ("saved", re.compile(rf"{_SAYS_EPOCH}saving model to (?P<path>.+)")),
    ("note", re.compile(rf"{_SAYS_EPOCH}.* did not improve(?: from \S+)?")),
    ("early", re.compile(rf"{_SAYS_EPOCH}early stopping")),
    ("invalid", re.compile(r"(?:Batch|Epoch) \d+: Invalid loss, terminating training")),
    (
        "next_rate",
        re.compile(
            rf"{_SAYS_EPOCH}(?:\w*ReduceLROnPlateau )?reducing learning rate to (?P<value>{_NUMBER})\.?"
        ),
    ),
    (
        "rate",
        re.compile(
            rf"{_SAYS_EPOCH}(?:\w+ )?(?:setting learning rate to|[Ll]earning rate set to|[Cc]urrent learning "
            rf"rate:|reducing learning rate to) (?P<value>{_NUMBER})\.?(?: \([^)]*\)\.?)?"
        ),
    ),
    ("rate", re.compile(rf"[Ll]earning rate: +(?P<value>{_NUMBER})")),
    ("note", re.compile(r"Restoring model weights from the end of the best epoch(?:: \d+)?\.?")),
)
_FRESH = re.compile(r"Train (?:on|for) \d+ \w+(?:, validate (?:on|for) \d+ \w+)?")


def parse(raw: bytes, *, ended: bool = True) -> list[Mark]:
    """What a segment says: mostly one mark, more where a break was lost between two.

    `ended` is False for the end of a log that stops inside a segment: of a number it may have cut, nothing
    is believed.
    """
    text = bare(raw).rstrip()
    words = text.lstrip()
    indent = len(text) - len(words)
    if not words:
        return []
    header = _HEADER.match(words)
    if header and header.end() == len(words):
        return [_header(header, indent)]
    if (others := _TQDM.match(words)) and (header := _HEADER.fullmatch(words, others.end())):
        return [_header(header, None)]
    if header:
        more = _bars(words[header.end() :].lstrip(), indent, ended)
        return [_header(header, indent), *more] if more else [Text(text)]
    if _FRESH.fullmatch(words):
        return [Fresh()]
    return _bars(words, indent, ended) or [_message(words) or _line(words, indent, ended) or Text(text)]


def going(update: bytes) -> Bar | None:
    """An update on the way; None for one without metrics, which is no epoch's."""
    marks = parse(update)
    bar = marks[0] if marks else None
    return bar if isinstance(bar, Bar) and bar.metrics else None


def steps(update: bytes) -> int | None:
    """Of how many steps an update tells, at a glance; None where they are unknown."""
    match = _TOTAL.search(update)
    return int(match[1]) if match else None


def measures(update: bytes) -> bool:
    """Whether an update has metrics, at a glance."""
    return update.count(b": ") > (b"ETA: " in update)


def bare(raw: bytes) -> str:
    """A segment without colours, and without what others put before it."""
    text = raw.decode("utf-8", "replace")
    if "\x1b" in text:
        text = _CSI.sub("", text)
    prefix = _PREFIX.match(text)
    return text[prefix.end() :] if prefix else text


def _header(match: re.Match[str], indent: int | None) -> Mark:
    epoch, epochs = int(match[1]), int(match[2])
    return Header(epoch, epochs, indent) if 0 < epoch <= epochs else Text(match[0])


def _bars(text: str, indent: int, ended: bool) -> list[Mark]:
    """The last bar of a segment that begins with one, and what is glued to its end. A line of verbose 2 that
    is glued to a bar is of an evaluation inside an epoch, of which the bar tells.
    """
    last = _BARS.match(text)
    if last is None:
        return []
    # A search is dear, and without a slash there is no other bar.
    while "/" in text[last.end() :] and (match := _BARS.search(text, last.end())):
        if match["line"] and not last["line"]:
            text = text[: match.start()]
            break
        last = match
    rest = text[last.end() :]
    header = _HEADER_AT_END.search(rest) if "Epoch" in rest else None
    tail = _tail(rest[: header.start()] if header else rest, ended)
    marks: list[Mark] = [_bar(last, tail, indent)]
    if tail.glued:
        marks.append(_message(tail.glued) or Text(tail.glued))
    return [*marks, _header(header, None)] if header else marks


def _bar(match: re.Match[str], tail: _Tail, indent: int) -> Bar:
    known = match["total"].isdigit()
    total = int(match["total"]) if known else None
    # Where a break was lost, the digits of a metric stand before those of the step, which has no more than
    # the total has.
    step = int(match["step"][-len(match["total"]) :] if known else match["step"])
    seconds = _seconds(match) if tail.seconds is None else tail.seconds
    line = bool(match["line"]) and step == total
    told = match["old"] is not None or (match["new"] is not None and seconds > 0)
    sure = line or (told and step == total)
    eta = match["eta"] is not None
    return Bar(step, total, line, eta, sure, tail.metrics, tail.lr, seconds, tail.strict, indent)


def _line(text: str, indent: int, ended: bool) -> Bar | None:
    """What verbose 2 prints where no steps stand before it."""
    match = _PLAIN_LINE.match(text)
    if match is None:
        return None
    tail = _tail(text[match.end() :], ended)
    if tail.glued or not any("loss" in name for name in tail.metrics):
        return None
    seconds = _time(match, "took") if tail.seconds is None else tail.seconds
    return Bar(0, None, True, False, True, tail.metrics, tail.lr, seconds, tail.strict, indent)


def _message(text: str) -> Message | None:
    for kind, pattern in _MESSAGES:
        match = pattern.fullmatch(text)
        if match:
            groups = match.groupdict()
            value, path = groups.get("value"), groups.get("path") or ""
            return Message(kind, text[:LONGEST_TEXT], _number(value) if value else None, path[:LONGEST_TEXT])
    return None


@dataclass
class _Tail:
    """What stands behind the time: metrics, and the text that was glued to them."""

    metrics: dict[str, float | None]
    lr: float | None = None
    seconds: float | None = None
    strict: bool = True
    glued: str = ""

    def keep(self, name: str, value: float | None) -> None:
        """A metric, under its name of today; the learning rate and counts of the batch are none."""
        if name in _RATES:
            self.lr = value
        elif name not in _BOOKKEEPING:
            self.metrics.setdefault(_NAMES.get(name, name), value)


def _tail(rest: str, ended: bool) -> _Tail:
    tail, at = _Tail({}), 0
    rest = rest.rstrip()
    while at < len(rest):
        if found := _METRIC.match(rest, at):
            last, exact = found.end() == len(rest), _WHOLE_NUMBER.fullmatch(found["value"]) is not None
            tail.strict &= exact or last or found["name"] in _RATES
            if exact or ended or not last:
                tail.keep(found["name"].strip(), _number(found["value"]))
        elif found := _PER_EPOCH.match(rest, at):
            tail.seconds = _time(found, "epoch")
        elif (found := _PER_STEP.match(rest, at)) or (found := _BEGUN.fullmatch(rest, at)):
            pass
        elif found := _GLUED.match(rest, at):
            tail.keep(found["name"].strip(), _number(found["value"]))
        elif found := _ITEM.match(rest, at):
            tail.strict = False
        else:
            tail.strict, tail.glued = False, rest[at:].strip()
            break
        at = found.end()
    return tail


def _number(text: str) -> float | None:
    """None for what is not finite, as on the wire."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _seconds(match: re.Match[str]) -> float:
    for name in ("old", "took", "bare"):
        if match[name]:
            return _time(match, name)
    return float(match["new"][:-1]) if match["new"] and match["new"].endswith("s") else 0.0


def _time(match: re.Match[str], name: str) -> float:
    return float(match[name]) * _SECONDS[match[f"{name}_unit"]]
