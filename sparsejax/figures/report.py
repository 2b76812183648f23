"""One self-contained page about a run: results in figures and tables, and how to reproduce it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sparsejax.data.dataset import examples_noun
from sparsejax.figures.drawing import Column, Part, Row, Table, parts_of
from sparsejax.figures.html import Picture, escape_unbroken, image, section, table
from sparsejax.figures.words import count, duration, exact, plain, several

_STYLESHEET = Path(__file__).with_name("report.css")


def swept_fields(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the swept fields, such as `model.boost_strength`: those with a dot in their name."""
    return [name for name in members[0] if "." in name]


def setting(member: Mapping[str, Any]) -> str:
    """Returns the swept values of a network, e.g. `boost_strength = 1.5`; empty without a sweep."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} = {plain(member[name])}" for name in swept_fields([member]))


def report(result: Mapping[str, Any], pictures: Sequence[Picture], measures: Sequence[Part]) -> str:
    """Returns the report as one HTML file.

    Args:
      result: as in `result.json`, with `members`.
      pictures: in the order of the report.
      measures: those of the run, in the same order; they define the tables.
    """
    name, dataset = str(result["name"]), str(result.get("dataset", ""))
    shown = parts_of(measures, "rows", result)
    parts = [
        _header(result),
        _notice(result),
        _headline(result, measures),
        _figures(pictures),
        *map(_table, parts_of(measures, "tables", result)),
        _layers(result, measures),
        _settings(result, shown),
        _networks(result, shown),
        _repeat(result),
        _configuration(result),
    ]
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(name)} on {escape(dataset)} · sparsejax</title>
<style>
{_STYLESHEET.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by sparsejax.</footer>
</body>
</html>
"""


def _header(result: Mapping[str, Any]) -> str:
    """Returns the networks, the data and the number of epochs."""
    members, data = result["members"], result.get("data") or {}
    facts = [f"{len(members)} network{'s' if len(members) > 1 else ''}"]
    if "train" in data and "test" in data:
        kind = examples_noun(data.get("kind", "images"))
        facts.append(f"{data['train']:,} training and {data['test']:,} test {kind} of {result.get('dataset', '?')}")
    if members[0].get("epoch") is not None:
        epochs = members[0]["epoch"]
        facts.append(f"{epochs} epoch{'s' if epochs != 1 else ''}")
    return f"<header>\n<h1>{escape(str(result['name']))}</h1>\n<p>{escape(' · '.join(facts))}</p>\n</header>"


def _notice(result: Mapping[str, Any]) -> str:
    if not result.get("notice"):
        return ""
    notice = escape(str(result["notice"]))
    return f'<p class="notice" role="note"><strong>Note on the data.</strong> {notice}</p>'


def headline(result: Mapping[str, Any], measures: Sequence[Part]) -> list[tuple[str, str, str]]:
    """Returns the main numbers: label, value over the networks, and a note."""
    members = result["members"]
    swept = len({setting(member) for member in members}) > 1
    best = [member["best"] for member in members if "best" in member]
    tiles = []
    for row in parts_of(measures, "rows", result):
        last = several([member[row.key] for member in members], swept, row.form)
        tiles.append((f"{row.label}, last epoch" if row.at_best else row.label, last, row.note))
        if row.at_best and best:
            epochs = sorted({entry["epoch"] for entry in best})
            after = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
            there = several([entry[row.key] for entry in best], swept, row.form)
            tiles.append((f"{row.label}, best epoch", there, after))
    return tiles


def columns_of(result: Mapping[str, Any], measures: Sequence[Part]) -> list[Column]:
    """Returns the measures' columns for the table of layers."""
    return parts_of(measures, "columns", result)


def _headline(result: Mapping[str, Any], measures: Sequence[Part]) -> str:
    members = result["members"]
    rows = "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape_unbroken(value)}<small>{escape(note)}</small></dd></div>"
        for term, value, note in headline(result, measures)
    )
    layers = ", ".join(
        f"{name} {100 * layer['active_fraction']:.1f} %"
        for name, layer in result.get("layers", {}).items() if "active_fraction" in layer
    )  # fmt: skip
    said = [f"Active units at inference: {layers}."] if layers else []
    if len({setting(member) for member in members}) > 1:
        said.append(f"Numbers are the range over {len(members)} networks; see the settings below.")
    elif len(members) > 1:
        said.append(f"Numbers are mean ± standard deviation over {len(members)} seeds.")
    if any("best" in member for member in members):
        said.append("The best epoch is selected on the test set, as in the k-winners paper, which makes it optimistic.")
    return section("Result", f'<dl class="tiles">\n{rows}\n</dl>\n<p>{escape(" ".join(said))}</p>')


def _figures(pictures: Sequence[Picture]) -> str:
    """Shows the figures, each with its caption, on a white background, because they are drawn for paper."""
    return "\n".join(
        section(
            picture.title,
            f"<figure>\n{image(picture)}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>",
        )
        for picture in pictures
    )


