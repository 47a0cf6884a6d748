"""Write the SBOM (CycloneDX) of the packages that Azure installs beside the app."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from local.bootstrap import PYTHON_VERSIONS

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.txt"
#: The Python on which the app is deployed (infra/app/app.bicep).
DEPLOYED = {
    "python_version": PYTHON_VERSIONS[0],
    "python_full_version": PYTHON_VERSIONS[0] + ".0",
    "sys_platform": "linux",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}


def select_locked(lock: str, environment: Mapping[str, str] = DEPLOYED) -> Iterator[str]:
    """Yield the entries of a lock file, each with its hashes, that are installed in this environment (PEP 508)."""
    for entry in lock.replace("\\\n", " ").splitlines():
        pin = entry.partition(" --hash")[0]
        if pin and not pin.startswith("#") and _is_installed(Requirement(pin), environment):
            yield entry


def _is_installed(requirement: Requirement, environment: Mapping[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(dict(environment))


def write_sbom(output: Path) -> None:
    """Write the SBOM in JSON; the same lock file gives the same bytes. Raises `subprocess.CalledProcessError`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # The validation takes seven seconds, and its result depends on the tool alone.
    options = ["--no-validate", "--output-reproducible", "--output-format", "JSON", "--output-file", str(output)]
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", *options, "-"]
    entries = "\n".join(select_locked(LOCK.read_text("utf-8")))
    subprocess.run(command, input=entries, check=True, text=True, stderr=subprocess.PIPE)
