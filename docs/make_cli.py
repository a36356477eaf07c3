"""Write docs/cli.md from the commands themselves: python docs/make_cli.py [--check]."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Written by `python docs/make_cli.py` from the commands; change their help, not this page. `python -m regraft` is the same
command.

Results go to standard output, everything else (what was found, progress, errors) to standard error. Exit codes:
[errors.md](errors.md).
"""
TAIL = """## What `--json` prints

One line on standard output; nothing at all when the command fails. Undefined figures are `null`. Fields may be added.

- `fit`: `run`, `backbone`, `strategy` (of the model; of `auto` the one that it kept), `asked` (the strategy that was asked
  for), `features`, `l2`, `classes`, `images` {`train`, `test`, `rejected`}, `test` {`accuracy` {`value`, `low`, `high`,
  `n`}, `macro_f1`, `nll`, `ece`, `baseline`, `intervals` {`macro_f1`, `nll`, `ece`: each {`value`, `low`, `high`, `n`}}}
  (null with `--test none`), `cross_validation` (the same; where something was trained, on its validation images: one fold of
  the training images), `training` (null where nothing was trained) {`what`, `epochs` (how many were run), `chosen` (the
  epoch that was kept; 0: the start), `share` (of the way from the start to that epoch), `refitted` (whether the same was
  done again on all training images), `gain` (in accuracy, over the solved head on the same validation images), `gain_se`
  (its paired standard error), `validation` (how many images)}, `compared` (null unless `auto` was asked for) [{`strategy`,
  `accuracy`, `nll`, `gain` (in nats, over the solved head), `gain_se`, `seconds`, `kept`, `note` (why it was left out, or
  null)}], `seconds` {`features`, `head`, `total` and the other steps}, `engine`, `cache` {`hits`, `misses`}, `report`,
  `calibration` {`temperature`, `on`, `images`, `nll_before`, `nll_after`, `ece_before`, `ece_after`}, `abstain`
  {`confidence`, `distance` (thresholds, null where there is none), `max_error`, `asked_coverage` (what was asked for), `on`,
  `covered`, `error_answered`, `error_all`}. `features` and `l2` are always those of the solved head. With `--resume` on a
  run that is finished: `run` and `finished` (true), nothing else
- `evaluate`: `n`, `accuracy` {`value`, `low`, `high`, `n`}, `macro_f1`, `nll`, `ece`, `baseline`, `intervals` (as of `fit`),
  `per_class` [{`class`, `precision`, `recall`, `f1`, `support`, `predicted`, `intervals` {`precision`, `recall`}}],
  `confusion` (rows are the true classes; null for several labels per image), `classes`, `abstain` (as above, on these
  images), `rejected` (how many), `rejected_images` [{`path`, `code`, `reason`}]
- `fit` with `--task saliency` or `semantic`: `run`, `task`, `backbone`, `strategy`, `decoder`, `loss`, `classes`, `images`
  {`train`, `test`, `rejected`}, `window` (side of what the network is shown, in pixels), `usual_side` (median longer side of
  the training images), `masks` (what their values were taken for, a line each), `test` (null without test images), `judged`
  (on the images that `judged_by` names), `probe` (the solved probe by itself): each `n` and the scores of `evaluate`,
  `threshold`, `calibration`, `training` (null where nothing was trained), `findings` [{`path`, `what`, `share`}], `seconds`,
  `cache`, `report`
- `evaluate` of such a run: `n`, `task`, `iou`, `dice`, `pixel_accuracy`, `boundary_f`, `pooled_iou` (over all pixels), `mae`,
  `f_measure` (null but for saliency): each {`value`, `low`, `high`, `n`}, `threshold` (the probability from which a pixel is
  of the object; null but for saliency), `baseline` (`iou` of the best constant answer), `per_class` [{`class`, `iou`, `dice`,
  `precision`, `recall`, `boundary_f`, `pixels`, `images`}], `classes`, `rejected`, `rejected_images`
- `compare`: `comparisons`, one for each run after the first [{`runs` (the two), `parts` ("test", "validation" or
  "cross-validation"), `images` (that both answered), `alone` (how many only one has), `scores` (of each on those images, as
  of `fit`), `difference` {`accuracy`, `macro_f1`, `nll`: the second's less the first's, each {`value`, `low`, `high`, `n`}},
  `p_value`, `better` (a run, or null where chance explains the difference), `verdict`, `right_alone` (for each the names of
  the images that it alone answered right), `notes`}]
- `export`: `path`, `to`, `precision` ("fp32" or "int8"), `classes`, `bytes`, `verified` (false with `--unverified`: all that
  follows is then 0), `images` (how many it was tried on), `on` (which), `lost` (not found), `rejected` (not readable),
  `same_labels` (as eager fp32 has them), `largest_difference` (of a probability), `distance_difference`, `as_predicted` and
  `predicted_difference` (the same against `regraft predict` on the files), `images_per_s`, `eager_images_per_s`, `batch`,
  `speed` (their ratio), `int8` (null without it or without labels) {`before`, `after`, `difference`: each {`value`, `low`,
  `high`, `n`}, `changed` [[name, label before, label after]], `fp32_bytes`, `speed` (against the same file in fp32)}
- `predict`: one line per input: `path`, `status` ("ok" or "failed"), `reason` (null when ok), `predictions` [{`class`,
  `probability`}], best first, `abstained` (whether the answer should not be relied on), `why` (null where it may),
  `distance` (from the images it was fitted on: 1 is usual for new ones; null where none is measured); with `--explain` also
  `explanation`, the path of the picture (null where there is none)
- `predict` of a run for pixels: `path`, `status`, `reason`, `mask`, `overlay`, `probabilities` (the paths of what was written,
  null where nothing was), `shares` [{`class`, `share` (of the image)}]
- `serve`: one line once it answers: `address`, `model`, `token` (whether one is wanted)
- `suggest`: `suggestions` [{`path`, `doubt` (1 minus the lead of the best answer over the second), `predictions` [{`class`,
  `probability`}]}], the most useful first, `images` (how many could be read), `alike` (how many were left out as near copies),
  `rejected` (how many), `rejected_images` [{`path`, `code`, `reason`}]
- `inspect`: `source`, `weights`, `strategy`, `classes` (null: its own head), `head` [{`path`, `kind`, `in_features`,
  `out_features`, `found_by`, `role` ("main" or "auxiliary")}], `stages` [{`name`, `parameters`, `trainable`, `shape`
  (without N), `layout`, `stride` (of maps), `number` (from the end; null for one of pooling, normalisation or activation
  alone)}], `others` [{`name`, `parameters`, `trainable`, `kind`}] (heads and all that is in no stage), `parameters`
  {`total`, `trainable`}, `preprocess`, `megabytes`, `gflops` (for one image; a multiply-add is two), `other_sizes`
  [{`pixels`, `takes`}], `notes`. Parameters are counts; those of `stages` and `others` add up to the total
- `backbones`: `backbones` [{`name`, `library`, `weights` (null: none are published), `default`, `on_disk`, `imagenet_top1`
  (per cent), `parameters`, `bytes`}], null where the library does not say; `known` (how many there are without a pattern)
- `rank`: `recommended`, `best`, `images`, `folds`, `classes`, `baseline`, `backbones` [{`backbone`, `status` ("ok" or
  "failed"), `reason`, `accuracy` {`value`, `error`}, `nll` {`value`, `error`}, `behind` {`value`, `error`}, `tied`,
  `features`, `imagenet_top1`, `parameters`, `images_per_s`, `engine`, `cached`, `seconds`}], best first; each `error` is a
  standard error
- `audit`: `images`, `unreadable` [{`path`, `code`, `reason`}], `copies` [{`names`, `labels`, `parts` (each in the same
  order), `sameness` ("file", "pixels" or "altered"), `change`, `across_classes`, `across_parts`}], `leak` (null, or `names`
  of test images with their `twins` among the training images, and the scores `without` them), `suspects` [{`name`, `label`,
  `suggested`, `given`, `instead`, `part`, `wrong`}] (probabilities; `wrong`: that the label is), `wrong_labels` (the
  expected share), `mixed` [{`one`, `other`, `accuracy`}], `outliers` [{`name`, `label`, `distance`}], `odd` [{`name`,
  `label`, `code`, `reason`}], `shortcuts` [{`what`, `accuracy`, `baseline`, `words`}], `imbalance`, `kept_together`,
  `similar` [{`names`, `labels`, `parts`, `cosine`, `across_parts`}], `seconds`, `fix_list`
- `extend`: what `fit` prints
- `report`: `run`, and where its files are: `report` (the page), `json` (for programs), `card` (README.md)
- `cache list`: `folder`, `tables` [{`name`, `rows`, `bytes`, `description`}], `datasets` [{`name`, `images`, `bytes`}],
  `arrays` {`images`, `bytes`} (images that were given as arrays); `cache clear`: `folder`, `freed` (bytes)
- `doctor`: a field for everything that it lists, and `problems`

## Where a network comes from

- `efficientnet_lite0`, `efficientnet_lite1`, `efficientnet_lite2`: embedded, there without a download.
- `timm:NAME[.TAG]`: a network of timm. `--weights` takes a tag (`a1_in1k`) too.
- `torchvision:NAME[:WEIGHTS]`: a network of torchvision. `--weights` takes a name (`IMAGENET1K_V2`,
  `ResNet50_Weights.IMAGENET1K_V2`) too.
- `hub:owner/repo[:REF]:ENTRY`: `ENTRY` of a repository's `hubconf.py`, through torch.hub. It runs its author's code with all
  your rights, so it needs `--trust`. Name a tag or a commit as `REF`, or the code is whatever it was when first downloaded.
- `hub:FOLDER:ENTRY`: the same in a folder that is there. It wins over a repository of that name, and needs no `--trust`:
  whoever names a place on the own disk means it.
- `module:package.file:function`: a function (or a class) in a file, found from the current folder on and called without
  arguments.

Without `--weights` the published ones are loaded; all sources also take `none` (random ones) and a local file. An entry of a
hub is called without arguments, unless it has a parameter `pretrained`, which gets `True` (`False` for `none` and files), or
`weights`, which gets the name that was given, `"DEFAULT"` where its own default is `None`, or `None` for `none` and files.

A function gives a `torch.nn.Module`, or a `regraft.Own` with one, its input shape and its normalisation. What it does not say
is taken to be 224x224 pixels and ImageNet's, and a note says so. In Python both are a `backbone` themselves.

A file of weights is `.safetensors`, or a `.pth` that holds tensors and nothing else: no code in it is run. Every name and
shape has to match. A prefix of all names (`module.`, `backbone.`) is taken off where they match without it. `fit`, which puts
a new head on the network, takes a file with another head or none.

A run on code of your own (`hub:`, `module:`, a module in Python) holds its weights and not its code. `predict` and `evaluate`
then want the code named again: `--backbone SPEC`, in Python `regraft.load(run, backbone=...)`. Tensors have to match by name
and shape, and a test image has to get the answer that it got when the run was saved.

## Where a run goes

`fit photos/` writes to `runs/photos`, or to `runs/photos-2` and so on where that holds a run already, and says so.
`--overwrite` replaces the earlier run instead. A folder given with `--out` has to be new or empty unless `--overwrite`,
which replaces runs of regraft and nothing else. A run never goes inside of its own data.

## How `rank` compares

All backbones see the same part of the training images: by class, with groups whole, and a smaller `--images` inside of a
larger one. The split is that of `fit` with the same options, and its test images are not looked at. On the frozen features of
each a head is solved as in `fit`, and every image is answered by heads that did not see it.

- `nll` is the negative log-likelihood of the true classes in nats per image, and what backbones are ordered by: it tells
  them apart on fewer images than the accuracy does, which counts only whether the first answer is right.
- `behind` is by how much it is more than the best one's. Its standard error is that of the differences on the same images,
  which is far smaller than the two errors apart would suggest; images of one group count as one draw.
- A backbone is as good as the best unless it is behind by more than two of those errors, about a 95 % interval. The folds share
  training images and the best of several is a little lucky, so that less than two would see differences that are not there.
- Of those as good as the best, the one with the fewest parameters is recommended.
- `top-1` is the accuracy on ImageNet that the library states. `img/s` is the speed of the network alone on this machine, as
  measured when its engine was chosen. Features stay in the cache: `fit` with the backbone that is chosen finds them there.

## How `compare` decides

Both runs answered the same images, so what tells them apart is the images that one of them alone answers right.

- `accuracy` is the difference of the shares right, with Tango's score interval for paired proportions. A run is called
  better where that interval leaves 0 out and McNemar's exact test gives less than 0.05.
- Where images belong to groups, a group counts as one draw, in the intervals and in the test.
- Runs that have a test are compared on it; one that has none on its validation images, or its cross-validation, and a note
  says so: those answers helped to choose the run. Images that only one of the two has are left out, with a note.
- Of more than two runs each is compared with the first. Nothing is corrected for that: of twenty comparisons of equals about
  one comes out as a difference.

## Rows of `predict`

One row per input, in the order of the inputs; probabilities have six significant digits. An input that cannot be used has
the status `failed` and a reason, and the exit code is then 5; it is 3 where there is no input at all. An archive that was cut
short gives rows of what is there, a note, and 5 as well; one that is no sound archive at all gives 3 before any row.

- Folders give their images, sorted, without hidden files; patterns that the shell left alone are expanded; `-` reads paths
  from standard input, one per line or with `--null` ended by NUL, each taken as it is.
- CSV has the columns `path`, `status`, `reason`, `class_1`, `probability_1` and so on. A text that a spreadsheet would run
  as a formula (starting with `=`, `+`, `-`, `@`, a tab or a line break) has an apostrophe in front. Names with line breaks
  are in quotes. With `--explain` the last column is `explanation`.
- JSON lines are ASCII and keep every file name exactly. In CSV and Parquet, bytes of a name that are not UTF-8 are written
  with a backslash.
- `--out` writes `.csv` and `.jsonl` row by row; `.parquet` appears when it is complete, until then its rows are in
  `NAME.partial`. An existing file is refused unless `--resume` or `--overwrite`.
- `--resume` goes on after an interruption, a full disk or a kill, with the same inputs and options. What is there is
  checked: the header, each path, and one image asked again. On the same machine the file ends with the same bytes as if
  nothing had happened.
- `--explain DIR` writes for every image a JPEG of what spoke for the best answer ([how to read it](explain.md)). DIR has to
  be new or empty, unless `--resume` or `--overwrite`, which replace pictures of the same images and nothing else. A picture
  is named after its image and a digest of the path as it was given: each path has its own, the same in every run.

## Masks of `predict`

A run for pixels writes to the folder of `--out`, and prints a row for each image: lines, `--json` or `--csv`.

- `DIR/a/x.png` is the mask of `photos/a/x.jpg` after `predict RUN photos`: of an object 255 on 0 in grey, of several classes
  their indices in a palette file; `classes.csv` says what those are. Images of the same name get a digest of their path.
- `DIR/overlays/a/x.png` is the image with the areas in colour, at most 1,024 pixels on its longer side (`--no-overlays`).
- `DIR/probabilities/a/x.png` has the probability of an object in 16 bits, 65535 for 1; of several classes
  `DIR/probabilities/a/x.npz` holds `probabilities` (classes, height, width) float16 and `classes` (`--probabilities`).
- Everything has the size of the image. One more than twice as large as those of the training is answered in tiles, at the
  scale of the training; `--whole` shows it at once, made small.
- DIR has to be new or empty, unless `--resume` or `--overwrite`; images in it are left out. `--resume` keeps what
  `answers.jsonl` there lists and nothing is missing of, after it asked one image again; images that failed are tried again.
"""


