"""Files as they are found: odd ones, ranges of numbers, labels, links.

What is read is right to the byte, and what cannot be is refused by name."""

import io
import math
import os
import re
import struct
import sys
import tempfile
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as some
from PIL import Image

from odeflow.data import (
    as_bytes,
    Data,
    grid,
    load_data,
    named_labels,
    RASTER,
    resized,
    save_grid,
    show,
    to_float,
    to_uint8,
    walk_files,
)
from odeflow.data import as_bytes as as_bytes_of_metrics

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], 2)
set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))
quick = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def refused(why, f, *args, kind=ValueError):
    "That a call fails so."
    with pytest.raises(kind, match=why):
        f(*args)


def saved(u, format, mode=None, **options):
    "The bytes of a file."
    im = u if isinstance(u, Image.Image) else Image.fromarray(u)
    (im.convert(mode) if mode else im).save(
        out := io.BytesIO(), format=format, **options
    )
    return out.getvalue()


def png16(u):
    "A PNG of 16 bits, with 1 to 4 channels; Pillow writes only grey ones."
    u = u.reshape(*u.shape[:2], -1)
    chunk = lambda kind, data: (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(
        ">IIBBBBB",
        u.shape[1],
        u.shape[0],
        16,
        {1: 0, 2: 4, 3: 2, 4: 6}[u.shape[2]],
        0,
        0,
        0,
    )
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in u)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(u, sample=1, white=0, order="<", turn=None):
    """A TIFF of any numbers, uncompressed; `sample` 1 unsigned, 2 signed, 3 floats,
    `white` 0 where 0 is black.
    """
    u = u.astype(u.dtype.newbyteorder(order))
    spp = u.reshape(*u.shape[:2], -1).shape[2]
    data = u.tobytes()
    photo = 2 if spp == 3 else 1 - white
    tags = {
        256: u.shape[1],
        257: u.shape[0],
        258: 8 * u.itemsize,
        259: 1,
        262: photo,
        273: None,
        277: spp,
        278: u.shape[0],
        279: len(data),
        339: sample,
        **({274: turn} if turn else {}),
    }
    start = 8 + 2 + 12 * len(tags) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        order + "IH", 8, len(tags)
    )
    for tag, v in sorted(tags.items()):
        many, long = tag == 258 and spp == 3, tag in (273, 279)
        # the three depths, then the numbers
        v = start + 6 if tag == 273 else start if many else v
        out += struct.pack(order + "HHI", tag, 4 if long else 3, 3 if many else 1)
        out += (
            struct.pack(order + "I", v)
            if long or many
            else struct.pack(order + "HH", v, 0)
        )
    return out + bytes(4) + struct.pack(order + "HHH", *[8 * u.itemsize] * 3) + data


def read(tmp, name, blob):
    "The one picture of a folder, (C, H, W)."
    tmp.joinpath(name).write_bytes(blob)
    return load_data(tmp).x[0].numpy()


