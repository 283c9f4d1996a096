"""Signatures: whether a file is meant as an image, by its name or its first bytes."""

import re

import pyarrow as pa
import pyarrow.compute as pc

NUM_BYTES = 32
"""How many of the first bytes are looked at."""
_IMAGES = (
    "jpg jpeg jpe jfif jif png apng webp bmp dib gif tif tiff avif avifs heic heif hif jp2 j2k jpf jpx jpg2 jxl "
    "pgm ppm pbm pnm pam"
)
_OTHERS = (
    "txt csv tsv json jsonl xml html htm md rst pdf doc docx xls xlsx py pyc ipynb m sh bat mat npy npz pkl pickle "
    "h5 hdf5 parquet arrow feather pt pth onnx tfrecord rec idx lst log yaml yml toml ini cfg db sqlite lock md5 "
    "sha256 mp4 mov avi mkv webm mpg mp3 wav zip tar gz tgz bz2 tbz2 xz txz zst 7z rar aae xmp thm pts"
)
IMAGE_SUFFIXES = tuple(f".{kind}" for kind in _IMAGES.split(" "))
"""Files that are meant as images; those that cannot be decoded are rejected with a status."""
SIDECAR_SUFFIXES = tuple(f".{kind}" for kind in _OTHERS.split(" "))
"""Files that are no images, and are not opened to find out."""
_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|II[*+]\0|MM\0[*+]|BM.{4}\0{4}|RIFF.{4}WEBP|P[1-7][\s#]|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|\xff\x0a|\0\0\0\x0cJXL |.{4}ftyp(?:avif|avis|hei[cxms]|hev[cxms]|mif1|msf1)",
    re.DOTALL,
)
"""How images begin, as whatever their names end."""


def are_images(names: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Whether each of many files is meant as an image by its name."""
    ends = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    return pc.match_substring_regex(pc.ascii_lower(names), rf"(?:{ends})\z")


def is_image(start: bytes) -> bool:
    """True where the first bytes of a file are those of an image of a kind that somebody packs."""
    return _START.match(start) is not None
