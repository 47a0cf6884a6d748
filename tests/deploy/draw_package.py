"""Draw what the Teams app package holds, for the docs: `python -m tests.deploy.draw_package`.

Teams shows the same texts and icons in its own way.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
from typing import Any

from local.package import SOURCE, fill_in
from local.processes import ROOT
from tests.deploy.test_app_package import VALUES
from tests.support.browser import open_browser

OUTPUT = ROOT / "docs" / "images" / "package.png"
PAGE = """<!doctype html>
<style>
  body { font: 14px/1.45 "Segoe UI", "DejaVu Sans", sans-serif; color: #242424; margin: 0; padding: 24px; width: 832px;
         background: #f5f5f5 }
  main { background: #fff; border-radius: 8px; padding: 24px; box-shadow: 0 1px 4px #0003 }
  header { display: flex; gap: 20px; align-items: center }
  header img { width: 96px; border-radius: 12px }
  .rail { background: #4b53bc; border-radius: 8px; padding: 16px; margin-left: auto }
  .rail img { width: 32px; display: block }
  h1 { font-size: 22px; margin: 0 } h2 { font-size: 15px; margin: 24px 0 6px }
  p { margin: 4px 0 } small { color: #616161 }
  table { border-collapse: collapse; width: 100% } td { padding: 3px 12px 3px 0; vertical-align: top }
  td:nth-child(odd) { font-weight: 600; white-space: nowrap }
</style>
"""


def draw(manifest: dict[str, Any], german: dict[str, str]) -> str:
    """Return the page: icons, names, descriptions and the commands of the personal chat in both languages."""

    def picture(name: str) -> str:
        return f'<img src="data:image/png;base64,{base64.b64encode((SOURCE / name).read_bytes()).decode()}">'

    def text(value: str) -> str:
        return html.escape(value)

    rows = ""
    for number, command in enumerate(manifest["bots"][0]["commandLists"][0]["commands"]):
        key = f"bots[0].commandLists[0].commands[{number}]"
        parts = (command["title"], command["description"], german[f"{key}.title"], german[f"{key}.description"])
        rows += "<tr>" + "".join(f"<td>{text(part)}</td>" for part in parts) + "</tr>"
    return (
        f"{PAGE}<main><header>{picture('color.png')}<div><h1>{text(manifest['name']['short'])}</h1>"
        f"<small>{text(manifest['developer']['name'])} · {text(manifest['version'])}</small>"
        f"<p>{text(manifest['description']['short'])}</p><p>{text(german['description.short'])}</p></div>"
        f'<div class="rail">{picture("outline.png")}</div></header>'
        f"<h2>{text(manifest['name']['full'])}</h2><p>{text(manifest['description']['full'])}</p>"
        f"<h2>{text(german['name.full'])}</h2><p>{text(german['description.full'])}</p>"
        f"<h2>What the compose box suggests</h2><table>{rows}</table></main>"
    )


async def main() -> None:
    manifest = json.loads(fill_in(VALUES | {"DEVELOPER_NAME": "Your organisation"})["manifest.json"])
    german = json.loads((SOURCE / "de.json").read_text("utf-8"))
    async with open_browser() as browser:
        page = await browser.new_page(viewport={"width": 880, "height": 200}, device_scale_factor=1.5)
        await page.set_content(draw(manifest, german))
        await page.screenshot(path=OUTPUT, full_page=True)


if __name__ == "__main__":
    asyncio.run(main())
