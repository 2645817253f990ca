"""Other people's tools that see the video: decoding, hand detection, tracking, cameras."""
