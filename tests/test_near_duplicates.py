"""Perceptual hashes stay where a picture stays the same to the eye, and all pairs of near ones are found."""

import cv2
import numpy as np
import pytest

from facepack.hashing import Hashes
from facepack.image import Pixels, decode, encode_jpeg, resize
from facepack.near_duplicates import RADIUS, groups_of, pairs_between, pairs_within
from facepack.perceptual_hash import mirrored, perceptual_hash


def _scene(seed: int, *, side: int = 128) -> Pixels:
    """A picture of coarse shapes in random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def _hash(image_hwc: Pixels) -> int:
    number = perceptual_hash(image_hwc)
    assert number is not None
    return number


def _changed(image_hwc: Pixels, change: str) -> Pixels:
    """The same picture to the eye."""
    if change == "coarse":
        return decode(encode_jpeg(image_hwc, quality=40))
    gain, offset = {"brighter": (0.7, 70), "darker": (0.5, 0)}.get(change, (1, 0))
    size = {"smaller": (64, 48), "larger": (300, 300)}.get(change, (128, 128))
    resized_hwc = resize(image_hwc, width_px=size[0], height_px=size[1])
    return cv2.convertScaleAbs(resized_hwc, alpha=gain, beta=offset)  # type: ignore[return-value]


@pytest.mark.parametrize("change", ["smaller", "larger", "coarse", "brighter", "darker"])
def test_hash_of_a_changed_picture_is_near_and_that_of_another_is_far(change: str) -> None:
    for seed in range(20):
        image_hwc = _scene(seed)
        assert (_hash(image_hwc) ^ _hash(_changed(image_hwc, change))).bit_count() <= RADIUS
        assert (_hash(image_hwc) ^ _hash(_scene(seed + 1))).bit_count() > 2 * RADIUS


def test_hash_of_the_mirror_image_is_derived_from_the_hash() -> None:
    for seed in range(20):
        image_hwc = _scene(seed, side=80)
        turned = mirrored(np.array([_hash(image_hwc)], np.uint64))
        assert (int(turned[0]) ^ _hash(np.ascontiguousarray(image_hwc[:, ::-1]))).bit_count() <= 1
        assert mirrored(turned)[0] == _hash(image_hwc)


def test_pictures_with_hardly_anything_in_them_have_no_hash() -> None:
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    across = np.repeat(np.tile(ramp, (128, 1))[:, :, None], 3, axis=2)
    noise = np.random.default_rng(0).integers(126, 130, (128, 128, 3), np.uint8)
    for flat in (np.full((64, 64, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8), across, noise):
        assert perceptual_hash(flat) is None
        assert perceptual_hash(np.ascontiguousarray(flat.transpose(1, 0, 2))) is None


def _with_neighbours(seed: int, number: int) -> Hashes:
    """Random hashes, with copies of some of them in which up to 8 bits are flipped, half of them mirrored."""
    random = np.random.default_rng(seed)
    hashes: Hashes = random.integers(0, 1 << 64, number, np.uint64)
    flips = [sum(1 << int(bit) for bit in random.choice(64, random.integers(0, 9), False)) for _ in range(number // 2)]
    copies = hashes[: number // 2] ^ np.array(flips, np.uint64)
    copies[::2] = mirrored(copies[::2])
    together: Hashes = np.concatenate([hashes, copies])
    return together[random.permutation(len(together))]


@pytest.mark.parametrize("radius", [0, 1, 4, 6, 8])
def test_search_finds_exactly_the_pairs_that_comparing_all_with_all_finds(radius: int) -> None:
    hashes = np.unique(_with_neighbours(radius, 400))
    first, second = np.triu_indices(len(hashes), 1)
    plain = np.bitwise_count(hashes[first] ^ hashes[second])
    turned = np.bitwise_count(hashes[first] ^ mirrored(hashes[second]))
    is_near = np.minimum(plain, turned) <= radius
    pairs = pairs_within(hashes, radius=radius)
    assert pairs.first.tolist() == first[is_near].tolist()
    assert pairs.second.tolist() == second[is_near].tolist()
    assert pairs.distance.tolist() == np.minimum(plain, turned)[is_near].tolist()
    assert pairs.is_mirrored.tolist() == (turned < plain)[is_near].tolist()
    assert 0 < len(pairs) < 400


def test_search_in_two_collections_finds_every_one_of_the_other_that_is_near() -> None:
    hashes, others = np.unique(_with_neighbours(1, 300)[::2]), _with_neighbours(1, 300)[1::2]
    others = np.append(others, others[:50])
    pairs = pairs_between(hashes, others)
    plain = np.bitwise_count(hashes[:, None] ^ others)
    distance = np.minimum(plain, np.bitwise_count(hashes[:, None] ^ mirrored(others)))
    assert np.stack([pairs.first, pairs.second], axis=1).tolist() == np.argwhere(distance <= RADIUS).tolist()
    assert pairs.distance.tolist() == distance[pairs.first, pairs.second].tolist()


def test_a_picture_that_is_there_n_times_gives_n_less_one_pairs_and_one_group() -> None:
    near = 0b111
    hashes = np.array([7 << 40, near, 0, 0, 7 << 40, 0, near], np.uint64)
    pairs = pairs_within(hashes, radius=6)
    joined = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert joined == [(0, 1), (0, 2), (0, 4), (1, 2), (1, 6), (2, 3), (2, 5)]
    assert pairs.distance.tolist() == [6, 3, 0, 3, 0, 0, 0]
    assert groups_of(pairs, number=7).tolist() == [0] * 7
    assert len(pairs_within(np.full(100_000, 5, np.uint64))) == 99_999


def test_groups_are_joined_through_chains_of_pairs() -> None:
    chain = np.array([(1 << 3 * place) - 1 for place in range(20)], np.uint64)
    order = np.random.default_rng(0).permutation(20)
    apart = np.append(chain[order], np.uint64(0xF0F0_F0F0_F0F0_F0F0))
    assert groups_of(pairs_within(apart, radius=3), number=21).tolist() == [0] * 20 + [20]


def test_no_pictures_make_no_pairs() -> None:
    none, some = np.zeros(0, np.uint64), np.arange(3, dtype=np.uint64)
    for pairs in (pairs_within(none), pairs_between(none, some), pairs_between(some, none), pairs_within(some[:1])):
        assert len(pairs) == 0
    assert groups_of(pairs_within(none), number=0).tolist() == []
