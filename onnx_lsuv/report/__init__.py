"""A result as text, JSON, Markdown, HTML and CI annotations: strings only, nothing is printed or written here."""

from onnx_lsuv.report.document import SCHEMA, as_json, document
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.layout import number, shape, shortened, table
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.page import as_html
from onnx_lsuv.report.text import beside, plan, summary, text
from onnx_lsuv.report.verdict import misses, told, verdict

__all__ = [
    "SCHEMA",
    "as_github",
    "as_html",
    "as_json",
    "as_markdown",
    "beside",
    "document",
    "misses",
    "number",
    "plan",
    "shape",
    "shortened",
    "summary",
    "table",
    "text",
    "told",
    "verdict",
]
