"""A report as JSON and as Markdown, and the table in the README.

python -m benchmarks.tables        writes the README's table and the pages in benchmarks/results again, from the JSON there
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import synthetic, world
from benchmarks.contest import Outcome
from benchmarks.report import RESULTS, Report

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- written by python -m benchmarks.tables -->", "<!-- end of what is written -->"
CLICKS = "clicks-"  # begins the names of reports of learners of clicks
SHOWN = "ml-latest-small"  # the stream whose figures the README shows


def save(report: Report, folder: Path) -> None:
    """Write NAME.json and NAME.md, or clicks-NAME.json and clicks-NAME.md."""
    (folder / f"{name_of(report)}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (folder / f"{name_of(report)}.md").write_text(page(report) if report.speed else clicks_page(report))


def name_of(report: Report) -> str:
    """The name of the files of a report."""
    return report.stream if report.speed else f"{CLICKS}{report.stream}"


def load(name: str, folder: Path = RESULTS) -> Report:
    """The report that `save` wrote."""
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=Report)


def measured(prefix: str = "", folder: Path = RESULTS) -> list[str]:
    """The names of the reports in benchmarks/results, of ratings or, with the prefix CLICKS, of clicks."""
    if prefix:
        return [file.stem for file in sorted(folder.glob(f"{prefix}*.json"))]
    return [
        file.stem
        for file in sorted(RESULTS.glob("*.json"))
        if not file.stem.startswith((CLICKS, "tuning-", "renormalise", "field", "questions", "rerank"))
    ]


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first column is left-aligned, the others are figures."""
    return [row(head), row(["---", *["---:"] * (len(head) - 1)]), *map(row, rows)]


def figure(value: float | None) -> str:
    """An error or a rate with four decimals; a dash for None."""
    return "-" if value is None else f"{value:.4f}".replace("0.", ".", 1) if value < 1 else f"{value:.4f}"


def speed(value: float | None) -> str:
    """Events per second, to three digits."""
    return "-" if value is None else f"{float(f'{value:.3g}'):,.0f}"


def label(outcome: Outcome, defaults: Sequence[str] = ()) -> str:
    """The name of a competitor in a table, with ours in bold."""
    if outcome.side == "ours":
        return f"**`{outcome.name}`**" + (" (default)" if outcome.name in defaults else "")
    return f"`{outcome.name}`, {outcome.variant if outcome.variant == 'tuned' else 'its defaults'}"


def ratings(report: Report) -> list[str]:
    """All learners of ratings, best first."""
    rows = [
        [
            label(o, report.defaults), figure(r.rmse), figure(r.rmse_last_half), figure(r.rmse_new_users),
            figure(r.rmse_new_items), speed(o.events_per_second), speed(o.evaluate_events_per_second),
        ]
        for o in sorted(report.outcomes, key=lambda o: o.ratings.rmse if o.ratings else 9.0)
        if (r := o.ratings)
    ]  # fmt: skip
    head = ["ratings", "RMSE", "last half", "new users", "new items", "events/s in memory", "through `evaluate`"]
    return table(head, rows)


def clicks(report: Report) -> list[str]:
    """All learners of clicks, best first."""
    rows = [
        [
            label(o, report.defaults), figure(c.hit_rate_10), figure(c.half_width_10), figure(c.hit_rate_20),
            figure(c.ndcg_20), figure(c.session_hit_rate_20), figure(c.session_mrr_20),
        ]
        for o in sorted(report.outcomes, key=lambda o: -o.clicks.hit_rate_10 if o.clicks else 0.0)
        if (c := o.clicks)
    ]  # fmt: skip
    return table(["clicks", "HR@10", "+-", "HR@20", "NDCG@20", "in sessions HR@20", "in sessions MRR@20"], rows)


