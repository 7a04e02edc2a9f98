"""Lines per file, longest first. A file past the cap wants to be two."""

import subprocess
import sys
from pathlib import Path

CAP = 400

tracked = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard", "*.py"], capture_output=True, text=True, check=True
).stdout.split()
sizes = sorted(
    ((len(Path(name).read_text().splitlines()), name) for name in tracked if Path(name).exists()),
    reverse=True,
)
library = sum(lines for lines, name in sizes if name.startswith("edgeai/"))
tests = sum(lines for lines, name in sizes if name.startswith("tests/"))
print(f"{len(sizes)} files; edgeai {library} lines, tests {tests} lines")
for lines, name in sizes[:5]:
    print(f"{lines:5} {name}")
if too_long := [name for lines, name in sizes if lines > CAP]:
    sys.exit(f"past {CAP} lines, split by idea: {', '.join(too_long)}")
