"""A shipped tool: search a folder of documents with BM25. It shows how to write a tool that prepares data at the start of a run.

The documents are cut into passages of about WORDS words, at blank lines where possible. The student reads the best ones.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from sod.config import ToolOptions
from sod.errors import DataError, OptionError
from sod.processes.concurrency import in_a_thread
from sod.tools import shorten
from sod.types import Observation

WORDS = 150
"""Length of a passage, in words."""
SEARCH_SCHEMA = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Searches the documents and returns the passages that match best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "Words to look for."}},
            "required": ["query"],
        },
    },
}


class SearchTool:
    """`search(query)` on the folder tool.documents."""

    def __init__(self, options: ToolOptions):
        """Read and index the documents. Raises OptionError or DataError."""
        for refusal in search_refusals(options):
            raise OptionError(refusal)
        import bm25s  # pyright: ignore[reportMissingImports]

        assert options.documents is not None
        self._options = options
        self._passages = list(passages_of(options.documents))
        if not self._passages:
            raise DataError(
                f"tool.documents: {options.documents} has no text in files that end in .txt, .md or .jsonl."
            )

        def tokenize(texts: list[str]) -> list[list[str]]:
            return cast(list[list[str]], bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False))

        self._tokenize = tokenize
        self._index = bm25s.BM25()
        texts = [f"{title} {text}" for title, text in self._passages]
        self._index.index(self._tokenize(texts), show_progress=False)
        self.schema = SEARCH_SCHEMA

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        return await in_a_thread(self._answer, arguments["query"])

    def _answer(self, query: str) -> Observation:
        [words] = self._tokenize([query])
        known = [word for word in words if word in self._index.vocab_dict]
        if not known:
            return Observation(text="[no passage has these words]", outcome="ok")
        most = min(self._options.passages, len(self._passages))
        found, scores = self._index.retrieve([known], k=most, show_progress=False)
        best = [self._passages[number] for number, score in zip(found[0], scores[0], strict=True) if score > 0]
        text = "\n\n".join(f"({place}) {title}\n{text}" for place, (title, text) in enumerate(best, 1))
        return Observation(text=shorten(text, self._options.max_chars), outcome="ok")


def search_refusals(options: ToolOptions) -> Iterator[str]:
    """Yield what is wrong with the options of the search."""
    if find_spec("bm25s") is None:
        yield 'tool.use = search needs bm25s, which is not installed. Type pip install ".[search]" in a checkout of sod.'
    if options.documents is None or not options.documents.is_dir():
        given = "no folder is given" if options.documents is None else f"{options.documents} is not a folder"
        yield f"tool.use = search needs documents, but {given}. Give a folder as --tool.documents."


def passages_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield title and text of each passage, in the order of the file names."""
    for path in sorted(
        path for path in folder.rglob("*") if path.suffix in (".txt", ".md", ".jsonl") and path.is_file()
    ):
        try:
            text = path.read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else None
            named = (
                [(path.relative_to(folder).as_posix(), text)]
                if rows is None
                else [(r["title"], r["text"]) for r in rows]
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"tool.documents: {path} cannot be read ({type(error).__name__}: {error}). Text must be UTF-8; a line of "
                '.jsonl must be like {"title": "...", "text": "..."}.'
            ) from error
        for title, whole in named:
            yield from ((title, passage) for passage in cut(whole))


def cut(text: str) -> Iterator[str]:
    """Yield passages: paragraphs together up to WORDS words. A longer paragraph is divided."""
    words: list[str] = []
    for paragraph in text.split("\n\n"):
        more = paragraph.split()
        if words and len(words) + len(more) > WORDS:
            yield " ".join(words)
            words = []
        words += more
        while len(words) > WORDS:
            yield " ".join(words[:WORDS])
            words = words[WORDS:]
    if words:
        yield " ".join(words)
