"""What the package says of itself that depends on where it is built: the page and the addresses.

A release is built with REPOSITORY_URL, the address of the repository, and REPOSITORY_REF, the tag. With them the
links and pictures of README.md, which are relative, become absolute (an index shows the page without the files beside
it), and the project gets its addresses. Without them, in a checkout, the page stays as it is and there are none.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)(\[(?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*\])\((?![a-z]+:|#)([^)\s]+)\)")
_SOURCE = re.compile(r'(src|srcset)="(?![a-z]+:)([^"]+)"')


def absolute(page: str, url: str, ref: str) -> str:
    """Return a page whose relative links and pictures point into the repository at `url` as of `ref`."""
    page = _SOURCE.sub(lambda m: f'{m[1]}="{url}/raw/{ref}/{m[2]}"', page)
    return _LINK.sub(lambda m: f"{m[1]}{m[2]}({url}/{'raw' if m[1] else 'blob'}/{ref}/{m[3]})", page)


class Metadata(MetadataHookInterface):
    """Fills the fields that pyproject.toml calls dynamic, but for the version."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the page and the addresses."""
        page = Path(self.root, "README.md").read_text(encoding="utf-8")
        url, ref = os.environ.get("REPOSITORY_URL", "").rstrip("/"), os.environ.get("REPOSITORY_REF", "main")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(page, url, ref) if url else page}
        metadata["urls"] = {
            name: f"{url}/{path}"
            for name, path in {
                "Repository": "tree/" + ref,
                "Documentation": f"blob/{ref}/README.md",
                "Changelog": f"blob/{ref}/CHANGELOG.md",
                "Issues": "issues",
            }.items()
            if url
        }
