"""A request of the AWS API taken apart, and its answer put together, as botocore's service models say."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import boto3
import botocore.parsers
from botocore.exceptions import ClientError
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import ParamValidator

CREDENTIALS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "not-a-secret"}
SIGNED_AS = {"servicequotas": "service-quotas"}  # where the name in signatures is another
READS = ("Describe", "Get", "List", "Head", "Search", "Lookup", "Simulate", "Decode", "BatchGet", "Validate")


@dataclass(frozen=True)
class Request:
    """One HTTP request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Call:
    """One call of the API: what was asked by whom, and how it ended.

    `outcome` is an HTTP status, an error code, `lost` (the answer) or `killed` (the caller).
    """

    service: str
    region: str
    action: str
    parameters: dict[str, Any]
    access_key: str
    protocol: str
    at: float = 0.0
    outcome: str = ""

    @property
    def name(self) -> str:
        return f"{self.service}:{self.action}"

    @property
    def changes(self) -> bool:
        """Whether it has an effect; one that is only asked about has none."""
        return not self.action.startswith(READS) and not self.parameters.get("DryRun")

    @property
    def operation(self) -> OperationModel:
        return model(self.service).operation_model(self.action)


class Refusal(Exception):
    """An error of the API, by its code."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def refusal(error: ClientError) -> Refusal:
    """What moto has refused, refused."""
    return Refusal(error.response["Error"]["Code"], error.response["Error"]["Message"])


@cache
def session() -> boto3.session.Session:
    """One for all clients and models: reading EC2's takes half a second."""
    return boto3.session.Session(**CREDENTIALS)


@cache
def model(service: str) -> ServiceModel:
    """What botocore knows of a service."""
    found: ServiceModel = session()._session.get_service_model(service)
    return found


def parse(request: Request) -> Call:
    """Which operation of which service a request is, with its parameters as boto3 takes them.

    Parameters of REST services are those in path, query and JSON body; a body of another kind is left out.
    """
    split = urlsplit(request.target)
    query = dict(parse_qsl(split.query, keep_blank_values=True))
    signed = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", request.headers.get("Authorization", ""))
    key, region, signing_name = signed.groups() if signed else ("anonymous", "us-east-1", "s3")
    service = SIGNED_AS.get(signing_name, signing_name)
    if target := request.headers.get("X-Amz-Target"):
        action = target.rpartition(".")[2]
        parameters = json.loads(request.body or b"{}")
        return Call(service, region, action, parameters, key, "json")
    protocol = model(service).metadata["protocol"]
    if protocol in ("ec2", "query"):
        form = {k: v[0] for k, v in parse_qs(request.body.decode(), keep_blank_values=True).items()} | query
        shape = model(service).operation_model(form["Action"]).input_shape
        parameters = _from_form(shape, form, "", protocol == "ec2") if shape else {}
        return Call(service, region, form["Action"], parameters or {}, key, protocol)
    action, parameters = _from_path(service, request, split.path, query)
    return Call(service, region, action, parameters, key, protocol)


def _from_form(shape: Shape, form: Mapping[str, str], prefix: str, ec2: bool) -> Any:
    """What a form says of a shape, or None; names as botocore's serializers write them."""
    if shape.type_name == "structure":
        found = {}
        for name, member in shape.members.items():
            value = _from_form(member, form, f"{prefix}.{_form_name(member, name, ec2)}".lstrip("."), ec2)
            if value is not None:
                found[name] = value
        return found or None
    if shape.type_name == "list":
        if not ec2 and not shape.serialization.get("flattened"):
            prefix = f"{prefix}.{shape.member.serialization.get('name', 'member')}"
        items = []
        while (item := _from_form(shape.member, form, f"{prefix}.{len(items) + 1}", ec2)) is not None:
            items.append(item)
        return items or None
    if shape.type_name == "map":
        return None  # none of the operations that the cloud answers takes one
    text = form.get(prefix)
    return None if text is None else _scalar(shape, text)


def _form_name(shape: Shape, name: str, ec2: bool) -> str:
    if not ec2:
        return shape.serialization.get("name", name)
    given = shape.serialization.get("name", name)
    return shape.serialization.get("queryName") or given[0].upper() + given[1:]


def _scalar(shape: Shape, text: str) -> Any:
    if shape.type_name == "boolean":
        return text == "true"
    if shape.type_name in ("integer", "long"):
        return int(text)
    if shape.type_name in ("float", "double"):
        return float(text)
    if shape.type_name == "blob":
        return base64.b64decode(text)
    if shape.type_name == "timestamp":
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    return text


