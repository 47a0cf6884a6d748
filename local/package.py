"""Build the Teams app package: a zip with the manifest, its texts in other languages, and the icons.

Beside it goes the SBOM of the deployed app (`local/sbom.py`).

    python dev.py package --developer "Example Ltd" --website https://www.example.com

The ids and the host come from the deployment that `azd up` made last, or from the options.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from local.sbom import write_sbom

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "app_package"
#: The files of the package, in this order.
FILES = ("manifest.json", "de.json", "color.png", "outline.png")
DEFAULT_OUTPUT = ROOT / ".local" / "herald.zip"
#: The folder of azd: the environment that was chosen last, and the outputs of each.
AZD = ROOT / ".azure"

_PLACEHOLDER = re.compile(r"\{\{([A-Z_]+)\}\}")
_OUTPUT = re.compile(r'^(\w+)="?([^"\n]*)"?$', re.MULTILINE)


class PackageError(Exception):
    """The package cannot be built; the text says what to do."""


def read_deployment(azd: Path = AZD) -> Mapping[str, str]:
    """Return the outputs of the deployment in the azd environment that was chosen last, {} if there is none."""
    config = azd / "config.json"
    if not config.exists():
        return {}
    name = json.loads(config.read_text("utf-8")).get("defaultEnvironment", "")
    values = azd / name / ".env"
    return dict(_OUTPUT.findall(values.read_text("utf-8"))) if name and values.exists() else {}


def fill_in(values: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of the package by name, with the placeholders of the manifest filled in.

    Raises `PackageError` if a value is missing or not of its form.
    """
    for name in ("APP_ID", "BOT_ID"):
        try:
            uuid.UUID(values.get(name, ""))
        except ValueError:
            option = "--" + name.lower().replace("_", "-")
            raise PackageError(f"{option} is missing or no UUID: run `azd up` first, or set it") from None
    for name in ("WEBSITE_URL", "PRIVACY_URL", "TERMS_URL"):
        if urlsplit(values.get(name, "")).scheme != "https":
            raise PackageError("--website, --privacy and --terms must be https URLs: Teams shows them to everybody")
    if not values.get("DEVELOPER_NAME"):
        raise PackageError("--developer is missing: Teams shows who offers the app")
    if not values.get("HOST"):
        raise PackageError("--host is missing: run `azd up` first, or set it to the host of the bot's endpoint")
    text = (SOURCE / "manifest.json").read_text("utf-8")
    manifest = _PLACEHOLDER.sub(lambda found: json.dumps(values[found[1]])[1:-1], text)
    return {name: manifest.encode() if name == "manifest.json" else (SOURCE / name).read_bytes() for name in FILES}


def write_package(files: Mapping[str, bytes], output: Path) -> None:
    """Write the zip; the same files give the same bytes."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def main() -> int:
    deployment = read_deployment()
    endpoint = deployment.get("HERALD_ENDPOINT", "")
    parser = argparse.ArgumentParser(prog="dev.py package", description="Build the Teams app package.")
    parser.add_argument("--developer", default="", help="who offers the app, as Teams shows it")
    parser.add_argument("--website", default="", help="https URL about the app or its developer")
    parser.add_argument("--privacy", help="https URL of the privacy statement (default: the website)")
    parser.add_argument("--terms", help="https URL of the terms of use (default: the website)")
    parser.add_argument("--bot-id", default=deployment.get("HERALD_APP_ID", ""), help="MicrosoftAppId of the bot")
    parser.add_argument("--app-id", help="id of the Teams app; keep it for updates (default: made from the bot's id)")
    parser.add_argument("--host", default=urlsplit(endpoint).hostname or "", help="host of the bot's endpoint")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="file to write (default: %(default)s)")
    options = parser.parse_args()
    app_id = options.app_id or (str(uuid.uuid5(uuid.NAMESPACE_URL, f"herald:{options.bot_id}")))
    values = {
        "APP_ID": app_id,
        "BOT_ID": options.bot_id,
        "HOST": options.host,
        "DEVELOPER_NAME": options.developer,
        "WEBSITE_URL": options.website,
        "PRIVACY_URL": options.privacy or options.website,
        "TERMS_URL": options.terms or options.website,
    }
    try:
        files = fill_in(values)
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    write_package(files, options.output)
    print(f"{options.output}: upload it in Teams (Apps > Manage your apps) or in the Teams admin center")
    print(f"Its app id is {app_id}: `azd env set HERALD_TEAMS_APP_ID {app_id}` lets Graph install it for people")
    sbom = options.output.with_suffix(".cdx.json")
    write_sbom(sbom)
    print(f"{sbom}: the SBOM (CycloneDX) of the packages that Azure installs beside the app")
    return 0


if __name__ == "__main__":
    sys.exit(main())
