"""`local/node/preload.cjs`: the restrictions and fixes for the Node programs of the local stack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.data.tables.aio import TableServiceClient

from local.processes import NODE_MODULES, PRELOAD, Azurite

NODE = shutil.which("node") or "node"


def start(program: str) -> subprocess.Popen[str]:
    command = [NODE, "--require", str(PRELOAD), "-e", program]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    "arguments",
    [
        "0",
        "'0'",
        "0, '0.0.0.0'",
        "0, '0.0.0.0', 5",
        "0, 5",
        "0, undefined",
        "{port: 0}",
        "{port: 0, host: '::'}",
        "",
    ],
)
def test_server_listens_only_on_loopback(arguments: str) -> None:
    called = f"{arguments}, print" if arguments else "print"
    with start(
        "const print = () => console.log(JSON.stringify(s.address())); const s = require('http').createServer(); "
        f"s.listen({called})"
    ) as process:
        address = json.loads(first_line(process))
        assert address["address"] == "127.0.0.1"
        assert address["port"] > 0


@pytest.mark.parametrize(
    "connection",
    [
        "require('net').connect(9, '192.0.2.1')",
        "require('net').connect({port: 9, host: 'example.invalid'})",
        "new (require('net').Socket)().connect(9, '192.0.2.1')",
        "require('http').get('http://192.0.2.1:9/')",
        "require('tls').connect(9, '192.0.2.1')",
    ],
)
def test_connection_to_another_machine_is_refused(connection: str) -> None:
    with start(f"{connection}.on('error', e => console.log(e.message))") as process:
        assert first_line(process).endswith("is not loopback")


def test_fetch_from_another_machine_is_refused() -> None:
    with start("fetch('http://192.0.2.1/').catch(e => console.log(e.cause.message))") as process:
        assert first_line(process) == "connect refused: 192.0.2.1 is not loopback"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connection_to_this_machine_is_allowed(host: str) -> None:
    with start(
        "const s = require('http').createServer((_, r) => r.end('hello')).listen(0, () => "
        f"fetch(`http://{host}:${{s.address().port}}/`).then(r => r.text())"
        ".then(console.log))"
    ) as process:
        assert first_line(process) == "hello"


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 3), ("SIGINT", 3), ("SIGUSR2", 0)])
def test_end_of_stdin_stops_a_program_gracefully(name: str, code: int) -> None:
    program = (
        f"process.on('{name}', () => setTimeout(() => {{ console.log('drained'); process.exit(3) }}, 10));"
        "setInterval(() => {}, 1000); console.log('up')"
    )
    with start(program) as process:
        assert first_line(process) == "up"
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        assert process.stdout.read() == ("drained\n" if code else "")
    assert process.returncode == code


def test_open_stdin_does_not_keep_a_finished_program_alive() -> None:
    process = start("console.log('done')")
    assert process.wait(20) == 0
    process.communicate()


def run_with_loki(folder: Path, program: str) -> list[object]:
    """Run a program that has LokiJS as `loki`, as in Azurite; return the JSON that it prints."""
    file = folder / "azurite" / "program.js"
    file.parent.mkdir()
    file.write_text(f"const loki = require('lokijs');{program}")
    command, env = [NODE, "--require", str(PRELOAD), str(file)], os.environ | {"NODE_PATH": str(NODE_MODULES)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100, input="", env=env)
    output: list[object] = json.loads(result.stdout)
    return output


def test_azurite_removes_many_messages_without_blocking(tmp_path: Path) -> None:
    left, milliseconds = run_with_loki(
        tmp_path,
        "const all = new loki('x').addCollection('all', {indices: ['id']});"
        "for (let id = 0; id < 5000; id++) all.insert({id: `${id}`});"
        "const begun = Date.now(); for (let id = 0; id < 4999; id++) all.findAndRemove({id: `${id}`});"
        "console.log(JSON.stringify([all.find().map((each) => each.id), Date.now() - begun]));",
    )
    assert left == ["4999"]
    assert isinstance(milliseconds, int)
    assert milliseconds < 3000  # it took 15 seconds


def test_azurite_updates_received_messages_without_sorting_all(tmp_path: Path) -> None:
    found, sorted_anew = run_with_loki(
        tmp_path,
        "const all = new loki('x').addCollection('all', {indices: ['id', 'seen']});"
        "for (let id = 0; id < 100; id++) all.insert({id, seen: id});"
        "let anew = 0; const ensure = all.ensureAllIndexes;"
        "all.ensureAllIndexes = function (...from) { anew += 1; return ensure.apply(this, from) };"
        "const taken = all.chain().find({seen: {$lt: 2}}).data(); for (const each of taken) each.seen += 1000;"
        "all.update(taken);"
        "const ids = (where) => all.find(where).map((each) => each.id);"
        "console.log(JSON.stringify([[ids({seen: {$lt: 4}}), ids({seen: {$gte: 99}}), ids({id: 1})], anew]));",
    )
    assert (found, sorted_anew) == ([[2, 3], [99, 0, 1], [1]], 0)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("PartitionKey eq 'it''s one'", ["1a", "1b", "1c"]),
        ("PartitionKey eq 'it''s one' and RowKey gt 'a'", ["1b", "1c"]),
        ("PartitionKey eq 'it''s one' and (RowKey eq 'a' or x eq 3)", ["1a", "1c"]),
        ("PartitionKey eq 'it''s one' and RowKey eq 'b' or x eq 3", ["1b", "1c", "2c"]),
        ("PartitionKey eq 'it''s one' or PartitionKey eq 'two or' and x lt 3", ["1a", "1b", "1c", "2a", "2b"]),
        ("PartitionKey eq 'two or' and x ge 2", ["2b", "2c"]),
        ("PartitionKey eq 'nobody'", []),
        ("PartitionKey gt 'it''s one'", ["2a", "2b", "2c"]),
    ],
)
@pytest.mark.parametrize("size", [1, 100])
async def test_azurite_finds_the_rows_of_a_filter(azurite: Azurite, where: str, found: list[str], size: int) -> None:
    async with TableServiceClient.from_connection_string(azurite.connection_string("account0")) as service:
        table = service.get_table_client("Filtered")
        with suppress(ResourceExistsError):
            await table.create_table()
        for number, partition in enumerate(("it's one", "two or"), 1):
            for x, row in enumerate("abc", 1):
                await table.upsert_entity({"PartitionKey": partition, "RowKey": row, "x": x, "n": f"{number}{row}"})
        rows = table.query_entities(where, results_per_page=size)
        assert [row["n"] async for row in rows] == found