def _layers(result: Mapping[str, Any], measures: Sequence[Part]) -> str:
    layers = result.get("layers")
    if not layers:
        return ""
    columns, rows = columns_of(result, measures), []
    for name, layer in layers.items():
        k = "–" if layer.get("k") is None else f"{count(layer['k'])} ({count(layer['k_inference'])})"
        rows.append([name, count(layer["units"]), k, *(column.cell(layer) for column in columns)])
    winners = any(layer.get("k") is not None for layer in layers.values())
    said = ["k winners are kept in training, and the number in brackets at inference."] * winners
    said += [column.said for column in columns if column.said]
    if len(result["members"]) > 1:
        said.append(f"Means over {len(result['members'])} networks.")
    head = ["Layer", "Units", "k (inference)", *(column.label for column in columns)]
    return _table(Table("Sparsity", "Activity of each layer", head, rows, " ".join(said)))


def _table(of: Table) -> str:
    said = f"\n<p>{escape(of.said)}</p>" if of.said else ""
    return section(of.title, table(of.caption, of.head, of.rows) + said)


def _settings(result: Mapping[str, Any], shown: Sequence[Row]) -> str:
    """Tabulates mean and standard deviation of every setting of a sweep."""
    members = result["members"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        groups.setdefault(setting(member), []).append(member)
    if len(groups) < 2:
        return ""
    fields = swept_fields(members)
    head, rows = [*(name.rsplit(".", 1)[-1] for name in fields), "Seeds"], []
    for row in shown:
        head += [row.label.capitalize()] + ["At best epoch"] * (row.at_best and "best" in members[0])
    for group in groups.values():
        cells = [plain(group[0][name]) for name in fields] + [count(len(group))]
        for row in shown:
            cells.append(several([member[row.key] for member in group], False, row.form))
            if row.at_best and "best" in group[0]:
                cells.append(several([member["best"][row.key] for member in group], False, row.form))
        rows.append(cells)
    return section("Settings", table("Mean ± standard deviation over seeds", head, rows, names=len(fields)))


def _networks(result: Mapping[str, Any], shown: Sequence[Row]) -> str:
    """Tabulates every network, collapsed if there are many."""
    members = result["members"]
    if len(members) < 2:
        return ""
    fields, best = swept_fields(members), "best" in members[0]
    head, rows = [*(name.rsplit(".", 1)[-1] for name in fields), "Seed"], []
    for row in shown:
        head.append(row.label.capitalize())
        head += ["Best epoch", f"{row.label.split()[-1].capitalize()} there"] * (row.at_best and best)
    for member in members:
        cells = [plain(member[name]) for name in fields] + [str(member["seed"])]
        for row in shown:
            cells.append(several([member[row.key]], False, row.form))
            if row.at_best and best:
                cells += [count(member["best"]["epoch"]), several([member["best"][row.key]], False, row.form)]
        rows.append(cells)
    every = table(f"Each of the {len(members)} networks", head, rows, names=len(fields) + 1)
    if len(members) > 20:
        every = f"<details>\n<summary>All {len(members)} networks</summary>\n{every}\n</details>"
    return section("Networks", every)


def _repeat(result: Mapping[str, Any]) -> str:
    """Shows how to reproduce the numbers."""
    parts = []
    if result.get("command"):
        parts.append(f'<pre tabindex="0"><code>{escape(str(result["command"]))}</code></pre>')
    facts = []
    device = result.get("device") or {}
    if device:
        count, kind = device.get("count", 1), device.get("kind", device.get("platform", "?"))
        platform = device.get("platform")
        cores = f", {device['cores']} cores" if device.get("cores") and platform == "cpu" else ""
        backend = f" ({platform})" if platform and platform != kind else ""
        facts.append(("Device", f"{count} × {kind}{backend}{cores}"))
    versions = result.get("versions") or {}
    if versions:
        facts.append(("Versions", ", ".join(f"{name} {version or '(unknown)'}" for name, version in versions.items())))
    data = result.get("data") or {}
    if data.get("fingerprint"):
        facts.append(("Data", f"{data.get('name', '?')} from {data.get('source', '?')}, {data['fingerprint']}"))
    seeds = [str(member["seed"]) for member in result["members"]]
    seeds = list(dict.fromkeys(seeds))
    facts.append(("Seeds" if len(seeds) > 1 else "Seed", ", ".join(seeds)))
    if result.get("seconds") is not None:
        training = duration(result.get("training_seconds") or 0.0)
        facts.append(("Time", f"{duration(result['seconds'])} for the last command, {training} of it training"))
    rows = "\n".join(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in facts)
    parts.append(f'<dl class="facts">\n{rows}\n</dl>')
    return section("How to reproduce this", "\n".join(parts))


def _configuration(result: Mapping[str, Any]) -> str:
    """Lists the resolved configuration, collapsed."""
    config = result.get("config")
    if not config:
        return ""
    rows = [[name, exact(value)] for name, value in _flat(config)]
    every = table("Every field, as resolved", ["Field", "Value"], rows, names=2)
    return section("Configuration", f"<details>\n<summary>{len(rows)} fields</summary>\n{every}\n</details>")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value