# ---------------------------------------------------------------- what each type of
# file means
U = RAMP.astype(np.uint16) * 257
F = RAMP.astype(np.float32) / 255
RGBA = np.dstack([COLOUR, 255 - RAMP])
LA = np.dstack([RAMP, 255 - RAMP])
palette = Image.fromarray(RAMP)
palette.putpalette([v for k in range(256) for v in (255 - k, k, k // 2)])
painted = np.stack([255 - RAMP, RAMP, RAMP // 2], 2)

GOOD = {
    "grey.png": (saved(RAMP, "PNG"), RAMP),
    "colour.png": (saved(COLOUR, "PNG"), COLOUR),
    "one-bit.png": (saved(Image.fromarray(RAMP > 99), "PNG"), 255 * (RAMP > 99)),
    "grey-and-alpha.png": (saved(LA, "PNG"), RAMP),
    "rgba.png": (saved(RGBA, "PNG"), COLOUR),
    "rgba.webp": (saved(RGBA, "WEBP", lossless=True, exact=True), COLOUR),
    "palette.png": (saved(palette, "PNG"), painted),
    "palette-transparent.png": (
        saved(palette, "PNG", transparency=bytes(range(256))),
        painted,
    ),
    "palette.gif": (saved(palette, "GIF"), painted),
    "palette.tif": (saved(palette, "TIFF"), painted),
    "cmyk.tif": (
        saved(Image.fromarray(np.dstack([255 - COLOUR, 0 * RAMP]), "CMYK"), "TIFF"),
        COLOUR,
    ),
    "sixteen.png": (saved(U, "PNG"), RAMP),
    "sixteen-and-alpha.png": (png16(np.dstack([U, U[::-1]])), np.stack([RAMP] * 3, 2)),
    "sixteen-colours.png": (png16(COLOUR.astype(np.uint16) * 257), COLOUR),
    "sixteen-rgba.png": (png16(RGBA.astype(np.uint16) * 257), COLOUR),
    "sixteen.tif": (saved(U, "TIFF"), RAMP),
    "sixteen-big.tif": (tiff(U, order=">"), RAMP),
    "sixteen-turned.tif": (tiff(np.rot90(U).copy(), order=">", turn=6), RAMP),
    "sixteen-white-is-0.tif": (tiff(65535 - U, white=1), RAMP),
    "sixteen-colours.tif": (tiff(COLOUR.astype(np.uint16) * 257), COLOUR),
    "eight-white-is-0.tif": (tiff(255 - RAMP, white=1), RAMP),
    "sixteen.pgm": (b"P5 16 16 65535\n" + U.astype(">u2").tobytes(), RAMP),
    "ten-bits.pgm": (
        b"P5 16 16 1023\n" + np.rint(RAMP * (1023 / 255)).astype(">u2").tobytes(),
        RAMP,
    ),
    "sixteen-colours.ppm": (
        b"P6 16 16 65535\n" + (COLOUR.astype(">u2") * 257).tobytes(),
        COLOUR,
    ),
    "thirty-two.tif": (tiff(U.astype(np.uint32)), RAMP),
    "signed-thirty-two.tif": (tiff(U.astype(np.int32), 2), RAMP),
    "floats.tif": (saved(F, "TIFF"), RAMP),
    "floats-big.tif": (tiff(F, 3, order=">"), RAMP),
    "floats-overshoot.tif": (
        saved(F * 1.1 - 0.05, "TIFF"),
        np.rint(255 * (F.astype(float) * 1.1 - 0.05)).clip(0, 255),
    ),
    "black.tif": (saved(0 * U, "TIFF"), 0 * RAMP),
    "black-floats.tif": (saved(0 * F, "TIFF"), 0 * RAMP),
    "really-a-png.jpg": (saved(COLOUR, "PNG"), COLOUR),
    "really-a-bmp.png": (saved(COLOUR, "BMP"), COLOUR),
    "UPPER.PNG": (saved(RAMP, "PNG"), RAMP),
    "another.jfif": (saved(painted * 0 + 128, "JPEG"), painted * 0 + 128),
    "another.jpe": (saved(RAMP * 0 + 128, "JPEG"), RAMP * 0 + 128),
    "no-ending": (saved(COLOUR, "PNG"), COLOUR),
    "film.gif": (
        saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        painted,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_read_to_the_byte(tmp_path, name):
    blob, want = GOOD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = read(tmp_path, name, blob)
    assert np.array_equal(got, want.reshape(16, 16, -1).transpose(2, 0, 1))


postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(%pipe%touch run) (w) file\nshowpage\n"  # noqa: E501
floats = lambda bad: np.where(F > 0.5, np.float32(bad), F)
disguised = "which are 8-bit numbers in a wider type; convert it to 8 bits"
BAD = {
    "floats-255.tif": (
        saved(F * 255, "TIFF"),
        "holds floats from 0 to 255, outside of 0 to 1; scale it, or convert it",
    ),
    "floats-signed.tif": (
        saved(2 * F - 1, "TIFF"),
        "holds floats from -1 to 1, outside of 0 to 1",
    ),
    "floats-nan.tif": (
        saved(floats(np.nan), "TIFF"),
        "holds floats from nan to nan, outside of 0 to 1",
    ),
    "floats-inf.tif": (
        saved(floats(np.inf), "TIFF"),
        "holds floats from 0 to inf, outside of 0 to 1",
    ),
    "int32-255.tif": (
        saved(RAMP.astype(np.int32), "TIFF"),
        f"holds whole numbers of at most 255, {disguised}",
    ),
    "uint16-255.tif": (
        saved(RAMP.astype(np.uint16), "TIFF"),
        "holds whole numbers of at most 255",
    ),
    "uint16-255.png": (
        saved(RAMP.astype(np.uint16), "PNG"),
        "holds whole numbers of at most 255",
    ),
    "uint16-1.png": (
        saved((RAMP > 9).astype(np.uint16), "PNG"),
        "holds whole numbers of at most 1",
    ),
    "big-255.tif": (
        tiff(RAMP.astype(np.uint16), order=">"),
        "holds whole numbers of at most 255",
    ),
    "uint16-255.pgm": (
        b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes(),
        "of at most 255",
    ),
    "colours-255.png": (
        png16(COLOUR.astype(np.uint16)),
        "holds 16-bit colours of at most 255",
    ),
    "rgba-255.png": (
        png16(RGBA.astype(np.uint16)),
        "holds 16-bit colours of at most 255",
    ),
    "colours-255.tif": (
        tiff(COLOUR.astype(np.uint16)),
        "holds 16-bit colours of at most 255",
    ),
    "colours-255.ppm": (
        b"P6 16 16 65535\n" + COLOUR.astype(">u2").tobytes(),
        "holds 16-bit colours of at most 255",
    ),
    "negative.tif": (
        saved(RAMP.astype(np.int32) * 300 - 7, "TIFF"),
        "holds whole numbers from -7 to 76493, outside",
    ),
    "too-large.tif": (
        saved(RAMP.astype(np.int32) * 1000, "TIFF"),
        "holds whole numbers from 0 to 255000",
    ),
    "signed-sixteen.tif": (tiff(U.astype(np.int16), 2), "outside of 0 to 65535"),
    "signed-eight.tif": (tiff(RAMP.astype(np.int8), 2), "holds signed 8-bit numbers"),
    "doubles.tif": (tiff(F.astype(np.float64), 3), "cannot be read as a picture"),
    "empty.png": (b"", "cannot be read as a picture"),
    "text.jpg": (b"no picture", "cannot be read as a picture"),
    "program.png": (postscript, "cannot be read as a picture"),
    "program.jpg": (postscript, "cannot be read as a picture"),
    "document.png": (
        b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "cannot be read as a picture",
    ),
    "icon.png": (saved(COLOUR, "ICO"), "cannot be read as a picture"),
    "targa.png": (saved(COLOUR, "TGA"), "cannot be read as a picture"),
    "text.tga": (
        b"no picture, but long enough for a header",
        "cannot be read as a picture",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(tmp_path, name):
    "Alone, and beside a good picture."
    blob, why = BAD[name]
    for first in (True, False):
        if not first:
            tmp_path.joinpath("a.png").write_bytes(saved(RAMP, "PNG"))
        refused(
            f"^dataset: '.*{re.escape(name)}' .*{re.escape(why)}",
            read,
            tmp_path,
            name,
            blob,
        )


PASSED = {
    "features.h5": b"\x89HDF\r\n\x1a\n",
    "clip.mpg": b"\0\0\1\xb3" + bytes(20),
    "drawing.eps": postscript,
    "drawing.ps": postscript,
    "paper.pdf": b"%PDF-1.4",
    "notes.txt": b"text",
    "README": b"text",
    "empty": b"",
    "program": postscript,
    ".hidden.png": b"",
    "Thumbs.db": b"\xd0\xcf",
    "table.fits": b"SIMPLE  =",
    "model.wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "a.npz": b"PK",
    "picture.png.part": b"",
    "v1.5": b"x",
}


@pytest.mark.parametrize("name", [*PASSED, "all of them"])
def test_passed_over(tmp_path, name):
    for k in PASSED if name == "all of them" else [name]:
        (tmp_path / k).write_bytes(PASSED[k])
    refused("holds no pictures", load_data, tmp_path, kind=FileNotFoundError)
    assert np.array_equal(read(tmp_path, "a.png", saved(RAMP, "PNG")), RAMP[None])


def test_no_interpreter(tmp_path):
    "No program is run for any file, whatever its ending."
    run = lambda name: mock.patch(name, side_effect=AssertionError)
    with run("subprocess.Popen"), run("PIL.EpsImagePlugin.Ghostscript"):
        for end in (*RASTER, ".eps", ".ps", ".pdf", ""):
            (tmp_path / f"x{end}").write_bytes(postscript)
            if end in RASTER:
                refused("cannot be read as a picture", load_data, tmp_path)
            else:
                refused(
                    "holds no pictures", load_data, tmp_path, kind=FileNotFoundError
                )
            (tmp_path / f"x{end}").unlink()


@pytest.mark.parametrize("end", RASTER)
def test_cut_short(tmp_path, end):
    """A file that lacks pixels is refused; of one that lacks only its last marks, all
    pixels are right.
    """
    blob = saved(COLOUR, RASTER[end])
    whole = read(tmp_path, f"x{end}", blob)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cut in (
            0,
            1,
            4,
            20,
            len(blob) // 4,
            len(blob) // 2,
            len(blob) * 9 // 10,
            len(blob) - 30,
            len(blob) - 1,
        ):
            try:
                got = read(tmp_path, f"x{end}", blob[:cut])
            except ValueError as e:
                assert f"x{end}' cannot be read as a picture" in str(e)
            else:
                assert cut >= len(blob) - 30 and np.array_equal(got, whole)


def test_too_large(tmp_path):
    (tmp_path / "large.png").write_bytes(saved(np.zeros((1500, 2000), np.uint8), "PNG"))
    with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 10**6):
        why = "^dataset: '.*large.png' has 3 megapixels, more than the 2 that are read; scale it down$"  # noqa: E501
        refused(why, load_data, tmp_path)
        (tmp_path / "large.png").rename(tmp_path / "large")  # by its contents
        refused("large' has 3 megapixels", load_data, tmp_path)


def test_wide_beside_colour(tmp_path):
    "Grey of 16 bits, floats and bytes beside colour become the same RGB."
    for k, blob in enumerate(
        (saved(U, "PNG"), saved(F, "TIFF"), saved(RAMP, "PNG"), saved(COLOUR, "PNG"))
    ):
        (tmp_path / f"{k}").write_bytes(blob)
    x = load_data(tmp_path).x.numpy()
    assert all(np.array_equal(x[k], np.stack([RAMP] * 3)) for k in range(3))
    assert np.array_equal(x[3], COLOUR.transpose(2, 0, 1))


# ---------------------------------------------------------------- ranges: what is
# written is what is read
levels = some.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5)))
wide = lambda u: u.astype(np.uint16) * 257
WRITERS = {
    "png": lambda u: saved(u, "PNG"),
    "bmp": lambda u: saved(u, "BMP"),
    "pgm": lambda u: saved(u, "PPM"),
    "tga": lambda u: saved(u, "TGA"),
    "tif": lambda u: saved(u, "TIFF"),
    "16-bit png": lambda u: saved(wide(u), "PNG"),
    "16-bit tif": lambda u: tiff(wide(u)),
    "16-bit tif, big": lambda u: tiff(wide(u), order=">"),
    "16-bit tif, white is 0": lambda u: tiff(65535 - wide(u), white=1),
    "32-bit tif": lambda u: saved(wide(u).astype(np.int32), "TIFF"),
    "float tif": lambda u: saved(u.astype(np.float32) / 255, "TIFF"),
    "float tif, big": lambda u: tiff(u.astype(np.float32) / 255, 3, order=">"),
}


@pytest.mark.parametrize("kind", WRITERS)
@quick
@given(u=levels)
def test_bytes_through_files(kind, u):
    name = "x.tga" if kind == "tga" else "x.png"
    with tempfile.TemporaryDirectory() as tmp:
        assert np.array_equal(read(Path(tmp), name, WRITERS[kind](u))[0], u)


@quick
@given(u=some.arrays(np.uint16, (3, 4)))
def test_sixteen_bits_are_rounded(u):
    """To the nearest of 256 levels, in numbers written out here; refused where none
    exceeds 255 and not all are 0.
    """
    with tempfile.TemporaryDirectory() as tmp:
        for blob in (
            saved(u, "PNG"),
            tiff(u),
            tiff(u, order=">"),
            saved(u.astype(np.int32), "TIFF"),
        ):
            if 1 <= u.max() <= 255:
                refused("8-bit numbers in a wider type", read, Path(tmp), "x.png", blob)
            else:
                assert (
                    np.abs(
                        read(Path(tmp), "x.png", blob)[0].astype(float)
                        - u / 65535 * 255
                    ).max()
                    <= 0.5
                )


@quick
@given(x=some.arrays(np.float32, (3, 4), elements=st.floats(-3, 3, width=32)))
def test_floats_are_0_to_1(x):
    with tempfile.TemporaryDirectory() as tmp:
        file = (Path(tmp), "x.tif", saved(x, "TIFF"))
        right = -0.1 <= x.min() and x.max() <= 1.1
        if right:
            assert (
                np.abs(read(*file)[0] - 255 * x.clip(0, 1).astype(float)).max()
                <= 0.5001
            )
        else:
            refused("x.tif' holds floats from .* outside of 0 to 1", read, *file)


shapes = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4)
)


@quick
@given(u=some.arrays(np.uint8, shapes), off=st.floats(-0.49, 0.49))
def test_bytes_and_floats(u, off):
    """Bytes become floats and come back, also from half a level away, in any precision
    that can tell them apart.
    """
    u = torch.from_numpy(u)
    x = to_float(u)
    assert -1 <= x.min() and x.max() <= 1
    for v in (u, x, x.double(), x.half(), x + off / 127.5, x.numpy(), u.numpy()):
        assert torch.equal(as_bytes(v), u)
    assert torch.equal(to_uint8(x.half()), u) and torch.equal(to_uint8(u), u)
    assert np.array_equal(grid(u), grid(x))


@quick
@given(x=some.arrays(np.float32, (2, 1, 2, 2), elements=st.floats(-300, 300, width=32)))
def test_other_scales(x):
    """What is beyond 16, or beyond 2 where nothing is below 0, is no overshoot: refused
    where it is measured, clamped where it is looked at.
    """
    x = torch.from_numpy(x)
    want = np.rint(127.5 * (x.numpy().clip(-1, 1).astype(float) + 1))
    if x.abs().max() > 16 or 0 <= x.min() and x.max() > 2:
        refused(
            r"^fake: numbers from .* to .*; give floats in \[-1, 1\], or by",
            as_bytes,
            x,
            "fake",
        )
    # float32 may round a tie otherwise
    else:
        assert np.abs(as_bytes(x).numpy() - want).max() <= 1
    assert np.abs(grid(x, rows=2, pad=0).reshape(2, 1, 2, 2) - want).max() <= 1


def test_sets_in_0_to_255():
    """Two identical sets of floats in 0..255 were 80 apart; 0, 100, 255 became 128,
    255, 255.
    """
    assert as_bytes_of_metrics is as_bytes
    refused(
        "x: numbers from 0 to 255",
        as_bytes,
        torch.tensor([0.0, 100.0, 255.0]).reshape(1, 1, 1, 3),
    )


full = lambda v: torch.full((3, 1, 2, 2), v)


@pytest.mark.parametrize(
    "bad, why",
    [
        (full(1).long(), "pictures of type torch.int64"),
        (full(True), "pictures of type torch.bool"),
        (full(1).numpy().astype(np.uint16), "pictures of type torch.uint16"),
        (full(math.nan), "3 of 3 pictures are not finite"),
        (full(math.inf), "3 of 3 pictures are not finite"),
        (torch.zeros(1, 2, 2, 2), "shape (1, 2, 2, 2)"),
        (torch.zeros(2, 2), "shape (2, 2)"),
    ],
)
def test_no_pictures(bad, why):
    refused(re.escape(why), as_bytes, bad)


@pytest.mark.parametrize(
    "kind",
    ["uint16", "int16", "int32", "int64", "float16", "float32", "float64", "bool"],
)
def test_archives_of_other_types(tmp_path, kind):
    np.savez(tmp_path / "a.npz", images=np.ones((3, 4, 4, 1), kind))
    refused(f"has images of type {kind}", load_data, tmp_path / "a.npz")


def test_bands_are_not_alpha():
    """Pictures of 2 and 4 channels are scaled band by band; Pillow would take the last
    for transparency.
    """
    x = torch.from_numpy(
        np.random.RandomState(0).randint(0, 256, (3, 4, 9, 9), dtype=np.uint8)
    )
    x[:, 3] = 0
    alone = torch.cat(
        [resized(Data(x[:, k : k + 1].contiguous()), 5).x for k in range(4)], 1
    )
    for C in (1, 2, 3, 4):
        assert torch.equal(
            resized(Data(x[:, :C].contiguous(), flip=True), 5).x, alone[:, :C]
        )
    assert resized(Data(x, flip=True), 5).flip
    rgb = [
        Image.fromarray(u[:3].permute(1, 2, 0).numpy()).resize(
            (5, 5), Image.Resampling.LANCZOS
        )
        for u in x
    ]
    assert np.array_equal(
        alone[:, :3].permute(0, 2, 3, 1), np.stack([np.asarray(im) for im in rgb])
    )


def test_looking_at_bytes(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    u = torch.from_numpy(RAMP)[None, None]
    seen = []
    for k, x in enumerate((u, to_float(u))):
        ax = plt.figure().gca()
        show(x, ax)
        plt.close()
        save_grid(x, tmp_path / f"{k}.png")
        seen += [
            ax.images[0].get_array(),
            np.asarray(Image.open(tmp_path / f"{k}.png"))[::2, ::2],
        ]
    assert all(np.array_equal(v, RAMP) for v in seen)
    wild = torch.tensor([-1e30, math.inf, -math.inf, math.nan]).reshape(1, 1, 2, 2)
    assert grid(wild, pad=0).tolist() == [[0, 255], [0, 128]]
    refused("pictures of type torch.int64", grid, u.long())


@pytest.mark.parametrize("end", [*RASTER, ".PNG", ".Jpeg"])
@pytest.mark.parametrize("u", [RAMP[..., None], COLOUR], ids=["grey", "colour"])
def test_written_as_it_is_called(tmp_path, end, u):
    x = torch.from_numpy(u).permute(2, 0, 1)[None]
    save_grid(x, tmp_path / f"s{end}")
    with Image.open(tmp_path / f"s{end}") as im:
        assert im.format == RASTER[end.lower()] and im.size == (32, 32)
    got = load_data(tmp_path).x[0, :, ::2, ::2].float()
    assert (got - x[0]).abs().mean() < (
        20 if RASTER[end.lower()] in ("JPEG", "WEBP", "AVIF", "GIF") else 0.01
    )


@pytest.mark.parametrize(
    "name", ["s.jgp", "s", "s.pdf", "s.eps", "s.npy", ".png", "s."]
)
def test_not_written(tmp_path, name):
    why = "^path: '.*' has (the ending .*|no ending); a picture's is one of .png, "
    refused(why, save_grid, torch.zeros(1, 1, 4, 4), tmp_path / name)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- labels and names
numbers = st.one_of(
    *[
        some.arrays(k, st.integers(1, 30))
        for k in (np.uint8, np.int8, np.int16, np.int64, np.uint64)
    ],
    some.arrays(np.int64, st.integers(1, 30), elements=st.integers(-3, 12)),
)


@quick
@given(numbers)
def test_labels_of_any_numbers(y):
    labels, names = named_labels(y)
    x = torch.zeros(len(y), 1, 2, 2, dtype=torch.uint8)
    y = y.tolist()
    d = Data(x, labels, names=names)
    assert d.classes == len(d.names) == len({*y}) and d.names == tuple(
        map(str, sorted({*y}))
    )
    assert [int(d.names[k]) for k in d.y] == y
    assert sum(d.shares) == pytest.approx(1)
    assert [round(s * len(y)) for s in d.shares] == [y.count(int(k)) for k in d.names]
    assert all(len(d.only(name)) == y.count(int(name)) for name in d.names)
    plain = Data(x, labels)  # named by numbers from 0
    assert plain.digest() == d.digest() and plain.shares == d.shares
    assert (plain.names == d.names) == (sorted({*y}) == [*range(d.classes)])
    if plain.names != d.names and max(y) < 2**63:
        refused("let named_labels make them", Data, x, torch.tensor(y))


@quick
@given(numbers)
def test_labels_of_archives(y):
    with tempfile.TemporaryDirectory() as tmp:
        np.savez(f"{tmp}/a.npz", images=np.zeros((len(y), 2, 2, 1), np.uint8), labels=y)
        d = load_data(f"{tmp}/a.npz")
    assert (
        [int(d.names[k]) for k in d.y] == y.tolist()
        and d.y.dtype == torch.int64
        and 0 not in d.shares
    )


@pytest.mark.parametrize("labels", [range(1, 11), range(0, 1000, 100)])
def test_ten_classes_are_ten(tmp_path, labels):
    np.savez(
        tmp_path / "a.npz",
        images=np.zeros((30, 2, 2, 1), np.uint8),
        labels=np.array([*labels] * 3),
    )
    d = load_data(tmp_path / "a.npz")
    assert (
        d.classes == 10
        and d.names == tuple(map(str, labels))
        and d.shares == pytest.approx([0.1] * 10)
    )
    assert d.y.tolist() == [*range(10)] * 3


def test_names_stay():
    x = torch.arange(32, dtype=torch.uint8).reshape(8, 1, 2, 2)
    y = torch.arange(8) % 2 * 2
    d = Data(x, y, "sheep", flip=True, names=("ewe", "lamb", "ram"))
    rams = d.part(d.y == 2, "rams")
    ewes = d.part(torch.tensor([0, 2]), "ewes")
    for v in (d, d.to("cpu"), d.part(slice(6), "some"), rams, ewes, resized(d, 1)):
        assert v.names == ("ewe", "lamb", "ram") and v.classes == 3 and v.flip
    assert (
        d.shares == (0.5, 0, 0.5)
        and rams.shares == (0, 0, 1)
        and rams.y.tolist() == [2] * 4
    )
    for label in (2, "2", np.int64(2), torch.tensor(2), d.y[2] * 0 + 2):
        assert d.only(label).x.equal(d.x[d.y == 2])
    assert d.only("ram").x.equal(d.only(2).x) and (
        d.only("ram").name,
        d.only("ram").names,
    ) == ("sheep/ram", ())
    for label in ("lamb", 1, "wolf", 3, -1, "-1", "²"):
        refused(
            f"^label: {label} does not occur in sheep, which has 3 classes \\(ewe, "
            "lamb, ram\\)$",
            d.only,
            label,
        )
    refused(
        "label: ewe does not occur in data, which has 0 classes", Data(x).only, "ewe"
    )
    assert d.digest() == Data(x, y, flip=True, names=("a", "b", "c", "d")).digest()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_other_widths(kind):
    "A network is given int64, whatever the labels were."
    d = Data(torch.zeros(4, 2), torch.tensor([0, 1, 1, 2], dtype=kind))
    assert (
        d.batch(torch.tensor([3]))["y"].dtype == torch.int64
        and d.classes == 3
        and d.shares == (0.25, 0.5, 0.25)
    )


def test_bytes_take_no_second_copy():
    """Pictures may lie on disk because memory is short; no check of them makes an array
    of their size.
    """
    with mock.patch.object(torch.Tensor, "isfinite", side_effect=MemoryError):
        Data(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    refused(
        "x: some numbers of data are not finite", Data, torch.tensor([[0.0, math.nan]])
    )


@pytest.mark.parametrize(
    "y, names, why",
    [
        ([1, 2], None, "2 different labels from 1 to 2"),
        ([-1, 0], None, "2 different labels from -1 to 0"),
        ([0, 2], None, "2 different labels from 0 to 2"),
        ([0, 10**12], None, "2 different labels from 0 to 1000000000000"),
        ([0.0, 1.0], None, "labels of type torch.float32"),
        ([True, False], None, "labels of type torch.bool"),
        ([0, 1], "ab", "names: 'ab' given"),
        ([0, 2], ["a", "b"], "names: 2 given for data, whose labels run from 0 to 2"),
        ([-1, 0], ["a", "b"], "run from -1 to 0"),
        ([0, 1], ["a", "a"], "a list of different strings"),
        ([0, 1], ["a", ""], "a list of different strings"),
        ([0, 1], [], "a list of different strings"),
        (None, ["a"], "names: a given for data, which has no labels"),
    ],
)
def test_labels_refused(y, names, why):
    refused(
        re.escape(why),
        lambda: Data(
            torch.zeros(2, 2), None if y is None else torch.tensor(y), names=names
        ),
    )


def test_folders_in_natural_order(tmp_path):
    for k in ("10", "2", "1", "cat 9", "cat 10"):
        (tmp_path / k).mkdir()
        (tmp_path / k / "a.png").write_bytes(saved(RAMP, "PNG"))
    d = load_data(tmp_path, resize=4)
    assert d.names == ("1", "2", "10", "cat 9", "cat 10") and sorted(d.y.tolist()) == [
        *range(5)
    ]
    assert [d.names[k] for k in d.y] == [f.parent.name for f in walk_files(tmp_path)]
    assert len(d.only("10")) == 1


def test_names_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setenv("ODEFLOW_DATA", str(tmp_path))
    animals = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    cifar = SimpleNamespace(
        data=np.zeros((20, 4, 4, 3), np.uint8),
        targets=[*range(10)] * 2,
        classes=animals,
    )
    words = [f"{k} - word" for k in range(10)]
    blank = torch.zeros(20, 4, 4, dtype=torch.uint8)
    digits = SimpleNamespace(data=blank, targets=torch.arange(20) % 10, classes=words)
    fake = SimpleNamespace(
        datasets=SimpleNamespace(
            CIFAR10=lambda *a, **k: cifar, MNIST=lambda *a, **k: digits
        )
    )
    with mock.patch.dict(
        sys.modules, {"torchvision": fake, "torchvision.datasets": fake.datasets}
    ):
        assert load_data("cifar10").names == tuple(animals) and load_data(
            "mnist"
        ).names == tuple("0123456789")
        for name in ("cifar10/ship", "cifar10/8", "mnist/8"):
            assert (len(load_data(name)), load_data(name).name) == (2, name)
        refused(
            "label: plane does not occur in cifar10, which has 10 classes "
            "\\(airplane, ",
            load_data,
            "cifar10/plane",
        )
    np.savez(
        tmp_path / "cifar10_train.npz",
        images=cifar.data,
        labels=np.array(cifar.targets),
        names=np.array(animals),
    )
    assert len(load_data("cifar10/ship")) == 2 and load_data("digits").names == tuple(
        "0123456789"
    )
    # from scikit-learn's description
    counts = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    assert load_data("digits").shares == pytest.approx([k / 1797 for k in counts])


# ---------------------------------------------------------------- links
def tree(tmp, **files):
    for path, blob in files.items():
        f = tmp / path.replace("__", "/")
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(blob)


def test_linked_classes(tmp_path):
    "Folders and files that are links count as what they lead to."
    tree(
        tmp_path,
        store__one__a=saved(RAMP, "PNG"),
        store__two__deep__b=saved(RAMP.T, "PNG"),
        set__cat__c=saved(255 - RAMP, "PNG"),
    )
    (tmp_path / "set/dog").symlink_to(tmp_path / "store/one")
    (tmp_path / "set/eel").symlink_to("../store/two")
    (tmp_path / "set/cat/linked.png").symlink_to(tmp_path / "store/one/a")
    (tmp_path / "all").symlink_to("set")
    for root in ("set", "all"):
        d = load_data(tmp_path / root)
        assert d.names == ("cat", "dog", "eel") and d.shares == (0.5, 0.25, 0.25)
        assert [
            np.array_equal(u[0], v)
            for u, v in zip(d.x, (255 - RAMP, RAMP, RAMP, RAMP.T))
        ] == [True] * 4


@pytest.mark.parametrize(
    "link, leads",
    [
        ("set/x.png", "nowhere.png"),
        ("set/x", "../nowhere"),
        ("set/x.png", "x.png"),
        ("set/a/x", "../../gone/b"),
    ],
)
def test_link_to_nothing(tmp_path, link, leads):
    tree(tmp_path, set__a__a=saved(RAMP, "PNG"), set__b__b=saved(RAMP, "PNG"))
    (tmp_path / link).symlink_to(leads)
    why = f"^dataset: '.*{link}' is a link that leads nowhere; mend or remove it$"
    refused(why, load_data, tmp_path / "set", kind=FileNotFoundError)
    (tmp_path / link).rename((tmp_path / link).with_name(".hidden"))
    assert load_data(tmp_path / "set").names == ("a", "b")


def test_loops_end(tmp_path):
    tree(tmp_path, set__a__a=saved(RAMP, "PNG"), set__b__b=saved(RAMP, "PNG"))
    for link, leads in (("a/up", ".."), ("b/self", "."), ("b/other", "../a")):
        (tmp_path / "set" / link).symlink_to(leads)
    assert [
        f.relative_to(tmp_path / "set").as_posix() for f in walk_files(tmp_path / "set")
    ] == ["a/a", "b/b", "b/other/a"]
    assert load_data(tmp_path / "set").shares == pytest.approx((1 / 3, 2 / 3))


def test_only_files(tmp_path):
    "Pipes and what is hidden are left out; a pipe is not waited for."
    tree(tmp_path, a=b"", **{".git__b": b"", "c__.d": b"", "c__e": b""})
    os.mkfifo(tmp_path / "pipe.png")
    assert [f.name for f in walk_files(tmp_path)] == ["a", "e"]
    refused(
        "^folder: there is no folder '.*none'$",
        walk_files,
        tmp_path / "none",
        "folder",
        kind=FileNotFoundError,
    )
    with mock.patch("os.scandir", side_effect=PermissionError(13, "no", "there")):
        refused(
            "^folder: this user may not read 'there'",
            walk_files,
            tmp_path,
            "folder",
            kind=PermissionError,
        )
