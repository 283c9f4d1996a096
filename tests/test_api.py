"""The examples of docs/api.md run as they stand, in order, in a folder with drawn data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import facepack
import trainer
from facepack.drawn import synthetic

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SECTIONS = {
    section.partition("\n")[0].strip(): re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
}


@pytest.mark.parametrize("title", SECTIONS)
def test_examples_run(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.draw("celeba", tmp_path / "data" / "celeba", num_images=300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACEPACK_DATA", raising=False)
    assert SECTIONS[title], "a section without an example"
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(SECTIONS[title]):
        exec(compile(block, f"{PAGE.name}, {title}, example {number + 1}", "exec"), namespace)


def test_what_is_exported_is_documented_and_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in (*facepack.__all__, *trainer.__all__) if f"`{name}" not in text] == []
    assert [name for name in facepack.__all__ if not hasattr(facepack, name)] == []
    assert set(facepack.__all__) <= set(dir(facepack))
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        facepack.bild  # noqa: B018


def test_import_takes_no_library_along() -> None:
    program = (
        "import sys, facepack; facepack.__version__;"
        "print([name for name in ('ray', 'pyarrow', 'cv2', 'torch', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_opened_build_is_read_without_torch(tmp_path: Path) -> None:
    synthetic.draw("celeba", tmp_path / "celeba", num_images=60)
    program = (
        "import sys, facepack; b = facepack.build('celeba', src=sys.argv[1], out=sys.argv[2], size='32', workers=0);"
        "b.split('train').image(0); b.verify(deep=True); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "celeba"), str(tmp_path / "build")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert (ended.stdout, ended.stderr) == ("False\n", "")
