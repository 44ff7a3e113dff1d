"""A file becomes a radiograph: DICOM and plain images, always float32 [H, W] in [0, 1] with high = radiodense."""
