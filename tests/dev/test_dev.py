"""The command line of `dev.py`, in a checkout whose programs are replaced by stubs that print their arguments."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.bootstrap import NODE_FILES, file_digest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes and signals")

#: Prints its process and arguments, and runs until SIGTERM.
STUB = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(os.getpid(), os.getpgid(0), os.getcwd(), os.environ["VIRTUAL_ENV"], *sys.argv[1:], flush=True)
signal.pause()
"""
FUNC = """#!/bin/sh
trap 'exit 143' TERM
echo $PWD $VIRTUAL_ENV "$@"
while :; do sleep 0.05; done
"""
#: A stub of Python whose pip finds no package.
PYTHON = f"""#!/bin/sh
case "$*" in
  *"pip install"*) echo "ERROR: No matching distribution found"; exit 1;;
  "-c"*) echo {sys.version_info[0]}.{sys.version_info[1]};;
esac
"""
#: The checks of `dev.py test`.
CHECKS = ["ruff", "mypy", "importlinter", "pytest"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which everything is installed."""
    root = tmp_path / "checkout"
    (root / "local" / "node").mkdir(parents=True)
    (root / "local" / "host").mkdir()
    shutil.copy(ROOT / "dev.py", root)
    shutil.copy(ROOT / "local" / "bootstrap.py", root / "local")
    (root / "local" / "node" / "none").mkdir()
    for name in ("requirements.txt", "requirements-dev.txt", *(f"local/node/{name}" for name in NODE_FILES)):
        (root / name).touch()
    (root / "local" / "host" / "__main__.py").write_text(STUB)
    (root / "local" / "up.py").write_text(STUB)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (root / ".venv" / ".herald-installed").write_text(file_digest(root / "requirements.txt"))
    packages = [root / "local" / "node" / name for name in NODE_FILES]
    (root / ".local" / "node").mkdir(parents=True)
    (root / ".local" / "node" / ".installed").write_text(file_digest(*packages))
    return root


@contextmanager
def running(checkout: Path, *arguments: str, path: str = os.environ["PATH"]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(checkout / "dev.py"), *arguments]
    environ = {**os.environ, "PATH": path, "VIRTUAL_ENV": "/elsewhere"}
    with subprocess.Popen(
        command, cwd="/", env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout
    return process.stdout.readline().split()


def result(checkout: Path, *arguments: str) -> tuple[int, str]:
    with running(checkout, *arguments) as process:
        output = process.communicate(timeout=60)[0]
    return process.returncode, output


def test_host_replaces_dev_py_and_receives_its_signals(checkout: Path) -> None:
    with running(checkout, "host", "--local", "--port", "7099") as process:
        pid, group, folder, venv, *arguments = first_line(process)
        assert int(pid) == process.pid
        assert int(group) == process.pid  # the test starts dev.py in a new group
        assert folder == str(checkout)
        assert venv == str(checkout / ".venv")
        assert arguments == ["--port", "7099"]
        process.terminate()
        assert process.wait(20) == 0


def test_core_tools_are_used_if_installed(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "func").write_text(FUNC)
    (tmp_path / "bin" / "func").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    with running(checkout, "host", path=path) as process:
        assert first_line(process) == [str(checkout), str(checkout / ".venv"), "start", "--port", "7071"]
        process.terminate()
        assert process.wait(20) == 0  # although func exits with 143
    with running(checkout, "host", "--local", path=path) as process:
        assert first_line(process)[4:] == ["--port", "7071"]


def test_up_receives_all_arguments(checkout: Path) -> None:
    with running(checkout, "up", "--once", "--host-port", "7099") as process:
        assert first_line(process)[4:] == ["--once", "--host-port", "7099"]


def test_bench_runs_without_the_other_sdks_if_they_cannot_be_installed(checkout: Path) -> None:
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "__main__.py").write_text("import sys; print('ran', *sys.argv[1:])")
    (checkout / ".venv" / ".herald-installed").write_text(
        "\n".join(file_digest(checkout / name) for name in ("requirements.txt", "requirements-dev.txt"))
    )
    (checkout / "requirements-bench.txt").write_text("no requirement")
    python = checkout / ".local" / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    code, output = result(checkout, "bench", "cold", "--quick")
    assert code == 0
    assert "ran cold --quick" in output
    assert "The benchmarks run without the other SDKs: pip failed: ERROR: No matching distribution found" in output


def write_checks(checkout: Path, **codes: int) -> None:
    """Replace the checks by stubs that print their name and exit with these codes."""
    (checkout / "importlinter").mkdir()
    for name in CHECKS:
        file = "importlinter/cli" if name == "importlinter" else name
        run = f"import sys\ndef lint_imports_command():\n  print('ran', '{name}', *sys.argv[1:])\n"
        end = f"  sys.exit({codes.get(name, 0)})\nif __name__ == '__main__': lint_imports_command()\n"
        (checkout / f"{file}.py").write_text(run + end)


def test_all_checks_run_if_one_fails_and_the_summary_names_it(checkout: Path) -> None:
    write_checks(checkout, ruff=1)
    code, output = result(checkout, "test")
    assert code == 1
    assert sorted(re.findall(r"^ran (\S+)", output, re.MULTILINE)) == sorted(["ruff", *CHECKS])
    assert re.findall(r"^(\S+) +[0-9.]+ s  failed \(exit code 1\)$", output, re.MULTILINE) == ["ruff", "format"]


def test_long_tests_run_only_with_full(checkout: Path) -> None:
    write_checks(checkout)
    code, output = result(checkout, "test", "-k", "some")
    assert code == 0
    assert "-m not full -k some" in output
    code, output = result(checkout, "test", "--full")
    assert code == 0
    assert "not full" not in output


def test_missing_requirement_is_one_line(checkout: Path, tmp_path: Path) -> None:
    with running(checkout, "up", path=str(tmp_path)) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert output.startswith("Node 20 or newer is needed")
    assert output.count("\n") == 1


def test_dev_py_without_a_command_prints_the_commands(checkout: Path) -> None:
    code, output = result(checkout)
    assert code == 2
    assert "python dev.py up [--once]" in output
    assert result(checkout, "--help")[0] == 0
