"""Synthetic datasets: drawn faces and cartoon characters, laid out on disk as their publishers do.

    draw("celeba", Path("data/celeba"), num_images=2000)

They are what the tests and `facepack demo` run on. Image i of a dataset depends on the seed and i alone.
"""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from facepack.description import load_dataset
from facepack.drawn.drawing import Character, Face, Image, cartoon, person, photograph, rng_of
from facepack.errors import UsageError, nearest

CELEBA_LABELS = "list_attr_celeba.txt"
JPEG_QUALITY = 90
FACE_PX = (178, 218)
PHOTOS_PER_PERSON = 5
RAREST = {"Bald": 0.12, "Mustache": 0.13, "Gray_Hair": 0.14, "Pale_Skin": 0.15}
BLURRY = 0.2
MEN_ONLY = ("5_o_Clock_Shadow", "Goatee", "Receding_Hairline", "Sideburns", "Wearing_Necktie")
WOMEN_ONLY = ("Heavy_Makeup", "Rosy_Cheeks", "Wearing_Earrings", "Wearing_Lipstick", "Wearing_Necklace")

CACD_NAMES = ("Ada_Lindqvist", "Séan_O'Farrell", "Zoë_Núñez-Smith", "Xu", "Jean-Luc_Moreau", "Łucja_Wójcik", "Bo_Ek")
CHARACTERS = {
    "abraham_grampa_simpson": Character("tufts", (225, 225, 225), (150, 120, 160), 1.15, muzzle=True, glasses=True),
    "apu_nahasapeemapetilon": Character("quiff", (40, 34, 60), (70, 150, 90), 1.1, nose_rgb=(190, 130, 70)),
    "bart_simpson": Character("spikes", (250, 212, 54), (235, 110, 40)),
    "charles_montgomery_burns": Character("", (0, 0, 0), (60, 110, 90), 1.35, nose_rgb=(250, 226, 130)),
    "chief_wiggum": Character("cap", (60, 80, 150), (90, 150, 210), muzzle=True, nose_rgb=(230, 150, 140)),
    "comic_book_guy": Character("quiff", (130, 80, 40), (110, 190, 220), 1.1, muzzle=True),
    "edna_krabappel": Character("cap", (110, 70, 50), (80, 150, 120)),
    "homer_simpson": Character("", (0, 0, 0), (245, 245, 245), muzzle=True),
    "kent_brockman": Character("quiff", (235, 235, 240), (60, 70, 140), 1.05),
    "krusty_the_clown": Character("tufts", (60, 150, 90), (150, 100, 190), nose_rgb=(220, 40, 40)),
    "lisa_simpson": Character("spikes", (250, 212, 54), (220, 50, 40), 0.85),
    "marge_simpson": Character("tower", (60, 90, 190), (150, 200, 90)),
    "milhouse_van_houten": Character("cap", (70, 90, 190), (200, 80, 150), glasses=True),
    "moe_szyslak": Character("quiff", (130, 130, 140), (120, 170, 190), 1.15, muzzle=True),
    "ned_flanders": Character("cap", (120, 80, 50), (90, 150, 80), muzzle=True, glasses=True),
    "nelson_muntz": Character("tufts", (150, 90, 50), (230, 110, 100), nose_rgb=(240, 190, 60)),
    "principal_skinner": Character("cap", (140, 145, 150), (80, 110, 170), 1.2),
    "sideshow_bob": Character("palm", (190, 50, 50), (90, 160, 110), 1.2),
}
ADIENCE_AGES = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)", "35")
_FOLD_HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang"
_IMDB_FIELDS = ("dob", "photo_taken", "full_path", "gender", "name", "face_score", "second_face_score")
AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")


def draw(name: str, folder: Path, *, num_images: int, seed: int = 0) -> None:
    """Draw a dataset into a folder.

    `num_images` counts the labelled images; repeated files, nested copies and files with bad names come on top. Raises
    `UsageError` for a dataset that cannot be drawn.
    """
    if name not in DATASETS:
        raise UsageError(f"no dataset {name!r} to draw; {nearest(name, DATASETS)}")
    folder.mkdir(parents=True, exist_ok=True)
    DATASETS[name](folder, num_images, seed)


def write(path: Path, image_hwc: Image) -> None:
    """Write uint8 HWC RGB as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".jpg", image_hwc[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    path.write_bytes(encoded.tobytes())


def _framed(face: Face, rng: Generator, *, size_wh: tuple[int, int] = FACE_PX, share: float = 0.28) -> Image:
    """A face in the middle of a photo; half its width is this share of the photo's width. uint8 HWC RGB."""
    width, height = size_wh
    return photograph(face, rng, size_wh=size_wh, middle_px=(width / 2, height * 0.46), unit_px=width * share)


