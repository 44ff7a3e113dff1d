from xml.etree import ElementTree

import pytest

from benchmarks.axis import Axis, labels, linear_range, log_range
from benchmarks.earlier import earlier_parts
from benchmarks.part import Column, Plot, Series
from benchmarks.svg_plot import plot_svg, text_width
from report_parts import one_part


@pytest.mark.parametrize("width", [688, 350])
def test_no_text_of_a_plot_leaves_the_picture_or_stands_on_another(width: int):
    for part in (*earlier_parts(), one_part()):
        for plot in part.plots:
            svg = plot_svg(plot, width)
            boxes = []
            for text in svg.iter("text"):
                told = str(text.text)
                wide, x, y = text_width(told) * 0.94, float(text.get("x", 0)), float(text.get("y", 0))
                left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
                assert left >= -1, (plot.title, told)
                assert left + wide <= width + 1, (plot.title, told)
                assert 8 <= y <= float(svg.get("height", 0)), (plot.title, told)
                boxes.append((left, y - 9, left + wide, y + 2, told))
            for place, one in enumerate(boxes):
                for other in boxes[place + 1 :]:
                    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
                    assert apart, (plot.title, one, other)


def test_bars_are_as_long_as_their_values_and_dots_where_the_axis_is_logarithmic():
    series = (Series(name="one", points=((0, 10.0, 9.0, 11.0), (1, 20.0, None, None))),)
    plot = Plot(title="p", kind="bar", x=Column(name="x"), y=Column(name="y"), x_names=("a", "b"), series=series)
    bars = [float(bar.get("width", 0)) for bar in plot_svg(plot, 688).iter("rect")]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.2)
    assert sum(group.get("class") == "whisker" for group in plot_svg(plot, 688).iter("g")) == 1
    dots = plot_svg(Plot(title="p", kind="bar", x=plot.x, y=plot.y, x_names=("a", "b"), series=series, log_y=True), 688)
    assert list(dots.iter("rect")) == []
    assert len(list(dots.iter("circle"))) == 2
    with pytest.raises(ValueError, match="has no points"):
        plot_svg(Plot(title="p", kind="bar", x=plot.x, y=plot.y, series=()), 688)


def test_axes_have_round_limits_and_ticks():
    assert linear_range([3.0, 64.6], from_zero=True) == (0, 80)
    assert linear_range([190.6, 191.9], from_zero=False) == (0, 200)
    assert linear_range([76.0, 97.0], from_zero=False) == pytest.approx((75, 100))
    assert log_range([0.03, 7.0]) == pytest.approx((0.02, 10))
    axis = Axis(low=1, high=100, start=0, end=200, log=True)
    assert axis.at(10) == pytest.approx(100)
    assert axis.ticks() == pytest.approx([1, 3, 10, 30, 100])
    assert labels([0, 0.25, 0.5, 1000, 20.0]) == ["0", "0.25", "0.5", "1,000", "20"]


def test_the_svg_is_well_formed():
    for plot in one_part().plots:
        ElementTree.fromstring(ElementTree.tostring(plot_svg(plot, 350)))