def clicks_page(report: Report) -> str:
    """The page of a stream's learners of clicks."""
    name, asked = name_of(report), next(o.clicks for o in report.outcomes if o.clicks)
    known = [
        f"{package} {found}" if found else f"{package} not installed" for package, found in report.versions.items()
    ]
    skipped = [f"- {label(o)}: {o.skipped}" for o in report.outcomes if o.skipped]
    lines = [
        f"# {report.stream}: the next click",
        "",
        f"Written by `{command(report)}`, with everything else of the run in [{name}.json]({name}.json);",
        "what was measured and how is in [benchmarks/README.md](../README.md).",
        "",
        f"- {report.clicks:,} clicks and likes among {report.events:,} events; {report.users:,} users, {report.items:,} items",
        f"- {asked.queries:,} queries without repeats, +- is half of the 95% interval of HR@10 by users; {asked.session_queries:,} within sessions, repeats allowed",
        f"- {', '.join(known)}",
        "",
        *clicks(report),
        "",
        f"![hit rate over the stream]({name}-hits.svg)",
    ]
    lines += ["", "## Not run", "", *skipped] if skipped else []
    return "\n".join([*lines, *settings_of_peers(report)]) + "\n"


def overview(reports: Sequence[Report]) -> str:
    """HR@10 and NDCG@20 of the default, of the best other learner of ours and of the best peer, on every stream."""
    rows = []
    for report in reports:
        found = [(o.clicks, o) for o in report.outcomes if o.clicks]
        for what, of in (
            ("HR@10", "hit_rate_10"),
            ("NDCG@20", "ndcg_20"),
            ("in sessions HR@20", "session_hit_rate_20"),
        ):
            best = {
                group: max(((getattr(c, of) or 0.0, o.name) for c, o in found if _group(o, report) == group), default=(0.0, "-"))
                for group in ("default", "ours", "peer")
            }  # fmt: skip
            first, rest = best["default"][0], max(best["ours"][0], best["peer"][0])
            shown = [
                f"{figure(value)} `{name}`" if value else "not run" for value, name in (best["ours"], best["peer"])
            ]
            rows.append(
                [f"[{report.stream}]({name_of(report)}.md), {what}", figure(first), *shown, f"{first / rest - 1:+.1%}"]
            )
    head = [
        "stream and measure",
        f"`{reports[0].defaults[0]}`",
        "best other of ours",
        "best peer",
        "over the better of them",
    ]
    return "\n".join(["# The next click, on every stream", "", "Written by `make bench`.", "", *table(head, rows), ""])


def _group(outcome: Outcome, report: Report) -> str:
    return "default" if outcome.name in report.defaults else outcome.side


def save_overview(folder: Path) -> None:
    """Write clicks.md from all reports of clicks in the folder."""
    (folder / "clicks.md").write_text(overview([load(name, folder) for name in measured(CLICKS, folder)]))


def page(report: Report) -> str:
    """The whole page of a report."""
    known = [f"{name} {found}" if found else f"{name} not installed" for name, found in report.versions.items()]
    measurements = sum(map(len, report.speed.rounds.values())) if report.speed else 0
    lines = [
        f"# {report.stream}",
        "",
        f"Written by `{command(report)}`, with everything else of the run in [{report.stream}.json]({report.stream}.json);",
        "what was measured and how is in [benchmarks/README.md](../README.md).",
        "",
        f"- {report.events:,} events: {report.ratings:,} ratings, {report.clicks:,} clicks and likes; {report.users:,} users, {report.items:,} items",
        f"- {report.machine}",
        f"- {', '.join(known)}",
        f"- {len(report.outcomes)} runs and {measurements} measurements of speed in {report.minutes:.0f} minutes",
    ]
    if report.oracle_rmse is not None:
        lines.append(
            f"- the least RMSE that there can be, of an oracle that knows the truth of this world: {figure(report.oracle_rmse)}"
        )
        lines.append(f"- the world is `streamer simulate {world.NAME}.jsonl {' '.join(world.OPTIONS)}`")
    lines += [
        "",
        "## Ratings",
        "",
        *ratings(report),
        "",
        f"![RMSE over the stream]({report.stream}-rmse.svg)",
        "",
    ]
    lines += [f"![speed against RMSE]({report.stream}-speed.svg)", "", "## Clicks", ""]
    lines += [
        f"See [{CLICKS}{report.stream}.md]({CLICKS}{report.stream}.md).",
        "",
        "## Speed of the default",
        "",
        *speeds(report),
    ]
    skipped = [f"- {label(o)}: {o.skipped}" for o in report.outcomes if o.skipped]
    lines += ["", "## Not run", "", *skipped] if skipped else []
    return "\n".join([*lines, *settings_of_peers(report)]) + "\n"


