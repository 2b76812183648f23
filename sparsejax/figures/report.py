"""One self-contained page about a run: what came out, in pictures and tables, and how to repeat it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sparsejax.figures.html import Picture, image, section, table, unbroken
from sparsejax.figures.words import count, duration, exact, loss, percent, plain, score, several

_STYLESHEET = Path(__file__).with_name("report.css")


def swept_fields(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the fields that a sweep set, such as `model.boost_strength`: those named with a dot."""
    return [name for name in members[0] if "." in name]


def setting(member: Mapping[str, Any]) -> str:
    """Names what a network was swept to, e.g. `boost_strength = 1.5`; empty without a sweep."""
    return ", ".join(f"{name.rsplit('.', 1)[-1]} = {plain(member[name])}" for name in swept_fields([member]))


def report(result: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """Returns the page as HTML that needs no other file.

    Args:
      result: as in `result.json`, with `members`.
      pictures: in the order of the page.
    """
    name, dataset = str(result["name"]), str(result.get("dataset", ""))
    parts = [
        _header(result),
        _notice(result),
        _headline(result),
        _figures(pictures),
        _classes(result),
        _layers(result),
        _settings(result),
        _networks(result),
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
    """Says what was trained on what, and for how long."""
    members, data = result["members"], result.get("data") or {}
    facts = [f"{len(members)} network{'s' if len(members) > 1 else ''}"]
    if "train" in data and "test" in data:
        kind = data.get("kind", "images")
        facts.append(f"{data['train']:,} training and {data['test']:,} test {kind} of {result.get('dataset', '?')}")
    if members[0].get("epoch") is not None:
        epochs = members[0]["epoch"]
        facts.append(f"{epochs} epoch{'s' if epochs != 1 else ''}")
    return f"<header>\n<h1>{escape(str(result['name']))}</h1>\n<p>{escape(' · '.join(facts))}</p>\n</header>"


def _notice(result: Mapping[str, Any]) -> str:
    """Shows that the data is a substitute, if it is."""
    if not result.get("notice"):
        return ""
    notice = escape(str(result["notice"]))
    return f'<p class="notice" role="note"><strong>Note on the data.</strong> {notice}</p>'


def _headline(result: Mapping[str, Any]) -> str:
    """Shows the numbers one looks for first."""
    members = result["members"]
    swept, many = len({setting(member) for member in members}) > 1, len(members) > 1
    best = [member["best"] for member in members if "best" in member]
    key, words, form = _main_figure(members[0])
    tiles = [(f"{words}, last epoch", several([m[key] for m in members], swept, form), "")]
    if best:
        epochs = sorted({entry["epoch"] for entry in best})
        after = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        tiles.append((f"{words}, best epoch", several([entry[key] for entry in best], swept, form), after))
    if "noise_score" in members[0]:
        scores = [float(member["noise_score"]) for member in members]
        tiles.append(("noise score", several(scores, swept, score), f"of {members[0]['noise_score_max']:,}"))
    rows = "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{unbroken(value)}<small>{escape(note)}</small></dd></div>"
        for term, value, note in tiles
    )
    layers = ", ".join(
        f"{name} {100 * layer['active_fraction']:.1f} %" for name, layer in result.get("layers", {}).items()
    )
    said = [f"Active units at inference: {layers}."] if layers else []
    if swept:
        said.append(f"Numbers are the range over {len(members)} networks; see the settings below.")
    elif many:
        said.append(f"Numbers are mean ± standard deviation over {len(members)} seeds.")
    if best:
        said.append("The best epoch is chosen on the test set, as in the k-winners paper, so it flatters the network.")
    return section("Result", f'<dl class="tiles">\n{rows}\n</dl>\n<p>{escape(" ".join(said))}</p>')


def _figures(pictures: Sequence[Picture]) -> str:
    """Shows the figures, each with its caption, on a white card: they are drawn for paper."""
    return "\n".join(
        section(
            picture.title,
            f"<figure>\n{image(picture)}\n<figcaption>{escape(picture.caption)}</figcaption>\n</figure>",
        )
        for picture in pictures
    )


def _layers(result: Mapping[str, Any]) -> str:
    """Tabulates how each layer uses its units."""
    layers = result.get("layers")
    if not layers:
        return ""
    channels = any(layer.get("channels") is not None for layer in layers.values())
    winners = any(layer.get("k") is not None for layer in layers.values())
    products = any(layer.get("products_ratio") for layer in layers.values())
    codes = all("gini" in layer for layer in layers.values())
    head = (
        ["Layer", "Units", "k (inference)", "Active", "Dead units"]
        + ["Dead channels"] * channels
        + ["Entropy"] * winners
        + ["Non-zero products"] * products
        + ["l0", "l1", "Gini", "Hoyer"] * codes
    )
    rows = []
    for name, layer in layers.items():
        k = "ReLU" if layer.get("k") is None else f"{count(layer['k'])} ({count(layer['k_inference'])})"
        row = [
            name,
            count(layer["units"]),
            k,
            f"{100 * layer['active_fraction']:.1f} %",
            count(layer["dead_units"]),
        ]
        if channels:
            known = layer.get("channels") is not None
            row.append(f"{count(layer['dead_channels'])} of {count(layer['channels'])}" if known else "–")
        if winners:
            known = layer.get("duty_entropy") is not None and layer.get("max_entropy")
            row.append(f"{100 * layer['duty_entropy'] / layer['max_entropy']:.1f} %" if known else "–")
        if products:
            row.append(_products(layer))
        if codes:
            row += [plain(float(f"{layer[name]:.4g}")) for name in ("l0", "l1", "gini", "hoyer")]
        rows.append(row)
    said = "Active is the mean fraction of units that are not zero on the test set; dead units were never active on it."
    if winners:
        said += (
            " k winners are kept in training, and the number in brackets at inference. Entropy is that of the "
            "duty cycles in training, out of the most that k winners can have: 100 % if all units win equally often."
        )
    if products:
        said += (
            " Non-zero products are those of a weight and an input that are both not zero, for one image, and how many "
            f"times fewer they are than all; with the output layer {_products(result)}."
        )
    if codes:
        said += (
            " l0 and l1 are the units active and the summed activity for one example; the Gini and Hoyer indices go "
            "from 0, all units equally active, to 1, one alone."
        )
    if len(result["members"]) > 1:
        said += f" Means over {len(result['members'])} networks."
    return section("Sparsity", f"{table('How each layer uses its units', head, rows)}\n<p>{said}</p>")


def _classes(result: Mapping[str, Any]) -> str:
    """Tabulates how well each class is told from the others, if it was measured."""
    if "confusion" not in result:
        return ""
    rows = [
        [str(i), count(sum(row)), percent(of_those_named), percent(of_those_there)]
        for i, (row, of_those_named, of_those_there) in enumerate(
            zip(result["confusion"], result["precision"], result["recall"], strict=True)
        )
    ]
    said = (
        "Precision is the part of the examples taken for a class that are of it, recall the part of its examples that "
        "are recognised."
    )
    tabulated = table("Precision and recall of each class", ["Class", "Examples", "Precision", "Recall"], rows)
    return section("Classes", f"{tabulated}\n<p>{said}</p>")


def _products(entry: Mapping[str, Any]) -> str:
    """Writes a number of products, and how many times fewer they are than in a dense layer."""
    if not entry.get("products_ratio"):
        return "–"
    return f"{entry['products']:,.0f} ({entry['products_ratio']:.1f}× fewer)"


def _main_figure(member: Mapping[str, Any]) -> tuple[str, str, Callable[..., str]]:
    """Returns the key, the words and the format of the figure that networks are compared by."""
    if "test_accuracy" in member:
        return "test_accuracy", "test accuracy", percent
    return "test_loss", "test loss", loss


def _settings(result: Mapping[str, Any]) -> str:
    """Tabulates mean and standard deviation of every setting of a sweep."""
    members = result["members"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        groups.setdefault(setting(member), []).append(member)
    if len(groups) < 2:
        return ""
    fields, noise = swept_fields(members), "noise_score" in members[0]
    key, words, form = _main_figure(members[0])
    rows = []
    for group in groups.values():
        row = [plain(group[0][name]) for name in fields] + [count(len(group))]
        row.append(several([member[key] for member in group], False, form))
        if "best" in group[0]:
            row.append(several([member["best"][key] for member in group], False, form))
        if noise:
            row.append(several([float(member["noise_score"]) for member in group], False, score))
        rows.append(row)
    head = [*(name.rsplit(".", 1)[-1] for name in fields), "Seeds", words.capitalize()]
    head += ["At best epoch"] * ("best" in members[0]) + ["Noise score"] * noise
    return section("Settings", table("Mean ± standard deviation over seeds", head, rows, names=len(fields)))


def _networks(result: Mapping[str, Any]) -> str:
    """Tabulates every network, folded up when there are many."""
    members = result["members"]
    if len(members) < 2:
        return ""
    fields, noise, best = swept_fields(members), "noise_score" in members[0], "best" in members[0]
    key, words, form = _main_figure(members[0])
    head = [*(name.rsplit(".", 1)[-1] for name in fields), "Seed", words.capitalize()]
    head += ["Best epoch", f"{words.split()[-1].capitalize()} there"] * best + ["Noise score"] * noise
    rows = []
    for member in members:
        row = [plain(member[name]) for name in fields] + [
            str(member["seed"]),
            form(member[key]),
        ]
        if best:
            row += [count(member["best"]["epoch"]), form(member["best"][key])]
        rows.append(row + ([score(float(member["noise_score"]))] if noise else []))
    every = table(f"Each of the {len(members)} networks", head, rows, names=len(fields) + 1)
    if len(members) > 20:
        every = f"<details>\n<summary>All {len(members)} networks</summary>\n{every}\n</details>"
    return section("Networks", every)


def _repeat(result: Mapping[str, Any]) -> str:
    """Says how to make these numbers again."""
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
    return section("How to repeat this", "\n".join(parts))


def _configuration(result: Mapping[str, Any]) -> str:
    """Lists the resolved configuration, folded up."""
    config = result.get("config")
    if not config:
        return ""
    rows = [[name, exact(value)] for name, value in _flat(config)]
    every = table("Every field, as resolved", ["Field", "Value"], rows, names=2)
    return section("Configuration", f"<details>\n<summary>{len(rows)} fields</summary>\n{every}\n</details>")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields dotted names and values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value
