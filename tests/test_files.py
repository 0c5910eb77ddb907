"Files of every odd kind: read rightly, passed over, or refused with their name."
import os, struct

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from odeflow.data import RASTER, Data, as_bytes, grid, load_data, named_labels, picture_files, save_grid, to_float, to_uint8, walk_files, wide_bytes
from odeflow.experiment import pack, unpack

LEVEL = np.arange(0, 256, 8, dtype=np.uint8).reshape(4, 8)

def saved(folder, name, pixels, **how):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder/name, **how)
    return folder

# what is written, and what of it is read
READ = {
    "8 bits": (LEVEL, LEVEL), "16 bits": (LEVEL.astype(np.uint16)*257, LEVEL), "16 bits in 32": (LEVEL.astype(np.int32)*257, LEVEL), "floats from 0 to 1": (LEVEL.astype(np.float32)/255, LEVEL),
    "black in 16 bits": (np.zeros((4, 8), np.uint16), np.zeros((4, 8))), "1 bit": (LEVEL > 99, (LEVEL > 99)*255)}

@pytest.mark.parametrize("kind", READ)
def test_numbers_mean_what_their_type_means(tmp_path, kind):
    written, read = READ[kind]
    assert (load_data(saved(tmp_path/"a", "x.tiff", written)).x[0, 0].numpy() == read).all()

REFUSED = {
    "floats from 0 to 255": (LEVEL.astype(np.float32), "from 0 to 248, where float32 means 0 to 1"), "below zero": (LEVEL.astype(np.float32)/255 - .5, "from -0.5"),
    "8 bits in 16": (LEVEL.astype(np.uint16), "up to 248 in uint16, which means 0 to 65535: these are 8 bits"), "8 bits in 32": (LEVEL.astype(np.int32), "these are 8 bits"),
    "more than 16 bits": (LEVEL.astype(np.int32)*1000, "where int32 means 0 to 65535"), "no number": (np.full((4, 8), np.nan, np.float32), "not finite")}

@pytest.mark.parametrize("kind", REFUSED)
def test_numbers_that_cannot_are_refused(tmp_path, kind):
    written, says = REFUSED[kind]
    with pytest.raises(ValueError, match="x.tiff' holds numbers") as e: load_data(saved(tmp_path/"a", "x.tiff", written))
    assert says in str(e.value)

@pytest.mark.parametrize("mode, end", [(m, e) for m in ("L", "LA", "P", "1", "RGB", "RGBA", "CMYK", "I;16") for e in ("png", "tiff") if (m, e) != ("CMYK", "png")])
def test_modes(tmp_path, mode, end):
    im = Image.fromarray(LEVEL.astype(np.uint16)*257) if mode == "I;16" else Image.fromarray(LEVEL).convert("RGB").convert(mode)
    (tmp_path/"a").mkdir(); im.save(tmp_path/f"a/x.{end}")
    assert load_data(tmp_path/"a").shape[1:] == (4, 8)

def odd(folder):
    "A picture among things that are none."
    saved(folder, "good.png", LEVEL)
    for name in ("features.h5", "clip.mpg", "page.eps", "page.ps", "page.pdf", "notes.txt", "Thumbs.db", ".hidden.png", "archive.zip", "code.py"): (folder/name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    os.mkfifo(folder/"pipe.png")
    return folder

def test_other_files_are_passed_over(tmp_path): assert [f.name for f in picture_files(odd(tmp_path/"a"))] == ["good.png"]

@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"%PDF-1.4\n", b"no picture", b"GIF89a", b"BM"], ids=repr)
@pytest.mark.parametrize("end", ["png", "jpg"])
def test_what_is_no_picture_is_named(tmp_path, content, end):
    (saved(tmp_path/"a", "good.png", LEVEL)/f"bad.{end}").write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.{end}' cannot be read as a picture"): load_data(tmp_path/"a")

def test_content_says_what_it_is(tmp_path):
    saved(tmp_path/"a", "x.png", LEVEL)
    (tmp_path/"a/x.png").rename(tmp_path/"a/x.jpg")
    assert (load_data(tmp_path/"a").x[0, 0].numpy() == LEVEL).all()

def test_too_large(tmp_path):
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + (body := struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0))
    import zlib
    (saved(tmp_path/"a", "good.png", LEVEL)/"huge.png").write_bytes(head + struct.pack(">I", zlib.crc32(b"IHDR" + body)) + struct.pack(">I", 0) + b"IDAT")
    with pytest.raises(ValueError, match=r"huge.png' has more than 179 megapixels, the most that Pillow reads; scale it down"): load_data(tmp_path/"a", resize=4)

