"""What was found: as JSON, as Markdown, and as a picture (when matplotlib is there)."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from benchmarks.figures import Medians, Subject


class Recorded(Protocol):
    status: str
    version: str
    note: str
    skips: list[str]
    samples: dict[str, list[float]]
    failures: dict[str, list[str]]


def machine() -> dict[str, Any]:
    """Enough to judge the figures by; no names."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.machine()
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(memory / 2**30), "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
            "python": platform.python_version()}


def summary(subject: Subject, records: Mapping[str, Recorded], rounds: int, quick: bool) -> dict[str, Any]:
    systems = {
        name: {"status": r.status, "version": r.version, "note": r.note, "skips": r.skips, "failures": r.failures,
               "figures": {key: {"median": median(s), "low": min(s), "high": max(s), "samples": s}
                           for key, s in sorted(r.samples.items())}}
        for name, r in records.items()
    }
    median_of = medians(systems)
    promises = []
    for promise in subject.promises:
        value = promise.value(median_of)
        promises.append({"figure": promise.title, "promised": promise.wanted(), "measured": value, "unit": promise.unit,
                         "met": None if value is None else promise.met(value)})
    return {"date": datetime.date.today().isoformat(), "machine": machine(), "rounds": rounds, "quick": quick,
            "figures": {f.key: {"title": f.title, "unit": f.unit} for f in subject.figures + subject.extras},
            "systems": systems, "promises": promises}


def medians(systems: Mapping[str, Any]) -> Medians:
    def of(system: str, key: str) -> float | None:
        figure = systems.get(system, {}).get("figures", {}).get(key)
        return None if figure is None else float(figure["median"])

    return of


def number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(subject: Subject, system: Mapping[str, Any], key: str) -> str:
    """A figure, "failed" (the reason is in the notes), or a dash where the figure means nothing for the system."""
    if key in system["figures"]:
        return number(system["figures"][key]["median"])
    step = subject.step_of.get(key, key)
    return "failed" if step not in system["skips"] and {step, "system"} & set(system["failures"]) else "–"


def markdown(subject: Subject, found: Mapping[str, Any]) -> str:
    systems, m = found["systems"], found["machine"]
    here = [name for name, s in systems.items() if s["status"] == "measured"]
    lines = [
        f"Measured {found['date']} on {m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB, {m['system']}, "
        f"Python {m['python']}: "
        f"medians of {found['rounds']} interleaved round(s)." + (" A quick run: not to be quoted." if found["quick"] else ""),
        "",
        "| figure | unit | " + " | ".join(f"{name} {systems[name]['version']}".strip() for name in here) + " |",
        "|---|---|" + "--:|" * len(here),
        *(f"| {f.title} | {f.unit} | " + " | ".join(cell(subject, systems[name], f.key) for name in here) + " |"
          for f in subject.figures),
        "",
    ]
    lines += [f"- {name}: {systems[name]['note']}" for name in here if systems[name]["note"]]
    for name in here:
        lines += [f"- {name} failed in {len(t)} round(s), {step}: {t[-1]}" for step, t in systems[name]["failures"].items()]
    if absent := [name for name, s in systems.items() if s["status"] == "absent"]:
        lines.append(f"- not installed: {', '.join(absent)}")
    lines += ["", "| figure | promised | measured | met |", "|---|--:|--:|---|"]
    for p in found["promises"]:
        measured = "–" if p["measured"] is None else f"{number(p['measured'])} {p['unit']}"
        met = {True: "yes", False: "**no**", None: "not measured"}[p["met"]]
        lines.append(f"| {p['figure']} | {p['promised']} | {measured} | {met} |")
    return "\n".join(lines) + "\n"


def into_readme(subject: Subject, readme: Path, text: str) -> None:
    begin, end = f"<!-- bench {subject.name}:begin -->", f"<!-- bench {subject.name}:end -->"
    whole = readme.read_text()
    if whole.count(begin) != 1 or whole.count(end) != 1 or whole.index(begin) > whole.index(end):
        raise ValueError(f"{readme} must contain {begin} and then {end}, once each")
    before, rest = whole.split(begin)
    readme.write_text(f"{before}{begin}\n{text}{end}{rest.split(end)[1]}")


def write(subject: Subject, found: Mapping[str, Any], out: Path, readme: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{subject.name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = markdown(subject, found)
    print(text)
    try:
        from benchmarks import chart
    except ImportError as missing:
        print(f"no chart: {missing}")
    else:
        chart.draw(subject, found, out / f"{subject.name}.png")
    if readme is not None:
        into_readme(subject, readme, text)
