"""Pages of the site that stand elsewhere in the repository, and links that fit both places."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# page of the site -> file of the repository, where the two differ by more than docs/
ELSEWHERE = {
    "CHANGELOG.md": "CHANGELOG.md",
    "configs/README.md": "configs/README.md",
    "datasets/README.md": "datasets/README.md",
    "models/ovdet-lite.md": "ovdet/assets/ovdet_lite/README.md",
    "models/ovdet-lite-base48.md": "ovdet/assets/ovdet_lite_base48/README.md",
}
PAGES = {source: page for page, source in ELSEWHERE.items()} | {"README.md": "index.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Adds the pages that stand elsewhere, and the style sheet, which stands beside this file."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    style = ROOT / "docs/site/style.css"
    files.append(File.generated(config, "assets/ovdet.css", content=style.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as the site needs them: to its pages, or none where the target is no page."""
    path = page.file.src_uri
    source = ELSEWHERE.get(path, f"docs/{path}")

    def rewritten(link: re.Match) -> str:
        mark, text, target, anchor = link.groups()
        if re.match(r"\w+:", target):
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / wanted).exists():
            return link[0]  # mkdocs says so
        wanted = PAGES.get(wanted, wanted.removeprefix("docs/"))
        if files.get_file_from_path(wanted) is None:
            return f"`{text.strip('`')}`"
        return f"{mark}[{text}]({posixpath.relpath(wanted, posixpath.dirname(path) or '.')}{anchor or ''})"

    parts = FENCE.split(markdown)  # code stays as it is
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)
