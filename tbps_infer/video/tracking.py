"""Which boxes of successive frames are one person: ByteTrack, or what a file of detections says."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import BackendError
from tbps_infer.video.boxes import Detections

__all__ = ["ByteTracker", "GivenTracks", "Tracker"]

_GIVEN_LOST_AFTER = 10.0


class Tracker(Protocol):
    """Follows people from frame to frame."""

    @property
    def lost_after(self) -> float:
        """Seconds after which a track that was not seen does not go on."""

    def update(self, detections: Detections, seconds: float) -> NDArray[np.int64]:
        """The tracks of the people in the next frame.

        Args:
            detections: The people.
            seconds: The frame's time, greater than those before.

        Returns:
            int64 ``[n]``: a number for each; −1 for one who belongs to no track yet.
        """


class ByteTracker:
    """ByteTrack (Zhang et al., ECCV 2022) of the package ``trackers``.

    Args:
        rate: Frames per second, about.
        track_threshold: The lowest score with which a track may begin; weaker boxes only continue one.

    Raises:
        BackendError: The package is not installed.
    """

    lost_after = 2.0

    def __init__(self, rate: float, track_threshold: float) -> None:
        try:
            import supervision
            import trackers
        except ImportError as error:
            raise BackendError(
                f"Tracking needs the package trackers, which cannot be imported: {error}.",
                'Install it: pip install "tbps-infer[video]", or give detections that have tracks.',
            ) from error
        self._detections: Any = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=round(30 * self.lost_after),  # in frames at 30 a second, whatever the rate is
            frame_rate=rate,
            track_activation_threshold=track_threshold,
            high_conf_det_threshold=track_threshold,
        )

    def update(self, detections: Detections, seconds: float) -> NDArray[np.int64]:
        """See `Tracker`."""
        count = len(detections)
        # class_id carries each box's place: they come back in another order.
        given = self._detections(
            xyxy=detections.boxes.astype(np.float64), confidence=detections.scores, class_id=np.arange(count)
        )
        found = self._tracker.update(given, timestamp=seconds)
        tracks = np.full(count, -1, np.int64)
        if len(found):
            tracks[found.class_id] = found.tracker_id
        return tracks


class GivenTracks:
    """The tracks that the detections have."""

    lost_after = _GIVEN_LOST_AFTER

    def update(self, detections: Detections, seconds: float) -> NDArray[np.int64]:
        """See `Tracker`."""
        del seconds
        assert detections.tracks is not None
        return detections.tracks
