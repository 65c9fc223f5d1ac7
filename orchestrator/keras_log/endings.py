"""How a program ended, as its log says: a traceback's last line, or the last words of who killed it."""

from __future__ import annotations

import re

LONGEST_ERROR = 500  # characters
LINES_OF_AN_ERROR = 200  # after its last line, in which TensorFlow may explain it

_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
_IGNORED = re.compile(r"Exception ignored (?:in|while)\b")
# Few names of exceptions are no CamelCase: _ArrayMemoryError of numpy, zlib.error, socket.timeout.
_EXCEPTION = re.compile(r"(?:(?:[A-Za-z_]\w*\.)*_?[A-Z]\w*|(?:[A-Za-z_]\w*\.)+[a-z]\w*)(?:: ?.*)?")
_FRAME_WORDS = frozenset({"During", "The", "Traceback", "File"})
# A shell says who was killed, by what, and what was run.
_KILLED = re.compile(
    r"(?:\S+: line \d+: +|\[\d+\][-+]? +|zsh: )?(?:\d+ +)?"
    r"(?:[Kk]illed|Terminated|Segmentation fault|Aborted|Bus error|Floating point exception|Hangup)"
    r"(?: \(core dumped\))?(?: {2,}\S.*)?"
)
_FATAL = re.compile(
    r"slurmstepd: error: .*(?:oom.kill|CANCELLED|[Ee]xceeded).*"
    r"|=>> PBS: job killed: .*"
    r"|TERM_\w+: job killed after .*"  # LSF
    r"|.*\bF(?:\d{4})? .*Check failed: .*"
    r"|terminate called after throwing an instance of .*"
    r"|Fatal Python error: .*"
    r"|(?:Syntax|Indentation|Tab)Error: .*"
    r"|\S*python[\d.]*: can't open file .*"
    r"|\S+\.py: error: .*"
    r"|nohup: failed to run command .*"
    r"|\S*sh: .*(?:command not found|No such file or directory)"
)
# Who started it repeats how it ended, and knows less than what the program itself has said.
_REPEATED = re.compile(
    r"srun: error: .*: task [\d,-]+: (?!Exited).*"
    r"|mpirun noticed that process .*"
    r"|Command terminated by signal \d+"
    r"|Process finished with exit code -?[1-9]\d*.*"  # PyCharm
)
_UNCAUGHT = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+")
_EXPLAINS = re.compile(
    r"(?:.*: )?(?:OOM when allocating .*|(?:Out of memory|Failed to allocate|Dst tensor) .*)"
)


class Endings:
    """Reads line after line; `error` is what the program seems to have died of.

    `hinted` is an error without a traceback, which may be a mere remark.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.hinted: str | None = None
        self.inside = False  # any line may be part of an error
        self._traced = False
        self._ignored = False
        self._left = 0

    @property
    def interrupted(self) -> bool:
        """Whether a person ended it, by Ctrl-C."""
        return self.error is not None and self.error.startswith("KeyboardInterrupt")

    def read(self, text: str) -> None:
        """One more line, with what stands before its first word."""
        line = text.rstrip()
        if _TRACEBACK.search(line):
            self._traced = not self._ignored
            self._ignored = False
        elif _IGNORED.match(line):
            self._ignored = True
        elif self._traced and _EXCEPTION.fullmatch(line) and line.split()[0] not in _FRAME_WORDS:
            self.error, self._traced, self._left = line[:LONGEST_ERROR], False, LINES_OF_AN_ERROR
        elif _KILLED.fullmatch(line) or _FATAL.fullmatch(line):
            self.error = line.strip()[:LONGEST_ERROR]
        elif _REPEATED.fullmatch(line):
            self.error = self.error or line[:LONGEST_ERROR]
        elif self._left:
            self._explain(line)
        elif _UNCAUGHT.fullmatch(line):
            self.hinted = line[:LONGEST_ERROR]
        self.inside = self._traced or self._left > 0

    def clear(self) -> str | None:
        """The program went on, so it had not ended; what it seemed to have died of."""
        error = self.error
        self.error = self.hinted = None
        self.inside = self._traced = self._ignored = False
        self._left = 0
        return error

    def _explain(self, line: str) -> None:
        """TensorFlow says `Graph execution error:` first, and what it was far below."""
        self._left -= 1
        if self.error and self.error.endswith("Graph execution error:") and _EXPLAINS.fullmatch(line.strip()):
            self.error = f"{self.error} {line.strip()}"[:LONGEST_ERROR]
            self._left = 0
