"""Where the people of one camera will be: a Kalman filter for each, all of them moved on at once.

Each box is four independent coordinates with a speed of their own (Kalman 1960; Bar-Shalom et al., *Estimation with
Applications to Tracking and Navigation*, 2001, section 6.2: white-noise acceleration), so that a covariance is three
numbers and a step is a handful of array operations. All noise is measured in heights of the person: one setting serves
near and far. Time is in seconds: frames may come unevenly.
"""

# T = tracks, K = some of them, N = detections; 4 = centre x, centre y, width, height
# 23 = affine transform of (x, y, 1)

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURED_STD_4 = np.array([0.025, 0.04, 0.08, 0.06])
"""Of what a detector says, heights: legs swing and arms spread, so sizes tell less than places."""
ACCELERATION_STD_4 = np.array([1.0, 0.4, 0.3, 0.3])
"""Heights per square second."""
SPEED_STD_4 = np.array([1.5, 0.5, 0.2, 0.2])
"""Before the second detection; heights per second."""
SIZE_DRAG = 0.5
"""Per second: how soon a change of size comes to rest. People who are half hidden seem to shrink and do not go on."""
FREEDOM = 4.0
"""Degrees of freedom of Student's distribution, for detections that are far off now and then; a normal one forgives
none."""
MIN_SIDE = 4.0
"""Pixels."""


class BoxFilters:
    """State of all tracks of a camera; rows are in the order in which they were added."""

    def __init__(self) -> None:
        self.position_T4 = np.empty((0, 4))
        self.speed_T4 = np.empty((0, 4))
        self.variance_T4 = np.empty((0, 4))
        """Of the position, square pixels."""
        self._covariance_T4 = np.empty((0, 4))
        """Of position and speed."""
        self._speed_variance_T4 = np.empty((0, 4))

    def __len__(self) -> int:
        return len(self.position_T4)

    def add(self, centres_K4: NDArray[np.float64]) -> None:
        """Begin tracks at detections, standing still as far as is known."""
        height_K1, nothing_K4 = centres_K4[:, 3:], np.zeros_like(centres_K4)
        self.position_T4 = np.concatenate([self.position_T4, centres_K4])
        self.speed_T4 = np.concatenate([self.speed_T4, nothing_K4])
        self.variance_T4 = np.concatenate([self.variance_T4, (MEASURED_STD_4 * height_K1) ** 2])
        self._covariance_T4 = np.concatenate([self._covariance_T4, nothing_K4])
        self._speed_variance_T4 = np.concatenate([self._speed_variance_T4, (SPEED_STD_4 * height_K1) ** 2])

    def keep(self, which_T: NDArray[np.bool_]) -> None:
        """Drop the other tracks."""
        self.position_T4, self.speed_T4 = self.position_T4[which_T], self.speed_T4[which_T]
        self.variance_T4, self._covariance_T4 = self.variance_T4[which_T], self._covariance_T4[which_T]
        self._speed_variance_T4 = self._speed_variance_T4[which_T]

    def predict(self, seconds: float) -> None:
        """Move on by `seconds`."""
        if seconds <= 0 or not len(self):
            return
        kept = np.exp(-SIZE_DRAG * seconds)
        kept_4, way_4 = np.array([1.0, 1.0, kept, kept]), np.full(4, seconds)
        way_4[2:] = (1.0 - kept) / SIZE_DRAG
        self.position_T4 = self.position_T4 + way_4 * self.speed_T4
        self.position_T4[:, 2:] = np.maximum(self.position_T4[:, 2:], MIN_SIDE)
        noise_T4 = (ACCELERATION_STD_4 * self.position_T4[:, 3:]) ** 2
        speed_T4, covariance_T4 = self._speed_variance_T4, self._covariance_T4
        self.variance_T4 = (
            self.variance_T4 + 2 * seconds * covariance_T4 + seconds**2 * speed_T4 + seconds**4 / 4 * noise_T4
        )
        self.speed_T4 = kept_4 * self.speed_T4
        self._covariance_T4 = kept_4 * (covariance_T4 + seconds * speed_T4 + seconds**3 / 2 * noise_T4)
        self._speed_variance_T4 = kept_4**2 * (speed_T4 + seconds**2 * noise_T4)

    def correct(self, rows_K: NDArray[np.intp], centres_K4: NDArray[np.float64], doubt_K: NDArray[np.float64]) -> None:
        """Take in detections.

        Args:
            rows_K: Their tracks, each once.
            centres_K4: Where they are.
            doubt_K: Factor on the standard deviation of each; 1 is that of a sure detection.
        """
        measured_K4 = (MEASURED_STD_4 * centres_K4[:, 3:] * doubt_K[:, None]) ** 2
        variance_K4, covariance_K4 = self.variance_T4[rows_K], self._covariance_T4[rows_K]
        total_K4 = variance_K4 + measured_K4
        gain_K4, speed_gain_K4 = variance_K4 / total_K4, covariance_K4 / total_K4
        error_K4 = centres_K4 - self.position_T4[rows_K]
        self.position_T4[rows_K] += gain_K4 * error_K4
        self.speed_T4[rows_K] += speed_gain_K4 * error_K4
        self._speed_variance_T4[rows_K] -= speed_gain_K4 * covariance_K4
        self.variance_T4[rows_K] = (1 - gain_K4) * variance_K4
        self._covariance_T4[rows_K] = (1 - gain_K4) * covariance_K4

    def misfits(self, centres_N4: NDArray[np.float64], doubt_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """How badly each detection fits each track, `(T, N)`: the negative logarithm of its density.

        0 for a sure detection just where a track that is known perfectly is expected. A track that was long lost may
        be anywhere, so that no detection fits it well.
        """
        height_T11 = np.maximum(self.position_T4[:, None, 3:], 1.0)
        measured_N4 = (MEASURED_STD_4 * doubt_N[:, None]) ** 2
        variance_TN4 = self.variance_T4[:, None] / height_T11**2 + measured_N4
        error_TN4 = (self.position_T4[:, None] - centres_N4) / height_T11
        distance_TN = (error_TN4**2 / variance_TN4).sum(axis=2)
        spread_TN = np.log(variance_TN4 / MEASURED_STD_4**2).sum(axis=2)
        return np.asarray(spread_TN / 2 + (FREEDOM + 4) / 2 * np.log1p(distance_TN / FREEDOM))

    def move(self, motion_23: NDArray[np.float64]) -> None:
        """Follow a motion of the camera: places, speeds and sizes as they look in its new picture."""
        turn_22 = motion_23[:, :2]
        scale = float(np.sqrt(abs(np.linalg.det(turn_22))))
        self.position_T4[:, :2] = self.position_T4[:, :2] @ turn_22.T + motion_23[:, 2]
        self.speed_T4[:, :2] = self.speed_T4[:, :2] @ turn_22.T
        self.position_T4[:, 2:] *= scale
        self.speed_T4[:, 2:] *= scale

    def boxes(self) -> NDArray[np.float32]:
        """x1, y1, x2, y2 of every track, `(T, 4)`."""
        half_T2 = self.position_T4[:, 2:] / 2
        centre_T2 = self.position_T4[:, :2]
        return np.concatenate([centre_T2 - half_T2, centre_T2 + half_T2], axis=1).astype(np.float32)
