"""Write `docs/contract.schema.json` from the models of the contract: `python -m local.export_schema`."""

import json
from pathlib import Path

from shared.contract.models import schema

TARGET = Path(__file__).parents[1] / "docs" / "contract.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Wrote {TARGET}")
