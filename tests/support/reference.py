"""What several tests take from the provider's own examples."""

from pathlib import Path
from typing import Any

import orjson

# The two tools of the tool-calling example, which the sample job sends too.
TOOLS: list[dict[str, Any]] = orjson.loads(
    (Path(__file__).parents[2] / "data" / "samples" / "tools" / "weather.json").read_bytes()
)
