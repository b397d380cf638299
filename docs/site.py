"""MkDocs hook: add the pages that are written elsewhere, and generate the reference of the commands.

README.md becomes the first page; four other files outside docs/ become pages, too. Their links are rewritten, and links to
files that are not on the site, such as source code, become text. The reference of the commands is made from
`sod.cli.COMMANDS` and the options in `sod.config`, which do not import torch.
"""

import os.path
import re
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sod import config as options_of
from sod.cli import COMMANDS

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "recipes/README.md": "recipes.md",
    "examples/README.md": "examples.md",
}
"""Files outside docs/, and the pages that they become."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in docs/."""
    pages = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in ELSEWHERE.items()}
    for page, text in (pages | {"reference/commands.md": commands()}).items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site."""
    del config
    here = next((file for file, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def rewritten(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups(default="")
        if not target or "://" in target:
            return match[0]
        file = os.path.normpath(os.path.join(os.path.dirname(here), target))
        name = ELSEWHERE.get(file, file.removeprefix("docs/"))
        if file in ELSEWHERE or (file.startswith("docs/") and files.get_file_from_path(name)):
            return f"{image}[{text}]({os.path.relpath(name, os.path.dirname(page.file.src_uri) or '.')}{anchor})"
        if (ROOT / file).exists():
            return text if text.startswith("`") else f"{text} (`{file}`)"
        return match[0]  # MkDocs reports it

    return LINK.sub(rewritten, markdown)


def commands() -> str:
    """Every command with every option: name, type, default and meaning. Groups of options are described once."""
    groups: dict[str, tuple[str, Any]] = {}
    parts = [
        "# Commands",
        "`sod COMMAND [RECIPE.toml ...] [--option value ...]`. Options come from defaults, then from recipes from left to right, "
        "then from the command line. This page is generated from the same options as `--help`.",
    ]
    for command, (name, _, summary) in COMMANDS.items():
        model = getattr(options_of, name)
        description = _one_line(getdoc(model) or "")
        parts += [f"## sod {command}", f"*{_escaped(summary)}*", _escaped(description), _table(model)]
        nested = [(key, field.annotation) for key, field in model.model_fields.items() if _is_group(field)]
        if nested:
            links = [f"[`--{key}.*`](#{_anchor(key, group)})" for key, group in nested]
            parts.append(f"And the groups {', '.join(links)}.")
            groups |= {_anchor(key, group): (key, group) for key, group in nested}
    parts.append("## Groups of options")
    for anchor, (key, group) in groups.items():
        parts += [
            f"### --{key}.\\* {{ #{anchor} }}",
            _escaped(_one_line(getdoc(group) or "")),
            _table(group, f"{key}."),
        ]
        for inner in [name for name, field in group.model_fields.items() if _is_group(field)]:
            within = group.model_fields[inner].annotation
            parts += [f"#### --{key}.{inner}.\\*", _escaped(_one_line(getdoc(within) or ""))]
            parts += [_table(within, f"{key}.{inner}.")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(model: type[BaseModel], prefix: str = "") -> str:
    rows = [
        f"| `{name}` | {kind} | {default} | {meaning} |" for name, kind, default, meaning in _options(model, prefix)
    ]
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def _options(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        if _is_group(field):
            continue
        metavar = next((m.metavar for m in field.metadata if getattr(m, "metavar", None)), None)
        shown = metavar or f"--{prefix}{name}".replace("_", "-")
        default = "required" if field.is_required() else f"`{_value(field.default)}`"
        yield shown, _kind(field.annotation), default, _escaped(_one_line(field.description or ""))


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _anchor(key: str, group: Any) -> str:
    return f"{key}-{group.__name__.lower()}"


def _kind(annotation: Any) -> str:
    """A type in words, without None, which the default shows."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in parts if part is not NoneType)
    if origin is tuple:
        return f"{_kind(parts[0])} ..." if parts[-1] is Ellipsis else " ".join(map(_kind, parts))
    return {"bool": "switch", "str": "text", "Path": "path"}.get(annotation.__name__, annotation.__name__)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """Text in a cell of a table: no column ends in it, and no HTML begins."""
    return re.sub(r"(?<!`)<", "&lt;", text).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
