"""What a detector sees of a benchmark's hands: its joints within the labelled boxes, frame by frame."""

from dataclasses import replace

import numpy as np

from haptic.data.readers import Picture
from haptic.evaluation.clips import ClipPictures, EvalClip, truth_track
from haptic.perception.detections import complete
from haptic.perception.detector import HandDetection, HandDetector
from haptic.perception.tracker import build_tracks
from haptic.perception.video import Frame
from haptic.records import HandTrack


def detector_track(clip: EvalClip, pictures: ClipPictures, name: str, detector: HandDetector) -> HandTrack:
    """Return a hand's track: the side and the box are the truth's, joints and landmarks what the detector makes of it.

    The detector looks at the picture that shows the hand with the most pixels. Frames in which it sees no hand in the
    box, or a hand of the other side, have no joints.
    """
    labelled = truth_track(clip, name)
    fps = clip.info.fps or 1.0  # a single picture has none
    detections = []
    for place, index in enumerate(labelled.frame_index.tolist()):
        picture = pictures.sharpest(name, place)
        half = float(labelled.box_side_px[place]) / 2
        center = labelled.box_center_img[place].double().numpy()
        given = HandDetection(
            frame_index=index,
            p_right=1.0 if bool(labelled.is_right) else 0.0,
            score=1.0,
            box=np.concatenate([center - half, center + half]),
            joints_img=np.zeros((21, 2)),
            joints_img_weight=np.zeros(21),
            track_id=name,
        )
        frame = Frame(index=index, time_s=index / fps, image=picture.pixels)
        found = complete(_in_picture(given, picture), frame, detector)
        detections.append(_in_image(found, picture))
    times_s = [index / fps for index in range(clip.info.num_frames)]
    tracks = build_tracks(detections, times_s)
    assert len(tracks) == 1, "a hand with a box in every frame is one track"
    (track,) = tracks
    assert track.frame_index.tolist() == labelled.frame_index.tolist(), "a track covers the frames of its boxes"
    return replace(track, time_s=labelled.time_s)


def _in_picture(detection: HandDetection, picture: Picture) -> HandDetection:
    corners = detection.box.reshape(2, 2) * picture.scale + picture.offset_px
    joints = detection.joints_img * picture.scale + picture.offset_px
    return replace(detection, box=corners.reshape(-1), joints_img=joints)


def _in_image(detection: HandDetection, picture: Picture) -> HandDetection:
    corners = (detection.box.reshape(2, 2) - picture.offset_px) / picture.scale
    joints = (detection.joints_img - picture.offset_px) / picture.scale
    return replace(detection, box=corners.reshape(-1), joints_img=joints)
