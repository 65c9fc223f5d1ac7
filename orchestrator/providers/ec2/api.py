"""The one place that speaks to AWS: requests out, answers back, botocore's errors turned into ours.

`once` sends a request that starts machines exactly once: botocore would repeat InsufficientInstanceCapacity,
which comes as a 500, by itself. Whatever else is asked may be repeated, and botocore does that well.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import botocore.config
import botocore.exceptions as failed
import botocore.parsers

from orchestrator.errors import BadRequest, Ec2emoError, OutcomeUnknown, Refused
from orchestrator.providers.ec2 import outcome
from orchestrator.providers.ec2.outcome import Failure

PRICES_REGION = "us-east-1"  # where the Price List API has an endpoint
_PATIENT = botocore.config.Config(
    retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=30
)
_ONCE = botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
_NO_CREDENTIALS = (
    failed.NoCredentialsError,
    failed.PartialCredentialsError,
    failed.CredentialRetrievalError,
    failed.ProfileNotFound,
    failed.ConfigParseError,
    failed.SSOError,
    failed.TokenRetrievalError,
    failed.RefreshWithMFAUnsupportedError,
)
_NO_ANSWER = (
    failed.HTTPClientError,
    failed.ConnectionError,
    failed.IncompleteReadError,
    botocore.parsers.ResponseParserError,
)


@functools.cache
def _session() -> Any:
    """One for all regions: it holds the descriptions of the services, which take long to read."""
    return boto3.session.Session()


@functools.cache
def connected(region: str | None) -> Aws:
    """AWS in a region, the one that is configured for None: one for each, since its clients cost time."""
    return Aws(region)


class Aws:
    """AWS as this user sees it in one region. Every method raises Ec2emoErrors with AWS's code in `code`."""

    def __init__(self, region: str | None = None) -> None:
        try:
            self._session = _session()
            named = region or self._session.region_name
        except failed.BotoCoreError as e:
            raise _refused(e) from e
        if not named:
            raise BadRequest(
                "no AWS region is set: name one with --region, or 'region' under [ec2] in ec2emo.toml, or "
                "with 'aws configure'"
            )
        self.region: str = named
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, bool], Any] = {}

    def ask(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One answer. Repeated by botocore while that may help."""
        return self._send(service, operation, request, once=False)

    def once(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One answer to one request, sent once. Raises OutcomeUnknown when no answer came."""
        return self._send(service, operation, request, once=True)

    def all(self, service: str, operation: str, key: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Every `key` of all pages of an answer."""
        with _translated(self.region):
            client = self._client(service, once=False)
            for page in client.get_paginator(operation).paginate(**request):
                yield from page.get(key) or ()

    def object(self, bucket: str, key: str, first: int = 0) -> bytes:
        """What an object of S3 holds, from its byte `first` on."""
        part = {"Range": f"bytes={first}-"} if first else {}
        with _translated(self.region):
            answer = self._client("s3", once=False).get_object(Bucket=bucket, Key=key, **part)
            return bytes(answer["Body"].read())

    def permitted(self, operation: str, **request: Any) -> Ec2emoError | None:
        """Why EC2 would not let this user do that; None when it would. Does nothing (DryRun)."""
        try:
            self.ask("ec2", operation, **request, DryRun=True)
        except Ec2emoError as e:
            return None if e.code == "DryRunOperation" else e
        return None

    @functools.cached_property
    def account(self) -> dict[str, str]:
        """Who asks: Account, Arn, UserId."""
        answer = self.ask("sts", "get_caller_identity")
        return {k: str(answer.get(k, "")) for k in ("Account", "Arn", "UserId")}

    @functools.cached_property
    def owner(self) -> str:
        """Whose machines they are: the user's name, or the name of the role's session."""
        return re.sub(r"[^A-Za-z0-9_.@+=,-]", "-", re.split(r"[/:]", self.account["Arn"])[-1])[:128] or "root"

    def clock_skew(self) -> float | None:
        """How many seconds AWS's clock is ahead of the one here; None when it does not say."""
        from email.utils import parsedate_to_datetime

        from orchestrator.providers.ec2 import clock

        answer = self.ask("sts", "get_caller_identity")
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        try:
            return parsedate_to_datetime(said).timestamp() - clock.now() if said else None
        except ValueError:
            return None

    def _send(
        self, service: str, operation: str, request: Mapping[str, Any], *, once: bool
    ) -> dict[str, Any]:
        with _translated(self.region):
            answer: dict[str, Any] = getattr(self._client(service, once=once), operation)(**request)
            return answer

    def _client(self, service: str, *, once: bool) -> Any:
        with self._lock:  # making a client is not safe in threads; using one is
            if (service, once) not in self._clients:
                region = PRICES_REGION if service == "pricing" else self.region
                config = _ONCE if once else _PATIENT
                self._clients[service, once] = self._session.client(
                    service, region_name=region, config=config
                )
            return self._clients[service, once]


def failure_of(error: Ec2emoError) -> Failure:
    """The error in AWS's own words."""
    cause = error.__cause__
    said = cause.response.get("Error", {}) if isinstance(cause, failed.ClientError) else {}
    return Failure(error.code or "", str(said.get("Message", error)))


class _translated:  # noqa: N801 - used like a function
    """Whatever botocore raises in the block is raised as ours."""

    def __init__(self, region: str) -> None:
        self._region = region

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, failed.ClientError):
            said = error.response.get("Error", {})
            told = Failure(str(said.get("Code", "")), str(said.get("Message", "")))
            raise outcome.error_for([told], region=self._region) from error
        if isinstance(error, _NO_CREDENTIALS):
            raise _refused(error) from error
        if isinstance(error, _NO_ANSWER):
            raise OutcomeUnknown(
                f"AWS in {self._region} gave no answer ({_short(error)}): check the network and repeat the "
                f"command",
                code="NoAnswer",
            ) from error
        if isinstance(error, (failed.NoRegionError, failed.UnknownRegionError, failed.InvalidRegionError)):
            raise BadRequest(f"{_short(error)}: name a --region such as us-east-1") from error


def _refused(error: BaseException) -> Refused:
    return Refused(
        f"there are no AWS credentials to use ({_short(error)}): 'aws configure' or 'aws sso login' makes "
        f"them, AWS_PROFILE chooses among several",
        code=type(error).__name__,
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