def _from_path(
    service: str, request: Request, path: str, query: dict[str, str]
) -> tuple[str, dict[str, Any]]:
    """The operation of a REST service that fits best: that of which most is there."""
    bucket: dict[str, str] = {}
    if service == "s3":  # the model speaks of /{Bucket}/{Key+}, until botocore has used the operation once
        name, _, rest = path.lstrip("/").partition("/")
        path, bucket = f"/{rest}", {"Bucket": name} if name else {}
    fits = []
    for name in model(service).operation_names:
        operation = model(service).operation_model(name)
        members = operation.input_shape.members if operation.input_shape else {}
        if service == "s3" and ("Bucket" in members) != bool(bucket):
            continue
        if (fit := _fit(operation, request, path, query)) is not None:
            fits.append((len(fit[1]), name, fit[0]))
    if not fits:
        raise Refusal("UnknownOperationException", f"{request.method} {request.target}", 404)
    _, action, parameters = max(fits, key=lambda f: f[0])
    if request.body and request.headers.get("Content-Type", "").startswith("application/json"):
        parameters = parameters | json.loads(request.body)
    return action, parameters | {k: unquote(v) for k, v in bucket.items()}


def _fit(
    operation: OperationModel, request: Request, path: str, query: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]] | None:
    """The parameters an operation would see in a request, and what speaks for it; None if it is another."""
    uri, _, fixed = operation.http["requestUri"].removeprefix("/{Bucket}").partition("?")
    uri = uri or "/"
    pattern = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", uri)
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
    matched = re.fullmatch(pattern, path)
    flags = parse_qs(fixed, keep_blank_values=True)
    if operation.http["method"] != request.method or not matched or not set(flags) <= set(query):
        return None
    found: dict[str, Any] = {}
    reasons = list(flags)
    members = operation.input_shape.members if operation.input_shape else {}
    for name, member in members.items():
        place, written = member.serialization.get("location"), member.serialization.get("name", name)
        seen: str | None = None
        if place == "uri":
            seen = unquote(matched.groupdict().get(written, ""))
            reasons.append(written)
        elif place == "querystring":
            seen = query.get(written)
        elif place == "header":
            seen = request.headers.get(written)
        if seen is not None:
            found[name] = seen
        if name in operation.input_shape.required_members and place in ("querystring", "header"):
            if seen is None:
                return None
            reasons.append(written)
    return found, reasons


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def success(call: Call, result: dict[str, Any]) -> Answer:
    """A result in the words of the service; one that the service's model does not know is our mistake."""
    shape = call.operation.output_shape
    request_id = str(uuid.uuid4())
    if shape is not None:
        report = ParamValidator().validate(result, shape)
        assert not report.has_errors(), f"{call.name} would never answer so: {report.generate_report()}"
    if call.protocol in ("json", "rest-json"):
        body = json.dumps(_plain(result)).encode()
        return Answer(
            200, [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", request_id)], body
        )
    inner = "".join(_xml(shape, result)) if shape else ""
    if call.protocol == "ec2":
        inner = f"<requestId>{request_id}</requestId>{inner}"
    else:
        inner = (
            f"<{call.action}Result>{inner}</{call.action}Result>"
            f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        )
    space = model(call.service).metadata.get("xmlNamespace", "")
    text = f'<{call.action}Response xmlns="{space}">{inner}</{call.action}Response>'
    return Answer(200, [("Content-Type", "text/xml;charset=UTF-8")], text.encode())


def read(call: Call, answer: Answer) -> dict[str, Any]:
    """A result of moto's, in the shape that boto3 gives it."""
    parser = botocore.parsers.create_parser(call.operation.service_model.resolved_protocol)
    response = {"body": answer.body, "headers": dict(answer.headers), "status_code": answer.status}
    found: dict[str, Any] = parser.parse(response, call.operation.output_shape)
    found.pop("ResponseMetadata", None)
    return found


def failure(call: Call, refusal: Refusal) -> Answer:
    """An error in the words of the service."""
    code, message = escape(refusal.code), escape(refusal.message)
    request_id = str(uuid.uuid4())
    headers = [("Content-Type", "text/xml;charset=UTF-8"), ("x-amzn-RequestId", request_id)]
    if call.protocol == "ec2":
        inner = f"<Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        body = f"<Response>{inner}<RequestID>{request_id}</RequestID></Response>"
    elif call.protocol == "query":
        inner = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<ErrorResponse>{inner}<RequestId>{request_id}</RequestId></ErrorResponse>"
    elif call.protocol == "rest-xml":
        inner = f"<Code>{code}</Code><Message>{message}</Message>"
        body = f"<Error>{inner}<RequestId>{request_id}</RequestId></Error>"
    else:
        body = json.dumps({"__type": refusal.code, "message": refusal.message})
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-errortype", refusal.code)]
    return Answer(refusal.status, headers, body.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return value.timestamp()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _xml(shape: Shape, value: Any) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if value.get(name) is None:
                continue
            tag = member.serialization.get("name", name)
            if member.type_name == "list" and member.serialization.get("flattened"):
                for item in value[name]:
                    yield from _element(tag, member.member, item)
            else:
                yield from _element(tag, member, value[name])
    elif shape.type_name == "list":
        for item in value:
            yield from _element(shape.member.serialization.get("name", "member"), shape.member, item)
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif isinstance(value, datetime):
        yield value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    elif isinstance(value, bytes):
        yield base64.b64encode(value).decode()
    else:
        yield escape(str(value))


def _element(tag: str, shape: Shape, value: Any) -> Iterator[str]:
    yield f"<{tag}>"
    yield from _xml(shape, value)
    yield f"</{tag}>"
