"""`tbps clip`: the seconds around a hit as a video."""

from __future__ import annotations

from pathlib import Path

import click

from tbps_infer.cli.shared.options import EXISTING, verbosity_options
from tbps_infer.cli.shared.parameter_types import Finite, NewFile
from tbps_infer.cli.shared.progress import say

__all__ = ["clip"]

_PICTURES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@click.command()
@click.argument("gallery", type=EXISTING)
@click.argument("record", type=click.IntRange(0))
@click.option(
    "-o", "--output", type=NewFile(), required=True, help="File to write: .mp4, .mkv or .mov; or .jpg, .png."
)
@click.option("--before", type=Finite(0), default=5.0, metavar="SECONDS", help="Seconds before the hit.")
@click.option("--after", type=Finite(0), default=5.0, metavar="SECONDS", help="Seconds after it.")
@verbosity_options
def clip(gallery: Path, record: int, output: Path, before: float, after: float) -> None:
    """Write the seconds around a hit, or its frame as a picture, from the video that it was cropped from.

    RECORD is the hit's number in GALLERY, whose pictures are those of tbps crop. A clip is a copy of the video's own
    pictures, so it begins at the key frame before the seconds; a picture shows the frame with the person's box.

    \b
    tbps search gallery "a woman in a red coat" --format csv
    tbps clip gallery 17 -o hit.mp4
    tbps clip gallery 17 -o hit.jpg
    """
    import numpy as np

    from tbps_infer.atomic import new_file
    from tbps_infer.errors import GalleryError, VideoError
    from tbps_infer.gallery import Gallery
    from tbps_infer.video.clips import require_other_file, write_clip
    from tbps_infer.video.moments import draw_frame, find_moment

    with Gallery.open(gallery) as opened:
        found = opened.details(np.array([record])).get(record)
    if found is None:
        raise GalleryError(f"{gallery} has no record {record}.", "The column record of a search's results has them.")
    moment = find_moment(found.metadata)
    if output.suffix.lower() in _PICTURES:
        require_other_file(moment, output)
        image = draw_frame(moment)
        with new_file(output, VideoError) as temporary:
            image.save(temporary, _PICTURES[output.suffix.lower()])
    else:
        write_clip(moment, output, before=before, after=after)
    say(f"Wrote {output}: {moment.file.name} at {moment.offset:.1f} s")