@pytest.mark.parametrize("end", RASTER)
def test_saved_as_the_ending_says(tmp_path, end):
    save_grid(torch.zeros(4, 1, 8, 8), tmp_path/f"s{end}")
    with Image.open(tmp_path/f"s{end}") as im: assert im.format == RASTER[end]

def test_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match="ends in no format of pictures; give one of .png"): save_grid(torch.zeros(4, 1, 8, 8), tmp_path/"s.xyz")
    assert not list(tmp_path.iterdir())

def test_grids_of_bytes():
    u = torch.from_numpy(LEVEL)[None, None]
    assert (grid(u) == LEVEL).all() and (grid(to_float(u)) == LEVEL).all() and grid(torch.full((1, 1, 4, 8), 99.)).min() == 255

def test_links(tmp_path):
    "Classes behind links, pictures behind links, links in circles; then packed as what they lead to, and unpacked the same."
    for k in ("2", "10"): saved(tmp_path/"far"/k, "x.png", LEVEL)
    mine = tmp_path/"mine"; mine.mkdir()
    for k in ("2", "10"): (mine/k).symlink_to(tmp_path/"far"/k)
    saved(mine/"own", "y.png", LEVEL); (mine/"own/z.png").symlink_to(tmp_path/"far/2/x.png"); os.link(mine/"own/y.png", mine/"own/hard.png")
    (tmp_path/"far/2/loop").symlink_to(mine)
    data = load_data(mine)
    assert data.names == ("2", "10", "own") and len(data) >= 5
    pack(mine, tmp_path/"parts", limit=.001)
    back = unpack(tmp_path/"parts", tmp_path/"back")
    files = {f.relative_to(mine): f.read_bytes() for f in walk_files(mine)}
    assert {f.relative_to(back): f.read_bytes() for f in walk_files(back)} == files and not any(f.is_symlink() for f in back.rglob("*"))
    (mine/"own/gone.png").symlink_to(tmp_path/"nowhere")
    for f in (lambda: load_data(mine), lambda: pack(mine, tmp_path/"again")):
        with pytest.raises(FileNotFoundError, match="gone.png' is a link to a file that is not there"): f()

def test_damaged_parts(tmp_path):
    (tmp_path/"parts").mkdir(); (tmp_path/"parts/parts.json").write_text("{")
    with pytest.raises(ValueError, match="parts.json' is damaged"): unpack(tmp_path/"parts", tmp_path/"x")

@settings(max_examples=50)
@given(arrays(np.uint8, (2, 1, 3, 3)))
def test_bytes_and_floats(u):
    u = torch.from_numpy(u)
    assert torch.equal(as_bytes(to_float(u)), u) and torch.equal(as_bytes(u), u) and torch.equal(to_uint8(to_float(u)), u)
    assert (wide_bytes(u.numpy().astype(np.uint16)*257) == u.numpy()).all() if u.max() > 0 else True

@settings(max_examples=50)
@given(st.floats(17, 1e6), st.booleans())
def test_far_outside(v, below):
    x = torch.zeros(1, 1, 2, 2); x[0, 0, 0, 0] = -v if below else v
    with pytest.raises(ValueError, match="are no pictures in"): as_bytes(x)

@settings(max_examples=50)
@given(st.lists(st.integers(-9, 2000), min_size=1, max_size=40))
def test_labels_of_any_numbers(y):
    labels, names = named_labels(y)
    assert [int(names[k]) for k in labels] == y and len(names) == len(set(y))
    data = Data(torch.zeros(len(y), 2), labels, names=names)
    assert data.classes == len(set(y)) and sum(data.shares) == pytest.approx(1) and data.shares == pytest.approx([y.count(int(n))/len(y) for n in names])

@pytest.mark.parametrize("labels, names", [(np.arange(1, 11), tuple(map(str, range(1, 11)))), (np.arange(0, 1000, 100), tuple(str(100*k) for k in range(10)))])
def test_labels_of_an_archive(tmp_path, labels, names):
    np.savez(tmp_path/"a.npz", images=np.zeros((10, 4, 4, 1), np.uint8), labels=labels)
    assert load_data(tmp_path/"a.npz").names == names and min(load_data(tmp_path/"a.npz").shares) == pytest.approx(.1)

def test_names_of_an_archive(tmp_path):
    how = dict(images=np.zeros((3, 4, 4, 1), np.uint8), labels=np.array([0, 2, 2]))
    np.savez(tmp_path/"a.npz", names=np.array(["cat", "cow", "dog"]), **how)
    assert load_data(tmp_path/"a.npz").names == ("cat", "dog")
    np.savez(tmp_path/"b.npz", names=np.array(["cat"]), **how)
    with pytest.raises(ValueError, match="has names of type"): load_data(tmp_path/"b.npz")
