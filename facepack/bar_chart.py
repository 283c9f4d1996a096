"""A bar chart as a PNG: images per attribute or class, ascending."""

import io

from facepack.preview_model import Chart


def chart_png(chart: Chart) -> bytes:
    """A chart of a preview page as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shape, axis = plt.subplots(figsize=(max(6.0, 0.3 * len(chart.bars) + 2), 5.0), layout="constrained")
    names, numbers = [bar.name for bar in chart.bars], [bar.number for bar in chart.bars]
    axis.bar(names, numbers, color="#2f6fde")
    axis.set(xlabel=chart.name, ylabel="N. of images")
    for label in axis.get_xticklabels():
        label.set_parse_math(False)  # "$" in a name is no formula
    axis.tick_params(axis="x", rotation=90 if len(names) > 6 else 0)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    shape.savefig(file, dpi=120, format="png")
    plt.close(shape)
    return file.getvalue()
