"""Notes what a streamer offers: commands and their options, settings, series of metrics, RPCs."""

import re
from pathlib import Path

import grpc  # type: ignore[import-untyped]  # ships no types, nor do the two below
from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.same_behaviour.checkout import Checkout
from benchmarks.same_behaviour.facts import Facts

_OPTION = re.compile(r"  (-\S.*?)(?:  |$)")
_BOUNDS = re.compile(r"\[(?:default|required|[^\]]*[<>])[^\]]*\]")
# Metrics whose values depend on the clock, on the machine, on the number of requests, or on how far the archive has got.
_UNSTEADY = re.compile(
    r"process_.*|streamer_(request_|rerank_|commit_|event_to_answer_|build_|archive_).*|.*_(bytes|seconds|created)(_.*)?"
)


def note_commands(facts: Facts, side: Checkout, path: tuple[str, ...] = ()) -> None:
    """Note the command `path` and all commands below it: its usage, and its options with defaults and bounds."""
    help_text = side.run(*path, "--help").out
    name = " ".join(("streamer", *path))
    facts.words[f"help: {name}"] = help_text
    usage, _, rest = help_text.partition("\n\n")
    facts.exact[f"options: {name}"] = "\n".join([" ".join(usage.split()), *options(help_text)])
    commands = [line.split()[0] for line in section(rest, "Commands").splitlines() if re.match(r"  \S", line)]
    if commands:
        facts.exact[f"commands: {name}"] = "\n".join(sorted(commands))
    for command in commands:
        note_commands(facts, side, (*path, command))


def section(help_text: str, title: str) -> str:
    """The section `title` of a command's help; empty if there is none."""
    return help_text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]


def options(help_text: str) -> list[str]:
    """The options in a command's help, without their descriptions."""
    found, lines = list[str](), section(help_text, "Options").splitlines()
    starts = [n for n, line in enumerate(lines) if _OPTION.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = _OPTION.match(lines[start])
        assert match is not None
        about = " ".join(line.strip() for line in lines[start:end])
        found.append(" ".join([match[1], *_BOUNDS.findall(about)]))
    return sorted(found)


def note_settings(facts: Facts, root: Path) -> None:
    """Note the settings and their defaults, as docs/settings.md lists them (a test compares that page with the code)."""
    cells = [
        line.split("|")[1:3]
        for line in (root / "docs/settings.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    facts.exact["settings and defaults"] = "\n".join(f"{name.strip()} {default.strip()}" for name, default in cells)


def note_metrics(facts: Facts, name: str, page: str) -> None:
    """Note the series by name, labels and type, and the values of those series that depend only on the events."""
    series, values, words = list[str](), list[str](), list[str]()
    for family in text_string_to_metric_families(page):
        words.append(f"{family.name}: {family.documentation}")
        for sample in family.samples:
            labels = ",".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items()))
            series.append(f"{family.type} {sample.name}{{{labels}}}")
            if not _UNSTEADY.fullmatch(sample.name):
                values.append(f"{sample.name}{{{labels}}} {sample.value!r}")
    facts.exact[f"{name}: series of metrics"] = "\n".join(sorted(series))
    facts.exact[f"{name}: values of metrics that follow from the events"] = "\n".join(sorted(values))
    facts.words[f"{name}: help of metrics"] = "\n".join(sorted(words))


def note_services(facts: Facts, url: str) -> None:
    """Note the services, methods, messages and fields, as gRPC's reflection describes them."""
    quiet = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(url.removeprefix("http://"), options=quiet) as channel:
        known = reflection.ProtoReflectionDescriptorDatabase(channel)
        services = sorted(known.get_services())
        facts.exact["services"] = "\n".join(services)
        files = {file.name: file for file in (known.FindFileContainingSymbol(service) for service in services)}
    for name, file in files.items():
        described = descriptor_pb2.FileDescriptorProto()
        described.CopyFrom(file)
        described.ClearField("source_code_info")  # comments
        facts.exact[f"messages of {name}"] = str(described)
