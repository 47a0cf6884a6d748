"""Read one row of a table, with values of the types that the SDK returns.

The SDK spends more CPU time on the text of a row's Timestamp than on all that Herald needs of it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from azure.data.tables import EdmType, EntityProperty

from shared.storage.entity_writes import Row, encode_key
from shared.storage.requests import sender_of

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

#: The types of columns that JSON lacks ("Payload format for Table service operations", REST reference).
_DECODERS: Mapping[str, Callable[[str], Any]] = {
    "Edm.Binary": base64.b64decode,
    "Edm.DateTime": datetime.fromisoformat,
    "Edm.Double": float,
    "Edm.Guid": UUID,
    "Edm.Int64": lambda text: EntityProperty(int(text), EdmType.INT64),
}
_TYPE = "@odata.type"
_HEADERS = {"Accept": "application/json;odata=minimalmetadata", "DataServiceVersion": "3.0"}


async def read(
    client: TableClient, partition: str, row: str, select: Sequence[str] | None = None
) -> tuple[Row, str] | None:
    """Return the row, or its columns that are in `select`, and its ETag; None if it does not exist.

    A missing table raises `ResourceNotFoundError`.
    """
    path = client.table_name + encode_key(partition, row)
    query = {"$select": ",".join(select)} if select else None
    answer = await sender_of(client).send("GET", path, _HEADERS, query=query)
    if answer.status != 200:
        refusal = answer.refusal()
        if answer.status == 404 and refusal.code != "TableNotFound":
            return None
        raise refusal
    columns = json.loads(answer.body)
    return decode_columns(columns), answer.headers.get("ETag") or columns["odata.etag"]


def decode_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row without Timestamp and metadata, by the types that are named beside them."""
    decoded = {}
    for name, value in columns.items():
        if name != "Timestamp" and not name.startswith("odata.") and not name.endswith(_TYPE):
            decoder = _DECODERS.get(columns.get(name + _TYPE, ""))
            decoded[name] = decoder(value) if decoder else value
    return decoded
