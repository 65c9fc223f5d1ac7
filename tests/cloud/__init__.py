"""A cloud to test against: AWS's API over HTTP on loopback, and instances that really boot.

    def test_something(cloud: Cloud, ec2emo: Ec2emo) -> None:
        ec2emo.env.update(cloud.environment)        # all that the product gets to know
        cloud.capacity["*", "us-east-1a", "spot"] = 0
        ec2emo("deploy", "v9_attention", "--on", "ec2", ...)
        (instance,) = cloud.living()
        cloud.notice(instance)
        cloud.clock.advance(120)
        assert cloud.leftovers("tester") == []

The fixture `cloud` (fixtures.py) is an empty account for each test. `Cloud` (cloud.py) is what a test turns
and looks at. A request comes in at server.py, is taken apart by wire.py, passes validation.py and faults.py,
and is answered by the part that knows its noun, or else by moto (moto.py), whose answer may be mended.

* launches.py, fleets.py, tokens.py, market.py, templates.py, amis.py: how an instance comes to be
* instances.py, descriptions.py, visibility.py, firewall.py: its life, and what is told of it
* machine.py, image.py, imds.py, connect.py, guest/: what it is made of. It runs in namespaces of its own over
  this machine's files, so that user data, sshd and `shutdown` are real and nothing of it stays behind
* clock.py: the cloud's time, which a test may let fly or jump
* schedules.py, stacks.py, policies.py, listings.py, bill.py, leftovers.py: everything around it
"""
