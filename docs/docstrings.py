"""Turns the docstrings of this project into Markdown for the API pages.

The house style is numpydoc's layout with prose instead of types: `name : what it means`. Types stand in the signature.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

HEADINGS = (
    "Parameters",
    "Attributes",
    "Returns",
    "Yields",
    "Raises",
    "Examples",
    "Notes",
    "References",
    "See Also",
)
NAMES = r"[\w*]+(?:\[\w+\])?(?:, [\w*]+)*"
ITEM = re.compile(rf"^{NAMES} : ")
# Short items may share a line: "plant : a system; order : 1 … 12".
NEXT_ITEM = re.compile(rf"(?:[;.]\s+|\s{{2,}})(?={NAMES} : )")


def to_markdown(text: str) -> str:
    """Return Markdown for a docstring: bold section names, a list item an argument, fenced examples."""
    # Markdown would take the subscripts of two norms, ‖x‖_P and ‖y‖_P, for emphasis of all between them.
    lines, out, section, k = text.replace("‖_", "‖\\_").splitlines(), [], "", 0
    while k < len(lines):
        line = lines[k]
        named = [h for h in HEADINGS if line.strip() == h or line.strip().startswith(f"{h} ")]
        if named and k + 1 < len(lines) and set(lines[k + 1].strip()) == {"-"}:
            (section,) = named
            out += ["", f"**{line.strip()}**", ""]
            k += 2
        elif line.lstrip().startswith(">>>"):
            block, k = _example(lines, k)
            out += ["", *block, ""]
        elif section in {"Parameters", "Attributes", "Raises"} and ITEM.match(line):
            text, k = _paragraph(lines, k + 1, line)
            out += [_item(part) for part in NEXT_ITEM.split(text)]
        elif (
            section == "Raises"
            and re.fullmatch(r"[\w.]+(, [\w.]+)*(\.\.\.)?:?", line.strip())
            and line[:1].strip()
        ):
            text, k = _paragraph(lines, k + 1, "")
            out.append(f"- **{line.strip().rstrip(':')}** — {text}")
        else:
            # A line of prose after a list ends the list.
            if out and out[-1].startswith("- ") and line.strip():
                out.append("")
            out.append(line)
            k += 1
    return "\n".join(out).strip()


def _item(text: str) -> str:
    names, _, meaning = text.partition(":")
    return f"- **{names.strip().replace('*', chr(92) + '*')}** — {meaning.strip()}"


def _paragraph(lines: list[str], k: int, first: str) -> tuple[str, int]:
    words = [first]
    while k < len(lines) and lines[k].startswith(" ") and lines[k].strip():
        words.append(lines[k].strip())
        k += 1
    return " ".join(w for w in words if w), k


def _example(lines: list[str], k: int) -> tuple[list[str], int]:
    block = ["```pycon"]
    while k < len(lines) and lines[k].strip():
        block.append(lines[k].strip() if lines[k].lstrip().startswith(">>>") else lines[k])
        k += 1
    return [*block, "```"], k


class HouseStyle(griffe.Extension):
    """Rewrites every docstring before mkdocstrings renders it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
