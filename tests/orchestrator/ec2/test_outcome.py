"""Every code of EC2 and every pair of them in one answer: five causes, five exit codes."""

from __future__ import annotations

import itertools

import pytest

from orchestrator import errors
from orchestrator.providers.ec2 import outcome
from orchestrator.providers.ec2.outcome import Failure

# What EC2's own documentation says of each code, and the exit code a person should see for it.
EXITS = {
    "InsufficientInstanceCapacity": 4,
    "InsufficientCapacity": 4,
    "InsufficientHostCapacity": 4,
    "InsufficientReservedInstanceCapacity": 4,
    "InsufficientFreeAddressesInSubnet": 4,
    "UnfulfillableCapacity": 4,
    "MaxSpotInstanceCountExceeded": 3,
    "VcpuLimitExceeded": 3,
    "InstanceLimitExceeded": 3,
    "VolumeLimitExceeded": 3,
    "MaxIOPSLimitExceeded": 3,
    "SpotMaxPriceTooLow": 10,
    "price-too-low": 10,
    "RequestLimitExceeded": 11,
    "EC2ThrottledException": 11,
    "Throttling": 11,
    "ThrottlingException": 11,
    "ThrottlingSomethingNew": 11,
    "InternalError": 6,
    "Unavailable": 6,
    "ServiceUnavailable": 6,
    "UnauthorizedOperation": 5,
    "AuthFailure": 5,
    "OptInRequired": 5,
    "Blocked": 5,
    "PendingVerification": 5,
    "ExpiredToken": 5,
    "RequestExpired": 5,
    "IdempotentParameterMismatch": 2,
    "Unsupported": 2,
    "InvalidFleetConfiguration": 2,
    "Server.InsufficientInstanceCapacity": 4,
    "Client.VolumeLimitExceeded": 3,
}
# Of two in one answer the exit code that comes first here holds: see outcome.Cause.
ORDER = (5, 3, 11, 6, 10, 4)


def failure(code: str) -> Failure:
    return Failure(code, f"EC2's own words about {code}.", "g4dn.xlarge in us-east-1a")


@pytest.mark.parametrize(("code", "exit_code"), list(EXITS.items()))
def test_every_code_has_its_exit_code_and_says_what_to_do(code: str, exit_code: int) -> None:
    error = outcome.error_for([failure(code)], region="us-east-1", market="on-demand")
    assert error.exit_code == exit_code
    assert error.code == code
    assert code in str(error)
    assert ": " in str(error)


def test_every_pair_in_one_answer_comes_down_to_one_cause() -> None:
    for one, other in itertools.permutations(EXITS, 2):
        answer = {
            "Errors": [{"ErrorCode": c, "ErrorMessage": "said", "Lifecycle": "spot"} for c in (one, other)],
            "Instances": [],
        }
        error = outcome.error_for(outcome.failures_of(answer), region="us-east-1", market="spot")
        assert one in str(error) and other in str(error)
        if "IdempotentParameterMismatch" in (one, other):
            continue  # a fleet never says that of one pool
        expected = next((e for e in ORDER if e in (EXITS[one], EXITS[other])), 2)
        assert error.exit_code == expected, (one, other)


def test_the_five_causes_have_five_exit_codes_and_five_sentences() -> None:
    codes = (
        "VcpuLimitExceeded",
        "InsufficientInstanceCapacity",
        "SpotMaxPriceTooLow",
        "AuthFailure",
        "Throttling",
    )
    told = [outcome.error_for([failure(c)], region="eu-west-1") for c in codes]
    assert [e.exit_code for e in told] == [3, 4, 10, 5, 11]
    assert len({str(e).partition("(")[0] for e in told}) == 5


def test_a_quota_is_named_with_the_market_it_belongs_to() -> None:
    spot = outcome.error_for([failure("MaxSpotInstanceCountExceeded")], region="us-east-1")
    ours = outcome.error_for([failure("VcpuLimitExceeded")], region="us-east-1", market="on-demand")
    assert "L-3819A6DF" in str(spot) and "--on-demand" in str(spot)
    assert "L-DB2E81BA" in str(ours) and "--spot" in str(ours)


def test_the_placeholder_that_only_points_at_the_others_is_not_the_cause() -> None:
    placeholder = Failure("UnfulfillableCapacity", outcome.PLACEHOLDER)
    assert outcome.cause_of([placeholder, failure("SpotMaxPriceTooLow")]) == outcome.Cause.PRICE
    assert outcome.cause_of([placeholder, failure("Unsupported")]) == outcome.Cause.UNSUPPORTED
    assert outcome.cause_of([placeholder]) == outcome.Cause.CAPACITY


def test_an_answer_with_neither_machine_nor_error_is_a_failure() -> None:
    error = outcome.error_for([], region="us-east-1", market="spot")
    assert isinstance(error, errors.NoCapacity)


def test_a_code_nobody_has_heard_of_is_told_as_it_came() -> None:
    error = outcome.error_for([failure("InvalidBrandNew.NotFound")], region="us-east-1")
    assert error.exit_code == 2
    assert "InvalidBrandNew.NotFound" in str(error) and "EC2's own words" in str(error)


def test_the_pool_of_each_error_is_told() -> None:
    answer = {
        "Errors": [
            {
                "ErrorCode": "InsufficientInstanceCapacity",
                "ErrorMessage": "full.",
                "LaunchTemplateAndOverrides": {
                    "Overrides": {"InstanceType": "g5.xlarge", "AvailabilityZone": "us-east-1c"}
                },
            }
        ]
    }
    error = outcome.error_for(outcome.failures_of(answer), region="us-east-1", market="spot")
    assert "g5.xlarge in us-east-1c" in str(error)
