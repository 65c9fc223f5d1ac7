"""A cloud to test against: AWS's API over HTTP on loopback, and instances that really boot.

`cloud.py` is where to begin; the fixture `cloud` of `fixtures.py` is what tests use.
"""
