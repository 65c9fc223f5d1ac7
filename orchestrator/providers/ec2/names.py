"""How a machine of EC2 that is there already is named: `[user@]i-…` or `[user@]Name=…`."""

from __future__ import annotations

import re

THERE = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?:(?P<id>i-[0-9a-f]{8,17})|Name=(?P<name>[^\x00-\x1f]{1,255}))"
)
