"""Frame sources: video files, image files, cameras and network streams."""

__all__: list[str] = []
