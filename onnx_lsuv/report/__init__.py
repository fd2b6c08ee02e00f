"""A result as text, JSON, Markdown, HTML and CI annotations: strings only, nothing is printed or written here."""

from onnx_lsuv.report.document import SCHEMA, as_json, document
from onnx_lsuv.report.formats import FORMATS, format_of, stage_report, versions, write_report
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.layout import number, shape, shortened
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.page import as_html
from onnx_lsuv.report.text import plan, text
from onnx_lsuv.report.text import plan as as_plan
from onnx_lsuv.report.text import text as as_text
from onnx_lsuv.report.verdict import misses, told, verdict

__all__ = [
    "FORMATS",
    "SCHEMA",
    "as_github",
    "as_html",
    "as_json",
    "as_markdown",
    "as_plan",
    "as_text",
    "document",
    "format_of",
    "misses",
    "number",
    "plan",
    "shape",
    "shortened",
    "stage_report",
    "text",
    "told",
    "verdict",
    "versions",
    "write_report",
]
