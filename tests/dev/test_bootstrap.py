"""`local.bootstrap`: the creation of `.venv` and the installation of the Node packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.bootstrap import Setup, SetupError, find_node, find_python, find_reason

ROOT = Path(__file__).parents[2]
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"

posix = pytest.mark.skipif(os.name == "nt", reason="writes a shell script")


def write_script(folder: Path, name: str, text: str) -> None:
    """Write a program for PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


#: A stub of Python with venv and pip, which take seconds; uv and the requirement `nowhere` cannot be installed.
PYTHON = f"""case "$*" in
  *"-m venv"*) shift $(($# - 1)); rm -rf "$1"; mkdir -p "$1/bin"; cp "$0" "$1/bin/python";;
  *uv*) exit 1;;
  *"-m pip install"*) shift $(($# - 1)); if grep nowhere "$1"; then echo "ERROR: ./nowhere is not there"; exit 1; fi;;
  "-c"*) echo {RUNNING};;
esac"""
#: A stub of npm; the package `gone` cannot be installed.
NPM = 'if grep "gone" package.json; then echo "npm error enoent no such file, open gone.tgz"; exit 1; fi'

#: Runs a test with stubs and, in a full run, also with the real programs.
with_stubs_and_real_programs = pytest.mark.parametrize(
    "real", [False, pytest.param(True, marks=pytest.mark.full)], ids=["quick", "real"]
)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, real: bool) -> Setup:
    """An empty checkout without requirements."""
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    if not real:
        write_script(tmp_path / "bin", "python", PYTHON)
        write_script(tmp_path / "bin", "npm", NPM)
        monkeypatch.setattr("local.bootstrap.find_python", lambda _: [str(tmp_path / "bin" / "python")])
        monkeypatch.setattr("local.bootstrap.find_npm", lambda _: [str(tmp_path / "bin" / "npm")])
    return Setup(tmp_path)


def reinstalls(setup: Setup) -> bool:
    """Return whether another call runs pip."""
    log = setup.local / "log" / "pip.log"
    log.unlink(missing_ok=True)
    setup.ensure_python("requirements.txt")
    return log.exists()


@with_stubs_and_real_programs
def test_only_changed_requirements_or_a_broken_venv_are_reinstalled(setup: Setup) -> None:
    setup.ensure_python("requirements.txt")
    assert not reinstalls(setup)
    (setup.root / "requirements.txt").write_text("# nothing else\n")
    assert reinstalls(setup)
    setup.python.unlink()
    assert reinstalls(setup)
    assert setup.python.exists()


@with_stubs_and_real_programs
def test_failed_installation_is_one_line_and_is_repeated(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    (setup.root / "requirements.txt").write_text("./nowhere\n")
    with pytest.raises(SetupError) as caught:
        setup.ensure_python("requirements.txt")
    assert "nowhere" in str(caught.value)
    assert str(setup.local / "log" / "pip.log") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr().out.count("\n") == 4  # two actions, two lines each, without the output of pip

    (setup.root / "requirements.txt").write_text("# nothing\n")
    assert reinstalls(setup)
    assert "Creating .venv with Python 3." in capsys.readouterr().out  # the incomplete .venv is replaced
    assert not reinstalls(setup)


@with_stubs_and_real_programs
def test_concurrent_calls_install_once(setup: Setup) -> None:
    program = (
        "import sys; from pathlib import Path; from local import bootstrap; root = Path(sys.argv[1]); "
        "stub = root / 'bin' / 'python'; real = bootstrap.find_python; "
        "bootstrap.find_python = lambda running: [str(stub)] if stub.exists() else real(running); "
        "bootstrap.Setup(root).ensure_python('requirements.txt')"
    )
    command = [sys.executable, "-c", program, str(setup.root)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [each.communicate(timeout=60)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert "".join(outputs).count("Installing the Python packages ...") == 1


@with_stubs_and_real_programs
def test_children_use_the_venv_instead_of_the_active_environment(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environ = setup.environ()
    assert environ["VIRTUAL_ENV"] == str(setup.venv)
    assert environ["PATH"].startswith(str(setup.python.parent) + os.pathsep)
    assert "PYTHONPATH" not in environ


@posix
def test_newest_working_python_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "bin", "python3.13", "exit 1")  # installed, but broken
    write_script(tmp_path / "bin", "python3.11", "echo 3.11")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_python("3.9") == [str(tmp_path / "bin" / "python3.11")]
    assert find_python("3.11") == find_python("3.12") == [sys.executable]
    write_script(tmp_path / "bin", "python3", "echo 3.12")
    assert find_python("3.9") == find_python("3.11") == [str(tmp_path / "bin" / "python3")]
    assert find_python("3.13") == [sys.executable]


def test_missing_python_is_one_line_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"^Python 3\.11, 3\.12 or 3\.13 is needed, and this is 3\.9: install .*$"):
        find_python("3.9")


def test_missing_node_is_one_line_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"^Node 20 or newer is needed, .* install it from https://nodejs\.org$"):
        find_node()


@posix
def test_old_node_is_one_line_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path / "bin", "node", "echo v18.19.1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SetupError, match=r"^Node 20 or newer is needed, and .* is v18\.19\.1: install it from .*$"):
        find_node()


@with_stubs_and_real_programs
def test_node_packages_are_installed_once(setup: Setup) -> None:
    source = setup.root / "local" / "node"
    source.mkdir(parents=True)
    (source / "package.json").write_text('{"name": "nothing", "version": "1.0.0"}')
    lock = '{"name": "nothing", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {"name": "nothing"}}}'
    (source / "package-lock.json").write_text(lock)
    shutil.copytree(ROOT / "local" / "node" / "none", source / "none")
    setup.ensure_node()
    log = setup.local / "log" / "npm.log"
    log.unlink()
    setup.ensure_node()
    assert not log.exists()

    broken = lock.replace('{"name": "nothing"}', '{"dependencies": {"gone": "file:gone.tgz"}}')
    broken = broken.replace("}}}}", '}}, "node_modules/gone": {"version": "1.0.0", "resolved": "file:gone.tgz"}}}')
    (source / "package.json").write_text('{"dependencies": {"gone": "file:gone.tgz"}}')
    (source / "package-lock.json").write_text(broken)
    with pytest.raises(SetupError, match=r"^npm failed: .*gone\.tgz.* \(full output: .*npm\.log\)$"):
        setup.ensure_node()


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("Collecting a\nERROR: No matching distribution found for a\n", "ERROR: No matching distribution found for a"),
        ("ERROR: Exception:\nTraceback:\n  File\nOSError: Read-only\n", "OSError: Read-only"),
        (
            "npm error code ENOENT\nnpm error path /x.tgz\nnpm error enoent no such file, open '/x.tgz'\n"
            "npm error enoent This is related to npm\nnpm error A complete log of this run is in: /x\n",
            "npm error enoent no such file, open '/x.tgz'",
        ),
        ("ensurepip is not\navailable.\n\n    apt install python3-venv\n", "run `apt install python3-venv` first"),
        (
            "WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')': /simple/uv/\n"
            "ERROR: No matching distribution found for uv\n",
            "the proxy of HTTPS_PROXY cannot be used: correct or unset it, and run this again",
        ),
        (
            "npm error code ENOSPC\nnpm error errno -28\nnpm error nospc ENOSPC: no space left on device, write\n",
            "the disk is full: free 1 GB, and run this again",
        ),
        ("no line names an error\n\nthe last one does\n", "the last one does"),
        ("", "no output"),
    ],
)
def test_reason_is_the_line_with_the_error(output: str, line: str) -> None:
    assert find_reason(output) == line