def settings_of_peers(report: Report) -> list[str]:
    """The last part of a page."""
    return ["", "## Settings of the peers", ""] + [
        f"- {label(o)}: {', '.join(f'{name} {value}' for name, value in o.parameters.items())}"
        for o in report.outcomes
        if o.side == "peer"
    ]


def command(report: Report) -> str:
    """The command that measures the report and writes its page."""
    if report.stream == world.NAME or report.stream in synthetic.STREAMS:
        return "make bench"
    return f"make bench {'DATA' if report.ratings else 'CLICKS'}=path/to/{report.stream}"


SPEEDS = {
    "evaluate": "`{}` through `streamer evaluate`: file, decoding, all learners that serve, committed storage",
    "ratings": "the same with `popularity-recent` for clicks: River's model learns nothing of clicks",
    "kernel": "`{}`, kernel alone, in memory, all its categories",
    "kernel-20": "`{}`, kernel alone, in memory, 20 categories",
    "river-default": "River's `reco.BiasedMF` in memory, its defaults",
    "river-tuned": "River's `reco.BiasedMF` in memory, tuned",
}


def speeds(report: Report) -> list[str]:
    """The table of the speed comparison."""
    found = report.speed
    if found is None:
        return []
    rows = [
        [what.format(found.learner), speed(found.medians[name]), " ".join(map(speed, found.rounds[name])), f"{found.over_river[name]:.2f}"]
        for name, what in SPEEDS.items()
    ]  # fmt: skip
    return table(["events/s of CPU, by turns", "median", "rounds", "over River's faster, median of the rounds"], rows)


def readme(report: Report, of_clicks: Report) -> str:
    """The text between the two marks in the README."""
    chosen = list({o.name: o for o in report.outcomes}.values())  # tuned comes after the defaults
    return "\n".join(
        [
            BEGIN,
            "",
            *_short(report.defaults, [o for o in chosen if o.ratings], "ratings"),
            "",
            *_short(report.defaults, [o for o in of_clicks.outcomes if o.clicks], "clicks"),
            "",
            *speeds(report),
            "",
            END,
        ]
    )


def _short(defaults: Sequence[str], chosen: Sequence[Outcome], kind: str) -> list[str]:
    if kind == "ratings":
        rows = sorted(
            ((o.ratings.rmse, o.ratings.rmse_last_half, o) for o in chosen if o.ratings), key=lambda row: row[:2]
        )
        return table(
            ["ratings", "RMSE", "RMSE, last half", "events/s in memory"],
            [[label(o, defaults), figure(a), figure(b), speed(o.events_per_second)] for a, b, o in rows],
        )
    found = sorted(((o.clicks, o) for o in chosen if o.clicks), key=lambda pair: -pair[0].hit_rate_10)
    return table(
        ["clicks", "HR@10", "HR@20", "NDCG@20"],
        [[label(o, defaults), figure(c.hit_rate_10), figure(c.hit_rate_20), figure(c.ndcg_20)] for c, o in found],
    )


def main() -> None:
    """See the module."""
    for name in [*measured(), *measured(CLICKS)]:
        save(load(name), RESULTS)
    save_overview(RESULTS)
    shown = readme(load(SHOWN), load(f"{CLICKS}{SHOWN}"))
    written = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", shown, README.read_text(), flags=re.S)
    README.write_text(written)


if __name__ == "__main__":
    main()
