"""How well a bundle retrieves pairs of radiograph and report: reading pairs, embedding them, protocols and metrics."""