def render() -> str:
    """The whole page."""
    import typer

    from regraft.cli.app import app

    sections = [part for name, command in walk(typer.main.get_command(app), "regraft") for part in section(name, command)]
    return "\n".join([HEAD, *sections, TAIL])


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for word, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name, command


def section(name: str, command: Any) -> Iterator[str]:
    """One command: what it does, how it is called, its options."""
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    words = " ".join([name, *(label(item) for item in arguments), "[OPTIONS]"])
    yield f"## `{name}`\n\n{plain(command.help)}\n\n```console\n$ {words}\n```\n"
    rows = [f"| `{cell(label(item))}` | | {cell(item.help)} |" for item in arguments]
    rows += [f"| `{flags(item)}` | {default(item)} | {cell(item.help)} |" for item in options]
    yield "| | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def label(argument: Any) -> str:
    """How an argument is called in the usage line."""
    return str(argument.metavar or argument.name.upper())


def flags(option: Any) -> str:
    """The option with what it takes."""
    return cell(", ".join(option.opts) + ("" if option.is_flag else f" {option.metavar}"))


def default(option: Any) -> str:
    """The default where it says something."""
    return "" if option.is_flag or option.default is None else f"`{option.default}`"


def plain(text: str | None) -> str:
    """Help with its paragraphs, without the indentation of the source."""
    return "\n".join(line.strip() for line in (text or "").strip().splitlines())


def cell(text: str | None) -> str:
    """Text that does not end a table's cell."""
    return plain(text).replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != render())
    PAGE.write_text(render(), encoding="utf-8")