def _portrait(rng: Generator, traits: Iterable[str]) -> Image:
    """Somebody new with these traits in the middle of a photo of CelebA's size: uint8 HWC RGB."""
    return _framed(person(rng, traits), rng)


def somebody(rng: Generator, *, age_years: float, male: bool, smiling: bool) -> Face:
    """A person with attributes that come with an age and a sex; the same rng gives the same person at another age."""
    gray, beard, bald, glasses = rng.random(4)
    colour, kind = ("Black_Hair", "Brown_Hair", "Blond_Hair")[rng.integers(3)], ("Mustache", "Goatee")[rng.integers(2)]
    old = age_years > 55
    traits = {
        "Male": male,
        "Smiling": smiling,
        "Gray_Hair" if old and gray < 0.8 else colour: True,
        kind: male and age_years > 20 and beard < 0.2,
        "Bald": male and age_years > 40 and bald < 0.25,
        "Eyeglasses": glasses < 0.1 + 0.3 * old,
    }
    return person(rng, [trait for trait, has in traits.items() if has], age_years=age_years)


# CelebA


def _some(rng: Generator, among: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Rows, bool (N,), drawn from those among which to choose: exactly this share of all N where there are enough."""
    rows = rng.permutation(np.flatnonzero(among))[: math.ceil(share * len(among))]
    return np.isin(np.arange(len(among)), rows)


def _rarest(rng: Generator, num_images: int) -> dict[str, NDArray[np.bool_]]:
    """The four rarest attributes, bool (num_images,) each: runs of one random order that overlap by a hundredth."""
    order, start, count, labels = rng.permutation(num_images), 0, 0, {}
    for name, share in RAREST.items():
        count = max(round(share * num_images), count + 1)
        labels[name] = np.isin(np.arange(num_images), order[start : start + count])
        start += count - num_images // 100
    return labels


def celeba_labels(num_images: int, seed: int) -> NDArray[np.bool_]:
    """Attributes per image, bool (num_images, 40).

    The four rarest have exact counts, each above the one before, and three images in a hundred have two of them; every
    other attribute is in 20 % of the images or more. Sex is the person's: PHOTOS_PER_PERSON rows on end agree, but for
    one person at most.
    """
    names, rng, everyone = load_dataset("celeba").attributes, rng_of(seed, "celeba"), np.ones(num_images, bool)
    labels = {name: _some(rng, everyone, rng.uniform(0.3, 0.5)) for name in names}
    labels |= _rarest(rng, num_images)
    labels["Male"] = labels["Bald"] | labels["Mustache"]
    labels["Male"] |= _some(rng, ~labels["Male"], 0.28)
    labels |= {name: _some(rng, labels["Male"], 0.23) for name in MEN_ONLY}
    labels |= {name: _some(rng, ~labels["Male"], 0.3) for name in WOMEN_ONLY}
    labels["Bangs"] = _some(rng, ~labels["Bald"], 0.22)
    labels["Wearing_Hat"] = _some(rng, ~labels["Bald"] & ~labels["Gray_Hair"], 0.22)
    labels["Blurry"] = _some(rng, everyone, BLURRY)
    labels["No_Beard"] = ~(labels["Goatee"] | labels["Mustache"] | labels["Sideburns"])
    labels["Young"] = _some(rng, ~labels["Gray_Hair"], 0.6)
    free = ~labels["Gray_Hair"]
    for name in ("Black_Hair", "Brown_Hair", "Blond_Hair"):
        labels[name] = _some(rng, free, 0.22)
        free &= ~labels[name]
    return np.stack([labels[name] for name in names], axis=1)[_people_first(rng, labels["Male"])]


def _people_first(rng: Generator, male: NDArray[np.bool_]) -> NDArray[np.intp]:
    """An order of rows in which people, PHOTOS_PER_PERSON rows of one sex on end, follow each other at random."""
    rows, whole = np.argsort(male, kind="stable"), len(male) // PHOTOS_PER_PERSON * PHOTOS_PER_PERSON
    shuffled = rng.permutation(rows[:whole].reshape(-1, PHOTOS_PER_PERSON))
    return np.concatenate([shuffled.ravel(), rows[whole:]])


def _draw_celeba(folder: Path, num_images: int, seed: int) -> None:
    names = load_dataset("celeba").attributes
    labels = celeba_labels(num_images, seed)
    files = [f"{number:06d}.jpg" for number in range(1, num_images + 1)]
    lines = [str(num_images), " ".join(names) + " "]
    lines += [
        f"{file} " + " ".join(f"{2 * int(v) - 1:2d}" for v in row) for file, row in zip(files, labels, strict=True)
    ]
    people = [number // PHOTOS_PER_PERSON for number in range(num_images)]
    parts = [0 if person < 0.8 * people[-1] else 1 if person < 0.9 * people[-1] else 2 for person in people]
    _crlf(folder / "list_eval_partition.txt", [f"{file} {part}" for file, part in zip(files, parts, strict=True)])
    # Numbers without order, as in the official file.
    _crlf(
        folder / "identity_CelebA.txt",
        [f"{f} {person * 7919 % 10007 + 1}" for f, person in zip(files, people, strict=True)],
    )
    for number, (file, row) in enumerate(zip(files, labels, strict=True)):
        traits = {name for name, value in zip(names, row, strict=True) if value}
        old = "Gray_Hair" in traits or "Young" not in traits
        who = rng_of(seed, "celeba people", people[number])
        image_hwc = _framed(person(who, traits, age_years=62 if old else 28), rng_of(seed, "celeba", number))
        write(folder / "img_align_celeba" / file, image_hwc)
    _crlf(folder / CELEBA_LABELS, lines)  # last: where it is, all images are


def num_drawn(folder: Path) -> int:
    """How many images of CelebA are drawn in a folder; 0 where drawing was interrupted."""
    try:
        with (folder / CELEBA_LABELS).open() as file:
            return int(file.readline())
    except (OSError, ValueError):
        return 0


def _crlf(path: Path, lines: Sequence[str]) -> None:
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


# Datasets of ages


def _draw_cacd(folder: Path, num_images: int, seed: int) -> None:
    for number in range(num_images):
        who, photo = divmod(number, 20)
        name = CACD_NAMES[who % len(CACD_NAMES)] + ("" if who < len(CACD_NAMES) else f"_{who:03d}")
        people = rng_of(seed, "cacd people", who)
        age = int(people.integers(14, 53)) + photo // 2
        path = folder / "CACD2000" / f"{age}_{name}_{photo + 1:04d}.jpg"
        rng = rng_of(seed, "cacd", who, photo)
        face = somebody(people, age_years=age, male=who % 2 == 0, smiling=rng.random() < 0.5)
        write(path, _framed(face, rng, size_wh=(250, 250)))


def _draw_afad(folder: Path, num_images: int, seed: int) -> None:
    for number in range(num_images):
        rng = rng_of(seed, "afad", number)
        # Neighbours share a base name, in the folders of the two sexes.
        age, male = 15 + number // 2 % 26, number % 2 == 0
        path = folder / "AFAD-Full" / str(age) / ("111" if male else "112") / f"{number // 2}-0.jpg"
        face = somebody(rng, age_years=age, male=male, smiling=rng.random() < 0.5)
        write(path, _framed(face, rng, size_wh=(120, 120), share=0.36))


def _draw_appa_real(folder: Path, num_images: int, seed: int) -> None:
    release = folder / "appa-real-release"
    bounds = (0, round(0.54 * num_images), round(0.74 * num_images), num_images)
    for split, start, stop in zip(("train", "valid", "test"), bounds, bounds[1:], strict=False):
        rows: list[list[object]] = []
        for number in range(start, stop):
            rng = rng_of(seed, "appa_real", number)
            age, male = int(rng.integers(1, 90)), bool(rng.integers(2))
            wide = int(rng.integers(240, 420))
            path = release / split / f"{number:06d}.jpg"
            face = somebody(rng, age_years=age, male=male, smiling=rng.random() < 0.5)
            write(path, _framed(face, rng, size_wh=(wide, int(wide * rng.uniform(0.8, 1.3))), share=0.16))
            write(path.with_name(f"{path.name}_face.jpg"), _framed(face, rng, size_wh=(224, 224)))
            rows.append([path.name, 38, f"{max(1.0, age + rng.normal(0, 3)):.6f}", f"{rng.uniform(1, 6):.6f}", age])
        with (release / f"gt_avg_{split}.csv").open("w", newline="") as file:
            header = ["file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age"]
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _draw_utkface(folder: Path, num_images: int, seed: int) -> None:
    paths = []
    for number in range(num_images):
        rng = rng_of(seed, "utkface", number)
        age, male = int(rng.integers(1, 100)), bool(rng.integers(2))
        stamp = 20170109142408075 + number
        paths.append(folder / "UTKFace" / f"{age}_{int(not male)}_{rng.integers(5)}_{stamp}.jpg.chip.jpg")
        face = somebody(rng, age_years=age, male=male, smiling=rng.random() < 0.5)
        write(paths[-1], _framed(face, rng, size_wh=(200, 200), share=0.34))
    for number, path in enumerate(paths[:2]):
        shutil.copy(path, path.with_name(f"101_0_0_2017011200000000{number}.jpg.chip.jpg"))
        shutil.copy(path, path.with_name(f"61_1_2017010914240899{number}.jpg.chip.jpg"))


def _draw_fairface(folder: Path, num_images: int, seed: int) -> None:
    rows = []
    for number in range(num_images):
        rng = rng_of(seed, "fairface", number)
        group, male = AGE_GROUPS[number % len(AGE_GROUPS)], number // len(AGE_GROUPS) % 2 == 0
        name = f"fairface_{number + 1:04d}"
        face = somebody(rng, age_years=int(group.rstrip("+").split("-")[0]) + 1, male=male, smiling=rng.random() < 0.5)
        write(folder / f"{name}.jpg", _framed(face, rng, size_wh=(448, 448), share=0.22))
        rows.append({"id": name, "filename": f"{name}.jpg", "age": group, "gender": "Male" if male else "Female"})
    (folder / "ground_truth.json").write_text(json.dumps(rows, indent=2))


# Datasets of people


def _draw_lfw(folder: Path, num_images: int, seed: int) -> None:
    names = [f"{CACD_NAMES[who % len(CACD_NAMES)]}_{who:03d}" for who in range(-(-num_images // 3))]
    for number in range(num_images):
        who, photo = divmod(number, 3)
        face = somebody(rng_of(seed, "lfw people", who), age_years=40, male=who % 2 == 0, smiling=photo == 1)
        path = folder / "lfw" / names[who] / f"{names[who]}_{photo + 1:04d}.jpg"
        write(path, _framed(face, rng_of(seed, "lfw", number), size_wh=(250, 250), share=0.2))
    lines = [f"{name}\t3" for name in names]
    cut = round(0.7 * len(names))
    for part, rows in (("Train", lines[:cut]), ("Test", lines[cut:])):
        (folder / f"peopleDev{part}.txt").write_text("\n".join([str(len(rows)), *rows]) + "\n", encoding="utf-8")
    folds = [lines[fold::10] for fold in range(10)]
    people = ["10", *(line for rows in folds for line in (str(len(rows)), *rows))]
    (folder / "people.txt").write_text("\n".join(people) + "\n", encoding="utf-8")


def _draw_ffhq(folder: Path, num_images: int, seed: int) -> None:
    for number in range(num_images):
        rng = rng_of(seed, "ffhq", number)
        name = number * 69_999 // max(1, num_images - 1)  # from the first to the last
        face = somebody(rng, age_years=int(rng.integers(1, 80)), male=number % 2 == 0, smiling=rng.random() < 0.5)
        path = folder / "images1024x1024" / f"{name // 1000 * 1000:05d}" / f"{name:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image_hwc = _framed(face, rng, size_wh=(128, 128), share=0.3)
        path.write_bytes(cv2.imencode(".png", image_hwc[:, :, ::-1])[1].tobytes())


def _draw_vggface2(folder: Path, num_images: int, seed: int) -> None:
    people, boxes = ["Class_ID, Name, Sample_Num, Flag, Gender,"], {"train": ["NAME_ID,X,Y,W,H"]}
    boxes["test"] = list(boxes["train"])
    for number in range(num_images):
        who, photo = divmod(number, 4)
        split, male = "test" if who % 5 == 4 else "train", who % 2 == 0
        if not photo:
            name = CACD_NAMES[who % len(CACD_NAMES)]
            people.append(f'n{who + 1:06d}, "{name}",4,{int(split == "train")}, {"m" if male else "f"},')
        face = somebody(rng_of(seed, "vggface2 people", who), age_years=20 + 10 * photo, male=male, smiling=photo == 1)
        key = f"n{who + 1:06d}/{photo + 1:04d}_01"
        write(folder / split / f"{key}.jpg", _framed(face, rng_of(seed, "vggface2", number), size_wh=(160, 200)))
        boxes[split].append(f'"{key}",35,45,90,100')
    (folder / "identity_meta.csv").write_text("\n".join(people) + "\n", encoding="utf-8")
    (folder / "bb_landmark").mkdir(exist_ok=True)
    for split, lines in boxes.items():
        (folder / f"bb_landmark/loose_bb_{split}.csv").write_text("\n".join(lines) + "\n")


def _draw_imdb_wiki(folder: Path, num_images: int, seed: int) -> None:
    for part, start, stop in (("imdb", 0, num_images // 2), ("wiki", num_images // 2, num_images)):
        fields: dict[str, list[object]] = {name: [] for name in _IMDB_FIELDS}
        for number in range(start, stop):
            rng, who = rng_of(seed, "imdb_wiki", number), number // 3
            age, male = int(rng.integers(5, 90)), who % 2 == 0
            path = f"{number % 100:02d}/{who}_1950-01-01_{1950 + age}.jpg"
            face = somebody(rng_of(seed, "imdb_wiki people", who), age_years=age, male=male, smiling=age % 2 == 0)
            write(folder / f"{part}_crop" / path, _framed(face, rng, size_wh=(180, 180)))
            values = (712_224, 1950 + age, path, float(male), f"Person {who}", 3.5, 1.25)
            for name, value in zip(_IMDB_FIELDS, values, strict=True):
                fields[name].append(value)
        arrays = {
            name: np.array(column, object if isinstance(column[0], str) else float) for name, column in fields.items()
        }
        (folder / f"{part}_crop" / f"{part}.mat").write_bytes(_mat(part, arrays))


def _mat(name: str, fields: dict[str, NDArray[Any]]) -> bytes:
    """A MAT file of one structure, without the time in its header."""
    from scipy.io import savemat

    content = io.BytesIO()
    savemat(content, {name: fields})
    header = b"MATLAB 5.0 MAT-file"
    return header.ljust(116) + content.getvalue()[116:]


def _draw_adience(folder: Path, num_images: int, seed: int) -> None:
    lists = {fold: [_FOLD_HEADER] for fold in range(5)}
    for number in range(num_images):
        rng, who = rng_of(seed, "adience", number), number // 4
        age, male = ADIENCE_AGES[number % len(ADIENCE_AGES)], bool(rng.integers(2))
        user, image = f"{1000 + who}@N00", f"{9000 + number}_{seed:04x}_o.jpg"
        face = somebody(rng, age_years=int(age.strip("()").split(",")[0]) + 1, male=male, smiling=rng.random() < 0.5)
        path = folder / "faces" / user / f"coarse_tilt_aligned_face.{number}.{image}"
        write(path, _framed(face, rng, size_wh=(160, 160)))
        gender = "m" if male else "f"
        lists[who % 5].append(f"{user}\t{image}\t{number}\t{age}\t{gender}\t10\t20\t90\t90\t0")
    for fold, lines in lists.items():
        (folder / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")


# Folders of classes


def _draw_simpsons(folder: Path, num_images: int, seed: int) -> None:
    names = sorted(CHARACTERS)
    train = folder / "simpsons_dataset"
    for number in range(num_images):
        rng = rng_of(seed, "simpsons", number)
        wide, high = (int(side) for side in rng.integers(64, 200, 2))
        test = number % 10 == 9
        # Triangular counts: some characters have many images, some few.
        name = (
            names[int(len(names) * (1 - (1 - rng.random()) ** 0.5))] if number >= 2 * len(names) else names[number // 2]
        )
        path = (
            folder / "kaggle_simpson_testset" / f"{name}_{number}.jpg"
            if test
            else train / name / f"pic_{number:04d}.jpg"
        )
        write(path, cartoon(CHARACTERS[name], rng, size_wh=(wide, high)))
    first = names[0]
    shutil.copytree(train / first, train / "simpsons_dataset" / first)


def _draw_folder(folder: Path, num_images: int, seed: int) -> None:
    for number in range(num_images):
        rng = rng_of(seed, "folder", number)
        me = number % 2 == 0
        split = "test" if number % 10 >= 8 else "valid" if number % 10 >= 6 else "train"
        traits = {"Male", "Black_Hair", "Eyeglasses"} if me else {"Blond_Hair", "Smiling"}
        face = person(rng_of(seed, "folder me") if me else rng, traits)
        write(folder / split / ("me" if me else "someone else") / f"photo {number}.jpg", _framed(face, rng))


DATASETS: dict[str, Callable[[Path, int, int], None]] = {
    "adience": _draw_adience,
    "afad": _draw_afad,
    "appa_real": _draw_appa_real,
    "cacd": _draw_cacd,
    "celeba": _draw_celeba,
    "fairface": _draw_fairface,
    "ffhq": _draw_ffhq,
    "folder": _draw_folder,
    "imdb_wiki": _draw_imdb_wiki,
    "lfw": _draw_lfw,
    "simpsons": _draw_simpsons,
    "utkface": _draw_utkface,
    "vggface2": _draw_vggface2,
}
