import base64
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sparsejax.evaluation.measure import measures_of
from sparsejax.evaluation.report import summary
from sparsejax.figures import report as page_of
from sparsejax.figures.html import Picture
from sparsejax.figures.noise import noise_curve
from sparsejax.figures.report import setting
from sparsejax.figures.style import png
from sparsejax.figures.words import duration, percent, plain


def report(result, pictures):
    return page_of.report(result, pictures, measures_of(result))


VOID = {"meta", "img", "source", "br", "link"}


class Page(HTMLParser):
    """A page, checked for balanced tags, with its resources, headings and rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.resources, self.images, self.rows, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.words = html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.S)).replace("\xa0", " ")

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.resources += [attrs[name] for name in ("src", "srcset", "href", "data") if name in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def picture():
    image = png(noise_curve(np.arange(11) / 20, np.linspace(1, 0.5, 11)))
    return Picture("Robustness", "Accuracy < noise.", "Line chart, 100 % to 50 %.", image, image)


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("sweep", [(), (0.0, 1.5)])
@pytest.mark.parametrize("winners", [False, True])
def test_the_page_is_complete_and_self_contained(make_result, picture, networks, sweep, winners):
    text = report(make_result(networks, sweep=sweep, winners=winners), [picture])
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and ("html", {"lang": "en"}) in page.tags
    assert any(attrs.get("name") == "viewport" for _, attrs in page.tags)
    assert page.resources and all(address.startswith("data:image/png;base64,") for address in page.resources)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert all(len({len(row) for row in rows}) == 1 for rows in tables(text))
    assert "None" not in page.words and "nan" not in page.words.split()


def tables(text):
    return [Page(table).rows for table in re.findall(r"<table>.*?</table>", text, flags=re.S)]


def test_numbers_of_one_network(make_result, picture):
    result = make_result(1)
    member = result["members"][0]
    page = Page(report(result, [picture]))
    for number in (
        f"{100 * member['test_accuracy']:.2f} %", f"{100 * member['best']['test_accuracy']:.2f} %",
        f"{member['noise_score']:,}", "of 110,000", "conv1 13.0 %, hidden 21.4 %",
        "60,000 training and 10,000 test images", "50 s of it training",
        "python -m sparsejax.launch --config mnist_kwinners --out runs/a", "jax 0.10.2", "2 cores",
    ):  # fmt: skip
        assert number in page.words
    assert ["conv1", "576", "50 (75)", "13.0 %", "27", "1 of 4", "90.0 %"] in page.rows
    assert ["hidden", "700", "100 (150)", "21.4 %", "10", "–", "80.0 %"] in page.rows
    assert ["model.channels", "4, 6"] in page.rows and ["model.dropout", "none"] in page.rows
    assert "seeds" not in page.words and "Networks" not in page.words


def test_several_seeds(make_result, picture):
    result = make_result(3)
    accuracies = np.array([member["test_accuracy"] for member in result["members"]])
    page = Page(report(result, [picture]))
    assert f"{100 * accuracies.mean():.2f} ± {100 * accuracies.std():.2f} %" in page.words
    assert "over 3 seeds" in page.words
    for member in result["members"]:
        accuracy, best = (f"{100 * entry['test_accuracy']:.2f} %" for entry in (member, member["best"]))
        assert [str(member["seed"]), accuracy, "2", best, f"{member['noise_score']:,}"] in page.rows


def test_a_sweep_shows_its_settings(make_result, picture):
    result = make_result(2, sweep=(0.0, 1.5))
    page = Page(report(result, [picture]))
    low, high = (np.array([member["test_accuracy"] for member in result["members"]][i : i + 2]) for i in (0, 2))
    assert "range over 4 networks" in page.words
    for strength, group in (("0", low), ("1.5", high)):
        row = next(row for row in page.rows if row[:2] == [strength, "2"])
        assert row[2] == f"{100 * group.mean():.2f} ± {100 * group.std():.2f} %"
        assert sum(row[:1] == [strength] for row in page.rows) == 3  # the setting and its two networks
    assert setting(result["members"][0]) == "boost_strength = 0"


def test_without_winners_and_noise(make_result, picture):
    page = Page(report(make_result(winners=False, noise=False), [picture]))
    assert ["hidden", "700", "–", "21.4 %", "10", "–"] in page.rows
    assert "noise score" not in page.words and "entropy" not in page.words.lower()


def test_products_are_shown_where_they_are_known(make_result, picture):
    result = make_result(1)
    assert "products" not in Page(report(result, [picture])).words
    result["layers"]["hidden"] |= {"products": 80_000.0, "products_dense": 1_600_000, "products_ratio": 20.0}
    for of in (result, *result["members"]):
        of |= {"products": 90_000.0, "products_dense": 1_710_000, "products_ratio": 19.0}
    page = Page(report(result, [picture]))
    assert ["hidden", "700", "100 (150)", "21.4 %", "10", "–", "80.0 %", "80,000 (20.0× fewer)"] in page.rows
    assert "non-zero products" in page.words and "19.0× fewer than all" in page.words


def test_many_networks_are_collapsed(make_result, picture):
    assert "All 21 networks" in report(make_result(21), [picture])
    assert "All 3 networks" not in report(make_result(3), [picture])


@pytest.mark.parametrize("notice", ["", "These are scikit-learn's digits & not MNIST."])
def test_the_notice_is_there_when_needed(make_result, picture, notice):
    text = report(make_result(notice=notice), [picture])
    assert ('class="notice"' in text) == bool(notice)
    assert html.escape(notice) in text


def test_everything_is_escaped(make_result, picture):
    evil = "<script>alert('\"&')</script>"
    result = make_result(
        2, sweep=(evil, "b"), name=evil, notice=evil, command=evil, dataset=evil, versions={evil: evil}
    )
    result["data"] |= {"name": evil, "source": evil, "fingerprint": evil}
    result["config"] = {evil: {evil: evil}}
    result["device"]["kind"] = result["device"]["platform"] = evil
    for member in result["members"]:
        member["layers"][evil] = member["layers"]["hidden"]
    result["layers"] = result["members"][0]["layers"]
    text = report(result, [picture._replace(title=evil, caption=evil, alt=evil)])
    page = Page(text)
    assert "<script" not in text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert evil in page.words and page.images[0]["alt"] == evil


def test_pictures_are_embedded_completely(make_result, picture):
    page = Page(report(make_result(), [picture]))
    (image,) = page.images
    assert base64.b64decode(image["src"].partition(",")[2]) == picture.wide
    assert image["alt"] == picture.alt and "Accuracy < noise." in page.words
    assert (image["width"], image["height"]) == ("330", "240")  # at 2 dots a pixel: sharp on fine screens
    assert len(page.resources) == 2


def test_numbers_are_written_for_people():
    assert [plain(value) for value in (None, float("nan"), True, 2.0, 0.123456, 12345.6, (1, None), "x")] == [
        "–", "–", "yes", "2", "0.1235", "12,346", "1, –", "x"
    ]  # fmt: skip
    assert [percent(0.98765), percent(0.9, 0.001), percent(None), percent(float("nan"))] == [
        "98.77 %", "90.00 ± 0.10 %", "–", "–"
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0.4, 99, 125, 7300)] == ["0 s", "99 s", "2 min 5 s", "2 h 1 min"]


def test_a_dead_network_among_several_has_no_reduction_of_products(make_result, picture):
    result = make_result(2)
    for member, ratio in zip(result["members"], (19.0, None), strict=True):
        member |= {"products": 90_000.0 if ratio else 0.0, "products_dense": 1_710_000, "products_ratio": ratio}
        member["layers"]["hidden"] |= {"products": member["products"], "products_dense": 9, "products_ratio": ratio}
    result |= summary(result["members"])
    assert result["products_ratio"] is None is result["layers"]["hidden"]["products_ratio"]
    page = Page(report(result, [picture]))
    assert "nan" not in page.words.lower().split() and "fewer" not in page.words
