"""A notebook as one HTML file that needs nothing from the web: its formulas are MathML, its pictures are inside, its contents stand at the top."""

import html
import re
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --card: #f3f3ef; --line: #d5d5cf; --hand: #1f5fae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e4; --paper: #16181b; --card: #1f2226; --line: #44484d; --hand: #7fb2ea; }
}
body { max-width: 52rem; margin: 0 auto; padding: 1rem; font: 17px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
a { color: var(--hand); } h1, h2, h3 { line-height: 1.2; } .anchor-link { display: none; }
nav { columns: 15rem auto; padding: 0.5rem 1rem; border-radius: 0.5rem; background: var(--card); } nav a { display: block; text-decoration: none; }
nav .h3 { padding-left: 1.2rem; } .output_subarea pre { margin: 0.1rem 0; }
pre, code { font: 0.82rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; } pre { margin: 0.5rem 0; overflow-x: auto; }
.highlight { padding: 0.1rem 0.8rem; border-radius: 0.5rem; background: var(--card); }
img { max-width: 100%; height: auto; } .output_png img { background: #fff; }
table { border-collapse: collapse; font-size: 0.9rem; } th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; }
math { font-size: 1.05em; } math[display="block"] { margin: 0.8rem 0; overflow-x: auto; }
"""
PROGRESS = re.compile(r"\d+%\|")


class Body(HTMLExporter):
    """The cells alone. Of an explorer it shows the picture, since its sliders would be dead."""

    template_name = "basic"

    @jinja2.pass_context
    def markdown2html(self, context, source):
        return with_formulas(super().markdown2html(context, source))


def with_formulas(text: str) -> str:
    """HTML with MathML in place of $...$ and $$...$$, but for code."""

    def formula(found):
        made = convert(html.unescape(found[2] or found[3]).strip(), display="block" if found[2] else "inline")
        return re.sub("<mi>([a-z]{2,})</mi>(?=(<mo stretchy)?)", spaced, made)

    def spaced(name):  # "log x", and "log(x)"
        return f'<mo lspace="0.17em" rspace="{"0" if name[2] else "0.17em"}">{name[1]}</mo>'

    pattern = r"<(code|pre)\b.*?</\1>|\$\$(.+?)\$\$|\$([^$<]+?)\$"
    return re.sub(pattern, lambda found: found[0] if found[1] else formula(found), text, flags=re.S)


def shown(notebook):
    """A copy without what moved while it ran, and without the source of cells that hide it."""
    copy = nbformat.from_dict(notebook)
    copy.metadata.pop("widgets", None)
    for cell in copy.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not moves(output)]
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.transient = {"remove_source": True}
    return copy


def moves(output) -> bool:
    """Whether an output is a bar of progress, or a widget without a picture."""
    data = output.get("data", {})
    widget = "application/vnd.jupyter.widget-view+json" in data and "image/png" not in data
    return widget or (output.get("name") == "stderr" and bool(PROGRESS.search("".join(output.get("text", "")))))


def to_html(notebook, folder: Path) -> str:
    """The page; folder: where the notebook lies, from which its texts name pictures."""
    first = Config({"NbConvertBase": {"display_data_priority": ["image/png", *Body().config.NbConvertBase.display_data_priority]}})
    exporter = Body(config=first, embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(shown(notebook), {"metadata": {"path": str(folder)}})
    headings = re.findall(r'<h([123]) id="([^"]+)">(.*?)(?:<a class="anchor-link".*?)?</h\1>', body, re.S)
    names = [(level, place, re.sub(r"<(?!/?(?:math|m[a-z]+)\b)[^>]+>", "", text).strip()) for level, place, text in headings]
    title = next((re.sub("<[^>]+>", "", text) for level, _, text in names if level == "1"), "A notebook")
    contents = "".join(f'<a class="h{level}" href="#{html.escape(place)}">{text}</a>' for level, place, text in names if level != "1")
    code = HtmlFormatter(style="default").get_style_defs(".highlight"), HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = f"{code[0]}\n@media (prefers-color-scheme: dark) {{ {code[1]} }}\n{STYLE}"
    first = body.find("</h1>") + len("</h1>") if "</h1>" in body else 0
    head = '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return f"{head}<title>{title}</title><style>{style}</style>\n<body>{body[:first]}<nav>{contents}</nav>{body[first:]}</body></html>\n"
