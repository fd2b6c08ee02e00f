"""A result as text, JSON, Markdown, HTML and CI annotations: strings only, nothing is printed or written here."""

from onnx_lsuv.report.document import SCHEMA, as_json, document
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.layout import number, shape, shortened
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.page import as_html
from onnx_lsuv.report.text import plan, text
from onnx_lsuv.report.verdict import misses, told, verdict

__all__ = [
    "SCHEMA",
    "as_github",
    "as_html",
    "as_json",
    "as_markdown",
    "document",
    "misses",
    "number",
    "plan",
    "shape",
    "shortened",
    "text",
    "told",
    "verdict",
]
