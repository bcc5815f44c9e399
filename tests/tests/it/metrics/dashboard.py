"""Reads a dashboard by Grafana's own model and prints what of it the model does not know."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(given, kept, path):
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name not in kept:
                yield f"{path}.{name}"
            else:
                yield from lost(value, kept[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for n, (one, other) in enumerate(zip(given, kept)):
            yield from lost(one, other, f"{path}[{n}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


register_default_plugins()
with open(sys.argv[1]) as file:
    given = json.load(file)
kept = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
for line in lost(given, kept, "dashboard"):
    print(line)
