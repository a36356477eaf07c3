"""The figures of scale: several processes, a million rows, archives, near duplicates, Ray. Each script also runs by itself."""

import sys
from typing import Any

from figures import Bench, Row, number
from measure import ROOT, run_process, spread


def told_by(name: str, *words: object) -> dict[str, Any]:
    """The line that a script of this folder prints."""
    return run_process([sys.executable, str(ROOT / f"bench/{name}.py"), *map(str, words)]).line


def many_ranks(bench: Bench) -> list[Row]:
    """Extraction by two processes of one thread each beside one, nothing cached (`bench/ranks.py`)."""
    rounds = 1 if bench.quick else bench.pairs
    line = told_by("ranks", "--data", bench.data, "--rounds", rounds, "--set", "clipart" if bench.quick else "fashion2k")
    one, two = line["images_per_s"]["1"], line["images_per_s"]["2"]
    ratios = [double / single for single, double in zip(one, two, strict=True)]
    also = {
        "one": f"{number(spread(one).centre)} images/s",
        "two": f"{number(spread(two).centre)} images/s",
        "engine": line["engine"],
    }
    what = f"images per second of two processes as a multiple of one's, {line['images']:,} images"
    return [Row(what=what, measured=spread(ratios), at_least=1.7, unit=" x", also=also)]


def million(bench: Bench) -> list[Row]:
    """A million rows of 1,280 bfloat16 features on disk: the 10-class head with its whole path (`bench/million.py`)."""
    line = told_by("million", "--images", 20_000 if bench.quick else 1_000_000, *(["--stream"] if bench.quick else []))
    also = {
        "seconds": number(line["seconds"]),
        "passes over the data": number(line["passes"]),
        "beyond the start": f"{number(line['peak_mb_beyond_start'])} MB",
        "accuracy across folds": f"{100 * line['cv_accuracy']:.2f} %",
        "the best possible": f"{100 * line['best_accuracy']:.2f} %",
    }
    what = f"peak memory of the process, {line['case']}"
    return [Row(what=what, measured=spread([line["peak_mb"] / 1000]), at_most=1.5, unit=" GB", also=also)]


def archives(bench: Bench) -> list[Row]:
    """All of Fashion-MNIST from tar archives beside the same images in folders, nothing cached (`bench/shards.py`)."""
    part = ("--images", 400) if bench.quick else ()
    line = told_by("shards", bench.set("fashion"), "--repeats", 1 if bench.quick else bench.pairs, *part)
    peaks = line["peak_mb"]
    also = {
        "the same head": "yes" if line["same_head"] else "NO",
        "peak memory from archives": f"{number(peaks['tar'])} MB",
        "from folders": f"{number(peaks['folder'])} MB",
        "making the archives": f"{number(line['shard_seconds'])} s",
    }
    what = f"images per second from {line['archives']} archives as a share of the folder's, {line['images']:,} images"
    return [
        Row(what=what, measured=spread(line["ratios"]), at_least=0.9, also=also),
        Row(what="runs whose model has other bytes", measured=spread([float(not line["same_head"])]), at_most=0),
    ]


def archive_rate(bench: Bench) -> list[Row]:
    """A tenth of Fashion-MNIST from tar archives and from folders in short turns, so that slow spells of a machine hit both."""
    images = 400 if bench.quick else 7000
    repeats = 1 if bench.quick else bench.pairs
    line = told_by("shards", bench.set("fashion"), "--repeats", repeats, "--images", images)
    what = f"images per second from archives as a share of the folder's, {line['images']:,} images"
    also = {"the same head": "yes" if line["same_head"] else "NO"}
    return [Row(what=what, measured=spread(line["ratios"]), at_least=0.9, also=also)]


def near(bench: Bench) -> list[Row]:
    """Near duplicates among a million rows of 1,280 features, a hundredth of them planted copies (`bench/near.py`)."""
    line = told_by("near", "--rows", 60_000 if bench.quick else 1_000_000)
    also = {
        "planted pairs found": f"{100 * line['recall']:.2f} %",
        "pairs found that were not planted": f"{line['not_planted']:,}",
        "phases": ", ".join(f"{name} {number(value)} s" for name, value in line["seconds"].items() if name != "total"),
    }
    what = f"seconds for {line['rows']:,} rows"
    return [
        Row(what=what, measured=spread([line["seconds"]["total"]]), at_most=300, also=also),
        Row(what="peak memory of the process", measured=spread([line["peak_MB"] / 1000]), at_most=4, unit=" GB"),
    ]


def bulk(bench: Bench) -> list[Row]:
    """10,000 images predicted on Ray by two workers, one of them killed on the way (`bench/bulk.py`)."""
    part = ("--images", 400, "--kill-at", 50) if bench.quick else ()
    line = told_by("bulk", "--data", bench.data, *part)
    also = {
        "rows": f"{line['rows']:,}",
        "largest difference in probability": number(line["largest_difference"]),
        "seconds": f"{number(line['seconds']['ray'])} on Ray, {number(line['seconds']['plain'])} without",
    }
    what = f"rows that are missing or unlike the plain command's, of {line['images']:,}, one worker killed"
    return [Row(what=what, measured=spread([float(line["wrong"])]), at_most=0, also=also)]
