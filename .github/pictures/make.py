"""Make the pictures of the README that show the command and its report: `python .github/pictures/make.py`.

The commands of README.md are run on the sample models: on a terminal, whose text is drawn as SVG, and with
`--report`, whose page a browser draws as PNG in its light and its dark scheme. Needs Linux or macOS, and Chromium
(`chromium`, `chromium-browser` or `google-chrome`, or a path as the argument), without which it ends after the SVGs.
`thin_nets.svg` and `variance.svg` are made by `tests/benchmarks/thin_nets.py`.
"""

import fcntl
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLUMNS, LINES = 90, 60
LIMIT = 150_000  # bytes of a picture
SAMPLE, DATA, OUTPUT = "sample_models/fitnet_digits.onnx", "sample_models/fitnet_digits.npy", "fitnet_digits.lsuv.onnx"
PAGE = (960, 1185)  # of the report: from the verdict to the scales
THEME = TerminalTheme(
    (22, 24, 29),
    (222, 224, 228),
    [
        *((40, 42, 48), (255, 120, 120), (120, 210, 140), (230, 190, 100)),
        *((120, 170, 250), (200, 150, 240), (110, 200, 210), (222, 224, 228)),
    ],
)
# Fonts that the reader's machine has: a picture asks nothing of any server.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def in_terminal(folder: Path, arguments: list[str]) -> str:
    """Return what the command prints on a terminal, colours included, then its line on standard error."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    command = [sys.executable, "-m", "onnx_lsuv", *arguments]
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 65536):
            said += part
    except OSError:
        pass  # Linux says so that the terminal's other end is closed
    os.close(master)
    _, errors = process.communicate()
    return (said + errors).decode().replace("\r\n", "\n")


def draw(name: str, folder: Path, lines: list[str]) -> None:
    """Run the command that stands on these lines, and draw it and what it printed."""
    shown = " \\\n    ".join(lines)
    said = in_terminal(folder, shlex.split(" ".join(lines))[1:])
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (shown, "bold"), "\n"))
    console.print(Text.from_ansi(said))
    title = lines[0].split()[0]
    write(name, console.export_svg(title=title, theme=THEME, code_format=FRAME, unique_id=name.partition(".")[0]))


def photograph(name: str, browser: str, page: Path, scheme: int) -> None:
    """Let the browser draw the upper part of a page in its dark (0) or its light (1) scheme."""
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile) / name
        options = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        options += [f"--window-size={PAGE[0]},{PAGE[1]}", f"--blink-settings=preferredColorScheme={scheme}"]
        options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command = [browser, *options, f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        write(name, picture.read_bytes())


def write(name: str, content: str | bytes) -> None:
    """Write a picture beside this script, or end where it is too large."""
    data = content.encode() if isinstance(content, str) else content
    if len(data) > LIMIT:
        sys.exit(f"{name} has {len(data)} bytes, more than {LIMIT}")
    (HERE / name).write_bytes(data)
    print(f"{name}: {len(data)} bytes")


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "sample_models", folder / "sample_models")
        draw("terminal.svg", folder, [f"onnx-lsuv {SAMPLE}", f"--data {DATA} -o {OUTPUT}"])
        draw("check.svg", folder, [f"onnx-lsuv {SAMPLE}", f"--data {DATA}", f"--check --compare {OUTPUT}"])
        names = sys.argv[1:] or ["chromium", "chromium-browser", "google-chrome"]
        browser = next(filter(None, map(shutil.which, names)), None)
        if browser is None:
            sys.exit(f"no browser: looked for {', '.join(names)}")
        page = folder / "report.html"
        arguments = [SAMPLE, "--data", DATA, "-o", OUTPUT, "--force", "--report", page.name]
        subprocess.run(
            [sys.executable, "-m", "onnx_lsuv", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        photograph("report-dark.png", browser, page, 0)
        photograph("report-light.png", browser, page, 1)


if __name__ == "__main__":
    main()
