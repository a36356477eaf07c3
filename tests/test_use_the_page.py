"""The page of the server, driven in a real browser against real servers; and what stands behind it."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conftest import paint
from mask_scenes import paint_scenes
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import regraft
from regraft.data.preprocess import Preprocess, to_input_size
from regraft.evidence.layer import heat_layer
from regraft.fitted import Fitted
from regraft.recipe import Data
from regraft.report.text import percent
from regraft.serve.page import FOLDER, POLICY
from regraft.values import Prediction

# Class names that would be elements, were they taken for HTML.
AMBER, BLUE, CYAN = "<img src=x onerror=alert(1)>", "blue & <b>bold", "cyan"
CLASSES = {AMBER: (230, 160, 20), BLUE: (30, 60, 200), CYAN: (20, 190, 190)}
BACKBONE = "timm:test_efficientnet"  # of 0.4 million weights
MAX_BYTES, MAX_PIXELS = 150_000, 500_000
TOKEN = "a-token-of-the-tests-0123456789"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

Files = list[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model, and the server that has it."""

    fitted: Any
    process: subprocess.Popen[str]
    told: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where it listens; waits until it does."""
        if not self.told:
            assert self.process.stdout is not None
            self.told.append(json.loads(self.process.stdout.readline())["address"])
        return self.told[0]


def start(fitted: Any, *options: str, token: str = "") -> Served:
    command = [sys.executable, "-m", "regraft", "serve", str(fitted.folder), "--port", "0", "--json", *options]
    environment = {**os.environ, "REGRAFT_TOKEN": token}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    return Served(fitted=fitted, process=process)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """One that classifies, and one with a token where every pixel has an answer."""
    root = tmp_path_factory.mktemp("page")
    started: dict[str, Served] = {}
    options: dict[str, Any] = {"weights": "none", "size": 64, "device": "cpu", "cache": root / "cache"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.train.pixel_probe.MOST_OF_EACH", 24)
        try:
            for name, colour in CLASSES.items():
                for number in range(12):
                    paint(root / "photos" / name / f"{number}.png", colour)
            fitted = regraft.fit(root / "photos", backbone=BACKBONE, out=root / "classes", **options)
            started["classes"] = start(fitted, "--max-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS))
            paint_scenes(root / "scenes", 12, "semantic")
            (root / "names.txt").write_text("background\n<b>ellipse\nbox\n")
            data = Data(path=root / "scenes", task="semantic", class_list=root / "names.txt")
            pixels = regraft.fit(data, backbone=BACKBONE, decoder="linear", out=root / "pixels", **options)
            started["pixels"] = start(pixels, token=TOKEN)
            yield started
        finally:
            for served in started.values():
                served.process.terminate()
            for served in started.values():
                served.process.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        # Machines that run tests are often busy.
        expect.set_options(timeout=20_000)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Visits:
    """Pages that are opened, and what must not happen on any of them."""

    def __init__(self, browser: Browser) -> None:
        self._browser, self.wrong = browser, list[str]()
        self.contexts: list[Any] = []

    def open(self, served: Served, **options: Any) -> Page:
        context = self._browser.new_context(**{"viewport": {"width": 1000, "height": 700}, **options})
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        own = (served.address + "/", "blob:" + served.address, "data:")
        page.on("request", lambda request: None if request.url.startswith(own) else self.wrong.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        page.on("console", lambda line: self.wrong.append(line.text) if "Security Policy" in line.text else None)
        page.goto(served.address)
        return page


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    visits = Visits(browser)
    yield visits
    for context in visits.contexts:
        context.close()
    assert not visits.wrong


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(colour: tuple[int, int, int], width: int = 90, height: int = 60) -> Image.Image:
    noise = np.random.default_rng(7).normal(0, 30, (height, width, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def hand_over(page: Page, files: Files, event: str = "drop") -> None:
    """Drop or paste files, as a person would."""
    make = """([event, files]) => {
        const carried = new DataTransfer();
        for (const [name, data] of files) {
            carried.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
        }
        const options = { bubbles: true, cancelable: true };
        const happened = event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: carried, ...options })
            : new DragEvent("drop", { dataTransfer: carried, ...options });
        document.querySelector("#drop").dispatchEvent(happened);
    }"""
    page.evaluate(make, [event, [[name, base64.b64encode(data).decode()] for name, data in files]])


def answered(page: Page, cards: int) -> Locator:
    """The cards, once none of them waits any more."""
    found = page.locator(".card")
    expect(found).to_have_count(cards)
    expect(page.locator(".card .answer > .wait")).to_have_count(0)
    return found


def offline(fitted: Fitted, data: bytes, folder: Path) -> Prediction:
    path = folder / "asked"
    path.write_bytes(data)
    return fitted.predict([path], device="cpu")[0]


def expect_answer(card: Locator, expected: Prediction) -> None:
    """The card says what `predict` says."""
    best = "None of these" if expected.abstained else f"{expected.top[0][0]}{percent(expected.top[0][1])}"
    expect(card.locator(".best")).to_have_text(best)
    expect(card.locator(".bars bdi")).to_have_text([name for name, _ in expected.top])
    expect(card.locator(".bars span:not(.track)")).to_have_text([percent(share) for _, share in expected.top])


@in_browser
def test_dropped_and_pasted_images_are_answered_as_offline(servers: dict[str, Served], visits: Visits, tmp_path: Path) -> None:
    served = servers["classes"]
    page = visits.open(served)
    expect(page.locator("h1")).to_have_text("Sorts images into 3\u00a0classes")
    expect(page.locator("#about")).to_contain_text("test_efficientnet")
    images = [encoded(photo(colour)) for colour in CLASSES.values()] + [encoded(photo((250, 20, 160)))]
    hand_over(page, [(f"{number}.png", data) for number, data in enumerate(images)])
    cards = answered(page, len(images))
    for number, data in enumerate(images):
        expect_answer(cards.nth(number), offline(served.fitted, data, tmp_path))
    assert any(offline(served.fitted, data, tmp_path).abstained for data in images)
    withheld = page.locator(".withheld").first
    expect(withheld.locator(".why")).to_contain_text(re.compile("unlike|not sure"))
    expect(withheld.locator(".fact")).to_contain_text("Distance")
    hand_over(page, [("image.png", images[1])], "paste")
    cards = answered(page, len(images) + 1)
    expect(cards.first.locator("h3")).to_have_text("Pasted image")
    expect_answer(cards.first, offline(served.fitted, images[1], tmp_path))
    expect(page.locator("#said")).to_contain_text("Pasted image: blue & <b>bold")


@in_browser
def test_what_cannot_be_used_fails_alone_and_says_why(servers: dict[str, Served], visits: Visits, tmp_path: Path) -> None:
    served = servers["classes"]
    good = encoded(photo(CLASSES[CYAN], 60, 90))
    huge = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)))
    assert len(huge) > MAX_BYTES
    page = visits.open(served)
    expect(page.locator("#limits")).to_contain_text("0.1\u00a0MB")
    hand_over(
        page,
        [
            ("<script>alert(1)</script>.jpg", b"<svg onload=alert(1)>"),
            ("cut.png", good[: len(good) // 2]),
            ("photo.HEIC", b"\0\0\0\x18ftypheic" + bytes(99)),
            ("huge.png", huge),
            ("wide.png", encoded(Image.new("RGB", (1000, 700)))),
            ("good.png", good),
        ],
    )
    cards = answered(page, 6)
    reasons = ("no image that can be read", "ends too early", "Save the photo as JPEG", "takes at most 0.1\u00a0MB")
    for number, words in enumerate((*reasons, "too many pixels")):
        expect(cards.nth(number)).to_have_class(re.compile("failed"))
        expect(cards.nth(number).locator(".why")).to_contain_text(words)
    expect(cards.nth(0).locator("h3")).to_have_text("<script>alert(1)</script>.jpg")
    expect_answer(cards.nth(5), offline(served.fitted, good, tmp_path))
    expect(page.locator("#progress")).to_have_text("6\u00a0images · 5 without an answer")


@in_browser
def test_pictures_are_upright_also_where_the_browser_cannot_read_them(servers: dict[str, Served], visits: Visits) -> None:
    page = visits.open(servers["classes"])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo(CLASSES[BLUE])
    picture.paste((255, 255, 255), (0, 0, 30, 60))
    hand_over(page, [("turned.jpg", encoded(picture, "JPEG", exif=exif)), ("scan.tif", encoded(picture, "TIFF"))])
    cards = answered(page, 2)
    expect(cards.locator(".size")).to_have_text(["60 × 90", "90 × 60"])
    brightest = """(canvas) => {
        const pen = canvas.getContext("2d");
        const light = (x, y) => pen.getImageData(x * canvas.width, y * canvas.height, 1, 1).data[0];
        return [light(0.1, 0.5) > 200, light(0.5, 0.1) > 200];
    }"""
    assert [cards.nth(number).locator(".picture").evaluate(brightest) for number in (0, 1)] == [[False, True], [True, False]]


@in_browser
def test_heat_maps_lie_over_the_picture_for_any_class(servers: dict[str, Served], visits: Visits) -> None:
    page = visits.open(servers["classes"])
    page.set_input_files("#choose", {"name": "two.png", "mimeType": "image/png", "buffer": encoded(two_colours())})
    card = answered(page, 1).first
    layer = card.locator(".layer")
    expect(layer).to_be_hidden()
    card.get_by_role("button", name="Show the evidence").click()
    expect(layer).to_be_visible()
    first = layer.evaluate("(canvas) => canvas.toDataURL()")
    other = card.locator("select").evaluate("(select) => select.options[1].value")
    card.locator("select").select_option(other)
    expect(card.locator(".tools p")).to_contain_text(other)
    assert layer.evaluate("(canvas) => canvas.toDataURL()") != first
    card.get_by_label("Opacity").fill("20")
    expect(layer).to_have_css("opacity", "0.2")
    card.get_by_role("button", name="Hide the evidence").click()
    expect(layer).to_be_hidden()


def two_colours() -> Image.Image:
    picture = photo(CLASSES[AMBER], 80, 60)
    picture.paste(photo(CLASSES[CYAN], 40, 60), (40, 0))
    return picture


@in_browser
def test_everything_is_done_with_the_keyboard(servers: dict[str, Served], visits: Visits, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(encoded(photo(CLASSES[BLUE])))
    page = visits.open(servers["classes"], reduced_motion="reduce")
    # The browser hands choosers over from the first listener on, and does not say when it has begun to.
    page.on("filechooser", lambda chooser: None)
    expect(page.locator("#known")).to_be_visible()

    def tab_to(wanted: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("(wanted) => document.activeElement.matches(wanted)", wanted):
                return
        raise AssertionError(f"{wanted} cannot be reached")

    tab_to("#choose")
    expect(page.locator("#choose-label")).to_have_css("outline-style", "solid")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([path])
    answered(page, 1)
    tab_to(".act button")
    page.keyboard.press("Space")
    expect(page.locator(".layer")).to_be_visible()
    tab_to("select")
    tab_to("input[type=range]")
    before = page.locator(".layer").evaluate("(canvas) => canvas.style.opacity")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".layer").evaluate("(canvas) => canvas.style.opacity") < before
    for _ in range(5):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("() => document.activeElement.matches('.remove')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


@in_browser
def test_a_phone_needs_no_scrolling_to_the_side(servers: dict[str, Served], visits: Visits) -> None:
    phone = {"viewport": {"width": 360, "height": 720}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
    page = visits.open(servers["classes"], **phone)
    images = [
        (f"{'a long name ' * 9}.png", encoded(photo(CLASSES[AMBER], 400, 90))),
        ("thin.png", encoded(photo((9, 9, 9), 1, 300))),
    ]
    hand_over(page, images)
    cards = answered(page, 2)
    cards.first.get_by_role("button", name="Show the evidence").tap()
    expect(cards.first.locator(".layer")).to_be_visible()
    page.locator("summary").tap()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    expect(page.locator("body")).to_have_css("background-color", "rgb(21, 25, 28)")
    assert page.locator("#photo").get_attribute("capture") == "environment"


@in_browser
def test_pixels_with_a_token(servers: dict[str, Served], visits: Visits, tmp_path: Path) -> None:
    served = servers["pixels"]
    page = visits.open(served)
    data = encoded(Image.open(served.fitted.folder.parent / "scenes/images/003.png"))
    hand_over(page, [("scene.v2.png", data)])
    for token, refused in (("wrong-token-0123456789", True), (TOKEN, False)):
        page.get_by_label("This server asks for its token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator("#token-problem")).to_be_visible(visible=refused)
    expect(page.locator("h1")).to_contain_text("Sorts every pixel")
    card = answered(page, 1).first
    path = tmp_path / "scene.png"
    path.write_bytes(data)
    expected = served.fitted.predict([path], device="cpu")[0]
    there = sorted((one for one in expected.shares if one[1]), key=lambda one: (one[0] == "background", -one[1]))
    expect(card.locator(".legend bdi")).to_have_text([name for name, _ in there])
    expect(card.locator(".legend span:not(.track):not(.swatch)")).to_have_text([percent(share) for _, share in there])
    areas = card.locator(".mask").first
    card.get_by_label("Opacity").fill("80")
    expect(areas).to_have_css("opacity", "0.8")
    classes, labels_HW = served.fitted.classes, expected.labels_HW
    assert painted(areas) == (labels_HW > 0).sum()
    card.locator(".legend button").last.click()
    assert painted(areas) == (labels_HW == classes.index(there[-1][0])).sum()
    with page.expect_download() as download:
        card.get_by_role("button", name="Download the mask").click()
    assert download.value.suggested_filename == "scene.v2-mask.png"
    with Image.open(download.value.path()) as mask:
        assert np.array_equal(np.asarray(mask), labels_HW)
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def painted(areas: Locator) -> int:
    """Pixels with a colour."""
    count = """(canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, at) => at % 4 === 3 && value > 0).length;
    }"""
    return int(areas.evaluate(count))


def test_the_page_and_its_files_are_sent_with_a_strict_policy(servers: dict[str, Served]) -> None:
    for path in ("/", *(f"/static/{file.name}" for file in FOLDER.iterdir())):
        with urlopen(servers["pixels"].address + path) as answer:
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    for path in ("/static/page.py", "/static/..%2fpage.py", "/static/", "/static/%2e%2e/app.py"):
        assert asked(servers["pixels"], path)[0] == 404


def asked(served: Served, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    try:
        with urlopen(Request(served.address + path, body, headers)) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def test_heat_maps_are_refused_in_the_words_of_the_server(servers: dict[str, Served]) -> None:
    served, data = servers["classes"], encoded(two_colours())
    status, picture = asked(served, "/explain?class=cyan", data)
    assert status == 200
    with Image.open(io.BytesIO(picture)) as layer:
        assert (layer.mode, layer.size) == ("RGBA", (480, 360))
    for path, body, status, code in (
        ("/explain?class=dog", data, 404, "unknown_class"),
        ("/explain", b"no image", 415, "not_an_image"),
        ("/picture", data[:200], 422, "truncated"),
        ("/explain", b"0" * (MAX_BYTES + 1), 413, "image_too_large"),
    ):
        found, answer = asked(served, path, body)
        assert (found, json.loads(answer)["error"]["code"]) == (status, code)
    assert asked(served, "/explain", data, Origin="http://evil.example")[0] == 403
    assert asked(servers["pixels"], "/picture", data)[0] == 401
    assert asked(servers["pixels"], "/explain", data, Authorization=f"Bearer {TOKEN}")[0] == 404


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(200, 100), (60, 150), (1, 500)])
def test_a_layer_has_its_heat_where_the_image_has_it(fit: Any, size: tuple[int, int]) -> None:
    # An image with one bright corner of its middle square; what the network sees of it stands for the evidence.
    preprocess = Preprocess(height=64, width=64, fit=fit, crop_share=1.0, mean=(0.5,) * 3, std=(0.5,) * 3, background=(0, 0, 0))
    (width, height), short = size, min(size)
    left, top = (width - short) // 2, (height - short) // 2
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (left, top, left + -(-short // 2), top + -(-short // 2)))
    heat_HW: NDArray[np.float32] = (to_input_size(image, preprocess)[..., 0] / 255).astype(np.float32)
    layer = np.asarray(Image.open(io.BytesIO(heat_layer(heat_HW, size, preprocess, side=200))).convert("RGBA"))
    assert max(layer.shape[:2]) == 200
    expected = np.asarray(image.convert("L").resize((layer.shape[1], layer.shape[0]), Image.Resampling.BILINEAR)) / 255
    warm = (layer[..., 0] > 200) & (layer[..., 3] > 200)
    assert np.mean(warm == (expected > 0.85)) > 0.95
    unseen = (layer[..., :3].max(axis=2) == 0) & (layer[..., 3] == 150)
    assert unseen.any() == (fit == "crop")


def test_the_page_is_the_sibling_of_the_report_and_writes_text_only() -> None:
    style = (FOLDER / "app.css").read_text()
    report = (FOLDER.parents[1] / "report/page.css").read_text()
    for line in report.splitlines()[:5]:
        assert line in style
    scripts = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|https?://", scripts)
    assert not re.findall(r"\sstyle=|<style|\son\w+=|https?:", (FOLDER / "index.html").read_text())
