"""Launch templates lie in moto; here they are read as a launch reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.cloud.wire import Call, Refusal, refusal

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud


class Templates:
    """The launch templates of an account."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def data(self, call: Call, named: dict[str, Any]) -> dict[str, Any]:
        """What a version of a template says; `named` is a LaunchTemplateSpecification."""
        moto = self.cloud.moto.client("ec2", call.region)
        key = {k: named[k] for k in ("LaunchTemplateId", "LaunchTemplateName") if k in named}
        version = str(named.get("Version", "$Default"))
        try:
            (found,) = moto.describe_launch_template_versions(**key, Versions=[version])[
                "LaunchTemplateVersions"
            ]
        except ClientError as e:
            raise refusal(e) from e
        except ValueError:
            raise Refusal(
                "InvalidLaunchTemplateId.VersionNotFound", f"Could not find launch template version {version}"
            ) from None
        data: dict[str, Any] = found["LaunchTemplateData"]
        return data

    def specification(self, call: Call, named: dict[str, Any]) -> dict[str, Any]:
        """The template as an answer names it: by id, name and the number of the version."""
        moto = self.cloud.moto.client("ec2", call.region)
        key = {k: [named[k]] for k in ("LaunchTemplateId", "LaunchTemplateName") if k in named}
        (found,) = moto.describe_launch_templates(**{f"{name}s": value for name, value in key.items()})[
            "LaunchTemplates"
        ]
        version = str(named.get("Version", "$Default"))
        number = {"$Default": found["DefaultVersionNumber"], "$Latest": found["LatestVersionNumber"]}
        return {
            "LaunchTemplateId": found["LaunchTemplateId"],
            "LaunchTemplateName": found["LaunchTemplateName"],
            "Version": str(number.get(version, version)),
        }
