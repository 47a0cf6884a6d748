"""The SBOM lists exactly the packages that the deployed app installs, with the hashes of the lock file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from local.sbom import LOCK, select_locked, write_sbom


def test_sbom_has_each_package_of_the_lock_file_with_its_hashes(tmp_path: Path) -> None:
    write_sbom(tmp_path / "sbom.json")
    sbom = json.loads((tmp_path / "sbom.json").read_text("utf-8"))
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {
        component["purl"]: {
            each["content"] for reference in component["externalReferences"] for each in reference["hashes"]
        }
        for component in sbom["components"]
    }
    pinned = {
        f"pkg:pypi/{name}@{version}": set(re.findall(r"sha256:(\w+)", entry))
        for entry in select_locked(LOCK.read_text("utf-8"))
        for name, version in re.findall(r"^(\S+)==(\S+)", entry)
    }
    assert listed == pinned
    assert len(listed) > 40
    assert [purl for purl in listed if "/azure-functions@" in purl] == ["pkg:pypi/azure-functions@2.3.0"]
