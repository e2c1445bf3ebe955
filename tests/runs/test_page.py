"""The page of runs, in a browser: it sorts, filters, draws and compares, by keyboard too."""

import json
import re

import pytest

from tests.runs.made import make_run
from tests.support import browser
from tests.support.commands import outcome
from vision.runs import __main__ as command
from vision.runs import page as page_module
from vision.runs.reader import Reader

HOSTILE = "</script><script>document.title='taken'</script>"
DATA = '<script type="application/json" id="data">(.*?)</script>'


@pytest.fixture(scope="module")
def page_of_runs(tmp_path_factory):
    """The page of three runs, one of which has a name and a variant that would be scripts."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, accuracy in enumerate((0.97, 0.99)):
        make_run(folder / f"vit-{seed}", accuracy, model__name="vit", seed=seed)
    validations = ((10, 0.25), (40, 0.5))
    make_run(folder / HOSTILE, None, validations, model__name="resnet", model__variant=HOSTILE)
    return folder


@pytest.fixture(scope="module")
def written(page_of_runs, tmp_path_factory):
    from tests.support.commands import exit_code

    out = tmp_path_factory.mktemp("page")
    assert exit_code(command.main, page_of_runs, "--sort", "name", "--out", out) == 0
    assert (out / "runs.json").is_file()
    return (out / "report.html").as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(written, width, theme):
    with browser.browse(written, width, 800, theme) as page:
        page.check()
        assert page.evaluate(browser.PALE) == []
        assert page.complaints == [] and page.evaluate("document.title").startswith("Runs below")


def test_it_sorts_filters_draws_and_compares(written):
    with browser.browse(written) as page:
        names = "[...document.querySelectorAll('#table tbody th')].map(e => e.textContent)"
        button = "[...document.querySelectorAll('#table thead button')]"
        assert page.evaluate(names) == [HOSTILE, "vit-0", "vit-1"]
        legend = "[...document.querySelectorAll('#legend li')].map(e => e.textContent)"
        assert page.evaluate(legend) == [HOSTILE, "vit-0", "vit-1"]
        page.evaluate(f"{button}.find(b => b.textContent == 'test').click()")
        assert page.evaluate(names) == ["vit-1", "vit-0", HOSTILE]
        page.evaluate(f"{button}.find(b => b.textContent == 'test').click()")
        assert page.evaluate(names) == ["vit-0", "vit-1", HOSTILE]
        assert page.evaluate("document.querySelectorAll('#plot path').length") == 3
        page.evaluate("document.querySelector('#words').value = 'vit'")
        page.evaluate("document.querySelector('#words').dispatchEvent(new Event('input'))")
        assert page.evaluate("document.querySelector('#count').textContent") == "2 of 3"
        page.evaluate("document.querySelector('#none').click()")
        assert page.evaluate("document.querySelectorAll('#plot path').length") == 1
        page.evaluate("document.querySelector('#all').click()")
        differing = "[...document.querySelectorAll('#differing tbody th')].map(e => e.textContent)"
        assert page.evaluate(differing) == ["model.name", "model.variant", "seed"]
        assert "± 1.41 %" in page.evaluate("document.body.textContent")
        assert page.complaints == []


def test_the_reading_line_moves_by_keys(written):
    with browser.browse(written) as page:
        page.evaluate("document.querySelector('#plot').focus()")
        page.press("End", 35)
        assert page.evaluate("document.querySelector('#reading').textContent") == "At step 40"
        values = "[...document.querySelectorAll('#legend output')].map(e => e.textContent)"
        # The others ended at step 20.
        assert page.evaluate(values) == ["50.00 %", "", ""]


def test_it_says_what_it_wrote(page_of_runs, tmp_path, capsys):
    code, out, err = outcome(command.main, capsys, page_of_runs, "--out", tmp_path / "page")
    assert code == 0 and "report.html" in err and "vit-0" in out


def test_the_best_point_of_a_long_curve_is_drawn(tmp_path):
    """Of 401 validations, most are left out; the best is one of the others."""
    values = [(step, 0.9 if step == 122 else step / 1000) for step in range(1, 402)]
    make_run(tmp_path / "long", None, values)
    make_run(tmp_path / "short", None, values[:100])
    (long, short) = Reader().read_below([tmp_path])
    curves = json.loads(re.search(DATA, page_module.page([long, short], "runs"))[1])["runs"]
    points = curves[0]["curves"]["val/accuracy"]
    assert len(points) < 200 and [122, 0.9] in points and points[-1] == [401, 0.401]
    assert points == sorted(points) and curves[0]["best"] == 122
    assert len(curves[1]["curves"]["val/accuracy"]) == 100


def test_equal_and_huge_values_are_drawn_with_a_few_ticks(tmp_path):
    """Where adding one to a number does not change it, too."""
    for name, losses in {"a": (2.0**60, 2.0**60), "b": (-3.0, -3.0), "c": (0.0, 0.0)}.items():
        run = make_run(tmp_path / name, None, ())
        lines = [{"step": i, "val/loss": loss} for i, loss in enumerate(losses, 1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / f"{name}.html").write_text(page_module.page(Reader().read_below([run]), name))
        with browser.browse((tmp_path / f"{name}.html").as_uri()) as page:
            assert 2 <= page.evaluate("document.querySelectorAll('#plot line.grid').length") <= 24
            labels = "[...document.querySelectorAll('#plot text')].map(e => e.textContent)"
            assert "NaN" not in page.evaluate(labels) and page.complaints == []
